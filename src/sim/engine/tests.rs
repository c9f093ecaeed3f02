//! Laws of the engine.

use super::*;
use crate::sim::preset::{Params, Preset};
use proptest::prelude::*;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn small(blocks: u32) -> Params {
    Params {
        block_tokens: 4,
        kv_blocks: blocks,
        max_num_seqs: 4,
        waiting_max: 100,
        chunk_tokens: 64,
        prefill_overhead: MS,
        prefill_token_ns: 1e6,
        decode_step: 2 * MS,
        decode_step_per_request: MS,
        report_tokens: true,
        stream_interval: 1,
    }
}

/// A prompt of `tokens` whose blocks are those of `family`.
fn ask(id: RequestId, family: u64, tokens: u64, output: u64) -> Submit {
    let blocks = (tokens + output) / 4;
    Submit {
        id,
        chain: (0..blocks).map(|at| family * 1000 + at + 1).collect(),
        prompt_tokens: tokens,
        output_tokens: output,
        ..Submit::default()
    }
}

fn drain(engine: &mut Engine) -> Vec<Event> {
    let mut out = Vec::new();
    while let Some(at) = engine.next_event_at() {
        engine.advance(at, &mut out);
    }
    out
}

fn first_token(events: &[Event], wanted: RequestId) -> (u64, Duration) {
    events
        .iter()
        .find_map(|event| match event {
            Event::FirstToken { id, cached_tokens, at } if *id == wanted => Some((*cached_tokens, *at)),
            _ => None,
        })
        .unwrap()
}

fn finished(events: &[Event], wanted: RequestId) -> Option<Duration> {
    events.iter().find_map(|event| match event {
        Event::Finished { id, at } if *id == wanted => Some(*at),
        _ => None,
    })
}

#[test]
fn it_is_as_busy_as_it_computes() {
    let mut engine = Engine::new(small(100));
    assert_eq!(engine.utilization(1_000 * MS), 0.0);
    // Its prefill takes 40 ms more than it would, and it decodes for 8 ms: 89 ms, of which 50 fall into the slot before.
    let slow = Submit { prefill_extra: 40 * MS, ..ask(1, 7, 40, 5) };
    engine.submit(1_050 * MS, slow).unwrap();
    assert_eq!(engine.utilization(1_100 * MS), 0.05, "the step in progress counts");
    let events = drain(&mut engine);
    assert_eq!(first_token(&events, 1), (0, (1_050 + 81) * MS));
    assert_eq!(engine.utilization(1_500 * MS), 0.089);
    assert_eq!(engine.utilization(2_100 * MS), 0.039);
    assert_eq!(engine.utilization(2_200 * MS), 0.0);
    let paced = Submit { pace: Some(Pace { first: 300 * MS, each: MS }), ..ask(2, 8, 40, 5) };
    engine.submit(2_300 * MS, paced).unwrap();
    assert_eq!(engine.utilization(3_000 * MS), 0.0, "a forced pace takes no share of the engine");
}

#[test]
fn a_slowed_prefill_holds_up_no_other_request() {
    let mut engine = Engine::new(small(100));
    engine.submit(Duration::ZERO, Submit { prefill_extra: 500 * MS, ..ask(1, 7, 40, 5) }).unwrap();
    engine.submit(Duration::ZERO, ask(2, 8, 40, 5)).unwrap();
    let events = drain(&mut engine);
    // It waits for the step in progress, and decodes a token in each slow one.
    assert!(finished(&events, 2).unwrap() <= (10 + 41 + 4 * 10) * MS);
    let (_, first) = first_token(&events, 1);
    assert!(first >= 541 * MS && first <= 551 * MS, "{first:?}");
}

#[test]
fn an_extended_prompt_pays_only_for_what_is_new() {
    let mut engine = Engine::new(small(100));
    engine.submit(Duration::ZERO, ask(1, 7, 40, 5)).unwrap();
    let events = drain(&mut engine);
    assert_eq!(first_token(&events, 1), (0, 41 * MS));
    let now = finished(&events, 1).unwrap();
    assert_eq!(now, 41 * MS + 4 * 2 * MS);
    // 40 prompt tokens and 4 of the 5 answer tokens are computed: 11 blocks.
    engine.submit(now, ask(2, 7, 60, 1)).unwrap();
    let (cached, at) = first_token(&drain(&mut engine), 2);
    assert_eq!(cached, 44);
    assert_eq!(at - now, 17 * MS);
    let stats = engine.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (100, 44));
}

#[test]
fn the_last_prompt_token_is_always_computed() {
    let mut engine = Engine::new(small(100));
    engine.submit(Duration::ZERO, ask(1, 7, 40, 1)).unwrap();
    drain(&mut engine);
    engine.submit(100 * MS, ask(2, 7, 40, 1)).unwrap();
    assert_eq!(first_token(&drain(&mut engine), 2), (36, 105 * MS));
}

#[test]
fn decode_slows_mildly_with_the_batch() {
    let mut engine = Engine::new(small(100));
    engine.submit(Duration::ZERO, ask(1, 1, 4, 10)).unwrap();
    engine.submit(Duration::ZERO, ask(2, 2, 4, 10)).unwrap();
    let events = drain(&mut engine);
    // The first is prefilled alone; the second is prefilled in the next step, in which the first decodes its token 1.
    assert_eq!(first_token(&events, 1).1, 5 * MS);
    assert_eq!(first_token(&events, 2).1, 12 * MS);
    assert_eq!(finished(&events, 1), Some(36 * MS));
    assert_eq!(finished(&events, 2), Some(38 * MS));
}

#[test]
fn a_request_that_does_not_fit_waits_and_then_runs() {
    let mut engine = Engine::new(small(10));
    engine.submit(Duration::ZERO, ask(1, 1, 20, 4)).unwrap();
    engine.submit(Duration::ZERO, ask(2, 2, 20, 4)).unwrap();
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 1));
    let events = drain(&mut engine);
    let freed = finished(&events, 1).unwrap();
    assert_eq!(first_token(&events, 2).1, freed + 21 * MS);
    assert_eq!(engine.stats().kv_usage_ratio, 0.0);
}

#[test]
fn a_request_larger_than_the_cache_is_refused() {
    let mut engine = Engine::new(small(10));
    let refused = engine.submit(Duration::ZERO, ask(1, 1, 40, 1));
    assert_eq!(refused, Err(Refused::TooLarge { needed: 11, total: 10 }));
    assert_eq!(engine.next_event_at(), None);
}

#[test]
fn names_and_queue_are_bounded() {
    let mut engine = Engine::new(Params { max_num_seqs: 1, waiting_max: 1, ..small(10) });
    engine.submit(Duration::ZERO, ask(1, 1, 8, 1)).unwrap();
    assert_eq!(engine.submit(Duration::ZERO, ask(1, 1, 8, 1)), Err(Refused::SameId));
    engine.submit(Duration::ZERO, ask(2, 1, 8, 1)).unwrap();
    assert_eq!(engine.submit(Duration::ZERO, ask(3, 1, 8, 1)), Err(Refused::QueueFull));
}

#[test]
fn cancel_frees_seat_and_blocks_in_every_state() {
    let mut engine = Engine::new(Params { max_num_seqs: 2, ..small(100) });
    engine.submit(Duration::ZERO, ask(1, 1, 4, 50)).unwrap();
    engine.submit(5 * MS, ask(2, 2, 200, 5)).unwrap();
    engine.submit(6 * MS, ask(3, 3, 8, 5)).unwrap();
    assert_eq!((engine.stats().running, engine.stats().waiting), (2, 1));
    assert!(engine.cancel(7 * MS, 3));
    assert!(engine.cancel(8 * MS, 2));
    assert!(engine.cancel(9 * MS, 1));
    assert!(!engine.cancel(9 * MS, 1));
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_usage_ratio), (0, 0, 0.0));
    assert!(!drain(&mut engine).iter().any(|event| matches!(event, Event::Finished { .. })));
    engine.submit(900 * MS, ask(3, 3, 8, 1)).unwrap();
    assert_eq!(first_token(&drain(&mut engine), 3).1, 909 * MS);
}

#[test]
fn a_forced_pace_is_kept_beside_a_busy_engine() {
    let mut engine = Engine::new(small(1000));
    engine.submit(Duration::ZERO, ask(1, 1, 300, 50)).unwrap();
    let pace = Some(Pace { first: 3 * MS, each: 10 * MS });
    engine.submit(MS, Submit { pace, ..ask(2, 2, 400, 20) }).unwrap();
    let events = drain(&mut engine);
    assert_eq!(first_token(&events, 2).1, 4 * MS);
    assert_eq!(finished(&events, 2), Some((4 + 190) * MS));
}

#[test]
fn presets_show_the_published_ttft() {
    let cases = [
        (Preset::Guide8b, 2048, 18.0),
        (Preset::Guide8b, 8192, 35.0),
        (Preset::Guide70b, 2048, 45.0),
        (Preset::Guide70b, 8192, 120.0),
    ];
    for (preset, tokens, ms) in cases {
        let mut engine = Engine::new(preset.params());
        let submit = Submit { id: 1, prompt_tokens: tokens, output_tokens: 3, ..Submit::default() };
        engine.submit(Duration::ZERO, submit).unwrap();
        let ours_ms = first_token(&drain(&mut engine), 1).1.as_secs_f64() * 1e3;
        assert!((ours_ms / ms - 1.0).abs() < 0.05, "{preset} {tokens}: {ours_ms}");
    }
}

#[derive(Debug, Clone)]
enum Act {
    Submit { family: u64, tokens: u64, output: u64 },
    Cancel(u64),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u64..4, 1u64..60, 1u64..30).prop_map(|(family, tokens, output)| Act::Submit { family, tokens, output }),
        1 => (0u64..40).prop_map(Act::Cancel),
        3 => (0u64..60_000).prop_map(Act::Wait),
    ]
}

/// Runs the acts, then to the end. Returns all events but `Tokens`, and the counters.
fn play(params: Params, acts: &[Act]) -> (Vec<Event>, Stats, Vec<RequestId>) {
    let mut engine = Engine::new(params);
    let mut now = Duration::ZERO;
    let (mut out, mut alive) = (Vec::new(), Vec::new());
    for (id, act) in (0u64..).zip(acts) {
        match act {
            Act::Submit { family, tokens, output } => {
                if engine.submit(now, ask(id, *family, *tokens, *output)).is_ok() {
                    alive.push(id);
                }
            }
            Act::Cancel(id) => {
                engine.advance(now, &mut out);
                if engine.cancel(now, *id) {
                    alive.retain(|other| other != id);
                }
            }
            Act::Wait(us) => {
                now += Duration::from_micros(*us);
                engine.advance(now, &mut out);
            }
        }
        let stats = engine.stats();
        assert!(stats.prefix_hits <= stats.prefix_queries);
        assert!(stats.running <= engine.params().max_num_seqs);
        assert!((0.0..=1.0).contains(&stats.kv_usage_ratio));
        // Work conservation: whoever waits, waits for a seat or for blocks that someone holds.
        assert!(stats.waiting == 0 || stats.running > 0);
        assert!(stats.running == 0 || engine.next_event_at().is_some());
    }
    out.extend(drain(&mut engine));
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_usage_ratio), (0, 0, 0.0));
    (out, stats, alive)
}

proptest! {
    #[test]
    fn every_request_gets_each_token_once_in_order(acts in proptest::collection::vec(act(), 1..60)) {
        let (events, _, alive) = play(small(24), &acts);
        for wanted in alive {
            let mut next = 0;
            let mut over = false;
            for event in &events {
                match *event {
                    Event::FirstToken { id, .. } if id == wanted => { prop_assert_eq!(next, 0); next = 1; }
                    Event::Tokens { id, index, count } if id == wanted => { prop_assert_eq!(next, index); next += count; }
                    Event::Finished { id, .. } if id == wanted => { prop_assert!(!over); over = true; }
                    _ => {}
                }
            }
            let Act::Submit { output, .. } = acts[wanted as usize] else { unreachable!() };
            prop_assert!(over);
            prop_assert_eq!(next, output);
        }
    }

    #[test]
    fn it_is_deterministic_and_many_steps_at_once_change_nothing(acts in proptest::collection::vec(act(), 1..60)) {
        let (one, stats, _) = play(small(24), &acts);
        let (two, same, _) = play(small(24), &acts);
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(stats, same);
        let untold = |events: Vec<Event>| -> Vec<Event> {
            events.into_iter().filter(|event| !matches!(event, Event::Tokens { .. })).collect()
        };
        let (by_three, slower, _) = play(Params { stream_interval: 3, ..small(24) }, &acts);
        let (mut bulk, fast, _) = play(Params { report_tokens: false, ..small(24) }, &acts);
        let (mut told, mut by_three) = (untold(one), untold(by_three));
        let order = |event: &Event| match *event {
            Event::FirstToken { id, at, .. } => (at, id, 0),
            Event::Finished { id, at } => (at, id, 1),
            Event::Tokens { id, .. } => (Duration::ZERO, id, 2),
        };
        told.sort_by_key(order);
        bulk.sort_by_key(order);
        by_three.sort_by_key(order);
        prop_assert_eq!(&told, &by_three);
        prop_assert_eq!(stats, slower);
        prop_assert_eq!(told, bulk);
        prop_assert_eq!(stats, fast);
    }
}
