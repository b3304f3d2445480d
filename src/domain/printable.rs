//! Text of others, as it may be shown: nothing in it moves the cursor, hides, or turns the order of
//! what is read.

use std::fmt::{self, Write as _};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// Leaves out what is no visible character: controls (an escape sequence begins with one), format
/// characters (such as U+202E, which turns the order of letters, and U+200B, which has no width),
/// separators of lines and paragraphs, and code points that stand for nothing or for something
/// private.
pub(crate) fn printable(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|letter| is_printable(*letter))
}

/// The same text in one line, with a space for each character that [`printable`] leaves out.
#[must_use]
pub(crate) fn one_line(text: &str) -> String {
    text.replace(|letter| !is_printable(letter), " ")
}

/// Shows a text of others without what [`printable`] leaves out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(self.0).try_for_each(|letter| out.write_char(letter))
    }
}

/// Whether a character is shown as something, and as nothing but itself.
#[must_use]
pub(crate) fn is_printable(letter: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, Surrogate, Unassigned,
    };
    if letter.is_ascii() {
        return !letter.is_ascii_control();
    }
    !matches!(
        letter.general_category(),
        Control | Format | LineSeparator | ParagraphSeparator | PrivateUse | Surrogate | Unassigned
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_stands_there() {
        for (text, expected) in [
            (
                "declined: Größe 19,90 €, 支払い",
                "declined: Größe 19,90 €, 支払い",
            ),
            ("\u{202e}diap ton\u{202c}", "diap ton"),
            ("a\u{200b}b\u{200d}c\u{feff}d\u{2060}e\u{ad}f", "abcdef"),
            ("\u{2066}x\u{2069}\u{61c}\u{200f}", "x"),
            ("\u{1b}[31mred\u{9b}0m\u{7}", "[31mred0m"),
            ("one\r\ntwo\u{2028}three\u{2029}\u{85}", "onetwothree"),
            ("\u{e0041}\u{e000}\u{378}", ""),
        ] {
            let shown: String = printable(text).collect();
            assert_eq!(shown, expected, "{text:?}");
            assert_eq!(Shown(text).to_string(), expected, "{text:?}");
            assert!(one_line(text).chars().all(is_printable), "{text:?}");
        }
    }
}
