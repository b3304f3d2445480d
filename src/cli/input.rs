//! What commands read from a file or from standard input: an entry a line.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use uuid::Uuid;

/// The text of a file; of standard input where that is `-`.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(path).map(|content| text = content),
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}

/// Reads each line, without the spaces around it, that is not empty and no comment (`#`).
///
/// # Errors
/// What is wrong with the first line that cannot be read, after its number.
pub(super) fn lines<T>(
    text: &str,
    each: impl Fn(&str) -> Result<T, String>,
) -> anyhow::Result<Vec<T>> {
    let lines = text.trim_start_matches('\u{feff}').lines();
    let lines = lines.map(str::trim).zip(1..);
    let entries = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    entries
        .map(|(line, number)| each(line).map_err(|error| anyhow!("line {number}: {error}")))
        .collect()
}

/// The id of a payment.
///
/// # Errors
/// It is none, in words.
pub(super) fn correlation_id(text: &str) -> Result<Uuid, String> {
    crate::domain::payment::parse_uuid(text)
        .ok_or_else(|| format!("{text:?} is not a correlation id"))
}
