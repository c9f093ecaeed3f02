//! The world and its agents over real sockets.

use super::*;
use std::time::Duration;

fn small() -> WorldParams {
    let mut params = WorldParams { replicas_per_pool: 1, ..WorldParams::default() };
    params.regions.truncate(2);
    for model in &mut params.models {
        model.engine = model.engine.clone().faster(10.0);
    }
    params
}

/// Agents that talk to a single replica, as if it were the edge.
fn agents_at(world: &World) -> AgentsParams {
    let replica = &world.regions()[0].pools[0].replicas[0];
    AgentsParams {
        agents: 3,
        model: replica.model().to_owned(),
        context_tokens: (1_500, 3_000),
        think: (Duration::ZERO, Duration::from_millis(2)),
        sessions_per_agent: Some(2),
        ..AgentsParams::new(replica.url())
    }
}

async fn all(params: AgentsParams) -> Vec<CallReport> {
    let (agents, mut reports) = Agents::start(params).unwrap();
    let mut all = Vec::new();
    while let Some(report) = reports.recv().await {
        all.push(report);
    }
    agents.stop().await;
    all.sort_by_key(|report| (report.agent, report.started));
    all
}

#[tokio::test]
async fn sessions_grow_and_stay_warm_at_one_replica() {
    let world = World::start(WorldParams { log_requests: 64, ..small() }).await.unwrap();
    let reports = all(agents_at(&world)).await;
    assert_eq!(reports.len(), 3 * 2 * 6);
    for report in &reports {
        assert_eq!((report.error.as_deref(), report.status), (None, Some(200)));
        assert!(report.ttft.unwrap() <= report.total);
    }
    for pair in reports.windows(2).filter(|pair| pair[0].session == pair[1].session) {
        // All but what was appended, and the last partial block.
        let (before, now) = (&pair[0], &pair[1]);
        assert!(now.cached_tokens.unwrap() + 16 > before.prompt_tokens.unwrap(), "{now:?} after {before:?}");
    }
    let logged = world.regions()[0].pools[0].replicas[0].requests();
    let headers = &logged[0].headers;
    assert!(headers.contains_key("x-session-id") && headers.contains_key("x-agent-step"));
    assert!(headers.contains_key("x-forwarded-for"));
}

#[tokio::test]
async fn agents_do_the_same_under_the_same_seed() {
    let world = World::start(small()).await.unwrap();
    let key = |report: CallReport| (report.session, report.call, report.prompt_tokens, report.completion_tokens);
    let one: Vec<_> = all(agents_at(&world)).await.into_iter().map(key).collect();
    let two: Vec<_> = all(agents_at(&world)).await.into_iter().map(key).collect();
    assert_eq!(one, two);
    let other = all(AgentsParams { seed: 2, ..agents_at(&world) }).await;
    assert_ne!(one, other.into_iter().map(key).collect::<Vec<_>>());
}

#[tokio::test]
async fn agents_report_what_fails_and_stop_when_told() {
    let world = World::start(small()).await.unwrap();
    let params = AgentsParams { sessions_per_agent: None, ..agents_at(&world) };
    assert_eq!(world.kill_region("us-west").await, 2);
    let (agents, mut reports) = Agents::start(params).unwrap();
    let failed = reports.recv().await.unwrap();
    assert!(!failed.ok() && failed.status.is_none());
    assert_eq!(world.heal_region("us-west").await.unwrap(), 2);
    while !reports.recv().await.unwrap().ok() {}
    let drain = tokio::spawn(async move { while reports.recv().await.is_some() {} });
    tokio::time::timeout(Duration::from_secs(20), agents.stop()).await.unwrap();
    drain.await.unwrap();
}

#[tokio::test]
async fn replicas_die_and_come_back_by_name() {
    let world = World::start(small()).await.unwrap();
    assert_eq!(world.replicas().count(), 4);
    let addr = world.replica("us-east-70b-0").unwrap().addr();
    assert!(world.kill_replica("us-east-70b-0").await);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    assert!(world.heal_replica("us-east-70b-0").await.unwrap());
    assert!(tokio::net::TcpStream::connect(addr).await.is_ok());
    assert!(!world.kill_replica("nobody").await);
}

#[test]
fn distances_are_those_of_the_globe() {
    let singapore_dublin = places::distance_km((1.35, 103.82), (53.35, -6.26));
    assert!((singapore_dublin - 11_180.0).abs() < 100.0, "{singapore_dublin}");
}
