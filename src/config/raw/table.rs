//! A section of the file, asked key by key.

use std::cell::{Cell, RefCell};

use toml::de::{DeTable, DeValue};

use super::nearest::hint_among;
use super::report::{At, Report, Span};
use super::value::Value;
use crate::config::diagnostic::quoted;

/// The keys whose values are secrets, in case one stands in the file itself.
const SECRET_KEYS: [&str; 3] = ["api_key", "admin_token", "authorization"];

/// The parsed file.
pub(in crate::config) struct Document<'a> {
    root: toml::Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// Parses TOML. Of a text that is not TOML only the errors of syntax are reported: what the rest of it means cannot
    /// be known, since a missing bracket puts every key that follows into another section.
    pub(in crate::config) fn parse(text: &'a str, report: &Report) -> Option<Document<'a>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Some(Document { root });
        }
        mask_secrets(text, report);
        report_syntax(text, errors, report);
        None
    }

    /// The whole file as one table.
    pub(in crate::config) fn root<'t>(&'t self, report: &'t Report) -> Table<'t> {
        Table::new(String::new(), Some(self.root.get_ref()), 0..0, report)
    }
}

/// Reports errors of syntax: the first of each line, and of a list that is never closed only where it is noticed, since
/// the parser takes all that follows for broken items of it.
fn report_syntax(text: &str, errors: Vec<toml::de::Error>, report: &Report) {
    let unclosed = errors.iter().any(|error| error.message().starts_with("unclosed array"));
    let place = |error: &toml::de::Error| error.span().unwrap_or(text.len()..text.len());
    let mut errors: Vec<_> = errors.iter().map(|error| (place(error), error.message().replace('\n', " "))).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut before = None;
    for (span, message) in errors {
        let between = before.map(|before| text.get(before..span.start).unwrap_or("\n"));
        if between.is_some_and(|between| !between.contains('\n')) {
            continue;
        }
        before = Some(span.start);
        if unclosed && (message.contains("between array elements") || message.contains("in array")) {
            let hint = "close the list with `]`, and put a comma between its items";
            return report.error(&span, "a list that begins before this is not closed", hint);
        }
        let hint = match message.as_str() {
            "duplicate key" => "a key may stand once in its table, and a table once in the file; remove one of the two",
            _ => "this is not TOML; strings stand in double quotes, lists in [ ], tables in [name] or { key = value }",
        };
        report.error(&span, message, hint);
    }
}

/// Keeps what follows a secret's key out of excerpts, where it does not begin as a reference.
fn mask_secrets(text: &str, report: &Report) {
    for key in SECRET_KEYS {
        for (at, _) in text.match_indices(key) {
            let start = at + key.len();
            let rest = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
            let value = rest.trim_start_matches([' ', '\t', '=', '{', '"', '\'']);
            if !value.starts_with("env") && !value.starts_with("file") {
                report.mask(&(start + rest.len() - value.len()..start + rest.len()));
            }
        }
    }
}

/// A table of the file; one that the file leaves out is empty. What was not asked for is reported when it is dropped.
pub(in crate::config) struct Table<'a> {
    path: String,
    entries: Option<&'a DeTable<'a>>,
    span: Span,
    report: &'a Report,
    asked: RefCell<Vec<&'static str>>,
    any_key: Cell<bool>,
}

impl<'a> Table<'a> {
    pub(super) fn new(path: String, entries: Option<&'a DeTable<'a>>, span: Span, report: &'a Report) -> Table<'a> {
        Table { path, entries, span, report, asked: RefCell::default(), any_key: Cell::new(false) }
    }

    /// Where the table stands: its header, or the whole of it when it is inline.
    pub(in crate::config) fn span(&self) -> &Span {
        &self.span
    }

    /// Where problems go.
    pub(in crate::config) fn report(&self) -> &'a Report {
        self.report
    }

    /// The value of a key, if it is set. From now on the key is known.
    pub(in crate::config) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        let path = self.path_of(key);
        #[cfg(test)]
        self.report.asked.borrow_mut().entry(path.clone()).or_default();
        let node = self.entries?.get(key)?;
        Some(Value { node, path, report: self.report })
    }

    /// The value of a key that must be set; `example` shows how.
    pub(in crate::config) fn required(&self, key: &'static str, example: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() && self.entries.is_some() {
            self.report.error(&self.span, format!("`{key}` is missing {}", self.place()), format!("write {example}"));
        }
        value
    }

    /// The text of a key that must be set; `""` when it is not.
    pub(in crate::config) fn required_text(&self, key: &'static str, example: &str) -> At<&'a str> {
        let text = self.required(key, example).and_then(|value| value.text());
        if let Some(text) = text.as_ref().filter(|text| text.value.is_empty()) {
            self.report.error(&text.span, format!("`{key}` is empty"), format!("write {example}"));
        }
        text.unwrap_or(At { value: "", span: self.span.clone() })
    }

    /// The text of a key that may be set.
    pub(in crate::config) fn text(&self, key: &'static str) -> Option<At<&'a str>> {
        self.get(key)?.text()
    }

    /// A switch that may be set.
    pub(in crate::config) fn flag(&self, key: &'static str, default: bool) -> bool {
        self.get(key).and_then(|value| value.flag()).unwrap_or(default)
    }

    /// The texts of a list that may be set.
    pub(in crate::config) fn texts(&self, key: &'static str) -> Option<Vec<At<&'a str>>> {
        Some(self.get(key)?.items().iter().filter_map(Value::text).collect())
    }

    /// A section below this one; empty when the file leaves it out.
    pub(in crate::config) fn section(&self, key: &'static str) -> Table<'a> {
        match self.get(key).and_then(|value| value.table()) {
            Some(table) => table,
            None => Table::new(self.path_of(key), None, self.span.clone(), self.report),
        }
    }

    /// A section below this one that must be there; `example` shows how.
    pub(in crate::config) fn required_section(&self, key: &'static str, example: &str) -> Table<'a> {
        if self.entries.is_some_and(|entries| !entries.contains_key(key)) {
            self.report.error(&self.span, format!("the section `[{key}]` is missing"), format!("add {example}"));
        }
        self.section(key)
    }

    /// Whether the file has this table.
    pub(in crate::config) fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// Every entry of a table whose keys are names, in order of name.
    pub(in crate::config) fn entries(&self) -> Vec<(At<&'a str>, Value<'a>)> {
        self.any_key.set(true);
        let path = self.path_of("*");
        let entries = self.entries.into_iter().flatten();
        let entry = |(key, node): (&'a toml::Spanned<toml::de::DeString<'a>>, &'a toml::Spanned<DeValue<'a>>)| {
            let name = At { value: key.get_ref().as_ref(), span: key.span() };
            (name, Value { node, path: path.clone(), report: self.report })
        };
        entries.map(entry).collect()
    }

    /// A key of this section as messages name it.
    pub(super) fn key_of(&self, key: &str) -> String {
        if self.path.starts_with("pools") { key.to_owned() } else { self.path_of(key) }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn place(&self) -> String {
        match self.path.as_str() {
            "" => "at the top level".to_owned(),
            "pools" => "in [[pools]]".to_owned(),
            path => match path.strip_prefix("pools.") {
                Some(key) => format!("in `{key}`"),
                None => format!("in [{path}]"),
            },
        }
    }

    fn report_unknown(&self, key: &toml::Spanned<toml::de::DeString<'a>>, value: &toml::Spanned<DeValue<'a>>) {
        let name = key.get_ref().as_ref();
        if self.report.is_full() {
            return self.report.error(&key.span(), "", "");
        }
        let message = format!("unknown key {} {}", quoted(name), self.place());
        // Models are named after their versions, and TOML takes the dot for the next level.
        if self.path == "models.*" && value.get_ref().is_table() {
            let hint = format!("if that is part of the model's name, put the name into quotes: [models.\"….{name}\"]");
            return self.report.error(&key.span(), message, hint);
        }
        let mut known = self.asked.borrow().clone();
        known.sort_unstable();
        self.report.error(&key.span(), message, hint_among(name, known.iter().copied()));
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        if self.any_key.get() {
            return;
        }
        for (key, value) in self.entries.into_iter().flatten() {
            if !self.asked.borrow().contains(&key.get_ref().as_ref()) {
                self.report_unknown(key, value);
            }
        }
    }
}
