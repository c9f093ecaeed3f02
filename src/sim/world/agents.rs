//! Closed-loop agents: each runs one session after the other, each call after the last one's answer and a think time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::places::{PLACES, Place, RegionSpec};
use super::report::{CallReport, Receipt, Step};
use super::session::{Answered, Session, read_stream};
use super::target::{Destination, Target};
use super::ways;
use crate::sim::client::Client;
use crate::sim::text::mix;

/// Reports that wait to be taken; then the agents wait, too.
const REPORTS_WAITING_MAX: usize = 1_024;
/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Agents at most.
const AGENTS_MAX: usize = 10_000;
/// After a failed call an agent waits at least so long.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// What the agents do.
#[derive(Debug, Clone)]
pub struct AgentsParams {
    /// Where they call.
    pub target: Target,
    /// How many there are.
    pub agents: usize,
    /// Where the agents are; the first agent is at the first place, and so on in turn. Nowhere in particular when empty.
    pub places: Vec<Place>,
    /// The regions, each with an edge. Then a call also takes the round trip from its agent's place to the nearest of them,
    /// and on to the one that served it; it is the agent that waits, so that one process can stand for all edges. No way
    /// takes time when empty.
    pub regions: Vec<RegionSpec>,
    /// The calls of a session.
    pub chain: Vec<Step>,
    /// Fewest and most tokens with which a session's context starts.
    pub context_tokens: (u64, u64),
    /// Fewest and most tokens of an answer.
    pub answer_tokens: (u64, u64),
    /// Fewest and most tokens of a tool's result.
    pub tool_tokens: (u64, u64),
    /// Shortest and longest time between an answer and the next call.
    pub think: (Duration, Duration),
    /// Whether each agent's first session begins at some call of the chain instead of its first, as if the agents had been at
    /// work before. Else they go through the chain in step for a while: all plan, then all call tools.
    pub in_mid_work: bool,
    /// Sessions that each agent runs before it ends; without end when `None`.
    pub sessions_per_agent: Option<usize>,
    /// A call that takes longer has failed.
    pub timeout: Duration,
    /// Everything but the timing follows from it.
    pub seed: u64,
}

impl AgentsParams {
    /// Twelve agents at all known places, with the guide's chain and contexts of 8–16K tokens.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            agents: 12,
            places: PLACES.to_vec(),
            regions: Vec::new(),
            chain: Step::CHAIN.to_vec(),
            context_tokens: (8_000, 16_000),
            answer_tokens: (20, 80),
            tool_tokens: (200, 1_500),
            think: (Duration::from_millis(50), Duration::from_millis(500)),
            in_mid_work: false,
            sessions_per_agent: None,
            timeout: Duration::from_secs(60),
            seed: 1,
        }
    }
}

/// Running agents. Dropping them ends them at once.
#[derive(Debug)]
pub struct Agents {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Agents {
    /// Starts the agents. The reports end when all agents have ended. Fails only on a base URL that is none.
    pub fn start(params: AgentsParams) -> Result<(Self, mpsc::Receiver<CallReport>), String> {
        let (stop, stopped) = watch::channel(false);
        let (reports, taken) = mpsc::channel(REPORTS_WAITING_MAX);
        let params = Arc::new(params);
        let started = Instant::now();
        if let Target::BaseUrl { url, .. } = &params.target {
            Client::new(url)?;
        }
        let mut tasks = JoinSet::new();
        for index in 0..params.agents.min(AGENTS_MAX) {
            let agent = Agent {
                index,
                clients: BTreeMap::new(),
                place: params.places.get(index % params.places.len().max(1)).copied(),
                dice: Dice(mix(params.seed ^ mix(index as u64 + 1))),
                params: Arc::clone(&params),
                reports: reports.clone(),
                started,
            };
            tasks.spawn(agent.run(stopped.clone()));
        }
        Ok((Self { stop, tasks }, taken))
    }

    /// Ends the agents: each finishes the call that it is in. Take or drop the reports meanwhile.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Agent {
    index: usize,
    /// One for every address that it has called: a base URL, or the replicas of a region.
    clients: BTreeMap<String, Client>,
    place: Option<Place>,
    dice: Dice,
    params: Arc<AgentsParams>,
    reports: mpsc::Sender<CallReport>,
    started: Instant,
}

impl Agent {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let sessions = self.params.sessions_per_agent.unwrap_or(usize::MAX);
        for nth in 0..sessions {
            let calls = self.params.chain.len();
            let begin = if nth == 0 && self.params.in_mid_work { self.dice.next() as usize % calls.max(1) } else { 0 };
            let tokens = self.dice.between(self.params.context_tokens);
            let mut session = Session::new(self.dice.next(), tokens);
            for call in begin..calls {
                let mut pause = self.think();
                let ended = tokio::select! {
                    _ = stopped.wait_for(|stop| *stop) => true,
                    () = tokio::time::sleep(pause) => false,
                };
                if ended {
                    return;
                }
                let step = self.params.chain[call];
                let (report, text) = self.call(&session, call, step).await;
                let ok = report.ok();
                if self.reports.send(report).await.is_err() {
                    return;
                }
                if !ok {
                    // The chain is broken: a failed step costs the whole session.
                    pause = PAUSE_AFTER_ERROR;
                    tokio::time::sleep(pause).await;
                    break;
                }
                let tokens = self.dice.between(self.params.tool_tokens);
                session.extend(step, text, tokens);
            }
        }
    }

    async fn call(&mut self, session: &Session, call: usize, step: Step) -> (CallReport, String) {
        let answer_tokens = self.dice.between(self.params.answer_tokens);
        let sent = Instant::now();
        let mut report = CallReport {
            agent: self.index,
            session: session.id.clone(),
            call,
            step,
            place: self.place.map(|place| place.name.to_owned()).unwrap_or_default(),
            started: sent.duration_since(self.started),
            status: None,
            error: None,
            ttft: None,
            total: Duration::ZERO,
            prompt_tokens: None,
            cached_tokens: None,
            completion_tokens: None,
            model: None,
            receipt: Receipt::default(),
        };
        let limit = self.params.timeout;
        let params = Arc::clone(&self.params);
        let answered = match params.target.next(self.place.as_ref(), step) {
            None => failed("no replica runs this step's model".to_owned()),
            Some(Destination { url, model }) => {
                let body = session.body(model, answer_tokens);
                let exchange = self.exchange(url, body, &mut report);
                let answered = tokio::time::timeout(limit, exchange).await;
                let answered = answered.unwrap_or_else(|_| failed(format!("no whole answer in {limit:?}")));
                if answered.error.is_some() {
                    self.clients.remove(url);
                }
                answered
            }
        };
        let way = self.place.as_ref().map_or(Duration::ZERO, |place| {
            ways::of_call(place, report.receipt.region.as_deref(), &self.params.regions)
        });
        report.ttft = answered.first_content.map(|at| at.duration_since(sent) + way);
        report.total = sent.elapsed() + way;
        tokio::time::sleep(way).await;
        report.error = answered.error;
        report.model = answered.model;
        if let Some(usage) = answered.usage {
            report.prompt_tokens = Some(usage.prompt_tokens);
            report.completion_tokens = Some(usage.completion_tokens);
            report.cached_tokens = usage.cached_tokens();
        }
        (report, answered.text)
    }

    async fn exchange(&mut self, url: &str, body: Bytes, report: &mut CallReport) -> Answered {
        let request = match self.request(body) {
            Ok(request) => request,
            Err(error) => return failed(error.to_string()),
        };
        let client = match self.client(url) {
            Ok(client) => client,
            Err(error) => return failed(error),
        };
        let response = match client.send(request).await {
            Ok(response) => response,
            Err(error) => return failed(error.to_string()),
        };
        report.status = Some(response.status().as_u16());
        report.receipt = Receipt::read(response.headers());
        if response.status().is_success() {
            return read_stream(response.into_body()).await;
        }
        let status = response.status();
        let message = match Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await {
            Ok(body) => error_message(&body.to_bytes()),
            Err(error) => error.to_string(),
        };
        failed(format!("{status}: {message}"))
    }

    /// The client of an address; its connection is kept from call to call.
    fn client(&mut self, url: &str) -> Result<&mut Client, String> {
        let client = match self.clients.remove(url) {
            Some(client) => client,
            None => Client::new(url)?,
        };
        Ok(self.clients.entry(url.to_owned()).or_insert(client))
    }

    /// What an unmodified agent sends: nothing in it names the session or the step. The place stands for the address that
    /// the connection would come from.
    fn request(&self, body: Bytes) -> http::Result<Request<Bytes>> {
        let mut request = Request::post("/v1/chat/completions")
            .header("content-type", "application/json")
            .header("user-agent", "nearpool-sim");
        if let Some(place) = &self.place {
            request = request.header("x-forwarded-for", place.address);
        }
        request.body(body)
    }

    fn think(&mut self) -> Duration {
        let (least, most) = self.params.think;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2);
        Duration::from_micros(self.dice.between((micros(least), micros(most))))
    }
}

fn failed(error: String) -> Answered {
    Answered { error: Some(error), ..Answered::default() }
}

fn error_message(body: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(|body| body["error"]["message"].as_str());
    message.map_or_else(|| String::from_utf8_lossy(body).chars().take(200).collect(), str::to_owned)
}

/// SplitMix64: small, and the same on every machine.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Least and most included.
    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.next() % (most.saturating_sub(least) + 1)
    }
}
