//! The terminal: drawn anew when something is new, and given back as it was, also after a signal or a panic.

use std::net::SocketAddr;

use nearpool::wire::status::Told;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver};

use super::draw::draw;
use super::feed::{News, follow};
use super::model::Model;

/// What waits to be drawn; whoever sends more waits.
const QUEUE: usize = 16;

/// Gives the terminal back, however the function ends. (A panic's message comes after that too: `ratatui::try_init` sees to it.)
struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the edge until the viewer quits.
pub(super) async fn watch(admin: SocketAddr) -> anyhow::Result<()> {
    // https://no-color.org: set, to anything but nothing.
    let colours = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let mut model = Model::new(admin.to_string(), colours);
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [Ok(terminate), Ok(interrupt), Ok(hangup)] = &mut ends else { anyhow::bail!("signals cannot be watched") };
    let (to_news, mut news) = mpsc::channel(QUEUE);
    tokio::spawn(follow(admin, to_news));
    let _back = GiveBack;
    let mut terminal = ratatui::try_init()?;
    let mut inputs = inputs();
    loop {
        terminal.draw(|frame| draw(frame, &model))?;
        tokio::select! {
            news = news.recv() => match news {
                Some(News::Told(Told::Status(status))) => model.status(*status),
                Some(News::Told(Told::History(history))) => model.history(&history),
                Some(News::Gone(why)) => model.gone(why),
                None => return Ok(()),
            },
            input = inputs.recv() => match input {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if model.key(key) {
                        return Ok(());
                    }
                }
                // It was resized, or something that means nothing here: drawn anew in any case.
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(()),
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// Keys and changes of size, read by a thread of its own, which ends with the process.
fn inputs() -> Receiver<Event> {
    let (send, receive) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if send.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receive
}
