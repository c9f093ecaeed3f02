//! `--from-log`: where would the calls of these addresses go? For planning: a region more, a bias, a rule.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use nearpool::wire::access_line;
use serde_json::{Value, json};

/// The longest line that is read; an access line has about 1 KiB.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Where one address goes.
pub(super) enum Goes {
    /// To a region so many km away.
    To(String, f64),
    /// Nowhere, since residency allows no region that serves the model.
    Refused,
}

/// How many go where.
#[derive(Default)]
pub(super) struct Replay {
    regions: BTreeMap<String, (usize, f64)>,
    refused: usize,
    unplaced: usize,
    /// Lines without an address, and the first of them.
    bad: usize,
    first_bad: Option<usize>,
}

impl Replay {
    /// Reads a list of addresses, one a line, or an access log; `goes` tells where an address goes and whether its place is
    /// known.
    pub(super) fn of(
        path: &Path,
        mut goes: impl FnMut(IpAddr) -> anyhow::Result<(Goes, bool)>,
    ) -> anyhow::Result<Replay> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let (mut reader, mut replay, mut line) = (BufReader::new(file), Replay::default(), Vec::new());
        for number in 1.. {
            line.clear();
            let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.with_context(|| format!("cannot read {}", path.display()))? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let Some(address) = access_line::address(text) else {
                replay.bad += 1;
                replay.first_bad.get_or_insert(number);
                continue;
            };
            let (goes, placed) = goes(address)?;
            replay.unplaced += usize::from(!placed);
            match goes {
                Goes::To(region, km) => {
                    let (count, total_km) = replay.regions.entry(region).or_default();
                    *count += 1;
                    *total_km += km;
                }
                Goes::Refused => replay.refused += 1,
            }
        }
        Ok(replay)
    }

    fn calls(&self) -> usize {
        self.refused + self.regions.values().map(|(count, _)| count).sum::<usize>()
    }

    /// Regions with the calls that they get, most first, and their mean distance in km.
    fn rows(&self) -> Vec<(&str, usize, f64)> {
        let rows = self.regions.iter().map(|(name, (count, km))| (name.as_str(), *count, km / *count as f64));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|(name, count, _)| (std::cmp::Reverse(*count), *name));
        rows
    }

    pub(super) fn print(&self) {
        let calls = self.calls();
        println!("{calls} addresses, {} of them without a known place", self.unplaced);
        let share = |count: usize| 100.0 * count as f64 / calls.max(1) as f64;
        for (region, count, km) in self.rows() {
            println!("  {region:<16} {count:>9}  {:>5.1} %  {km:>7.0} km on average", share(count));
        }
        if self.refused > 0 {
            println!("  {:<16} {:>9}  {:>5.1} %", "refused", self.refused, share(self.refused));
        }
        if let Some(first) = self.first_bad {
            println!("{} lines have no address, the first is line {first}", self.bad);
        }
    }

    pub(super) fn json(&self) -> Value {
        let rows = self.rows();
        let rows =
            rows.iter().map(|(region, count, km)| json!({ "region": region, "calls": count, "mean_km": km.round() }));
        json!({
            "calls": self.calls(),
            "regions": rows.collect::<Vec<_>>(),
            "refused": self.refused,
            "without_a_place": self.unplaced,
            "bad_lines": self.bad,
        })
    }
}
