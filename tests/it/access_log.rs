//! The access log in a file: it rotates, goes on when its folder comes back, and changes place with a reload.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Edge, EdgeConfig, Http1, chat, own_address, post, sim};

const DROPPED: &str = "nearpool_access_log_dropped_total";

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn call(edge: &Edge) {
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &chat("Hello", 1))).await;
    assert_eq!(client.answer().await.status, 200);
}

/// An edge that logs to `access.log` in this folder of its own.
async fn edge_with_log(config: EdgeConfig) -> (Edge, PathBuf) {
    let at = own_address();
    let folder = Edge::folder_of(at).join("log");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("access.log");
    let config = config.set("access_log", "file", &format!("{file:?}"));
    (Edge::start_at(at, config).await, file)
}

#[tokio::test]
async fn a_line_in_the_file_says_all_of_a_call() {
    let replica = sim("a").await;
    let (edge, file) = edge_with_log(EdgeConfig::of(&[&replica])).await;
    call(&edge).await;
    edge.wait_until(|| !lines(&file).is_empty()).await;
    let line = &lines(&file)[0];
    for (field, expected) in [
        ("edge", "it"),
        ("outcome", "ok"),
        ("blame", "none"),
        ("region", "here"),
        ("pool", "near"),
        ("replica", "a"),
        ("model", "m"),
        ("reason", "new"),
    ] {
        assert_eq!(line[field], expected, "{line}");
    }
    assert_eq!((&line["attempts"], &line["tokens"]["completion"]), (&1.into(), &1.into()));
    assert!(line["request_id"].as_str().is_some_and(|id| !id.is_empty()));
    for station in ["receive", "overhead", "total"] {
        assert!(line["ms"][station].as_f64().is_some_and(|ms| ms > 0.0), "{station} in {line}");
    }
    assert!(edge.log().is_empty(), "nothing on standard output: {:?}", edge.log());
}

#[tokio::test]
async fn full_files_are_set_aside_and_no_line_is_lost() {
    let replica = sim("a").await;
    let config = EdgeConfig::of(&[&replica]).set("access_log", "rotate_at", "\"64KiB\"").set("access_log", "keep", "9");
    let (edge, file) = edge_with_log(config).await;
    // A line has the model that the client asked for, so that it is long.
    let mut asked = chat("Hello", 1);
    asked["model"] = "x".repeat(250).into();
    let calls = 200;
    let mut client = Http1::connect(edge.agents()).await;
    for _ in 0..calls {
        client.send(&post("/v1/chat/completions", &asked)).await;
        assert_eq!(client.answer().await.status, 404);
    }
    let all = || -> usize {
        let older = (1..=9).map(|n| lines(Path::new(&format!("{}.{n}", file.display()))).len());
        lines(&file).len() + older.sum::<usize>()
    };
    edge.wait_until(|| all() == calls).await;
    assert!(Path::new(&format!("{}.2", file.display())).exists(), "180 KB make three files");
    assert!(fs::metadata(&file).unwrap().len() <= 64 << 10);
    assert_eq!(edge.metric(DROPPED).await, 0.0);
}

#[tokio::test]
async fn service_goes_on_without_the_folder_and_the_log_when_it_is_back() {
    let replica = sim("a").await;
    let (edge, file) = edge_with_log(EdgeConfig::of(&[&replica])).await;
    call(&edge).await;
    edge.wait_until(|| lines(&file).len() == 1).await;
    let folder = file.parent().unwrap();
    let away = folder.with_extension("away");
    fs::rename(folder, &away).unwrap();
    // One call after the other until the edge has looked for its file; none fails.
    while !edge.stderr().contains("access log cannot be written") {
        call(&edge).await;
    }
    fs::rename(&away, folder).unwrap();
    call(&edge).await;
    edge.wait_for_stderr("access log is written again").await;
    let before = lines(&file).len();
    call(&edge).await;
    edge.wait_until(|| lines(&file).len() > before).await;
}

#[tokio::test]
async fn a_reload_moves_the_log_and_refuses_a_place_that_cannot_be_written() {
    let replica = sim("a").await;
    let config = EdgeConfig::of(&[&replica]);
    let (edge, file) = edge_with_log(config.clone()).await;
    call(&edge).await;
    edge.wait_until(|| lines(&file).len() == 1).await;
    let other = file.with_file_name("other.log");
    let to = |file: &Path| config.clone().set("access_log", "file", &format!("{file:?}")).toml(edge.address());
    assert_eq!(edge.reload_with(&to(&other)).await.status, 200);
    call(&edge).await;
    edge.wait_until(|| lines(&file).len() == 1 && lines(&other).len() == 1).await;

    // Its name is longer than a file system takes: only opening it shows that.
    let answer = edge.reload_with(&to(&file.with_file_name("x".repeat(300)))).await;
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 422 && said.contains("cannot write the access log"), "{} {said}", answer.status);
    call(&edge).await;
    edge.wait_until(|| lines(&other).len() == 2).await;

    // A pushed config must not write elsewhere.
    let pushed = edge.admin_write("PUT", "/config", to(&file.with_file_name("third.log")).as_bytes()).await;
    let said = String::from_utf8_lossy(&pushed.body).into_owned();
    assert!(pushed.status == 422 && said.contains("may not introduce a path"), "{} {said}", pushed.status);

    // And back to standard output.
    assert_eq!(edge.reload_with(&config.toml(edge.address())).await.status, 200);
    call(&edge).await;
    edge.wait_for_log(|line| line["status"] == 200).await;
}
