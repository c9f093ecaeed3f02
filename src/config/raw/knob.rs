//! Knobs: values with a default and bounds.

use std::time::Duration;

use super::report::{Report, Span};
use super::table::Table;
use super::units;
use super::value::Value;

/// A key with its default, its bounds (both allowed) and the reason for them, which errors give as their hint.
pub(in crate::config) struct Knob<T> {
    pub(in crate::config) key: &'static str,
    pub(in crate::config) default: T,
    pub(in crate::config) min: T,
    pub(in crate::config) max: T,
    pub(in crate::config) why: &'static str,
}

/// A size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::config) struct Bytes(pub(in crate::config) usize);

/// What a knob is set to, and how.
#[derive(Clone, Debug)]
pub(in crate::config) struct Set<T> {
    pub(in crate::config) value: T,
    key: String,
    written: Option<Span>,
    broken: bool,
}

/// What a knob can hold.
pub(in crate::config) trait Unit: Copy + PartialOrd {
    /// Reads the value, or reports why it cannot.
    fn read(value: &Value<'_>) -> Option<Self>;
    /// As it is written in the file.
    fn show(self) -> String;
}

impl Unit for Duration {
    fn read(value: &Value<'_>) -> Option<Duration> {
        with_unit(value, units::duration, "a duration with its unit", "30s")
    }

    fn show(self) -> String {
        units::show_duration(self)
    }
}

impl Unit for Bytes {
    fn read(value: &Value<'_>) -> Option<Bytes> {
        with_unit(value, units::size, "a size with its unit", "32MiB").map(Bytes)
    }

    fn show(self) -> String {
        units::show_size(self.0)
    }
}

impl Unit for f64 {
    fn read(value: &Value<'_>) -> Option<f64> {
        value.any_number()
    }

    fn show(self) -> String {
        self.to_string()
    }
}

macro_rules! counts {
    ($($count:ty),*) => {$(
        impl Unit for $count {
            fn read(value: &Value<'_>) -> Option<$count> {
                // What does not fit is outside of every knob's bounds, and so is the largest value that does.
                value.whole().map(|whole| <$count>::try_from(whole).unwrap_or(<$count>::MAX))
            }

            fn show(self) -> String {
                self.to_string()
            }
        }
    )*};
}
counts!(u32, usize);

fn with_unit<T>(
    value: &Value<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
    expected: &str,
    example: &str,
) -> Option<T> {
    let Some(text) = value.as_text() else {
        return value.mistyped(expected, &format!("write it in quotes, as \"{example}\""));
    };
    let report = |hint| value.report.error(&text.span, format!("`{}` must be {expected}", value.key()), hint);
    parse(text.value).map_err(report).ok()
}

impl Table<'_> {
    /// What a knob of this section is set to; its default when it is not set, or not to something that it can hold.
    pub(in crate::config) fn knob<T: Unit>(&self, knob: &Knob<T>) -> Set<T> {
        let value = self.get(knob.key);
        let key = self.key_of(knob.key);
        #[cfg(test)]
        let bounds = format!("{} to {}", knob.min.show(), knob.max.show());
        #[cfg(test)]
        self.report().asked.borrow_mut().insert(self.path_of(knob.key), Some(bounds));
        let Some(value) = value else {
            return Set { value: knob.default, key, written: None, broken: false };
        };
        let (written, read) = (Some(value.span()), T::read(&value));
        match read {
            Some(read) if read >= knob.min && read <= knob.max => Set { value: read, key, written, broken: false },
            read => {
                if read.is_some() {
                    let message = format!("`{key}` must be {} to {}", knob.min.show(), knob.max.show());
                    self.report().error(&value.span(), message, knob.why);
                }
                Set { value: knob.default, key, written, broken: true }
            }
        }
    }
}

impl<T: Unit> Set<T> {
    /// What the file says; `None` when it leaves the key out. For what is off without its key.
    pub(in crate::config) fn as_written(&self) -> Option<T> {
        self.written.as_ref().map(|_| self.value)
    }

    /// Holds this knob to at most `upper`. Two values that contradict each other are an error where the smaller bound is
    /// broken; a mere default yields.
    pub(in crate::config) fn at_most(&self, upper: &Set<T>, report: &Report) -> T {
        if self.broken || upper.broken || self.value <= upper.value {
            return self.value;
        }
        let Some(written) = &self.written else { return upper.value };
        let whose = if upper.written.is_some() { "" } else { ", its default" };
        let message = format!("`{}` must not be above `{}` ({}{whose})", self.key, upper.key, upper.value.show());
        report.error(written, message, format!("lower `{}` or raise `{}`", self.key, upper.key));
        upper.value
    }
}
