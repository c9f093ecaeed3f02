//! The names in a PromQL expression: which metrics, labels and label values it speaks of. Whether it is PromQL at all,
//! Prometheus says.

use super::known::{Known, values};

const AGGREGATIONS: [&str; 11] =
    ["sum", "avg", "min", "max", "count", "topk", "bottomk", "quantile", "group", "stddev", "count_values"];
const WORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "inf"];
const LABEL_LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// What is wrong with the names in an expression.
pub(crate) fn faults(expression: &str, known: &Known) -> Vec<String> {
    let tokens = tokens(expression);
    let mut faults = Vec::new();
    // Labels may be asked for that any of its metrics has.
    let mut labels: Vec<&str> = Vec::new();
    let mut asked: Vec<&str> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1).copied();
        at += 1;
        if !token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || WORDS.contains(token) {
            continue;
        }
        if LABEL_LISTS.contains(token) {
            if next == Some("(") {
                let list = tokens[at + 1..].iter().take_while(|token| **token != ")");
                asked.extend(list.clone().filter(|token| **token != ","));
                at += 1 + list.count();
            }
        } else if !AGGREGATIONS.contains(token) && next != Some("(") {
            let Some(own) = known.labels(token) else {
                faults.push(format!("no metric {token}"));
                continue;
            };
            labels.extend(own.iter().map(String::as_str));
            if next == Some("{") {
                let matchers: Vec<&str> = tokens[at + 1..].iter().copied().take_while(|token| *token != "}").collect();
                at += 1 + matchers.len();
                for matcher in matchers.split(|token| *token == ",").filter(|matcher| !matcher.is_empty()) {
                    let [label, _, value] = matcher else {
                        faults.push(format!("no matcher: {matcher:?}"));
                        continue;
                    };
                    if !own.contains(*label) {
                        faults.push(format!("{token} has no label {label}"));
                    }
                    faults.extend(value_faults(token, label, value));
                }
            }
        }
    }
    let unknown = asked.iter().filter(|label| !labels.contains(label));
    faults.extend(unknown.map(|label| format!("no metric here has a label {label}")));
    faults
}

/// The values that a matcher names, of a label whose values are a closed set. A variable of the dashboard is none.
fn value_faults(metric: &str, label: &str, quoted: &str) -> Vec<String> {
    let Some(closed) = values(metric, label) else { return Vec::new() };
    let named = quoted.trim_matches('"').split('|').filter(|value| !value.starts_with('$'));
    let unknown = named.filter(|value| !closed.contains(value));
    unknown.map(|value| format!("{label} of {metric} is never {value:?}")).collect()
}

fn tokens(expression: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let name = |c: char| c.is_ascii_alphanumeric() || "_:.$".contains(c);
        let length = match first {
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            c if name(c) => rest.find(|c| !name(c)).unwrap_or(rest.len()),
            '=' | '!' | '>' | '<' => rest.find(|c| !"=!~><".contains(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, tail) = rest.split_at(length);
        tokens.push(token);
        rest = tail.trim_start();
    }
    tokens
}

#[test]
fn names_that_do_not_exist_are_found() {
    let mut known = Known::metrics();
    known.record("pool_model:nearpool_ttft_seconds:p50_rate5m");
    for (expression, wrong) in [
        ("sum by (pool) (rate(nearpool_attempts_total{outcome!=\"ok\"}[5m])) > 0.5", 0),
        (
            "histogram_quantile(0.5, sum by (le, model) (rate(nearpool_ttft_seconds_bucket{cache=~\"warm|cold\"}[5m])))",
            0,
        ),
        ("avg by (pool) (pool_model:nearpool_ttft_seconds:p50_rate5m) and on (pool) nearpool_queued > 1e-3", 0),
        ("rate(nearpool_attempt_total[5m])", 1),
        ("nearpool_ttft_seconds", 1),
        ("nearpool_queued{replica=\"a\"}", 1),
        ("sum by (replica) (nearpool_queued)", 1),
        ("nearpool_attempts_total{outcome=~\"ok|okay\", zone!~\"x\"}", 2),
    ] {
        let found = faults(expression, &known);
        assert_eq!(found.len(), wrong, "{expression}: {found:?}");
    }
}
