//! Those who are slow on purpose or by fault: clients that do not read their answer, replicas that do not read a request.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::support::{Edge, EdgeConfig, Http1, Pool, Scripted, chat, own_address, post, soon, with};

const PATH: &str = "/v1/chat/completions";

/// A replica that answers 413 to the first few bytes of a request, reads nothing for a while, and then reads on. It tells
/// for each connection how many requests came over it.
async fn late_reader(pause: Duration) -> (String, mpsc::UnboundedReceiver<usize>) {
    let listener = TcpListener::bind((own_address(), 8000)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, counts) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(read_late(stream, pause, tell.clone()));
        }
    });
    (format!("http://{address}"), counts)
}

async fn read_late(mut stream: TcpStream, pause: Duration, tell: mpsc::UnboundedSender<usize>) {
    let mut seen = vec![0; 4];
    stream.read_exact(&mut seen).await.unwrap();
    if seen == b"GET " {
        // The answer to a health check; whoever asked may be gone.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        return;
    }
    stream.write_all(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
    tokio::time::sleep(pause).await;
    let requests = |seen: &[u8]| seen.windows(PATH.len()).filter(|window| *window == PATH.as_bytes()).count();
    // What a cut connection gives as an error is an end like any other here.
    while stream.read_buf(&mut seen).await.is_ok_and(|bytes| bytes > 0) {
        let tail = seen.len().saturating_sub(64 << 10);
        if requests(&seen[tail..]) > usize::from(tail == 0) {
            break;
        }
    }
    // The test may be over.
    let _ = tell.send(requests(&seen));
}

/// A connection whose client's side takes little before it reads.
async fn narrow(edge: &Edge) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    soon(socket.connect(edge.agents())).await.unwrap()
}

#[tokio::test]
async fn a_connection_whose_request_went_out_in_part_carries_no_other_request() {
    let (url, mut counts) = late_reader(Duration::from_millis(450)).await;
    let pool = Pool::new("near", "here", "m").replica("late", &url);
    let edge = Edge::start(EdgeConfig::new().pool(pool).set("timeouts", "idle", "\"300ms\"")).await;
    let mut client = Http1::connect(edge.agents()).await;
    // More than fits into the sockets between the two.
    let answer = client.call(&post(PATH, &chat(&"x".repeat(24 << 20), 1))).await;
    assert_eq!((answer.status, &answer.body[..]), (413, &b"big"[..]));
    client.send(&post(PATH, &chat("x", 1))).await;
    assert_eq!(soon(counts.recv()).await, Some(1), "the second request was taken for the rest of the first one");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_holds_no_place_at_the_replica() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url()).line("max_in_flight = 1");
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    let mut slow = Http1::over(narrow(&edge).await);
    slow.send(&post(PATH, &chat("x", 1))).await;
    let mut upstream = replica.next().await;
    // Held back whole by the edge, and more than the sockets towards the client take.
    upstream.answer(200, "", &format!("\"{}\"", "y".repeat(7 << 20))).await;
    edge.wait_until_idle("near", "a").await;
    let mut other = Http1::connect(edge.agents()).await;
    other.send(&post(PATH, &chat("x", 1))).await;
    replica.next_after(upstream).await.answer(200, "", "{}").await;
    assert_eq!(other.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_reads_slowly_has_no_more_time_than_any_other() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let config = EdgeConfig::new().pool(pool).set("timeouts", "connect", "\"1s\"").set("timeouts", "total", "\"1s\"");
    let edge = Edge::start(config).await;
    let mut client = soon(TcpStream::connect(edge.agents())).await.unwrap();
    client.write_all(&post(PATH, &with(chat("x", 1), json!({"stream": true})))).await.unwrap();
    let mut upstream = replica.next().await;
    upstream.begin_stream().await;
    let event = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(4000));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len()).repeat(100);
    // It is ahead of the client all the time, until the edge has enough.
    let ahead = tokio::spawn(async move { while upstream.connection.try_send(chunk.as_bytes()).await.is_ok() {} });
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..150 {
        if matches!(soon(client.read(&mut buffer)).await, Ok(0) | Err(_)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let in_flight = edge.metric("nearpool_replica_in_flight{pool=\"near\",replica=\"a\"}").await;
    assert_eq!(in_flight, 0.0, "the place is held for as long as the client pleases");
    soon(ahead).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_late_gets_its_stream_whole_and_keeps_its_connection() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    let mut client = Http1::over(narrow(&edge).await);
    client.send(&post(PATH, &with(chat("x", 1), json!({"stream": true})))).await;
    let mut upstream = replica.next().await;
    // Events of every size around those of the buffers on the way, and in all more than the sockets take.
    let sizes = [1, 7, 1400, 1460, 4096, 40_000, 65_536, 200_000];
    let mut events: Vec<_> =
        (0..160).map(|n| format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(sizes[n % 8] + n))).collect();
    events.push("data: [DONE]\n\n".into());
    let expected = events.concat();
    let sending = tokio::spawn(async move {
        upstream.begin_stream().await;
        for event in events {
            upstream.chunk(event).await;
        }
        upstream.send("0\r\n\r\n").await;
        upstream
    });
    let answer = client.answer().await;
    assert!(answer.body == expected, "{} of {} bytes, or others", answer.body.len(), expected.len());
    client.send(&post(PATH, &chat("again", 1))).await;
    soon(sending).await.unwrap().next().await.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_stops_reading_its_stream_is_given_up_after_the_idle_time() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let edge = Edge::start(EdgeConfig::new().pool(pool).set("timeouts", "idle", "\"300ms\"")).await;
    let mut client = narrow(&edge).await;
    client.write_all(&post(PATH, &with(chat("x", 1), json!({"stream": true})))).await.unwrap();
    let mut upstream = replica.next().await;
    upstream.begin_stream().await;
    let event = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(4000));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len()).repeat(100);
    // Until the edge closes the connection.
    while upstream.connection.try_send(chunk.as_bytes()).await.is_ok() {}
    edge.wait_for_log(|line| line["outcome"] == "client_gone").await;
    edge.wait_until_idle("near", "a").await;
    // What is left of the stream looks cut.
    let mut rest = Vec::new();
    let _ = soon(client.read_to_end(&mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}
