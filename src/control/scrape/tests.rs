use std::future::pending;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::round::{Answered, Miss};
use super::*;
use crate::config::Config;
use crate::control::testing::soon;
use crate::domain::health_check::Failure;
use crate::domain::ids::ReplicaIx;
use crate::domain::topology::{Credential, Engine, GpuMetrics, ReplicaAddress};
use crate::observe::testing;
use crate::policy::engine_load::LoadReport;
use crate::roster::Snapshot;
use crate::wire::engine::PAGE_BYTES_MAX;

const PAGE: &str = "vllm:num_requests_running{model_name=\"small\"} 7\nvllm:num_requests_waiting 2\n";

/// How a replica answers; an empty answer is silence.
type Answer = dyn Fn() -> Vec<u8> + Send + Sync;

/// A replica, and what it was asked so far, each request with its connection's number.
struct Replica {
    port: u16,
    asked: watch::Receiver<Vec<(usize, String)>>,
    answer: Arc<Mutex<Arc<Answer>>>,
}

impl Replica {
    async fn start(answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Replica {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, asked) = watch::channel(Vec::new());
        let (tell, answer) = (Arc::new(tell), Arc::new(Mutex::new(Arc::new(answer) as Arc<Answer>)));
        let shared = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut connections = 0..;
            while let (Ok((stream, _)), Some(n)) = (listener.accept().await, connections.next()) {
                tokio::spawn(talk(stream, n, Arc::clone(&tell), Arc::clone(&shared)));
            }
        });
        Replica { port, asked, answer }
    }

    /// Waits for `n` more questions.
    async fn questions(&mut self, n: usize) {
        let until = self.asked().len() + n;
        let wait = self.asked.wait_for(|asked| asked.len() >= until);
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().unwrap();
    }

    fn asked(&self) -> Vec<(usize, String)> {
        self.asked.borrow().clone()
    }
}

async fn talk(
    mut stream: TcpStream,
    n: usize,
    tell: Arc<watch::Sender<Vec<(usize, String)>>>,
    answer: Arc<Mutex<Arc<Answer>>>,
) {
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            request.push(byte);
        }
        tell.send_modify(|asked| asked.push((n, String::from_utf8(request).unwrap().to_lowercase())));
        let answer = Arc::clone(&answer.lock().unwrap());
        let bytes = answer();
        if bytes.is_empty() {
            return pending().await;
        }
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn http(status: u16, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// One replica, asked every 20 ms.
fn config(replica: &Replica) -> Config {
    let mut config = testing::config(&[replica.port]);
    config.engine_metrics.interval = Some(Duration::from_millis(20));
    config
}

fn start(config: Config) -> Arc<Roster> {
    let roster = testing::roster(config);
    let scrape = Scrape::new(Arc::clone(&roster), Connections::new());
    let (_sender, shutdown) = watch::channel(true);
    tokio::spawn(async move { scrape.start(shutdown).await });
    roster
}

fn told(roster: &Roster) -> Option<LoadReport> {
    roster.snapshot().live(ReplicaIx(0)).engine()
}

#[tokio::test]
async fn what_an_engine_says_stands_in_its_record_beside_the_edges_own_requests() {
    let mut replica = Replica::start(|| http(200, PAGE.as_bytes())).await;
    let config = config(&replica);
    let breaker = config.circuit_breaker;
    let roster = start(config);
    replica.questions(2).await;
    let first = told(&roster).unwrap();
    assert_eq!((first.load.running, first.load.waiting, first.own_in_flight), (7, 2, 0));
    let own = roster.snapshot().live(ReplicaIx(0)).begin(8, breaker, false, Instant::now()).unwrap();
    replica.questions(2).await;
    soon(|| told(&roster).is_some_and(|report| report.own_in_flight == 1 && report.at > first.at)).await;
    drop(own);
    replica.questions(3).await;
    soon(|| told(&roster).is_some_and(|report| report.own_in_flight == 0)).await;
}

#[tokio::test]
async fn one_connection_serves_all_questions_and_a_closed_one_is_replaced() {
    let mut replica = Replica::start(|| http(200, PAGE.as_bytes())).await;
    let _roster = start(config(&replica));
    replica.questions(10).await;
    assert!(replica.asked().iter().all(|(connection, _)| *connection == 0));
    let closing = [
        b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: ",
        &format!("{}\r\n\r\n{PAGE}", PAGE.len()).into_bytes()[..],
    ]
    .concat();
    *replica.answer.lock().unwrap() = Arc::new(move || closing.clone());
    replica.questions(4).await;
    let asked = replica.asked();
    assert_eq!(asked[asked.len() - 1].0, asked[asked.len() - 2].0 + 1, "each on a connection of its own");
}

#[tokio::test]
async fn the_question_goes_below_the_base_path_and_shows_the_pools_key_alone() {
    for (credential, shown) in
        [(Credential::Key("pools".into()), Some("bearer pools")), (Credential::Pass, None), (Credential::None, None)]
    {
        let mut replica = Replica::start(|| http(200, PAGE.as_bytes())).await;
        let mut config = config(&replica);
        config.topology.pools[0].credential = credential;
        config.topology.replicas[0].address.base_path = "/base".into();
        let _roster = start(config);
        replica.questions(1).await;
        let (_, request) = replica.asked().remove(0);
        assert!(request.starts_with("get /base/metrics http/1.1\r\n"), "{request}");
        assert!(request.contains("(metrics)\r\n") && !request.contains("x-api-key"), "{request}");
        let authorization = request.lines().find_map(|line| line.strip_prefix("authorization: "));
        assert_eq!(authorization, shown);
    }
}

/// Asks the first replica's source once.
async fn asked_once(config: Config, source: Source) -> Answered {
    let snapshot = testing::roster(config).snapshot();
    let (mut rounds, now) = (Rounds::new(source), Instant::now());
    rounds.follow(&snapshot, now);
    let round = rounds.due(&snapshot, 1, now + Duration::from_secs(1)).remove(0);
    round.ask(&Connections::new()).await
}

/// Asks a replica that answers so once, and says what is missing.
async fn check(answer: Vec<u8>, expected: Miss) {
    let replica = Replica::start(move || answer.clone()).await;
    let mut config = config(&replica);
    config.engine_metrics.timeout =
        Duration::from_millis(if expected == Miss::Failed(Failure::Timeout) { 50 } else { 20_000 });
    let Answered { result, live, .. } = asked_once(config, Source::Engine).await;
    assert_eq!(result, Err(expected));
    assert_eq!(live.engine(), None);
    assert!(live.reading().healthy && live.failing().is_none(), "it says nothing of its health");
}

#[tokio::test]
async fn a_replica_that_does_not_tell_is_none_the_worse_for_it() {
    let chunk = [b'x'; 1 << 16];
    let huge = [&b"HTTP/1.1 200 X\r\n\r\n"[..], &chunk.repeat(PAGE_BYTES_MAX / chunk.len() + 1)].concat();
    let cut = [&b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n"[..], PAGE.as_bytes()].concat();
    for (answer, expected) in [
        (http(404, b""), Miss::Failed(Failure::Status(404))),
        (http(503, PAGE.as_bytes()), Miss::Failed(Failure::Status(503))),
        (http(200, b"<html>\0\xff</html>"), Miss::NoNumbers),
        (http(200, b""), Miss::NoNumbers),
        (b"SSH-2.0-x\r\n\r\n".to_vec(), Miss::Failed(Failure::Garbage)),
        (huge, Miss::Failed(Failure::Garbage)),
        (Vec::new(), Miss::Failed(Failure::Timeout)),
        (cut, Miss::Failed(Failure::Timeout)),
    ] {
        check(answer, expected).await;
    }
    assert_eq!(Miss::Failed(Failure::Garbage).to_string(), "no page of at most 4 MiB");
}

/// How often one replica is asked in ten minutes when each question ends like this.
fn asked_in_ten_minutes(snapshot: &Arc<Snapshot>, mut end: impl FnMut(u32) -> Result<(), Miss>) -> u32 {
    let (mut rounds, start) = (Rounds::new(Source::Engine), Instant::now());
    rounds.follow(snapshot, start);
    let mut asked = 0;
    for tenth in 0..6_000 {
        let now = start + Duration::from_millis(100) * tenth;
        for round in rounds.due(snapshot, 8, now) {
            let end = end(asked);
            rounds.done(snapshot, round.answered(end, None), now);
            asked += 1;
        }
    }
    asked
}

#[test]
fn who_does_not_tell_is_asked_seldom_and_who_tells_again_as_often_as_before() {
    let snapshot = testing::roster(testing::config(&[1])).snapshot();
    let counts = |counts: std::ops::Range<u32>, end: &dyn Fn(u32) -> Result<(), Miss>| {
        let asked = asked_in_ten_minutes(&snapshot, end);
        assert!(counts.contains(&asked), "{asked}, expected {counts:?}");
    };
    let failed = |failure| Err(Miss::Failed(failure));
    counts(270..320, &|_| Ok(()));
    counts(18..25, &|_| failed(Failure::Status(404)));
    counts(18..25, &|_| Err(Miss::NoNumbers));
    counts(20..28, &|_| failed(Failure::Refused));
    // One that misses two of three is still listened to.
    counts(270..320, &|n| if n % 3 == 0 { Ok(()) } else { failed(Failure::Timeout) });
    // It comes back after five minutes or so.
    counts(120..180, &|n| if n > 10 { Ok(()) } else { failed(Failure::Refused) });
}

#[test]
fn nobody_is_asked_whose_numbers_have_unknown_names_or_when_it_is_switched_off() {
    let asked = |edit: fn(&mut Config)| {
        let mut config = testing::config(&[1]);
        edit(&mut config);
        asked_in_ten_minutes(&testing::roster(config).snapshot(), |_| Ok(()))
    };
    assert_eq!(asked(|config| config.engine_metrics.interval = None), 0);
    assert_eq!(asked(|config| config.topology.pools[0].engine = Engine::OpenAi), 0);
    assert!(asked(|config| config.topology.pools[0].engine = Engine::LlamaCpp) > 0);
}

#[tokio::test]
async fn a_reload_changes_who_is_asked_and_how_often_and_draining_changes_nothing() {
    let mut old = Replica::start(|| http(200, PAGE.as_bytes())).await;
    let mut new = Replica::start(|| http(200, PAGE.as_bytes())).await;
    let mut off = config(&old);
    off.engine_metrics.interval = None;
    let roster = start(off);
    let swap = |config| roster.swap(Arc::new(config), Arc::new(testing::geo()));
    swap(config(&old));
    old.questions(2).await;
    swap(config(&new));
    roster.start_draining();
    new.questions(1).await;
    let before = old.asked().len();
    new.questions(5).await;
    assert!(old.asked().len() <= before + 1, "at most the question that was under way");
}

const GPUS: &str = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 90\nDCGM_FI_DEV_GPU_UTIL{gpu=\"1\"} 30\n";

/// The exporter of the first replica, at this host.
fn exporter(replica: &Replica, host: &str, gpus: &[&str]) -> GpuMetrics {
    let base_path = "/gpus/metrics".into();
    GpuMetrics {
        page: ReplicaAddress { tls: false, host: host.into(), port: replica.port, base_path, http2: false },
        gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
    }
}

#[tokio::test]
async fn an_exporter_is_asked_for_the_replicas_gpus_and_is_shown_no_key() {
    let (engine, mut gpus) =
        (Replica::start(|| http(404, b"")).await, Replica::start(|| http(200, GPUS.as_bytes())).await);
    let mut config = config(&engine);
    config.topology.pools[0].credential = Credential::Key("pools".into());
    config.topology.replicas[0].gpu_metrics = Some(exporter(&gpus, "127.0.0.1", &["0"]));
    let roster = start(config.clone());
    gpus.questions(5).await;
    let told = |roster: &Roster| roster.snapshot().live(ReplicaIx(0)).gpu_utilization(Instant::now());
    assert_eq!(told(&roster), Some(0.9));
    let asked = gpus.asked();
    assert!(asked.iter().all(|(connection, _)| *connection == 0), "one connection serves all questions");
    assert!(asked[0].1.starts_with("get /gpus/metrics http/1.1\r\n") && !asked[0].1.contains("authorization"));
    config.topology.replicas[0].gpu_metrics = Some(exporter(&gpus, "127.0.0.1", &[]));
    roster.swap(Arc::new(config), Arc::new(testing::geo()));
    soon(|| told(&roster) == Some(0.6)).await;
    assert_eq!(roster.snapshot().live(ReplicaIx(0)).engine(), None, "the engine is another source");
}

#[tokio::test]
async fn an_exporter_has_its_own_host_name_which_is_looked_up_until_it_answers() {
    let gpus = Replica::start(|| http(200, GPUS.as_bytes())).await;
    for (host, expected) in
        [("localhost", Ok(())), ("127.0.0.1", Ok(())), ("no.such.host.invalid", Err(Miss::Failed(Failure::Unresolved)))]
    {
        let mut config = config(&gpus);
        config.engine_metrics.timeout = Duration::from_secs(20);
        config.topology.replicas[0].gpu_metrics = Some(exporter(&gpus, host, &[]));
        let Answered { result, at, .. } = asked_once(config, Source::Gpu).await;
        assert_eq!(result, expected, "{host}");
        assert_eq!(at.map(|(page, at)| (page.host, at.port())), expected.is_ok().then_some((host.into(), gpus.port)));
    }
}

#[tokio::test]
async fn an_exporter_without_the_replicas_gpus_is_asked_seldom_and_the_replica_is_none_the_worse_for_it() {
    let gpus = Replica::start(|| http(200, GPUS.as_bytes())).await;
    let mut config = config(&gpus);
    config.topology.replicas[0].gpu_metrics = Some(exporter(&gpus, "127.0.0.1", &["7"]));
    let Answered { result, live, at, .. } = asked_once(config, Source::Gpu).await;
    assert_eq!(result, Err(Miss::NoGpus));
    assert!(Miss::NoGpus.is_final() && at.is_none());
    assert_eq!(live.gpu_utilization(Instant::now()), None);
    assert!(live.reading().healthy && live.failing().is_none());
}
