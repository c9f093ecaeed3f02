//! Prometheus' programs, and the files that they are shown.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The YAML files of a folder, sorted; there must be some.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    assert!(!files.is_empty(), "no file in {folder}");
    files
}

/// Whether this program is there. If not, that has been said; under `CI=true` it is a failure.
pub(crate) fn have(program: &str, purpose: &str) -> bool {
    let mut version = Command::new(program);
    let found = version.arg("--version").stdin(Stdio::null()).output();
    let Err(error) = found else { return true };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no {program} for {purpose}: {error}");
    // Not by `eprintln!`: the test harness shows that of failed tests only.
    let _ = writeln!(io::stderr(), "SKIPPED: {purpose}: {program}: {error} (Debian: apt-get install prometheus)");
    false
}

/// What `promtool` says of these files; fails with its words when it finds fault. `None` when it is not there.
pub(crate) fn promtool(arguments: &[&str], files: &[PathBuf], purpose: &str) -> Option<String> {
    if !have("promtool", purpose) {
        return None;
    }
    let output = Command::new("promtool").args(arguments).args(files).stdin(Stdio::null()).output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "promtool {}:\n{said}", arguments.join(" "));
    Some(said)
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
