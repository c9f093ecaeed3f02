//! New configuration while the edge runs: what is taken, what is refused, and that no request notices.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    Answer, Edge, EdgeConfig, H2, Http1, Pool, Scripted, TOKEN, chat, json_body, own_address, post, request, sim,
    whole, with,
};

const CHAT: &str = "/v1/chat/completions";
const GOOD_GEO: &[u8] = include_bytes!("../data/mini-city.mmdb");

fn verdicts(source: &str, result: &str) -> String {
    format!("nearpool_config_reloads_total{{result=\"{result}\",source=\"{source}\"}}")
}

/// Puts a file there whole, as editors and `mv` do.
fn replace(path: &Path, bytes: impl AsRef<[u8]>) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, bytes).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// Agents that stream one answer after the other until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    agents: JoinSet<usize>,
}

impl Load {
    fn start(edge: &Edge, http1: usize, h2: usize) -> Load {
        let (stop, mut agents) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let to = edge.agents();
        for n in 0..http1 {
            let stop = Arc::clone(&stop);
            agents.spawn(async move {
                let (mut calls, mut client) = (0, Http1::connect(to).await);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.call(&post(CHAT, &streamed(n))).await;
                    check_stream(&answer);
                    if answer.header("connection") == Some("close") {
                        client = Http1::connect(to).await;
                    }
                    calls += 1;
                }
                calls
            });
        }
        for n in 0..h2 {
            let stop = Arc::clone(&stop);
            agents.spawn(async move {
                let (mut calls, mut client) = (0, H2::connect(to).await);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.send(CHAT, &[], streamed(n).to_string()).await.unwrap();
                    check_stream(&whole(answer).await);
                    calls += 1;
                }
                calls
            });
        }
        Load { stop, agents }
    }

    /// Ends it; every call must have gone well. Returns how many there were.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.agents.join_all().await.into_iter().sum()
    }
}

fn streamed(n: usize) -> Value {
    let text = format!("agent {n}");
    with(chat(&text, 20), json!({"stream": true, "sim": {"tokens": 20, "itl_ms": 10}}))
}

#[track_caller]
fn check_stream(answer: &Answer) {
    let body = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200, "{body}");
    assert!(body.ends_with("data: [DONE]\n\n") && !body.contains("\"error\""), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_nine_configs_of_which_a_third_is_broken_disturb_no_stream() {
    let (a, b) = (sim("a").await, sim("b").await);
    let config = EdgeConfig::of(&[&a, &b]);
    let edge = Edge::start(config.clone()).await;
    let text = |n: u32| config.clone().set("retry", "backoff", &format!("\"{}ms\"", n + 1)).toml(edge.address());
    let load = Load::start(&edge, 6, 2);
    let (mut good, mut bad) = (0.0, 0.0);
    let mut in_force = String::new();
    for n in 0..99 {
        if n % 3 == 2 {
            let broken = match n % 4 {
                0 => text(n).replace("[edge]", "[edgy]"),
                1 => text(n)[..200].to_owned(),
                2 => format!("{}\n[limits]\nbody = {n}", text(n)),
                _ => text(n).replace("region = \"here\"", "region = \"nowhere\""),
            };
            replace(&edge.config_file(), broken);
            bad += 1.0;
            edge.wait_for_metric(&verdicts("file", "refused"), |value| value >= bad).await;
        } else {
            in_force = text(n);
            replace(&edge.config_file(), &in_force);
            good += 1.0;
            edge.wait_for_metric(&verdicts("file", "ok"), |value| value >= good).await;
        }
    }
    let calls = load.end().await;
    assert!(calls >= 8, "{calls} calls");
    assert_eq!(edge.metric(&verdicts("file", "refused")).await, 33.0);
    assert_eq!(edge.metric(&verdicts("file", "ok")).await, 66.0);
    let hash = json_body(&edge.admin_write("PUT", "/config", in_force.as_bytes()).await);
    assert_eq!(hash["changed"], false, "the last good one is in force");
    let (log, stderr) = (edge.log(), edge.stderr());
    assert!(log.iter().all(|line| line["outcome"] == "ok"), "{log:#?}");
    assert_eq!(stderr.matches("config refused").count(), 33);
    assert!(stderr.contains("edge.toml:1:2"), "the log tells where: {stderr}");
}

#[tokio::test]
async fn a_replica_that_a_reload_removes_ends_its_stream_whole() {
    let mut leaving = Scripted::start().await;
    let staying = sim("b").await;
    let config = |pool: Pool| EdgeConfig::new().pool(pool);
    let edge = Edge::start(config(Pool::new("near", "here", "m").replica("a", &leaving.url()))).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &with(chat("hi", 1), json!({"stream": true})))).await;
    let mut exchange = leaving.next().await;
    exchange.begin_stream().await;
    exchange.chunk("data: {\"n\":1}\n\n").await;
    let head = client.head().await;
    assert_eq!(client.chunk().await.unwrap().unwrap().bytes, "data: {\"n\":1}\n\n");
    let new = config(Pool::new("new", "here", "m").sims(&[&staying])).toml(edge.address());
    assert_eq!(edge.reload_with(&new).await.status, 200);
    // The next request goes by the new one already.
    let next = Http1::connect(edge.agents()).await.call(&post(CHAT, &chat("hi", 1))).await;
    assert_eq!((next.status, next.header("x-nearpool-pool")), (200, Some("new")));
    exchange.chunk("data: {\"n\":2}\n\n").await;
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.send("0\r\n\r\n").await;
    let (rest, ended) = client.body(&head).await;
    ended.unwrap();
    assert_eq!(rest, "data: {\"n\":2}\n\ndata: [DONE]\n\n");
    let line = edge.wait_for_log(|line| line["pool"] == "near").await;
    assert_eq!((&line["outcome"], &line["replica"]), (&json!("ok"), &json!("a")));
    // The connection goes on with the new one.
    assert_eq!(client.call(&post(CHAT, &chat("hi", 1))).await.header("x-nearpool-pool"), Some("new"));
}

#[tokio::test]
async fn a_request_that_waits_keeps_the_configuration_it_began_with() {
    let mut replica = Scripted::start().await;
    let pool = || Pool::new("near", "here", "m").replica("a", &replica.url());
    let edge = Edge::start(EdgeConfig::new().pool(pool())).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &chat("hi", 1))).await;
    let named = EdgeConfig::new().named("renamed").set("timeouts", "answer", "\"10ms\"").pool(pool());
    let mut exchange = replica.next().await;
    assert_eq!(edge.reload_with(&named.toml(edge.address())).await.status, 200);
    exchange.answer(200, "", "{}").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("x-nearpool-edge")), (200, Some("it")));
    let next = client.call(&request("GET", "/health", &[], b"")).await;
    assert_eq!(next.header("x-nearpool-edge"), Some("renamed"));
}

#[tokio::test]
async fn a_replaced_geoip_database_is_taken_and_a_broken_one_is_not() {
    let replica = sim("a").await;
    let address = own_address();
    let folder = Edge::folder_of(address);
    std::fs::create_dir_all(folder.join("v1")).unwrap();
    std::fs::create_dir_all(folder.join("v2")).unwrap();
    let file = folder.join("v1/geo.mmdb");
    std::fs::write(&file, GOOD_GEO).unwrap();
    symlink("v1/geo.mmdb", folder.join("geo.mmdb")).unwrap();
    let database = format!("{:?}", folder.join("geo.mmdb"));
    let edge = Edge::start_at(address, EdgeConfig::of(&[&replica]).set("geo", "database", &database)).await;
    let load = Load::start(&edge, 2, 0);
    let verdict = async |result: &str, count: f64| {
        edge.wait_for_metric(&verdicts("geo", result), |value| value >= count).await;
    };
    // In place, broken; renamed over it, good; truncated to nothing; good again through another link.
    std::fs::write(&file, b"broken").unwrap();
    verdict("refused", 1.0).await;
    replace(&file, GOOD_GEO);
    verdict("ok", 1.0).await;
    replace(&file, b"");
    verdict("refused", 2.0).await;
    std::fs::write(folder.join("v2/geo.mmdb"), GOOD_GEO).unwrap();
    symlink("v2/geo.mmdb", folder.join("next")).unwrap();
    std::fs::rename(folder.join("next"), folder.join("geo.mmdb")).unwrap();
    verdict("ok", 2.0).await;
    std::fs::remove_file(folder.join("v2/geo.mmdb")).unwrap();
    verdict("refused", 3.0).await;
    assert!(load.end().await >= 2);
    assert_eq!(edge.metric("nearpool_geo_lookups_total{result=\"error\"}").await, 0.0);
}

#[tokio::test]
async fn a_hangup_reads_the_file_again() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    edge.signal("HUP");
    edge.wait_for_metric(&verdicts("signal", "ok"), |value| value == 1.0).await;
    std::fs::write(edge.config_file(), "nonsense").unwrap();
    edge.signal("HUP");
    edge.wait_for_metric(&verdicts("signal", "refused"), |value| value == 1.0).await;
    assert_eq!(Http1::connect(edge.agents()).await.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
}

#[tokio::test]
async fn a_swapped_link_to_the_config_is_a_new_config() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let config = edge.config_file();
    let real = edge.folder().join("..data");
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("edge.toml"), EdgeConfig::of(&[&replica]).named("linked").toml(edge.address())).unwrap();
    symlink("..data/edge.toml", edge.folder().join("link")).unwrap();
    std::fs::rename(edge.folder().join("link"), &config).unwrap();
    edge.wait_for_metric(&verdicts("file", "ok"), |value| value == 1.0).await;
    let answer = Http1::connect(edge.agents()).await.call(&request("GET", "/health", &[], b"")).await;
    assert_eq!(answer.header("x-nearpool-edge"), Some("linked"));
}

async fn write(edge: &Edge, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
    let token = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    Http1::connect(edge.admin()).await.call(&request(method, path, &headers, body.as_bytes())).await
}

#[tokio::test]
async fn a_pushed_config_needs_the_token_and_is_on_disk_before_it_is_in_force() {
    let replica = sim("a").await;
    let config = EdgeConfig::of(&[&replica]);
    let edge = Edge::start(config.clone()).await;
    let on_disk = || std::fs::read_to_string(edge.config_file()).unwrap();
    let (old, new) = (on_disk(), config.clone().named("pushed").toml(edge.address()));
    for token in [None, Some("wrong"), Some("")] {
        for (method, path) in [("PUT", "/config"), ("POST", "/reload")] {
            let answer = write(&edge, method, path, token, &new).await;
            assert_eq!(answer.status, 401, "{method} {path} {token:?}");
        }
    }
    assert_eq!(on_disk(), old);
    let answer = write(&edge, "PUT", "/config", Some(TOKEN), &new).await;
    assert_eq!((answer.status, &json_body(&answer)["changed"]), (200, &json!(true)));
    let hash = json_body(&answer)["hash"].as_str().unwrap().to_owned();
    assert_eq!(edge.metric(&format!("nearpool_config_info{{hash=\"{hash}\"}}")).await, 1.0);
    assert_eq!(on_disk(), new);
    let answer = Http1::connect(edge.agents()).await.call(&request("GET", "/health", &[], b"")).await;
    assert_eq!(answer.header("x-nearpool-edge"), Some("pushed"));
    // The watcher sees the file change and says nothing: it has been judged.
    assert_eq!(json_body(&edge.admin_write("POST", "/reload", b"").await)["changed"], false);

    // What it may not say: every error at once, and nothing is written.
    let at = edge.address();
    let pool = Pool::new("far", "here", "m").replica("x", "http://127.0.0.1:1");
    let secret = config.clone().pool(pool.line("api_key = { env = \"PATH\" }"));
    let database = config.clone().set("geo", "database", "\"/etc/passwd\"");
    let metadata = config.clone().pool(Pool::new("far", "here", "m").replica("x", "http://169.254.169.254:80"));
    let certificate = config.clone().tls("/etc/hostname", "/etc/hostname");
    for (name, text, says) in [
        ("nonsense", "nonsense".to_owned(), ""),
        ("a wrong region", new.replace("region = \"here\"", "region = \"there\""), "there"),
        ("another's secret", secret.toml(at), "may not introduce a secret"),
        ("another's file", database.toml(at), "may not introduce"),
        ("a link-local address", metadata.toml(at), "link-local"),
        ("a certificate", certificate.toml(at), ""),
        ("another listener", new.replace(":8080", ":8081"), "needs a restart"),
        ("another admin", new.replace(":9901", ":9902"), "needs a restart"),
    ] {
        let answer = write(&edge, "PUT", "/config", Some(TOKEN), &text).await;
        let body = json_body(&answer);
        assert_eq!(answer.status, 422, "{name}: {body}");
        let errors = body["errors"].as_array().unwrap();
        assert!(!errors.is_empty() && body.to_string().contains(says), "{name}: {body}");
        assert!(!body.to_string().contains("root:"), "{name}: {body}");
        assert_eq!(on_disk(), new, "{name}");
    }
    let errors = json_body(&write(&edge, "PUT", "/config", Some(TOKEN), "x = 1\ny = 2\n").await);
    assert!(errors["errors"].as_array().unwrap().iter().any(|error| error["line"] == 1), "{errors}");
    assert_eq!(write(&edge, "PUT", "/config", Some(TOKEN), &"#".repeat(2 << 20)).await.status, 413);
    assert_eq!(edge.metric(&verdicts("push", "ok")).await, 1.0);
    assert_eq!(edge.metric(&verdicts("push", "refused")).await, 9.0);
}

#[tokio::test]
async fn without_a_token_in_the_config_nothing_can_be_pushed() {
    let replica = sim("a").await;
    let address: Ipv4Addr = own_address();
    let text = EdgeConfig::of(&[&replica]).toml(address);
    let text: String =
        text.lines().filter(|line| !line.starts_with("admin_token")).map(|line| format!("{line}\n")).collect();
    let edge = Edge::start_with_text(address, &text).await;
    for token in [None, Some(""), Some(TOKEN)] {
        for (method, path) in [("PUT", "/config"), ("POST", "/reload")] {
            let answer = write(&edge, method, path, token, &text).await;
            assert_eq!(answer.status, 403, "{method} {path} {token:?}");
            assert!(String::from_utf8_lossy(&answer.body).contains("admin_token"));
        }
    }
}

#[tokio::test]
async fn a_file_with_another_listener_is_refused_with_needs_a_restart() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let old = std::fs::read_to_string(edge.config_file()).unwrap();
    for (from, to, key) in [(":8080", ":8081", "edge.listen"), (":9901", ":9902", "edge.admin")] {
        let answer = edge.reload_with(&old.replace(from, to)).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 422, "{said}");
        assert!(said.contains("needs a restart") && said.contains(key), "{said}");
    }
    assert_eq!(edge.reload_with(&old).await.status, 200);
}
