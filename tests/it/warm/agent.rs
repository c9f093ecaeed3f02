//! Agents as their SDKs make them: each call repeats all that was said, and none names its session.

use serde_json::{Value, json};

use super::call::text;
use crate::support::{Answer, Edge, Http1, post_with};

/// What one speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    Chat,
    Completions,
    Responses,
    Messages,
}

impl Dialect {
    pub(super) const ALL: [Dialect; 4] = [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Messages];

    fn path(self) -> &'static str {
        match self {
            Dialect::Chat => "/v1/chat/completions",
            Dialect::Completions => "/v1/completions",
            Dialect::Responses => "/v1/responses",
            Dialect::Messages => "/v1/messages",
        }
    }

    /// Where an answer has its text: one that came whole, and an event.
    fn text_at(self) -> (&'static str, &'static str) {
        match self {
            Dialect::Chat => ("/choices/0/message/content", "/choices/0/delta/content"),
            Dialect::Completions => ("/choices/0/text", "/choices/0/text"),
            Dialect::Responses => ("/output/0/content/0/text", "/delta"),
            Dialect::Messages => ("/content/0/text", "/delta/text"),
        }
    }
}

/// One agent with its conversation.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    dialect: Dialect,
    stream: bool,
    /// Its API key.
    key: &'static str,
    /// Its `user`, if it tells one.
    user: Option<&'static str>,
    /// Who said what.
    said: Vec<(&'static str, String)>,
    /// Its last call's name in the log.
    request: String,
}

/// Where a step went, and what the engine tells of its prompt, in tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) replica: String,
    pub(super) reason: String,
    pub(super) session: Value,
    pub(super) prompt: u64,
    pub(super) cached: u64,
}

impl Agent {
    pub(super) fn new(dialect: Dialect, stream: bool) -> Agent {
        let said = vec![("system", "You are an agent. ".to_owned())];
        Agent { dialect, stream, key: "Bearer key", user: None, said, request: String::new() }
    }

    /// The same agent with another key.
    pub(super) fn with_key(self, key: &'static str) -> Agent {
        Agent { key, ..self }
    }

    /// The same agent with another `user`.
    pub(super) fn of_user(self, user: &'static str) -> Agent {
        Agent { user: Some(user), ..self }
    }

    /// The user, or a tool, says so many tokens that nobody has said before.
    pub(super) fn hears(&mut self, tokens: usize) {
        self.said.push(("user", text(tokens)));
    }

    /// Calls with all that was said, and adds the answer to it.
    pub(super) async fn calls(&mut self, edge: &Edge) -> Step {
        self.request = text(0);
        let headers =
            [("authorization", self.key), ("x-request-id", self.request.as_str()), ("anthropic-version", "2023-06-01")];
        let bytes = post_with(self.dialect.path(), &headers, &self.body());
        let answer = Http1::connect(edge.agents()).await.call(&bytes).await;
        assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
        let header = |name| answer.header(name).unwrap().to_owned();
        let (replica, reason) = (header("x-nearpool-replica"), header("x-nearpool-reason"));
        let answered = self.text_of(&answer);
        assert!(!answered.is_empty(), "{answer:?}");
        self.said.push(("assistant", answered));
        let line = edge.wait_for_log(|line| line["request_id"] == self.request.as_str()).await;
        let tokens = |kind: &str| line["tokens"][kind].as_u64().unwrap_or_else(|| panic!("{line}"));
        Step { replica, reason, session: line["session"].clone(), prompt: tokens("prompt"), cached: tokens("cached") }
    }

    /// The user speaks, and the agent calls.
    pub(super) async fn steps(&mut self, edge: &Edge) -> Step {
        self.hears(600);
        self.calls(edge).await
    }

    fn body(&self) -> Value {
        let messages = |from: usize| -> Vec<Value> {
            self.said[from..].iter().map(|(role, text)| json!({"role": role, "content": text})).collect()
        };
        let system = &self.said[0].1;
        let mut body = match self.dialect {
            Dialect::Chat => json!({"messages": messages(0)}),
            Dialect::Completions => json!({"prompt": self.said.iter().map(|(_, text)| &text[..]).collect::<String>()}),
            // Without a word of the user's, the system's own is the list.
            Dialect::Responses if self.said.len() == 1 => json!({"input": messages(0), "store": false}),
            Dialect::Responses => json!({"instructions": system, "input": messages(1), "store": false}),
            Dialect::Messages => json!({"system": system, "messages": messages(1), "max_tokens": 100}),
        };
        body["model"] = json!("m");
        body["stream"] = json!(self.stream);
        body["sim"] = json!({"tokens": 20});
        if let Some(user) = self.user {
            body["user"] = json!(user);
        }
        body
    }

    fn text_of(&self, answer: &Answer) -> String {
        let body = std::str::from_utf8(&answer.body).unwrap();
        let (whole, event) = self.dialect.text_at();
        if !self.stream {
            let body: Value = serde_json::from_str(body).unwrap();
            return body.pointer(whole).unwrap().as_str().unwrap().to_owned();
        }
        let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        events.filter_map(|data| data.pointer(event)?.as_str().map(str::to_owned)).collect()
    }
}
