//! What the admin listener answers with.

use pingora::http::ResponseHeader;
use serde::Serialize;

use super::page::STATUS_PAGE;

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
    header: Option<(&'static str, &'static str)>,
}

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
        let page = &*STATUS_PAGE;
        Answer::new(200, "text/html; charset=utf-8", page.html.as_str()).with("content-security-policy", &page.policy)
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
