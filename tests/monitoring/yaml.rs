//! The rule files and their unit tests as far as the checks need them. `promtool` is the judge of their YAML; here only
//! the one form is read in which they are written: one key a line, block scalars by indentation.

use std::path::Path;

/// A recording or an alerting rule.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    pub(crate) alert: bool,
    pub(crate) name: String,
    /// Keys of the rule, of `labels` and of `annotations` with their values, in one list.
    pub(crate) fields: Vec<(String, String)>,
}

impl Rule {
    pub(crate) fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }
}

/// What one unit test expects of an alert at some time.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) alert: String,
    pub(crate) fires: bool,
}

pub(crate) fn rules(path: &Path) -> Vec<Rule> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut rules: Vec<Rule> = Vec::new();
    for (key, value) in entries(&text) {
        if let "- alert" | "- record" = key.as_str() {
            rules.push(Rule { alert: key == "- alert", name: value, fields: Vec::new() });
        } else if let Some(rule) = rules.last_mut() {
            rule.fields.push((key, value));
        }
    }
    assert!(!rules.is_empty(), "no rule in {}", path.display());
    rules
}

pub(crate) fn expected(path: &Path) -> Vec<Expected> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut alert = None;
    let mut expected = Vec::new();
    for (key, value) in entries(&text) {
        match key.as_str() {
            "alertname" => alert = Some(value),
            "exp_alerts" => {
                let alert = alert.take().expect("`alertname` stands before `exp_alerts`");
                expected.push(Expected { alert, fires: value != "[]" });
            }
            _ => {}
        }
    }
    assert!(!expected.is_empty(), "nothing is expected in {}", path.display());
    expected
}

/// `key: value` of every line, the values of block scalars in one; `{ a: b }` counts as its parts.
fn entries(text: &str) -> Vec<(String, String)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut entries = Vec::new();
    let mut lines =
        text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()).peekable();
    while let Some(line) = lines.next() {
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        let mut value = value.trim().to_owned();
        if value == "|" || value == ">-" {
            value.clear();
            while let Some(more) = lines.next_if(|more| indent(more) > indent(line)) {
                value += more.trim();
                value.push(' ');
            }
        }
        if let Some(inner) = value.strip_prefix("{ ").and_then(|value| value.strip_suffix(" }")) {
            let parts = inner.split(", ").filter_map(|part| part.split_once(": "));
            entries.extend(parts.map(|(key, value)| (key.to_owned(), value.to_owned())));
        } else {
            entries.push((key.to_owned(), value.trim().trim_matches('"').to_owned()));
        }
    }
    entries
}
