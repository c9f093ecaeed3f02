//! The fault matrix: a replica that fails, in every way that there is, beside a good one, and no client that notices.

mod client;
mod faulty;
mod frames;
mod load;
mod matrix;
mod rows;
mod rows_http2;
mod shared;

use self::load::{Breaker, Load, Place};
use self::matrix::matrix;

/// What fails at once: the timeouts stay out of it.
const AT_ONCE: Load = Load { clients: 8, timeout: "20s", place: Place::Own, breaker: Breaker::Off, resumable: true };

/// What is given up. The time given is far above what a good answer takes on a busy machine.
const GIVEN_UP: Load = Load { clients: 25, timeout: "3s", ..AT_ONCE };

#[tokio::test]
async fn no_client_notices_connections_that_fail() {
    matrix(rows::CONNECTIONS, AT_ONCE).await;
}

#[tokio::test]
async fn no_client_notices_heads_that_are_none() {
    matrix(rows::HEADS, AT_ONCE).await;
}

#[tokio::test]
async fn no_client_notices_answers_that_say_that_they_failed() {
    matrix(rows::STATUSES, AT_ONCE).await;
}

#[tokio::test]
async fn no_client_notices_answers_that_break_off_before_they_are_shown() {
    matrix(rows::BODIES, AT_ONCE).await;
}

#[tokio::test]
async fn no_client_notices_answers_that_do_not_come() {
    matrix(rows::SILENCE, GIVEN_UP).await;
}

#[tokio::test]
async fn no_client_notices_http2_connections_that_fail() {
    matrix(rows_http2::CONNECTIONS, AT_ONCE).await;
}

#[tokio::test]
async fn no_client_notices_http2_streams_that_fail() {
    matrix(rows_http2::STREAMS, AT_ONCE).await;
}

#[tokio::test]
async fn no_client_notices_http2_streams_on_which_nothing_comes() {
    matrix(rows_http2::SILENCE, GIVEN_UP).await;
}

#[tokio::test]
async fn no_client_notices_streams_that_break_after_they_began() {
    matrix(rows::MID_STREAM, AT_ONCE).await;
}

#[tokio::test]
async fn no_client_notices_streams_on_which_nothing_comes_after_they_began() {
    matrix(rows::MID_STREAM_SILENCE, GIVEN_UP).await;
}

#[tokio::test]
async fn streams_that_cannot_go_on_elsewhere_say_that_they_broke_off() {
    matrix(rows::MID_STREAM, Load { resumable: false, ..AT_ONCE }).await;
}

#[tokio::test]
async fn no_client_notices_a_breaker_that_opens() {
    matrix(rows::SOME, Load { breaker: Breaker::Default, ..AT_ONCE }).await;
}

#[tokio::test]
async fn no_client_notices_that_it_is_the_probe() {
    matrix(rows::SOME, Load { breaker: Breaker::Quick, ..AT_ONCE }).await;
}

#[tokio::test]
async fn replicas_may_be_known_by_name() {
    matrix(&rows::SOME[..2], Load { place: Place::Name, ..AT_ONCE }).await;
}

#[tokio::test]
async fn replicas_may_be_at_ipv6_addresses() {
    if tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
        println!("SKIPPED: this machine has no IPv6");
        return;
    }
    matrix(&rows::SOME[..2], Load { place: Place::Ipv6, ..AT_ONCE }).await;
}
