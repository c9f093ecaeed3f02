use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::engine_load::EngineLoad;
use crate::domain::ids::ReplicaIx;
use crate::observe::testing;
use crate::policy::gpu_load::GpuReport;
use crate::policy::interaction::CallEnd;

fn end<'a>(model: &'a str, outcome: Outcome, reason: Option<Reason>) -> RequestEnd<'a> {
    RequestEnd {
        region: "here",
        pool: "pool",
        model,
        step: "planner",
        outcome,
        reason,
        seconds: 0.3,
        cost_dollars: None,
    }
}

fn fresh() -> (Registry, Metrics) {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    (registry, metrics)
}

/// The engine of every replica says something of its load.
fn tell(roster: &Roster, kv_usage: Option<f64>, at: Instant) {
    let (kv_capacity_tokens, prefix_queries, prefix_hits) = (None, None, None);
    let load = EngineLoad { running: 7, waiting: 2, kv_usage, kv_capacity_tokens, prefix_queries, prefix_hits };
    for (_, live) in roster.snapshot().replicas() {
        live.set_engine(LoadReport { load, own_in_flight: 0, at });
        live.set_gpu(GpuReport { utilization: 0.4, at });
    }
}

#[track_caller]
fn check(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|present| present == *line), "no line {line} in\n{text}");
    }
}

#[test]
fn a_request_bumps_the_edges_and_the_agents_metrics() {
    let (registry, metrics) = fresh();
    metrics.request(&end("small", Outcome::Ok, Some(Reason::Session)));
    metrics.request(&end("small", Outcome::Cut, Some(Reason::Failover)));
    metrics.request(&end("", Outcome::ModelNotFound, None));
    check(
        &metrics.render(&registry),
        &[
            r#"nearpool_requests_total{model="small",outcome="ok",pool="pool",region="here"} 1"#,
            r#"nearpool_requests_total{model="",outcome="model_not_found",pool="pool",region="here"} 1"#,
            r#"agent_llm_calls_total{model="small",step_type="planner"} 2"#,
            r#"agent_step_errors_total{model="small",outcome="cut",step_type="planner"} 1"#,
            r#"agent_step_latency_seconds_bucket{model="small",step_type="planner",le="0.2"} 0"#,
            r#"agent_step_latency_seconds_bucket{model="small",step_type="planner",le="0.5"} 2"#,
            r#"nearpool_affinity_total{reason="session"} 1"#,
            r#"nearpool_affinity_total{reason="moved"} 0"#,
        ],
    );
}

#[test]
fn the_guides_buckets_are_kept() {
    assert_eq!(STEP_BUCKETS, [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]);
}

#[test]
fn names_and_labels_are_the_contracts() {
    let (registry, metrics) = fresh();
    metrics.request(&RequestEnd { cost_dollars: Some(0.01), ..end("small", Outcome::Cut, None) });
    metrics.attempt("pool", "r0", Outcome::Reset);
    metrics.retry(Outcome::Reset);
    metrics.overhead(0.000_03);
    metrics.ttft("pool", "small", CacheState::Warm, 0.05);
    metrics.stream_metrics("pool", "small").gap(0.01);
    metrics.tokens("pool", Some(10), None, Some(1));
    metrics.misdirected(None);
    metrics.config("abc");
    let roster = testing::roster(testing::config(&[1]));
    tell(&roster, Some(0.5), Instant::now());
    let snapshot = roster.snapshot();
    snapshot.round_trip(snapshot.live(ReplicaIx(0)).key(), Duration::from_millis(9));
    metrics.refresh(&snapshot, &roster, Instant::now());
    let found: BTreeSet<String> = registry
        .gather()
        .iter()
        .map(|family| {
            let labels: Vec<_> = family.get_metric()[0].get_label().iter().map(|label| label.name()).collect();
            format!("{}{{{}}}", family.name(), labels.join(","))
        })
        .collect();
    let expected = [
        "agent_interaction_calls{}",
        "agent_interaction_cost_dollars{}",
        "agent_interaction_seconds{}",
        "agent_llm_calls_total{model,step_type}",
        "agent_step_errors_total{model,outcome,step_type}",
        "agent_step_latency_seconds{model,step_type}",
        "nearpool_access_log_dropped_total{}",
        "nearpool_affinity_total{reason}",
        "nearpool_attempts_total{outcome,pool,replica}",
        "nearpool_breaker_state{pool,replica}",
        "nearpool_completion_tokens_total{pool}",
        "nearpool_config_info{hash}",
        "nearpool_config_reloads_total{result,source}",
        "nearpool_cost_dollars_total{model,step_type}",
        "nearpool_draining{}",
        "nearpool_geo_lookups_total{result}",
        "nearpool_gpu_utilization_ratio{pool,replica}",
        "nearpool_hedges_total{result}",
        "nearpool_itl_seconds{model,pool}",
        "nearpool_misdirected_total{country}",
        "nearpool_overhead_seconds{}",
        "nearpool_prompt_tokens_total{kind,pool}",
        "nearpool_proxy_header_faults_total{reason}",
        "nearpool_queued{pool}",
        "nearpool_region_rtt_seconds{region}",
        "nearpool_replica_in_flight{pool,replica}",
        "nearpool_replica_kv_usage_ratio{pool,replica}",
        "nearpool_replica_running{pool,replica}",
        "nearpool_replica_up{pool,replica}",
        "nearpool_replica_waiting{pool,replica}",
        "nearpool_requests_total{model,outcome,pool,region}",
        "nearpool_residency_total{result}",
        "nearpool_resumes_total{result}",
        "nearpool_retries_denied_total{}",
        "nearpool_retries_total{reason}",
        "nearpool_sessions{}",
        "nearpool_sessions_active{pool}",
        "nearpool_sessions_context_tokens{pool}",
        "nearpool_sessions_waiting{pool}",
        "nearpool_trace_spans_total{result}",
        "nearpool_ttft_seconds{cache,model,pool}",
    ];
    assert_eq!(found, expected.map(str::to_owned).into_iter().collect());
}

#[test]
fn costs_are_claimed_only_where_a_price_is_known() {
    let (registry, metrics) = fresh();
    metrics.request(&end("free", Outcome::Ok, None));
    metrics.request(&RequestEnd { cost_dollars: Some(0.25), ..end("small", Outcome::Ok, None) });
    metrics.request(&RequestEnd { cost_dollars: Some(0.5), ..end("small", Outcome::Cut, None) });
    let text = metrics.render(&registry);
    check(&text, &[r#"nearpool_cost_dollars_total{model="small",step_type="planner"} 0.75"#]);
    assert_eq!(text.matches("nearpool_cost_dollars_total{").count(), 1, "{text}");
}

#[test]
fn an_interaction_is_counted_with_the_guides_figures_as_edges() {
    let (registry, metrics) = fresh();
    let mut interaction = Interaction::new(0);
    for at_ms in 1..=20 {
        let call = CallEnd { outcome: Outcome::Ok, cost_dollars: Some(0.002), tokens: (0, 0, 0) };
        interaction.ends(&call, at_ms * 1_500);
    }
    metrics.interaction(&interaction);
    metrics.interaction(&Interaction::new(0));
    check(
        &metrics.render(&registry),
        &[
            r#"agent_interaction_calls_bucket{le="10"} 1"#,
            r#"agent_interaction_calls_bucket{le="20"} 2"#,
            r#"agent_interaction_seconds_bucket{le="20"} 1"#,
            r#"agent_interaction_seconds_bucket{le="30"} 2"#,
            r#"agent_interaction_cost_dollars_bucket{le="0.05"} 1"#,
            r#"agent_interaction_cost_dollars_bucket{le="0.02"} 0"#,
            "agent_interaction_cost_dollars_count 1",
        ],
    );
}

#[test]
fn cached_and_computed_tokens_add_up_to_the_prompt() {
    let (registry, metrics) = fresh();
    metrics.tokens("pool", Some(100), Some(60), Some(7));
    metrics.tokens("pool", Some(10), Some(11), None); // a replica that counts oddly
    metrics.tokens("pool", None, Some(5), None);
    check(
        &metrics.render(&registry),
        &[
            r#"nearpool_prompt_tokens_total{kind="cached",pool="pool"} 70"#,
            r#"nearpool_prompt_tokens_total{kind="computed",pool="pool"} 40"#,
            r#"nearpool_completion_tokens_total{pool="pool"} 7"#,
        ],
    );
}

#[test]
fn a_streams_gaps_arrive_at_its_end_and_in_batches_before() {
    let (registry, metrics) = fresh();
    let mut stream = metrics.stream_metrics("pool", "small");
    for _ in 0..ITL_BATCH + 1 {
        stream.gap(0.01);
    }
    check(&metrics.render(&registry), &[r#"nearpool_itl_seconds_count{model="small",pool="pool"} 32"#]);
    drop(stream);
    check(&metrics.render(&registry), &[r#"nearpool_itl_seconds_count{model="small",pool="pool"} 33"#]);
}

#[test]
fn one_config_series_at_a_time() {
    let (registry, metrics) = fresh();
    for hash in ["a", "b", "b", "a"] {
        metrics.config(hash);
    }
    let text = metrics.render(&registry);
    check(&text, &[r#"nearpool_config_info{hash="a"} 1"#]);
    assert_eq!(text.matches("nearpool_config_info{").count(), 1);
}

#[test]
fn replicas_that_are_gone_leave_no_series() {
    let (registry, metrics) = fresh();
    let roster = testing::roster(testing::config(&[1, 2]));
    let now = Instant::now();
    metrics.refresh(&roster.snapshot(), &roster, now);
    assert!(metrics.render(&registry).contains(r#"replica="r1""#));
    roster.swap(Arc::new(testing::config(&[1])), Arc::new(testing::geo()));
    roster.start_draining();
    metrics.refresh(&roster.snapshot(), &roster, now);
    let text = metrics.render(&registry);
    assert!(!text.contains(r#"replica="r1""#), "{text}");
    check(&text, &[r#"nearpool_replica_up{pool="pool",replica="r0"} 1"#, "nearpool_draining 1"]);
}

#[test]
fn what_engines_say_is_shown_while_it_tells_of_now_and_goes_with_the_replica() {
    let (registry, metrics) = fresh();
    let roster = testing::roster(testing::config(&[1, 2]));
    let (snapshot, start) = (roster.snapshot(), Instant::now());
    let shown = |now: Instant| -> Vec<String> {
        metrics.refresh(&roster.snapshot(), &roster, now);
        let text = metrics.render(&registry);
        let of_engine = ["nearpool_replica_running{", "nearpool_replica_waiting{", "nearpool_replica_kv_usage_ratio{"];
        text.lines().filter(|line| of_engine.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
    };
    assert!(shown(start).is_empty(), "nothing is known yet");
    tell(&roster, Some(0.5), start);
    assert_eq!(shown(start).len(), 6);
    check(
        &metrics.render(&registry),
        &[
            r#"nearpool_replica_running{pool="pool",replica="r1"} 7"#,
            r#"nearpool_replica_waiting{pool="pool",replica="r1"} 2"#,
            r#"nearpool_replica_kv_usage_ratio{pool="pool",replica="r1"} 0.5"#,
        ],
    );
    assert_eq!(shown(start + Duration::from_secs(9)).len(), 6);
    assert!(shown(start + Duration::from_secs(10)).is_empty(), "too old to tell");
    tell(&roster, None, start);
    assert_eq!(shown(start).len(), 4, "no engine is taken at a word that it did not say");
    roster.swap(Arc::new(testing::config(&[1])), Arc::new(testing::geo()));
    assert_eq!(shown(start).len(), 2);
    assert_eq!(snapshot.replicas().count(), 2);
}

#[test]
fn the_breakers_state_follows_its_time() {
    let (registry, metrics) = fresh();
    let roster = testing::roster(testing::config(&[1]));
    let (snapshot, start) = (roster.snapshot(), Instant::now());
    let live = snapshot.replicas().next().unwrap().1;
    let params = snapshot.config.circuit_breaker;
    let state = |now| {
        metrics.refresh(&snapshot, &roster, now);
        let text = metrics.render(&registry);
        let line = text.lines().find(|line| line.starts_with("nearpool_breaker_state{")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u8>().unwrap()
    };
    assert_eq!(state(start), 0);
    for _ in 0..2 {
        live.begin(8, params, false, start).unwrap().end(Outcome::Reset, start);
    }
    assert_eq!(state(start + Duration::from_secs(59)), 2);
    assert_eq!(state(start + Duration::from_secs(60)), 1);
}
