//! What is logged of one request, as one JSON object on one line.
//!
//! It is written member by member. Every request has a line, and `serde_json` looks at each byte of each key and writes a
//! flattened struct by way of a map: with it, and a channel to the writer, logging took 14,800 instructions a request, and
//! takes 8,000 now (callgrind). Values are still written by it, all but texts that need no escapes.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::domain::hex::hex;
use crate::domain::ids::SessionKey;
use crate::domain::outcome::Outcome;
use crate::observe::interaction::billionths;
use crate::observe::timestamp::Timestamp;
use crate::policy::select::Reason;

/// What is logged of one request. `None` where it is not known or does not apply.
#[derive(Clone, Debug)]
pub struct AccessLine<'a> {
    /// When the request's first byte came.
    pub ts: Timestamp,
    /// The value of `x-request-id`.
    pub request_id: &'a str,
    /// The trace whose spans tell of it, if it is sampled; 32 hex digits.
    pub trace_id: Option<&'a str>,
    /// The edge.
    pub edge: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Its country, ISO 3166, by GeoIP or by what a trusted peer says.
    pub country: Option<&'a str>,
    /// Where its address or place was learned from.
    pub place_source: Option<&'a str>,
    /// `HTTP/1.1` or `HTTP/2`.
    pub http: &'a str,
    /// The endpoint's path, without a query; empty for an unknown path.
    pub endpoint: &'a str,
    /// The dialect spoken there.
    pub dialect: Option<&'a str>,
    /// The model as the client wrote it.
    pub model_asked: Option<&'a str>,
    /// The configured model that it stood for.
    pub model: Option<&'a str>,
    /// The step.
    pub step: Option<&'a str>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The session, as the first 8 hex digits of its key.
    pub session: Option<SessionKey>,
    /// The region that answered.
    pub region: Option<&'a str>,
    /// The pool that answered.
    pub pool: Option<&'a str>,
    /// The replica that answered.
    pub replica: Option<&'a str>,
    /// Why it went there.
    pub reason: Option<Reason>,
    /// Attempts made.
    pub attempts: u32,
    /// How often another replica went on with the answer where one had broken off.
    pub resumes: u32,
    /// Why an answer that broke off was not resumed: what forbade it, or how it failed.
    pub not_resumed: Option<&'a str>,
    /// The status sent downstream; 0 if none was.
    pub status: u16,
    /// How it ended, with the blame.
    pub outcome: Outcome,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Times, in ms.
    pub ms: Times,
    /// Tokens, as the replica reported them.
    pub tokens: Tokens,
    /// What it cost in USD, where a price is known.
    pub cost_dollars: Option<f64>,
}

/// How long a request's parts took; written in ms with three decimals.
#[derive(Clone, Copy, Default, Debug)]
pub struct Times {
    /// First byte in to whole request received.
    pub receive: Option<Duration>,
    /// What the edge itself added before the upstream request left.
    pub overhead: Option<Duration>,
    /// In line for a place at a replica; left out when there was one at once.
    pub queue: Option<Duration>,
    /// Whole request received to first content event.
    pub ttft: Option<Duration>,
    /// First content event to last byte out.
    pub stream: Option<Duration>,
    /// First byte in to last byte out.
    pub total: Option<Duration>,
}

/// Tokens, as the replica reported them.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub struct Tokens {
    /// Of the prompt, cached ones included.
    pub prompt: Option<u64>,
    /// Of the prompt, those found in the KV cache.
    pub cached: Option<u64>,
    /// Of the answer.
    pub completion: Option<u64>,
}

/// The key of an object's first member, with all before and behind it.
macro_rules! first {
    ($key:literal) => {
        concat!("{\"", $key, "\":")
    };
}

/// The key of a later member, likewise: so each is one copy of a length that is known when this is compiled.
macro_rules! key {
    ($key:literal) => {
        concat!(",\"", $key, "\":")
    };
}

impl AccessLine<'_> {
    /// Adds the line, with its end.
    pub(super) fn write(&self, to: Vec<u8>) -> Vec<u8> {
        let mut line = Json(to);
        line.plain(first!("ts"), self.ts.to_string().as_str());
        line.text(key!("request_id"), self.request_id);
        line.text_if_any(key!("trace_id"), self.trace_id);
        line.text(key!("edge"), self.edge);
        line.value(key!("client"), &self.client);
        line.text_if_any(key!("country"), self.country);
        line.text_if_any(key!("place_source"), self.place_source);
        line.plain(key!("http"), self.http);
        line.plain(key!("endpoint"), self.endpoint);
        line.plain_or_null(key!("dialect"), self.dialect);
        line.text_or_null(key!("model_asked"), self.model_asked);
        line.text_or_null(key!("model"), self.model);
        line.text_or_null(key!("step"), self.step);
        line.value(key!("stream"), &self.stream);
        line.plain_or_null(key!("session"), self.session.map(short).as_deref());
        line.text_or_null(key!("region"), self.region);
        line.text_or_null(key!("pool"), self.pool);
        line.text_or_null(key!("replica"), self.replica);
        line.plain_or_null(key!("reason"), self.reason.map(Reason::name));
        line.value(key!("attempts"), &self.attempts);
        if self.resumes > 0 {
            line.value(key!("resumes"), &self.resumes);
        }
        line.text_if_any(key!("not_resumed"), self.not_resumed);
        line.value(key!("status"), &self.status);
        let facts = self.outcome.facts();
        line.plain(key!("outcome"), facts.label);
        line.plain(key!("blame"), facts.blame.name());
        line.value(key!("bytes_in"), &self.bytes_in);
        line.value(key!("bytes_out"), &self.bytes_out);
        self.ms.write(&mut line);
        self.tokens.write(&mut line);
        if let Some(dollars) = self.cost_dollars {
            line.value(key!("cost_dollars"), &billionths(dollars));
        }
        line.add("}\n");
        line.0
    }
}

impl Times {
    fn write(&self, line: &mut Json) {
        line.add(key!("ms"));
        // Whole microseconds first, so that no digits of binary fractions appear.
        let ms = |time: Option<Duration>| time.map(|time| time.as_micros() as f64 / 1000.0);
        line.value(first!("receive"), &ms(self.receive));
        line.value(key!("overhead"), &ms(self.overhead));
        if self.queue.is_some() {
            line.value(key!("queue"), &ms(self.queue));
        }
        line.value(key!("ttft"), &ms(self.ttft));
        line.value(key!("stream"), &ms(self.stream));
        line.value(key!("total"), &ms(self.total));
        line.add("}");
    }
}

impl Tokens {
    fn write(&self, line: &mut Json) {
        line.add(key!("tokens"));
        line.value(first!("prompt"), &self.prompt);
        line.value(key!("cached"), &self.cached);
        line.value(key!("completion"), &self.completion);
        line.add("}");
    }
}

/// A session as it is logged: the first 8 hex digits of its key.
fn short(session: SessionKey) -> String {
    hex(&session.0.to_be_bytes()[..4])
}

/// The same for whoever serialises a session.
pub(in crate::observe) fn session<S: Serializer>(session: &Option<SessionKey>, to: S) -> Result<S::Ok, S::Error> {
    session.map(short).serialize(to)
}

/// A line under way.
struct Json(Vec<u8>);

impl Json {
    #[inline(always)]
    fn add(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    fn value(&mut self, key: &'static str, value: &impl Serialize) {
        self.add(key);
        // It fails only where a value's own code or the writer does: those of numbers, addresses and vectors never do.
        let _never = serde_json::to_writer(&mut self.0, value);
    }

    fn text(&mut self, key: &'static str, text: &str) {
        let is_odd = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        // All bytes at once, without a way out: so the loop becomes SIMD.
        match text.bytes().fold(false, |odd, byte| odd | is_odd(byte)) {
            true => self.value(key, &text),
            false => self.plain(key, text),
        }
    }

    /// A text that is known to need no escapes.
    #[inline(always)]
    fn plain(&mut self, key: &'static str, text: &str) {
        self.add(key);
        self.add("\"");
        self.add(text);
        self.add("\"");
    }

    fn plain_or_null(&mut self, key: &'static str, text: Option<&str>) {
        match text {
            Some(text) => self.plain(key, text),
            None => self.null(key),
        }
    }

    fn text_or_null(&mut self, key: &'static str, text: Option<&str>) {
        match text {
            Some(text) => self.text(key, text),
            None => self.null(key),
        }
    }

    fn null(&mut self, key: &'static str) {
        self.add(key);
        self.add("null");
    }

    fn text_if_any(&mut self, key: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    pub(in crate::observe::access_log) fn line() -> AccessLine<'static> {
        AccessLine {
            ts: Timestamp(UNIX_EPOCH),
            request_id: "req-1",
            trace_id: None,
            edge: "usw-1",
            client: Some(IpAddr::from([203, 0, 113, 9])),
            country: None,
            place_source: None,
            http: "HTTP/1.1",
            endpoint: "/v1/chat/completions",
            dialect: Some("chat"),
            model_asked: Some("auto\n\"x\""),
            model: Some("small"),
            step: Some("planner"),
            stream: true,
            session: Some(SessionKey(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)),
            region: Some("here"),
            pool: Some("pool"),
            replica: None,
            reason: Some(Reason::Failover),
            attempts: 2,
            resumes: 0,
            not_resumed: None,
            status: 502,
            outcome: Outcome::Cut,
            bytes_in: 10,
            bytes_out: 20,
            ms: Times {
                receive: Some(Duration::from_micros(1500)),
                overhead: Some(Duration::from_nanos(40_100)),
                queue: None,
                ttft: None,
                stream: None,
                total: Some(Duration::from_secs(1)),
            },
            tokens: Tokens { prompt: Some(5), cached: None, completion: None },
            cost_dollars: Some(0.1 + 0.2),
        }
    }

    #[test]
    fn a_line_says_all_and_stays_one_line() {
        let expected = concat!(
            r#"{"ts":"1970-01-01T00:00:00.000Z","request_id":"req-1","edge":"usw-1","client":"203.0.113.9","http":"HTTP/1.1","#,
            r#""endpoint":"/v1/chat/completions","dialect":"chat","model_asked":"auto\n\"x\"","model":"small","#,
            r#""step":"planner","stream":true,"session":"01234567","region":"here","pool":"pool","replica":null,"#,
            r#""reason":"failover","attempts":2,"status":502,"outcome":"cut","blame":"upstream","bytes_in":10,"#,
            r#""bytes_out":20,"ms":{"receive":1.5,"overhead":0.04,"ttft":null,"stream":null,"total":1000.0},"#,
            r#""tokens":{"prompt":5,"cached":null,"completion":null},"cost_dollars":0.3}"#,
        );
        assert_eq!(String::from_utf8(line().write(Vec::new())).unwrap(), format!("{expected}\n"));
    }

    #[test]
    fn what_is_mostly_not_there_is_written_where_it_is() {
        let line = AccessLine {
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
            country: Some("DE"),
            place_source: Some("peer"),
            resumes: 2,
            not_resumed: Some("tools"),
            session: None,
            ms: Times { queue: Some(Duration::from_millis(7)), ..Times::default() },
            ..line()
        };
        let json: Value = serde_json::from_slice(&line.write(Vec::new())).unwrap();
        for (pointer, value) in [
            ("/trace_id", "\"0af7651916cd43dd8448eb211c80319c\""),
            ("/country", "\"DE\""),
            ("/place_source", "\"peer\""),
            ("/resumes", "2"),
            ("/not_resumed", "\"tools\""),
            ("/session", "null"),
            ("/ms/queue", "7.0"),
            ("/ms/total", "null"),
        ] {
            assert_eq!(json.pointer(pointer).map(ToString::to_string).as_deref(), Some(value), "{pointer}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(text in "\\PC*|[\\x00-\\x7f]{0,40}") {
            let written = AccessLine { model_asked: Some(&text), ..line() }.write(Vec::new());
            prop_assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1));
            let json: Value = serde_json::from_slice(&written).unwrap();
            prop_assert_eq!(json["model_asked"].as_str(), Some(text.as_str()));
            prop_assert_eq!(json["model"].as_str(), Some("small"));
        }
    }
}
