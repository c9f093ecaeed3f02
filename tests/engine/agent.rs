//! Agents as an engine meets them: conversations that grow, without any name of a session.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{Answer, Http1, json_body, post};

pub(crate) const CHAT: &str = "/v1/chat/completions";

/// Words that the model has tokens for.
const WORDS: [&str; 16] = [
    "litu", "zuku", "voro", "gago", "poka", "tamo", "zizo", "dire", "beni", "suvo", "maku", "vumi", "lilu", "kima",
    "tabi", "voke",
];
/// In words. The system prompt is every agent's.
const SYSTEM_WORDS: usize = 60;
const TASK_WORDS: usize = 120;
const OBSERVATION_WORDS: usize = 80;
/// Answers are short, since a test's time goes into them, and differ in length, so that agents that began together do not
/// go on in step: then any rule that alternates would send each agent to one replica.
const ANSWER_TOKENS: [u64; 5] = [2, 17, 5, 29, 11];

/// One answer, whichever way it came.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) text: String,
    /// Why it ended; a stream that broke off has no reason.
    pub(crate) finish: Option<String>,
    /// Tokens of the prompt, and how many of them were cached.
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
}

impl Reply {
    /// Takes in an answer or an event of it.
    pub(crate) fn take(&mut self, part: &Value) {
        assert!(part.get("error").is_none(), "{part}");
        let choice = &part["choices"][0];
        let text = choice["message"]["content"].as_str().or(choice["delta"]["content"].as_str());
        self.text.push_str(text.unwrap_or_default());
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.into());
        }
        if let Some(prompt) = part["usage"]["prompt_tokens"].as_u64() {
            self.prompt = prompt;
            self.cached = part["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("cached tokens");
        }
    }
}

/// One call on a connection of its own: clients open second connections, so a connection tells no session.
pub(crate) async fn call(to: SocketAddr, body: &Value) -> Reply {
    call_watched(to, body, |_, _| ()).await
}

/// The same; a stream's head and the number of its events so far are shown as they come.
pub(crate) async fn call_watched(to: SocketAddr, body: &Value, mut watch: impl FnMut(&Answer, usize)) -> Reply {
    let mut reply = Reply::default();
    let mut client = Http1::connect(to).await;
    client.send(&post(CHAT, body)).await;
    let mut answer = client.head().await;
    if body["stream"] != true || answer.status != 200 {
        let (body, whole) = client.body(&answer).await;
        answer.body = body;
        assert!(answer.status == 200 && whole.is_ok(), "{answer:?}");
        reply.take(&json_body(&answer));
        return reply;
    }
    let (mut text, mut events, mut done) = (String::new(), 0, false);
    while let Some(piece) = client.chunk().await.expect("a stream that ends in good order") {
        text.push_str(std::str::from_utf8(&piece.bytes).unwrap());
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let Some(data) = event.trim_end().strip_prefix("data: ") else { continue };
            done = data == "[DONE]";
            if !done {
                reply.take(&serde_json::from_str(data).unwrap());
            }
            events += 1;
            watch(&answer, events);
        }
    }
    assert!(done, "no [DONE]: {reply:?}");
    reply
}

/// One agent: its messages so far.
pub(crate) struct Agent {
    messages: Vec<Value>,
    streams: bool,
    words: usize,
}

impl Agent {
    /// The nth agent. All have one system prompt, each has a task of its own, every other one streams.
    pub(crate) fn new(n: usize) -> Agent {
        let mut agent = Agent { messages: Vec::new(), streams: n % 2 == 1, words: 0 };
        agent.add("system", SYSTEM_WORDS);
        agent.words = 1 + n * 10_007;
        agent.add("user", TASK_WORDS);
        agent
    }

    /// Its next call, which repeats all that was said. What it says to the answer is in its next prompt.
    pub(crate) async fn step(&mut self, to: SocketAddr) -> Reply {
        let tokens = ANSWER_TOKENS[(self.words + self.messages.len()) % ANSWER_TOKENS.len()];
        let reply = call(to, &self.body(tokens)).await;
        assert_eq!(reply.finish.as_deref(), Some("length"), "{reply:?}");
        self.messages.push(json!({"role": "assistant", "content": reply.text}));
        self.add("user", OBSERVATION_WORDS);
        reply
    }

    /// A call with an answer of so many tokens.
    pub(crate) fn body(&self, tokens: u64) -> Value {
        let mut body = json!({"model": "m", "messages": self.messages, "max_tokens": tokens, "temperature": 0});
        if self.streams {
            body["stream"] = json!(true);
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }

    fn add(&mut self, role: &str, words: usize) {
        let text: Vec<&str> = (self.words..self.words + words).map(word).collect();
        self.words += words;
        self.messages.push(json!({"role": role, "content": text.join(" ")}));
    }
}

/// Words in an order that does not repeat: SplitMix64 of their place.
fn word(place: usize) -> &'static str {
    let mut x = (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    WORDS[(x ^ (x >> 31)) as usize % WORDS.len()]
}
