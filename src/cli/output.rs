//! What commands print. A reader that has seen enough (`| head`) ends nothing: the rest is dropped,
//! the command does what it was asked to do and exits with the code that tells how it went.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;

use super::paragraph;
use crate::domain::printable::is_printable;

/// Prints a line to standard output, as `println!` does, but for readers that have gone.
macro_rules! say {
    () => { $crate::cli::output::print(&"\n") };
    ($($argument:tt)+) => {
        $crate::cli::output::print(&format_args!("{}\n", format_args!($($argument)+)))
    };
}
pub(crate) use say;

/// Prints to standard output.
///
/// # Errors
/// It cannot be written, and not because its reader has gone: a full disk, for example.
pub fn print(text: &impl Display) -> io::Result<()> {
    // At once, and not in the pieces of which the text is put together.
    write(
        &mut io::stdout().lock(),
        shown(&text.to_string()).as_bytes(),
    )
}

/// Prints to standard error, where somebody may read it or not.
pub fn complain(text: &impl Display) {
    let text = shown(&text.to_string());
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(value)?;
    write(&mut io::stdout().lock(), (shown(&line) + "\n").as_bytes())
}

/// Text with what others wrote in it, such as the replies of processors, as a terminal may show it.
#[must_use]
pub fn shown(text: &str) -> String {
    let is_shown = |letter: &char| matches!(letter, '\n' | '\t') || is_printable(*letter);
    text.chars().filter(is_shown).collect()
}

fn write(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Asks a person whether something is to be done that cannot be undone.
///
/// # Errors
/// There is nobody to ask, or no answer.
pub fn confirm(question: &str) -> anyhow::Result<bool> {
    let input = io::stdin();
    if !input.is_terminal() {
        anyhow::bail!(
            "{question} Nobody can be asked, because standard input is no terminal: --yes does it \
            without asking"
        );
    }
    complain(&format_args!(
        "{} ",
        paragraph(&format!("{question} [y/N]"))
    ));
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses what is written, for that reason.
    struct Refusing(ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_printed_turns_no_order_and_moves_no_cursor() {
        let text = "a\tb\n\u{1b}[2J\u{202e}c\u{200b}";
        assert_eq!(shown(text), "a\tb\n[2Jc");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is() {
        assert!(write(&mut Refusing(ErrorKind::BrokenPipe), b"text").is_ok());
        let full = write(&mut Refusing(ErrorKind::StorageFull), b"text");
        assert_eq!(
            full.map_err(|error| error.kind()),
            Err(ErrorKind::StorageFull)
        );
    }
}
