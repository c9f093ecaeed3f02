//! Active health: what a row of health checks says of a replica.
//!
//! A replica changes sides only after several checks in a row agree, so that one lost packet neither empties a pool nor
//! fills a dead replica. It starts as usable: an edge that has just started must not refuse everything until the first
//! checks are in, and a call that meets a dead replica is retried elsewhere anyway.
//!
//! A replica that a reload adds beside others that serve is not needed at once, and may still be loading its model. It
//! waits for its first passed check; one is enough, since nothing speaks against it.
//!
//! Whoever is not in use is taken for cold: a replica that was away may have started anew. So the check that would put it
//! into use is the moment for a warm-up call ([`Health::rises`]).

/// How many checks in a row change a replica's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Failed checks in a row until it is unhealthy; at least 1.
    pub unhealthy_after: u32,
    /// Passed checks in a row until it is healthy again; at least 1.
    pub healthy_after: u32,
}

/// What the checks so far say of one replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    side: Side,
    /// Checks in a row that spoke against the present side.
    against: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// Not checked with success yet, and used all the same: when an edge starts, nobody else may be there.
    Presumed,
    Healthy,
    Unhealthy,
    /// Not checked yet, and not needed before it is.
    Newcomer,
}

impl Default for Health {
    fn default() -> Health {
        Health { side: Side::Presumed, against: 0 }
    }
}

impl Health {
    /// The health of a replica that comes to others that serve.
    pub const fn newcomer() -> Health {
        Health { side: Side::Newcomer, against: 0 }
    }

    /// Whether the replica counts as healthy.
    pub const fn is_healthy(self) -> bool {
        matches!(self.side, Side::Presumed | Side::Healthy)
    }

    /// Whether it has failed all of its checks, if not yet often enough to be unhealthy: nothing speaks for it.
    pub const fn has_only_failed(self) -> bool {
        matches!(self.side, Side::Presumed) && self.against > 0
    }

    /// Whether one more passed check would make it healthy.
    pub const fn rises(self, params: Params) -> bool {
        !self.is_healthy() && self.after(true, params).is_healthy()
    }

    /// The state after one more check.
    #[must_use]
    pub const fn after(self, passed: bool, params: Params) -> Health {
        let needed = match (self.side, passed) {
            (Side::Healthy, true) | (Side::Unhealthy, false) => return Health { side: self.side, against: 0 },
            (Side::Presumed | Side::Healthy, false) => params.unhealthy_after,
            (Side::Unhealthy, true) => params.healthy_after,
            (Side::Presumed, true) | (Side::Newcomer, _) => 1,
        };
        let against = self.against + 1;
        if against < needed {
            return Health { side: self.side, against };
        }
        Health { side: if passed { Side::Healthy } else { Side::Unhealthy }, against: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: Params = Params { unhealthy_after: 3, healthy_after: 2 };

    /// After each check (`+` passed, `-` failed) the replica is (`h`)ealthy or (`u`)nhealthy.
    #[track_caller]
    fn check(params: Params, checks: &str, states: &str) {
        check_from(Health::default(), params, checks, states);
    }

    #[track_caller]
    fn check_from(mut health: Health, params: Params, checks: &str, states: &str) {
        let seen: String = checks
            .chars()
            .map(|check| {
                health = health.after(check == '+', params);
                if health.is_healthy() { 'h' } else { 'u' }
            })
            .collect();
        assert_eq!(seen, states, "after {checks}");
    }

    #[test]
    fn starts_as_healthy() {
        assert!(Health::default().is_healthy());
    }

    #[test]
    fn one_that_failed_from_the_start_is_told_from_one_that_passed_once() {
        let after = |checks: &str| checks.chars().fold(Health::default(), |health, c| health.after(c == '+', PARAMS));
        for (checks, only_failed) in
            [("", false), ("-", true), ("--", true), ("---", false), ("-+", false), ("-+-", false)]
        {
            assert_eq!(after(checks).has_only_failed(), only_failed, "after {checks}");
        }
    }

    #[test]
    fn changes_sides_only_after_enough_checks_in_a_row() {
        check(PARAMS, "--+--+--", "hhhhhhhh");
        check(PARAMS, "---", "hhu");
        check(PARAMS, "---+-+-+-", "hhuuuuuuu");
        check(PARAMS, "---++", "hhuuh");
    }

    #[test]
    fn the_count_starts_anew_on_each_side() {
        check(PARAMS, "---++--+", "hhuuhhhh");
        check(PARAMS, "---++---++", "hhuuhhhuuh");
    }

    #[test]
    fn thresholds_of_one_and_below_follow_every_check() {
        for least in [0, 1] {
            check(Params { unhealthy_after: least, healthy_after: least }, "-+-+", "uhuh");
        }
    }

    #[test]
    fn a_newcomer_waits_for_its_first_check_which_is_enough() {
        assert!(!Health::newcomer().is_healthy());
        check_from(Health::newcomer(), PARAMS, "+--", "hhh");
        check_from(Health::newcomer(), PARAMS, "-++", "uuh");
    }

    #[test]
    fn the_check_that_would_put_a_replica_into_use_is_known_before() {
        let after = |checks: &str| checks.chars().fold(Health::default(), |health, c| health.after(c == '+', PARAMS));
        assert!(Health::newcomer().rises(PARAMS));
        for (checks, rises) in [("", false), ("--", false), ("---", false), ("---+", true), ("---+-", false)] {
            assert_eq!(after(checks).rises(PARAMS), rises, "after {checks}");
        }
    }
}
