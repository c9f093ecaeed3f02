//! The demo with trouble, as its operator sees it: what it prints, and the Enter key.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The most that is waited for one line.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Rehearsal {
    child: Child,
    keys: ChildStdin,
    lines: Receiver<String>,
    admin: String,
    config: String,
}

impl Rehearsal {
    /// Starts it and waits until it serves.
    pub(crate) fn start(troubles: &[&str]) -> Rehearsal {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearpool"));
        command.arg("demo").args(troubles.iter().flat_map(|trouble| ["--trouble", trouble]));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let (keys, out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (told, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        let mut demo = Rehearsal { child, keys, lines, admin: String::new(), config: String::new() };
        let metrics = demo.wait_for("metrics   http://");
        demo.admin = metrics.rsplit_once("http://").unwrap().1.trim_end_matches("/metrics").to_owned();
        let config = demo.wait_for("config ");
        demo.config = std::fs::read_to_string(config.trim().trim_start_matches("config ").trim()).unwrap();
        demo
    }

    /// Where the edge's admin listener is.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// The URLs of its replicas' GPU exporters, as its configuration has them.
    pub(crate) fn gpu_pages(&self) -> Vec<String> {
        let pages = self.config.split("gpu_metrics = \"").skip(1);
        pages.map(|rest| rest.split_once('"').unwrap().0.to_owned()).collect()
    }

    /// Waits for a line with this in it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).unwrap_or_else(|error| panic!("the demo never said {text:?}: {error}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Goes on to the next part.
    pub(crate) fn enter(&mut self) {
        self.keys.write_all(b"\n").unwrap();
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        // A signal first, so that it leaves no folder behind; it may have ended already.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
