//! The Grafana dashboard: whole, laid out without overlap, and about metrics that there are.
//!
//! Grafana itself is in no package registry, so what draws it is not run; what it is made of is checked.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::known::clients_outcomes;
use super::promql;
use super::rules::known;
use super::tools::{promtool, read};

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

fn dashboard() -> Value {
    serde_json::from_str(&read("conf/grafana/nearpool.json")).expect("JSON")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels: Vec<&Value> = dashboard["panels"].as_array().expect("panels").iter().collect();
    assert!(panels.len() > 30, "found only {} panels", panels.len());
    panels
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {}", value["title"]))
}

/// Every expression with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((text(panel, "title").to_owned(), target));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
        found.push((text(annotation, "name").to_owned(), annotation));
    }
    found
}

/// An expression as Grafana asks it, with a value for each variable.
fn asked(expression: &str) -> String {
    let filled = expression.replace("$__rate_interval", "5m");
    ["edge", "region", "pool"].iter().fold(filled, |filled, name| filled.replace(&format!("${name}"), ".*"))
}

#[test]
fn every_panel_says_what_it_shows_and_stands_alone() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id stands twice");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title}: no {key}"));
        assert!(at("x") + at("w") <= COLUMNS && at("w") > 0 && at("h") > 0, "{title} leaves the grid");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} overlaps another panel at {x}, {y}");
            }
        }
        if panel["type"] != "row" {
            assert!(text(panel, "description").ends_with('.'), "{title} says not what it shows");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
            assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{title} asks nothing");
        }
    }
}

#[test]
fn the_data_source_and_what_is_filtered_by_are_variables() {
    let dashboard = dashboard();
    let variables: Vec<&Value> = dashboard["templating"]["list"].as_array().unwrap().iter().collect();
    let names: Vec<&str> = variables.iter().map(|variable| text(variable, "name")).collect();
    assert_eq!(names, ["datasource", "edge", "region", "pool"]);
    for (title, holder) in expressions(&dashboard) {
        assert_eq!(holder["datasource"]["uid"], "${datasource}", "{title}");
        let left = asked(text(holder, "expr"));
        assert!(!left.contains('$'), "{title} asks by an unknown variable: {left}");
    }
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let query = text(variable, "definition");
        let (series, label) =
            query.strip_prefix("label_values(").unwrap().trim_end_matches(')').rsplit_once(", ").unwrap();
        let faults = promql::faults(&format!("max by ({label}) ({})", asked(series)), &known());
        assert!(faults.is_empty(), "{query}: {faults:?}");
    }
}

#[test]
fn every_expression_speaks_of_metrics_and_labels_that_there_are() {
    let (dashboard, known) = (dashboard(), known());
    for (title, holder) in expressions(&dashboard) {
        let expression = asked(text(holder, "expr"));
        let faults = promql::faults(&expression, &known);
        assert!(faults.is_empty(), "{title}: {}", faults.join("; "));
        // A legend by a label that the expression sums away would be empty.
        let legend = holder["legendFormat"].as_str().unwrap_or_default();
        for label in legend.split("{{").skip(1).map(|rest| rest.split_once("}}").unwrap().0) {
            let kept = expression.contains(&format!("by ({label})"))
                || expression.contains(&format!("({label}, "))
                || expression.contains(&format!(", {label})"))
                || expression.contains(&format!(", {label}, "))
                || !expression.contains("by (");
            assert!(kept, "{title}: its legend wants {label}: {expression}");
        }
    }
}

#[test]
fn prometheus_understands_every_expression() {
    let dashboard = dashboard();
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (at, (_, holder)) in expressions(&dashboard).into_iter().enumerate() {
        let expression = serde_json::to_string(&asked(text(holder, "expr"))).unwrap();
        rules += &format!("      - record: panel_{at}\n        expr: {expression}\n");
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dashboard-{}.yml", std::process::id()));
    std::fs::write(&file, &rules).unwrap();
    let said = promtool(&["check", "rules"], std::slice::from_ref(&file), "the dashboard's expressions");
    std::fs::remove_file(&file).unwrap();
    let count = rules.matches("record:").count();
    assert!(said.is_none_or(|said| said.contains(&format!("{count} rules found"))));
}

#[test]
fn the_first_row_has_the_alerts_thresholds() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    assert_eq!(panels[0]["type"], "row");
    for (at, title, alert) in [
        (1, "TTFT P50", 0.2),
        (2, "TTFT P99", 1.0),
        (3, "Agent completion P95", 30.0),
        (4, "Calls per interaction", 20.0),
        (6, "Step error rate", 0.01),
        (7, "Cost per interaction", 0.05),
    ] {
        let steps = panels[at]["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap();
        let last = steps.last().unwrap();
        assert_eq!((text(panels[at], "title"), &last["color"]), (title, &Value::from("red")));
        assert_eq!(last["value"].as_f64(), Some(alert), "{title}");
    }
    // And counts as the alert does: what is the agents' own fault is left out.
    let errors = text(&panels[6]["targets"][0], "expr");
    let left_out = errors.split_once("outcome!~\"").unwrap().1.split_once('"').unwrap().0;
    assert_eq!(left_out.split('|').collect::<BTreeSet<_>>(), clients_outcomes());
    // The one of which little is bad.
    let gpu = &panels[5]["fieldConfig"]["defaults"]["thresholds"]["steps"];
    assert_eq!(
        (text(panels[5], "title"), &gpu[0]["color"], gpu[1]["value"].as_f64()),
        ("GPU utilisation", &Value::from("red"), Some(0.4))
    );
}
