//! Names: what they may look like, and finding what a name stands for.

use std::collections::BTreeMap;

use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report, Span, hint_among};

/// Longest name of a region, pool, replica, step or edge: names go into headers, labels and log lines.
const NAME_CHARS_MAX: usize = 64;

/// Longest name of a model; served models carry their maker's path.
const MODEL_CHARS_MAX: usize = 128;

/// Names that have been declared, each with its position and place.
pub(super) struct Names {
    what: &'static str,
    section: &'static str,
    index: BTreeMap<String, (usize, Span)>,
}

impl Names {
    /// No names yet; `what` is the kind of thing, `section` where it is declared.
    pub(super) fn new(what: &'static str, section: &'static str) -> Names {
        Names { what, section, index: BTreeMap::new() }
    }

    /// Declares a name; a second declaration is an error.
    pub(super) fn declare(&mut self, name: &At<&str>, position: usize, report: &Report) {
        match self.index.get(name.value) {
            Some((_, first)) => {
                let message = format!("there is another {} named {}", self.what, quoted(name.value));
                report.twice(&name.span, first, message, "give each a name of its own");
            }
            None => {
                self.index.insert(name.value.to_owned(), (position, name.span.clone()));
            }
        }
    }

    /// The position of what has this name, if anything has.
    pub(super) fn get(&self, name: &str) -> Option<usize> {
        self.index.get(name).map(|(position, _)| *position)
    }

    /// The place where a name was declared.
    pub(super) fn place(&self, name: &str) -> Option<&Span> {
        self.index.get(name).map(|(_, span)| span)
    }

    /// The position of what has this name; an unknown name is reported, with the known ones.
    pub(super) fn find(&self, name: &At<&str>, report: &Report) -> Option<usize> {
        let found = self.get(name.value);
        // An empty name, or no declaration at all, has been reported already.
        if found.is_none() && !name.value.is_empty() && !self.index.is_empty() {
            let message = format!("unknown {} {}: it is not in {}", self.what, quoted(name.value), self.section);
            let hint = if report.is_full() { String::new() } else { hint_among(name.value, self.iter()) };
            report.error(&name.span, message, hint);
        }
        found
    }

    /// The names in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.index.keys().map(String::as_str)
    }
}

/// Checks a name that goes into headers, labels and log lines: letters, digits, `.`, `_` and `-`.
pub(super) fn plain(what: &str, name: &At<&str>, report: &Report) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let hint = "use 1 to 64 ASCII letters, digits, `.`, `_` and `-`: names stand in headers, labels and log lines";
    shape(what, name, NAME_CHARS_MAX, fits, hint, report);
}

/// Checks a model's name: visible ASCII but for quotes, backslash and comma.
pub(super) fn model(what: &str, name: &At<&str>, report: &Report) {
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | ',');
    let hint =
        "use 1 to 128 visible ASCII characters without quotes, backslash and comma: it stands in headers and labels";
    shape(what, name, MODEL_CHARS_MAX, fits, hint, report);
}

fn shape(what: &str, name: &At<&str>, chars_max: usize, fits: impl Fn(char) -> bool, hint: &str, report: &Report) {
    if name.value.is_empty() || name.value.len() > chars_max || !name.value.chars().all(fits) {
        report.error(&name.span, format!("{} cannot be the name of {what}", quoted(name.value)), hint);
    }
}
