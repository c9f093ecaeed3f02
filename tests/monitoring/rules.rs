//! The rules: well-formed, tested alert by alert, and about metrics that there are.

use std::collections::BTreeSet;

use super::known::{Known, clients_outcomes};
use super::promql;
use super::tools::{files, promtool, read, root};
use super::yaml::{self, Rule};

const RULES: &str = "conf/prometheus/rules";
const UNIT_TESTS: &str = "conf/prometheus/tests";

/// Every rule that ships.
pub(crate) fn all() -> Vec<Rule> {
    files(RULES).iter().flat_map(|path| yaml::rules(path)).collect()
}

/// The metrics that there are, with those that the rules record.
pub(crate) fn known() -> Known {
    let mut known = Known::metrics();
    all().iter().filter(|rule| !rule.alert).for_each(|rule| known.record(&rule.name));
    known
}

#[test]
fn configuration_and_rules_are_well_formed() {
    let config = [root().join("conf/prometheus/prometheus.yml")];
    let Some(said) = promtool(&["check", "config"], &config, "the check of the rules") else { return };
    assert_eq!(said.matches(" rules found").count(), files(RULES).len(), "{said}");
}

#[test]
fn every_unit_test_of_the_rules_passes() {
    let Some(said) = promtool(&["test", "rules"], &files(UNIT_TESTS), "the rules' unit tests") else { return };
    assert_eq!(said.matches("SUCCESS").count(), files(UNIT_TESTS).len(), "{said}");
}

#[test]
fn every_alert_is_shown_to_fire_and_to_be_silent() {
    let expected: Vec<_> = files(UNIT_TESTS).iter().flat_map(|path| yaml::expected(path)).collect();
    let alerts: Vec<Rule> = all().into_iter().filter(|rule| rule.alert).collect();
    assert!(alerts.len() > 15, "found only {} alerts", alerts.len());
    for alert in &alerts {
        for (fires, what) in [(true, "fires"), (false, "is silent")] {
            let shown = expected.iter().any(|one| one.alert == alert.name && one.fires == fires);
            assert!(shown, "no unit test shows that {} {what}", alert.name);
        }
    }
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(names.len(), alerts.len(), "an alert's name stands twice");
    let stray = expected.iter().find(|one| !names.contains(one.alert.as_str()));
    assert!(stray.is_none(), "a unit test for no alert: {stray:?}");
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_look_at() {
    for alert in all().iter().filter(|rule| rule.alert) {
        let field = |key| alert.field(key).unwrap_or_else(|| panic!("{} has no {key}", alert.name));
        assert!(["critical", "warning"].contains(&field("severity")), "{}", alert.name);
        assert!(field("summary").len() > 20 && field("description").contains("Look at: "), "{}", alert.name);
        assert!(alert.name.starts_with("Nearpool"), "{}", alert.name);
        // A refusal happens once: to wait would be to miss it.
        assert!(alert.field("for").is_some() || alert.name == "NearpoolConfigRefused", "{} has no `for`", alert.name);
    }
}

#[test]
fn rules_speak_of_metrics_and_labels_that_there_are() {
    let known = known();
    for rule in all() {
        let faults = promql::faults(rule.field("expr").expect("an expression"), &known);
        assert!(faults.is_empty(), "{}: {}", rule.name, faults.join("; "));
    }
}

#[test]
fn the_clients_own_failures_are_no_step_errors() {
    let rules = all();
    let rule = rules.iter().find(|rule| rule.name == "model:agent_step_errors:rate5m").expect("the rule");
    let left_out = rule.field("expr").unwrap().split_once("outcome!~\"").unwrap().1.split_once('"').unwrap().0;
    assert_eq!(left_out.split('|').collect::<BTreeSet<_>>(), clients_outcomes());
}

#[test]
fn the_guides_thresholds_are_those_of_the_rules() {
    let rules = all();
    for (alert, threshold) in [
        ("NearpoolTtftP50High", "p50_rate5m > 0.2 "),
        ("NearpoolTtftP99High", "p99_rate5m > 1 "),
        ("NearpoolStepErrorRateHigh", "ratio_rate5m > 0.01 "),
        ("NearpoolAgentCompletionSlow", "p95_rate30m > 30 "),
        ("NearpoolCallsPerInteractionHigh", "mean_rate30m > 20 "),
        ("NearpoolGpuUnderused", "avg15m < 0.4"),
        ("NearpoolInteractionCostHigh", "mean_rate30m > 0.05 "),
    ] {
        let rule = rules.iter().find(|rule| rule.name == alert).unwrap_or_else(|| panic!("no alert {alert}"));
        assert!(rule.field("expr").unwrap().contains(threshold), "{alert}: {:?}", rule.field("expr"));
    }
}

#[test]
fn the_tools_are_installed_where_the_tests_must_run() {
    assert!(read(".ci/run").contains("missing+=(prometheus)"), ".ci/run installs no Prometheus");
}
