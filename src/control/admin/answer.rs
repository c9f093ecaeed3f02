//! What the admin listener answers with.

use pingora::http::ResponseHeader;
use serde::Serialize;

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
    header: Option<(&'static str, &'static str)>,
}

/// Without scripts and styles, so that the strictest policy holds; the real page replaces it.
const INDEX: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>Nearpool</title>
<h1>Nearpool</h1>
<ul>
<li><a href=\"/metrics\">GET /metrics</a>: Prometheus
<li><a href=\"/healthz\">GET /healthz</a>: the process lives
<li><a href=\"/readyz\">GET /readyz</a>: 503 while draining or when no replica can serve
<li><a href=\"/status\">GET /status</a>: regions, pools, replicas, last reloads; JSON
<li><a href=\"/history\">GET /history</a>: the last quarter of an hour of each pool; JSON
<li><a href=\"/events\">GET /events</a>: both, live; server-sent events
<li>GET /explain?ip=ADDRESS&amp;model=NAME: where that call would go now, and why; also step, session, key, dialect; JSON
<li>POST /reload: reads the config file again; bearer token
<li>PUT /config: takes the body as the new config file; bearer token
</ul>
";

impl Answer {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, content_type, body: body.into(), header: None }
    }

    pub(super) fn json(status: u16, value: &impl Serialize) -> Answer {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Answer::new(status, "application/json", body)
            }
            Err(error) => Answer::new(500, "text/plain; charset=utf-8", format!("{error}\n")),
        }
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
        Answer::json(status, &serde_json::json!({ "error": { "code": code, "message": message } }))
    }

    pub(super) fn index() -> Answer {
        let policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        Answer::new(200, "text/html; charset=utf-8", INDEX).with("content-security-policy", policy)
    }

    /// The answer with one more header.
    pub(super) fn with(mut self, name: &'static str, value: &'static str) -> Answer {
        self.header = Some((name, value));
        self
    }

    /// The header, with the body's length, and the body.
    pub(super) fn into_parts(self) -> pingora::Result<(ResponseHeader, Vec<u8>)> {
        let mut header = ResponseHeader::build(self.status, Some(6))?;
        header.insert_header("content-type", self.content_type)?;
        header.insert_header("content-length", self.body.len())?;
        header.insert_header("cache-control", "no-store")?;
        header.insert_header("x-content-type-options", "nosniff")?;
        if let Some((name, value)) = self.header {
            header.insert_header(name, value)?;
        }
        Ok((header, self.body))
    }
}
