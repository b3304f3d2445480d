//! The file that keeps the records over a restart.
//!
//! One line per stored payment: `<id> <amount> <requestedAt in microseconds since 1970>`. A line is
//! handed to the operating system before the payment is answered, so a kill -9 of the simulator
//! loses nothing that it replied to (a crash of the machine may). A purge empties the file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use chrono::DateTime;
use uuid::Uuid;

use super::records::{Payment, Records};

/// An open journal. While it is open no second simulator can open it.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    length: u64,
    line: Vec<u8>,
}

impl Journal {
    /// Opens or creates the file and puts what it holds into the records. A last line that was cut
    /// off is dropped and logged; anything else that is not a payment is an error.
    pub(super) fn open(path: &Path, records: &mut Records) -> io::Result<Self> {
        Self::open_file(path, records)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    fn open_file(path: &Path, records: &mut Records) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process uses it")
            }
        })?;
        let length = replay(&file, path, records)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            length,
            line: Vec::new(),
        })
    }

    /// Hands one payment to the operating system. After an error the file is as it was before.
    pub(super) fn append(&mut self, payment: &Payment) -> io::Result<()> {
        self.line.clear();
        writeln!(
            self.line,
            "{} {} {}",
            payment.id,
            payment.amount,
            payment.requested_at.timestamp_micros()
        )?;
        if let Err(error) = self.file.write_all(&self.line) {
            // Half a line in the middle of the file would make the rest of it unreadable.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += self.line.len() as u64;
        Ok(())
    }

    /// Empties the file.
    pub(super) fn purge(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads the file into the records and returns the length of its whole lines, to which it is cut.
fn replay(file: &File, path: &Path, records: &mut Records) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut line, mut length, mut number) = (Vec::new(), 0_u64, 0_u64);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(length);
        }
        if line.pop_if(|last| *last == b'\n').is_none() {
            tracing::warn!(
                journal.path = %path.display(),
                journal.dropped_bytes = read,
                "dropped a last line that was cut off"
            );
            file.set_len(length)?;
            return Ok(length);
        }
        number += 1;
        let stored = parse(&line).is_some_and(|payment| records.insert(payment));
        if !stored {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("line {number} is not a payment, or one that was there before"),
            ));
        }
        length += read;
    }
}

fn parse(line: &[u8]) -> Option<Payment> {
    let mut fields = std::str::from_utf8(line).ok()?.split(' ');
    let payment = Payment {
        id: Uuid::try_parse(fields.next()?).ok()?,
        amount: fields.next()?.parse().ok()?,
        requested_at: DateTime::from_timestamp_micros(fields.next()?.parse().ok()?)?,
    };
    fields.next().is_none().then_some(payment)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rust_decimal::Decimal;

    use super::*;

    fn payment(id: u128) -> Payment {
        Payment {
            id: Uuid::from_u128(id),
            amount: Decimal::new(1990, 2),
            requested_at: DateTime::from_timestamp_micros(1_752_000_000_123_456).unwrap(),
        }
    }

    fn opened(path: &Path) -> io::Result<(Journal, Vec<Payment>)> {
        let mut records = Records::new();
        let journal = Journal::open(path, &mut records)?;
        Ok((journal, records.rows().to_vec()))
    }

    #[test]
    fn what_was_appended_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, empty) = opened(&path).unwrap();
        assert_eq!(empty, []);
        journal.append(&payment(1)).unwrap();
        journal.append(&payment(2)).unwrap();
        drop(journal);
        let (mut journal, held) = opened(&path).unwrap();
        assert_eq!(held, [payment(1), payment(2)]);
        journal.purge().unwrap();
        journal.append(&payment(3)).unwrap();
        drop(journal);
        assert_eq!(opened(&path).unwrap().1, [payment(3)]);
    }

    #[test]
    fn a_torn_last_line_is_dropped_wherever_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = opened(&path).unwrap();
        journal.append(&payment(1)).unwrap();
        journal.append(&payment(2)).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for cut in whole.len() / 2 + 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, held) = opened(&path).unwrap();
            assert_eq!(held, [payment(1)], "cut to {cut} bytes");
            journal.append(&payment(2)).unwrap();
            drop(journal);
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, "not a payment\n").unwrap();
        let error = opened(&path).unwrap_err().to_string();
        assert!(error.contains("line 1 is not a payment"), "{error}");
    }

    #[test]
    fn a_journal_is_used_by_one_simulator_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let _first = opened(&path).unwrap();
        let error = opened(&path).unwrap_err().to_string();
        assert!(error.contains("another process uses it"), "{error}");
    }
}
