//! Reads a trace. What does not hold together is an error that names its line.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::rows::{ArrivalRow, Kind, Rows, SessionRow, Shape};

/// Longest prompt that is taken for one: above any engine's context, below what would exhaust this machine's memory.
const INPUT_TOKENS_MAX: u32 = 4_000_000;

/// Most calls of a file: a hundred times the largest known one.
const ROWS_MAX: usize = 3_000_000;

/// Reads a file of either kind; its head line tells which.
pub(crate) fn read(path: &Path) -> Result<Rows> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the trace {}", path.display()))?;
    parse(&text).with_context(|| format!("in the trace {}", path.display()))
}

/// Reads the text of a file.
pub(crate) fn parse(text: &str) -> Result<Rows> {
    let mut lines = text.lines();
    let columns = Columns::new(lines.next().unwrap_or_default());
    ensure!(lines.clone().count() <= ROWS_MAX, "more than {ROWS_MAX} calls");
    let numbered = lines.enumerate().map(|(n, line)| (n + 2, line)).filter(|(_, line)| !line.is_empty());
    let rows = if columns.has("session") { sessions(&columns, numbered)? } else { arrivals(&columns, numbered)? };
    let empty = match &rows {
        Rows::Sessions(sessions) => sessions.is_empty(),
        Rows::Arrivals(rows) => rows.is_empty(),
    };
    ensure!(!empty, "no calls in it");
    Ok(rows)
}

fn sessions<'t>(columns: &Columns, lines: impl Iterator<Item = (usize, &'t str)>) -> Result<Rows> {
    let mut sessions: Vec<Vec<SessionRow>> = Vec::new();
    let mut place: HashMap<u64, usize> = HashMap::new();
    for (number, line) in lines {
        let cells = columns.cells(line);
        let mut row = || -> Result<()> {
            let next = sessions.len();
            let place = *place.entry(cells.number("session")?).or_insert(next);
            if place == next {
                sessions.push(Vec::new());
            }
            let session = &mut sessions[place];
            ensure!(cells.number::<usize>("seq")? == session.len(), "`seq` does not count the session's calls");
            let shape = shape(&cells, SessionRow::BLOCK_TOKENS, |at| session.get(at).map(|row| &row.shape))?;
            session.push(SessionRow {
                agent: cells.number("agent")?,
                at_ms: cells.number("t_ms")?,
                think_ms: cells.number("think_ms")?,
                answer_ms: cells.number("api_ms")?,
                common: cells.number("tool_sys_tok")?,
                shape,
            });
            Ok(())
        };
        row().with_context(|| format!("line {number}"))?;
    }
    Ok(Rows::Sessions(sessions))
}

fn arrivals<'t>(columns: &Columns, lines: impl Iterator<Item = (usize, &'t str)>) -> Result<Rows> {
    let mut rows: Vec<ArrivalRow> = Vec::new();
    for (number, line) in lines {
        let cells = columns.cells(line);
        let mut row = || -> Result<()> {
            ensure!(cells.number::<usize>("seq")? == rows.len(), "`seq` does not count the calls");
            let kind = match cells.text("kind")? {
                "chat" => Kind::Chat,
                "tool46" => Kind::Tool46,
                "tool74" => Kind::Tool74,
                other => bail!("there is no kind '{other}'"),
            };
            let shape = shape(&cells, ArrivalRow::BLOCK_TOKENS, |at| rows.get(at).map(|row| &row.shape))?;
            rows.push(ArrivalRow { at_ms: cells.number("t_ms")?, kind, shape });
            Ok(())
        };
        row().with_context(|| format!("line {number}"))?;
    }
    Ok(Rows::Arrivals(rows))
}

fn shape<'r>(cells: &Cells<'_>, block_tokens: usize, earlier: impl Fn(usize) -> Option<&'r Shape>) -> Result<Shape> {
    let input: u32 = cells.number("in_tok")?;
    let (blocks, same): (usize, usize) = (cells.number("nblk")?, cells.number("lcp")?);
    ensure!(0 < input && input <= INPUT_TOKENS_MAX, "`in_tok` is not between 1 and {INPUT_TOKENS_MAX}");
    ensure!(blocks * block_tokens <= input as usize, "`nblk` blocks hold more tokens than `in_tok`");
    let reference = match cells.number::<i64>("ref")? {
        ..0 => None,
        at => Some(usize::try_from(at)?),
    };
    let most = match reference {
        None => 0,
        Some(at) => earlier(at).context("`ref` is no earlier call")?.blocks,
    };
    ensure!(same <= blocks.min(most), "`lcp` is more than the two prompts have");
    Ok(Shape { input, output: cells.number("out_tok")?, blocks, reference, same })
}

/// Where each column stands.
struct Columns<'t>(HashMap<&'t str, usize>);

/// One line.
struct Cells<'t> {
    columns: &'t Columns<'t>,
    cells: Vec<&'t str>,
}

impl<'t> Columns<'t> {
    fn new(head: &'t str) -> Columns<'t> {
        Columns(head.split(',').enumerate().map(|(at, name)| (name.trim(), at)).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn cells(&'t self, line: &'t str) -> Cells<'t> {
        Cells { columns: self, cells: line.split(',').collect() }
    }
}

impl Cells<'_> {
    fn text(&self, column: &str) -> Result<&str> {
        let at = self.columns.0.get(column).with_context(|| format!("there is no column `{column}`"))?;
        self.cells.get(*at).copied().with_context(|| format!("nothing in column `{column}`"))
    }

    fn number<T: std::str::FromStr>(&self, column: &str) -> Result<T> {
        let text = self.text(column)?;
        text.trim().parse().ok().with_context(|| format!("`{column}` is no number that it may be: '{text}'"))
    }
}
