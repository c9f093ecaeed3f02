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

#[test]
fn build_lays_providers_networks_over_a_database() {
    let folder = Folder::new();
    let (mini, out) = (ours("tests/data/mini-city.mmdb"), folder.path("my.mmdb"));
    let feed = folder.file("feed.csv", "127.3.0.0/16,JP,,Tokyo\n10.1.0.0/16,DE\n10.2.0.0/16,,,\n");
    let samples = ["aws", "azure", "google", "oracle"].map(|name| ours(&format!("geoip/samples/{name}.json")));
    let mut arguments = vec!["build", "--base", &mini, "--out", &out, "--overlay", &feed];
    samples.iter().for_each(|sample| arguments.extend(["--overlay", sample]));
    let said = prints(&arguments);
    for text in [
        "feed.csv: RFC 8805 geofeed, 2 of 3 rows have a known place",
        "without: \"no country\" 1",
        "aws.json: AWS ip-ranges.json, 3 of 4",
        "my.mmdb: EdgeRoute-Test-City, built 2026-11-22",
    ] {
        assert!(said.contains(text), "no '{text}' in: {said}");
    }
    for (address, country, precision) in [
        ("127.3.0.1", "JP", "city"),
        ("10.1.2.3", "DE", "country"),
        ("198.51.100.65", "BR", "city"), // of AWS, Azure and Oracle the last
        ("2001:db8:a::1", "SG", "city"),
        ("127.1.2.3", "US", "city"), // as below
    ] {
        let found = json_of(&["lookup", address, "--database", &out]);
        assert_eq!((&found["country"], &found["precision"]), (&json!(country), &json!(precision)), "{address}");
    }
    assert!(
        json_of(&["info", &out])["description"].as_str().unwrap().ends_with("Overlaid with files of the operator.")
    );
    let registry = ours("geoip/samples/delegated.txt");
    let said = prints(&["build", "--registry", &registry, "--overlay", &feed, "--out", &out]);
    assert!(said.contains("Nearpool-City, built 2026-01-01"), "{said}");
    assert_eq!(json_of(&["lookup", "192.0.2.1", "--database", &out])["country"], "CH");
    assert_eq!(json_of(&["lookup", "10.1.2.3", "--database", &out])["country"], "DE");
    // Over itself, and over the one in the binary.
    prints(&["build", "--base", &out, "--out", &out, "--overlay", &feed]);
    prints(&["build", "--out", &out, "--overlay", &feed]);
    assert_eq!(json_of(&["info", &out])["kind"], "Nearpool-City");
}

#[test]
fn a_build_that_fails_says_where_and_leaves_what_was_there() {
    let folder = Folder::new();
    let out = folder.file("out.mmdb", "what was there");
    let (good, bad) =
        (folder.file("good.csv", "10.1.0.0/16,DE\n"), folder.file("bad.csv", "10.1.0.0/16,DE\nhere,DE\n"));
    let json =
        folder.file("bad.json", r#"{"regions": [{"region": "uk-london-1", "cidrs": [{"cidr": "10.0.0.0/40"}]}]}"#);
    fails(&["build", "--out", &out, "--overlay", &bad], &["bad.csv: line 2: 'here' is no network"]);
    fails(&["build", "--out", &out, "--overlay", &json], &["bad.json: regions[0].cidrs[0].cidr: '10.0.0.0/40'"]);
    fails(&["build", "--out", &out, "--overlay", &folder.path("absent")], &["absent: No such file"]);
    fails(&["build", "--out", &out], &["--overlay"]);
    fails(&["build", "--out", &good, "--overlay", &good], &["good.csv", "another name"]);
    let base = folder.file("base.mmdb", "<html>");
    let failed = geoip(&["build", "--base", &base, "--out", &out, "--overlay", &good]);
    assert_eq!(failed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("base.mmdb"));
    let failed = geoip(&["build", "--out", folder.0.to_str().unwrap(), "--overlay", &good]);
    assert!(String::from_utf8_lossy(&failed.stderr).contains("cannot be written"));
    assert_eq!(std::fs::read(&out).unwrap(), b"what was there");
    assert_eq!(std::fs::read(&good).unwrap(), b"10.1.0.0/16,DE\n");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 5, "nothing is left behind");
}
