//! Engines say that they are full, and that they are not.

use std::time::{Duration, Instant};

use crate::domain::engine_load::EngineLoad;
use crate::domain::ids::{PoolIx, ReplicaIx};
use crate::observe::testing;
use crate::policy::engine_load::LoadReport;
use crate::policy::spill::Level;

#[test]
fn a_pool_whose_engines_are_full_takes_no_new_sessions_until_they_have_room_or_fall_silent() {
    use Level::{Past, Within};
    let roster = testing::roster(testing::config(&[8001, 8002]));
    let (snapshot, start) = (roster.snapshot(), Instant::now());
    let tell = |replica: usize, kv_usage: f64, waiting: u32, at: Instant| {
        let load = EngineLoad {
            running: 100,
            waiting,
            kv_usage: Some(kv_usage),
            kv_capacity_tokens: None,
            prefix_queries: None,
            prefix_hits: None,
        };
        // All of them this edge's own, far below its cap.
        snapshot.live(ReplicaIx(replica)).set_engine(LoadReport { load, own_in_flight: 100 + waiting, at });
    };
    let level = |at| snapshot.candidates(PoolIx(0), &[], |_| false, at, &mut Vec::new());
    assert_eq!(level(start), Within, "nothing is told");
    // By KV cache and by queue; each with the level that comes of it.
    for (first, second, expected) in [
        ((0.5, 0), (1.0, 40), Within),
        ((0.95, 0), (0.2, 25), Past),
        ((0.9, 0), (0.9, 0), Past),
        ((0.9, 0), (0.6, 0), Within),
        ((1.0, 0), (1.0, 0), Past),
    ] {
        tell(0, first.0, first.1, start);
        tell(1, second.0, second.1, start);
        assert_eq!(level(start), expected, "{first:?} {second:?}");
    }
    assert_eq!(level(start + Duration::from_secs(9)), Past);
    assert_eq!(level(start + Duration::from_secs(10)), Within, "what was said then says nothing of now");
}
