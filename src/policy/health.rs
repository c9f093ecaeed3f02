//! Active health: what a row of health checks says of a replica.
//!
//! A replica changes sides only after several checks in a row agree, so that one lost packet neither empties a pool nor
//! fills a dead replica. It starts as usable: an edge that has just started must not refuse everything until the first
//! checks are in, and a call that meets a dead replica is retried elsewhere anyway.

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
    healthy: bool,
    /// Checks in a row that spoke against the present side.
    against: u32,
}

impl Default for Health {
    fn default() -> Health {
        Health { healthy: true, against: 0 }
    }
}

impl Health {
    /// Whether the replica counts as healthy.
    pub const fn is_healthy(self) -> bool {
        self.healthy
    }

    /// The state after one more check.
    #[must_use]
    pub const fn after(self, passed: bool, params: Params) -> Health {
        if passed == self.healthy {
            return Health { healthy: self.healthy, against: 0 };
        }
        let against = self.against + 1;
        let needed = if self.healthy { params.unhealthy_after } else { params.healthy_after };
        if against >= needed {
            Health { healthy: passed, against: 0 }
        } else {
            Health { healthy: self.healthy, against }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: Params = Params { unhealthy_after: 3, healthy_after: 2 };

    /// After each check (`+` passed, `-` failed) the replica is (`h`)ealthy or (`u`)nhealthy.
    #[track_caller]
    fn check(params: Params, checks: &str, states: &str) {
        let mut health = Health::default();
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
}
