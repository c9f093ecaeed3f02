//! The shipped files with shorter durations and other targets.

use super::FASTER;

/// `text` of a configuration or rule file with every duration divided.
pub(crate) fn faster(text: &str) -> String {
    text.lines().map(|line| faster_line(line) + "\n").collect()
}

fn faster_line(line: &str) -> String {
    for key in ["for: ", "scrape_interval: ", "evaluation_interval: "] {
        if let Some((indent, duration)) = line.split_once(key).filter(|(indent, _)| indent.trim().is_empty()) {
            return format!("{indent}{key}{}", divided(duration));
        }
    }
    if line.trim_start().starts_with('#') {
        return line.to_owned();
    }
    // Range windows: what stands in brackets and is a duration. A list of targets is none.
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((inner, tail)) = after.split_once(']') else { break };
        let window = if inner.starts_with(|c: char| c.is_ascii_digit()) { divided(inner) } else { inner.to_owned() };
        out += &format!("{before}[{window}]");
        rest = tail;
    }
    out + rest
}

/// A duration of one unit, divided, in ms.
fn divided(duration: &str) -> String {
    let (count, unit) = duration.split_at(duration.find(|c: char| !c.is_ascii_digit()).expect("a unit"));
    let ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => panic!("no unit {other} in {duration}"),
    };
    format!("{}ms", count.parse::<u32>().unwrap() * ms / FASTER)
}

/// The configuration with these targets in place of the shipped ones: the demo's edge, and its replicas' GPU pages.
pub(crate) fn aimed(config: &str, edge: &str, gpus: &[String], gpu_path: &str) -> String {
    let mut job = "";
    let mut out = String::new();
    for line in config.lines() {
        if let Some((_, name)) = line.split_once("job_name: ") {
            job = name;
        }
        // Every job has its targets once; those of further edges and hosts go.
        let targets = line.trim_start().starts_with("- targets:");
        let labels = line.trim_start().starts_with("labels:");
        match job {
            "nearpool" if targets && !out.contains(edge) => {
                out += &format!("      - targets: [\"{edge}\"]\n        labels: {{ edge: demo }}\n");
            }
            "dcgm" if targets && !out.contains(&gpus[0]) => {
                out += &format!("      - targets: {gpus:?}\n");
            }
            "nearpool" | "dcgm" if targets || labels => {}
            "dcgm" if line.contains("job_name") => out += &format!("{line}\n    metrics_path: {gpu_path}\n"),
            _ => out += &format!("{line}\n"),
        }
    }
    out
}

#[test]
fn durations_are_divided_and_nothing_else_is_changed() {
    for (line, expected) in [
        ("  scrape_interval: 15s", "  scrape_interval: 150ms"),
        ("        for: 5m", "        for: 3000ms"),
        (
            "expr: sum(rate(a_count[30m])) / 5 > 0.2 and b[15m]",
            "expr: sum(rate(a_count[18000ms])) / 5 > 0.2 and b[9000ms]",
        ),
        ("# for: 5m, a[5m]", "# for: 5m, a[5m]"),
        ("      - source_labels: [__name__]", "      - source_labels: [__name__]"),
        ("      summary: \"for 5m\"", "      summary: \"for 5m\""),
    ] {
        assert_eq!(faster(line), format!("{expected}\n"));
    }
}
