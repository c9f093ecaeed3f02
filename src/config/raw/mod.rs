//! The file as TOML, with the place of everything in it; the only part of `config` that knows the TOML library.
//!
//! A [`Table`] is asked for the keys that its section knows; whatever it was not asked for is reported as unknown when
//! it goes out of scope, so that no key can be ignored by accident. All problems go into one [`Report`].

mod knob;
mod nearest;
mod report;
mod table;
mod units;
mod value;

pub(super) use knob::{Bytes, Knob, Set};
pub(super) use nearest::{hint_among, list};
pub(super) use report::{At, Report, Span};
pub(super) use table::{Document, Table};
pub(super) use value::Value;
