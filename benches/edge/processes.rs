//! The processes of the bench, each measured apart, and what the system says of them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::requests::{MODEL, SERVED_AS};

/// A process that is ended with its owner.
pub(crate) struct Process {
    child: Child,
    pub(crate) at: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The replicas, all in one process.
pub(crate) struct Replicas {
    _process: Process,
    pub(crate) at: Vec<SocketAddr>,
}

impl Replicas {
    pub(crate) fn start(count: usize) -> Result<Replicas> {
        let mut child =
            many_files(&std::env::current_exe()?).args(["mock", &count.to_string()]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let at = line.split_whitespace().map(|port| Ok(SocketAddr::from(([127, 0, 0, 1], port.parse()?))));
        let at: Vec<_> = at.collect::<Result<_>>()?;
        let first = *at.first().context("the mock told no port")?;
        Ok(Replicas { _process: Process { child, at: first }, at })
    }
}

impl Process {
    /// The peer in front of one replica: it has nothing to choose from.
    pub(crate) fn peer(replicas: &Replicas, threads: usize) -> Result<Process> {
        let at = free_address()?;
        let mut command = many_files(&std::env::current_exe()?);
        command.args(["peer", &at.to_string(), &replicas.at[0].to_string(), &threads.to_string()]);
        started(command.spawn()?, at)
    }

    /// The edge, with everything on: GeoIP, sessions, steps, health checks, metrics, and the access log in a file.
    pub(crate) fn edge(replicas: &Replicas, threads: usize) -> Result<Process> {
        Process::edge_with(replicas, threads, "bench-conf", "", &[])
    }

    /// The edge with its config in this folder, which it watches for changes, these lines more in the config, and these
    /// arguments.
    pub(crate) fn edge_with(
        replicas: &Replicas,
        threads: usize,
        folder_name: &str,
        more: &str,
        args: &[&str],
    ) -> Result<Process> {
        let (at, admin) = (free_address()?, free_address()?);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(folder.join(folder_name))?;
        let config = folder.join(folder_name).join("edge.toml");
        fs::write(&config, edge_config(at, admin, replicas) + more)?;
        let mut command = many_files(Path::new(env!("CARGO_BIN_EXE_nearpool")));
        command.args(["run", "--threads", &threads.to_string(), "--config"]).arg(&config).args(args);
        command.stdout(File::create(folder.join("bench-access.log"))?).env("RUST_LOG", "warn,pingora_core=off");
        started(command.spawn()?, at)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that it has used, in all its threads: by its clock, since /proc tells it in steps of 10 ms.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let process = Pid::from_raw(i32::try_from(self.id())?);
        Ok(clock_getcpuclockid(process)?.now()?.into())
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

fn edge_config(at: SocketAddr, admin: SocketAddr, replicas: &Replicas) -> String {
    let urls: Vec<_> = replicas.at.iter().map(|at| format!("\"http://{at}\"")).collect();
    let half = urls.len().div_ceil(2);
    let mut config = format!(
        r#"
[edge]
name = "bench-1"
region = "us-west"
listen = ["{at}"]
trusted_proxies = ["127.0.0.0/8"]
admin = "{admin}"

[regions]
us-west = {{ latitude = 45.84, longitude = -119.70 }}
us-east = {{ latitude = 39.04, longitude = -77.49 }}

[models."{MODEL}"]
served_as = "{SERVED_AS}"

[steps]
planner = "{MODEL}"
"#
    );
    for (region, replicas) in [("us-west", &urls[..half]), ("us-east", &urls[half..])] {
        config.push_str(&format!(
            "\n[[pools]]\nname = \"{region}\"\nregion = \"{region}\"\nmodel = \"{MODEL}\"\nengine = \"vllm\"\n\
             max_in_flight = 4096\nreplicas = [{}]\n",
            replicas.join(", ")
        ));
    }
    config
}

/// A command that may open as many files as the system allows at all; the usual 1,024 are too few for 1,000 connections.
pub(crate) fn many_files(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -Sn "$(ulimit -Hn)"; exec "$0" "$@""#]).arg(program);
    command
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn started(child: Child, at: SocketAddr) -> Result<Process> {
    let process = Process { child, at };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(at).is_err() {
        ensure!(Instant::now() < deadline, "a process did not listen at {at} within 10 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}
