//! The design's invariants as checks over the sources. Each rule is a function of a path and its text, and is shown to
//! bite by a snippet that breaks it; a rule that found nothing to look at fails too.
//!
//! The rules read tokens: comments and the insides of strings are no code, and neither is what stands under
//! `#[cfg(test)]` (tests may look at anything, and need a first `Instant`).

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise, also in its helpers")]

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

#[path = "tidy/source.rs"]
mod source;

use source::{File, paths, tokens};

/// What a top-level module may import of ours: only floors below its own, and what its floor allows besides.
/// `None`: everything (the crate's roots). A module that is not named here has no floor, which is an offence.
fn may_import(module: &str) -> Option<Option<&'static [&'static str]>> {
    Some(Some(match module {
        // Floor 0, and what stands apart.
        "domain" | "sim" => &[],
        // Floor 1.
        "policy" => &["domain"],
        // Floor 2.
        "wire" | "config" => &["domain", "policy"],
        "observe" => &["domain", "policy", "config", "roster"],
        "roster" => &["domain", "policy", "config", "wire"],
        // Floor 3: two planes that do not know each other.
        "proxy" | "control" => &["domain", "policy", "config", "wire", "observe", "roster"],
        "lib" | "main" | "cli" => return Some(None),
        _ => return None,
    }))
}

/// A rule: the lines of a file that break it, each with what is wrong.
type Rule = fn(&File) -> Vec<(usize, String)>;

/// Which files a rule is for.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    /// What is compiled into the product.
    Sources,
    /// Every Rust file, tests and benches too.
    Rust,
    /// Every tracked file.
    Everything,
}

const RULES: [(&str, Scope, Rule); 8] = [
    ("decisions are pure", Scope::Sources, decisions_are_pure),
    ("few know the network", Scope::Sources, few_know_the_network),
    ("imports point down", Scope::Sources, imports_point_down),
    ("serialisation has its places", Scope::Sources, serialisation_has_its_places),
    ("mod.rs holds no logic", Scope::Sources, mod_rs_holds_no_logic),
    ("files are short", Scope::Sources, files_are_short),
    ("nothing is left undone", Scope::Rust, nothing_is_left_undone),
    ("nobody's machine is named", Scope::Everything, no_machine_is_named),
];

/// `domain` and `policy` hold no clock, randomness, environment, I/O, lock, runtime or logging.
fn decisions_are_pure(file: &File) -> Vec<(usize, String)> {
    if !["domain", "policy"].contains(&file.module()) {
        return Vec::new();
    }
    let impure = |path: &[&str], called_on_value: bool| {
        let has = |part: &str| path.contains(&part);
        let pair = |a: &str, b: &str| path.windows(2).any(|two| two == [a, b]);
        has("SystemTime")
            || (path.len() > 1 && path.last() == Some(&"now"))
            || pair("rand", "rng")
            || pair("rand", "random")
            || (path == ["random"] && !called_on_value)
            || ["thread_rng", "ThreadRng", "SysRng", "OsRng", "from_os_rng", "make_rng", "RandomState"]
                .iter()
                .any(|p| has(p))
            || ["env", "fs", "io", "thread", "process", "sync"].iter().any(|part| pair("std", part))
            || path.len() > 1 && ["env", "tokio", "log", "tracing"].contains(&path[0])
            || ["TcpStream", "TcpListener", "UdpSocket", "println", "eprintln", "print", "eprint"]
                .iter()
                .any(|p| has(p))
    };
    let found = paths(&file.code).into_iter().filter(|path| impure(&path.parts(), path.on_value));
    found.map(|path| (path.line, format!("`{path}`: time, randomness and the world are arguments here"))).collect()
}

/// Only the planes and the roots know Pingora; only those and the simulator know sockets.
fn few_know_the_network(file: &File) -> Vec<(usize, String)> {
    let plane = ["proxy", "control", "main", "cli"].contains(&file.module());
    let offends = |path: &[&str]| {
        let pingora = path[0].starts_with("pingora");
        let sockets = path.windows(2).any(|two| two == ["tokio", "net"])
            || path
                .iter()
                .any(|part| ["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener"].contains(part));
        (pingora && !plane) || (sockets && !plane && file.module() != "sim")
    };
    let found = paths(&file.code).into_iter().filter(|path| offends(&path.parts()));
    found.map(|path| (path.line, format!("`{path}`: only proxy, control and main know the network"))).collect()
}

/// What is imported of ours lies on a floor below; the simulator imports nothing of ours at all.
fn imports_point_down(file: &File) -> Vec<(usize, String)> {
    let Some(allowed) = may_import(file.module()) else {
        return vec![(1, format!("module `{}` has no floor: give it one in tests/tidy.rs", file.module()))];
    };
    let Some(allowed) = allowed else { return Vec::new() };
    let mut offences = Vec::new();
    for path in paths(&file.code) {
        let parts = path.parts();
        let supers = parts.iter().take_while(|part| **part == "super").count();
        let target = match parts[0] {
            "crate" | "nearpool" => parts.get(1),
            "super" if supers >= file.depth() => parts.get(supers),
            _ => None,
        };
        if let Some(target) = target.filter(|target| **target != file.module() && !allowed.contains(target)) {
            offences.push((path.line, format!("`{path}`: `{}` must not know `{target}`", file.module())));
        }
    }
    offences
}

/// Input is deserialised where it comes in, output serialised where it goes out.
fn serialisation_has_its_places(file: &File) -> Vec<(usize, String)> {
    let reads = file.path.starts_with("src/config/raw") || ["wire", "sim"].contains(&file.module());
    let writes = ["wire", "observe", "control", "sim", "cli", "main"].contains(&file.module());
    let mut offences = Vec::new();
    for path in paths(&file.code) {
        let parts = path.parts();
        let ends = |start: &str| parts.len() > 1 && parts[parts.len() - 1].starts_with(start);
        let format = ["serde_json", "toml"].contains(&parts[0]);
        if !reads && (parts.iter().any(|part| part.starts_with("Deserialize")) || format && ends("from_")) {
            offences.push((path.line, format!("`{path}`: input is read in config/raw, wire and sim alone")));
        }
        if !writes
            && (parts.iter().any(|part| part.starts_with("Serialize")) || format && (ends("to_") || ends("json")))
        {
            offences.push((path.line, format!("`{path}`: output is written in wire, observe, control and sim alone")));
        }
    }
    offences
}

/// `mod.rs` holds doc, list and re-exports. `config/mod.rs` holds the checked types, whose secrets need a `fmt`.
fn mod_rs_holds_no_logic(file: &File) -> Vec<(usize, String)> {
    if !file.path.ends_with("/mod.rs") {
        return Vec::new();
    }
    let tokens = tokens(&file.code);
    let functions = tokens.windows(2).filter(|two| two[0].text == "fn" && two[1].text.starts_with(char::is_alphabetic));
    let offending = functions.filter(|two| !(file.path == "src/config/mod.rs" && two[1].text == "fmt"));
    offending.map(|two| (two[0].line, format!("fn {} in a mod.rs", two[1].text))).collect()
}

/// No file is over 600 lines without its tests.
fn files_are_short(file: &File) -> Vec<(usize, String)> {
    const LINES_MAX: usize = 600;
    let lines = file.code.trim_end().lines().count();
    if lines > LINES_MAX { vec![(lines, format!("{lines} lines of code, at most {LINES_MAX}"))] } else { Vec::new() }
}

/// No test is switched off, nothing is left to do, nothing printed for debugging; also in tests.
fn nothing_is_left_undone(file: &File) -> Vec<(usize, String)> {
    let tokens = tokens(&file.with_tests);
    let mut offences = Vec::new();
    for three in tokens.windows(3) {
        let undone = ["todo", "unimplemented", "dbg"].contains(&three[0].text.as_str()) && three[1].text == "!";
        let ignored = three[0].text == "#" && three[1].text == "[" && three[2].text == "ignore";
        if undone || ignored {
            offences.push((three[0].line, three.iter().map(|token| token.text.as_str()).collect()));
        }
    }
    offences
}

/// No path of somebody's machine stands in a file, be it text or comment.
fn no_machine_is_named(file: &File) -> Vec<(usize, String)> {
    // Put together here, so that this file does not name them itself.
    let needles = ["work", "root"].map(|folder| format!("/{folder}/"));
    // Only where a path begins: `example.com/work/` is no place on a machine.
    let begins = |line: &str, needle: &str| {
        line.match_indices(needle)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}".contains(c)))
    };
    let offends = |line: &str| needles.iter().any(|needle| begins(line, needle));
    let lines = file.raw.lines().enumerate().filter(|(_, line)| offends(line));
    lines.map(|(n, line)| (n + 1, line.trim().chars().take(100).collect())).collect()
}

/// Every tracked file, or, where there is no git, every file below the folders that hold our sources.
fn tracked_files() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = git.output().ok().filter(|output| output.status.success());
    let mut files: Vec<String> = match listed {
        Some(output) => String::from_utf8_lossy(&output.stdout).split('\0').map(str::to_owned).collect(),
        None => ["src", "tests", "benches", "conf", "geoip"].iter().flat_map(|folder| below(root, folder)).collect(),
    };
    files.retain(|file| root.join(file).is_file());
    files.sort();
    files
}

fn below(root: &Path, folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return Vec::new() };
    let name = |entry: std::fs::DirEntry| format!("{folder}/{}", entry.file_name().to_string_lossy());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.flatten().map(name).partition(|path| root.join(path).is_dir());
    files.extend(folders.iter().flat_map(|folder| below(root, folder)));
    files
}

fn read(path: &str) -> File {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    File::new(path, &String::from_utf8_lossy(&bytes))
}

/// Whether a file is one of those, or lies in a folder of theirs.
fn is_test_only(path: &str, test_only: &HashSet<String>) -> bool {
    test_only.iter().any(|one| path == one || one.ends_with('/') && path.starts_with(one.as_str()))
}

/// Files that are compiled for tests alone, and folders (`…/`): their `mod` line stands under `#[cfg(test)]`.
fn test_only(sources: &[&File]) -> HashSet<String> {
    let modules = |file: &&File| {
        let folder = match file.path.rsplit_once('/').unwrap() {
            (folder, "mod.rs" | "lib.rs" | "main.rs") => folder.to_owned(),
            _ => file.path.trim_end_matches(".rs").to_owned(),
        };
        let names = file.test_modules();
        names.into_iter().flat_map(move |name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/")])
    };
    sources.iter().flat_map(modules).collect()
}

#[test]
fn the_sources_keep_every_rule() {
    let files: Vec<File> = tracked_files().iter().map(|path| read(path)).collect();
    let (all, rust): (Vec<&File>, _) = (files.iter().collect(), files.iter().filter(|file| file.path.ends_with(".rs")));
    let rust: Vec<&File> = rust.collect();
    let mut sources: Vec<&File> = rust.iter().copied().filter(|file| file.path.starts_with("src/")).collect();
    let test_only = test_only(&sources);
    sources.retain(|file| !is_test_only(&file.path, &test_only));
    assert!(sources.len() > 20, "found only {} source files", sources.len());
    for module in ["domain", "policy", "config", "sim"] {
        assert!(sources.iter().any(|file| file.module() == module), "found nothing of {module}");
    }
    let mut offences = Vec::new();
    for (name, scope, rule) in RULES {
        let files = match scope {
            Scope::Sources => &sources,
            Scope::Rust => &rust,
            Scope::Everything => &all,
        };
        for file in files {
            offences.extend(rule(file).into_iter().map(|(line, what)| format!("{}:{line}: {name}: {what}", file.path)));
        }
    }
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

/// The rule finds the offences in these lines, and in no other.
#[track_caller]
fn check(rule: Rule, path: &str, text: &str, lines: &[usize]) {
    let found: Vec<usize> = rule(&File::new(path, text)).into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, lines, "{path}: {text}");
}

#[test]
fn purity_bites() {
    let rule = decisions_are_pure;
    for text in [
        "let t = Instant::now();",
        "use std::{fmt, time::{Duration, SystemTime}};",
        "let mut r = rand::rng();",
        "use rand::random;",
        "let x: u8 = random();",
        "use std::env;",
        "let h = std::env::var(\"HOME\");",
        "tokio::spawn(async {});",
        "log::info!(\"chosen\");",
        "println!(\"chosen\");",
        "use std::sync::Mutex;",
        "let s = std::collections::hash_map::RandomState::new();",
    ] {
        check(rule, "src/policy/x.rs", text, &[1]);
        check(rule, "src/domain/x.rs", text, &[1]);
        check(rule, "src/proxy/x.rs", text, &[]);
        check(rule, "src/policy/x.rs", &format!("// {text}\n/* {text} */"), &[]);
        check(rule, "src/policy/x.rs", &format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{ {text} }}"), &[]);
    }
    check(rule, "src/policy/x.rs", "let (x, now): (f64, Instant) = (rng.random::<f64>(), now);", &[]);
    check(rule, "src/policy/x.rs", "let s = \"Instant::now()\"; let c = '\"'; let t = Instant::now();\n", &[1]);
}

#[test]
fn the_network_is_known_to_few() {
    let rule = few_know_the_network;
    for path in ["src/wire/sse.rs", "src/roster/mod.rs", "src/config/check.rs", "src/policy/x.rs", "src/lib.rs"] {
        check(rule, path, "\nuse pingora::server::Server;", &[2]);
        check(rule, path, "use tokio::{net::TcpStream, time};", &[1]);
        check(rule, path, "let s = std::net::TcpListener::bind(a);", &[1]);
        check(rule, path, "use std::net::{IpAddr, SocketAddr};", &[]);
    }
    check(rule, "src/sim/server.rs", "use tokio::net::TcpListener;", &[]);
    check(rule, "src/sim/server.rs", "use pingora_core::apps::HttpServerApp;", &[1]);
    check(rule, "src/proxy/serve.rs", "use pingora::apps::HttpServerApp; use tokio::net::TcpStream;", &[]);
}

#[test]
fn imports_upward_are_found() {
    let rule = imports_point_down;
    for (path, text, lines) in [
        ("src/domain/ids.rs", "use crate::policy::pool;", &[1][..]),
        ("src/domain/ids.rs", "use super::topology::Topology;", &[]),
        ("src/domain/ids.rs", "use super::super::policy::pool;", &[1]),
        ("src/domain/mod.rs", "use super::policy::pool;", &[1]),
        ("src/policy/pool.rs", "use crate::domain::ids::PoolIx;\nuse super::replica;", &[]),
        ("src/policy/pool.rs", "use crate::{\n    domain::ids::PoolIx,\n    config::{Config, Secret},\n};", &[3, 3]),
        ("src/policy/pool.rs", "fn f(c: &crate::roster::Roster) {}", &[1]),
        ("src/policy/x/y.rs", "use super::super::load; use super::super::super::wire::sse;", &[1]),
        ("src/config/check.rs", "use crate::policy::retry; use crate::wire::sse;", &[1]),
        ("src/wire/sse.rs", "use crate::observe::metrics;", &[1]),
        ("src/observe/metrics.rs", "use crate::config::Config; use crate::roster::Roster;", &[]),
        ("src/roster/mod.rs", "use crate::observe::metrics; use crate::config::Config;", &[1]),
        ("src/roster/mod.rs", "use crate::proxy::serve;", &[1]),
        ("src/proxy/serve.rs", "use crate::control::probe;", &[1]),
        ("src/control/probe.rs", "use crate::proxy::serve;", &[1]),
        ("src/proxy/serve.rs", "use crate::roster::Roster; use crate::wire::sse;", &[]),
        ("src/proxy/serve.rs", "use crate::sim::engine;", &[1]),
        ("src/sim/engine.rs", "use crate::domain::place::Place;", &[1]),
        ("src/sim/engine.rs", "use nearpool::domain::place::Place;", &[1]),
        ("src/sim/engine.rs", "use super::kv_cache; use crate::sim::preset;", &[]),
        ("src/main.rs", "use nearpool::{proxy, control, sim};", &[]),
        ("src/proxy/serve.rs", "use crate::*;", &[1]),
        ("src/policy/mod.rs", "use super::*;", &[1]),
        ("src/policy/pool.rs", "use super::*; pub(crate) fn f() {}", &[]),
        ("src/helpers/mod.rs", "", &[1]),
    ] {
        check(rule, path, text, lines);
    }
}

#[test]
fn serialisation_elsewhere_is_found() {
    let rule = serialisation_has_its_places;
    let reads = [
        "#[derive(Clone, Deserialize)]",
        "use serde::de::DeserializeOwned;",
        "serde_json::from_slice(b)",
        "toml::from_str(s)",
    ];
    for text in reads {
        check(rule, "src/config/check.rs", text, &[1]);
        check(rule, "src/observe/trace.rs", text, &[1]);
        check(rule, "src/config/raw.rs", text, &[]);
        check(rule, "src/config/raw_pools.rs", text, &[]);
        check(rule, "src/wire/openai.rs", text, &[]);
    }
    for text in ["#[derive(serde::Serialize)]", "serde_json::to_vec(&v)", "serde_json::json!({})"] {
        check(rule, "src/proxy/reply.rs", text, &[1]);
        check(rule, "src/config/raw.rs", text, &[1]);
        check(rule, "src/control/admin.rs", text, &[]);
    }
}

#[test]
fn logic_in_a_mod_rs_is_found() {
    check(mod_rs_holds_no_logic, "src/wire/mod.rs", "//! Doc.\npub mod sse;\npub fn helper() {}", &[3]);
    check(mod_rs_holds_no_logic, "src/wire/mod.rs", "pub mod sse;\npub type F = fn(u8) -> u8;", &[]);
    check(mod_rs_holds_no_logic, "src/wire/sse.rs", "pub fn helper() {}", &[]);
    check(mod_rs_holds_no_logic, "src/config/mod.rs", "fn fmt(&self) {}\nfn load() {}", &[2]);
}

#[test]
fn long_files_are_found_and_tests_do_not_count() {
    let long = "fn f() {}\n".repeat(601);
    check(files_are_short, "src/wire/sse.rs", &long, &[601]);
    check(files_are_short, "src/wire/sse.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}}}\n"), &[]);
}

#[test]
fn what_is_left_undone_is_found_also_in_tests() {
    for text in ["#[ignore]", "#[ignore = \"slow\"]", "todo!()", "unimplemented!(\"later\")", "dbg!(x)"] {
        check(nothing_is_left_undone, "src/x.rs", &format!("{text} fn f() {{}}"), &[1]);
        check(
            nothing_is_left_undone,
            "tests/x.rs",
            &format!("#[cfg(test)]\nmod tests {{\n    {text} fn f() {{}}\n}}"),
            &[3],
        );
    }
    check(nothing_is_left_undone, "src/x.rs", "// todo!()\nlet todo = ignore; let s = \"dbg!\";", &[]);
}

#[test]
fn paths_of_a_machine_are_found() {
    let path = |folder: &str| format!("let p = \"/{folder}/nearpool\";");
    for folder in ["work", "root"] {
        check(no_machine_is_named, "conf/edge.toml", &path(folder), &[1]);
        check(no_machine_is_named, "README.md", &format!("ok\n/{folder}/x"), &[2]);
        check(no_machine_is_named, "README.md", &format!("https://example.com/{folder}/x"), &[]);
    }
    check(no_machine_is_named, "README.md", &path("etc"), &[]);
}

#[test]
fn a_test_only_module_is_known_by_its_declaration() {
    let declared = File::new("src/policy/mod.rs", "mod load;\n#[cfg(test)]\nmod testing;\n");
    let leaf = File::new("src/sim/engine.rs", "#[cfg(test)]\npub(crate) mod tests;\n");
    let found = test_only(&[&declared, &leaf]);
    assert!(found.contains("src/policy/testing.rs") && found.contains("src/sim/engine/tests.rs"));
    assert!(!found.contains("src/policy/load.rs"));
}
