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

/// Of the bytes of bodies, sessions that wait to be taken on hold at most this part: they wait for long, and those under way
/// must find room meanwhile.
const WAITING_PART: usize = 4;

/// Of that part, those of one client hold at most this one.
const CLIENT_PART: usize = 2;

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

    /// Whether a session may wait to be taken on, when all that wait would then hold so many bytes, and its client's so many.
    pub const fn may_wait(&self, waiting_bytes: usize, client_bytes: usize) -> bool {
        let most = self.buffered_bytes_max / WAITING_PART;
        waiting_bytes <= most && client_bytes <= most / CLIENT_PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: Params = Params {
        body_bytes_max: 1_000,
        header_bytes_max: 100,
        header_count_max: 10,
        connections_max: 1,
        buffered_bytes_max: 5_000,
        header_timeout: Duration::from_secs(1),
        body_idle_timeout: Duration::from_secs(1),
        body_timeout: Duration::from_secs(1),
        keepalive_timeout: Duration::from_secs(1),
    };

    #[test]
    fn what_is_exactly_at_a_bound_passes_and_one_more_does_not() {
        for (bytes, count, expected) in [(100, 10, Ok(())), (101, 1, Err(Over::Headers)), (1, 11, Err(Over::Headers))] {
            assert_eq!(PARAMS.check_head(bytes, count), expected, "head of {bytes} bytes, {count} lines");
        }
        for (body, buffered, expected) in [
            (1_000, 5_000, Ok(())),
            (1_001, 1_001, Err(Over::Body)),
            (10, 5_001, Err(Over::Buffered)),
            // The client's own fault is said first: a smaller body could never have passed later.
            (1_001, 5_001, Err(Over::Body)),
        ] {
            assert_eq!(PARAMS.check_body(body, buffered), expected, "body of {body}, {buffered} held");
        }
    }

    #[test]
    fn whoever_waits_to_be_taken_on_holds_a_quarter_at_most_and_one_client_half_of_that() {
        for (all, own, expected) in [(1_250, 625, true), (1_251, 1, false), (626, 626, false), (625, 625, true)] {
            assert_eq!(PARAMS.may_wait(all, own), expected, "{all}, {own}");
        }
    }
}
