//! Station 1: may the edge take this on? Bounds on what one client may send and on what the edge holds in all.

use std::time::Duration;

/// The bounds; sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Longest request body.
    pub body_bytes_max: usize,
    /// Longest request head (request line and headers).
    pub header_bytes_max: usize,
    /// Most header lines.
    pub header_count_max: usize,
    /// Most downstream connections at a time.
    pub connections_max: usize,
    /// Most bytes of request bodies held at a time, over all requests.
    pub buffered_bytes_max: usize,
    /// Longest time for a whole request head, from its first byte (from the connection's start for the first).
    pub header_timeout: Duration,
    /// Longest pause in a body.
    pub body_idle_timeout: Duration,
    /// Longest time for a whole body.
    pub body_timeout: Duration,
    /// Longest pause between two requests of a connection.
    pub keepalive_timeout: Duration,
}

/// What is over its bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// The body is longer than `body_bytes_max`.
    Body,
    /// The head is longer than `header_bytes_max` or has more lines than `header_count_max`.
    Headers,
    /// The edge already holds `buffered_bytes_max`.
    Buffered,
}

impl Params {
    /// Whether a request head is within its bounds.
    pub const fn check_head(&self, header_bytes: usize, header_count: usize) -> Result<(), Over> {
        if header_bytes > self.header_bytes_max || header_count > self.header_count_max {
            return Err(Over::Headers);
        }
        Ok(())
    }

    /// Whether a body may grow to `body_bytes`, when the edge would then hold `buffered_bytes` in all.
    pub const fn check_body(&self, body_bytes: usize, buffered_bytes: usize) -> Result<(), Over> {
        if body_bytes > self.body_bytes_max {
            return Err(Over::Body);
        }
        if buffered_bytes > self.buffered_bytes_max {
            return Err(Over::Buffered);
        }
        Ok(())
    }
}
