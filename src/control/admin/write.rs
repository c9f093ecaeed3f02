//! Writes on the admin listener: who may, what is read, and what is answered.

use std::time::Duration;

use http::HeaderValue;
use pingora::protocols::http::ServerSession;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::answer::Answer;
use crate::config::{FILE_BYTES_MAX, Secret};
use crate::control::reload::{Applied, ReloadError};

/// For a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the rest of a refused body is waited for.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a request with this `Authorization` may write; else the answer that refuses it.
pub(super) fn may_write(token: Option<&Secret>, authorization: Option<&HeaderValue>) -> Result<(), Answer> {
    let Some(token) = token else {
        let message = "writes are off, because the config sets no edge.admin_token";
        return Err(Answer::error(403, "writes_off", message));
    };
    let shown = authorization.map(HeaderValue::as_bytes).unwrap_or_default();
    let (scheme, shown) = shown.split_at_checked("bearer ".len()).unwrap_or_default();
    if scheme.eq_ignore_ascii_case(b"bearer ") && equal(shown, token.0.as_bytes()) {
        return Ok(());
    }
    let message = "this needs the header `authorization: Bearer TOKEN` with the value of edge.admin_token";
    Err(Answer::error(401, "unauthorized", message).with("www-authenticate", "Bearer"))
}

/// Compares in a time that tells nothing of where two values differ, nor of their lengths: hashes are compared, all of
/// their bytes.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    std::hint::black_box(a.iter().zip(b.iter()).fold(0, |differing, (a, b)| differing | (a ^ b))) == 0
}

/// Reads the body, at most as long as a config may be.
pub(super) async fn body(session: &mut ServerSession) -> Result<Vec<u8>, Answer> {
    let too_large = || Answer::error(413, "body_too_large", "a config is at most 1 MiB");
    let announced = session.get_header("content-length").and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Err(too_large());
    }
    let read = async {
        if session.get_header("expect").is_some() {
            session.write_continue_response().await.map_err(|_| None)?;
        }
        let mut body = Vec::new();
        while let Some(bytes) = session.read_request_body().await.map_err(|_| None)? {
            if body.len() + bytes.len() > FILE_BYTES_MAX {
                return Err(Some(too_large()));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    };
    let late = || Answer::error(408, "body_timeout", "the body did not arrive whole within 10 s");
    match timeout(BODY_TIMEOUT, read).await {
        Ok(read) => read.map_err(|refusal| refusal.unwrap_or_else(late)),
        Err(_elapsed) => Err(late()),
    }
}

/// Reads what is left of a body that was refused, for a while: a connection that is closed with bytes unread is reset,
/// and the reset can overtake the answer on its way.
pub(super) async fn discard_rest(session: &mut ServerSession) {
    let discard = async {
        let mut bytes = 0;
        while let Ok(Some(more)) = session.read_request_body().await {
            bytes += more.len();
            if bytes > FILE_BYTES_MAX {
                return;
            }
        }
    };
    let _enough = timeout(DISCARD_TIMEOUT, discard).await;
}

/// One error of a refused config. Places count from 1; `null` where the error has none.
#[derive(Serialize)]
struct Refusal<'a> {
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
    hint: Option<&'a str>,
}

/// The answer to a verdict: 200 with the hash in force, 422 with every error, 500 when the disk failed.
pub(super) fn verdict(result: Result<Applied, ReloadError>) -> Answer {
    let error = match result {
        Ok(applied) => return Answer::json(200, &applied),
        Err(error) => error,
    };
    let text = error.to_string();
    let (errors, more) = match &error {
        ReloadError::Config(diagnostics) => {
            let place = |n: usize| (n > 0).then_some(n);
            let refusals = diagnostics.iter().map(|one| Refusal {
                line: place(one.line),
                column: place(one.column),
                message: &one.message,
                hint: one.hint.as_deref(),
            });
            (refusals.collect(), diagnostics.more())
        }
        _ => (vec![Refusal { line: None, column: None, message: &text, hint: None }], 0),
    };
    let status = if matches!(error, ReloadError::Write { .. }) { 500 } else { 422 };
    Answer::json(status, &serde_json::json!({ "errors": errors, "more": more }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(token: Option<&str>, shown: Option<&str>, status: Option<u16>) {
        let token = token.map(|token| Secret(token.to_owned()));
        let shown = shown.map(|shown| HeaderValue::from_str(shown).unwrap());
        let refused = may_write(token.as_ref(), shown.as_ref()).err();
        let refused = refused.map(|answer| answer.into_parts().unwrap().0.status.as_u16());
        assert_eq!(refused, status, "token {token:?}, shown {shown:?}");
    }

    #[test]
    fn only_the_whole_token_opens() {
        check(Some("s3cret"), Some("Bearer s3cret"), None);
        check(Some("s3cret"), Some("bearer s3cret"), None);
        for shown in ["Bearer s3cre", "Bearer s3crets", "Bearer ", "Bearer", "", "s3cret", "Basic s3cret"] {
            check(Some("s3cret"), Some(shown), Some(401));
        }
        check(Some("s3cret"), None, Some(401));
    }

    #[test]
    fn without_a_token_nothing_opens() {
        check(None, Some("Bearer "), Some(403));
        check(None, None, Some(403));
    }
}
