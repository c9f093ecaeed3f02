//! Where the demo writes: one line that is rewritten on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use ratatui::crossterm::terminal;

/// How wide what is rewritten gets, and where the terminal does not tell how wide it is.
const COLUMNS: usize = 80;
/// Often enough to look alive.
const REDRAW: Duration = Duration::from_millis(200);

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    paint: Paint,
    /// Whether the last line is one of progress, to be rewritten.
    rewritten: bool,
    progress_at: Option<Instant>,
    gone: bool,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let terminal = io::stdout().is_terminal();
        // https://no-color.org
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        Screen { terminal, paint: Paint(colours), rewritten: false, progress_at: None, gone: false }
    }

    pub(super) fn paint(&self) -> Paint {
        self.paint
    }

    /// Nobody reads any more: the pipe is closed.
    pub(super) fn gone(&self) -> bool {
        self.gone
    }

    /// Writes lines that stay.
    pub(super) fn print(&mut self, text: &str) {
        let erased = if std::mem::take(&mut self.rewritten) { "\r\x1b[K" } else { "" };
        self.write(&format!("{erased}{text}\n"));
    }

    /// Whether a line of progress is due: soon on a terminal, `every` so often elsewhere.
    pub(super) fn progress_due(&self, every: Duration) -> bool {
        let every = if self.terminal { REDRAW } else { every };
        self.progress_at.is_none_or(|at| at.elapsed() >= every)
    }

    /// Writes a line of progress. On a terminal it stays only until the next line.
    pub(super) fn progress(&mut self, text: &str) {
        self.progress_at = Some(Instant::now());
        if !self.terminal {
            return self.print(text);
        }
        // A line that wraps could not be rewritten.
        let columns = terminal::size().map_or(COLUMNS, |(columns, _)| COLUMNS.min(columns.into()));
        let fits: String = text.chars().take(columns.saturating_sub(1)).collect();
        self.write(&format!("\r\x1b[K{}", self.paint.dim(&fits)));
        self.rewritten = true;
    }

    /// Takes the last line of progress away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.rewritten) {
            self.write("\r\x1b[K");
        }
    }

    fn write(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        // `println!` would panic.
        self.gone |= out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err();
    }
}

/// Colours, or none.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
