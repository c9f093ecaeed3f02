//! What the tests are made of.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "a kit: not every test needs every part")]

mod certs;
mod collector;
mod config;
mod edge;
mod h2c;
mod http1;
mod process;
mod python;
pub mod raw_h2;
mod replicas;
mod scripted;
mod tls;
mod tls_replica;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

pub use certs::{Pair, pair};
pub use collector::{Collector, attribute};
pub use config::{EdgeConfig, Pool};
pub use edge::{Edge, TOKEN};
pub use h2c::{H2, as_far_as_it_came, whole};
pub use http1::{Answer, Http1, Piece, post, post_with, request};
pub use process::SimProcess;
pub use python::Python;
pub use raw_h2::{Frame, RawH2};
pub use replicas::{SERVED, calls, sim, sim_at, sim_with};
pub use scripted::{Exchange, Scripted, chunk};
pub use tls::{connect as connect_tls, connect_over as connect_tls_over, connect_to as connect_tls_to};
pub use tls_replica::tls_replica;

/// The most that a test waits for one event. Far above what it takes on a busy machine: only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must come.
#[track_caller]
pub fn soon<T>(wait: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(done) => done,
            Err(_) => panic!("waited {PATIENCE:?} in vain at {caller}"),
        }
    }
}

/// Clients in Ireland and in Singapore, and one whose network is in no database, as `mini-city.mmdb` has it.
pub const IRELAND: Ipv4Addr = Ipv4Addr::new(127, 3, 0, 1);
pub const SINGAPORE: Ipv4Addr = Ipv4Addr::new(127, 4, 0, 1);
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(127, 200, 7, 7);

/// An address of the loopback network that nobody else uses: it is made of this process's id and a counter, so that the
/// ports there are the caller's alone. `127.64.0.0` to `127.191.255.255`, clear of the networks of `mini-city.mmdb`.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(n < 8 * 254, "more addresses than one test process needs");
    let id = std::process::id();
    let [high, low] = [(id >> 8) as u8 & 15, id as u8];
    Ipv4Addr::new(127, 64 + 16 * (n / 254) as u8 + high, low, 1 + (n % 254) as u8)
}

/// A chat request for the model `m` whose answer has so many tokens.
pub fn chat(text: &str, tokens: u64) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}], "sim": {"tokens": tokens}})
}

/// Something that nobody has said before: what was said before goes on where it was said.
pub fn unheard() -> String {
    static SAID: AtomicUsize = AtomicUsize::new(0);
    format!("this is number {}", SAID.fetch_add(1, Ordering::Relaxed))
}

/// The same with further fields.
pub fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// An answer's body as JSON.
#[track_caller]
pub fn json_body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&answer.body)))
}
