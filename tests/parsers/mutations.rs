//! Runs a property on a corpus and on mutations of it: always the same ones.

use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// Mutations of a corpus that are tried.
const MUTATIONS: usize = 20_000;
/// Changes that make one mutation, at most.
const CHANGES: usize = 4;
/// Bytes that mean something to a parser.
const MEANINGFUL: &[u8] = b"\0\t\n \"%&+-./019:=ETZ[\\]eu{}\x7f\xc3\xff";

/// Runs a property on the corpus of a fuzz target, which is in that folder, then on mutations of
/// it.
pub fn check(folder: &Path, property: fn(&[u8])) {
    let files = std::fs::read_dir(folder).expect("a corpus");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).expect("a file that can be read"))
        .collect();
    assert!(corpus.len() > 4, "{} is the corpus", folder.display());
    for seed in &corpus {
        tell_and_check(seed, property);
    }
    let mut random = StdRng::seed_from_u64(2026);
    for _ in 0..MUTATIONS {
        let mutated = mutate(&corpus, &mut random);
        tell_and_check(&mutated, property);
    }
}

/// Checks, and says what on when that fails.
fn tell_and_check(input: &[u8], property: fn(&[u8])) {
    if let Err(panic) = std::panic::catch_unwind(|| property(input)) {
        eprintln!("with input {:?}", String::from_utf8_lossy(input));
        std::panic::resume_unwind(panic);
    }
}

/// One of the corpus, changed in a few places: a bit, a byte, a piece that goes or comes from
/// another.
fn mutate(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus.choose(random).expect("there are some").clone();
    for _ in 0..random.random_range(1..=CHANGES) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.insert(at, *MEANINGFUL.choose(random).expect("there are some")),
            2 => {
                let end = random.random_range(at..=bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let other = corpus.choose(random).expect("there are some");
                let start = random.random_range(0..=other.len());
                let end = random.random_range(start..=other.len());
                bytes.splice(at..at, other[start..end].iter().copied());
            }
        }
    }
    bytes
}
