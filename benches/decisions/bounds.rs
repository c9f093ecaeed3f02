//! What may not be exceeded, measured by itself: criterion tells no figures.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use nearpool::control::geo;
use nearpool::policy::prefix_index::CUT_BYTES;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::full::Full;
use crate::memory;

/// The most that a choice among 64 replicas may take, in µs.
const CHOICE_US: f64 = 5.0;

/// The most that it may take to find out how 32 regions stand to a client, and to put their pools into order, in µs.
const ORDER_US: f64 = 2.0;

/// The most that it may take to find an address in the database that comes with the binary, in µs.
const LOOKUP_US: f64 = 1.0;

/// Addresses that are looked up in turn: so many do not stay in a core's cache with the nodes on their ways.
const ADDRESSES: usize = 100_000;

/// The most that it may take to note a prompt, in µs: all other choices in the pool wait for it.
const NOTE_US: f64 = 500.0;

/// Prompts that are noted to measure it.
const NOTED: usize = 101;

const REGIONS: usize = 32;

/// The most that a session, or an interaction, may take, in bytes.
const SESSION_BYTES: f64 = 200.0;

/// Timed in rounds of so many, of which the fastest tenth counts: whoever shares the machine only adds.
const ROUNDS: usize = 501;
const TIMES: u32 = 1_000;

/// Measures and prints all; false if one is exceeded.
pub(crate) fn hold() -> bool {
    let mut held = vec![
        judge("bytes a session, by name", memory::bytes(memory::NAMED), SESSION_BYTES),
        judge("bytes a session, by messages", memory::bytes(memory::TOLD), SESSION_BYTES),
        judge("bytes an interaction", memory::bytes(memory::INTERACTIONS), SESSION_BYTES),
        judge("bytes a cut and replica", memory::of_a_cut(), CUT_BYTES as f64),
    ];
    let full = Full::new();
    let mut rng = SmallRng::seed_from_u64(1);
    let home = Some(Some(full.home));
    let mut choice =
        |prompt, session| micros(|| full.choose(black_box(prompt), black_box(session), &mut rng).is_some());
    held.push(judge("µs a choice of 64, at home", choice(&full.warm, home), CHOICE_US));
    let queue = full.queue(5_000);
    held.push(judge("µs a choice of 64, at home with a queue", choice(&full.warm, home), CHOICE_US));
    drop(queue);
    held.push(judge("µs a choice of 64, new, shared instructions", choice(&full.shared, Some(None)), CHOICE_US));
    held.push(judge("µs a choice of 64, no session", choice(&full.shared, None), CHOICE_US));
    for (name, nearest_to) in crate::NEAREST_TO {
        let order = crate::Order::of(REGIONS, nearest_to);
        held.push(judge(
            &format!("µs to order 32 regions, from the {name}"),
            micros(|| order.pools() == REGIONS),
            ORDER_US,
        ));
    }
    held.push(judge("µs to find an address in the shipped database", look_up(&mut rng), LOOKUP_US));
    let read = micros(|| full.read(black_box(&full.warm)) > 0);
    println!("{:<48} {read:>8.2}", "µs to note what was sent, 200 cuts");
    held.push(judge("µs to note a new prompt of 32 MiB", note_longest(&full), NOTE_US));
    held.iter().all(|held| *held)
}

/// The fastest tenth of some: whoever shares the machine only adds.
fn note_longest(full: &Full) -> f64 {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut took: Vec<f64> = (0..NOTED).map(|_| full.note_longest(&mut rng)).collect();
    took.sort_by(f64::total_cmp);
    println!("{:<48} {:>8.2}", "µs the same, at the median", took[NOTED / 2]);
    took[NOTED / 10]
}

fn judge(what: &str, value: f64, most: f64) -> bool {
    let holds = value <= most;
    println!("{what:<48} {value:>8.2}  ≤ {most}{}", if holds { "" } else { "  FAILS" });
    holds
}

/// Half of IPv4, half of the IPv6 networks that are assigned.
fn look_up(rng: &mut SmallRng) -> f64 {
    // One that cannot be read is found by nobody.
    let Ok(db) = geo::read(None) else { return f64::INFINITY };
    let address = |n: usize, rng: &mut SmallRng| match n % 2 {
        0 => IpAddr::from(rng.random::<u32>().to_be_bytes()),
        _ => IpAddr::from((rng.random::<u128>() >> 3 | 1 << 125).to_be_bytes()),
    };
    let addresses: Vec<IpAddr> = (0..ADDRESSES).map(|n| address(n, rng)).collect();
    let mut addresses = addresses.iter().cycle();
    micros(|| addresses.next().is_some_and(|address| db.lookup(black_box(*address)).is_ok()))
}

fn micros(mut work: impl FnMut() -> bool) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            (0..TIMES).for_each(|_| assert!(black_box(work())));
            began.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 10]
}
