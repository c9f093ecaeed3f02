//! A client of either protocol, and how it reads a stream.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Answer, H2, Http1, as_far_as_it_came, post_with};

/// Where it calls.
pub(super) const PATH: &str = "/v1/chat/completions";

/// The text of a chat stream, and whether it is all of it.
pub(super) fn streamed_text(body: &str) -> (String, bool) {
    let (mut text, mut finished) = (String::new(), false);
    for data in body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")) {
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { continue };
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        finished |= chunk["choices"][0]["finish_reason"] == "stop";
    }
    (text, finished && body.ends_with("data: [DONE]\n\n"))
}

/// A client's connection.
pub(super) enum Client {
    Http1(Box<Http1>),
    Http2(H2),
}

impl Client {
    pub(super) async fn connect(n: usize, edge: SocketAddr) -> Client {
        match n % 4 {
            3 => Client::Http2(H2::connect(edge).await),
            _ => Client::Http1(Box::new(Http1::connect(edge).await)),
        }
    }

    /// Makes a call; tells what came and whether it ended as it should.
    pub(super) async fn call(&mut self, session: &str, body: &Value) -> (Answer, bool) {
        let headers = [("content-type", "application/json"), ("x-session-id", session)];
        match self {
            Client::Http1(client) => {
                client.send(&post_with(PATH, &headers[1..], body)).await;
                let mut answer = client.head().await;
                let (body, ended) = client.body(&answer).await;
                answer.body = body;
                (answer, ended.is_ok())
            }
            Client::Http2(client) => {
                let answer = client.send(PATH, &headers, body.to_string()).await.unwrap();
                as_far_as_it_came(answer).await
            }
        }
    }
}
