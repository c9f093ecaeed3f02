//! HTTP/2 by hand, for frames that no client library would send.

use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// How a connection begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Bytes,
}

/// One connection.
pub struct RawH2 {
    stream: TcpStream,
    buffer: BytesMut,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block: literals without indexing, nothing compressed.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut text = |text: &str| {
        match text.len() {
            short @ 0..127 => block.push(short as u8),
            long => {
                block.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    block.push(rest as u8 | 128);
                    rest >>= 7;
                }
                block.push(rest as u8);
            }
        }
        block.extend_from_slice(text.as_bytes());
    };
    // The first byte of each literal is a zero, which is what an empty text encodes to.
    for (name, value) in headers {
        text("");
        text(name);
        text(value);
    }
    block
}

/// The header block of a POST.
pub fn post_block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fixed = [(":method", "POST"), (":scheme", "http"), (":authority", "edge"), (":path", path)];
    block(&[&fixed, more].concat())
}

impl RawH2 {
    /// Connects and sends the preface and empty settings.
    pub async fn connect(to: SocketAddr) -> RawH2 {
        let mut connection = RawH2 { stream: soon(TcpStream::connect(to)).await.unwrap(), buffer: BytesMut::new() };
        connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await;
        connection
    }

    /// The other side: reads the preface and sends settings that any client can live with, and a window for many
    /// requests. `None` when it is no HTTP/2.
    pub async fn accept(mut stream: TcpStream) -> Option<RawH2> {
        let mut preface = [0; PREFACE.len()];
        soon(stream.read_exact(&mut preface)).await.ok().filter(|_| preface == PREFACE)?;
        let mut connection = RawH2 { stream, buffer: BytesMut::new() };
        let begun = [frame(SETTINGS, 0, 0, b""), frame(WINDOW_UPDATE, 0, 0, &(16u32 << 20).to_be_bytes())];
        connection.try_send(&begun.concat()).await.ok()?;
        Some(connection)
    }

    /// Breaks the connection (RST).
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Writes these bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Writes these bytes as far as the other side takes them.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        soon(self.stream.write_all(bytes)).await
    }

    /// Reads a frame; `None` at the connection's end, however it ends.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<9>().copied() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    self.buffer.advance(9);
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
                    let payload = self.buffer.split_to(length).freeze();
                    return Some(Frame { kind: head[3], flags: head[4], stream, payload });
                }
            }
            match soon(self.stream.read_buf(&mut self.buffer)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads on until a frame is as wanted; `None` at the connection's end.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }
}
