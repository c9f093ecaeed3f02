//! What a replica was asked lately, for tests that look at what really arrived.

use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Bytes of bodies that are kept at most; the oldest requests go first.
const BODY_BYTES_MAX: usize = 256 << 20;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct LoggedRequest {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// HTTP version.
    pub version: Version,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// The last `keep` requests, oldest first.
#[derive(Debug)]
pub(super) struct RequestLog {
    keep: usize,
    kept: Mutex<(VecDeque<LoggedRequest>, usize)>,
}

impl RequestLog {
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, kept: Mutex::default() }
    }

    pub(super) fn push(&self, request: LoggedRequest) {
        if self.keep == 0 {
            return;
        }
        let mut guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, bytes) = &mut *guard;
        *bytes += request.body.len();
        requests.push_back(request);
        while requests.len() > self.keep || *bytes > BODY_BYTES_MAX {
            let Some(oldest) = requests.pop_front() else {
                break;
            };
            *bytes -= oldest.body.len();
        }
    }

    pub(super) fn all(&self) -> Vec<LoggedRequest> {
        let guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0.iter().cloned().collect()
    }
}
