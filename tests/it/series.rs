//! Whatever words clients make up, no series of `/metrics` is made of them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::support::{Edge, EdgeConfig, PATIENCE, Pool, chat, post, request, sim, with};

const CHAT: &str = "/v1/chat/completions";

/// Requests, on so many connections at a time; one in so many is really served, since that takes a debug build ten times as
/// long as a refusal.
const REQUESTS: usize = 100_000;
const CONNECTIONS: usize = 8;
const SERVED_EVERY: usize = 32;

/// Requests of each kind that touch every series there is to be.
const WARM_UP: usize = 40;

/// What a request has of the client's own making.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Made {
    Path,
    Method,
    Query,
    Json,
    Model,
    StepOfAuto,
    SessionThatCannotBe,
    // These are served.
    Everything,
    StepOfAModel,
    Country,
    Stream,
    Embedding,
}

const REFUSED: [Made; 7] =
    [Made::Path, Made::Method, Made::Query, Made::Json, Made::Model, Made::StepOfAuto, Made::SessionThatCannotBe];
const SERVED: [Made; 5] = [Made::Everything, Made::StepOfAModel, Made::Country, Made::Stream, Made::Embedding];

/// A word that nobody has said before.
fn word(rng: &mut SmallRng) -> String {
    (0..rng.random_range(3..20)).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

/// A request of this kind; all that a client is free in is random.
fn random(made: Made, rng: &mut SmallRng) -> Vec<u8> {
    let mut word = || word(rng);
    let posted = |headers: &[(&str, &str)], body: &serde_json::Value| {
        request("POST", CHAT, headers, body.to_string().as_bytes())
    };
    let (one, two, three) = (word(), word(), word());
    match made {
        Made::Path => request("GET", &format!("/v1/{one}/{two}"), &[("x-session-id", &three)], b""),
        Made::Method => request(&one.to_uppercase(), "/v1/models", &[], b""),
        Made::Query => request("GET", &format!("/v1/models?{one}={two}"), &[(&format!("x-{three}"), &one)], b""),
        Made::Json => request("POST", CHAT, &[("x-agent-step", &one)], format!("{{\"{two}\": {three}").as_bytes()),
        Made::Model => posted(&[("x-agent-step", &one)], &with(chat(&two, 1), json!({"model": three}))),
        Made::StepOfAuto => posted(&[("x-agent-step", &one)], &with(chat(&two, 1), json!({"model": "auto"}))),
        Made::SessionThatCannotBe => posted(&[("x-session-id", &format!("{one}é{two}"))], &chat(&three, 1)),
        Made::Everything => {
            let forwarded = format!("203.0.113.{}", one.len());
            let headers = [
                ("x-session-id", &*one),
                ("x-agent-step", &*two),
                ("x-request-id", &*three),
                ("user-agent", &*one),
                ("authorization", &*two),
                ("x-forwarded-for", &*forwarded),
                (&*format!("x-{three}"), &*one),
            ];
            posted(&headers, &with(chat(&three, 1), json!({"user": one, "metadata": {&*two: three}})))
        }
        Made::StepOfAModel => {
            let step = ["planner", "tool_caller"][one.len() % 2];
            posted(&[("x-session-id", &one)], &with(chat(&two, 1), json!({"model": step})))
        }
        Made::Country => country(&one[..2].to_uppercase(), &two),
        Made::Stream => posted(&[("x-session-id", &one)], &with(chat(&two, 3), json!({"stream": true}))),
        Made::Embedding => post("/v1/embeddings", &json!({"model": "m", "input": one})),
    }
}

/// A call of a client that says to be in this country.
fn country(code: &str, text: &str) -> Vec<u8> {
    let headers = [("x-forwarded-for", "203.0.113.7"), ("cf-ipcountry", code)];
    request("POST", CHAT, &headers, chat(text, 1).to_string().as_bytes())
}

/// A blocking client that reads no more of an answer than where it ends: the test has as many cores as the edge.
struct Client {
    to: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(to: SocketAddr) -> Client {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { to, stream, buffer: Vec::new() }
    }

    /// Sends a request and reads its answer; the status.
    fn call(&mut self, bytes: &[u8]) -> u16 {
        self.stream.write_all(bytes).unwrap();
        self.buffer.clear();
        let mut piece = [0; 16 << 10];
        let (head, body) = loop {
            let n = self.stream.read(&mut piece).unwrap();
            assert!(n > 0, "the connection ended after {}", String::from_utf8_lossy(&self.buffer));
            self.buffer.extend_from_slice(&piece[..n]);
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break (String::from_utf8_lossy(&self.buffer[..end]).to_lowercase(), end + 4);
            }
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let is_whole = |buffer: &[u8]| match length {
            Some(length) => buffer.len() >= body + length,
            None => buffer.ends_with(b"0\r\n\r\n"),
        };
        while !is_whole(&self.buffer) {
            let n = self.stream.read(&mut piece).unwrap();
            assert!(n > 0, "the connection ended in the middle of an answer");
            self.buffer.extend_from_slice(&piece[..n]);
        }
        if head.contains("\r\nconnection: close") {
            *self = Client::connect(self.to);
        }
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap()
    }
}

/// Calls that are under way when their client has its answer are counted a moment later.
async fn counted(edge: &Edge, requests: usize) {
    let all = |page: &str| -> f64 {
        let lines = page.lines().filter(|line| line.starts_with("nearpool_requests_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = all(&page(edge).await);
        if found == requests as f64 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found} requests are counted, and {requests} were sent");
        tokio::task::yield_now().await;
    }
}

async fn page(edge: &Edge) -> String {
    String::from_utf8(edge.admin_get("/metrics").await.body.to_vec()).unwrap()
}

async fn series(edge: &Edge) -> BTreeSet<String> {
    let page = page(edge).await;
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_requests_with_words_of_their_own_make_no_series() {
    let (a, b) = (sim("a").await, sim("b").await);
    let pool = Pool::new("near", "here", "m").sims(&[&a, &b]).line("kv_cache_tokens = 1_000_000");
    let config = EdgeConfig::new()
        .region_with("ireland", 53.35, -6.26, ", edge = \"other\"")
        .pool(pool.line("cost_per_hour = 3.6").line("max_in_flight = 1024"))
        .step("planner", "m")
        .step("tool_caller", "m")
        .set("edge", "trusted_proxies", "[\"127.0.0.0/8\"]")
        .set("geo", "headers", "[\"cloudflare\"]")
        .set("sessions", "capacity", "1_000")
        .set("sessions", "interaction_idle", "\"1s\"")
        .set("sessions", "admission", "false")
        .set("health", "interval", "\"1s\"")
        .set("health", "timeout", "\"1s\"")
        .set("health", "unhealthy_after", "100");
    let edge = Edge::start_unlogged(config).await;
    edge.wait_for_metric("nearpool_region_rtt_seconds{region=\"here\"}", |seconds| seconds > 0.0).await;

    let agents = edge.agents();
    let warm_up = move || {
        let (mut client, mut rng, mut sent) = (Client::connect(agents), SmallRng::seed_from_u64(0), 0);
        let mut send = |bytes: &[u8], expected: bool| {
            let status = client.call(bytes);
            assert_eq!(status < 400, expected, "{status} for {}", String::from_utf8_lossy(bytes));
            sent += 1;
        };
        for made in REFUSED.into_iter().chain(SERVED) {
            (0..WARM_UP).for_each(|_| send(&random(made, &mut rng), SERVED.contains(&made) || made == Made::Query));
        }
        for code in (b'A'..=b'Z').flat_map(|one| (b'A'..=b'Z').map(move |two| [one, two])) {
            send(&country(std::str::from_utf8(&code).unwrap(), "x"), true);
        }
        // One whose prompt is in the cache.
        let long = with(chat(&"a long prompt ".repeat(2_000), 1), json!({"stream": true}));
        (0..4).for_each(|_| send(&request("POST", CHAT, &[], long.to_string().as_bytes()), true));
        sent
    };
    let warmed = tokio::task::spawn_blocking(warm_up).await.unwrap();
    counted(&edge, warmed).await;
    let before = series(&edge).await;
    assert!(before.len() > 300, "{before:?}");

    let clients = (0..CONNECTIONS).map(|n| {
        tokio::task::spawn_blocking(move || {
            let (mut client, mut rng) = (Client::connect(agents), SmallRng::seed_from_u64(1 + n as u64));
            for request in (n..REQUESTS).step_by(CONNECTIONS) {
                let made = match request / CONNECTIONS % SERVED_EVERY {
                    0 => SERVED[rng.random_range(0..SERVED.len())],
                    _ => REFUSED[rng.random_range(0..REFUSED.len())],
                };
                client.call(&random(made, &mut rng));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    counted(&edge, warmed + REQUESTS).await;
    let after = series(&edge).await;
    let (new, gone): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
    assert!(new.is_empty() && gone.is_empty(), "new: {new:#?}\ngone: {gone:#?}");
    let interactions = edge.metric("agent_interaction_calls_count").await;
    assert!(interactions > 1_000.0, "{interactions} interactions had to make room or idled");
}
