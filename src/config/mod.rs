//! Configuration: `raw` (the file as TOML, with places) → `check` (plain values, all errors at once) → `diagnostic`
//! (file:line:col, caret, hint).
//!
//! The file is the one way to set a thing. Every default, bound and reason stands in `conf/edge.toml` beside its key,
//! and tests keep that file and this code together. A key that this version does not know, or knows only as something
//! still to be built, is an error: a config that is quietly half obeyed is worse than one that is refused.

mod check;
mod diagnostic;
mod entry;
mod push;
mod raw;
mod values;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use entry::{Env, FILE_BYTES_MAX, load, parse, parse_push, text_of};
pub use push::restart_needed;
pub use values::{AccessLog, Config, Geo, Health, References, Secret, Sessions, Timeouts, Tls, Tracing};

#[cfg(test)]
mod tests;
