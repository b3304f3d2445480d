//! The file of a month: it overwrites nothing, and is on the disk before anything is deleted.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use super::rows::COLUMNS;

/// How often a new file is made while other runs remove what interrupted runs left.
const CREATE_ATTEMPTS: u32 = 10;
/// Lines that are hashed at a time.
const HASH_BATCH: usize = 5_000;

/// A file that is being written, under another name than that of the month. It is removed when this
/// is dropped.
pub(super) struct Partial {
    path: PathBuf,
    pub(super) file: File,
}

impl Partial {
    /// A new file at `path`, which no other run writes to.
    ///
    /// What an interrupted run left there is removed and not written over: the same content may
    /// already have the name of the month as well.
    pub(super) fn create(path: PathBuf) -> anyhow::Result<Self> {
        for _ in 0..CREATE_ATTEMPTS {
            // Other than a plain open, this follows no symbolic link.
            let created = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path);
            match created {
                Ok(file) if is_ours(&file, &path)? => return Ok(Self { path, file }),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => remove_leftover(&path)?,
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        bail!("{} is made and removed by other runs", path.display())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file the name `path`, and returns when both the content and the name are on the
    /// disk.
    ///
    /// # Errors
    /// Something else has that name. A file with the same content is as good.
    pub(super) fn publish(self, path: &Path, sha256: &str) -> anyhow::Result<()> {
        self.file.sync_all()?;
        match std::fs::hard_link(&self.path, path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let content = Content::of(path);
                let content = content.with_context(|| format!("{} exists", path.display()))?;
                ensure!(
                    content.sha256 == sha256,
                    "{} exists and has other content: it is of another time, or of another deployment. Nothing is \
                     overwritten and nothing has been moved: move that file away, or archive to another folder",
                    path.display()
                );
            }
            Err(error) => {
                let name = path.display();
                return Err(error).with_context(|| format!("giving the file its name {name}"));
            }
        }
        sync(path)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Locks a file for this run. False if it has been removed meanwhile.
fn is_ours(file: &File, path: &Path) -> anyhow::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("{} is being written by another run", path.display())
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    Ok(identity(there) == identity(file.metadata()?))
}

/// Removes what an interrupted run left.
fn remove_leftover(path: &Path) -> anyhow::Result<()> {
    let name = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(there) => ensure!(
            there.is_file(),
            "{name} is not a regular file: nothing is written there"
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| name.to_string()),
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| name.to_string()),
    };
    if is_ours(&file, path)? {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Returns when the content of a file, and its name, are on the disk.
pub(super) fn sync(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    for written in [path, folder] {
        let synced = File::open(written).and_then(|file| file.sync_all());
        synced.with_context(|| format!("writing {} to the disk", written.display()))?;
    }
    Ok(())
}

/// What is in a file, as far as it can be told without a database.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) sha256: String,
    /// Lines without the header.
    pub(super) payments: i64,
}

impl Content {
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        let mut lines = Lines::open(path)?;
        while lines.next(HASH_BATCH)?.is_some() {}
        Ok(Self {
            payments: lines.payments,
            sha256: lines.sha256(),
        })
    }

    /// Refuses a file that is not the one that was verified.
    pub(super) fn expect(&self, path: &Path, sha256: &str, payments: i64) -> anyhow::Result<()> {
        let name = path.display();
        ensure!(
            self.payments == payments,
            "{name} is not the file that was verified: it has {} payments, which must be \
            {payments}",
            self.payments
        );
        ensure!(
            self.sha256 == sha256,
            "{name} is not the file that was verified: its SHA-256 is {}, which must be {sha256}",
            self.sha256
        );
        Ok(())
    }
}

/// The lines of a file without its header, some at a time, and the SHA-256 of what was read.
pub(super) struct Lines {
    file: BufReader<File>,
    hash: Sha256,
    /// Lines read so far.
    pub(super) payments: i64,
}

impl Lines {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        // A pipe would wait for somebody to write to it.
        let is_file = std::fs::metadata(path).map(|found| found.is_file());
        ensure!(
            is_file.with_context(|| name.to_string())?,
            "{name} is not a regular file"
        );
        let mut lines = Self {
            file: BufReader::new(File::open(path).with_context(|| name.to_string())?),
            hash: Sha256::new(),
            payments: 0,
        };
        let header = lines.next(1)?.unwrap_or_default();
        ensure!(
            header.trim_ascii_end() == COLUMNS.as_bytes(),
            "{name} does not begin with the names of the columns",
        );
        lines.payments = 0;
        Ok(lines)
    }

    /// The next lines, at most `count`; none at the end. No field of ours has a line break in it.
    pub(super) fn next(&mut self, count: usize) -> std::io::Result<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        for _ in 0..count {
            if self.file.read_until(b'\n', &mut lines)? == 0 {
                break;
            }
            self.payments += 1;
        }
        self.hash.update(&lines);
        Ok((!lines.is_empty()).then_some(lines))
    }

    /// In hexadecimal.
    pub(super) fn sha256(self) -> String {
        self.hash
            .finalize()
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn written(path: &Path) -> Partial {
        let partial = Partial::create(path.to_owned()).expect("a new file");
        std::fs::write(path, format!("{COLUMNS}\n1\n2\n")).expect("it is written");
        partial
    }

    fn error<T>(result: anyhow::Result<T>) -> String {
        format!("{:#}", result.err().expect("an error"))
    }

    #[test]
    fn a_file_with_the_same_content_is_kept_and_any_other_is_an_error() {
        let folder = folder();
        let (path, partial) = (folder.path().join("f.csv"), folder.path().join("f.partial"));
        let sha256 = |path: &Path| Content::of(path).expect("a file").sha256;
        let first = written(&partial);
        let same = sha256(&partial);
        first.publish(&path, &same).expect("it has the name");
        assert!(!partial.exists());
        written(&partial)
            .publish(&path, &same)
            .expect("it is there");

        for content in ["", "rubbish\n", &format!("{COLUMNS}\n1\n")] {
            std::fs::write(&path, content).expect("a file");
            let refused = error(written(&partial).publish(&path, &same));
            assert!(refused.contains("exists"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).expect("a file"), content);
        }
        std::fs::remove_file(&path).expect("a file");
        std::fs::create_dir(&path).expect("a folder");
        error(written(&partial).publish(&path, &same));
        assert!(!partial.exists(), "what is not published is removed");
    }

    #[test]
    fn no_link_is_followed_and_no_other_run_is_disturbed() {
        let folder = folder();
        let (path, partial) = (folder.path().join("f.csv"), folder.path().join("f.partial"));
        // A run was killed between the two names of its file.
        std::fs::write(&path, "kept").expect("a file");
        std::fs::hard_link(&path, &partial).expect("a second name");
        let running = written(&partial);
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "kept");
        let refused = error(Partial::create(partial.clone()));
        assert!(refused.contains("another run"), "{refused}");
        drop(running);

        for target in ["f.csv", "nowhere"] {
            std::os::unix::fs::symlink(target, &partial).expect("a link");
            let refused = error(Partial::create(partial.clone()));
            assert!(refused.contains("regular file"), "{refused}");
            std::fs::remove_file(&partial).expect("the link");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "kept");

        // A link to the same content, as whoever moved the file to another disk leaves it.
        let elsewhere = folder.path().join("elsewhere");
        std::fs::remove_file(&path).expect("a file");
        drop(written(&elsewhere));
        std::fs::write(&elsewhere, format!("{COLUMNS}\n1\n2\n")).expect("a file");
        std::os::unix::fs::symlink(&elsewhere, &path).expect("a link");
        let sha256 = Content::of(&elsewhere).expect("a file").sha256;
        written(&partial)
            .publish(&path, &sha256)
            .expect("it is there");
    }
}
