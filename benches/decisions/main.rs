//! What a decision costs: time per choice of pool and replica, and the memory of what it rests on.
//!
//! `cargo bench --bench decisions` measures everything, and exits with 1 if a bound is exceeded; `-- --bounds` measures only
//! what has one. Linux only: memory comes from /proc.

mod bounds;
mod full;
mod memory;
#[path = "../shared/one_pool.rs"]
mod one_pool;

use std::collections::HashMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion};
use full::Full;
use nearpool::domain::ask::Dialect;
use nearpool::domain::ids::{ModelIx, PoolIx, RegionIx, ReplicaIx};
use nearpool::domain::place::Place;
use nearpool::domain::topology::{Credential, Engine, Model, Pool, Region, Topology};
use nearpool::domain::whereabouts::Whereabouts;
use nearpool::policy::client_rule::Asker;
use nearpool::policy::region::{NearestTo, Rules};
use nearpool::policy::replica::{Call, Candidate, SessionView, Standing};
use nearpool::policy::spill::Level;
use nearpool::policy::ttft::Typical;
use nearpool::policy::{affinity, pool, select};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// The edge's own, since memory is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One model with a pool in each of so many regions, spread over the globe.
fn topology(regions: usize) -> Topology {
    let place = |n: usize| Place { latitude: (n * 37 % 120) as f64 - 60.0, longitude: (n * 71 % 360) as f64 - 180.0 };
    let pool = |n: usize| Pool {
        name: format!("pool-{n}"),
        region: RegionIx(n),
        model: ModelIx(0),
        engine: Engine::Vllm,
        gpu: None,
        cost_per_hour: None,
        price_per_million_tokens: None,
        max_in_flight: 128,
        max_in_flight_total: None,
        queue: 0,
        queue_timeout: Duration::ZERO,
        kv_cache_tokens: None,
        credential: Credential::None,
        include_usage: true,
        dialects: Dialect::ALL.into_iter().collect(),
        replicas: Vec::new(),
    };
    Topology {
        edge: "edge".into(),
        home: RegionIx(0),
        regions: (0..regions).map(|n| Region::new(format!("region-{n}"), place(n))).collect(),
        models: vec![Model {
            name: "model".into(),
            served_as: "model".into(),
            aliases: Vec::new(),
            context_tokens: None,
            fallbacks: Vec::new(),
            pools: (0..regions).map(PoolIx).collect(),
        }],
        pools: (0..regions).map(pool).collect(),
        replicas: Vec::new(),
        model_names: HashMap::from([("model".into(), ModelIx(0))]),
        steps: HashMap::new(),
    }
}

/// The replicas of one pool, some busier than others.
fn replicas(count: usize) -> Vec<Candidate> {
    let replica = |n: usize| Candidate {
        replica: ReplicaIx(n),
        key: affinity::replica_key("pool-0", &format!("r-{n}")),
        standing: Standing::Usable,
        open_since: None,
        weight: 1.0,
        ttft: Typical::default(),
        in_flight: (n * 7 % 100) as u32,
        others: 0.0,
        cap: 128,
        engine_full: 0.0,
        rests: false,
        refuses: false,
        tried: false,
        cached_tokens: 0,
        shared_tokens: 0,
        queued_tokens: 0,
        tokens_per_s: Some(10_000.0),
    };
    (0..count).map(replica).collect()
}

/// `policy::select` whole: the walk over four regions, the nearest of which serves.
fn choose(c: &mut Criterion) {
    let topology = topology(4);
    let standings = Rules::default().standings(&topology, Asker::NOBODY, |_| None);
    let pools = pool::order(&topology, ModelIx(0), Dialect::Chat, &standings).unwrap_or_default();
    let mut group = c.benchmark_group("select");
    for count in [10, 100, 1_000] {
        let live = replicas(count);
        let home = live[count / 2];
        let placement = affinity::session_key(b"client", b"session");
        let at_home = (
            Some(SessionView { placement, home: Some(home.key), begun: true }),
            Some(select::Home { pool: pools[0].pool, candidate: home }),
        );
        let new = Some(SessionView { placement, home: None, begun: false });
        let cases = [("home", at_home), ("new", (new, None)), ("none", (None, None))];
        for (name, (session, home)) in cases {
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter_batched_ref(
                    || SmallRng::seed_from_u64(1),
                    |rng| {
                        let view = |_, view: &mut Vec<Candidate>| {
                            view.extend_from_slice(&live);
                            Level::Within
                        };
                        select::select(
                            black_box(&pools),
                            black_box(Call { session, ..Call::default() }),
                            black_box(home),
                            view,
                            |_| false,
                            true,
                            rng,
                        )
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

/// From where distances are measured.
const NEAREST_TO: [(&str, NearestTo); 2] = [("client", NearestTo::Client), ("edge", NearestTo::Edge)];

/// Station 4: how the regions stand to a client, and all pools in their order.
struct Order {
    topology: Topology,
    rules: Rules,
    whereabouts: Whereabouts,
}

impl Order {
    fn of(regions: usize, nearest_to: NearestTo) -> Order {
        let topology = topology(regions);
        let rules = Rules { nearest_to, ..Rules::default() };
        let place = Some(Place { latitude: 52.5, longitude: 13.4 });
        Order { topology, rules, whereabouts: Whereabouts { place, ..Whereabouts::NOWHERE } }
    }

    /// How many pools there are.
    fn pools(&self) -> usize {
        let asker = Asker { whereabouts: black_box(&self.whereabouts), keys: &[] };
        let standings = self.rules.standings(&self.topology, asker, |region| Some(region.0 as f64));
        pool::order(&self.topology, ModelIx(0), Dialect::Chat, &standings).map_or(0, |pools| pools.len())
    }
}

fn order(c: &mut Criterion) {
    let mut group = c.benchmark_group("order");
    for (name, nearest_to) in NEAREST_TO {
        for regions in [4, 32] {
            let order = Order::of(regions, nearest_to);
            group.bench_function(BenchmarkId::new(name, regions), |b| b.iter(|| order.pools()));
        }
    }
    group.finish();
}

/// The whole of it among 64 replicas whose caches are full, with prompts of 100,000 tokens: what is cached where is looked up
/// by some 200 cuts, and every replica's record read. `read` is what is noted of such a prompt once it is sent.
fn choose_of_full(c: &mut Criterion) {
    let full = Full::new();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut group = c.benchmark_group("full_64");
    let home = Some(Some(full.home));
    group.bench_function("home", |b| b.iter(|| full.choose(black_box(&full.warm), black_box(home), &mut rng)));
    let queue = full.queue(5_000);
    group.bench_function("home_queue", |b| b.iter(|| full.choose(black_box(&full.warm), black_box(home), &mut rng)));
    drop(queue);
    for (name, session) in [("new", Some(None)), ("none", None)] {
        group.bench_function(name, |b| b.iter(|| full.choose(black_box(&full.shared), black_box(session), &mut rng)));
    }
    group.bench_function("read", |b| b.iter(|| full.read(black_box(&full.warm))));
    group.finish();
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--memory") {
        println!("{}", memory::measure(args.get(at + 1).map_or("", String::as_str)));
        return ExitCode::SUCCESS;
    }
    let held = bounds::hold();
    if !args.iter().any(|arg| arg == "--bounds") {
        let mut criterion = Criterion::default().configure_from_args();
        choose(&mut criterion);
        choose_of_full(&mut criterion);
        order(&mut criterion);
        criterion.final_summary();
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
