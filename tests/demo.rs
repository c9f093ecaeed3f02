//! `nearpool demo` from outside: what it prints, how it ends, and that nothing is left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nearpool::domain::code::Code;
use nearpool::domain::place::Place;
use nearpool::sim::world::PLACES;
use nearpool::wire::geoip::GeoDb;

/// Far above what it takes, so that only a demo that hangs is caught by it.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// A demo; killed when the test ends before it.
struct Demo(Child);

impl Demo {
    fn start(args: &[&str]) -> Demo {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearpool"));
        command.arg("demo").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Demo(command.spawn().expect("the binary starts"))
    }

    /// Everything that it prints until it ends.
    fn end(mut self) -> (ExitStatus, String, String) {
        let (mut out, mut err) = (self.0.stdout.take().unwrap(), self.0.stderr.take().unwrap());
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let (mut printed, mut logged) = (String::new(), String::new());
            out.read_to_string(&mut printed).unwrap();
            err.read_to_string(&mut logged).unwrap();
            done.send((printed, logged)).unwrap();
        });
        let (printed, logged) = ended.recv_timeout(END_TIMEOUT).expect("the demo ends");
        (self.0.wait().unwrap(), printed, logged)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It fails when the demo has ended, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What stands behind this at the beginning of a line.
fn after<'a>(printed: &'a str, label: &str) -> &'a str {
    let found = printed.lines().find_map(|line| line.trim_start().strip_prefix(label));
    found.unwrap_or_else(|| panic!("no line {label:?} in\n{printed}")).trim()
}

/// The columns of a row of the table, as plain numbers.
fn row(printed: &str, label: &str) -> Vec<f64> {
    let cells = after(printed, label).split_whitespace().filter_map(|cell| cell.replace(',', "").parse().ok());
    cells.collect()
}

fn nothing_is_left(printed: &str) {
    let agents: SocketAddr = after(printed, "agents    http://").trim_end_matches("/v1").parse().unwrap();
    assert!(TcpStream::connect(agents).is_err(), "somebody still listens at {agents}");
    let config = Path::new(after(printed, "config    ")).parent().unwrap();
    assert!(!config.exists(), "{} is left", config.display());
}

#[test]
fn demo_shows_a_fleet_that_loses_replicas_and_no_call() {
    let (status, printed, logged) = Demo::start(&["--seconds", "12", "--seed", "7"]).end();
    assert!(status.success(), "{printed}\n{logged}");
    assert_eq!(logged, "", "the log disturbs the display");
    for happened in ["killed us-west-", "healed us-west-", "killed all of us-west", "healed us-west,"] {
        assert!(printed.contains(happened), "{happened} in\n{printed}");
    }
    let calls = row(&printed, "calls");
    assert!(calls[0] >= 50.0 && calls[1] >= 20.0, "{calls:?}");
    assert_eq!(row(&printed, "errors"), [0.0, 0.0]);
    assert!(row(&printed, "failover: nearest region down")[0] > 0.0);
    let cached = row(&printed, "prompt tokens found in KV caches");
    assert!(cached[0] > 45.0 && cached[0] > cached[1] + 10.0, "{cached:?}");
    let computed = row(&printed, "prompt tokens computed for each call");
    assert!(computed[0] < computed[1], "{computed:?}");
    assert!(printed.contains("fewer prompt tokens than with round robin"));
    assert!(row(&printed, "session: stayed at its warm replica").len() == 1, "no receipts without an edge");
    // Above stand paths, which are as long as they are.
    let told = printed.lines().skip_while(|line| !line.contains("phase 1"));
    assert!(told.map(|line| line.chars().count()).max() <= Some(90), "too long for a terminal:\n{printed}");
    assert!(printed.contains("Replicas are simulated"));
    nothing_is_left(&printed);
}

#[test]
fn demo_ends_at_once_when_told_with_what_it_has() {
    let mut demo = Demo::start(&[]);
    let mut first = String::new();
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap());
    while !first.contains("phase 1") {
        assert_ne!(lines.read_line(&mut first).unwrap(), 0, "{first}");
    }
    let told = Instant::now();
    let signalled = Command::new("kill").args(["-INT", &demo.0.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(demo.0.wait().unwrap().success(), "{rest}");
    assert!(told.elapsed() < Duration::from_secs(8), "it took {:?}", told.elapsed());
    assert!(rest.contains("round robin") && !rest.contains("phase 2"), "{rest}");
    nothing_is_left(&(first + &rest));
}

#[test]
fn a_demo_too_short_to_show_anything_is_refused() {
    let (status, printed, logged) = Demo::start(&["--seconds", "3"]).end();
    assert_eq!((status.code(), printed.as_str()), (Some(2), ""));
    assert!(logged.contains("10..=3600"), "{logged}");
}

#[test]
fn agents_stand_where_they_say_in_the_shipped_database() {
    let shipped = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("geoip/nearpool.mmdb")).unwrap();
    let shipped = GeoDb::from_bytes(shipped).unwrap();
    for place in PLACES {
        let name = place.name;
        let located = shipped.lookup(place.address.parse().unwrap()).unwrap();
        let located = located.unwrap_or_else(|| panic!("{name} is nowhere"));
        let code = match place.continent {
            "North America" => "NA",
            "South America" => "SA",
            "Europe" => "EU",
            "Africa" => "AF",
            "Asia" => "AS",
            "Oceania" => "OC",
            other => panic!("{other} is no continent"),
        };
        assert_eq!(located.continent, Code::new(code), "{name}");
        let (at, says) = (located.place.unwrap(), Place { latitude: place.latitude, longitude: place.longitude });
        assert!(at.distance_km(says) < 1_000.0, "{name} is at {at:?}");
        assert!(located.accuracy_radius_km.is_none_or(|km| km < 1_000), "{name}: only its country is known");
    }
}
