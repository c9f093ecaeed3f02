//! What a new config may change while the edge runs.

use std::net::SocketAddr;

use super::values::{Config, Tls};

/// The keys that differ between the running config and a new one and that only a restart can change: listeners are
/// opened once, and a new process takes them over (`nearpool run --upgrade`). Empty when the new one can be swapped in.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let tls = |config: &'_ Config| config.tls.as_ref().map(|tls| sorted(&tls.listen)).unwrap_or_default();
    let files = |tls: &Option<Tls>| tls.as_ref().map(|tls| (tls.certificate.clone(), tls.key.clone()));
    let (old_files, new_files) = (files(&old.tls), files(&new.tls));
    [
        ("edge.listen", sorted(&old.listen) != sorted(&new.listen)),
        ("edge.admin", old.admin != new.admin),
        ("edge.tls.listen", tls(old) != tls(new)),
        ("edge.tls.certificate", old_files.as_ref().map(|files| &files.0) != new_files.as_ref().map(|files| &files.0)),
        ("edge.tls.key", old_files.as_ref().map(|files| &files.1) != new_files.as_ref().map(|files| &files.1)),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key.to_owned())
    .collect()
}

fn sorted(listen: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut listen = listen.to_vec();
    listen.sort_unstable();
    listen
}
