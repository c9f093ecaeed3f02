//! The OpenAI Responses API: its answers, from `response.created` to `response.completed`.

use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

use super::answer::{Answer, Finish, Meta, Piece, Usage, Voice, typed_event};
use super::responses_store::ResponseStore;
use crate::sim::prompt::Message;

pub(super) struct ResponseVoice {
    keep: Option<Keep>,
    previous: Option<String>,
    instructions: Option<String>,
    tools: Vec<Value>,
    sequence: u64,
    item_open: bool,
}

/// Where the answer is kept, and after which messages.
pub(super) struct Keep {
    pub(super) store: Arc<ResponseStore>,
    pub(super) messages: Vec<Message>,
}

impl ResponseVoice {
    pub(super) fn new(
        keep: Option<Keep>,
        previous: Option<String>,
        instructions: Option<String>,
        tools: Vec<Value>,
    ) -> Self {
        Self { keep, previous, instructions, tools, sequence: 0, item_open: false }
    }

    fn event(&mut self, kind: &str, mut data: Value, out: &mut VecDeque<Bytes>) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        out.push_back(typed_event(&data));
    }

    fn response(&self, meta: &Meta, status: &str, output: Value, usage: Option<&Usage>) -> Value {
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": format!("resp_{}", meta.id),
            "object": "response",
            "created_at": meta.created_s,
            "status": status,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": self.instructions,
            "metadata": {},
            "model": meta.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": self.previous,
            "store": self.keep.is_some(),
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": self.tools,
            "top_p": 1.0,
            "usage": usage.map(usage_json),
        })
    }

    fn final_response(&mut self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
        let status = if answer.finish == Finish::Length { "incomplete" } else { "completed" };
        let response = self.response(meta, status, json!([item(meta, answer)]), Some(usage));
        if let Some(Keep { store, messages }) = &mut self.keep {
            let mut messages = std::mem::take(messages);
            let calls = answer.call().map(|(_, call)| call.clone()).into_iter().collect();
            messages.push(Message { role: "assistant".into(), text: answer.text(), calls });
            store.put(format!("resp_{}", meta.id), messages);
        }
        response
    }
}

fn usage_json(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    })
}

fn message_id(meta: &Meta) -> String {
    format!("msg_{}", meta.id)
}

fn call_item_id(meta: &Meta) -> String {
    format!("fc_{}", meta.id)
}

/// The one output item, finished.
fn item(meta: &Meta, answer: &Answer) -> Value {
    let status = if answer.finish == Finish::Length { "incomplete" } else { "completed" };
    match answer.call() {
        None => json!({
            "id": message_id(meta), "type": "message", "role": "assistant", "status": status,
            "content": [text_part(&answer.text())],
        }),
        Some((id, call)) => json!({
            "id": call_item_id(meta), "type": "function_call", "status": status,
            "call_id": format!("call_{id}"), "name": call.name, "arguments": call.arguments,
        }),
    }
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

impl Voice for ResponseVoice {
    fn open(&mut self, meta: &Meta, _: &Usage, out: &mut VecDeque<Bytes>) {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.response(meta, "in_progress", json!([]), None);
            self.event(kind, json!({"response": response}), out);
        }
    }

    fn piece(&mut self, meta: &Meta, piece: &Piece, out: &mut VecDeque<Bytes>) {
        match piece {
            Piece::Text { text, .. } => {
                let id = message_id(meta);
                if !self.item_open {
                    self.item_open = true;
                    let item = json!({"id": id, "type": "message", "role": "assistant", "status": "in_progress", "content": []});
                    self.event("response.output_item.added", json!({"output_index": 0, "item": item}), out);
                    let part = json!({"item_id": id, "output_index": 0, "content_index": 0, "part": text_part("")});
                    self.event("response.content_part.added", part, out);
                }
                let delta =
                    json!({"item_id": id, "output_index": 0, "content_index": 0, "delta": text, "logprobs": []});
                self.event("response.output_text.delta", delta, out);
            }
            Piece::CallStart { id, name } => {
                self.item_open = true;
                let item = json!({
                    "id": call_item_id(meta), "type": "function_call", "status": "in_progress",
                    "call_id": format!("call_{id}"), "name": name, "arguments": "",
                });
                self.event("response.output_item.added", json!({"output_index": 0, "item": item}), out);
            }
            Piece::CallArguments(arguments) => {
                let delta = json!({"item_id": call_item_id(meta), "output_index": 0, "delta": arguments});
                self.event("response.function_call_arguments.delta", delta, out);
            }
            Piece::Silent => {}
        }
    }

    fn close(&mut self, meta: &Meta, answer: &Answer, usage: &Usage, out: &mut VecDeque<Bytes>) {
        if self.item_open {
            match answer.call() {
                None => {
                    let (id, text) = (message_id(meta), answer.text());
                    let done =
                        json!({"item_id": id, "output_index": 0, "content_index": 0, "text": text, "logprobs": []});
                    self.event("response.output_text.done", done, out);
                    let part = json!({"item_id": id, "output_index": 0, "content_index": 0, "part": text_part(&text)});
                    self.event("response.content_part.done", part, out);
                }
                Some((_, call)) => {
                    let done = json!({
                        "item_id": call_item_id(meta), "output_index": 0, "name": call.name, "arguments": call.arguments,
                    });
                    self.event("response.function_call_arguments.done", done, out);
                }
            }
            self.event("response.output_item.done", json!({"output_index": 0, "item": item(meta, answer)}), out);
        }
        let response = self.final_response(meta, answer, usage);
        let kind = if answer.finish == Finish::Length { "response.incomplete" } else { "response.completed" };
        self.event(kind, json!({"response": response}), out);
    }

    fn whole(&mut self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
        self.final_response(meta, answer, usage)
    }
}
