//! Bad configs and what is said of them: `tests/fixtures/config/NAME.toml` with its exact diagnostics in `NAME.expected`.
//! `UPDATE_EXPECT=1 cargo test --test config` rewrites the latter; read the difference before you commit it.

// Helpers of tests may stop at the first surprise too; .clippy.toml allows that only inside of `#[test]` functions.
#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};

use nearpool::config;

/// Fewer fixtures mean that the directory was not found, not that nothing can go wrong.
const FIXTURES_MIN: usize = 30;

fn env(name: &str) -> Option<String> {
    match name {
        "EMPTY" => Some(String::new()),
        "KEY" => Some("secret".to_owned()),
        _ => None,
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

fn fixtures() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory()).expect("the fixtures' directory");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

/// What is said of a fixture. A name that begins with `ok` must be right.
fn rendered(path: &Path) -> String {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).expect("a fixture");
    match config::parse(&name, &text, &directory(), &env) {
        Ok(_) => "ok\n".to_owned(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn every_bad_config_is_told_what_is_wrong_and_where() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let fixtures = fixtures();
    assert!(fixtures.len() >= FIXTURES_MIN, "only {} fixtures in {}", fixtures.len(), directory().display());
    let mut wrong = Vec::new();
    for path in fixtures {
        let (rendered, expected) = (rendered(&path), path.with_extension("expected"));
        let is_ok = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ok"));
        assert_eq!(rendered == "ok\n", is_ok, "{}:\n{rendered}", path.display());
        if update {
            std::fs::write(&expected, &rendered).expect("a file to write");
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        if rendered != wanted {
            wrong.push(format!("{}\n--- expected\n{wanted}--- found\n{rendered}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{} differ (UPDATE_EXPECT=1 rewrites):\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_expectation_has_its_fixture() {
    for entry in std::fs::read_dir(directory()).expect("the fixtures' directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "expected") {
            assert!(path.with_extension("toml").exists(), "{} stands alone", path.display());
        }
    }
}

#[test]
fn the_reference_loads_as_it_is_shipped() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/edge.toml");
    let config = config::load(&path, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.topology.edge, "usw-1");
    assert_eq!(config.hash.len(), 64);
}
