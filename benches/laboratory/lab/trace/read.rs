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

fn shape<'r>(
    cells: &Cells<'_>,
    block_tokens: usize,
    earlier: impl Fn(usize) -> Option<&'r Shape>,
) -> Result<Shape> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "session,agent,seq,t_ms,model,in_tok,out_tok,nblk,ref,lcp,think_ms,api_ms,tool_sys_tok\n";

    #[test]
    fn a_sessions_file_is_read_in_its_order() {
        let text = format!("{HEAD}7,0,0,0,m,200,5,3,-1,0,0,10,70\n9,0,0,0,m,64,5,1,-1,0,0,10,0\n7,1,1,50,m,300,6,4,0,3,40,20,70\n");
        let Rows::Sessions(sessions) = parse(&text).unwrap() else { panic!("sessions") };
        let shape = Shape { input: 300, output: 6, blocks: 4, reference: Some(0), same: 3 };
        assert_eq!(sessions.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(sessions[0][1], SessionRow { agent: 1, at_ms: 50, think_ms: 40, answer_ms: 20, common: 70, shape });
    }

    #[test]
    fn what_does_not_hold_together_is_told_with_its_line() {
        let check = |text: String, wanted: &str| {
            let error = format!("{:#}", parse(&text).err().expect(wanted));
            assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
        };
        let good = "1,0,0,0,m,200,5,3,-1,0,0,10,70\n";
        check(String::new(), "no calls");
        check(HEAD.to_owned(), "no calls");
        check("t_ms,seq\n0,0\n".to_owned(), "line 2: there is no column `kind`");
        check(format!("{HEAD}1,0,0,0,m,200,5,3,-1\n"), "line 2: nothing in column `lcp`");
        check(format!("{HEAD}1,0,0,0,m,2x,5,3,-1,0,0,10,70\n"), "`in_tok` is no number that it may be: '2x'");
        check(format!("{HEAD}1,0,0,0,m,0,5,0,-1,0,0,10,70\n"), "`in_tok` is not between");
        check(format!("{HEAD}1,0,0,0,m,200,5,4,-1,0,0,10,70\n"), "`nblk` blocks hold more");
        check(format!("{HEAD}{good}1,0,2,0,m,200,5,3,0,3,0,10,70\n"), "line 3: `seq` does not count");
        check(format!("{HEAD}{good}1,0,1,0,m,200,5,3,1,3,0,10,70\n"), "line 3: `ref` is no earlier call");
        check(format!("{HEAD}{good}1,0,1,0,m,300,5,4,0,4,0,10,70\n"), "line 3: `lcp` is more than");
    }
}
