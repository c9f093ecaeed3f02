use std::fs;

use pingora::apps::ServerApp;
use pingora::protocols::l4::stream::Stream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::config::FILE_BYTES_MAX;
use crate::control::testing::World;
use crate::wire::geoip::metadata::STALE_DAYS;

const TOKEN: &str = r#"admin_token = { env = "TOKEN" }"#;

struct Served {
    world: World,
    at: std::net::SocketAddr,
    shutdown: watch::Sender<bool>,
}

async fn serve(edge: &str) -> Served {
    let world = World::new(edge);
    let admin = Arc::new(Admin::new(Parts {
        roster: Arc::clone(&world.roster),
        reloader: Arc::clone(&world.reloader),
        metrics: Arc::clone(&world.metrics),
        registry: world.registry.clone(),
        access_log: Arc::new(AccessLog::off(world.metrics.log_dropped())),
        feed: Arc::new(Feed::new(Instant::now())),
        started: Instant::now(),
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (end, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (admin, shutdown) = (Arc::clone(&admin), shutdown.clone());
            tokio::spawn(async move { admin.process_new(Box::new(Stream::from(stream)), &shutdown).await });
        }
    });
    Served { world, at, shutdown: end }
}

/// An answer as it came over the wire.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    #[track_caller]
    fn check(&self, status: u16, in_head: &str, in_body: &str) {
        assert_eq!(self.status, status, "{}{}", self.head, self.body);
        assert!(self.head.to_lowercase().contains(in_head), "{}", self.head);
        assert!(self.body.contains(in_body), "{}", self.body);
    }
}

impl Served {
    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{length}{headers}\r\n");
        self.raw(&(head + body)).await
    }

    async fn raw(&self, request: &str) -> Reply {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {reply:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: format!("{head}\r\n"), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "").await
    }
}

const RIGHT: &str = "Authorization: Bearer s3cret\r\n";

#[tokio::test]
async fn reading_needs_no_token_and_head_is_get_without_a_body() {
    let edge = serve("").await;
    edge.get("/healthz").await.check(200, "content-type: text/plain", "ok");
    edge.get("/metrics").await.check(200, "version=0.0.4", r#"nearpool_replica_up{pool="pool",replica="r0"} 1"#);
    edge.get("/").await.check(200, "content-security-policy: default-src 'none'", "/status");
    let (get, head) = (edge.get("/").await, edge.send("HEAD", "/", "", "").await);
    let length = format!("content-length: {}\r\n", get.body.len());
    get.check(200, &length, "");
    head.check(200, &length, "");
    assert_eq!(head.body, "");
}

#[tokio::test]
async fn ready_follows_draining_the_listeners_and_the_replicas() {
    let edge = serve("").await;
    assert_eq!(edge.get("/readyz").await.json()["ready"], true);
    let snapshot = edge.world.roster.snapshot();
    let (_, live) = snapshot.replicas().next().unwrap();
    let checked = |passed: bool| {
        let (thresholds, breaker) = (snapshot.config.health.thresholds, snapshot.config.circuit_breaker);
        live.checked(passed, thresholds, breaker, std::time::Instant::now());
    };
    // One failed check says more than none; one after others that passed says little.
    for (passed, status) in [(false, 503), (true, 200), (false, 200), (false, 503), (true, 503), (true, 200)] {
        checked(passed);
        edge.get("/readyz").await.check(status, "", if status == 200 { "" } else { "no replica can serve" });
    }
    let missing = &edge.world.roster.missing_listeners;
    missing.store(1, std::sync::atomic::Ordering::Relaxed);
    edge.get("/readyz").await.check(503, "", "nobody listens at an address");
    missing.store(0, std::sync::atomic::Ordering::Relaxed);
    edge.get("/readyz").await.check(200, "", "");
    edge.world.roster.start_draining();
    edge.get("/readyz").await.check(503, "", "draining");
    edge.get("/healthz").await.check(200, "", "ok");
}

#[tokio::test]
async fn status_tells_how_things_stand() {
    let edge = serve("").await;
    edge.world.reloader.reload(ReloadSource::Signal).unwrap();
    let status = edge.get("/status").await.json();
    assert_eq!(status["edge"], "edge-1");
    assert_eq!(status["config_hash"], edge.world.roster.snapshot().config.hash);
    assert_eq!(status["reloads"][0]["source"], "signal");
    assert_eq!(status["geo"]["source"], "embedded");
    assert!(status["geo"]["built"].as_str().unwrap().starts_with("20"), "{status}");
    // However old it is today.
    let age_days = status["geo"]["age_days"].as_u64().unwrap();
    assert_eq!(status["geo"]["stale"], age_days >= STALE_DAYS, "{status}");
    assert!(status["geo"]["kind"] == "Nearpool-City" && status["geo"]["bytes"].as_u64() > Some(500_000), "{status}");
    let replica = &status["regions"][0]["pools"][0]["replicas"][0];
    assert_eq!((&replica["name"], &replica["standing"]), (&"r0".into(), &"usable".into()));
    assert!(!status.to_string().contains("127.0.0.1"), "names, never addresses: {status}");
}

#[tokio::test]
async fn what_is_not_there_is_404_and_a_wrong_method_405() {
    let edge = serve("").await;
    edge.get("/nope").await.check(404, "application/json", "not_found");
    edge.get("/status/").await.check(404, "", "not_found");
    edge.send("POST", "/metrics", "", "").await.check(405, "allow: get, head\r\n", "method_not_allowed");
    edge.get("/reload").await.check(405, "allow: post\r\n", "");
    edge.send("POST", "/config", "", "x").await.check(405, "allow: put\r\n", "");
}

#[tokio::test]
async fn writes_without_a_configured_token_are_refused_with_the_key_to_set() {
    let edge = serve("").await;
    for (method, path) in [("POST", "/reload"), ("PUT", "/config")] {
        edge.send(method, path, RIGHT, "").await.check(403, "", "edge.admin_token");
    }
}

#[tokio::test]
async fn writes_need_the_token() {
    let edge = serve(TOKEN).await;
    let text = edge.world.text(&[1, 2], TOKEN);
    for headers in ["", "Authorization: Bearer wrong\r\n", "Authorization: s3cret\r\n"] {
        edge.send("PUT", "/config", headers, &text).await.check(401, "www-authenticate: bearer", "unauthorized");
    }
    let long = "#".repeat(FILE_BYTES_MAX / 2);
    edge.send("PUT", "/config", "", &long).await.check(401, "", "unauthorized");
    assert_eq!(edge.world.replicas(), 1);
}

#[tokio::test]
async fn a_pushed_config_is_taken_or_refused_with_every_error() {
    let edge = serve(TOKEN).await;
    let text = edge.world.text(&[1, 2], TOKEN);
    let taken = edge.send("PUT", "/config", RIGHT, &text).await;
    taken.check(200, "", "");
    assert_eq!(taken.json()["hash"], edge.world.roster.snapshot().config.hash);
    assert_eq!(edge.world.replicas(), 2);

    let bad = format!("{}\nnonsense = 1", text.replace("region = \"here\"", "region = \"there\""));
    let refused = edge.send("PUT", "/config", RIGHT, &bad).await;
    refused.check(422, "", "");
    let errors = refused.json()["errors"].as_array().unwrap().clone();
    assert!(errors.len() >= 2, "{errors:?}");
    assert!(errors.iter().all(|error| error["line"].is_u64() && error["column"].is_u64()), "{errors:?}");
    assert!(errors.iter().any(|error| error["hint"].is_string()), "{errors:?}");
    let moved = text.replace("127.0.0.1:8080", "127.0.0.1:8081");
    edge.send("PUT", "/config", RIGHT, &moved).await.check(422, "", "needs a restart");
    edge.raw("PUT /config HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret\r\nContent-Length: 1\r\n\r\n[")
        .await
        .check(422, "connection: close", "errors");
    assert_eq!(fs::read_to_string(edge.world.directory.path().join("edge.toml")).unwrap(), text);
}

#[tokio::test]
async fn post_reload_reads_the_file_again() {
    let edge = serve(TOKEN).await;
    assert_eq!(edge.send("POST", "/reload", RIGHT, "").await.json()["changed"], false);
    edge.world.directory.swap_in("edge.toml", edge.world.text(&[1, 2], TOKEN));
    assert_eq!(edge.send("POST", "/reload", RIGHT, "").await.json()["changed"], true);
    assert_eq!(edge.world.replicas(), 2);
    edge.world.directory.swap_in("edge.toml", "broken");
    edge.send("POST", "/reload", RIGHT, "").await.check(422, "", "errors");
}

#[tokio::test]
async fn bodies_and_headers_are_bounded() {
    let edge = serve(TOKEN).await;
    let announced = format!("{RIGHT}Content-Length: {}\r\n", FILE_BYTES_MAX + 1);
    edge.send("PUT", "/config", &announced, "").await.check(413, "", "1 MiB");
    // In one chunk more than that, which nothing announced.
    let chunk = "#".repeat(FILE_BYTES_MAX / 16);
    let chunks = format!("{:x}\r\n{chunk}\r\n", chunk.len()).repeat(17);
    let mut stream = TcpStream::connect(edge.at).await.unwrap();
    let head = format!("PUT /config HTTP/1.1\r\nHost: a\r\n{RIGHT}Transfer-Encoding: chunked\r\n\r\n");
    let (mut from, mut to) = stream.split();
    let send = async {
        // Refused in the middle of it.
        let _ = to.write_all((head + &chunks).as_bytes()).await;
    };
    let receive = async {
        let mut reply = vec![0; 12];
        let _ = from.read_exact(&mut reply).await;
        String::from_utf8(reply).unwrap()
    };
    let ((), reply) = tokio::join!(send, receive);
    assert_eq!(reply, "HTTP/1.1 413");
    let long = format!("x-long: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
    edge.send("GET", "/healthz", &long, "").await.check(431, "", "headers_too_large");
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_is_asked_for() {
    let edge = serve(TOKEN).await;
    let text = edge.world.text(&[1, 2], TOKEN);
    let mut stream = TcpStream::connect(edge.at).await.unwrap();
    let head = format!(
        "PUT /config HTTP/1.1\r\nHost: a\r\n{RIGHT}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(std::str::from_utf8(&interim).unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[tokio::test]
async fn a_connection_is_kept_for_reading() {
    let edge = serve("").await;
    let mut stream = TcpStream::connect(edge.at).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\nok\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            reply.extend(byte);
        }
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let edge = serve("").await;
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..2 * CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(edge.at).await.unwrap();
        reads.spawn(async move { stream.read(&mut [0]).await });
    }
    // Nobody sends anything: those above the bound are closed at once, the others wait.
    for _ in 0..CONNECTIONS_MAX {
        let closed = reads.join_next().await.unwrap().unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    assert_eq!(reads.len(), CONNECTIONS_MAX);
}

/// A viewer of `/events`, and what it has got so far.
struct Viewer {
    stream: TcpStream,
    got: String,
}

impl Viewer {
    async fn open(edge: &Served) -> Viewer {
        let mut stream = TcpStream::connect(edge.at).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        Viewer { stream, got: String::new() }
    }

    /// Reads on until there is enough; whether there was before the stream ended.
    async fn read_until(&mut self, enough: impl Fn(&str) -> bool) -> bool {
        let mut piece = [0; 4096];
        while !enough(&self.got) {
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return false,
                Ok(read) => self.got.push_str(std::str::from_utf8(&piece[..read]).unwrap()),
            }
        }
        true
    }

    /// The statuses so far. None is cut by the frame of a chunk here, since each is written as one.
    fn statuses(&self) -> Vec<Value> {
        let data = self.got.split("event: status\ndata: ").skip(1).filter_map(|rest| rest.split_once("\n\n"));
        data.map(|(json, _)| serde_json::from_str(json).unwrap()).collect()
    }
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[tokio::test]
async fn events_are_the_status_each_second_and_the_history_at_once() {
    let edge = serve("").await;
    let mut viewer = Viewer::open(&edge).await;
    assert!(viewer.read_until(|got| count(got, "event: status") == 3 && got.ends_with("\n\n\r\n")).await);
    assert!(viewer.got.starts_with("HTTP/1.1 200 OK\r\n"), "{}", viewer.got);
    for line in ["Content-Type: text/event-stream\r\n", "Cache-Control: no-store\r\n", "Connection: close\r\n"] {
        assert!(viewer.got.to_lowercase().contains(&line.to_lowercase()), "{line}: {}", viewer.got);
    }
    let statuses = viewer.statuses();
    assert_eq!((&statuses[0]["edge"], &statuses[0]["viewers"]), (&"edge-1".into(), &1.into()));
    assert!(statuses[1]["now"].as_str() < statuses[2]["now"].as_str(), "{statuses:?}");
    let (_, history) = viewer.got.split_once("event: history\ndata: ").unwrap();
    let history: Value = serde_json::from_str(history.split_once('\n').unwrap().0).unwrap();
    assert_eq!(history["pools"][0]["points"].as_array().unwrap().len(), 90);
    assert!(viewer.got.find("event: history") < viewer.got.rfind("event: status"), "it comes with the first status");
}

#[tokio::test]
async fn the_same_event_goes_to_everyone() {
    let edge = serve("").await;
    let mut viewers = [Viewer::open(&edge).await, Viewer::open(&edge).await];
    let mut seen = Vec::new();
    for viewer in &mut viewers {
        assert!(viewer.read_until(|got| count(got, "event: status") == 3 && got.ends_with("\n\n\r\n")).await);
        seen.push(viewer.statuses().into_iter().map(|status| status["now"].clone()).collect::<Vec<_>>());
    }
    // The first of them may have come a tick earlier.
    assert!(seen[0][1..].iter().any(|now| seen[1].contains(now)), "{seen:?}");
}

#[tokio::test]
async fn viewers_are_bounded_and_one_that_goes_makes_room() {
    let edge = serve("").await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS_MAX {
        let mut viewer = Viewer::open(&edge).await;
        assert!(viewer.read_until(|got| got.contains("event: history")).await);
        viewers.push(viewer);
    }
    assert_eq!(edge.get("/status").await.json()["viewers"], VIEWERS_MAX);
    edge.get("/events").await.check(503, "retry-after: 10\r\n", "too_many_viewers");
    edge.send("HEAD", "/events", "", "").await.check(200, "text/event-stream", "");
    viewers.pop();
    // It is found out at one of the next events.
    let mut tries = 0;
    while edge.get("/status").await.json()["viewers"] == VIEWERS_MAX {
        tries += 1;
        assert!(tries < 100_000);
    }
    assert!(Viewer::open(&edge).await.read_until(|got| got.contains("event: history")).await);
}

#[tokio::test]
async fn events_end_with_the_listener_and_their_last_tells_of_then() {
    let edge = serve("").await;
    let mut viewer = Viewer::open(&edge).await;
    assert!(viewer.read_until(|got| got.contains("event: history")).await);
    edge.world.roster.start_draining();
    edge.shutdown.send(true).unwrap();
    assert!(!viewer.read_until(|_| false).await);
    assert!(viewer.got.ends_with("\r\n0\r\n\r\n"), "ended, not cut: {}", viewer.got);
    assert_eq!(viewer.statuses().last().unwrap()["draining"], true);
}

#[tokio::test]
async fn history_is_told_once_too() {
    let edge = serve("").await;
    let history = edge.get("/history").await.json();
    assert_eq!((&history["step_s"], &history["pools"][0]["name"]), (&10.into(), &"pool".into()));
}

#[tokio::test]
async fn explain_tells_where_a_call_would_go_now() {
    let edge = serve("").await;
    let text = edge.world.text(&[1, 2], "") + "\n[geo]\nnearest_to = \"edge\"\n";
    edge.world.directory.swap_in("edge.toml", text);
    edge.world.reloader.reload(ReloadSource::Signal).unwrap();
    let snapshot = edge.world.roster.snapshot();
    let (breaker, thresholds) = (snapshot.config.circuit_breaker, snapshot.config.health.thresholds);
    let all: Vec<_> = snapshot.replicas().map(|(_, live)| live).collect();
    for live in &all {
        live.checked(true, thresholds, breaker, Instant::now());
    }
    assert!(snapshot.measured("here", 7.0) && !snapshot.measured("nowhere", 7.0));
    let ask = "/explain?ip=192.0.2.1&model=small&session=run-1&step=&dialect=chat";
    let told = edge.get(ask).await.json();
    assert_eq!(
        (&told["model"], &told["step"], &told["pick"]["reason"]),
        (&"small".into(), &"none".into(), &"new".into())
    );
    assert_eq!((&told["regions"][0]["way_ms"], &told["regions"][0]["measured"]), (&7.0.into(), &true.into()));
    assert!(told["home"].is_null(), "{told}");
    // The replica that it would start at fails its health checks: it would start at the other one.
    let picked = told["pick"]["replica"].as_str().unwrap().to_owned();
    let down = all[if picked == "r0" { 0 } else { 1 }];
    for _ in 0..4 {
        down.checked(false, thresholds, breaker, Instant::now());
    }
    let other = edge.get(ask).await.json()["pick"]["replica"].clone();
    assert!(other.is_string() && other != picked.as_str(), "{other}");
}

#[tokio::test]
async fn what_cannot_be_explained_is_400_and_says_what_to_do() {
    let edge = serve("").await;
    for (query, code, says) in [
        ("", "bad_query", "give the client's address: /explain?ip=ADDRESS&model=NAME"),
        ("?ip=::1", "bad_query", "give a model"),
        ("?ip=&model=small", "bad_query", "give the client's address"),
        ("?ip=here&model=small", "bad_query", "'here' is no address; write it as 192.0.2.1 or 2001:db8::1"),
        ("?ip=::1&model=gpt", "model_not_found", "the model 'gpt' does not exist; known names: small"),
        ("?ip=::1&model=small&dialect=soap", "bad_query", "no dialect 'soap'; known are chat, completions"),
        ("?ip=::1&model=small&user=x", "bad_query", "'user' means nothing here; known are ip, model, step"),
        ("?ip=::1&ip=::1&model=small", "bad_query", "'ip' is given twice"),
        ("?ip=::1&model=%ff", "bad_query", "'model' cannot be read"),
        ("?ip=::1&model=small&session=%00", "bad_query", "a session is at most 256 bytes of visible ASCII"),
    ] {
        let reply = edge.get(&format!("/explain{query}")).await;
        reply.check(400, "application/json", says);
        assert_eq!(reply.json()["error"]["code"], code, "{query}");
    }
    edge.send("POST", "/explain?ip=::1&model=small", "", "").await.check(405, "allow: get, head\r\n", "");
}
