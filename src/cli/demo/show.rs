//! Plays the script: agents call, the world suffers, the screen tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use nearpool::sim::world::{Agents, AgentsParams, CallReport, REGIONS, RoundRobin, Step, Target};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep_until, timeout};

use super::super::numbers::{count, thousands};
use super::scrape::Scrape;
use super::screen::Screen;
use super::script::{Cue, Phase, Routing, Until};
use super::stage::Stage;
use super::tally::Tally;

/// Where the edge is, and the nearest region of a quarter of the agents: what is killed is killed here.
const REGION: &str = "us-west";
/// Tokens with which a session's context starts, fewest and most; tools' results come to it.
const CONTEXT_TOKENS: (u64, u64) = (3_000, 6_000);
/// Tokens of an answer, fewest and most: agents' plans and tool calls.
const ANSWER_TOKENS: (u64, u64) = (60, 180);
/// How often the screen is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long agents may take for their last call when a phase ends; it takes some hundred milliseconds.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// How long after a replica's death its streams' agents may hear of it.
const NEWS: Duration = Duration::from_secs(1);

/// Why a phase ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// Its time was up.
    InTime,
    /// A signal came, or nobody reads the output any more.
    Told,
}

/// What one phase showed.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) routing: Routing,
    pub(super) tally: Tally,
    /// The edge's own account of it; `None` when it had no part in it, or it could not be had.
    pub(super) edge: Option<Scrape>,
    pub(super) ended: Ended,
    /// How long it took.
    pub(super) took: Duration,
}

/// SIGINT (Ctrl-C) and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn watch() -> std::io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The demo while it runs.
pub(super) struct Show<'a> {
    pub(super) stage: &'a Stage,
    pub(super) screen: &'a mut Screen,
    pub(super) signals: &'a mut Signals,
    pub(super) seed: u64,
    pub(super) started: Instant,
    pub(super) whole: Option<Duration>,
    /// Enter on standard input, where phases end so.
    pub(super) enters: Option<Receiver<()>>,
    down: Option<Down>,
    /// Replicas that were killed, and when. As many as the script kills.
    killed: Vec<(String, Instant)>,
}

/// What is dead now, and how things stood when it died.
struct Down {
    name: String,
    before: Tally,
    edge: Option<Scrape>,
}

impl<'a> Show<'a> {
    pub(super) fn new(stage: &'a Stage, screen: &'a mut Screen, signals: &'a mut Signals, seed: u64) -> Show<'a> {
        Show {
            stage,
            screen,
            signals,
            seed,
            started: Instant::now(),
            whole: None,
            enters: None,
            down: None,
            killed: Vec::new(),
        }
    }

    /// Plays one phase from beginning to end.
    pub(super) async fn play(&mut self, phase: &Phase) -> anyhow::Result<Shown> {
        let before = self.scrape(phase.routing).await;
        let (mut tally, begun) = (Tally::default(), Instant::now());
        let params = self.agents(phase);
        // Another phase has other sessions, whose prompts nobody has cached.
        self.seed = self.seed.wrapping_add(1);
        let (agents, mut reports) = Agents::start(params).map_err(|error| anyhow!(error))?;
        let ended = self.watch(phase, &mut reports, &mut tally).await?;
        if ended == Ended::InTime {
            let stopping = agents.stop();
            let draining = async {
                while let Some(report) = reports.recv().await {
                    self.take(&report, &mut tally)
                }
            };
            let _ = timeout(LAST_CALLS, async { tokio::join!(stopping, draining) }).await;
        }
        let took = begun.elapsed();
        self.screen.clear();
        let after = self.scrape(phase.routing).await;
        let edge = after.zip(before).map(|(after, before)| after.since(&before));
        Ok(Shown { routing: phase.routing, tally, edge, ended, took })
    }

    /// Tells something with its time.
    pub(super) fn tell(&mut self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.screen.print(&format!("{seconds:>6.1} s  {text}"));
    }

    async fn watch(
        &mut self,
        phase: &Phase,
        reports: &mut Receiver<CallReport>,
        tally: &mut Tally,
    ) -> anyhow::Result<Ended> {
        // Without an end: as far off as the clock goes without a care.
        let far = Duration::from_secs(365 * 86_400);
        let end = self.started + if let Until::At(end) = phase.until { end } else { far };
        let mut cues = phase.cues.iter();
        let mut next = cues.next();
        let mut tick = tokio::time::interval(TICK);
        loop {
            let cue_at = next.map_or(end, |(at, _)| self.started + *at);
            tokio::select! {
                () = self.signals.told() => return Ok(Ended::Told),
                entered = entered(&mut self.enters), if phase.until == Until::Enter => {
                    ensure!(entered, "standard input has ended, so nobody can press Enter: say how long with --seconds");
                    return Ok(Ended::InTime);
                }
                () = sleep_until(cue_at.min(end).into()) => match next {
                    None => return Ok(Ended::InTime),
                    Some((_, cue)) => {
                        self.act(*cue, tally).await?;
                        next = cues.next();
                    }
                },
                Some(report) = reports.recv() => self.take(&report, tally),
                _ = tick.tick() => {
                    if tally.calls > 0 && self.screen.progress_due(phase.line_every) {
                        let line = self.progress(tally);
                        self.screen.progress(&line);
                    }
                    if self.screen.gone() {
                        return Ok(Ended::Told);
                    }
                }
            }
        }
    }

    /// What the edge says of itself, where it has a part.
    async fn scrape(&self, routing: Routing) -> Option<Scrape> {
        match routing {
            Routing::Nearpool => Scrape::take(self.stage.admin).await.ok(),
            Routing::RoundRobin => None,
        }
    }

    fn take(&self, report: &CallReport, tally: &mut Tally) {
        let killed = |replica: &str, within: Duration| {
            self.killed.iter().any(|(name, at)| name == replica && at.elapsed() <= within + NEWS)
        };
        tally.take(report, killed);
    }

    async fn act(&mut self, cue: Cue, tally: &Tally) -> anyhow::Result<()> {
        let world = &self.stage.world;
        match cue {
            Cue::KillReplica => {
                let Some(name) = self.busiest() else { return Ok(()) };
                self.dies(&name, std::slice::from_ref(&name), tally).await;
                world.kill_replica(&name).await;
                let said = format!("killed {name}: connections reset, KV cache gone");
                self.tell(&self.screen.paint().red(&said));
            }
            Cue::KillRegion => {
                self.dies(REGION, &self.in_region(), tally).await;
                let replicas = world.kill_region(REGION).await;
                let said = format!("killed all of {REGION}: {replicas} replicas at once");
                self.tell(&self.screen.paint().red(&said));
            }
            Cue::HealReplica | Cue::HealRegion => {
                let Some(Down { name, before, edge }) = self.down.take() else { return Ok(()) };
                if cue == Cue::HealRegion {
                    world.heal_region(&name).await?;
                } else {
                    world.heal_replica(&name).await?;
                }
                let said = format!("healed {name}, its caches empty");
                self.tell(&self.screen.paint().green(&said));
                let edge = self.scrape(Routing::Nearpool).await.zip(edge).map(|(now, then)| now.since(&then));
                self.screen.print(&format!("          {}", meanwhile(tally, &before, edge.as_ref())));
            }
        }
        Ok(())
    }

    /// Notes who is about to die, before anybody can hear of it.
    async fn dies(&mut self, name: &str, replicas: &[String], tally: &Tally) {
        let edge = self.scrape(Routing::Nearpool).await;
        let now = Instant::now();
        self.killed.extend(replicas.iter().map(|replica| (replica.clone(), now)));
        self.down = Some(Down { name: name.to_owned(), before: tally.clone(), edge });
    }

    /// The replica of the region that served most: its death hurts.
    fn busiest(&self) -> Option<String> {
        let served = |name: &String| self.stage.world.replica(name).map(|replica| replica.stats().finished_total);
        self.in_region().into_iter().max_by_key(served)
    }

    fn in_region(&self) -> Vec<String> {
        let regions = self.stage.world.regions().iter().filter(|region| region.spec.name == REGION);
        let replicas = regions.flat_map(|region| &region.pools).flat_map(|pool| &pool.replicas);
        replicas.map(|replica| replica.name().to_owned()).collect()
    }

    fn agents(&self, phase: &Phase) -> AgentsParams {
        let target = match phase.routing {
            Routing::Nearpool => Target::BaseUrl { url: format!("http://{}", self.stage.agents), model: None },
            Routing::RoundRobin => Target::RoundRobin(Arc::new(RoundRobin::over(&self.stage.world, model_of))),
        };
        AgentsParams {
            agents: phase.agents,
            think: phase.think,
            in_mid_work: phase.in_mid_work,
            regions: REGIONS.to_vec(),
            context_tokens: CONTEXT_TOKENS,
            answer_tokens: ANSWER_TOKENS,
            seed: self.seed,
            ..AgentsParams::new(target)
        }
    }

    fn progress(&self, tally: &Tally) -> String {
        let seconds = self.started.elapsed().as_secs();
        let clock = match self.whole {
            Some(whole) => format!("{seconds:>4} / {} s", whole.as_secs()),
            None => format!("{seconds:>4} s"),
        };
        let cached = tally.cached_share().map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let mut line = format!(
            "{clock}  {}, {}, {} ended, {cached} cached",
            count(tally.calls, "call"),
            count(tally.errors, "error"),
            count(tally.sessions, "session"),
        );
        if let Some(down) = &self.down {
            line += &format!(", {} down", down.name);
        }
        line
    }
}

/// Waits for Enter; false when none can come any more.
async fn entered(enters: &mut Option<Receiver<()>>) -> bool {
    match enters {
        Some(enters) => enters.recv().await.is_some(),
        None => std::future::pending().await,
    }
}

/// The model that does a step, by its short name: what `[steps]` of `conf/demo.toml` tells the edge.
fn model_of(step: Step) -> &'static str {
    match step {
        Step::Planner | Step::Synthesizer => "70b",
        Step::ToolCaller | Step::Evaluator => "8b",
    }
}

/// What happened between a death and its end; `edge` is what the edge says of that time.
fn meanwhile(now: &Tally, before: &Tally, edge: Option<&Scrape>) -> String {
    let since = |count: fn(&Tally) -> u64| count(now) - count(before);
    let reason = |reason: &str| now.reason(reason) - before.reason(reason);
    let mut line = format!("meanwhile {}", count(since(|tally| tally.calls), "call"));
    for (calls, said) in [
        (reason("moved"), "moved"),
        (reason("failover"), "to the next region"),
        (edge.map_or(0, Scrape::resumes), "resumed"),
    ] {
        if calls > 0 {
            line += &format!(", {} {said}", thousands(calls));
        }
    }
    let (errors, cuts) = (since(|tally| tally.errors), since(|tally| tally.cuts));
    line + &format!(", {cuts} cut, {}", count(errors, "error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_phases_ask_the_same_models() {
        let config = include_str!("../../../conf/demo.toml");
        for step in Step::CHAIN {
            let line = format!("{} = \"llama-3.1-{}\"", step.name(), model_of(step));
            assert!(config.lines().any(|found| found == line), "{line}");
        }
    }
}
