//! How a new configuration comes into force: read → check → prepare → swap, or not at all.
//!
//! Everything that can fail happens before anything changes, so a refused file costs a line in the log and nothing
//! else: the last good configuration, GeoIP database and certificate stay, and the next good file is taken. Requests
//! under way keep the snapshot that they began with.
//!
//! The watcher judges each state of the files once. What it saw before (the hash of the config, the stamps of database
//! and certificate) is no news, whether it was taken or refused; who asks in person always gets a verdict.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::files::{self, Stamp};
use super::geo;
use crate::config::{self, Config, Diagnostics};
use crate::domain::hex::hex;
use crate::observe::metrics::{Metrics, ReloadSource};
use crate::observe::timestamp::Timestamp;
use crate::roster::{Roster, Snapshot};
use crate::wire::geoip::{GeoDb, Metadata};

/// Verdicts that are remembered for the status page.
const HISTORY_MAX: usize = 20;

/// How environment variables are looked up; only `main` reads the environment.
pub type Env = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Puts into force what was prepared. Cannot fail.
pub type Commit = Box<dyn FnOnce() + Send>;

/// Prepares what else belongs to a configuration (loads the certificate), without changing anything yet.
pub type Prepare = Box<dyn Fn(&Config) -> Result<Commit, String> + Send + Sync>;

/// A configuration that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Applied {
    /// SHA-256 of the file's bytes, in hex.
    pub hash: String,
    /// Whether anything is different now: config, database or certificate.
    pub changed: bool,
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// It is wrong, or cannot be read.
    #[error("{0}")]
    Config(#[from] Diagnostics),
    /// Its GeoIP database cannot be used.
    #[error("{0}")]
    Geo(String),
    /// It changes what only a new process can change.
    #[error("needs a restart (upgrade): {} changed", .0.join(", "))]
    Restart(Vec<String>),
    /// What else belongs to it cannot be used.
    #[error("{0}")]
    Prepare(String),
    /// A pushed one could not be written to disk.
    #[error("the pushed config could not be written to {path}: {error}")]
    Write {
        /// The config file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// One verdict, for the status page.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// When.
    pub ts: Timestamp,
    /// Where the configuration came from.
    pub source: &'static str,
    /// The configuration in force since.
    pub hash: String,
    /// Whether anything is different since.
    pub changed: bool,
    /// Why it was refused; the first line.
    pub error: Option<String>,
}

/// A configuration with its database, as read from disk.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its GeoIP database.
    pub geo: Arc<GeoDb>,
    stamps: Stamps,
}

/// The states of the files that a config refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamps {
    geo: Option<Stamp>,
    tls: [Option<Stamp>; 2],
    /// Files that hold secrets: when one is rotated, the config says the same and means another thing.
    secrets: Vec<Option<Stamp>>,
}

impl Stamps {
    fn of(config: &Config) -> Stamps {
        Stamps {
            geo: config.geo.database.as_deref().and_then(Stamp::of),
            tls: match &config.tls {
                Some(tls) => [Stamp::of(&tls.certificate), Stamp::of(&tls.key)],
                None => [None, None],
            },
            secrets: secret_files(config).map(Stamp::of).collect(),
        }
    }
}

/// The files that a config reads its secrets from, in a fixed order.
fn secret_files(config: &Config) -> impl Iterator<Item = &Path> {
    let others = |path: &Path| {
        config.geo.database.as_deref() == Some(path)
            || config.tls.as_ref().is_some_and(|tls| tls.certificate == path || tls.key == path)
    };
    config.references.files.iter().map(|(_, path)| path.as_path()).filter(move |path| !others(path))
}

/// Reads a configuration for the first time.
pub fn load(path: &Path, env: &config::Env<'_>) -> Result<Loaded, ReloadError> {
    let config = config::load(path, env)?;
    let stamps = Stamps::of(&config);
    let geo = geo::read(config.geo.database.as_deref()).map_err(ReloadError::Geo)?;
    Ok(Loaded { config: Arc::new(config), geo: Arc::new(geo), stamps })
}

/// What a reloader works with.
pub struct Parts {
    /// The config file.
    pub path: PathBuf,
    /// How environment variables are looked up.
    pub env: Env,
    /// Where snapshots are swapped; it holds what `loaded` says.
    pub roster: Arc<Roster>,
    /// Where verdicts are counted.
    pub metrics: Arc<Metrics>,
    /// What else belongs to a configuration.
    pub prepare: Prepare,
}

/// Takes new configurations. Its methods read files and block; call them off the event loop.
pub struct Reloader {
    parts: Parts,
    // Held over a whole reload, so that two cannot interleave; never across an `.await`, since none is in here.
    state: Mutex<State>,
    history: Mutex<VecDeque<Verdict>>,
}

struct State {
    /// The files that the snapshot in force was made of.
    in_force: Stamps,
    /// What the watcher judged last: the config's hash (`None` when unreadable) and the other files.
    judged: (Option<String>, Stamps),
}

/// A configuration that needs only to be put into force.
struct Ready {
    config: Arc<Config>,
    geo: Arc<GeoDb>,
    /// The files that it was made of.
    in_force: Stamps,
    /// The files as they were found; a broken database is among these only.
    judged: Stamps,
    commit: Option<Commit>,
    changed: bool,
    /// The database was replaced by a broken one, and stays as it was.
    geo_refused: Option<String>,
}

impl Reloader {
    /// A reloader for what was loaded at the start and is in the roster.
    pub fn new(parts: Parts, loaded: &Loaded) -> Reloader {
        parts.metrics.config(&loaded.config.hash);
        let state = State {
            in_force: loaded.stamps.clone(),
            judged: (Some(loaded.config.hash.clone()), loaded.stamps.clone()),
        };
        Reloader { parts, state: Mutex::new(state), history: Mutex::default() }
    }

    /// Reads the files and takes what is new.
    pub fn reload(&self, source: ReloadSource) -> Result<Applied, ReloadError> {
        let mut state = self.lock();
        let result = self.reload_locked(&mut state);
        self.record(source, &result);
        result
    }

    /// Reads the files and takes what is new, unless the watcher has judged it before: then `None`.
    pub fn reload_if_new(&self) -> Option<Result<Applied, ReloadError>> {
        let mut state = self.lock();
        let found = (self.hash_on_disk(), Stamps::of(&self.parts.roster.snapshot().config));
        let source = match &state.judged {
            judged if *judged == found => return None,
            (hash, _) if *hash != found.0 => ReloadSource::File,
            (_, stamps) if stamps.secrets != found.1.secrets => ReloadSource::File,
            (_, stamps) if stamps.geo != found.1.geo => ReloadSource::Geo,
            _ => ReloadSource::Tls,
        };
        let result = self.reload_locked(&mut state);
        self.record(source, &result);
        Some(result)
    }

    /// Takes a pushed configuration: checks it, writes it to the config file, and puts it into force. It may refer to
    /// nothing outside of itself that the running one does not refer to.
    pub fn push(&self, text: &str) -> Result<Applied, ReloadError> {
        let mut state = self.lock();
        let result = self.push_locked(&mut state, text);
        self.record(ReloadSource::Push, &result);
        result
    }

    /// The last verdicts, the newest first.
    pub fn history(&self) -> Vec<Verdict> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The files whose changes matter.
    pub fn files(&self) -> Vec<PathBuf> {
        let snapshot = self.parts.roster.snapshot();
        let config = &snapshot.config;
        let tls = config.tls.iter().flat_map(|tls| [tls.certificate.as_path(), tls.key.as_path()]);
        let fixed = std::iter::once(self.parts.path.as_path()).chain(config.geo.database.as_deref());
        fixed.chain(tls).chain(secret_files(config)).map(Path::to_owned).collect()
    }

    /// The GeoIP database in use: its file, unless it is the embedded one, and what it says of itself.
    pub fn database(&self) -> (Option<PathBuf>, Metadata) {
        let snapshot = self.parts.roster.snapshot();
        (snapshot.config.geo.database.clone(), snapshot.geo.metadata())
    }

    fn reload_locked(&self, state: &mut State) -> Result<Applied, ReloadError> {
        let running = self.parts.roster.snapshot();
        let config = self.read(&running, state)?;
        let ready = self.ready(&running, state, config)?;
        Ok(self.apply(state, ready))
    }

    /// The config on disk; the running one if that is it.
    fn read(&self, running: &Snapshot, state: &mut State) -> Result<Arc<Config>, ReloadError> {
        let path = &self.parts.path;
        // Also what will be refused has been judged. The stamps are taken before the files are read, so that what
        // changes meanwhile is news again.
        let stamps = Stamps::of(&running.config);
        let same_secrets = stamps.secrets == state.in_force.secrets;
        state.judged = (None, stamps);
        let Ok(bytes) = files::read_bounded(path, config::FILE_BYTES_MAX as u64) else {
            // It says in its own words why not.
            return Ok(Arc::new(config::load(path, &*self.parts.env)?));
        };
        let hash = hash(&bytes);
        state.judged.0 = Some(hash.clone());
        if hash == running.config.hash && same_secrets {
            return Ok(Arc::clone(&running.config));
        }
        let name = path.display().to_string();
        let text = config::text_of(&name, &bytes)?;
        Ok(Arc::new(config::parse(&name, text, Path::new(""), &*self.parts.env)?))
    }

    fn push_locked(&self, state: &mut State, text: &str) -> Result<Applied, ReloadError> {
        let running = self.parts.roster.snapshot();
        let env = &*self.parts.env;
        // As in `read`: the stamps come first, and the same text is another config once a secret was rotated.
        let same_secrets = Stamps::of(&running.config).secrets == state.in_force.secrets;
        let config = config::parse_push("pushed config", text, Path::new(""), env, &running.config)?;
        let same = same_secrets && config.hash == running.config.hash;
        let config = if same { Arc::clone(&running.config) } else { Arc::new(config) };
        let ready = self.ready(&running, state, config)?;
        if self.hash_on_disk().as_ref() != Some(&ready.config.hash) {
            files::replace(&self.parts.path, text.as_bytes())
                .map_err(|error| ReloadError::Write { path: self.parts.path.clone(), error })?;
        }
        state.judged.0 = Some(ready.config.hash.clone());
        Ok(self.apply(state, ready))
    }

    /// Everything that can fail.
    fn ready(&self, running: &Snapshot, state: &State, config: Arc<Config>) -> Result<Ready, ReloadError> {
        let restart = config::restart_needed(&running.config, &config);
        if !restart.is_empty() {
            return Err(ReloadError::Restart(restart));
        }
        let stamps = Stamps::of(&config);
        let new_config = !Arc::ptr_eq(&config, &running.config);
        let same_database = config.geo.database == running.config.geo.database;
        let mut ready = Ready {
            config,
            geo: Arc::clone(&running.geo),
            in_force: stamps.clone(),
            judged: stamps,
            commit: None,
            changed: new_config,
            geo_refused: None,
        };
        if !same_database || ready.judged.geo != state.in_force.geo {
            match geo::read(ready.config.geo.database.as_deref()) {
                Ok(geo) => (ready.geo, ready.changed) = (Arc::new(geo), true),
                // A new config must not wait for a database that somebody else broke while a good one is at hand.
                Err(error) if same_database && new_config => {
                    ready.geo_refused = Some(error);
                    ready.in_force.geo = state.in_force.geo;
                }
                Err(error) => return Err(ReloadError::Geo(error)),
            }
        }
        if new_config || ready.judged.tls != state.in_force.tls {
            ready.commit = Some((self.parts.prepare)(&ready.config).map_err(ReloadError::Prepare)?);
            ready.changed = true;
        }
        Ok(ready)
    }

    /// Nothing in here can fail.
    fn apply(&self, state: &mut State, ready: Ready) -> Applied {
        let applied = Applied { hash: ready.config.hash.clone(), changed: ready.changed };
        if let Some(commit) = ready.commit {
            commit();
        }
        if ready.changed {
            self.parts.roster.swap(ready.config, ready.geo);
            self.parts.metrics.config(&applied.hash);
        }
        state.in_force = ready.in_force;
        state.judged.1 = ready.judged;
        if let Some(error) = ready.geo_refused {
            self.record(ReloadSource::Geo, &Err(ReloadError::Geo(error)));
        }
        applied
    }

    /// Counts, logs and remembers a verdict.
    fn record(&self, source: ReloadSource, result: &Result<Applied, ReloadError>) {
        self.parts.metrics.reload(source, result.is_ok());
        let source = source.name();
        let hash = self.parts.roster.snapshot().config.hash.clone();
        match result {
            Ok(applied) if applied.changed => log::info!("config applied source={source} hash={hash}"),
            Ok(_) => log::info!("config unchanged source={source} hash={hash}"),
            Err(error) => log::error!("config refused, the last good one stays source={source} hash={hash}\n{error}"),
        }
        let verdict = Verdict {
            ts: Timestamp(SystemTime::now()),
            source,
            hash,
            changed: matches!(result, Ok(applied) if applied.changed),
            error: result.as_ref().err().map(|error| error.to_string().lines().next().unwrap_or_default().to_owned()),
        };
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.truncate(HISTORY_MAX - 1);
        history.push_front(verdict);
    }

    fn hash_on_disk(&self) -> Option<String> {
        files::read_bounded(&self.parts.path, config::FILE_BYTES_MAX as u64).ok().map(|bytes| hash(&bytes))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is written in single assignments, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("path", &self.parts.path).finish_non_exhaustive()
    }
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests;
