//! Which headers pass: what belongs to one connection ends there, what the edge decides is the edge's.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::ErrorType::{InternalError, InvalidHTTPHeader};
use pingora::OrErr;
use pingora::http::{RequestHeader, ResponseHeader};

use super::head::{self, AnswerHead};
use super::identify::{API_KEY, REQUEST_ID};
use super::reply::{RECEIPT_LINES, RECEIPT_PREFIX};
use super::trace::{self, Trace};
use crate::domain::topology::Credential;
use crate::domain::trace::TraceContext;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The most lines of a replica's head that are passed on. HTTP/1 allows 256 here, HTTP/2 as many as fit.
const ANSWER_LINES_MAX: usize = 1024;

/// What the edge adds to a request's head, at most.
const LINES_BESIDE: usize = 8;

/// Headers that belong to one connection (RFC 9110, 7.6.1, and those that older software uses so). `close` is none, but an
/// option of `Connection`, and whatever has its name is taken off with it.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "close"
            | "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-authentication-info"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Headers that the edge sets itself, or that only the edge may believe.
fn is_edges_own(name: &HeaderName) -> bool {
    let name = name.as_str();
    // Most names begin like none of them.
    let prefixes: &[&str] = match name.as_bytes() {
        [b'x', b'-', b'f', ..] => &["x-forwarded-"],
        [b'x', b'-', b'a', ..] => &["x-appengine-"],
        [b'x', b'-', b'n', ..] => &[RECEIPT_PREFIX],
        // Those of CDNs that name the client's place, too.
        [b'c', ..] => &["cf-connecting-ip", "cf-ip", "cloudfront-viewer-"],
        _ => &[],
    };
    let whole = matches!(
        name,
        "host"
            | "content-length"
            | "expect"
            | "authorization"
            | "x-api-key"
            // Events can be told apart only in plain text; engines rarely compress anyway.
            | "accept-encoding"
            | "forwarded"
            | "x-real-ip"
            | "true-client-ip"
            | "x-request-id"
    );
    whole || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The names that `Connection` itself declares to end here. Nearly always it says what is none.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let names = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let none = |name: &[u8]| [&b"keep-alive"[..], b"close", b""].iter().any(|none| none.eq_ignore_ascii_case(name));
    names.filter(|name| !none(name)).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// A request's head without what must not pass: made once, and completed for each attempt.
pub(super) struct Template {
    headers: HeaderMap,
    /// The target's own, behind its path.
    query: Option<String>,
    /// The client's own credential, for pools that let it pass.
    credential: Vec<(HeaderName, HeaderValue)>,
}

/// Where one attempt goes and what it carries.
pub(super) struct To<'a> {
    /// The endpoint's path: the same at the replica.
    pub(super) path: &'a str,
    /// Before that at this replica.
    pub(super) base_path: &'a str,
    /// What `Host` says.
    pub(super) authority: &'a str,
    pub(super) credential: &'a Credential,
    pub(super) body_bytes: usize,
    /// The attempt's own span, where it has one.
    pub(super) span: Option<TraceContext>,
}

impl Template {
    /// The part that is the same at every replica. What names the client's place ends here, whoever sent it.
    pub(super) fn of(
        from: &RequestHeader,
        place_headers: &[HeaderName],
        client: Option<IpAddr>,
        request_id: &str,
        trace: &Trace,
    ) -> pingora::Result<Template> {
        let nominated = nominated(&from.headers);
        let mut headers = HeaderMap::new();
        headers.try_reserve(from.headers.len() + LINES_BESIDE).or_err(InvalidHTTPHeader, "too many headers")?;
        for (name, value) in &from.headers {
            if !is_hop_by_hop(name) && !is_edges_own(name) && !nominated.contains(name) && !place_headers.contains(name)
            {
                headers.append(name, value.clone());
            }
        }
        let of_client = |name: HeaderName| from.headers.get(&name).map(|value| (name, value.clone()));
        let credential = [header::AUTHORIZATION, API_KEY].into_iter().filter_map(of_client).collect();
        if let Some(client) = client {
            headers.insert(X_FORWARDED_FOR, address(client)?);
        }
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, id);
        }
        trace.pass_on(&mut headers)?;
        Ok(Template { headers, query: from.uri.query().map(str::to_owned), credential })
    }

    /// The head as this replica gets it.
    pub(super) fn head(&self, to: &To<'_>) -> pingora::Result<RequestHeader> {
        let mut headers = self.headers.clone();
        headers.insert(header::HOST, value(to.authority)?);
        match to.credential {
            Credential::None => {}
            Credential::Key(key) => {
                let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                    .or_err(InternalError, "the pool's api_key is no header value")?;
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
            Credential::Pass => {
                headers.extend(self.credential.iter().cloned());
            }
        }
        if let Some(span) = &to.span {
            trace::name_parent(&mut headers, span)?;
        }
        headers.insert(header::CONTENT_LENGTH, to.body_bytes.into());
        match (&self.query, to.base_path) {
            (None, "") => head::post(to.path.as_bytes(), headers),
            (None, base) => head::post([base, to.path].concat().as_bytes(), headers),
            (Some(query), base) => head::post([base, to.path, "?", query].concat().as_bytes(), headers),
        }
    }
}

/// An address as text. Those of four numbers are written by hand: the formatter takes eight times as long.
fn address(address: IpAddr) -> pingora::Result<HeaderValue> {
    let IpAddr::V4(v4) = address else { return value(&address.to_string()) };
    let mut text = String::with_capacity(15);
    for (n, octet) in v4.octets().into_iter().enumerate() {
        if n > 0 {
            text.push('.');
        }
        let digit = |of: u8| char::from(b'0' + of % 10);
        if octet >= 100 {
            text.push(digit(octet / 100));
        }
        if octet >= 10 {
            text.push(digit(octet / 10));
        }
        text.push(digit(octet));
    }
    HeaderValue::try_from(text).or_err(InternalError, "an address is no header value")
}

fn value(text: &str) -> pingora::Result<HeaderValue> {
    HeaderValue::from_str(text).or_err(InvalidHTTPHeader, "it holds what no header may")
}

/// A replica's head as the client gets it, without the framing, which is this connection's own.
///
/// `None` of one that has more lines than any server writes: with the edge's own they might be more than a head can hold.
pub(super) fn incoming(from: &ResponseHeader) -> Option<AnswerHead> {
    if from.headers.len() > ANSWER_LINES_MAX {
        return None;
    }
    let mut head = head::answer(from.status, from.headers.len() + RECEIPT_LINES);
    let nominated = nominated(&from.headers);
    for (name, value) in &from.headers {
        let ours = name == header::CONTENT_LENGTH || name == REQUEST_ID || name.as_str().starts_with(RECEIPT_PREFIX);
        if !is_hop_by_hop(name) && !ours && !nominated.contains(name) {
            head.headers.append(name, value.clone());
        }
    }
    Some(head)
}

/// Whether a body comes in chunks and in no other transfer coding; `None` where no header speaks of one.
pub(super) fn chunked_alone(headers: &HeaderMap) -> Option<bool> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    Some(first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(lines: &[(&'static str, &'static str)], credential: &Credential) -> RequestHeader {
        let mut from = RequestHeader::build("POST", b"/v1/messages?beta=true", None).unwrap();
        for (name, value) in lines {
            from.append_header(*name, *value).unwrap();
        }
        let place = HeaderName::from_static("x-geo-country");
        let template = Template::of(&from, &[place], "203.0.113.5".parse().ok(), "r-1", &Trace::Off).unwrap();
        template
            .head(&To {
                path: "/v1/messages",
                base_path: "/base",
                authority: "10.0.0.1:8000",
                credential,
                body_bytes: 42,
                span: None,
            })
            .unwrap()
    }

    #[test]
    fn an_address_is_written_as_everyone_writes_it() {
        for text in ["0.0.0.0", "9.10.99.100", "255.249.200.199", "2001:db8::1", "::ffff:1.2.3.4"] {
            assert_eq!(address(text.parse().unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn path_query_host_and_length_are_right() {
        let head =
            outgoing(&[("content-length", "7"), ("host", "edge"), ("transfer-encoding", "chunked")], &Credential::None);
        assert_eq!(head.raw_path(), b"/base/v1/messages?beta=true");
        assert_eq!(head.headers["host"], "10.0.0.1:8000");
        assert_eq!(head.headers["content-length"], "42");
        assert!(!head.headers.contains_key("transfer-encoding"));
    }

    #[test]
    fn what_belongs_to_the_connection_or_the_edge_ends_here() {
        let head = outgoing(
            &[
                ("connection", "close, x-private\t, caf\u{e9}"),
                ("close", "1"),
                ("x-private", "1"),
                ("te", "trailers"),
                ("authorization", "Bearer client"),
                ("x-api-key", "client"),
                ("x-nearpool-region", "mine"),
                ("x-forwarded-for", "6.6.6.6"),
                ("cf-ipcountry", "DE"),
                ("cf-iplatitude", "50"),
                ("cloudfront-viewer-latitude", "50"),
                ("x-appengine-citylatlong", "50,8"),
                ("x-geo-country", "DE"),
                ("accept-encoding", "gzip"),
                ("expect", "100-continue"),
                ("anthropic-version", "2023-06-01"),
                ("x-session-id", "s"),
                ("traceparent", "00-a-b-01"),
            ],
            &Credential::None,
        );
        let mut names: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        let kept = [
            "anthropic-version",
            "content-length",
            "host",
            "traceparent",
            "x-forwarded-for",
            "x-request-id",
            "x-session-id",
        ];
        assert_eq!(names, kept);
        assert_eq!(head.headers["x-forwarded-for"], "203.0.113.5");
    }

    #[test]
    fn credentials_end_at_the_edge_unless_the_pool_says_pass() {
        let lines = [("authorization", "Bearer client"), ("x-api-key", "client")];
        assert_eq!(outgoing(&lines, &Credential::Key("pool".into())).headers["authorization"], "Bearer pool");
        assert!(!outgoing(&lines, &Credential::Key("pool".into())).headers.contains_key("x-api-key"));
        assert_eq!(outgoing(&lines, &Credential::Pass).headers["x-api-key"], "client");
        assert_eq!(outgoing(&lines, &Credential::Pass).headers["authorization"], "Bearer client");
    }

    #[test]
    fn a_replicas_framing_and_forged_receipts_do_not_pass() {
        let mut from = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("transfer-encoding", "chunked"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("x-nearpool-replica", "forged"),
            ("x-request-id", "theirs"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ] {
            from.append_header(name, value).unwrap();
        }
        let head = incoming(&from).unwrap();
        let names: Vec<_> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "set-cookie", "set-cookie"]);
    }

    #[test]
    fn an_answers_head_without_end_is_none() {
        let head = |lines: usize| {
            let mut head = ResponseHeader::build(200, None).unwrap();
            for n in 0..lines {
                head.append_header(format!("x-{n}"), "1").unwrap();
            }
            incoming(&head).map(|head| head.headers.len())
        };
        assert_eq!(head(ANSWER_LINES_MAX), Some(ANSWER_LINES_MAX));
        assert_eq!(head(ANSWER_LINES_MAX + 1), None);
    }
}
