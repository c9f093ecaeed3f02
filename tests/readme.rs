//! The README against what it describes: metrics, and the configuration it shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// `name{label,label}` with the labels in alphabetical order.
fn series<'a>(name: &str, labels: impl Iterator<Item = &'a str>) -> String {
    let labels: BTreeSet<_> = labels.collect();
    format!("{name}{{{}}}", labels.into_iter().collect::<Vec<_>>().join(","))
}

/// The pieces of a text between two marks: every other one of its splits.
fn between(text: &str, mark: char) -> impl Iterator<Item = &str> {
    text.split(mark).skip(1).step_by(2)
}

/// From the rows of the README's table.
fn documented(readme: &str) -> BTreeSet<String> {
    let rows = readme.lines().filter(|line| line.starts_with("| `nearpool_") || line.starts_with("| `agent_"));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1);
        let name = between(cells.next().unwrap(), '`').next().unwrap();
        series(name, between(cells.next().unwrap(), '`'))
    })
    .collect()
}

/// From the calls that make the metrics: `new.counters("name", "help", &["label", …])`.
fn made(source: &str) -> BTreeSet<String> {
    let calls = source.split("new.").skip(1).filter_map(|call| {
        let (kind, rest) = call.split_once('(')?;
        let arguments = rest.split_once(")?")?.0;
        ["counter", "float_counter", "gauge", "float_gauge", "histogram"]
            .contains(&kind.trim_end_matches('s'))
            .then_some(arguments)
    });
    calls
        .map(|arguments| {
            let name = between(arguments, '"').next().unwrap();
            let labels = arguments.split_once("&[").map_or("", |(_, rest)| rest.split_once(']').unwrap().0);
            series(name, between(labels, '"'))
        })
        .collect()
}

#[test]
fn every_metric_is_documented_with_its_labels_and_no_other() {
    let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/observe/metrics")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let parts = names.filter(|name| name.ends_with(".rs")).map(|name| read(&format!("src/observe/metrics/{name}")));
    let made = made(&[read("src/observe/metrics.rs"), parts.collect()].concat());
    assert!(made.len() > 10, "found too few in the source: {made:?}");
    assert_eq!(documented(&read("README.md")), made);
}

#[test]
fn the_shown_configuration_passes_the_check() {
    let readme = read("README.md");
    let shown: Vec<_> = readme.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(shown[0].contains("[edge]"));
    for (at, text) in shown.iter().enumerate() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("readme-{at}.toml"));
        // What is shown later is to be added to the first.
        let whole = if at == 0 { (*text).to_owned() } else { [shown[0], text].join("\n") };
        std::fs::write(&file, whole).unwrap();
        let check =
            Command::new(env!("CARGO_BIN_EXE_nearpool")).args(["check", "--config"]).arg(file).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }
}

/// What a heading is linked by.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-');
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_section_is_in_the_contents_and_every_link_within_the_page_leads_somewhere() {
    let readme = read("README.md");
    let headings = |level: &str| -> BTreeSet<String> {
        readme.lines().filter_map(|line| line.strip_prefix(level)).map(anchor).collect()
    };
    let links = |text: &str| -> BTreeSet<String> {
        text.split("](#").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
    };
    let (contents, _) = readme.split_once("\n## ").unwrap();
    assert_eq!(links(contents), headings("## "));
    let all = &headings("## ") | &headings("### ");
    let lost: Vec<_> = links(&readme).difference(&all).cloned().collect();
    assert!(lost.is_empty(), "{lost:?}");
}
