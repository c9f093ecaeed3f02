//! OpenAI chat completions, with vLLM's extensions.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;

use super::answer::{Answer, Finish, Meta, Piece, Usage, Voice, data_event};
use super::call::{Call, Content, Hints, Refusal, read};
use super::tools::{self, Choice, Offer};
use crate::sim::prompt::{Conversation, Message, ToolCall};

#[derive(Debug, Deserialize)]
struct Request {
    model: Option<String>,
    messages: Vec<InMessage>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    n: Option<u64>,
    #[serde(default)]
    continue_final_message: bool,
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    return_token_ids: Option<bool>,
    #[serde(default)]
    sim: Hints,
}

/// The field `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct InMessage {
    role: String,
    #[serde(default)]
    content: Content,
    #[serde(default)]
    tool_calls: Option<Vec<InCall>>,
}

#[derive(Debug, Deserialize)]
struct InCall {
    function: InFunction,
}

#[derive(Debug, Deserialize)]
struct InFunction {
    name: String,
    #[serde(default)]
    arguments: String,
}

/// Reads a chat request. `prefill` makes a trailing assistant message the beginning of the answer, unasked.
pub(super) fn read_call(body: &[u8], prefill: bool) -> Result<Call, Refusal> {
    let request: Request = read(body)?;
    if request.messages.is_empty() {
        return Err(Refusal::bad("messages is empty").about("messages"));
    }
    if request.n.is_some_and(|n| n != 1) {
        return Err(Refusal::bad("this simulated engine gives one choice").about("n"));
    }
    if request.continue_final_message && request.add_generation_prompt != Some(false) {
        let message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True.";
        return Err(Refusal::bad(message));
    }
    let offers = offers(request.tools.as_deref().unwrap_or_default());
    let mut conversation = Conversation {
        tools: request
            .tools
            .filter(|tools| !tools.is_empty())
            .map(|tools| Value::from(tools).to_string())
            .unwrap_or_default(),
        messages: request.messages.into_iter().map(Message::from).collect(),
        partial: None,
    };
    if prefill || request.continue_final_message {
        conversation.continue_last();
    }
    let choice = Choice::read(request.tool_choice.as_ref());
    let tool = match conversation.partial {
        Some(_) => None,
        None => tools::choose(&offers, &choice, &conversation.messages),
    };
    let prompt = conversation.render();
    let voice = ChatVoice {
        include_usage: request.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        prompt_ids: request.return_token_ids.unwrap_or(false).then(|| prompt.tokens.ids()),
    };
    Ok(Call {
        model: request.model,
        prompt,
        stream: request.stream.unwrap_or(false),
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        tool,
        hints: request.sim,
        voice: Box::new(voice),
    })
}

impl From<InMessage> for Message {
    fn from(message: InMessage) -> Self {
        let calls = message.tool_calls.unwrap_or_default();
        Self {
            text: message.content.text(),
            role: message.role,
            calls: calls
                .into_iter()
                .map(|call| ToolCall { name: call.function.name, arguments: call.function.arguments })
                .collect(),
        }
    }
}

fn offers(tools: &[Value]) -> Vec<Offer> {
    tools
        .iter()
        .filter_map(|tool| {
            let function = &tool["function"];
            let name = function["name"].as_str()?.to_owned();
            Some(Offer { name, schema: function["parameters"].clone() })
        })
        .collect()
}

/// `usage` as chat and completions tell it.
pub(super) fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    })
}

/// `finish_reason` as chat and completions tell it.
pub(super) fn finish_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

struct ChatVoice {
    include_usage: bool,
    /// Only when token ids are wanted.
    prompt_ids: Option<Vec<u32>>,
}

impl ChatVoice {
    fn chunk(&self, meta: &Meta, choices: Value) -> Value {
        json!({
            "id": format!("chatcmpl-{}", meta.id),
            "object": "chat.completion.chunk",
            "created": meta.created_s,
            "model": meta.model,
            "choices": choices,
        })
    }

    fn delta(&self, meta: &Meta, delta: Value, token_ids: &[u32]) -> Bytes {
        let mut choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
        if self.prompt_ids.is_some() && !token_ids.is_empty() {
            choice["token_ids"] = json!(token_ids);
        }
        data_event(&self.chunk(meta, json!([choice])))
    }
}

impl Voice for ChatVoice {
    fn open(&mut self, meta: &Meta, _: &Usage, out: &mut VecDeque<Bytes>) {
        let choice =
            json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
        let mut chunk = self.chunk(meta, json!([choice]));
        if let Some(ids) = &self.prompt_ids {
            chunk["prompt_token_ids"] = json!(ids);
        }
        out.push_back(data_event(&chunk));
    }

    fn piece(&mut self, meta: &Meta, piece: &Piece, out: &mut VecDeque<Bytes>) {
        let event = match piece {
            Piece::Text { text, token_ids } => self.delta(meta, json!({"content": text}), token_ids),
            Piece::CallStart { id, name } => {
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": 0, "id": format!("call_{id}"), "type": "function", "function": function});
                self.delta(meta, json!({"tool_calls": [call]}), &[])
            }
            Piece::CallArguments(arguments) => {
                let call = json!({"index": 0, "function": {"arguments": arguments}});
                self.delta(meta, json!({"tool_calls": [call]}), &[])
            }
            Piece::Silent => return,
        };
        out.push_back(event);
    }

    fn close(&mut self, meta: &Meta, answer: &Answer, usage: &Usage, out: &mut VecDeque<Bytes>) {
        let finish = finish_word(answer.finish);
        let choice = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": finish, "stop_reason": null});
        out.push_back(data_event(&self.chunk(meta, json!([choice]))));
        if self.include_usage {
            let mut last = self.chunk(meta, json!([]));
            last["usage"] = usage_json(usage);
            out.push_back(data_event(&last));
        }
        out.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }

    fn whole(&mut self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
        let message = match answer.call() {
            None => {
                json!({"role": "assistant", "content": answer.text(), "refusal": null, "tool_calls": []})
            }
            Some((id, call)) => {
                let function = json!({"name": call.name, "arguments": call.arguments});
                let call = json!({"id": format!("call_{id}"), "type": "function", "function": function});
                json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [call]})
            }
        };
        let finish = finish_word(answer.finish);
        json!({
            "id": format!("chatcmpl-{}", meta.id),
            "object": "chat.completion",
            "created": meta.created_s,
            "model": meta.model,
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish, "stop_reason": null}],
            "usage": usage_json(usage),
        })
    }
}
