//! The status page of a real edge in a real browser: what a person sees, hears and reaches by keyboard.
//!
//! Where there is no Chromium the tests say so and are skipped; under `CI=true` they fail instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

#[path = "page/driver.rs"]
mod driver;
#[path = "page/screen.rs"]
mod screen;
#[path = "it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use nearpool::sim::server::ReplicaHandle;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use driver::{Browser, Key};
use screen::Screen;
use support::{
    Edge, EdgeConfig, Http1, IRELAND, Pool, Python, SINGAPORE, SimProcess, chat, post_with, request, sim, unheard,
};

const CHAT: &str = "/v1/chat/completions";

/// One browser at a time: two would take each other's time, and one test is about time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

static AXE: Python = Python::new("page", "the status page's check for accessibility");

/// A replica that is gone is out of use after six tenths of a second at most.
fn checked(config: EdgeConfig) -> EdgeConfig {
    config
        .set("health", "interval", "\"300ms\"")
        .set("health", "timeout", "\"300ms\"")
        .set("health", "unhealthy_after", "2")
        .set("health", "healthy_after", "1")
}

/// Two regions, each with a pool of the model `m`.
fn two_regions(near: Pool, far: Pool) -> EdgeConfig {
    checked(EdgeConfig::new().region("there", 1.35, 103.82).pool(near).pool(far)).set(
        "edge",
        "trusted_proxies",
        "[\"127.0.0.0/8\"]",
    )
}

async fn browser() -> Option<(Browser, MutexGuard<'static, ()>)> {
    let alone = ONE_AT_A_TIME.lock().await;
    Some((Browser::start().await?, alone))
}

/// A call that comes from an address, with a request id of its client's.
async fn call(edge: &Edge, from: std::net::Ipv4Addr, id: &str) -> u16 {
    let headers = [("x-forwarded-for", &*from.to_string()), ("x-request-id", id)];
    Http1::connect(edge.agents()).await.call(&post_with(CHAT, &headers, &chat(&unheard(), 2))).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_how_things_stand_and_within_two_seconds_that_a_replica_was_killed() {
    let Some((browser, _alone)) = browser().await else { return };
    let (steady, far) = (sim("steady").await, sim("far").await);
    let mut doomed = SimProcess::start("doomed").await;
    let near = Pool::new("near", "here", "m").sims(&[&steady]).replica(doomed.name(), &doomed.url());
    let edge = Edge::start(two_regions(near, Pool::new("other", "there", "m").sims(&[&far]))).await;
    for from in [IRELAND, SINGAPORE] {
        assert_eq!(call(&edge, from, "a-call").await, 200);
    }
    let screen = Screen::open(browser, edge.admin()).await;
    screen.read("2 of 2 in use").await;
    // By roles and names, as a screen reader tells them.
    for (role, name) in [
        ("banner", ""),
        ("main", ""),
        ("navigation", "On this page"),
        ("heading", "Traffic of the last minute"),
        ("article", "near"),
        ("article", "other"),
        ("rowheader", "here (this edge)"),
        ("rowheader", "there"),
        ("rowheader", "steady"),
        ("rowheader", "doomed"),
        ("rowheader", "far"),
        ("columnheader", "Round trip"),
        ("log", "Changes"),
        ("image", "World map of regions and of the calls that reach them"),
    ] {
        screen.tells(role, name).await;
    }
    screen.until("document.querySelectorAll('.arcs .arc').length >= 2").await;

    doomed.kill();
    let killed = Instant::now();
    screen.read("Replica doomed of near is down: connection refused.").await;
    let seen = killed.elapsed();
    println!("the killed replica was seen after {} ms", seen.as_millis());
    assert!(seen <= Duration::from_secs(2), "the killed replica was seen after {seen:?}");
    for said in ["1 of 2 in use", "doomed is down (connection refused)", "partly up"] {
        screen.read(said).await;
    }
    screen.until("document.querySelector('#changes').innerText.includes('Replica doomed of near is down')").await;
    assert_eq!(screen.value("document.title").await, "✕ 1 problem · it · Nearpool");
    screen.nothing_went_wrong().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_explains_where_a_call_would_go() {
    let Some((browser, _alone)) = browser().await else { return };
    let (near, far) = (sim("near-1").await, sim("far-1").await);
    let pools = (Pool::new("near", "here", "m").sims(&[&near]), Pool::new("other", "there", "m").sims(&[&far]));
    let edge = Edge::start(two_regions(pools.0, pools.1)).await;
    let screen = Screen::open(browser, edge.admin()).await;
    screen.value("document.querySelector('[name=ip]').focus()").await;
    screen.until("document.querySelector('[name=model]').value === 'm'").await;
    screen.browser.press(&format!("{SINGAPORE}{}", Key::ENTER)).await;
    screen.read("To far-1 in other").await;
    screen.tells("rowheader", "there").await;
    let text = screen.text().await;
    for said in
        [&format!("Client {SINGAPORE}: Singapore"), "Regions in the order of choosing", "Pools in the order of trying"]
    {
        assert!(text.contains(said), "no \"{said}\" in {text}");
    }
    // What the edge cannot explain it says in words. The field's text is replaced as by typing over it.
    screen.value("document.querySelector('[name=model]').select()").await;
    screen.value("document.querySelector('[name=model]').focus()").await;
    screen.browser.press(&format!("nobody{}", Key::ENTER)).await;
    screen.read("Cannot tell: the model 'nobody' does not exist").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_words_are_shown_as_text_and_nothing_is_loaded_from_elsewhere() {
    let Some((browser, _alone)) = browser().await else { return };
    let (gone, spare) = (sim("gone").await, sim("spare").await);
    let pool = Pool::new("near", "here", "m").sims(&[&gone, &spare]);
    // Nobody checks, so that a call finds out that the replica is gone.
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    gone.stop().await;
    let id = "<img/src=x/onerror=alert(1)>";
    // As many first calls as it takes until one was first sent to the replica that is gone.
    for _ in 0..64 {
        assert_eq!(call(&edge, IRELAND, id).await, 200);
    }
    let screen = Screen::open(browser, edge.admin()).await;
    screen.read(id).await;
    screen.read("connect failed").await;
    assert_eq!(screen.value("document.images.length").await, 0);
    screen.nothing_went_wrong().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_said_and_found_again() {
    let Some((browser, _alone)) = browser().await else { return };
    let replica = sim("a").await;
    let config = checked(EdgeConfig::of(&[&replica]));
    let edge = Edge::start(config.clone()).await;
    let address = edge.address();
    let screen = Screen::open(browser, edge.admin()).await;
    drop(edge);
    screen.read("Connection lost since").await;
    screen.read("what is shown is as of then").await;
    screen.tells("alert", "").await;
    assert_eq!(screen.value("getComputedStyle(document.querySelector('main')).filter").await, "grayscale(1)");
    let _edge = Edge::start_at(address, config).await;
    screen.until("document.documentElement.dataset.feed === 'live'").await;
    screen.read("The connection to the edge is back").await;
    assert!(!screen.text().await.contains("Connection lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_viewer_too_many_still_sees_how_things_stand() {
    const VIEWERS_MAX: usize = 16;
    let Some((browser, _alone)) = browser().await else { return };
    let replica = sim("a").await;
    let edge = Edge::start(checked(EdgeConfig::of(&[&replica]))).await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS_MAX {
        let mut viewer = Http1::connect(edge.admin()).await;
        viewer.send(&request("GET", "/events", &[], b"")).await;
        assert_eq!(viewer.head().await.status, 200);
        viewers.push(viewer);
    }
    let screen = Screen::open(browser, edge.admin()).await;
    screen.read("1 of 1 in use").await;
    replica.stop().await;
    screen.read("down: 0 of 1 in use").await;
    assert!(!screen.text().await.contains("Connection lost"));
    drop(viewers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyboard_reaches_everything_in_order_and_keeps_its_place() {
    let Some((browser, _alone)) = browser().await else { return };
    let replica = sim("a").await;
    let edge = Edge::start(checked(EdgeConfig::of(&[&replica]))).await;
    let screen = Screen::open(browser, edge.admin()).await;
    let tab = || screen.browser.press(Key::TAB);
    tab().await;
    assert_eq!(screen.focused().await, "a Skip to what is going on");
    let mut stops = Vec::new();
    for _ in 0..60 {
        tab().await;
        let at = screen.focused().await;
        if at.starts_with("body") {
            break;
        }
        let outline = screen.value("getComputedStyle(document.activeElement).outlineStyle").await;
        assert_eq!(outline, "solid", "the focus on {at} cannot be seen");
        stops.push(at);
    }
    let expected = [
        "a Traffic",
        "a Pools",
        "a Failovers",
        "a Configuration",
        "a Explain",
        "summary The flows as a table",
        "input filter-text",
        "input filter-trouble",
        "button open-all",
        "button close-all",
        "summary Charts and 1 replica",
        "input ip",
        "input model",
        "input step",
        "input session",
        "input key",
        "select dialect",
        "button Explain",
        "a /metrics",
    ];
    let mut rest = stops.iter();
    for wanted in expected {
        assert!(rest.any(|stop| stop == wanted), "{wanted} is not reached in its order: {stops:?}");
    }
    // A summary opens and closes by keyboard.
    let details = "document.querySelector('.pool details')";
    screen.value(&format!("{details}.firstChild.focus()")).await;
    let open = screen.value(&format!("{details}.open")).await;
    screen.browser.press(Key::ENTER).await;
    assert_eq!(screen.value(&format!("{details}.open")).await, json!(open != json!(true)));
    // What is being typed and selected survives what comes every second.
    screen.value("document.querySelector('#filter-text').focus()").await;
    screen.browser.press("near").await;
    screen.value("document.querySelector('#filter-text').setSelectionRange(1, 3)").await;
    screen.value("(window.card = document.querySelector('.pool'), window.then = document.querySelector('#as-of').innerText, 0)").await;
    screen.until("document.querySelector('#as-of').innerText !== window.then").await;
    assert_eq!(screen.focused().await, "input filter-text");
    assert_eq!(screen.value("document.activeElement.value.slice(document.activeElement.selectionStart, document.activeElement.selectionEnd)").await, "ea");
    assert_eq!(screen.value("window.card === document.querySelector('.pool')").await, true);
    screen.browser.press("zzz").await;
    screen.read("0 of 1 pool").await;
}

/// A pool whose names are long, with replicas of which one is gone.
async fn crowded() -> (Edge, Vec<ReplicaHandle>) {
    let long = "a-name-that-goes-on-and-on-as-those-do-that-machines-make-up";
    let (a, b, c) = (sim(&format!("{long}-a")).await, sim(&format!("{long}-b")).await, sim("c").await);
    let pool = Pool::new(long, "here", "m").sims(&[&a, &b]);
    let edge = Edge::start(two_regions(pool, Pool::new("other", "there", "m").sims(&[&c]))).await;
    for from in [IRELAND, SINGAPORE] {
        assert_eq!(call(&edge, from, "a-call").await, 200);
    }
    a.stop().await;
    (edge, vec![a, b, c])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_fits_a_phone_and_twice_the_size() {
    let Some((browser, _alone)) = browser().await else { return };
    let (edge, _replicas) = crowded().await;
    // 640 is what a window of 1,280 pixels has left at 200 %.
    for width in [320, 360, 640, 1440] {
        browser.prefer(width, "light", "no-preference").await;
        browser.open(&format!("http://{}/", edge.admin())).await;
        let look = "const until = Date.now() + 15000; return new Promise((done) => { const look = () => {
            const open = document.querySelectorAll('details'); open.forEach((details) => { details.open = true; });
            if (document.body.innerText.includes('1 of 2 in use') || Date.now() > until) done(open.length);
            else requestAnimationFrame(look); }; look(); });";
        assert!(browser.run(look, &[]).await.as_u64().unwrap() >= 3);
        let widths = "return [document.documentElement.scrollWidth, window.innerWidth];";
        let widths = browser.run(widths, &[]).await;
        assert!(widths[0].as_u64() <= widths[1].as_u64(), "at {width} the page is {widths} wide");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_accessibility_is_found_in_any_dress() {
    let Some(python) = AXE.interpreter() else { return };
    let Some((browser, _alone)) = browser().await else { return };
    let found =
        "import axe_playwright_python, os; print(os.path.join(axe_playwright_python.__path__[0], 'axe.min.js'))";
    let found = std::process::Command::new(python).args(["-c", found]).output().unwrap();
    let axe = std::fs::read_to_string(String::from_utf8(found.stdout).unwrap().trim()).unwrap();
    let (edge, _replicas) = crowded().await;
    let mut screen = Screen::open(browser, edge.admin()).await;
    let mut edge = Some(edge);
    for (width, scheme, motion, lost) in [
        (1440, "light", "no-preference", false),
        (360, "dark", "reduce", false),
        (1440, "dark", "no-preference", false),
        (360, "light", "no-preference", true),
    ] {
        screen.browser.prefer(width, scheme, motion).await;
        screen.read("1 of 2 in use").await;
        screen.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })").await;
        if lost {
            edge = None;
            screen.read("Connection lost since").await;
        }
        let animation = screen.value("getComputedStyle(document.querySelector('.moving')).animationName").await;
        assert_eq!(animation == "none", motion == "reduce");
        let ground = screen.value("getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(ground == "rgb(13, 17, 23)", scheme == "dark", "{ground}");
        let faults = "return axe.run().then(({ violations, passes }) => ({ passes: passes.length, violations:
            violations.map(({ id, nodes }) => [id, nodes.map((node) => [node.html, node.failureSummary])]) }));";
        let result = screen.browser.run(&format!("{axe}\n{faults}"), &[]).await;
        assert!(result["passes"].as_u64().unwrap() > 30, "{result}");
        assert_eq!(result["violations"], json!([]), "at {width}, {scheme}, lost: {lost}");
    }
    drop((edge, &mut screen));
}
