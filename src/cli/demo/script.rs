//! What happens when. The times are shares of the whole, so that a short demo shows the same as a long one.

use std::time::Duration;

/// The whole when nobody says how long: enough sessions in each part for steady figures.
pub(super) const SECONDS_DEFAULT: u64 = 75;
/// Below, failures and recoveries would run into each other.
pub(super) const SECONDS_MIN: u64 = 10;
/// Nothing new would be seen after an hour.
pub(super) const SECONDS_MAX: u64 = 3_600;

/// Something that befalls the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cue {
    KillReplica,
    HealReplica,
    KillRegion,
    HealRegion,
}

/// Who decides where the agents' calls go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Routing {
    /// The edge.
    Nearpool,
    /// A plain load balancer in each region: every call to the next replica in turn.
    RoundRobin,
}

/// When a phase ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// So long after the start.
    At(Duration),
    /// When somebody presses Enter.
    Enter,
    /// Never by itself.
    Told,
}

/// A stretch of time in which the agents behave alike.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) agents: usize,
    pub(super) routing: Routing,
    /// Shortest and longest pause between two calls of an agent.
    pub(super) think: (Duration, Duration),
    pub(super) until: Until,
    /// Whether its agents have been at work before.
    pub(super) in_mid_work: bool,
    /// What happens in it, since the start, in order.
    pub(super) cues: Vec<(Duration, Cue)>,
    /// How often a log gets a line of progress.
    pub(super) line_every: Duration,
}

/// Enough to keep each pool's GPUs busy for most of the time, as they should be, and two cores not.
const AGENTS: usize = 48;
/// For a look around after the show.
const AGENTS_LIGHT: usize = 6;
const THINK_MS: (u64, u64) = (50, 300);
const THINK_LIGHT_MS: (u64, u64) = (500, 2_500);

/// Through the edge: warm up, lose a replica and get it back, lose a region and get it back.
const CUES: [(f64, Cue); 4] =
    [(0.16, Cue::KillReplica), (0.28, Cue::HealReplica), (0.36, Cue::KillRegion), (0.54, Cue::HealRegion)];
/// Where the second phase begins.
const PHASE_2: f64 = 0.66;

/// The phase through the edge, with failures; then the comparison, without an edge and without failures.
pub(super) fn phases(whole: Duration) -> [Phase; 2] {
    let line_every = (whole / 15).max(Duration::from_secs(2));
    let phase = |routing, until| Phase {
        agents: AGENTS,
        routing,
        think: milliseconds(THINK_MS),
        until: Until::At(until),
        in_mid_work: false,
        cues: Vec::new(),
        line_every,
    };
    let cues = CUES.map(|(share, cue)| (whole.mul_f64(share), cue)).to_vec();
    [Phase { cues, ..phase(Routing::Nearpool, whole.mul_f64(PHASE_2)) }, phase(Routing::RoundRobin, whole)]
}

/// The traffic of the show, without failures.
pub(super) fn steady(until: Until) -> Phase {
    Phase {
        agents: AGENTS,
        routing: Routing::Nearpool,
        think: milliseconds(THINK_MS),
        until,
        in_mid_work: true,
        cues: Vec::new(),
        line_every: Duration::from_secs(10),
    }
}

/// After the show: light traffic without end.
pub(super) fn afterwards() -> Phase {
    Phase {
        agents: AGENTS_LIGHT,
        routing: Routing::Nearpool,
        think: milliseconds(THINK_LIGHT_MS),
        until: Until::Told,
        in_mid_work: false,
        cues: Vec::new(),
        line_every: Duration::from_secs(60),
    }
}

fn milliseconds((least, most): (u64, u64)) -> (Duration, Duration) {
    (Duration::from_millis(least), Duration::from_millis(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_killed_is_healed_before_its_phase_ends() {
        for seconds in [SECONDS_MIN, SECONDS_DEFAULT, SECONDS_MAX] {
            let [first, second] = phases(Duration::from_secs(seconds));
            assert!(first.cues.is_sorted_by_key(|(at, _)| *at));
            let Until::At(end) = first.until else { panic!("the first phase ends by itself") };
            assert!(first.cues.last().unwrap().0 + Duration::from_secs(1) <= end);
            assert_eq!(second.until, Until::At(Duration::from_secs(seconds)));
            assert_eq!((first.routing, second.routing), (Routing::Nearpool, Routing::RoundRobin));
            assert!(second.cues.is_empty());
        }
    }
}
