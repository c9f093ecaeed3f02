//! `nearpool geoip`, as an operator meets it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::own_address;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("nearpool-geoip-{}-{}", std::process::id(), own_address()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file of the repository.
fn ours(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).to_str().unwrap().to_owned()
}

fn geoip(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nearpool")).arg("geoip").args(arguments).output().unwrap()
}

/// What it prints when all is well.
#[track_caller]
fn prints(arguments: &[&str]) -> String {
    let output = geoip(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&prints(&[arguments, &["--json"]].concat())).unwrap()
}

/// It ends with code 2, says all of this on stderr without a panic, and nothing on stdout.
#[track_caller]
fn fails(arguments: &[&str], says: &[&str]) {
    let output = geoip(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    says.iter().for_each(|text| assert!(stderr.contains(text), "no '{text}' in: {stderr}"));
    assert!(output.stdout.is_empty() && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn info_says_what_a_database_is() {
    let said = prints(&["info"]);
    for text in ["embedded, ", "Nearpool-City, IPv4 and IPv6", "built      2", "CC BY 4.0", "city ", "country "] {
        assert!(said.contains(text), "no '{text}' in: {said}");
    }
    let (shipped, embedded) = (json_of(&["info", &ours("geoip/nearpool.mmdb")]), json_of(&["info"]));
    for key in ["kind", "bytes", "ip_version", "built", "networks", "records", "precision", "licence"] {
        assert_eq!(shipped[key], embedded[key], "{key}");
    }
    assert!(embedded["precision"]["city"]["networks"].as_u64().unwrap() > 10_000, "{embedded}");
    let mini = json_of(&["info", &ours("tests/data/mini-city.mmdb")]);
    assert_eq!((&mini["kind"], &mini["licence"]), (&json!("EdgeRoute-Test-City"), &Value::Null));
    assert!(prints(&["info", "--notice"]).contains("Number Resource Organization"));
}

#[test]
fn lookup_says_where_an_address_is_and_what_it_counts_as() {
    let mini = ours("tests/data/mini-city.mmdb");
    let lookup = |address: &str| json_of(&["lookup", address, "--database", &mini]);
    let dublin = lookup("127.3.0.1");
    assert_eq!((&dublin["country"], &dublin["precision"]), (&json!("IE"), &json!("city")));
    assert_eq!((&dublin["place"], &dublin["unions"]), (&json!([53.35, -6.26]), &json!(["EU", "EEA"])));
    assert_eq!(lookup("127.20.0.1")["precision"], "country");
    assert_eq!((&lookup("10.0.0.1")["found"], &lookup("10.0.0.1")["precision"]), (&json!(false), &json!("nothing")));
    let said = prints(&["lookup", "2002:7f03:1::5", "--database", &mini]);
    assert!(said.contains("which carries 127.3.0.1") && said.contains("IE"), "{said}");
    assert!(prints(&["lookup", "10.0.0.1"]).contains("counts as  at the edge"));
}

#[test]
fn a_file_that_is_no_database_is_told_with_its_name() {
    let folder = Folder::new();
    let (page, empty) = (folder.file("page.mmdb", "<html>"), folder.file("empty.mmdb", ""));
    fails(&["info", &page], &["page.mmdb", "could not find MaxMind DB metadata"]);
    fails(&["info", &empty], &["empty.mmdb", "is empty"]);
    fails(&["info", &folder.path("absent.mmdb")], &["absent.mmdb", "No such file"]);
    fails(&["lookup", "127.3.0.1", "--database", &page], &["page.mmdb"]);
    fails(&["lookup", "somewhere"], &["somewhere", "ADDR"]);
}
