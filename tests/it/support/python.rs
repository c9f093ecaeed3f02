//! Python environments of the tests' own, under `target/`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Scripts in a folder of `tests/`, and a Python with what its `requirements.txt` names.
pub struct Python {
    folder: &'static str,
    purpose: &'static str,
    found: OnceLock<Result<PathBuf, String>>,
}

impl Python {
    /// For `tests/FOLDER`; the purpose is what is skipped without it, for example "the tests with X".
    pub const fn new(folder: &'static str, purpose: &'static str) -> Python {
        Python { folder, purpose, found: OnceLock::new() }
    }

    /// Where the scripts are.
    pub fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(self.folder)
    }

    /// The interpreter. `None` when there is none to be had, which has been said then; under `CI=true` that is a failure.
    pub fn interpreter(&self) -> Option<&Path> {
        match self.found.get_or_init(|| self.set_up()) {
            Ok(python) => Some(python),
            Err(why) => {
                let purpose = self.purpose;
                assert!(std::env::var("CI").as_deref() != Ok("true"), "no Python environment for {purpose}: {why}");
                // Not by `eprintln!`: the test harness shows that of failed tests only.
                let _ = writeln!(io::stderr(), "SKIPPED: {purpose}: {why}");
                None
            }
        }
    }

    /// The environment is built once for each state of the requirements, and taken as it is from then on.
    fn set_up(&self) -> Result<PathBuf, String> {
        let requirements = self.folder().join("requirements.txt");
        let wanted =
            fs::read_to_string(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-python", self.folder));
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
