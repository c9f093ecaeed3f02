//! What is wrong with a config and where, for people and for programs.
//!
//! Each error starts with `file:line:col` so that an editor can jump there, shows the line with a caret below, and says
//! what to do. The text is somebody's input and ends in terminals and logs: control characters are replaced, lines are
//! cut around the caret, secrets written into the file by mistake are masked, and the number of errors is bounded.

use std::fmt;
use std::ops::Range;

use unicode_width::UnicodeWidthStr;

/// Most errors that are shown: a file with more of them is better fixed from the top.
pub(super) const SHOWN_MAX: usize = 100;

/// Most characters of a line that are shown.
const LINE_CHARS_MAX: usize = 140;

/// How many of them stand before the caret in a line that is cut.
const LINE_CHARS_BEFORE: usize = 60;

/// One error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The file as it was named.
    pub file: String,
    /// From 1; 0 when the error has no place, as with a file that cannot be read.
    pub line: usize,
    /// In characters, from 1; 0 when the error has no place.
    pub column: usize,
    /// What is wrong; one line.
    pub message: String,
    /// What to do about it; one line.
    pub hint: Option<String>,
    /// The line, and the carets below it.
    excerpt: Option<(String, String)>,
}

/// Every error of a config, in the order of the file; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    more: usize,
}

/// An error as the checks report it.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// The thing that this one collides with; its line is added to the hint.
    pub(super) first: Option<Range<usize>>,
}

impl Diagnostics {
    /// The errors, in the order of the file; bounded, see [`Diagnostics::more`].
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many errors there are beyond those of [`Diagnostics::iter`].
    pub fn more(&self) -> usize {
        self.more
    }

    /// An error of the file as a whole.
    pub(super) fn of_file(file: &str, message: impl Into<String>, hint: impl Into<String>) -> Diagnostics {
        let diagnostic = Diagnostic {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            hint: Some(hint.into()),
            excerpt: None,
        };
        Diagnostics { list: vec![diagnostic], more: 0 }
    }

    /// Gives problems their lines and columns. `masks` are spans that must not be shown.
    pub(super) fn locate(
        file: &str,
        text: &str,
        mut problems: Vec<Problem>,
        more: usize,
        masks: &[Range<usize>],
    ) -> Diagnostics {
        problems.sort_by_key(|problem| problem.span.start);
        let lines = Lines::new(text);
        let list = problems.into_iter().map(|problem| lines.diagnostic(file, problem, masks)).collect();
        Diagnostics { list, more }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.list.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        if self.more > 0 {
            writeln!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, gutter) = match self.line {
            0 => (String::new(), 1),
            line => (line.to_string(), line.to_string().len()),
        };
        match self.line {
            0 => writeln!(f, "{}: error: {}", self.file, self.message)?,
            _ => writeln!(f, "{}:{}:{}: error: {}", self.file, self.line, self.column, self.message)?,
        }
        if let Some((text, carets)) = &self.excerpt {
            writeln!(f, " {line} | {text}")?;
            writeln!(f, " {:gutter$} | {carets}", "")?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, " {:gutter$} = help: {hint}", ""),
            None => Ok(()),
        }
    }
}

/// A text with the starts of its lines.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Lines<'a> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { text, starts }
    }

    /// The number of the line that holds this byte, from 0.
    fn of(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    fn diagnostic(&self, file: &str, problem: Problem, masks: &[Range<usize>]) -> Diagnostic {
        let start = floor_char(self.text, problem.span.start);
        let line = self.of(start);
        let line_start = self.starts.get(line).copied().unwrap_or(0);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let shown = rest.split('\n').next().unwrap_or_default();
        let shown = shown.strip_suffix('\r').unwrap_or(shown);
        let start = (start - line_start).min(shown.len());
        let end = floor_char(self.text, problem.span.end).saturating_sub(line_start).clamp(start, shown.len());
        let hint = match (problem.hint, &problem.first) {
            (hint, None) => hint,
            (None, Some(first)) => Some(format!("the first one is on line {}", self.of(first.start) + 1)),
            (Some(hint), Some(first)) => Some(format!("the first one is on line {}; {hint}", self.of(first.start) + 1)),
        };
        // Only the masks near the caret, since each character that is shown asks all of them.
        let near = line_start + start.saturating_sub(4 * LINE_CHARS_MAX)..line_start + start + 4 * LINE_CHARS_MAX;
        let masks: Vec<_> = masks.iter().filter(|mask| mask.start < near.end && near.start < mask.end).collect();
        let hidden = |at: usize| masks.iter().any(|mask| mask.contains(&(line_start + at)));
        Diagnostic {
            file: file.to_owned(),
            line: line + 1,
            column: shown.get(..start).map_or(0, |head| head.chars().count()) + 1,
            message: problem.message,
            hint,
            excerpt: Some(excerpt(shown, start..end, &hidden)),
        }
    }
}

/// The line as it is shown, cut around the caret, and the carets that go below it. `caret` counts bytes of the line, as
/// does the argument of `hidden`.
fn excerpt(line: &str, caret: Range<usize>, hidden: &dyn Fn(usize) -> bool) -> (String, String) {
    let nth = |from: usize, n: usize| line[from..].char_indices().nth(n).map_or(line.len(), |(at, _)| from + at);
    let from = match nth(0, LINE_CHARS_MAX) == line.len() {
        true => 0,
        false => line[..caret.start].char_indices().rev().take(LINE_CHARS_BEFORE).last().map_or(0, |(at, _)| at),
    };
    let to = nth(from, LINE_CHARS_MAX);
    let shown = |range: Range<usize>| -> String {
        let mut out = String::new();
        for (at, c) in line[range.clone()].char_indices() {
            match c {
                // Character by character, so that nothing moves.
                _ if hidden(range.start + at) => out.push('*'),
                // A tab is as wide as the terminal likes; spaces keep the caret below its character.
                '\t' => out.push_str("    "),
                c if is_unprintable(c) => out.push('\u{fffd}'),
                c => out.push(c),
            }
        }
        out
    };
    let end = caret.end.clamp(caret.start, to.max(caret.start));
    let before = format!("{}{}", if from > 0 { "…" } else { "" }, shown(from..caret.start));
    let marked = shown(caret.start..end);
    let cut_after = if to < line.len() { "…" } else { "" };
    let text = format!("{before}{marked}{}{cut_after}", shown(end..to.max(end)));
    let carets = format!("{}{}", " ".repeat(before.width()), "^".repeat(marked.width().max(1)));
    (text.trim_end().to_owned(), carets)
}

/// Whether a character could move the cursor or turn the direction of the text.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn floor_char(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Somebody's text in double quotes, for a message: escaped, and cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let cut = text.chars().nth(CHARS_MAX).is_some();
    let printable = |c: char| if is_unprintable(c) { '\u{fffd}' } else { c };
    let head: String = text.chars().take(CHARS_MAX).map(printable).collect();
    format!("\"{}{}\"", head.replace('"', "\\\""), if cut { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, marked: &str, expected: &str) {
        let start = text.find(marked).unwrap();
        let problem = Problem { span: start..start + marked.len(), message: "wrong".into(), hint: None, first: None };
        let rendered = Diagnostics::locate("f", text, vec![problem], 0, &[]).to_string();
        assert_eq!(rendered, expected, "\n{rendered}");
    }

    #[test]
    fn columns_count_characters_and_carets_stand_below_them() {
        check("a = 1\nb = 22\n", "22", "f:2:5: error: wrong\n 2 | b = 22\n   |     ^^\n");
        check("\tb = 22", "22", "f:1:6: error: wrong\n 1 |     b = 22\n   |         ^^\n");
        check("é = 22", "22", "f:1:5: error: wrong\n 1 | é = 22\n   |     ^^\n");
        check("東京 = 22", "22", "f:1:6: error: wrong\n 1 | 東京 = 22\n   |        ^^\n");
        check("a = \"東\"", "\"東\"", "f:1:5: error: wrong\n 1 | a = \"東\"\n   |     ^^^^\n");
        check("a = 1\r\nb = 2\r\n", "1", "f:1:5: error: wrong\n 1 | a = 1\n   |     ^\n");
        check("a = \u{1b}[31m", "[31m", "f:1:6: error: wrong\n 1 | a = \u{fffd}[31m\n   |      ^^^^\n");
    }

    #[test]
    fn a_span_over_lines_is_marked_on_its_first_line() {
        check("a = [\n1,\n]", "[\n1,\n]", "f:1:5: error: wrong\n 1 | a = [\n   |     ^\n");
    }

    #[test]
    fn a_place_past_the_end_is_the_end() {
        let problem = Problem { span: 90..99, message: "wrong".into(), hint: None, first: None };
        let rendered = Diagnostics::locate("f", "a = é", vec![problem], 0, &[]).to_string();
        assert_eq!(rendered, "f:1:6: error: wrong\n 1 | a = é\n   |      ^\n");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let problem = Problem { span: 5000..5001, message: "wrong".into(), hint: None, first: None };
        let rendered = Diagnostics::locate("f", &text, vec![problem], 0, &[]).to_string();
        let lines: Vec<&str> = rendered.lines().collect();
        assert!(lines[0].starts_with("f:1:5001: "), "{rendered}");
        assert!(lines[1].chars().count() < 160, "{rendered}");
        assert_eq!(lines[1].chars().position(|c| c == 'X'), lines[2].chars().position(|c| c == '^'));
    }

    #[test]
    fn what_is_masked_is_not_shown() {
        let text = "api_key = \"sk-1\" # x";
        let problem = Problem { span: 10..16, message: "wrong".into(), hint: None, first: None };
        let rendered = Diagnostics::locate("f", text, vec![problem], 0, std::slice::from_ref(&(10..16))).to_string();
        assert_eq!(rendered, "f:1:11: error: wrong\n 1 | api_key = ****** # x\n   |           ^^^^^^\n");
    }
}
