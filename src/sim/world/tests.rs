//! The world and its agents over real sockets.

use super::*;
use std::sync::Arc;
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
        context_tokens: (1_500, 3_000),
        think: (Duration::ZERO, Duration::from_millis(2)),
        sessions_per_agent: Some(2),
        ..AgentsParams::new(Target::BaseUrl { url: replica.url(), model: Some(replica.model().to_owned()) })
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
    assert!(headers.contains_key("x-forwarded-for"));
    assert!(!headers.contains_key("x-session-id") && !headers.contains_key("x-agent-step"), "agents are unmodified");
}

#[tokio::test]
async fn round_robin_goes_through_the_pool_of_the_steps_model_in_the_nearest_region() {
    let world = World::start(WorldParams { replicas_per_pool: 2, ..small() }).await.unwrap();
    let model_of = |step| if step == Step::Planner { "70b" } else { "8b" };
    let target = Target::RoundRobin(Arc::new(RoundRobin::over(&world, model_of)));
    let place = |name: &str| PLACES.into_iter().find(|place| place.name == name).unwrap();
    let nearest = |name: &str, step| {
        let url = target.next(Some(&place(name)), step).unwrap().url;
        world.replicas().find(|replica| replica.url() == url).unwrap().name().to_owned()
    };
    assert_eq!(nearest("Seattle", Step::Planner), "us-west-70b-0");
    assert_eq!(nearest("Montréal", Step::Planner), "us-east-70b-0");
    assert_eq!(nearest("Oregon", Step::Planner), "us-west-70b-1");
    assert_eq!(nearest("Oregon", Step::Evaluator), "us-west-8b-0");
    assert_eq!(nearest("Oregon", Step::Planner), "us-west-70b-0");
    let reports =
        all(AgentsParams { target: target.clone(), places: vec![place("Oregon")], ..agents_at(&world) }).await;
    assert_eq!(reports.len(), 3 * 2 * 6);
    for report in reports {
        assert_eq!(report.error, None);
        let model = if model_of(report.step) == "70b" {
            "meta-llama/Llama-3.1-70B-Instruct"
        } else {
            "meta-llama/Llama-3.1-8B-Instruct"
        };
        assert_eq!(report.model.as_deref(), Some(model));
    }
    let finished = |name| world.replica(name).unwrap().stats().finished_total;
    for (one, other) in [("us-west-8b-0", "us-west-8b-1"), ("us-west-70b-0", "us-west-70b-1")] {
        assert!(finished(one).abs_diff(finished(other)) <= 1, "{one} and {other} take turns");
    }
    assert_eq!(finished("us-east-70b-0"), 0);
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

#[tokio::test]
async fn the_ways_to_the_edge_and_on_take_their_time() {
    let world = World::start(small()).await.unwrap();
    let singapore = PLACES.into_iter().find(|place| place.name == "Singapore").unwrap();
    let regions = vec![REGIONS[0]];
    let far = AgentsParams { agents: 1, places: vec![singapore], sessions_per_agent: Some(1), ..agents_at(&world) };
    // Measured between Singapore and the west coast.
    let way = Duration::from_millis(163);
    for report in all(AgentsParams { regions, ..far.clone() }).await {
        assert!(report.ttft.unwrap() >= way && report.total >= report.ttft.unwrap(), "{report:?}");
    }
    assert!(all(far).await.iter().any(|report| report.ttft.unwrap() < way), "it is the way that takes so long");
}

#[test]
fn distances_are_those_of_the_globe() {
    let singapore_dublin = places::distance_km((1.35, 103.82), (53.35, -6.26));
    assert!((singapore_dublin - 11_180.0).abs() < 100.0, "{singapore_dublin}");
}
