//! A replica that costs next to nothing: a fixed answer, or a stream of events as the request's header says.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use crate::load::{content_length, header, now_ns};

/// `<events>,<µs between two>`: the request's wish for a stream.
pub(crate) const STREAM: &str = "x-bench-stream";

/// What stands before an event's time of sending, in ns since 1970.
pub(crate) const SENT_AT: &[u8] = b"\"sent_at\":";

const ANSWER: &str = r#"{"id":"chatcmpl-7f3a","object":"chat.completion","created":1764000000,"model":"bench-served","choices":[{"index":0,"message":{"role":"assistant","content":"The least loaded replica is the third one: it has two requests in flight, and the others have four and seven. Nothing else needs to change.","tool_calls":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":218,"completion_tokens":31,"total_tokens":249,"prompt_tokens_details":{"cached_tokens":192}},"system_fingerprint":null}"#;

const LAST_EVENTS: &str = "data: {\"id\":\"chatcmpl-7f3a\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"bench-served\",\"choices\":[],\"usage\":{\"prompt_tokens\":218,\"completion_tokens\":200,\"total_tokens\":418}}\n\ndata: [DONE]\n\n";

/// What it serves: the edge's health checks ask for it.
const MODELS: &str = r#"{"object":"list","data":[{"id":"bench-served","object":"model"}]}"#;

/// Serves on `listeners` free ports until the process is ended; the ports go to standard output in one line.
pub(crate) async fn serve(listeners: usize) -> Result<()> {
    let mut ports = Vec::new();
    for _ in 0..listeners {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ports.push(listener.local_addr()?.port().to_string());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks is the load's to report.
                tokio::spawn(async move { connection(stream).await.ok() });
            }
        });
    }
    println!("{}", ports.join(" "));
    std::io::stdout().flush()?;
    std::future::pending().await
}

async fn connection(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (answer, models) = (whole(ANSWER), whole(MODELS));
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    loop {
        let head_end = loop {
            if let Some(end) = memmem::find(&buffer[..filled], b"\r\n\r\n") {
                break end + 4;
            }
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
        };
        let head = &buffer[..head_end];
        let asks_models = head.starts_with(b"GET /v1/models ");
        let wish = header(head, STREAM).and_then(parse_wish);
        let mut missing = content_length(head).unwrap_or(0).saturating_sub(filled - head_end);
        filled = 0;
        while missing > 0 {
            let room = buffer.len().min(missing);
            let read = stream.read(&mut buffer[..room]).await?;
            anyhow::ensure!(read > 0, "the body ended too soon");
            missing -= read;
        }
        match wish {
            Some((events, interval)) => send_stream(&mut stream, events, interval).await?,
            None if asks_models => stream.write_all(&models).await?,
            None => stream.write_all(&answer).await?,
        }
    }
}

fn whole(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn parse_wish(value: &str) -> Option<(u32, Duration)> {
    let (events, interval_us) = value.split_once(',')?;
    Some((events.parse().ok()?, Duration::from_micros(interval_us.parse().ok()?)))
}

/// One write for one event, as engines do.
async fn send_stream(stream: &mut TcpStream, events: u32, interval: Duration) -> Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut due = Instant::now();
    for _ in 0..events {
        let event = format!(
            "data: {{\"id\":\"chatcmpl-7f3a\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\
             \"model\":\"bench-served\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" token\"}},\
             \"logprobs\":null,\"finish_reason\":null}}],\"sent_at\":{}}}\n\n",
            now_ns()
        );
        stream.write_all(&chunk(&event)).await.context("the reader left")?;
        due += interval;
        sleep_until(due).await;
    }
    let mut end = chunk(LAST_EVENTS);
    end.extend_from_slice(b"0\r\n\r\n");
    Ok(stream.write_all(&end).await?)
}

fn chunk(event: &str) -> Vec<u8> {
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}
