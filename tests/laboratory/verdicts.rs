//! What must hold of a table.

use clap::ValueEnum;

use crate::lab::policies::Policy;
use crate::lab::report::{Figures, Tally};
use crate::lab::verdicts::{Kind, Table};

fn figures(share: f64, ttft: f64, answered: f64) -> Figures {
    let zero = Tally::default().figures();
    Figures { share, ttft_mean: ttft, ttft: [ttft; 3], answered, imbalance: 1.1, stood: 29.0, ..zero }
}

/// Nearpool beside others that are worse, an oracle that is a little better and a bound.
fn table(kind: Kind) -> Table {
    let of = |policy: &Policy| match policy {
        Policy::Nearpool | Policy::NearpoolLearns => figures(0.85, 3.0, 25_000.0),
        Policy::Oracle => figures(0.855, 2.9, 12_000.0),
        Policy::OracleAdmission => figures(0.855, 2.9, 26_000.0),
        Policy::Pooled => figures(0.86, 1.0, 99_000.0),
        Policy::LongestMatch => figures(0.858, 3.5, 13_000.0),
        _ => figures(0.2, 100.0, 9_000.0),
    };
    let lines = Policy::value_variants().iter().map(|policy| (*policy, of(policy))).collect();
    Table { kind, lines, shares: [0.85, 0.845] }
}

/// How many of the lines fail when Nearpool's figures are so.
#[track_caller]
fn check(kind: Kind, change: impl Fn(&mut Figures), failing: &[&str]) {
    let mut table = table(kind);
    let own = table.lines.iter_mut().find(|(policy, _)| *policy == Policy::Nearpool);
    change(&mut own.unwrap().1);
    let failed: Vec<_> =
        table.verdicts().into_iter().filter(|verdict| !verdict.holds).map(|verdict| verdict.says).collect();
    assert_eq!(failed.len(), failing.len(), "{failed:?}");
    failed.iter().zip(failing).for_each(|(failed, wanted)| assert!(failed.contains(wanted), "{failed}"));
}

#[test]
fn sessions_that_fit_are_judged_beside_the_oracle_and_all_others() {
    check(Kind::Sessions, |_| {}, &[]);
    check(Kind::Sessions, |own| own.share = 0.84, &["the oracle's", "longest match"]);
    check(Kind::Sessions, |own| own.ttft_mean = 3.3, &["1.1 × the oracle's"]);
    check(Kind::Sessions, |own| own.ttft_mean = 3.6, &["1.1 × the oracle's", "every other policy's"]);
    check(Kind::Sessions, |own| own.imbalance = 1.21, &["imbalance"]);
    check(Kind::Sessions, |own| own.share = f64::NAN, &["the oracle's", "longest match"]);
}

#[test]
fn overload_is_judged_by_answers_and_by_single_waits() {
    let kind = Kind::Overload { wait_max: 30.0 };
    check(kind, |_| {}, &[]);
    check(kind, |own| own.answered = 23_000.0, &["1.8 × the best"]);
    check(kind, |own| own.stood = 31.5, &["a request's wait"]);
}

#[test]
fn arrivals_are_judged_beside_the_bound_and_by_the_slowest() {
    check(Kind::Arrivals, |_| {}, &[]);
    check(Kind::Arrivals, |own| own.share = 0.83, &["pooled bound"]);
    check(Kind::Arrivals, |own| own.ttft[2] = 3.1, &["1.05 × the oracle's"]);
    check(Kind::Arrivals, |own| own.ttft[2] = 3.6, &["every other policy's", "1.05 × the oracle's"]);
}

#[test]
fn messages_may_cost_a_point_of_share() {
    for kind in [Kind::Sessions, Kind::Arrivals, Kind::Overload { wait_max: 30.0 }] {
        let mut table = table(kind);
        table.shares = [0.85, 0.839];
        assert_eq!(table.verdicts().iter().filter(|verdict| !verdict.holds).count(), 1);
    }
}
