//! Puts an edge together: roster, data plane, control plane, listeners.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use nearpool::config::Config;
use nearpool::control::Connections;
use nearpool::control::admin;
use nearpool::control::export::Export;
use nearpool::control::interactions::Interactions;
use nearpool::control::probe::Probe;
use nearpool::control::reload::{self, Commit, Prepare, ReloadError, Reloader};
use nearpool::control::scrape::Scrape;
use nearpool::control::watch::Watch;
use nearpool::observe::access_log::AccessLog;
use nearpool::observe::metrics::{Metrics, SpanResult};
use nearpool::observe::recent::Feed;
use nearpool::observe::trace::{self, Spans};
use nearpool::proxy::tls::{Certificate, Certificates};
use nearpool::proxy::{Accept, Edge, Parts};
use nearpool::roster::{Roster, Snapshot};
use pingora::server::Server;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::services::background::{GenBackgroundService, background_service};
use prometheus::Registry;

use super::admin::AdminListener;
use super::cores::{Unfinished, bound, cores, remedy};

/// How long the framework sleeps before it drops what still runs: longer than any `timeouts.drain`, also one that a
/// reload sets, since the drainer ends the process.
const GRACE_S: u64 = 25 * 60 * 60;

/// How long listeners are waited for: the framework looks once a second and gives up at the seventh look, in words of its
/// own. A little before.
const HAND_OVER: Duration = Duration::from_millis(5_900);

/// An edge that needs only to be run.
pub(super) struct Assembled {
    pub(super) server: Server,
    pub(super) edge: Arc<Edge>,
    pub(super) roster: Arc<Roster>,
    pub(super) log: Arc<AccessLog>,
    pub(super) spans: Arc<Spans>,
    pub(super) config: Arc<Config>,
    pub(super) interactions: Arc<Interactions>,
    pub(super) unfinished: Unfinished,
}

/// How it is put together.
pub(super) struct Options<'a> {
    pub(super) config: &'a Path,
    /// Whether requests are logged, as the config says where.
    pub(super) access_log: bool,
    /// Take the listeners over from the running process.
    pub(super) upgrade: bool,
    pub(super) upgrade_socket: PathBuf,
    pub(super) threads: usize,
    pub(super) seed: u64,
}

pub(super) fn assemble(options: Options<'_>) -> anyhow::Result<Assembled> {
    let Options { config: path, access_log, upgrade, upgrade_socket, threads, seed } = options;
    let env: reload::Env = Box::new(super::environment);
    let loaded = reload::load(path, &*env)?;
    let config = Arc::clone(&loaded.config);
    if !upgrade {
        check_free(&config)?;
    }
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(&registry)?);
    let log = Arc::new(match access_log {
        true => {
            let started = AccessLog::start(&config.access_log, metrics.log_dropped());
            started.map_err(|error| ReloadError::Prepare(error.to_string()))?
        }
        false => AccessLog::off(metrics.log_dropped()),
    });
    let (spans, queued) = trace::queue(metrics.spans(SpanResult::Dropped));
    let spans = Arc::new(spans);
    let start = Instant::now();
    let snapshot = Snapshot::new(Arc::clone(&config), Arc::clone(&loaded.geo), None);
    let roster = Arc::new(Roster::new(snapshot, start));
    let feed = Arc::new(Feed::new(start));
    let certificates = certificates(&config)?;
    let parts = reload::Parts {
        path: path.to_owned(),
        env,
        roster: Arc::clone(&roster),
        metrics: Arc::clone(&metrics),
        prepare: prepare(certificates.clone(), Arc::clone(&log)),
    };
    let reloader = Arc::new(Reloader::new(parts, &loaded));
    let edge = Arc::new(Edge::new(Parts {
        roster: Arc::clone(&roster),
        metrics: Arc::clone(&metrics),
        log: Arc::clone(&log),
        feed: Arc::clone(&feed),
        spans: Arc::clone(&spans),
        seed,
        threads,
    }));

    let mut server = Server::new_with_opt_and_conf(
        Opt { upgrade, ..Opt::default() },
        ServerConf {
            upgrade_sock: upgrade_socket.display().to_string(),
            grace_period_seconds: Some(GRACE_S),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        },
    );
    let interactions = Interactions::new(Arc::clone(&roster), Arc::clone(&metrics), Arc::clone(&log));
    match upgrade {
        true => take_over(&mut server, &upgrade_socket)?,
        false => server.bootstrap(),
    }
    let listeners = listeners(&config, &edge, certificates.as_ref())?;
    let (acceptor, cores) = cores(listeners, threads, Arc::clone(&roster.missing_listeners));
    let unfinished = acceptor.unfinished();
    for core in cores {
        server.add_service(core);
    }
    server.add_service(acceptor);
    if let Some(address) = config.admin {
        let parts = admin::Parts {
            roster: Arc::clone(&roster),
            reloader: Arc::clone(&reloader),
            metrics: Arc::clone(&metrics),
            registry,
            access_log: Arc::clone(&log),
            feed,
            started: start,
        };
        server.add_service(AdminListener::new(address, parts));
    }
    let connections = Connections::new();
    let export = Export::new(Arc::clone(&roster), connections.clone(), &metrics, queued);
    server.add_service(on_a_thread("probe", Probe::new(Arc::clone(&roster), connections.clone())));
    // However long engines' pages are, reading them holds up no health check.
    server.add_service(on_a_thread("scrape", Scrape::new(Arc::clone(&roster), connections)));
    server.add_service(on_a_thread("export", export));
    server.add_service(on_a_thread("watch", Watch::new(reloader)));
    let closing = on_a_thread("interactions", interactions);
    let interactions = closing.task();
    server.add_service(closing);
    Ok(Assembled { server, edge, roster, log, spans, config, interactions, unfinished })
}

/// Waits for the listeners of the running process. The framework ends this one when none come.
fn take_over(server: &mut Server, socket: &Path) -> anyhow::Result<()> {
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty());
    ensure!(folder.is_none_or(Path::is_dir), "there is no folder for --upgrade-socket {}", socket.display());
    log::info!("waiting for the listeners at {}: send SIGQUIT to the running process now", socket.display());
    let (come, came) = mpsc::channel::<()>();
    let path = socket.display().to_string();
    std::thread::spawn(move || {
        if came.recv_timeout(HAND_OVER) == Err(RecvTimeoutError::Timeout) {
            log::warn!(
                "no listeners have come at {path}, and this process ends in a moment: start it again, and within 5 s send \
                 SIGQUIT to the running nearpool, which must have been started with the same --upgrade-socket"
            );
        }
    });
    server.bootstrap();
    drop(come);
    Ok(())
}

/// Something in the background, on a thread of its own, so that none holds up another.
pub(super) fn on_a_thread<T>(name: &str, task: T) -> GenBackgroundService<T> {
    let mut service = background_service(name, task);
    service.threads = Some(1);
    service
}

/// The agents' listeners, each with what serves its connections. All share the edge, and with it one bound on connections.
fn listeners(
    config: &Config,
    edge: &Arc<Edge>,
    certificates: Option<&Arc<Certificates>>,
) -> anyhow::Result<Vec<(SocketAddr, Arc<Accept>)>> {
    let plain = Arc::new(Accept::plain(Arc::clone(edge)));
    let mut listeners: Vec<_> = config.listen.iter().map(|address| (*address, Arc::clone(&plain))).collect();
    if let (Some(tls), Some(certificates)) = (&config.tls, certificates) {
        let over_tls = Arc::new(Accept::over_tls(Arc::clone(edge), Arc::clone(certificates))?);
        listeners.extend(tls.listen.iter().map(|address| (*address, Arc::clone(&over_tls))));
    }
    Ok(listeners)
}

/// The certificate that the configuration names, if it serves TLS.
pub(super) fn certificates(config: &Config) -> Result<Option<Arc<Certificates>>, ReloadError> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let read = Certificate::read(&tls.certificate, &tls.key);
    let certificate = read.map_err(|error| ReloadError::Prepare(error.to_string()))?;
    Ok(Some(Arc::new(Certificates::new(certificate))))
}

/// What a reload does beside the roster: the certificate is read again, since its files may have changed, and the access
/// log is opened where a new configuration wants it.
fn prepare(certificates: Option<Arc<Certificates>>, log: Arc<AccessLog>) -> Prepare {
    Box::new(move |config| -> Result<Commit, String> {
        let opened = log.prepare(&config.access_log).map_err(|error| error.to_string())?;
        let certificate = match (&config.tls, certificates.clone()) {
            (Some(tls), Some(certificates)) => {
                let read = Certificate::read(&tls.certificate, &tls.key).map_err(|error| error.to_string())?;
                Some((certificates, read))
            }
            _ => None,
        };
        let log = Arc::clone(&log);
        Ok(Box::new(move || {
            if let Some((certificates, certificate)) = certificate {
                certificates.swap(certificate);
            }
            if let Some(opened) = opened {
                log.turn_to(opened);
            }
        }))
    })
}

/// Whether every address can be listened at. The framework finds out too late for a clear word.
fn check_free(config: &Config) -> anyhow::Result<()> {
    let plain = config.listen.iter().map(|address| ("edge.listen", *address));
    let tls = config.tls.iter().flat_map(|tls| &tls.listen).map(|address| ("edge.tls.listen", *address));
    let addresses: Vec<_> = plain.chain(tls).chain(config.admin.map(|address| ("edge.admin", address))).collect();
    if addresses.is_empty() {
        bail!("nothing to listen at: set edge.listen or edge.tls");
    }
    let taken: Vec<_> = addresses
        .into_iter()
        .filter_map(|(key, address)| {
            let error = bound(address).err()?;
            Some(format!("cannot listen at {address} ({key}): {error}; {}", remedy(&error)))
        })
        .collect();
    match taken.is_empty() {
        true => Ok(()),
        false => bail!(taken.join("\n          ")),
    }
}
