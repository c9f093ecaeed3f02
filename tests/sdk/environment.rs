//! A Python environment of the tests' own, under `target/`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the scripts are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk")
}

/// A Python that has the SDKs. `None` when there is none to be had, which has been said then; under `CI=true` that is a
/// failure.
pub(crate) fn python() -> Option<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(set_up) {
        Ok(python) => Some(python),
        Err(why) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no Python environment for the SDKs: {why}");
            // Not by `eprintln!`: the test harness shows that of failed tests only.
            let _ = writeln!(io::stderr(), "SKIPPED: the tests with the official SDKs: {why}");
            None
        }
    }
}

/// The environment is built once for each state of the requirements, and taken as it is from then on.
fn set_up() -> Result<PathBuf, String> {
    let requirements = folder().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk-python");
    let (python, done) = (home.join("bin/python"), home.join("installed.txt"));
    fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    // One builds, others wait; released when dropped, also by the end of the process.
    let lock = File::create(home.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if fs::read_to_string(&done).is_ok_and(|have| have == wanted) && python.exists() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--requirement"])
        .arg(&requirements))?;
    fs::write(&done, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let line = format!(
        "{} {}",
        command.get_program().display(),
        command.get_args().fold(String::new(), |mut all, arg| {
            all += &arg.to_string_lossy();
            all + " "
        })
    );
    let output = command.output().map_err(|error| format!("`{}` cannot be run: {error}", line.trim()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Err(format!("`{}` failed:\n{}", line.trim(), String::from_utf8_lossy(&said).trim()))
}
