//! Whole runs, small ones.

use crate::lab::engine::Setup;
use crate::lab::policies::{AdmissionParams, Besides, Policy, Reading, Tuning};
use crate::lab::report::Figures;
use crate::lab::time::SECOND;
use crate::lab::trace::{Rows, generate};
use crate::lab::workload::{Gaps, Workload, build};
use crate::lab::world::{Play, run};

/// Prefills fast enough for misses, and so slow that misses pile up.
const FAST: f64 = 12_000.0;
const SLOW: f64 = 4_000.0;

/// Forty sessions on caches that hold about half of them.
fn play(workload: &Workload, policy: Policy, speed: f64, seed: u64) -> Figures {
    let engines = Setup { replicas: 4, cache_tokens: 400_000, speed, pooled: policy.pooled() };
    let play = Play { engines, ends: 3_600 * SECOND, ramp: 600 * SECOND, itl: 20_000, seed };
    let admission = AdmissionParams { factor: 1.1, active: 60 * SECOND, wait_max: Some(30 * SECOND) };
    let besides = Besides { kv_cache_tokens: Some(400_000), sessions: String::from("active = '1m'") };
    let tuning = Tuning { weight: 4.0, admission, besides };
    let reading = Reading::named(workload);
    let mut router = policy.router(&reading, 4, &tuning, seed).unwrap();
    run(workload, router.as_mut(), &play).figures()
}

fn workload() -> Workload {
    build(&Rows::Sessions(generate(40, 3)), None, Gaps::Think)
}

#[test]
fn equal_seeds_give_equal_figures_and_others_differ() {
    let workload = workload();
    for policy in [Policy::Random, Policy::OracleAdmission, Policy::NearpoolLearns] {
        assert_eq!(play(&workload, policy, FAST, 1), play(&workload, policy, FAST, 1));
        assert_ne!(play(&workload, policy, FAST, 1), play(&workload, policy, FAST, 2));
    }
}

#[test]
fn what_knows_more_caches_more() {
    let workload = workload();
    let share = |policy| play(&workload, policy, FAST, 1).share;
    let [blind, hashed, nearpool] = [Policy::RoundRobin, Policy::SessionHash, Policy::Nearpool].map(share);
    assert!(blind + 0.2 < hashed && hashed + 0.2 < nearpool, "{blind} {hashed} {nearpool}");
    // Nearpool's admission changes who calls, so that the bound is not its.
    let [oracle, pooled] = [Policy::Oracle, Policy::Pooled].map(share);
    assert!(hashed < oracle && oracle < pooled, "{oracle} {pooled}");
}

#[test]
fn admission_answers_more_and_nobody_waits_beyond_the_bound_without_a_refusal() {
    let workload = workload();
    let (without, with) = (play(&workload, Policy::Oracle, SLOW, 1), play(&workload, Policy::OracleAdmission, SLOW, 1));
    assert!(with.answered > without.answered, "{} and {}", with.answered, without.answered);
    assert!(with.waited > 0.0 && with.refused > 0.0, "{with:?}");
    assert_eq!((without.waited, without.refused), (0.0, 0.0));
}
