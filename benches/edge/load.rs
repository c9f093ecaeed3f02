//! The clients: HTTP/1.1 over kept connections, each with one request at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::mock::SENT_AT;

/// Longest that anything here may take; every part of the bench is far below.
const PATIENCE: Duration = Duration::from_secs(60);

/// One kept connection.
pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

/// What one stream showed.
#[derive(Default)]
pub(crate) struct Streamed {
    pub(crate) events: usize,
    /// From the sending of an event at the replica to its arrival here.
    pub(crate) delays: Vec<Duration>,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr, request: Vec<u8>) -> Result<Client> {
        let stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, request, buffer: vec![0; 16 * 1024] })
    }

    /// Sends the request and reads its answer.
    pub(crate) async fn call(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        let (head_bytes, mut filled) = self.head().await?;
        let whole = head_bytes + content_length(&self.buffer[..head_bytes]).context("an answer without a length")?;
        ensure!(whole <= self.buffer.len(), "the answer is too long");
        while filled < whole {
            filled += self.read(filled).await?;
        }
        Ok(())
    }

    /// Sends the request and reads a stream until `events` have come, or to its end.
    pub(crate) async fn stream(&mut self, events: usize) -> Result<Streamed> {
        self.stream.write_all(&self.request).await?;
        let (head_bytes, mut filled) = self.head().await?;
        ensure!(header(&self.buffer[..head_bytes], "transfer-encoding").is_some(), "no stream came");
        let mut streamed = Streamed::default();
        let mut from = head_bytes;
        loop {
            let arrived = &self.buffer[from..filled];
            let now = now_ns();
            streamed.events += memmem::find_iter(arrived, b"\n\n").count();
            streamed.delays.extend(memmem::find_iter(arrived, SENT_AT).filter_map(|at| {
                let sent: u64 =
                    std::str::from_utf8(arrived.get(at + SENT_AT.len()..)?.get(..19)?).ok()?.parse().ok()?;
                Some(Duration::from_nanos(now.saturating_sub(sent)))
            }));
            if streamed.events >= events || arrived.ends_with(b"\r\n0\r\n\r\n") || arrived == b"0\r\n\r\n" {
                return Ok(streamed);
            }
            from = 0;
            filled = self.read(0).await?;
        }
    }

    async fn head(&mut self) -> Result<(usize, usize)> {
        let mut filled = 0;
        loop {
            filled += self.read(filled).await?;
            if let Some(end) = memmem::find(&self.buffer[..filled], b"\r\n\r\n") {
                if !self.buffer.starts_with(b"HTTP/1.1 200") {
                    bail!("not answered with 200: {}", String::from_utf8_lossy(&self.buffer[..filled.min(600)]));
                }
                return Ok((end + 4, filled));
            }
        }
    }

    async fn read(&mut self, at: usize) -> Result<usize> {
        let read = self.stream.read(&mut self.buffer[at..]).await?;
        ensure!(read > 0, "the connection was closed in mid-answer");
        Ok(read)
    }
}

/// So many connections, each with its own session.
pub(crate) async fn connect(
    to: SocketAddr,
    connections: usize,
    request: impl Fn(usize) -> Vec<u8>,
) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(connections);
    for session in 0..connections {
        clients.push(Client::connect(to, request(session)).await?);
    }
    Ok(clients)
}

/// `each` calls on every connection, all connections at once. Gives the connections back, and every call's time.
pub(crate) async fn calls(clients: Vec<Client>, each: usize) -> Result<(Vec<Client>, Vec<Duration>)> {
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                let start = Instant::now();
                client.call().await?;
                times.push(start.elapsed());
            }
            anyhow::Ok((client, times))
        });
    }
    let (mut clients, mut times) = (Vec::new(), Vec::new());
    for done in patient(tasks.join_all()).await? {
        let (client, its) = done?;
        clients.push(client);
        times.extend(its);
    }
    Ok((clients, times))
}

/// One stream on every connection, begun `apart` from each other; reads `events` of each.
pub(crate) async fn streams(
    clients: Vec<Client>,
    apart: Duration,
    events: usize,
) -> Result<(Vec<Client>, Vec<Streamed>)> {
    let mut tasks = JoinSet::new();
    for (n, mut client) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            tokio::time::sleep(apart * n as u32).await;
            let streamed = client.stream(events).await?;
            anyhow::Ok((client, streamed))
        });
    }
    patient(tasks.join_all()).await?.into_iter().collect::<Result<Vec<_>>>().map(|all| all.into_iter().unzip())
}

async fn patient<T>(work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.context("it took more than a minute")
}

/// A header's value. `name` in lower case.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    std::str::from_utf8(head).ok()?.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    header(head, "content-length")?.parse().ok()
}

/// The clock that all processes share.
pub(crate) fn now_ns() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64)
}
