//! Runs rows, and what must hold for each.
//!
//! Each row is a pool of a faulty replica and a good one, with a model of its own. Every call is the first one of its
//! session, so that the sessions' hash gives the faulty replica its half of them however it behaves; that it got them is
//! part of what must hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearpool::sim::server::ReplicaHandle;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Client, PATH, streamed_text};
use super::faulty::{BEGUN_EVENTS, FLOODS, Faulty, TOKEN_BYTES};
use super::load::{CALLS, Load, Place};
use super::rows::Row;
use crate::support::{Answer, Edge, EdgeConfig, Http1, Pool, SERVED, json_body, own_address, post_with, sim_at};

/// Different prompts, each with an answer of its own, so that no answer is taken for another.
const PROMPTS: usize = 4;
/// Calls until host names are resolved; they are at once.
const WARM_UP_CALLS_MAX: usize = 10_000;
/// Tokens of an answer.
const TOKENS: usize = 8;

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Became {
    /// The good replica's answer at the first try.
    Spared,
    /// The good replica's answer, after the faulty one was asked.
    Saved,
    /// An answer that the faulty one began and the good one ended.
    Resumed,
    /// An answer that broke off and said so.
    Broken,
}

/// Runs all rows at once, at one edge.
pub(super) async fn matrix(rows: &[Row], load: Load) {
    let address = own_address();
    let mut ports = (9000u16..).step_by(2);
    let mut cases = Vec::new();
    let mut config = load.breaker.add_to(EdgeConfig::new().without_m());
    // A replica that fails half of all calls is to be asked for every one of them.
    config = config.set("retry", "budget", "1.0").set("retry", "budget_floor_per_s", "1000");
    // Answers are compared whole: on a busy machine one may come late enough for a comment.
    config = config.set("timeouts", "keep_alive_comment", "\"0s\"");
    for key in ["connect", "first_byte", "answer", "idle"] {
        config = config.set("timeouts", key, &format!("\"{}\"", load.timeout));
    }
    for row in rows {
        for (stream, labels) in [(true, row.streamed), (false, row.whole)] {
            if !labels.is_empty() {
                let name = format!("row-{}", cases.len());
                let at = load.place.addresses(address, ports.next().unwrap());
                let case = Case::start(name, *row, stream, labels, load, at).await;
                config = case.add_to(config);
                cases.push(case);
            }
        }
    }
    let edge = Arc::new(Edge::start(config).await);
    let mut running = JoinSet::new();
    for case in cases {
        let edge = Arc::clone(&edge);
        running.spawn(async move {
            let case = Arc::new(case);
            if load.place == Place::Name {
                case.wait_until_resolved(&edge).await;
            }
            let before = case.counted(&edge).await;
            let became = case.run(edge.agents()).await;
            case.check(&edge, &became, before).await;
        });
    }
    // All of them, since each failure says something of its own.
    let mut failed = 0;
    while let Some(ended) = running.join_next().await {
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0, "so many rows failed; what they say stands above");
}

/// One row with calls of one kind.
struct Case {
    /// Of the pool and of its model.
    name: String,
    row: Row,
    stream: bool,
    labels: &'static [&'static str],
    load: Load,
    faulty: Faulty,
    good: ReplicaHandle,
}

impl Case {
    async fn start(
        name: String,
        row: Row,
        stream: bool,
        labels: &'static [&'static str],
        load: Load,
        [faulty, good]: [SocketAddr; 2],
    ) -> Case {
        let faulty = Faulty::start(faulty, row.fault).await;
        let good = sim_at("good", good).await;
        Case { name, row, stream, labels, load, faulty, good }
    }

    fn add_to(&self, config: EdgeConfig) -> EdgeConfig {
        let place = self.load.place;
        let pool = Pool::new(&self.name, "here", &self.name)
            .replica("faulty", &place.url(self.faulty.address()))
            .replica("good", &place.url(self.good.addr()))
            .line(&format!("http2 = {}", self.row.fault.is_http2()));
        config.model(&self.name, &[&format!("served_as = \"{SERVED}\"")]).pool(pool)
    }

    /// Makes the calls.
    async fn run(self: &Arc<Case>, edge: SocketAddr) -> Vec<Became> {
        let mut answers = Vec::new();
        for n in 0..PROMPTS {
            let prompt = format!("prompt {n}");
            let mut direct = Http1::connect(self.good.addr()).await;
            let answer = direct.call(&post_with(PATH, &[], &self.body(SERVED, &prompt))).await;
            let text = self.text(&answer);
            assert_eq!(text.len(), TOKENS * TOKEN_BYTES);
            self.faulty.learn(&prompt, &text);
            answers.push((prompt, text));
        }
        self.faulty.arm().await;
        let (mut running, calls) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for n in 0..self.load.clients {
            let (prompt, text) = &answers[n % PROMPTS];
            let body = self.body(&self.name, prompt);
            running.spawn(Arc::clone(self).client(n, edge, Arc::clone(&calls), body, text.clone()));
        }
        let mut became = Vec::new();
        while let Some(ended) = running.join_next().await {
            became.extend(ended.unwrap());
        }
        became
    }

    /// One client's share of the calls, over one connection; a new one after an answer that broke off.
    async fn client(
        self: Arc<Case>,
        n: usize,
        edge: SocketAddr,
        calls: Arc<AtomicUsize>,
        body: Value,
        text: String,
    ) -> Vec<Became> {
        let mut client = Client::connect(n, edge).await;
        let mut became = Vec::new();
        loop {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            if call >= CALLS {
                return became;
            }
            let (answer, ended) = client.call(&format!("session {call}"), &body).await;
            if ended || self.load.resumable {
                assert!(ended, "{}: cut: {answer:?}", self.what());
                became.push(self.answered(&answer, &text));
            } else {
                self.broke_off(&answer, &text);
                became.push(Became::Broken);
                client = Client::connect(n, edge).await;
            }
        }
    }

    /// Checks a whole answer: the good replica's, and nothing else.
    fn answered(&self, answer: &Answer, text: &str) -> Became {
        let what = || format!("{}: {answer:?}", self.what());
        assert_eq!(answer.status, 200, "{}", what());
        assert!(!String::from_utf8_lossy(&answer.body).contains("POISON"), "{}", what());
        assert_eq!(self.text(answer), text, "{}", what());
        if self.row.fault.begins() && answer.header("x-nearpool-replica") == Some("faulty") {
            return Became::Resumed;
        }
        assert_eq!(answer.header("x-nearpool-replica"), Some("good"), "{}", what());
        assert_eq!(answer.header("x-sim-replica"), Some("good"), "{}", what());
        match answer.header("x-nearpool-attempts") {
            Some("1") => Became::Spared,
            Some("2") => Became::Saved,
            _ => panic!("{}", what()),
        }
    }

    /// Checks an answer that broke off: what came is right, the last event says what happened, and nothing looks whole.
    fn broke_off(&self, answer: &Answer, text: &str) {
        let body = String::from_utf8_lossy(&answer.body);
        let what = || format!("{}: {body}", self.what());
        assert_eq!(answer.status, 200, "{}", what());
        assert!(!body.contains("[DONE]") && !body.contains("POISON") && body.ends_with("\n\n"), "{}", what());
        let last = body.trim_end().rsplit("\n\n").next().unwrap();
        let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        assert!(self.labels.contains(&error["error"]["code"].as_str().unwrap()), "{}", what());
        assert_eq!(streamed_text(&body).0, text[..BEGUN_EVENTS * TOKEN_BYTES], "{}", what());
    }

    /// Makes calls until one reached each replica: host names are resolved apart from calls.
    async fn wait_until_resolved(&self, edge: &Edge) {
        let body = self.body(&self.name, "warm up");
        for call in 0..WARM_UP_CALLS_MAX {
            let (answer, _) = Client::connect(0, edge.agents()).await.call(&format!("warm up {call}"), &body).await;
            if answer.status == 200 && self.faulty.requests() > 0 {
                return;
            }
        }
        panic!("{}: the names are not resolved", self.what());
    }

    /// The edge's count of attempts at the faulty replica and at the good one, and the good one's own.
    async fn counted(&self, edge: &Edge) -> Counted {
        let stats = self.good.wait_for(|stats| stats.engine.running == 0).await;
        Counted {
            faulty: self.attempts(edge, "faulty").await,
            good: self.attempts(edge, "good").await,
            answered: stats.finished_total as usize,
            cancelled: stats.cancelled_total,
        }
    }

    /// Checks the calls of the row together, and what was counted.
    async fn check(&self, edge: &Edge, became: &[Became], before: Counted) {
        let what = self.what();
        let count = |which| became.iter().filter(|became| **became == which).count();
        let (resumed, broken) = (count(Became::Resumed), count(Became::Broken));
        let struck = count(Became::Saved) + resumed + broken;
        assert_eq!(became.len(), CALLS, "{what}");
        assert!(
            self.load.breaker.struck(self.row.fault, self.load.clients).contains(&struck),
            "{what}: {struck} calls met the fault"
        );
        edge.wait_until_idle(&self.name, "faulty").await;
        edge.wait_until_idle(&self.name, "good").await;
        let after = self.counted(edge).await;
        let told = |label: &str| before.faulty.contains_key(label) || self.labels.contains(&label);
        assert!(after.faulty.keys().all(|label| told(label)), "{what}: {after:?}");
        let sum = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
        assert_eq!(sum(&after.faulty) - sum(&before.faulty), struck, "{what}: {after:?}");
        if self.row.fault.floods() {
            assert_eq!(after.faulty.get("garbage"), Some(&FLOODS), "{what}: {after:?}");
        }
        let told = |label: &str| before.good.contains_key(label) || label == "ok";
        assert!(after.good.keys().all(|label| told(label)), "{what}: {after:?}");
        assert_eq!(sum(&after.good) - sum(&before.good), CALLS - broken, "{what}: {after:?}");
        // The good one was given each call once, beside those that asked for what its answers are.
        assert_eq!(after.answered - before.answered, CALLS - broken + PROMPTS, "{what}");
        assert_eq!(after.cancelled, 0, "{what}");
        if self.row.fault.reads() {
            assert!(self.faulty.requests() >= struck, "{what}: {} requests", self.faulty.requests());
        }
    }

    /// The attempts at a replica, by outcome.
    async fn attempts(&self, edge: &Edge, replica: &str) -> BTreeMap<String, usize> {
        let page = edge.admin_get("/metrics").await;
        let pool = format!("\",pool=\"{}\",replica=\"{replica}\"}} ", self.name);
        String::from_utf8_lossy(&page.body)
            .lines()
            .filter_map(|line| line.strip_prefix("nearpool_attempts_total{outcome=\"")?.split_once(&pool))
            .map(|(outcome, count)| (outcome.to_owned(), count.parse::<f64>().unwrap() as usize))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn what(&self) -> String {
        format!("{} ({})", self.row.name, if self.stream { "streamed" } else { "not streamed" })
    }

    fn body(&self, model: &str, prompt: &str) -> Value {
        let messages = json!([{"role": "user", "content": prompt}]);
        let logprobs = !self.load.resumable;
        let sim = json!({"tokens": TOKENS});
        json!({"model": model, "messages": messages, "stream": self.stream, "logprobs": logprobs, "sim": sim})
    }

    /// The text of a whole answer.
    fn text(&self, answer: &Answer) -> String {
        if self.stream {
            let (text, done) = streamed_text(&String::from_utf8_lossy(&answer.body));
            assert!(done, "{}: not whole: {answer:?}", self.what());
            text
        } else {
            json_body(answer)["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
        }
    }
}

/// What is counted of a case.
#[derive(Debug)]
struct Counted {
    faulty: BTreeMap<String, usize>,
    good: BTreeMap<String, usize>,
    answered: usize,
    cancelled: u64,
}
