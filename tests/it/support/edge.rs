//! The real binary as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::config::EdgeConfig;
use super::http1::{Answer, Http1, request};
use super::{PATIENCE, own_address, soon};

/// The admin listener's bearer token.
pub const TOKEN: &str = "it-token";

/// Pause between two looks at what tells nobody that it changed: a listener that is to come, a metric.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A running edge with its log. It is killed when dropped.
pub struct Edge {
    child: Child,
    address: Ipv4Addr,
    folder: PathBuf,
    log: watch::Receiver<Vec<Value>>,
    stderr: Arc<Mutex<String>>,
}

impl Edge {
    /// Starts the binary and waits until it listens.
    pub async fn start(config: EdgeConfig) -> Edge {
        Edge::start_at(own_address(), config).await
    }

    /// The same at a given address; for edges that are started again.
    pub async fn start_at(address: Ipv4Addr, config: EdgeConfig) -> Edge {
        Edge::start_with_text(address, &config.toml(address)).await
    }

    /// The same with a file of any text.
    pub async fn start_with_text(address: Ipv4Addr, text: &str) -> Edge {
        Edge::start_with(address, text, |_| ()).await
    }

    /// The same with a change of the command.
    pub async fn start_with(address: Ipv4Addr, text: &str, change: impl FnOnce(&mut Command)) -> Edge {
        let folder = Edge::folder_of(address);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("edge.toml"), text).unwrap();
        let mut edge = Edge::spawn(address, folder, change);
        edge.wait_until_it_listens().await;
        edge
    }

    /// Starts one that writes no access log, for many calls: their lines would be read by this process too.
    pub async fn start_unlogged(config: EdgeConfig) -> Edge {
        let at = own_address();
        let unlogged = |command: &mut Command| {
            command.arg("--no-access-log");
        };
        Edge::start_with(at, &config.toml(at), unlogged).await
    }

    /// The folder of the edge at this address; files may be put there before it starts.
    pub fn folder_of(address: Ipv4Addr) -> PathBuf {
        std::env::temp_dir().join(format!("nearpool-it-{}-{address}", std::process::id()))
    }

    /// A second process with the same config, which waits for the listeners of this one.
    pub fn spawn_successor(&self) -> Edge {
        Edge::spawn(self.address, self.folder.clone(), |command| {
            command.arg("--upgrade");
        })
    }

    fn spawn(address: Ipv4Addr, folder: PathBuf, change: impl FnOnce(&mut Command)) -> Edge {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearpool"));
        command
            .args(["run", "--threads", "2", "--config"])
            .arg(folder.join("edge.toml"))
            .arg("--upgrade-socket")
            .arg(folder.join("upgrade.sock"))
            .env("NEARPOOL_IT_TOKEN", TOKEN)
            .env("NEARPOOL_IT_KEY", "pools-own-key");
        change(&mut command);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, log) = watch::channel(Vec::new());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.send_modify(|lines| lines.push(line));
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (child.stderr.take().unwrap(), Arc::clone(&stderr));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Edge { child, address, folder, log, stderr }
    }

    async fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for address in [self.admin(), self.agents()] {
            while TcpStream::connect(address).await.is_err() {
                let ended = self.child.try_wait().unwrap();
                assert!(ended.is_none() && Instant::now() < deadline, "the edge does not start: {}", self.stderr());
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        self.admin_get("/readyz").await;
    }

    /// Where it listens, for [`Edge::start_at`].
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where agents are served in plain text.
    pub fn agents(&self) -> SocketAddr {
        (self.address, 8080).into()
    }

    /// Where agents are served over TLS, if they are.
    pub fn tls(&self) -> SocketAddr {
        (self.address, 8443).into()
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        (self.address, 9901).into()
    }

    /// Its config file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("edge.toml")
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where its listeners are handed over.
    pub fn upgrade_socket(&self) -> PathBuf {
        self.folder.join("upgrade.sock")
    }

    /// Waits until it has written this to stderr.
    pub async fn wait_for_stderr(&self, text: &str) {
        self.wait_until(|| self.stderr().contains(text)).await;
    }

    /// Waits for something that nobody tells of.
    pub async fn wait_until(&self, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain; stderr:\n{}", self.stderr());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until agents are not accepted any more.
    pub async fn wait_until_closed(&self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.agents()).await.is_ok() {
            assert!(Instant::now() < deadline, "it still listens; stderr:\n{}", self.stderr());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// The access log so far, one value a line.
    pub fn log(&self) -> Vec<Value> {
        self.log.borrow().clone()
    }

    /// Waits for a line of the access log, also one that is there already.
    pub async fn wait_for_log(&self, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        self.wait_for_logs(1, &mut wanted).await.swap_remove(0)
    }

    /// Waits for so many lines of the access log.
    pub async fn wait_for_logs(&self, count: usize, mut wanted: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut log = self.log.clone();
        let found = async {
            loop {
                let lines: Vec<_> = log.borrow_and_update().iter().filter(|line| wanted(line)).cloned().collect();
                if lines.len() >= count {
                    return lines;
                }
                log.changed().await.expect("the edge ended");
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(lines) => lines,
            Err(_) => panic!("no such lines in the access log:\n{:#?}\nstderr:\n{}", self.log(), self.stderr()),
        }
    }

    /// Asks the admin listener. It takes 64 connections at a time and resets others; on a busy machine it may see late
    /// that earlier ones have ended, so it is asked again.
    pub async fn admin_get(&self, path: &str) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut client = Http1::connect(self.admin()).await;
            let sent = client.try_send(&request("GET", path, &[("connection", "close")], b"")).await;
            if let (Ok(()), Ok(mut answer)) = (sent, client.try_head().await) {
                let (body, ended) = client.body(&answer).await;
                ended.expect("a whole answer");
                answer.body = body;
                return answer;
            }
            assert!(Instant::now() < deadline, "the admin listener answers nobody");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A series of `/metrics`, with its labels in the order of the page (alphabetical); 0 when it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = self.admin_get("/metrics").await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// Waits until a series has a value as wanted.
    pub async fn wait_for_metric(&self, series: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(series).await;
            if wanted(value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{series} is {value}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until no request is booked at this replica any more.
    pub async fn wait_until_idle(&self, pool: &str, replica: &str) {
        let series = format!("nearpool_replica_in_flight{{pool=\"{pool}\",replica=\"{replica}\"}}");
        self.wait_for_metric(&series, |value| value == 0.0).await;
    }

    /// Writes a new config file and has it read by `POST /reload`.
    pub async fn reload_with(&self, text: &str) -> Answer {
        std::fs::write(self.config_file(), text).unwrap();
        self.admin_write("POST", "/reload", b"").await
    }

    /// Asks the admin listener to change something, with the right token.
    pub async fn admin_write(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut client = Http1::connect(self.admin()).await;
        let authorization = format!("Bearer {TOKEN}");
        client.send(&request(method, path, &[("authorization", &authorization)], body)).await;
        client.answer().await
    }

    /// Sends a signal, for example `"HUP"`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id();
        // The shell has `kill` built in; the program of that name is not everywhere.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end by itself.
    pub async fn wait_for_end(&mut self) -> std::process::ExitStatus {
        soon(async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = self.stderr();
        if std::thread::panicking() || stderr.contains("panicked") {
            eprintln!("--- the edge's stderr:\n{stderr}--- its last lines:");
            for line in self.log.borrow().iter().rev().take(5) {
                eprintln!("{line}");
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
        assert!(std::thread::panicking() || !stderr.contains("panicked"), "the edge panicked");
    }
}
