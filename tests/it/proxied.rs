//! Listeners behind a load balancer that speaks the PROXY protocol.

use std::net::{IpAddr, Ipv4Addr};

use nearpool::sim::server::ReplicaHandle;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{
    Answer, Edge, EdgeConfig, H2, Http1, Pool, chat, connect_tls_over, own_address, pair, post, post_with, sim, soon,
    unheard,
};

const CHAT: &str = "/v1/chat/completions";
const FAULTS: [&str; 3] = ["malformed", "late", "cut"];

/// An edge in California with a region in Ireland too, whose listeners `takers` (of `8080` and, over TLS, `8443`) take
/// PROXY headers. Ireland's network 127.3.0.0/16 stands for the clients.
async fn edge(takers: &[u16], change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> (Edge, [ReplicaHandle; 2]) {
    let replicas = [sim("here").await, sim("ireland").await];
    let address = own_address();
    let listeners: Vec<_> = takers.iter().map(|port| format!("\"{address}:{port}\"")).collect();
    let folder = Edge::folder_of(address);
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = pair("edge.test").write(&folder);
    let config = EdgeConfig::new()
        .region("ireland", 53.35, -6.26)
        .pool(Pool::new("p-here", "here", "m").sims(&[&replicas[0]]))
        .pool(Pool::new("p-ireland", "ireland", "m").sims(&[&replicas[1]]))
        .set("edge", "proxy_protocol", &format!("[{}]", listeners.join(", ")))
        .tls(certificate.to_str().unwrap(), key.to_str().unwrap());
    (Edge::start_at(address, change(config)).await, replicas)
}

/// A header of version 2 for this client.
fn version_2(client: IpAddr, tlvs: &[u8]) -> Vec<u8> {
    let (family, addresses) = match client {
        IpAddr::V4(v4) => (0x11, [&v4.octets()[..], &[127, 0, 0, 1]].concat()),
        IpAddr::V6(v6) => (0x21, [v6.octets(), [1; 16]].concat()),
    };
    let rest = [&addresses[..], &[0x80, 0, 0x1f, 0x90], tlvs].concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &length, &rest].concat()
}

/// LOCAL: the load balancer itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Headers, and where the client that they name is.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    vec![
        (b"PROXY TCP4 127.3.0.1 127.0.0.1 4711 8080\r\n".to_vec(), "ireland"),
        (b"PROXY TCP6 ::ffff:127.3.0.1 ::1 4711 8080\r\n".to_vec(), "ireland"),
        (b"PROXY TCP4 127.1.0.1 127.0.0.1 4711 8080\r\n".to_vec(), "here"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "here"),
        (version_2(address("127.3.0.1"), b""), "ireland"),
        (version_2(address("127.3.0.1"), &[4; 1500]), "ireland"),
        (version_2(address("2001:db8:4::1"), b""), "ireland"), // in Singapore: nearer to Ireland than to California
        (version_2(address("::ffff:127.1.0.1"), b""), "here"),
        (LOCAL.to_vec(), "here"),
    ]
}

async fn connect(from: Ipv4Addr, to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = soon(socket.connect(to)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A load balancer's connection that has begun so; it stands where no database knows it.
async fn begun(to: std::net::SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = connect(Ipv4Addr::new(127, 200, 0, 1), to).await;
    soon(stream.write_all(header)).await.unwrap();
    stream
}

#[track_caller]
fn served_in(answer: &Answer, region: &str, header: &[u8]) {
    let told = (answer.status, answer.header("x-nearpool-region"));
    assert_eq!(told, (200, Some(region)), "{}", header.escape_ascii());
}

#[tokio::test]
async fn the_header_names_the_client_in_plain_text_in_h2c_and_before_tls() {
    let (edge, _replicas) = edge(&[8080, 8443], |config| config).await;
    let ask = || post(CHAT, &chat(&unheard(), 1));
    for (header, region) in headers() {
        let mut plain = Http1::over(begun(edge.agents(), &header).await);
        // Every request of the connection is this client's.
        for _ in 0..2 {
            served_in(&plain.call(&ask()).await, region, &header);
        }
        // In one piece with the request, and in the smallest pieces.
        let mut at_once = Http1::over(begun(edge.agents(), &[&header[..], &ask()].concat()).await);
        served_in(&at_once.answer().await, region, &header);
        if header.len() < 100 {
            let mut slow = begun(edge.agents(), b"").await;
            for byte in &header {
                soon(slow.write_all(&[*byte])).await.unwrap();
            }
            served_in(&Http1::over(slow).call(&ask()).await, region, &header);
        }
        let mut h2c = H2::over(begun(edge.agents(), &header).await).await;
        for _ in 0..2 {
            served_in(&h2c.call(CHAT, &[], &chat(&unheard(), 1)).await, region, &header);
        }
        let over_tls = async |alpn| connect_tls_over(begun(edge.tls(), &header).await, &[alpn]).await.unwrap();
        served_in(&Http1::over_any(over_tls("http/1.1").await).call(&ask()).await, region, &header);
        let mut h2 = H2::over(over_tls("h2").await).await;
        served_in(&h2.call(CHAT, &[], &chat(&unheard(), 1)).await, region, &header);
    }
    let line = edge.wait_for_log(|line| line["client"] == "127.3.0.1").await;
    assert_eq!((&line["country"], &line["place_source"]), (&"IE".into(), &"proxy_protocol".into()));
    // The connections that came and went without a word, to see whether it listens, are no faults.
    for fault in FAULTS {
        assert_eq!(faults(&edge, fault).await, 0.0, "{fault}");
    }
}

async fn faults(edge: &Edge, reason: &str) -> f64 {
    edge.metric(&format!("nearpool_proxy_header_faults_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn whom_the_header_names_is_believed_no_more_than_it_is_trusted() {
    let trusting = |config: EdgeConfig| config.set("edge", "trusted_proxies", "[\"127.5.0.0/16\", \"127.200.0.0/24\"]");
    let (edge, _replicas) = edge(&[8080], trusting).await;
    for (header, forwarded, region) in [
        // An agent, and a CDN that names another, on the load balancer's connection.
        ("PROXY TCP4 127.1.0.1 127.0.0.1 1 2\r\n", "127.3.0.1", "here"),
        ("PROXY TCP4 127.5.0.1 127.0.0.1 1 2\r\n", "127.3.0.1", "ireland"),
        // The load balancer itself is the peer.
        ("PROXY UNKNOWN\r\n", "127.3.0.1", "ireland"),
    ] {
        let mut client = Http1::over(begun(edge.agents(), header.as_bytes()).await);
        let ask = post_with(CHAT, &[("x-forwarded-for", forwarded)], &chat(&unheard(), 1));
        served_in(&client.call(&ask).await, region, header.as_bytes());
    }
}

#[tokio::test]
async fn a_connection_without_a_whole_and_valid_header_is_closed_and_counted() {
    let (edge, replicas) = edge(&[8080, 8443], |config| config).await;
    let ask = String::from_utf8(post(CHAT, &chat("x", 1)).to_vec()).unwrap();
    let long = version_2("127.3.0.1".parse().unwrap(), &[4; 4000]);
    let wrong = [
        ask.clone().into_bytes(),
        format!("PROXY TCP4 127.3.0.1 127.0.0.1 4711\r\n{ask}").into_bytes(),
        format!("PROXY TCP4 2001:db8::1 ::1 4711 8080\r\n{ask}").into_bytes(),
        format!("PROXY UNKNOWN {}\r\n{ask}", "x".repeat(100)).into_bytes(),
        [&b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c"[..], &[1; 12], ask.as_bytes()].concat(),
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04"[..], &[1; 12], ask.as_bytes()].concat(),
        long,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
    ];
    for to in [edge.agents(), edge.tls()] {
        for bytes in &wrong {
            let mut client = Http1::over(begun(to, bytes).await);
            // No answer: nobody knows to whom it would go.
            assert_eq!(&client.until_closed().await[..], b"", "{}", bytes.escape_ascii());
        }
        let mut cut = begun(to, b"PROXY TCP4 127.3").await;
        cut.shutdown().await.unwrap();
        assert_eq!(&Http1::over(cut).until_closed().await[..], b"");
    }
    assert_eq!(faults(&edge, "malformed").await, 2.0 * wrong.len() as f64);
    assert_eq!((faults(&edge, "cut").await, faults(&edge, "late").await), (2.0, 0.0));
    assert!(replicas.iter().all(|replica| crate::support::calls(replica).is_empty()));
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_ends_the_connection() {
    let (edge, _replicas) = edge(&[8080, 8443], |config| config.set("limits", "header_timeout", "\"300ms\"")).await;
    for to in [edge.agents(), edge.tls()] {
        for start in [&b""[..], b"PROXY TCP4 127.3.0.1", &LOCAL[..13]] {
            let mut client = Http1::over(begun(to, start).await);
            assert_eq!(&client.until_closed().await[..], b"", "{}", start.escape_ascii());
        }
    }
    assert_eq!((faults(&edge, "late").await, faults(&edge, "malformed").await), (6.0, 0.0));
}

#[tokio::test]
async fn a_listener_that_was_not_named_takes_no_header() {
    let header = b"PROXY TCP4 127.3.0.1 127.0.0.1 4711 8080\r\n";
    for (taker, other) in [(8080, 8443), (8443, 8080)] {
        let (edge, _replicas) = edge(&[taker], |config| config).await;
        let connect = async |port: u16, header: &[u8]| begun((edge.address(), port).into(), header).await;
        // The named one takes it, the other serves without.
        for (port, header) in [(taker, &header[..]), (other, b"")] {
            let stream = connect(port, header).await;
            let mut client = match port {
                8443 => Http1::over_any(connect_tls_over(stream, &["http/1.1"]).await.unwrap()),
                _ => Http1::over(stream),
            };
            let region = if port == taker { "ireland" } else { "here" };
            served_in(&client.call(&post(CHAT, &chat(&unheard(), 1))).await, region, header);
        }
        // To the other it is a request that cannot be read, or no handshake.
        match other {
            8443 => assert!(connect_tls_over(connect(other, header).await, &["http/1.1"]).await.is_err()),
            _ => {
                let mut client = Http1::over(connect(other, &[header, &post(CHAT, &chat("x", 1))[..]].concat()).await);
                assert_eq!(client.answer().await.status, 400);
            }
        }
    }
}

#[tokio::test]
async fn a_reload_says_which_listeners_take_headers_from_the_next_connection_on() {
    let (edge, _replicas) = edge(&[8080], |config| config).await;
    let text = std::fs::read_to_string(edge.config_file()).unwrap();
    let line = text.lines().find(|line| line.starts_with("proxy_protocol")).unwrap();
    assert_eq!(edge.reload_with(&text.replace(line, "proxy_protocol = []")).await.status, 200);
    let mut client = Http1::over(connect(Ipv4Addr::new(127, 3, 0, 1), edge.agents()).await);
    served_in(&client.call(&post(CHAT, &chat(&unheard(), 1))).await, "ireland", b"");
}
