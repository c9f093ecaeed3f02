//! What a person at the command line meets.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Edge, EdgeConfig, Http1, Pool, chat, own_address, post, sim};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("nearpool-cli-{}-{}", std::process::id(), own_address()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, text: &str) -> String {
        let path = self.0.join("edge.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn nearpool(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearpool"));
    command.args(arguments).env("NEARPOOL_IT_TOKEN", "t").env_remove("RUST_LOG").output().unwrap()
}

/// It fails with this code, says this on stderr, and nothing on stdout. Returns stderr.
#[track_caller]
fn fails(arguments: &[&str], code: i32, says: &[&str]) -> String {
    let output = nearpool(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    for text in says {
        assert!(stderr.contains(text), "no '{text}' in: {stderr}");
    }
    assert!(output.stdout.is_empty() && !stderr.contains("panicked"), "{stderr}");
    stderr
}

fn good(name: &str) -> String {
    let far = Pool::new("far", "there", "m").replica("b", "http://127.0.0.1:1002");
    let near = Pool::new("near", "here", "m").replica("a", "http://127.0.0.1:1001");
    let config = EdgeConfig::new().named(name).region("there", 53.35, -6.26).pool(near).pool(far).step("planner", "m");
    config.toml(own_address())
}

#[test]
fn a_config_that_is_missing_or_broken_is_told_with_its_place() {
    let folder = Folder::new();
    let explain = ["--ip", "127.0.0.1", "--model", "m"];
    for (command, more) in [("run", &[][..]), ("check", &[]), ("explain", &explain)] {
        let fails = |file: &str, says: &[&str]| fails(&[&[command, "--config", file], more].concat(), 2, says);
        fails("/nowhere/edge.toml", &["/nowhere/edge.toml"]);
        let broken = folder.file(&good("it").replace("region = \"here\"", "region = \"her\""));
        let said = fails(&broken, &["edge.toml:3:", "^", "here"]);
        assert!(said.lines().count() < 40, "{said}");
        fails(folder.0.to_str().unwrap(), &["nearpool-cli"]);
        // What the config refers to is part of it.
        let no_database = folder.file(&good("it").replace("tests/data/mini-city.mmdb", "Cargo.toml"));
        assert_eq!(fails(&no_database, &["GeoIP", "Cargo.toml"]).lines().count(), 1);
    }
    for command in ["run", "check"] {
        let tls =
            format!("\n[edge.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = {0:?}\nkey = {0:?}\n", folder.file(""));
        fails(&[command, "--config", &folder.file(&(good("it") + &tls))], 2, &["edge.toml", "certificate"]);
    }
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let folder = Folder::new();
    let taken = TcpListener::bind((own_address(), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let text = good("it");
    let listen = text.lines().find(|line| line.starts_with("listen")).unwrap().to_owned();
    let file = folder.file(&text.replace(&listen, &format!("listen = [\"{address}\"]")));
    let told = format!("cannot listen at {address} (edge.listen)");
    let said = fails(&["run", "--config", &file], 1, &[&told, "in use", "--upgrade"]);
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    // All of them are told at once.
    let also_taken = TcpListener::bind((own_address(), 0)).unwrap();
    let other = also_taken.local_addr().unwrap();
    let lines = format!("listen = [\"{address}\", \"{other}\", \"192.0.2.1:80\"]");
    let file = folder.file(&text.replace(&listen, &lines));
    fails(&["run", "--config", &file], 1, &[&told, &other.to_string(), "192.0.2.1:80", "no such address"]);
}

#[test]
fn unknown_words_are_told_with_the_known_ones() {
    fails(&["serve"], 2, &["unrecognized subcommand 'serve'"]);
    fails(&["run"], 2, &["--config <FILE>"]);
    fails(&["run", "--confg", "x"], 2, &["--confg", "--config"]);
    fails(&[], 2, &["run", "check", "explain", "simulate"]);
    let help = nearpool(&["--help"]);
    assert!(help.status.success() && !help.stdout.is_empty());
}

#[test]
fn a_good_config_is_told_so_in_one_line() {
    let folder = Folder::new();
    let file = folder.file(&good("it"));
    let output = nearpool(&["check", "--config", &file]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(said.contains(": ok (2 regions, 2 pools, 2 replicas, 1 model;") && said.lines().count() == 1, "{said}");
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/edge.toml");
    assert_eq!(nearpool(&["check", "--config", reference]).status.code(), Some(0));
}

#[test]
fn explain_says_where_a_call_would_go() {
    let folder = Folder::new();
    let file = folder.file(&good("it"));
    let ask = |more: &[&str]| nearpool(&[&["explain", "--config", &file], more].concat());
    let text = ask(&["--ip", "127.0.0.1", "--model", "m", "--session", "s"]);
    let said = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.status.code(), Some(0));
    for part in ["client   127.0.0.1", "near ", "far ", "pick     a in near (new)"] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    let json = ask(&["--ip", "::1", "--model", "planner", "--json"]);
    let said: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&said["model"], &said["step"]), (&"m".into(), &"planner".into()));
    assert_eq!((&said["pick"]["pool"], &said["pools"][1]["pool"]), (&"near".into(), &"far".into()));
    fails(&["explain", "--config", &file, "--ip", "127.0.0.1", "--model", "gpt"], 1, &["gpt", "known names", "m"]);
    fails(&["explain", "--config", &file, "--ip", "here", "--model", "m"], 2, &["--ip"]);
    fails(&["explain", "--config", &file, "--ip", "::1", "--model", "m", "--dialect", "x"], 2, &["known are", "chat"]);
}

#[test]
fn explain_leaves_out_no_region_and_counts_addresses_of_a_file() {
    let folder = Folder::new();
    // Ireland has only the fallback's pool, and Tokyo none at all.
    let file = folder.file(
        r#"
        [edge]
        name = "e"
        region = "here"
        listen = ["127.0.0.1:0"]
        [regions]
        here = { latitude = 37.34, longitude = -121.89 }
        ireland = { latitude = 53.35, longitude = -6.26 }
        tokyo = { latitude = 35.68, longitude = 139.69 }
        [geo]
        database = "tests/data/mini-city.mmdb"
        [models.m]
        fallbacks = ["small"]
        [models.small]
        [[pools]]
        name = "near"
        region = "here"
        model = "m"
        engine = "vllm"
        replicas = ["http://127.0.0.1:9"]
        [[pools]]
        name = "irish"
        region = "ireland"
        model = "small"
        engine = "vllm"
        replicas = ["http://127.0.0.1:10"]
        [[pools]]
        name = "japanese"
        region = "tokyo"
        model = "small"
        engine = "sglang"
        replicas = ["http://127.0.0.1:11"]
        "#,
    );
    let ask = |more: &[&str]| -> Value {
        let model: &[&str] = if more.contains(&"--model") { &[] } else { &["--model", "m"] };
        let told = nearpool(&[&["explain", "--config", &file, "--json"], model, more].concat());
        serde_json::from_slice(&told.stdout).unwrap()
    };
    let said = ask(&["--ip", "127.3.0.1"]);
    let regions: Vec<_> =
        said["regions"].as_array().unwrap().iter().map(|row| (&row["region"], &row["verdict"])).collect();
    let none = Value::from("left out: no pool of the model");
    assert_eq!(regions, [(&"here".into(), &"1st".into()), (&"ireland".into(), &none), (&"tokyo".into(), &none)]);
    assert_eq!(said["country"], "IE");
    let said = ask(&["--ip", "127.3.0.1", "--model", "small", "--dialect", "messages"]);
    let verdict = |at: usize| said["regions"][at]["verdict"].as_str().unwrap();
    assert_eq!(verdict(0), "1st");
    let others = [verdict(1), verdict(2)];
    assert!(others.contains(&"left out: no pool of the model serves messages"), "{said}");
    assert!(others.contains(&"left out: no pool of the model"), "{said}");
    let told = nearpool(&["explain", "--config", &file, "--ip", "127.3.0.1", "--model", "auto", "--step", "planer"]);
    let error = String::from_utf8(told.stderr).unwrap();
    assert!(error.contains("the model 'auto' needs steps, and none are configured in [steps]"), "{error}");
    let other = Folder::new();
    let list = other.file("127.3.0.1\n# nobody\nfoo\n{\"client\":\"127.6.0.1\"}\n");
    let said = ask(&["--from-log", &list]);
    assert_eq!((&said["calls"], &said["bad_lines"], &said["regions"][0]["calls"]), (&2.into(), &1.into(), &2.into()));
}

#[test]
fn no_threads_are_no_edge() {
    for threads in ["0", "1025", "all"] {
        let told = nearpool(&["run", "--config", "conf/edge.toml", "--threads", threads]);
        assert_eq!(told.status.code(), Some(2), "{threads}");
        assert!(String::from_utf8(told.stderr).unwrap().contains("--threads"), "{threads}");
    }
}

#[tokio::test]
async fn an_edge_without_an_admin_listener_serves() {
    use crate::support::{Http1, request, soon};
    let folder = Folder::new();
    let at = own_address();
    let text = EdgeConfig::new().pool(Pool::new("near", "here", "m").replica("a", "http://127.0.0.1:1")).toml(at);
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("admin")).collect();
    let file = folder.file(&text.join("\n"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_nearpool"))
        .args(["run", "--config", &file])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = soon(async {
        loop {
            match tokio::net::TcpStream::connect((at, 8080)).await {
                Ok(stream) => return Http1::over(stream),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let answer = client.call(&request("GET", "/health", &[], b"")).await;
    let admin = tokio::net::TcpStream::connect((at, 9901)).await;
    let _ = child.kill();
    let _ = child.wait();
    assert!(answer.status == 200 && admin.is_err());
}

#[tokio::test]
async fn top_prints_a_frame_and_says_where_no_edge_is() {
    let (a, b) = (sim("a").await, sim("b").await);
    let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
    let mut client = Http1::connect(edge.agents()).await;
    assert_eq!(client.call(&post("/v1/chat/completions", &chat("Hello", 3))).await.status, 200);
    edge.wait_for_logs(1, |_| true).await;
    let admin = edge.admin().to_string();
    let once = nearpool(&["top", "--admin", &admin, "--once"]);
    assert!(once.status.success(), "{once:?}");
    let frame = String::from_utf8(once.stdout).unwrap();
    for text in ["it  ready", "calls 1  errors 0 (0.00%)", "▾ near", "2/2 up", "Last failovers", "none"] {
        assert!(frame.contains(text), "{text}\n{frame}");
    }
    assert!(!frame.contains('\u{1b}'), "plain text: {frame:?}");
    // A pipe is no terminal.
    let piped = nearpool(&["top", "--admin", &admin]);
    assert!(piped.status.success() && String::from_utf8_lossy(&piped.stdout).contains("▾ near"), "{piped:?}");
    assert!(String::from_utf8_lossy(&piped.stderr).contains("--once"), "{piped:?}");
    drop(edge);
    fails(&["top", "--admin", &admin, "--once"], 1, &["no edge tells its status at", &admin, "edge.admin"]);
    fails(&["top", "--admin", "here"], 2, &["--admin"]);
}
