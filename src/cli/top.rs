//! `nearpool top`: how a running edge stands, in a terminal.
//!
//! What the edge tells comes in by [`feed`], is kept in a [`model`] and drawn by [`draw`], which is a function of it alone;
//! [`screen`] is the terminal.

mod columns;
mod draw;
mod feed;
mod format;
mod header;
mod lists;
mod model;
mod screen;
mod table;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use nearpool::wire::status::{History, Status};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use self::model::Model;
use super::page;

/// Columns of a frame that goes to a file or a pipe.
const PLAIN_WIDTH: u16 = 120;
/// Lines that a frame has at most: of an edge with thousands of replicas the first ones are printed.
const PLAIN_HEIGHT_MAX: u16 = 4_000;

#[derive(clap::Args, Debug)]
pub(super) struct TopArgs {
    /// The admin listener of a running edge.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901", value_parser = page::address)]
    admin: SocketAddr,
    /// Print one frame as plain text and end.
    #[arg(long)]
    once: bool,
}

pub(super) fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let live = std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !args.once;
    if live {
        runtime.block_on(screen::watch(args.admin))?;
        // A thread waits for keys, and nobody waits for it.
        runtime.shutdown_background();
        return Ok(ExitCode::SUCCESS);
    }
    if !args.once {
        eprintln!("this is no terminal: here is one frame, as with --once");
    }
    let model = runtime.block_on(ask(args.admin))?;
    print!("{}", plain(&model));
    Ok(ExitCode::SUCCESS)
}

/// What the edge tells now.
async fn ask(admin: SocketAddr) -> anyhow::Result<Model> {
    let status = page::get(admin, "/status").await;
    let status =
        status.with_context(|| format!("no edge tells its status at {admin}; see `edge.admin` of its config"))?;
    let status = Status::read(status.as_bytes()).with_context(|| format!("/status of {admin} cannot be read"))?;
    let mut model = Model::new(admin.to_string(), false);
    model.whole = true;
    model.status(status);
    // An older edge has none.
    if let Ok(history) = page::get(admin, "/history").await
        && let Ok(history) = History::read(history.as_bytes())
    {
        model.history(&history);
    }
    Ok(model)
}

/// A frame that has everything in it, as text.
fn plain(model: &Model) -> String {
    let height = draw::whole_height(model).min(PLAIN_HEIGHT_MAX);
    let Ok(mut terminal) = Terminal::new(TestBackend::new(PLAIN_WIDTH, height));
    let Ok(_drawn) = terminal.draw(|frame| draw::draw(frame, model));
    text(terminal.backend().buffer())
}

/// The lines of a buffer, without the spaces at their ends.
fn text(buffer: &Buffer) -> String {
    let lines = buffer.content().chunks(usize::from(buffer.area.width.max(1)));
    lines
        .map(|line| {
            let line: String = line.iter().map(|cell| cell.symbol()).collect();
            format!("{}\n", line.trim_end())
        })
        .collect()
}
