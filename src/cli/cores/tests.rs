use std::fmt::Debug;
use std::io::Read;
use std::net::TcpStream as Client;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use pingora::server::Fds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

/// Says by one byte on which core it runs, then waits for the client to leave.
struct Tell;

impl Serve for Tell {
    async fn serve(self: Arc<Self>, mut socket: TcpStream, _: SocketAddr, _: ShutdownWatch) {
        let core = thread::current().name().unwrap().bytes().last().unwrap() - b'0';
        socket.write_all(&[core]).await.unwrap();
        let _left = socket.read(&mut [0]).await;
    }
}

/// An acceptor and its cores, each on a thread of its own as in an edge.
struct Rig {
    at: SocketAddr,
    counts: Vec<Arc<AtomicUsize>>,
    shutdown: watch::Sender<bool>,
    acceptor: Running,
    missing: Arc<AtomicUsize>,
    unfinished: Unfinished,
    cores: Vec<Core<Tell>>,
}

impl Rig {
    /// The acceptor; the cores are to be started.
    fn accepting(count: usize) -> Rig {
        Rig::at(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), count, &[], false)
    }

    /// With this listener of a predecessor, others of it that are none, and maybe the end at once.
    fn at(listener: std::net::TcpListener, count: usize, lost: &[SocketAddr], ending: bool) -> Rig {
        let at = listener.local_addr().unwrap();
        let table = ListenFds::new(Fds::new().into());
        table.lock().add(at.to_string(), listener.into_raw_fd());
        lost.iter().for_each(|lost| table.lock().add(lost.to_string(), RawFd::MAX));
        let shutdown = watch::Sender::new(ending);
        let (tell, missing) = (Arc::new(Tell), Arc::<AtomicUsize>::default());
        let listeners = lost.iter().chain([&at]).map(|at| (*at, Arc::clone(&tell))).collect();
        let (acceptor, cores) = cores(listeners, count, Arc::clone(&missing));
        let (counts, unfinished) = (acceptor.counts(), acceptor.unfinished());
        let acceptor = start(acceptor, Some(table), &shutdown);
        Rig { at, counts, shutdown, acceptor, missing, unfinished, cores }
    }

    #[must_use]
    fn start_cores(&mut self) -> Vec<Running> {
        self.cores.drain(..).map(|core| start(core, None, &self.shutdown)).collect()
    }

    /// A connection, and the core that serves it.
    fn connect(&self) -> (Client, usize) {
        let mut client = Client::connect(self.at).unwrap();
        let core = told(&mut client);
        (client, core)
    }

    fn open(&self) -> Vec<usize> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    fn wait_for_open(&self, expected: &[usize]) {
        wait_for(|| self.open(), expected);
    }
}

fn wait_for<T: PartialEq<U> + Debug, U: ?Sized + Debug>(found: impl Fn() -> T, expected: &U) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while found() != *expected {
        assert!(Instant::now() < deadline, "{:?}, not {expected:?}", found());
        thread::sleep(Duration::from_millis(1));
    }
}

fn told(client: &mut Client) -> usize {
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut core = [0];
    client.read_exact(&mut core).unwrap();
    core[0].into()
}

/// A service with a runtime of one thread, as the framework runs it: what it has spawned goes on when it has ended.
struct Running {
    runtime: Runtime,
    service: JoinHandle<()>,
}

impl Running {
    fn wait_for_end(&mut self) {
        self.runtime.block_on(&mut self.service).unwrap();
    }
}

fn start(mut service: impl Service + 'static, table: Option<ListenFds>, on: &watch::Sender<bool>) -> Running {
    let (name, shutdown) = (service.name().to_owned(), on.subscribe());
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().unwrap();
    let service = runtime.spawn(async move { service.start_service(table, shutdown, 1).await });
    Running { runtime, service }
}

#[test]
fn connections_that_come_one_after_the_other_and_stay_are_spread_evenly() {
    for count in [1, 2, 3, 4] {
        let mut rig = Rig::accepting(count);
        let _cores = rig.start_cores();
        let mut served = vec![0; count];
        let kept: Vec<(Client, usize)> = (0..64).map(|_| rig.connect()).collect();
        kept.iter().for_each(|(_, core)| served[*core] += 1);
        let (most, fewest) = (served.iter().max().unwrap(), served.iter().min().unwrap());
        assert!(most - fewest <= 1, "{served:?}");
        assert_eq!(rig.open(), served);
    }
}

#[test]
fn a_core_whose_connections_close_gets_the_next_ones() {
    let mut rig = Rig::accepting(2);
    let _cores = rig.start_cores();
    let kept: Vec<(Client, usize)> = (0..8).map(|_| rig.connect()).collect();
    assert_eq!(rig.open(), [4, 4]);
    let (_kept, left): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(_, core)| *core == 0);
    drop(left);
    rig.wait_for_open(&[4, 0]);
    let next: Vec<(Client, usize)> = (0..4).map(|_| rig.connect()).collect();
    assert!(next.iter().all(|(_, core)| *core == 1));
    assert_eq!(rig.open(), [4, 4]);
}

#[test]
fn what_was_accepted_before_the_end_is_served_after_it() {
    let mut rig = Rig::accepting(2);
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(rig.at).unwrap()).collect();
    rig.wait_for_open(&[3, 3]);
    rig.shutdown.send(true).unwrap();
    rig.acceptor.wait_for_end();
    assert!(Client::connect(rig.at).is_err(), "the listener is closed");
    assert!(rig.unfinished.is_any(), "what was accepted is waited for before it is served");
    let mut cores = rig.start_cores();
    let mut served = [0; 2];
    for client in &mut clients {
        served[told(client)] += 1;
    }
    assert_eq!(served, [3, 3]);
    cores.iter_mut().for_each(Running::wait_for_end);
    drop(clients);
    wait_for(|| rig.unfinished.is_any(), &false);
}

#[test]
fn what_waits_at_the_listener_at_the_end_is_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(listener.local_addr().unwrap()).unwrap()).collect();
    let mut rig = Rig::at(listener, 1, &[], true);
    rig.acceptor.wait_for_end();
    assert_eq!(rig.open(), [20]);
    let _cores = rig.start_cores();
    assert!(clients.iter_mut().all(|client| told(client) == 0));
}

#[test]
fn accepting_is_waited_for_until_it_has_ended() {
    let mut rig = Rig::accepting(1);
    let _cores = rig.start_cores();
    drop(rig.connect());
    rig.wait_for_open(&[0]);
    assert!(rig.unfinished.is_any());
    rig.shutdown.send(true).unwrap();
    rig.acceptor.wait_for_end();
    assert!(!rig.unfinished.is_any());
}

#[test]
fn an_address_that_another_has_is_missing_until_it_is_had() {
    let had = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, missing) = (had.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let (acceptor, _cores) = cores(vec![(at, Arc::new(Tell))], 1, Arc::clone(&missing));
    let shutdown = watch::Sender::new(false);
    let mut acceptor = start(acceptor, None, &shutdown);
    wait_for(|| missing.load(Ordering::Relaxed), &1);
    drop(had);
    wait_for(|| missing.load(Ordering::Relaxed), &0);
    Client::connect(at).unwrap();
    shutdown.send(true).unwrap();
    acceptor.wait_for_end();
}

#[test]
fn an_address_that_is_lost_is_missing_and_the_others_are_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::at(listener, 1, &["127.0.0.1:1".parse().unwrap()], false);
    let _cores = rig.start_cores();
    wait_for(|| rig.missing.load(Ordering::Relaxed), &1);
    let _served = rig.connect();
    assert_eq!(rig.missing.load(Ordering::Relaxed), 1, "for good");
    rig.shutdown.send(true).unwrap();
    rig.acceptor.wait_for_end();
}
