//! One value of the file, read as what its key expects.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::DeValue;

use super::report::{At, Report, Span};
use super::table::Table;

/// A value with the name of its key.
#[derive(Clone)]
pub(in crate::config) struct Value<'a> {
    pub(super) node: &'a Spanned<DeValue<'a>>,
    pub(super) path: String,
    pub(super) report: &'a Report,
}

impl<'a> Value<'a> {
    /// Where it stands.
    pub(in crate::config) fn span(&self) -> Span {
        self.node.span()
    }

    /// Where problems go.
    pub(in crate::config) fn report(&self) -> &'a Report {
        self.report
    }

    /// Whether it is a list without items.
    pub(in crate::config) fn is_empty_list(&self) -> bool {
        self.node.get_ref().as_array().is_some_and(|array| array.is_empty())
    }

    /// Keeps out of excerpts whatever may be a secret written out: all but the texts of these keys.
    pub(in crate::config) fn mask_all_but(&self, names: &[&str]) {
        let Some(table) = self.node.get_ref().as_table() else { return self.report.mask(&self.span()) };
        for (key, value) in table {
            if !names.contains(&key.get_ref().as_ref()) || !value.get_ref().is_str() {
                self.report.mask(&value.span());
            }
        }
    }

    /// Its key as messages name it: with its section, unless that is a list or a table of names.
    pub(in crate::config) fn key(&self) -> &str {
        match self.path.contains(['*']) || self.path.starts_with("pools.") {
            true => self.path.rsplit('.').find(|part| *part != "*").unwrap_or(&self.path),
            false => &self.path,
        }
    }

    /// The text, if it is one; nothing is reported if it is not.
    pub(in crate::config) fn as_text(&self) -> Option<At<&'a str>> {
        self.node.get_ref().as_str().map(|value| At { value, span: self.span() })
    }

    /// The text.
    pub(in crate::config) fn text(&self) -> Option<At<&'a str>> {
        self.as_text().or_else(|| self.mistyped("a string", "put it into double quotes"))
    }

    /// `true` or `false`.
    pub(in crate::config) fn flag(&self) -> Option<bool> {
        self.node.get_ref().as_bool().or_else(|| self.mistyped("true or false", "write true or false, without quotes"))
    }

    /// The items of a list.
    pub(in crate::config) fn items(&self) -> Vec<Value<'a>> {
        let item = |node| Value { node, path: self.path.clone(), report: self.report };
        match self.node.get_ref().as_array() {
            Some(array) => array.iter().map(item).collect(),
            // The only list of tables.
            None if self.path == "pools" && self.node.get_ref().as_table().is_some() => {
                self.mistyped("a list", "write [[pools]], in double brackets, above each pool").unwrap_or_default()
            }
            None => self.mistyped("a list", "put it into brackets: [ … ]").unwrap_or_default(),
        }
    }

    /// The table.
    pub(in crate::config) fn table(&self) -> Option<Table<'a>> {
        self.table_or("a table", "write it as { key = value } or below a line [name]")
    }

    /// The table; what else the value could have been stands in the error.
    pub(in crate::config) fn table_or(&self, expected: &str, hint: &str) -> Option<Table<'a>> {
        match self.node.get_ref().as_table() {
            Some(table) => Some(Table::new(self.path.clone(), Some(table), self.span(), self.report)),
            None => self.mistyped(expected, hint),
        }
    }

    /// A whole number, however large.
    pub(super) fn whole(&self) -> Option<i128> {
        let digits = |integer: &toml::de::DeInteger<'_>| {
            // More digits than any bound here has.
            Some(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
        };
        match self.node.get_ref() {
            DeValue::Integer(integer) => digits(integer),
            DeValue::String(text) if is_whole(text) => self.mistyped("a whole number", "write it without quotes"),
            _ => self.mistyped("a whole number", "write digits only; 1_000_000 is fine"),
        }
    }

    /// A whole number within the range; `unit` says of what.
    pub(in crate::config) fn whole_number(&self, range: RangeInclusive<u32>, unit: &str) -> Option<u32> {
        let number = u32::try_from(self.whole()?).ok().filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("`{}` must be {} to {} {unit}", self.key(), range.start(), range.end());
            self.report.error(&self.span(), message, "write a number in this range");
        }
        number
    }

    /// A number, which may be infinite or none at all (`nan`).
    pub(super) fn any_number(&self) -> Option<f64> {
        match self.node.get_ref() {
            // What is too long to be read is outside of every bound, and so is what is no number.
            DeValue::Float(float) => Some(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Integer(_) => self.whole().map(|whole| whole as f64),
            DeValue::String(text) if is_number(text) => self.mistyped("a number", "write it without quotes"),
            _ => self.mistyped("a number", "write digits, and a point if need be"),
        }
    }

    /// A number, finite and within the range; `unit` says of what.
    pub(in crate::config) fn number(&self, range: RangeInclusive<f64>, unit: &str) -> Option<f64> {
        match Some(self.any_number()?).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                let message = format!("`{}` must be {} to {} {unit}", self.key(), range.start(), range.end());
                self.report.error(&self.span(), message, "write a number in this range");
                None
            }
        }
    }

    /// Reports that the value is of the wrong type.
    pub(in crate::config) fn mistyped<T>(&self, expected: &str, hint: &str) -> Option<T> {
        let found = match self.node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.report.error(&self.span(), format!("`{}` must be {expected}, not {found}", self.key()), hint);
        None
    }
}

/// Whether a text would be a whole number without its quotes.
fn is_whole(text: &str) -> bool {
    is_number(text) && text.replace('_', "").parse::<i128>().is_ok()
}

/// Whether a text would be a number without its quotes.
fn is_number(text: &str) -> bool {
    let ends_in_digits =
        text.starts_with(|c: char| c.is_ascii_digit() || c == '-') && text.ends_with(|c: char| c.is_ascii_digit());
    ends_in_digits && text.replace('_', "").parse::<f64>().is_ok()
}
