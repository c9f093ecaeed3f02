//! When to look at the files again: when their directories change, on SIGHUP, and every few seconds in any case.
//! Whoever looks so often also says when the GeoIP database in use has become stale.
//!
//! Directories and not files are watched, since a file that is replaced by renaming another over it (editors, `mv`,
//! Kubernetes' swap of a link) is from then on another file. The slow look is the net below: some file systems tell
//! nothing, and a watcher can fail to start for want of handles.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::geo::Reminder;
use super::reload::Reloader;
use crate::observe::metrics::ReloadSource;

/// Quiet time after a change, so that a file that is written in pieces is read whole.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Changes in a row that put a look off; a directory that never rests must not hide a new config.
const DEBOUNCES_MAX: u32 = 10;
/// How often the files are looked at without an event.
const POLL_EVERY: Duration = Duration::from_secs(5);

/// The background service.
#[derive(Debug)]
pub struct Watch {
    reloader: Arc<Reloader>,
    poll_every: Duration,
}

impl Watch {
    /// Watches the files of this reloader.
    pub fn new(reloader: Arc<Reloader>) -> Watch {
        Watch { reloader, poll_every: POLL_EVERY }
    }

    /// Looks at the files, off the event loop, since it reads and parses them.
    async fn look(&self, why: Why) {
        let reloader = Arc::clone(&self.reloader);
        let looked = tokio::task::spawn_blocking(move || match why {
            // The reloader logs and counts its verdict.
            Why::Signal => drop(reloader.reload(ReloadSource::Signal)),
            Why::Change => drop(reloader.reload_if_new()),
        });
        if looked.await.is_err() {
            log::error!("reload ended early");
        }
    }
}

enum Why {
    Signal,
    Change,
}

#[async_trait]
impl BackgroundService for Watch {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        // One place: a change while one is waiting adds nothing.
        let (changed, mut changes) = mpsc::channel(1);
        let mut directories = Directories::new(changed);
        let mut hangups =
            signal(SignalKind::hangup()).inspect_err(|error| log::warn!("sighup is not watched error={error}")).ok();
        let mut reminder = Reminder::default();
        loop {
            let (file, metadata) = self.reloader.database();
            if let Some(stale) = reminder.due(file.as_deref(), &metadata, SystemTime::now()) {
                log::warn!("{stale}");
            }
            directories.follow(&self.reloader.files());
            let hangup = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                _ = shutdown.wait_for(|ending| *ending) => return,
                _ = hangup => Why::Signal,
                Some(()) = changes.recv() => Why::Change,
                () = tokio::time::sleep(self.poll_every) => Why::Change,
            };
            if matches!(why, Why::Change) {
                settle(&mut changes).await;
            }
            self.look(why).await;
        }
    }
}

/// Waits until no change has come for a while.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    for _ in 0..DEBOUNCES_MAX {
        if timeout(DEBOUNCE, changes.recv()).await.is_err() {
            return;
        }
    }
}

/// The directories that are watched.
struct Directories {
    watcher: Option<RecommendedWatcher>,
    /// Those that were asked for, also when that failed: one warning is enough.
    asked: BTreeSet<PathBuf>,
}

impl Directories {
    fn new(changed: mpsc::Sender<()>) -> Directories {
        let handler = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| matters(event.kind)) {
                let _one_is_waiting = changed.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| log::warn!("files are polled only, every 5 s error={error}"))
            .ok();
        Directories { watcher, asked: BTreeSet::new() }
    }

    /// Watches the directories of these files, and no others.
    fn follow(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = files.iter().flat_map(|file| homes(file)).collect();
        for gone in self.asked.difference(&wanted) {
            let _never_was = watcher.unwatch(gone);
        }
        for new in wanted.difference(&self.asked) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                log::warn!("directory is polled only, every 5 s directory={} error={error}", new.display());
            }
        }
        self.asked = wanted;
    }
}

/// Reading the files is an event too, and must not lead to reading them again.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The directory that names the file, and the one that it really lies in when links lead there.
fn homes(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("."),
    };
    let real = file.canonicalize().ok().map(|real| parent(&real));
    std::iter::once(parent(file)).chain(real)
}

#[cfg(test)]
mod tests;
