//! Lines of the log on their way out: whoever logs never waits, and never fails.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::domain::printable::is_printable;
use crate::telemetry::metrics::LogLines;

/// Lines that may wait to be written. Further ones are dropped.
pub const LOG_BACKLOG: usize = 4_096;
/// How long the last lines of a process may take.
pub(crate) const LOG_DRAIN: Duration = Duration::from_millis(250);
/// How soon it is tried again where a pipe is full and does not make its writer wait.
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(10);
/// The least time between two lines that say how many were dropped.
const TELL_PAUSE: Duration = Duration::from_secs(10);

/// A line as a terminal may show it, whatever others wrote in it: a log is read by people. The
/// subscriber colours lines for a terminal by escape sequences, and leaves none in what it is told;
/// elsewhere there is none at all.
fn visible(line: &[u8], coloured: bool) -> Vec<u8> {
    let is_visible = |letter: &char| match letter {
        '\n' | '\t' => true,
        '\u{1b}' => coloured,
        letter => is_printable(*letter),
    };
    let text = String::from_utf8_lossy(line);
    let text: String = text.chars().filter(is_visible).collect();
    text.into_bytes()
}

/// Writes lines at once, as they may be shown.
#[derive(Debug)]
pub(super) struct Directly<W> {
    pub(super) out: W,
    pub(super) coloured: bool,
}

impl<W: Write> Write for Directly<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.out.write_all(&visible(line, self.coloured))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A thread that writes the log.
#[derive(Debug)]
pub struct LogWriter {
    lines: Lines,
}

enum Item {
    Line(Vec<u8>),
    /// All that was sent before has been written, or dropped.
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Starts the thread, which ends when nobody can send it lines any more.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        out: impl Write + Send + 'static,
        coloured: bool,
        counts: LogLines,
    ) -> io::Result<Self> {
        let (sender, waiting) = sync_channel(LOG_BACKLOG);
        let lost = Arc::new(AtomicBool::new(false));
        let writing = Writing {
            out,
            counts: counts.clone(),
            lost: Arc::clone(&lost),
            torn: false,
            is_writable: false,
            told_at: None,
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writing.run(&waiting))?;
        Ok(Self {
            lines: Lines {
                sender,
                coloured,
                counts,
                lost,
            },
        })
    }

    /// Where to write lines.
    #[must_use]
    pub fn lines(&self) -> Lines {
        self.lines.clone()
    }
}

impl Drop for LogWriter {
    /// Waits until everything is written, at most [`LOG_DRAIN`].
    fn drop(&mut self) {
        let until = Instant::now() + LOG_DRAIN;
        let (written, is_written) = sync_channel(1);
        let mut flush = Item::Flush(written);
        loop {
            match self.lines.sender.try_send(flush) {
                Ok(()) => break,
                Err(TrySendError::Full(unsent)) if Instant::now() < until => {
                    flush = unsent;
                    thread::sleep(FULL_PIPE_PAUSE);
                }
                Err(_) => return,
            }
        }
        let _ = is_written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Takes lines, each in one write.
#[derive(Debug, Clone)]
pub struct Lines {
    sender: SyncSender<Item>,
    coloured: bool,
    counts: LogLines,
    lost: Arc<AtomicBool>,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let visible = Item::Line(visible(line, self.coloured));
        if self.sender.try_send(visible).is_err() {
            self.counts.overflowed.add(1);
            self.lost.store(true, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writing<W> {
    out: W,
    counts: LogLines,
    /// Lines were dropped that no line tells of yet.
    lost: Arc<AtomicBool>,
    /// A line was cut off in the middle.
    torn: bool,
    /// Whether the last line could be written.
    is_writable: bool,
    told_at: Option<Instant>,
}

impl<W: Write> Writing<W> {
    fn run(mut self, waiting: &Receiver<Item>) {
        loop {
            let item = waiting.try_recv().or_else(|_| {
                self.tell();
                waiting.recv()
            });
            let Ok(item) = item else { return };
            match item {
                Item::Line(line) => self.write(&line),
                Item::Flush(written) => {
                    let _ = written.try_send(());
                }
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        if self.torn && self.write_all(b"\n").is_ok() {
            self.torn = false;
        }
        self.is_writable = !self.torn && self.write_all(line).is_ok();
        if !self.is_writable {
            self.counts.unwritable.add(1);
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    /// As [`Write::write_all`], but waits where a pipe that is full is not to be waited for, and
    /// notes what is cut off.
    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        let whole = rest.len();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(FULL_PIPE_PAUSE);
                }
                outcome => {
                    self.torn |= rest.len() < whole;
                    return Err(outcome.err().unwrap_or(ErrorKind::WriteZero.into()));
                }
            }
        }
        Ok(())
    }

    /// Says that lines are missing, now that nothing waits.
    fn tell(&mut self) {
        let is_due = self.told_at.is_none_or(|at| at.elapsed() >= TELL_PAUSE);
        if is_due && self.is_writable && self.lost.swap(false, Ordering::Relaxed) {
            self.told_at = Some(Instant::now());
            let (overflowed, unwritable) = (
                self.counts.overflowed.value(),
                self.counts.unwritable.value(),
            );
            tracing::warn!(
                log.dropped_full = overflowed,
                log.dropped_unwritable = unwritable,
                "lines of this log were dropped, so many since the start"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What writes come to, one after the other; then all succeed.
    #[derive(Clone, Default)]
    struct Script {
        outcomes: Arc<Mutex<Vec<io::Result<usize>>>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let next = self.outcomes.lock().expect("no panic").pop();
            let taken = next.unwrap_or(Ok(bytes.len()))?.min(bytes.len());
            let mut written = self.written.lock().expect("no panic");
            written.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_does_not_spoil_the_next() {
        let full = || Err(io::Error::from(ErrorKind::StorageFull));
        let mut outcomes = vec![full(), Ok(4), full(), Err(ErrorKind::WouldBlock.into())];
        outcomes.reverse();
        let script = Script::default();
        *script.outcomes.lock().expect("no panic") = outcomes;
        let counts = LogLines::default();
        let writer = LogWriter::start(script.clone(), false, counts.clone()).expect("a thread");
        let mut lines = writer.lines();
        for line in ["lost\n", "torn here\n", "\u{202e}who\u{1b}le\n"] {
            lines.write_all(line.as_bytes()).expect("it never fails");
        }
        drop(writer);
        let written = script.written.lock().expect("no panic").clone();
        assert_eq!(String::from_utf8_lossy(&written), "torn\nwhole\n");
        assert_eq!(
            (counts.unwritable.value(), counts.overflowed.value()),
            (2, 0)
        );
    }

    #[test]
    fn a_reader_that_does_not_read_is_waited_for_by_nobody_and_no_longer_than_the_limit() {
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                loop {
                    thread::park();
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let counts = LogLines::default();
        let writer = LogWriter::start(Stuck, false, counts.clone()).expect("a thread");
        let mut lines = writer.lines();
        let begun_at = Instant::now();
        for _ in 0..3 * LOG_BACKLOG {
            lines.write_all(b"a line\n").expect("it never fails");
        }
        // One is being written.
        let dropped = counts.overflowed.value();
        assert!(dropped >= 2 * LOG_BACKLOG as u64 - 1, "{dropped}");
        drop(writer);
        assert!(begun_at.elapsed() < LOG_DRAIN + Duration::from_secs(5));

        // Nor where there is room for the flush, which nobody comes to.
        let writer = LogWriter::start(Stuck, false, LogLines::default()).expect("a thread");
        writer
            .lines()
            .write_all(b"a line\n")
            .expect("it never fails");
        let (dropped, is_dropped) = sync_channel(1);
        thread::spawn(move || {
            drop(writer);
            let _ = dropped.send(());
        });
        let in_time = is_dropped.recv_timeout(LOG_DRAIN + Duration::from_secs(5));
        in_time.expect("it ends");
    }
}
