use std::future::pending;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::config::Config;
use crate::control::testing::soon;
use crate::domain::health_check::Failure;
use crate::domain::ids::ReplicaIx;
use crate::domain::topology::Credential;
use crate::observe::testing;

/// A replica that answers as it is told to, and counts what it is asked.
struct Engine {
    port: u16,
    told: Arc<Mutex<Told>>,
    seen: watch::Receiver<Seen>,
}

/// What it is told.
#[derive(Clone, Copy)]
struct Told {
    /// The status on the health path; `None` is silence.
    health: Option<u16>,
    model: &'static str,
    /// The status of a call; `None` is silence.
    call: Option<u16>,
}

/// What it was asked so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// On the health path.
    checks: usize,
    calls: usize,
}

impl Engine {
    async fn start() -> Engine {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = Arc::new(Mutex::new(Told { health: Some(200), model: "small", call: Some(200) }));
        let (tell, seen) = watch::channel(Seen::default());
        let (tell, shared) = (Arc::new(tell), Arc::clone(&told));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared), Arc::clone(&tell)));
            }
        });
        Engine { port, told, seen }
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap());
    }

    fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// Waits for `n` more checks.
    async fn checks(&mut self, n: usize) {
        let until = self.seen().checks + n;
        self.wait(|seen| seen.checks >= until).await;
    }

    /// Waits for `n` more calls.
    async fn calls(&mut self, n: usize) {
        let until = self.seen().calls + n;
        self.wait(|seen| seen.calls >= until).await;
    }

    async fn wait(&mut self, wanted: impl FnMut(&Seen) -> bool) {
        tokio::time::timeout(Duration::from_secs(20), self.seen.wait_for(wanted)).await.unwrap().unwrap();
    }
}

/// Answers until the other side has had enough.
async fn serve(mut stream: TcpStream, told: Arc<Mutex<Told>>, tell: Arc<watch::Sender<Seen>>) {
    loop {
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.unwrap_or(0);
        let Some(line) = request[..read].split(|byte| *byte == b'\r').next().filter(|line| !line.is_empty()) else {
            return;
        };
        let line = String::from_utf8_lossy(line).into_owned();
        let told = *told.lock().unwrap();
        let (status, body) = if line.starts_with("GET /health ") {
            (told.health, String::new())
        } else if line.starts_with("GET /v1/models ") {
            (Some(200), format!(r#"{{"data":[{{"id":"{}"}}]}}"#, told.model))
        } else {
            (told.call, "{}".to_owned())
        };
        tell.send_modify(|seen| match line.starts_with("POST ") {
            true => seen.calls += 1,
            false => seen.checks += usize::from(line.starts_with("GET /health ")),
        });
        let Some(status) = status else { return pending().await };
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn start(roster: &Arc<Roster>) {
    let (_sender, shutdown) = watch::channel(true);
    let probe = Probe::new(Arc::clone(roster), Connections::new());
    tokio::spawn(async move { probe.start(shutdown).await });
}

fn start_with(engines: &[&Engine], edit: impl FnOnce(&mut Config)) -> Arc<Roster> {
    let ports: Vec<u16> = engines.iter().map(|engine| engine.port).collect();
    let mut config = testing::config(&ports);
    edit(&mut config);
    let roster = testing::roster(config);
    start(&roster);
    roster
}

fn healthy(roster: &Roster, replica: usize) -> bool {
    roster.snapshot().live(ReplicaIx(replica)).reading().healthy
}

fn failing(roster: &Roster, replica: usize) -> Option<&'static str> {
    roster.snapshot().live(ReplicaIx(replica)).failing().map(|failure| failure.label())
}

#[tokio::test]
async fn a_replica_changes_sides_after_the_configured_checks_and_back() {
    let (mut sick, mut well) = (Engine::start().await, Engine::start().await);
    let roster = start_with(&[&sick, &well], |config| config.health.warm_up = false);
    sick.checks(1).await;
    well.checks(1).await;
    assert!(healthy(&roster, 0) && healthy(&roster, 1));
    sick.tell(|told| told.health = Some(503));
    // The third is asked for only after the verdict on the second is in; the first may have begun before the change.
    sick.checks(4).await;
    assert!(!healthy(&roster, 0) && healthy(&roster, 1));
    assert_eq!((failing(&roster, 0), failing(&roster, 1)), (Some("status"), None));
    sick.tell(|told| told.health = Some(200));
    sick.checks(4).await;
    assert!(healthy(&roster, 0));
    assert_eq!(failing(&roster, 0), None);
    assert_eq!((sick.seen().calls, well.seen().calls), (0, 0), "no call is made that was not asked for");
}

#[tokio::test]
async fn a_replica_with_another_model_is_not_used_and_what_it_serves_is_told() {
    let mut engine = Engine::start().await;
    let roster = start_with(&[&engine], |_| ());
    engine.tell(|told| told.model = "big");
    engine.checks(4).await;
    assert!(!healthy(&roster, 0));
    let failure = roster.snapshot().live(ReplicaIx(0)).failing().unwrap();
    assert_eq!(*failure, Failure::wrong_model(&["big".into()], "small"));
    engine.tell(|told| told.model = "small");
    soon(|| healthy(&roster, 0)).await;
}

#[tokio::test]
async fn a_replica_that_comes_back_is_used_only_after_a_call_that_warms_it_up() {
    let (mut engine, mut other) = (Engine::start().await, Engine::start().await);
    let roster = start_with(&[&engine, &other], |_| ());
    engine.tell(|told| told.health = Some(503));
    engine.checks(4).await;
    engine.tell(|told| (told.health, told.call) = (Some(200), None));
    engine.calls(1).await;
    let checks = engine.seen().checks;
    other.checks(5).await;
    assert!(!healthy(&roster, 0), "the call is under way");
    assert_eq!((engine.seen().checks, engine.seen().calls), (checks, 1), "it is the only question under way");
    assert_eq!(other.seen().calls, 0, "who never was away is not cold");
}

#[tokio::test]
async fn a_warm_up_that_fails_or_never_ends_keeps_the_replica_out_until_one_succeeds() {
    let mut engine = Engine::start().await;
    let roster = start_with(&[&engine], |config| config.health.generation_timeout = Duration::from_millis(50));
    engine.tell(|told| told.health = Some(503));
    engine.checks(4).await;
    for status in [Some(500), None] {
        engine.tell(|told| (told.health, told.call) = (Some(200), status));
        let (before, checks) = (engine.seen().calls, engine.seen().checks);
        engine.calls(3).await;
        assert!(!healthy(&roster, 0));
        let calls = engine.seen().calls - before;
        assert!(engine.seen().checks - checks >= 2 * (calls - 1), "one call for each row of passed checks");
        soon(|| failing(&roster, 0) == Some("warm_up_failed")).await;
    }
    engine.tell(|told| told.call = Some(200));
    soon(|| healthy(&roster, 0)).await;
    let calls = engine.seen().calls;
    engine.checks(5).await;
    assert_eq!(engine.seen().calls, calls, "who is in use is not warmed up");
}

#[tokio::test]
async fn where_clients_bring_the_key_nobody_is_warmed_up() {
    let mut engine = Engine::start().await;
    let roster = start_with(&[&engine], |config| config.topology.pools[0].credential = Credential::Pass);
    engine.tell(|told| told.health = Some(503));
    engine.checks(4).await;
    assert!(!healthy(&roster, 0));
    engine.tell(|told| told.health = Some(200));
    soon(|| healthy(&roster, 0)).await;
    assert_eq!(engine.seen().calls, 0);
}

#[tokio::test]
async fn calls_that_hang_hold_up_no_checks() {
    let mut sick = Vec::new();
    for _ in 0..CALLS_MAX + CHECKS_MAX + 2 {
        sick.push(Engine::start().await);
    }
    let mut well = Engine::start().await;
    let all: Vec<&Engine> = sick.iter().chain([&well]).collect();
    let roster = start_with(&all, |config| config.health.timeout = Duration::from_secs(20));
    for engine in &mut sick {
        engine.tell(|told| told.health = Some(503));
    }
    soon(|| (0..sick.len()).all(|n| !healthy(&roster, n))).await;
    for engine in &mut sick {
        engine.tell(|told| (told.health, told.call) = (Some(200), None));
    }
    let calls = || sick.iter().map(|engine| engine.seen().calls).sum::<usize>();
    soon(|| calls() == CALLS_MAX).await;
    well.checks(20).await;
    assert_eq!(calls(), CALLS_MAX, "calls have a bound of their own");
}

#[tokio::test]
async fn a_replica_that_generates_nothing_is_not_used_where_that_is_checked() {
    let mut engine = Engine::start().await;
    let roster = start_with(&[&engine], |config| {
        config.health.generation_interval = Some(Duration::from_millis(20));
        config.health.generation_timeout = Duration::from_millis(50);
    });
    engine.calls(2).await;
    assert!(healthy(&roster, 0));
    engine.tell(|told| told.call = None);
    soon(|| !healthy(&roster, 0)).await;
    assert_eq!(failing(&roster, 0), Some("generation_failed"));
    engine.tell(|told| told.call = Some(200));
    soon(|| healthy(&roster, 0)).await;
}

#[tokio::test]
async fn what_a_reload_adds_beside_others_is_warmed_up_and_what_stands_alone_is_used_at_once() {
    let (mut old, mut new) = (Engine::start().await, Engine::start().await);
    let roster = start_with(&[&old], |_| ());
    old.checks(1).await;
    new.tell(|told| told.call = None);
    let swap = |ports: &[u16]| roster.swap(Arc::new(testing::config(ports)), Arc::new(testing::geo()));
    swap(&[old.port, new.port]);
    assert!(healthy(&roster, 0) && !healthy(&roster, 1));
    new.calls(1).await;
    assert_eq!(new.seen().checks, 1, "one passed check is enough");
    assert!(!healthy(&roster, 1), "its call is under way");
    assert_eq!(failing(&roster, 1), None);
    // It moves, with its whole pool: somebody has to serve.
    swap(&[new.port]);
    assert!(healthy(&roster, 0));
}

#[tokio::test]
async fn a_reload_moves_the_checks() {
    let (mut old, mut new) = (Engine::start().await, Engine::start().await);
    let roster = start_with(&[&old], |_| ());
    old.checks(2).await;
    roster.swap(Arc::new(testing::config(&[new.port])), Arc::new(testing::geo()));
    new.checks(1).await;
    let after_move = old.seen().checks;
    new.checks(5).await;
    let late = old.seen().checks - after_move;
    assert!(late <= 1, "at most the check that was under way: {late}");
}

#[tokio::test]
async fn a_check_that_hangs_is_the_only_one_of_its_replica() {
    let (mut hanging, mut other) = (Engine::start().await, Engine::start().await);
    hanging.tell(|told| told.health = None);
    let _roster = start_with(&[&hanging, &other], |config| config.health.timeout = Duration::from_secs(20));
    hanging.checks(1).await;
    other.checks(10).await;
    assert_eq!(hanging.seen().checks, 1);
}

#[tokio::test]
async fn a_host_name_is_resolved_before_its_first_check() {
    let mut engine = Engine::start().await;
    let mut config = testing::config(&[engine.port]);
    config.topology.replicas[0].address.host = "localhost".into();
    let roster = testing::roster(config);
    let resolved = || roster.snapshot().live(ReplicaIx(0)).resolved();
    assert_eq!(resolved(), None);
    start(&roster);
    // `localhost` may resolve to ::1 first, where nobody listens: the address alone is the point then.
    soon(|| resolved().is_some()).await;
    if resolved().is_some_and(|at| at.is_ipv4()) {
        engine.checks(1).await;
    }
}
