//! Chromium without a window, driven by ChromeDriver as the WebDriver standard says: JSON over HTTP.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Http1, json_body};

/// What the browser must not do by itself: look for updates, and ask its maker's servers anything.
const QUIET: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// A browser with one window. It ends, and its profile is removed, when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    at: SocketAddr,
    session: String,
    profile: PathBuf,
}

/// The programs, or what is missing and where it is from.
fn missing() -> Option<&'static str> {
    let here = |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ["chromium", "chromedriver"].into_iter().find(|name| !here(name).is_ok_and(|status| status.success()))
}

impl Browser {
    /// Starts one. `None` where there is none to be had, which has been said then; under `CI=true` that is a failure.
    pub(crate) async fn start() -> Option<Browser> {
        if let Some(name) = missing() {
            let why = format!("`{name}` is not here; Debian's packages are chromium and chromium-driver");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "the status page cannot be tested: {why}");
            // Not by `eprintln!`: the test harness shows that of failed tests only.
            let _ = writeln!(io::stderr(), "SKIPPED: the status page in a browser: {why}");
            return None;
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let profile = std::env::temp_dir().join(format!("nearpool-page-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&profile).unwrap();
        let mut command = Command::new("chromedriver");
        // A process group of their own, so that the browser ends with its driver.
        command.arg("--port=0").process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port =
            lines.find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok());
        let at = (Ipv4Addr::LOCALHOST, port.expect("ChromeDriver says its port")).into();
        // Nobody reads on, and it must not stop for that.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Browser { driver, at, session: String::new(), profile };
        let profile = format!("--user-data-dir={}", browser.profile.display());
        let arguments: Vec<&str> = QUIET.into_iter().chain([&*profile]).collect();
        let options = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let made = browser.ask("POST", "/session", &json!({"capabilities": {"alwaysMatch": options}})).await;
        browser.session = made["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let (port, length) = (self.at.port(), body.len());
        // It answers nobody who calls it anything but localhost.
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost:{port}\r\ncontent-type: application/json\r\n");
        let request = format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let answer = Http1::connect(self.at).await.call(request.as_bytes()).await;
        let mut said = json_body(&answer);
        assert_eq!(answer.status, 200, "{path}: {}", said["value"]["message"]);
        said["value"].take()
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        self.ask("POST", &format!("/session/{}/{path}", self.session), &body).await
    }

    /// Goes to a page, and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.command("url", json!({ "url": url })).await;
    }

    /// Runs a script in the page, and waits for its value when that is a promise.
    pub(crate) async fn run(&self, script: &str, arguments: &[Value]) -> Value {
        self.command("execute/sync", json!({"script": script, "args": arguments})).await
    }

    /// Chromium's own protocol, for what the standard has no command for.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// Presses and releases a key, as on a keyboard: a letter, or a key of [`Key`].
    pub(crate) async fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|what| json!({"type": what, "value": key.to_string()})))
            .collect();
        self.command("actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})).await;
    }

    /// What the console and the network did since the last look: `browser` or `performance`.
    pub(crate) async fn log(&self, kind: &str) -> Vec<Value> {
        let mut entries = self.command("se/log", json!({ "type": kind })).await;
        entries.as_array_mut().unwrap().drain(..).collect()
    }

    /// The window's size in CSS pixels, and the scheme and motion that its user prefers.
    pub(crate) async fn prefer(&self, width: u32, scheme: &str, motion: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }
}

/// Keys that are no letters, as WebDriver names them.
pub(crate) struct Key;

impl Key {
    pub(crate) const TAB: &str = "\u{e004}";
    pub(crate) const ENTER: &str = "\u{e007}";
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The group is this test's own. The shell has `kill` built in; the program of that name is not everywhere.
        let _ = Command::new("sh").args(["-c", &format!("kill -KILL -{}", self.driver.id())]).status();
        // What is waited for must end, whatever became of that.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
