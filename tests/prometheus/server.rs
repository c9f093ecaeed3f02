//! A Prometheus of the test's own, in a folder of its own, on a free port.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::tools::{files, read};
use super::{FASTER, PATIENCE, POLL, faster};

pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Prometheus {
    /// Starts it over this edge and these GPU pages, with the shipped files made faster.
    pub(crate) fn start(admin: &str, gpu_pages: &[String]) -> Prometheus {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("prometheus-{}", std::process::id()));
        fs::create_dir_all(folder.join("rules")).unwrap();
        let (gpus, gpu_path) = gpu_targets(gpu_pages);
        let config = faster::aimed(&faster::faster(&read("conf/prometheus/prometheus.yml")), admin, &gpus, &gpu_path);
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        for rules in files("conf/prometheus/rules") {
            let text = faster::faster(&fs::read_to_string(&rules).unwrap());
            fs::write(folder.join("rules").join(rules.file_name().unwrap()), text).unwrap();
        }
        // It takes no port 0 and tells: between this and its own bind another could take the port, which shows at once.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            // 5 minutes unless told: how long a series that is not seen again still counts.
            .arg(format!("--query.lookback-delta={}ms", 5 * 60_000 / FASTER))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Prometheus { child: command.spawn().expect("it starts"), address, folder }
    }

    /// Waits until it has scraped every target.
    pub(crate) fn wait_for_scrapes(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let targets = self.try_get("/api/v1/targets");
            let targets = targets.as_ref().and_then(|told| told["data"]["activeTargets"].as_array());
            if targets.is_some_and(|targets| targets.len() > 1 && targets.iter().all(|target| target["health"] == "up"))
            {
                return;
            }
            assert!(Instant::now() < deadline, "not scraped: {targets:#?}\n{}", self.evidence());
            std::thread::sleep(POLL);
        }
    }

    /// The alerts that fire, each with its labels in order but those of the target.
    pub(crate) fn firing(&self) -> BTreeSet<String> {
        let told = self.try_get("/api/v1/alerts").unwrap_or_else(|| panic!("no answer\n{}", self.evidence()));
        let alerts = told["data"]["alerts"].as_array().expect("a list").iter();
        alerts.filter(|alert| alert["state"] == "firing").map(named).collect()
    }

    /// What it holds of the recorded series and of alerts, and its log's end: for whoever reads a failure.
    pub(crate) fn evidence(&self) -> String {
        let mut said = String::new();
        for query in ["%7B__name__%3D~%22.%2B:.%2B%22%7D", "ALERTS"] {
            let told = self.try_get(&format!("/api/v1/query?query={query}")).unwrap_or_default();
            for series in told["data"]["result"].as_array().into_iter().flatten() {
                said += &format!("{} {}\n", series["metric"], series["value"][1]);
            }
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(10).collect();
        said + &end.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn try_get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: {}\r\n\r\n", self.address).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn named(alert: &Value) -> String {
    let labels: BTreeMap<&str, &str> = alert["labels"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
        .collect();
    let mut said = labels["alertname"].to_owned();
    for (key, value) in labels.iter().filter(|(key, _)| !["alertname", "instance", "job"].contains(key)) {
        said += &format!(" {key}={value}");
    }
    said
}

/// Hosts with ports, and the path that they share.
fn gpu_targets(pages: &[String]) -> (Vec<String>, String) {
    let parts = |page: &String| {
        page.trim_start_matches("http://")
            .split_once('/')
            .map(|(host, path)| (host.to_owned(), format!("/{path}")))
            .unwrap()
    };
    let path = parts(&pages[0]).1;
    (pages.iter().map(|page| parts(page).0).collect(), path)
}
