use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::observe::testing;

/// A replica that answers 200 or 503, and counts the checks.
struct Engine {
    port: u16,
    well: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
    checked: watch::Receiver<usize>,
}

impl Engine {
    async fn start() -> Engine {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (well, checks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (sender, checked) = watch::channel(0);
        let (is_well, count) = (Arc::clone(&well), Arc::clone(&checks));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let status = if is_well.load(Ordering::SeqCst) { "200 OK" } else { "503 Unavailable" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                sender.send_replace(count.fetch_add(1, Ordering::SeqCst) + 1);
            }
        });
        Engine { port, well, checks, checked }
    }

    /// Waits for `n` more checks.
    async fn checks(&mut self, n: usize) {
        let until = self.checks.load(Ordering::SeqCst) + n;
        let wait = self.checked.wait_for(|seen| *seen >= until);
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap();
    }
}

fn start(roster: &Arc<Roster>) {
    let (_sender, shutdown) = watch::channel(true);
    let probe = Probe::new(Arc::clone(roster));
    tokio::spawn(async move { probe.start(shutdown).await });
}

fn healthy(roster: &Roster, replica: usize) -> bool {
    roster.snapshot().live(ReplicaIx(replica)).reading().healthy
}

#[tokio::test]
async fn a_replica_changes_sides_after_the_configured_checks_and_back() {
    let (mut sick, mut well) = (Engine::start().await, Engine::start().await);
    let roster = testing::roster(testing::config(&[sick.port, well.port]));
    start(&roster);
    sick.checks(1).await;
    well.checks(1).await;
    assert!(healthy(&roster, 0) && healthy(&roster, 1));
    sick.well.store(false, Ordering::SeqCst);
    // The third is asked for only after the verdict on the second is in; the first may have begun before the change.
    sick.checks(4).await;
    assert!(!healthy(&roster, 0) && healthy(&roster, 1));
    sick.well.store(true, Ordering::SeqCst);
    sick.checks(4).await;
    assert!(healthy(&roster, 0));
}

#[tokio::test]
async fn a_reload_moves_the_checks() {
    let (mut old, mut new) = (Engine::start().await, Engine::start().await);
    let roster = testing::roster(testing::config(&[old.port]));
    start(&roster);
    old.checks(2).await;
    roster.swap(Arc::new(testing::config(&[new.port])), Arc::new(testing::geo()));
    new.checks(1).await;
    let after_move = old.checks.load(Ordering::SeqCst);
    new.checks(5).await;
    let late = old.checks.load(Ordering::SeqCst) - after_move;
    assert!(late <= 1, "at most the check that was under way: {late}");
}

#[tokio::test]
async fn a_host_name_is_resolved_before_its_first_check() {
    let mut engine = Engine::start().await;
    let mut config = testing::config(&[engine.port]);
    config.topology.replicas[0].address.host = "localhost".into();
    let roster = testing::roster(config);
    assert_eq!(roster.snapshot().live(ReplicaIx(0)).resolved(), None);
    start(&roster);
    let mut tries = 0;
    // `localhost` may resolve to ::1 first, where nobody listens: the address alone is the point then.
    while roster.snapshot().live(ReplicaIx(0)).resolved().is_none() {
        tries += 1;
        assert!(tries < 10_000);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if roster.snapshot().live(ReplicaIx(0)).resolved().is_some_and(|at| at.is_ipv4()) {
        engine.checks(1).await;
    }
}

#[test]
fn the_address_in_use_is_kept_while_the_name_still_has_it() {
    let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 80));
    assert_eq!(keep_or_first(None, [at(1), at(2)].into_iter()), Some(at(1)));
    assert_eq!(keep_or_first(Some(at(2)), [at(1), at(2)].into_iter()), Some(at(2)));
    assert_eq!(keep_or_first(Some(at(3)), [at(1), at(2)].into_iter()), Some(at(1)));
    assert_eq!(keep_or_first(Some(at(3)), std::iter::empty()), None);
}

#[test]
fn rounds_are_bounded_and_none_starves() {
    let ports: Vec<u16> = (1..=200).collect();
    let roster = testing::roster(testing::config(&ports));
    let snapshot = roster.snapshot();
    let mut schedule = Schedule::default();
    let start = Instant::now();
    schedule.follow(&snapshot, start);
    let mut seen = std::collections::HashSet::new();
    let later = start + snapshot.config.health.interval;
    for _ in 0..4 {
        let rounds = schedule.due(&snapshot, CHECKS_MAX, later);
        assert!(rounds.len() <= CHECKS_MAX);
        for round in rounds {
            schedule.done(&round.live, true, later);
            seen.insert(round.live.key());
        }
    }
    assert_eq!(seen.len(), 200);
}

#[test]
fn first_checks_are_spread_over_an_interval() {
    let ports: Vec<u16> = (1..=200).collect();
    let roster = testing::roster(testing::config(&ports));
    let snapshot = roster.snapshot();
    let mut schedule = Schedule::default();
    let start = Instant::now();
    schedule.follow(&snapshot, start);
    let half = start + snapshot.config.health.interval / 2;
    let early = schedule.due(&snapshot, usize::MAX, half).len();
    assert!((50..=150).contains(&early), "{early} of 200 in the first half");
}
