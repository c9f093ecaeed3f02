//! TLS on both sides: what is spoken, which certificate is served, and whose is believed.

use std::path::PathBuf;

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{
    Edge, EdgeConfig, Http1, Pair, Pool, chat, connect_tls, connect_tls_to, json_body, own_address, pair, post, sim,
    tls_replica, with,
};

const CHAT: &str = "/v1/chat/completions";

/// An edge that serves TLS with this pair, whose files lie in its folder.
async fn edge_with(pair: &Pair, config: EdgeConfig) -> (Edge, PathBuf) {
    let address = own_address();
    let folder = Edge::folder_of(address);
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = pair.write(&folder);
    let edge = Edge::start_at(address, config.tls(certificate.to_str().unwrap(), key.to_str().unwrap())).await;
    (edge, folder)
}

/// The certificate that a new handshake shows.
async fn shown(edge: &Edge) -> Vec<u8> {
    let stream = connect_tls(edge.tls(), &["http/1.1"]).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn alpn_gives_h2_and_http1() {
    let replica = sim("a").await;
    let (edge, _) = edge_with(&pair("edge.test"), EdgeConfig::of(&[&replica])).await;
    for (offers, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["h2"], Some(b"h2")),
        (&[], None),
    ] {
        let stream = connect_tls(edge.tls(), offers).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offers:?}");
    }
    let mut http1 = Http1::over_any(connect_tls(edge.tls(), &["http/1.1"]).await);
    for _ in 0..2 {
        assert_eq!(http1.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
    }
    let io = hyper_util::rt::TokioIo::new(connect_tls(edge.tls(), &["h2"]).await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::new(bytes::Bytes::from(chat("hi", 1).to_string()));
    let request = http::Request::post(format!("https://edge.test{CHAT}")).body(body).unwrap();
    let answer = crate::support::soon(sender.send_request(request)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
}

#[tokio::test]
async fn a_stream_over_tls_is_whole_and_keeps_its_connection() {
    let replica = sim("a").await;
    let (edge, _) = edge_with(&pair("edge.test"), EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::over_any(connect_tls(edge.tls(), &["http/1.1"]).await);
    for _ in 0..3 {
        let answer = client.call(&post(CHAT, &with(chat("hi", 30), json!({"stream": true})))).await;
        assert_eq!((answer.status, answer.header("transfer-encoding")), (200, Some("chunked")));
        assert!(answer.body.starts_with(b"data: {") && answer.body.ends_with(b"data: [DONE]\n\n"), "{:?}", answer.body);
    }
}

#[tokio::test]
async fn what_is_no_handshake_ends_and_leaves_the_listener() {
    let replica = sim("a").await;
    let (edge, _) = edge_with(&pair("edge.test"), EdgeConfig::of(&[&replica])).await;
    for garbage in [&b"GET / HTTP/1.1\r\nhost: e\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[0; 100]] {
        let mut client = Http1::connect(edge.tls()).await;
        let _ = client.try_send(garbage).await;
        client.half_close().await;
        let said = client.until_closed().await;
        assert!(!said.starts_with(b"HTTP"), "{}", said.escape_ascii());
    }
    assert!(connect_tls_to(edge.tls(), &["h3"]).await.is_err(), "no common protocol is no handshake");
    edge.wait_for_stderr("no TLS with 127.0.0.1:").await;
    let mut client = Http1::over_any(connect_tls(edge.tls(), &["http/1.1"]).await);
    assert_eq!(client.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
}

#[tokio::test]
async fn replaced_certificates_are_served_from_the_next_handshake_on() {
    const TAKEN: &str = "nearpool_config_reloads_total{result=\"ok\",source=\"tls\"}";
    const REFUSED: &str = "nearpool_config_reloads_total{result=\"refused\",source=\"tls\"}";
    let replica = sim("a").await;
    let (first, second) = (pair("edge.test"), pair("edge.test"));
    let (edge, folder) = edge_with(&first, EdgeConfig::of(&[&replica])).await;
    let mut open = Http1::over_any(connect_tls(edge.tls(), &["http/1.1"]).await);
    open.send(&post(CHAT, &with(chat("hi", 40), json!({"stream": true, "sim": {"tokens": 40, "itl_ms": 10}})))).await;
    let head = open.head().await;
    assert_eq!(shown(&edge).await, first.der);
    // A key of another certificate: refused, and the old pair stays. Only one file changes, so there is one verdict.
    std::fs::write(folder.join("edge.key"), &second.key).unwrap();
    edge.wait_for_metric(REFUSED, |value| value >= 1.0).await;
    assert_eq!(shown(&edge).await, first.der);
    // With its certificate it is a pair.
    second.write(&folder);
    edge.wait_for_metric(TAKEN, |value| value >= 1.0).await;
    assert_eq!(shown(&edge).await, second.der);
    // No certificate at all, and none.
    let before = edge.metric(REFUSED).await;
    std::fs::write(folder.join("edge.pem"), "nonsense").unwrap();
    edge.wait_for_metric(REFUSED, |value| value > before).await;
    assert_eq!(shown(&edge).await, second.der);
    let before = edge.metric(REFUSED).await;
    std::fs::remove_file(folder.join("edge.pem")).unwrap();
    edge.wait_for_metric(REFUSED, |value| value > before).await;
    assert_eq!(shown(&edge).await, second.der);
    // What was open all the while has lost nothing.
    let (body, ended) = open.body(&head).await;
    ended.unwrap();
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(open.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
}

#[tokio::test]
async fn a_replicas_certificate_must_be_trusted_and_its_own() {
    let at = own_address();
    let listener = TcpListener::bind((at, 8443)).await.unwrap();
    let own = pair(&at.to_string());
    let trusted_one = tls_replica(&own, listener);
    let replica = trusted_one.address;
    let wrong_name = own_address();
    let misnamed = tls_replica(&own, TcpListener::bind((wrong_name, 8443)).await.unwrap());
    let stranger = misnamed.address;
    // (what is trusted, where the replica is, the answer)
    for (trusted, replica, status) in [(&own, replica, 200), (&pair("another"), replica, 502), (&own, stranger, 502)] {
        let address = own_address();
        let folder = Edge::folder_of(address);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("roots.pem"), &trusted.certificate).unwrap();
        let pool = Pool::new("near", "here", "m").replica("a", &format!("https://{replica}"));
        let edge = Edge::start_with(address, &EdgeConfig::new().pool(pool).toml(address), |command| {
            command.env("SSL_CERT_FILE", folder.join("roots.pem")).env_remove("SSL_CERT_DIR");
        })
        .await;
        let answer = Http1::connect(edge.agents()).await.call(&post(CHAT, &chat("hi", 1))).await;
        assert_eq!(answer.status, status, "{}", json_body(&answer));
        let line = edge.wait_for_log(|line| line["status"] == status).await;
        if status == 200 {
            assert_eq!(json_body(&answer)["secure"], true);
        } else {
            assert_eq!(json_body(&answer)["error"]["code"], "connect_failed");
            assert_eq!(line["outcome"], "connect_failed");
        }
    }
}
