//! The ways in: a file, a text, a pushed text.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::check::{self, Outside};
use super::diagnostic::Diagnostics;
use super::raw::{Document, Report};
use super::values::{Config, References};
use crate::domain::hex::hex;

/// Largest config in bytes. The largest fleet that fits the checks' bounds needs less; what is larger was generated
/// wrongly, and is refused before it is parsed.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// How environment variables are looked up: an argument, since only `main` reads the environment.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads and checks a file. Relative paths in it count from the working directory.
pub fn load(path: &Path, env: &Env<'_>) -> Result<Config, Diagnostics> {
    let name = path.display().to_string();
    let bytes = read(path).map_err(|(message, hint)| Diagnostics::of_file(&name, message, hint))?;
    parse(&name, text_of(&name, &bytes)?, Path::new(""), env)
}

/// Checks a text. `base` is where relative paths count from, `file_name` what diagnostics call the text.
pub fn parse(file_name: &str, text: &str, base: &Path, env: &Env<'_>) -> Result<Config, Diagnostics> {
    checked(file_name, text, base, env, None)
}

/// Checks a pushed text. Whoever may push routes may not thereby read the edge's files and environment or reach what
/// only this machine reaches: secrets, paths and link-local addresses that the running config lacks are errors, and
/// nothing is looked up for them.
pub fn parse_push(
    file_name: &str,
    text: &str,
    base: &Path,
    env: &Env<'_>,
    running: &Config,
) -> Result<Config, Diagnostics> {
    checked(file_name, text, base, env, Some(&running.references))
}

/// The bytes of a config as text, if they are one of bearable size.
pub fn text_of<'a>(file_name: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostics> {
    let error = |message: &str, hint: &str| Err(Diagnostics::of_file(file_name, message, hint));
    if bytes.len() > FILE_BYTES_MAX {
        return error(
            "the config is larger than 1 MiB",
            "a config of that size was generated wrongly; make it smaller",
        );
    }
    match std::str::from_utf8(bytes) {
        _ if bytes.contains(&0) => error("this is a binary file, not a config", "name a TOML file in UTF-8"),
        Ok(text) => Ok(text),
        Err(found) => {
            let before = bytes.get(..found.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            error(&format!("line {line} is not UTF-8"), "save the file in UTF-8")
        }
    }
}

fn checked(
    file_name: &str,
    text: &str,
    base: &Path,
    env: &Env<'_>,
    running: Option<&References>,
) -> Result<Config, Diagnostics> {
    let text = text_of(file_name, text.as_bytes())?;
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        let hint = "start from conf/edge.toml, the commented reference";
        return Err(Diagnostics::of_file(file_name, "the config is empty", hint));
    }
    let report = Report::default();
    let config = Document::parse(text, &report).map(|document| {
        let outside = Outside::new(base, env, running);
        check::config(&document.root(&report), outside, hash(text))
    });
    match config {
        Some(config) if report.is_empty() => Ok(config),
        _ => Err(report.locate(file_name, text)),
    }
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// The file's bytes, or what is wrong and what to do.
fn read(path: &Path) -> Result<Vec<u8>, (String, String)> {
    let because = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => "check the path; conf/edge.toml is the commented reference to start from",
            ErrorKind::PermissionDenied => "let the user that runs nearpool read it",
            _ => "check the file",
        };
        (format!("the config cannot be read: {}", reason(&error)), hint.to_owned())
    };
    let kind = std::fs::metadata(path).map_err(because)?.file_type();
    if !kind.is_file() {
        // A pipe or a device could keep the reader waiting for ever.
        let what = if kind.is_dir() { "a directory" } else { "no regular file" };
        return Err((format!("this is {what}, not a config"), "name a TOML file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(because)?;
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(because)?;
    Ok(bytes)
}

/// An I/O error in words that are the same on every system.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
