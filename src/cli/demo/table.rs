//! The end: what both phases showed, side by side.

use nearpool::sim::world::World;

use super::super::numbers::{count, thousands};
use super::scrape::Scrape;
use super::screen::Paint;
use super::script::Routing;
use super::show::Shown;
use super::tally::{Tally, Warmth};

const LABEL: usize = 38;
/// Whatever a cell holds, a blank parts it from the one before.
const COLUMN: usize = 20;

/// Reasons of the receipt, strongest last, in words.
const REASONS: [(&str, &str); 7] = [
    ("session", "stayed at its warm replica"),
    ("new", "session's first at its model"),
    ("moved", "its replica dead or too busy"),
    ("spill", "nearest region full"),
    ("failover", "nearest region down"),
    ("fallback", "another model"),
    ("none", "no session known"),
];

/// The table. A phase that did not begin is an empty column.
pub(super) fn table(phases: &[Shown], world: &World, paint: Paint) -> String {
    let tallies: Vec<&Tally> = phases.iter().map(|phase| &phase.tally).collect();
    let row = |label: &str, cell: &dyn Fn(&Shown) -> Option<String>| line(label, phases.iter().map(cell));
    let mut lines = vec![
        String::new(),
        paint.bold(&heading()),
        row("time", &|shown| Some(format!("{:.0} s", shown.took.as_secs_f64()))),
        row("calls", &|shown| Some(thousands(shown.tally.calls))),
        row("errors", &|shown| Some(thousands(shown.tally.errors))),
        row("died in mid-stream, went on elsewhere", &|shown| Some(thousands(shown.edge.as_ref()?.resumes()))),
        row("cut in mid-stream [1]", &|shown| Some(thousands(shown.tally.cuts))),
        row("sessions run to their end", &|shown| Some(thousands(shown.tally.sessions))),
        row("prompt tokens found in KV caches [2]", &|shown| {
            Some(format!("{:.1} %", shown.tally.cached_share()? * 100.0))
        }),
        row("prompt tokens computed for each call", &|shown| {
            Some(thousands(shown.tally.computed_per_call()?.round() as u64))
        }),
        row("TTFT of all calls, p50 / p99", &|shown| milliseconds(shown.tally.ttft_ms_all())),
    ];
    for model in sorted(tallies.iter().flat_map(|tally| tally.models())) {
        for warmth in [Warmth::Warm, Warmth::Cold] {
            let label = format!("  {model}, {}", warmth.name());
            lines.push(row(&label, &|shown| milliseconds(shown.tally.ttft_ms(model, warmth))));
        }
    }
    lines.push("calls by x-nearpool-reason".to_owned());
    for (reason, said) in REASONS.iter().filter(|(reason, _)| tallies.iter().any(|tally| tally.reason(reason) > 0)) {
        lines.push(row(&format!("  {reason}: {said}"), &|shown| {
            (shown.routing == Routing::Nearpool).then(|| thousands(shown.tally.reason(reason)))
        }));
    }
    lines.push(row("attempts made again", &|shown| {
        Some(thousands(shown.edge.as_ref()?.retries().iter().map(|(_, times)| times).sum()))
    }));
    lines.push(row("the edge's own time, p50 / p99 [3]", &|shown| overhead(shown.edge.as_ref()?)));
    lines.extend(gain(phases).map(|gain| format!("\n{}", paint.bold(&gain))));
    lines.push(String::new());
    lines.extend(served(&tallies, world, paint));
    lines.push(String::new());
    lines.push(notes(phases));
    lines.push(basis(world));
    lines.join("\n")
}

fn milliseconds(times: Option<(f64, f64)>) -> Option<String> {
    times.map(|(p50, p99)| format!("{p50:.0} / {p99:.0} ms"))
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn heading() -> String {
    line("", ["Nearpool", "round robin"].map(|text| Some(text.to_owned())))
}

fn line(label: &str, cells: impl IntoIterator<Item = Option<String>>) -> String {
    let mut line = format!("{label:<LABEL$}");
    for cell in cells {
        line += &format!(" {:>1$}", cell.unwrap_or_else(|| "–".to_owned()), COLUMN - 1);
    }
    line
}

/// What the operator has of it, where there is something.
fn gain(phases: &[Shown]) -> Option<String> {
    let computed = |routing| phases.iter().find(|shown| shown.routing == routing)?.tally.computed_per_call();
    let spared = 1.0 - computed(Routing::Nearpool)? / computed(Routing::RoundRobin)?;
    (spared >= 0.01).then(|| {
        format!("Per call, replicas compute {:.0} % fewer prompt tokens than with round robin.", spared * 100.0)
    })
}

fn overhead(edge: &Scrape) -> Option<String> {
    let at_most = |share| {
        let ms = edge.overhead_at_most(share)? * 1e3;
        // Bounds have two digits that count; rounding keeps 0.1 from becoming 0.09999….
        Some(if ms.is_finite() { ((ms * 1e3).round() / 1e3).to_string() } else { ">100".to_owned() })
    };
    Some(format!("≤ {} / {} ms", at_most(0.5)?, at_most(0.99)?))
}

/// Calls by continent and region, where a receipt tells the region.
fn served(tallies: &[&Tally], world: &World, paint: Paint) -> Vec<String> {
    let regions: Vec<&str> = world.regions().iter().map(|region| region.spec.name).collect();
    let mut heading = format!("{:<22}", "by Nearpool, calls to");
    heading.extend(regions.iter().map(|region| format!("{region:>14}")));
    let mut lines = vec![paint.bold(&heading)];
    for continent in sorted(tallies.iter().flat_map(|tally| tally.served.keys().map(|(continent, _)| *continent))) {
        let mut line = format!("{continent:<22}");
        for region in &regions {
            let calls = |tally: &&Tally| tally.served.get(&(continent, (*region).to_owned())).copied();
            let calls: u64 = tallies.iter().filter_map(calls).sum();
            line += &format!("{:>14}", if calls > 0 { thousands(calls) } else { "·".to_owned() });
        }
        lines.push(line);
    }
    lines
}

fn notes(phases: &[Shown]) -> String {
    let retries: Vec<String> = phases
        .iter()
        .filter_map(|phase| phase.edge.as_ref())
        .flat_map(Scrape::retries)
        .map(|(reason, times)| format!("{reason} {times}"))
        .collect();
    let retries =
        if retries.is_empty() { String::new() } else { format!("\nMade again after: {}.", retries.join(", ")) };
    let build = if cfg!(debug_assertions) {
        "\n    This is a debug build: its edge takes many times as long, and TTFT with it."
    } else {
        ""
    };
    format!(
        "[1] When a replica dies in mid-answer, a text stream goes on at another one.\n    \
         What cannot go on safely, as a tool call that is half said, ends with an\n    \
         error event, never as half an answer that looks whole. Such cuts do not\n    \
         count as errors here.\n\
         [2] Of a session's six calls, the first to each of its two models finds little:\n    \
         two thirds is about the most. Every call repeats all of the last one; round\n    \
         robin finds what earlier ones happen to have left where it comes. Each of\n    \
         the six counts alike, so that a shorter phase does not look colder.\n\
         [3] By nearpool_overhead_seconds: upper bounds of its buckets. Edge, agents and\n    \
         replicas share this machine's cores.{build}{retries}"
    )
}

/// What the figures stand on.
fn basis(world: &World) -> String {
    let pools = world.regions().first().map(|region| region.pools.as_slice()).unwrap_or_default();
    let models = pools.iter().map(|pool| {
        let engine = &pool.model.engine;
        let ttft_ms = |tokens| engine.ttft_idle(tokens).as_secs_f64() * 1e3;
        format!(
            "{} on {}, TTFT {:.0} ms at 2K tokens and {:.0} at 8K, {:.0} ms a token",
            pool.model.short.to_uppercase(),
            count(pool.model.gpus.into(), "GPU"),
            ttft_ms(2_048),
            ttft_ms(8_192),
            engine.decode_step.as_secs_f64() * 1e3,
        )
    });
    format!(
        "Replicas are simulated, as fast as is published for vLLM on H100:\n\
         {}.\n\
         The one edge stands for one in each region: all times have in them the round\n\
         trip from the agent to the nearest region, and on to the one that served it, as\n\
         measured between regions of Azure (Microsoft, CC BY 4.0), else 26 ms + 0.0143\n\
         ms/km. Round robin was spared the failures, and is no hop of its own: its agents\n\
         call the replicas of their nearest region directly.",
        models.collect::<Vec<_>>().join(";\n"),
    )
}

/// The last line: did agents that called the edge notice anything?
pub(super) fn verdict(phases: &[Shown], paint: Paint) -> String {
    let phases = || phases.iter().filter(|shown| shown.routing == Routing::Nearpool);
    let sum = |of: fn(&Tally) -> u64| phases().map(|phase| of(&phase.tally)).sum::<u64>();
    let (calls, errors, cuts) = (sum(|tally| tally.calls), sum(|tally| tally.errors), sum(|tally| tally.cuts));
    if errors == 0 && cuts == 0 {
        return paint.green(&format!("No agent saw an error in {} through the edge.", count(calls, "call")));
    }
    if errors == 0 {
        let cut = count(cuts, "stream");
        return paint.green(&format!(
            "No error in {} through the edge, but for {cut} cut in mid-answer [1].",
            count(calls, "call")
        ));
    }
    let mut lines = vec![paint.red(&format!(
        "Agents saw {} in {} through the edge:",
        count(errors, "error"),
        count(calls, "call")
    ))];
    lines.extend(phases().flat_map(|phase| &phase.tally.messages).map(|message| format!("  {message}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::show::Ended;
    use super::*;

    fn shown(routing: Routing, errors: u64) -> Shown {
        let mut tally = Tally::default();
        (tally.calls, tally.errors) = (7, errors);
        Shown { routing, tally, edge: None, ended: Ended::InTime, took: Duration::from_secs(1) }
    }

    #[test]
    fn columns_never_run_together() {
        let wide = || Some("≤ 5,000 / ≤ 100,000 µs".to_owned());
        assert!(line("label", [wide(), wide()]).contains("µs ≤"));
    }

    #[test]
    fn the_verdict_is_on_calls_through_the_edge() {
        let verdict = |edge, none| {
            let phases = [shown(Routing::Nearpool, edge), shown(Routing::RoundRobin, none)];
            super::verdict(&phases, Paint::default())
        };
        assert_eq!(verdict(0, 3), "No agent saw an error in 7 calls through the edge.");
        assert_eq!(verdict(2, 0), "Agents saw 2 errors in 7 calls through the edge:");
    }
}
