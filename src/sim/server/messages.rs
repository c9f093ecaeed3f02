//! The Anthropic Messages API.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;

use super::answer::{Answer, Finish, Meta, Piece, Usage, Voice, typed_event};
use super::call::{Call, Content, Hints, Refusal, part_text, read};
use super::tools::{self, Choice, Offer};
use crate::sim::prompt::{Conversation, Message, ToolCall};

#[derive(Debug, Deserialize)]
struct Request {
    model: Option<String>,
    messages: Vec<InMessage>,
    #[serde(default)]
    system: Content,
    #[serde(default)]
    stream: Option<bool>,
    max_tokens: Option<u64>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    #[serde(default)]
    sim: Hints,
}

#[derive(Debug, Deserialize)]
struct InMessage {
    role: String,
    #[serde(default)]
    content: Content,
}

/// Reads a Messages request. Counting tokens needs no `max_tokens`.
pub(super) fn read_call(body: &[u8], counting: bool) -> Result<Call, Refusal> {
    let request: Request = read(body)?;
    if request.max_tokens.is_none() && !counting {
        return Err(Refusal::bad("max_tokens: Field required"));
    }
    let listed = request.tools.unwrap_or_default();
    let offers: Vec<Offer> = listed
        .iter()
        .filter_map(|tool| {
            let name = tool["name"].as_str()?.to_owned();
            Some(Offer { name, schema: tool["input_schema"].clone() })
        })
        .collect();
    let mut conversation = Conversation {
        tools: if listed.is_empty() { String::new() } else { Value::from(listed).to_string() },
        ..Conversation::default()
    };
    let system = request.system.text();
    if !system.is_empty() {
        conversation.messages.push(Message::new("system", system));
    }
    for message in request.messages {
        append(&mut conversation.messages, message);
    }
    conversation.continue_last();
    let tool = match conversation.partial {
        Some(_) => None,
        None => tools::choose(&offers, &Choice::read(request.tool_choice.as_ref()), &conversation.messages),
    };
    Ok(Call {
        model: request.model,
        prompt: conversation.render(),
        stream: request.stream.unwrap_or(false),
        max_tokens: request.max_tokens,
        tool,
        hints: request.sim,
        voice: Box::new(MessageVoice { block_open: false }),
    })
}

/// One message may hold text, tool calls and tool results; results become messages of their own.
fn append(messages: &mut Vec<Message>, message: InMessage) {
    let mut whole = Message::new(message.role, "");
    let parts = match message.content {
        Content::Parts(parts) => parts,
        content => {
            whole.text = content.text();
            messages.push(whole);
            return;
        }
    };
    for part in parts {
        match part["type"].as_str() {
            Some("tool_use") => whole.calls.push(ToolCall {
                name: part["name"].as_str().unwrap_or_default().to_owned(),
                arguments: part["input"].to_string(),
            }),
            Some("tool_result") => {
                let content: Content = serde_json::from_value(part["content"].clone()).unwrap_or_default();
                messages.push(Message::new("tool", content.text()));
            }
            // Signed and of no use to a simulated model.
            Some("thinking" | "redacted_thinking") => {}
            _ => whole.text.push_str(&part_text(&part)),
        }
    }
    if !whole.text.is_empty() || !whole.calls.is_empty() {
        messages.push(whole);
    }
}

struct MessageVoice {
    block_open: bool,
}

fn input_usage(usage: &Usage, output: u64) -> Value {
    json!({
        // Anthropic counts cached tokens apart from `input_tokens`.
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": output,
    })
}

fn stop_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
    }
}

impl MessageVoice {
    fn start_block(&mut self, block: Value, out: &mut VecDeque<Bytes>) {
        self.block_open = true;
        out.push_back(typed_event(&json!({"type": "content_block_start", "index": 0, "content_block": block})));
    }
}

fn delta(delta: Value) -> Bytes {
    typed_event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))
}

impl Voice for MessageVoice {
    fn open(&mut self, meta: &Meta, usage: &Usage, out: &mut VecDeque<Bytes>) {
        let message = json!({
            "id": format!("msg_{}", meta.id), "type": "message", "role": "assistant", "model": meta.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": input_usage(usage, 0),
        });
        out.push_back(typed_event(&json!({"type": "message_start", "message": message})));
    }

    fn piece(&mut self, _: &Meta, piece: &Piece, out: &mut VecDeque<Bytes>) {
        match piece {
            Piece::Text { text, .. } => {
                if !self.block_open {
                    self.start_block(json!({"type": "text", "text": ""}), out);
                }
                out.push_back(delta(json!({"type": "text_delta", "text": text})));
            }
            Piece::CallStart { id, name } => {
                let block = json!({"type": "tool_use", "id": format!("toolu_{id}"), "name": name, "input": {}});
                self.start_block(block, out);
            }
            Piece::CallArguments(arguments) => {
                out.push_back(delta(json!({"type": "input_json_delta", "partial_json": arguments})));
            }
            Piece::Silent => {}
        }
    }

    fn close(&mut self, _: &Meta, answer: &Answer, usage: &Usage, out: &mut VecDeque<Bytes>) {
        if self.block_open {
            out.push_back(typed_event(&json!({"type": "content_block_stop", "index": 0})));
        }
        let end = json!({"stop_reason": stop_word(answer.finish), "stop_sequence": null});
        let usage = input_usage(usage, usage.completion);
        out.push_back(typed_event(&json!({"type": "message_delta", "delta": end, "usage": usage})));
        out.push_back(typed_event(&json!({"type": "message_stop"})));
    }

    fn whole(&mut self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
        let content = match answer.call() {
            None => json!([{"type": "text", "text": answer.text()}]),
            Some((id, call)) => {
                // A call cut by `max_tokens` has no whole arguments; the API then shows none.
                let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
                json!([{"type": "tool_use", "id": format!("toolu_{id}"), "name": call.name, "input": input}])
            }
        };
        json!({
            "id": format!("msg_{}", meta.id), "type": "message", "role": "assistant", "model": meta.model,
            "content": content, "stop_reason": stop_word(answer.finish), "stop_sequence": null,
            "usage": input_usage(usage, usage.completion),
        })
    }
}
