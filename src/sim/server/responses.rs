//! The OpenAI Responses API: its request. Its answers stand in `responses_voice`.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

use super::call::{Call, Content, Hints, Refusal, read};
use super::responses_store::ResponseStore;
use super::responses_voice::{Keep, ResponseVoice};
use super::tools::{self, Choice, Offer};
use crate::sim::prompt::{Conversation, Message, ToolCall};

#[derive(Debug, Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(default)]
    input: Input,
    instructions: Option<String>,
    previous_response_id: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    store: Option<bool>,
    max_output_tokens: Option<u64>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    #[serde(default)]
    sim: Hints,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Item>),
    #[default]
    Nothing,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(rename = "type")]
    kind: Option<String>,
    role: Option<String>,
    #[serde(default)]
    content: Content,
    name: Option<String>,
    arguments: Option<String>,
    #[serde(default)]
    output: Content,
}

/// Reads a Responses request; earlier answers come out of `store`.
pub(super) fn read_call(body: &[u8], store: &Arc<ResponseStore>) -> Result<Call, Refusal> {
    let request: Request = read(body)?;
    let mut messages = match &request.previous_response_id {
        None => Vec::new(),
        Some(id) => store.get(id).ok_or_else(|| {
            let message = format!("Response with id '{id}' not found.");
            Refusal::new(StatusCode::NOT_FOUND, message).about("previous_response_id")
        })?,
    };
    match request.input {
        Input::Text(text) => messages.push(Message::new("user", text)),
        Input::Items(items) => messages.extend(items.into_iter().filter_map(message)),
        Input::Nothing => return Err(Refusal::bad("input is missing").about("input")),
    }
    let kept = messages.clone();
    if let Some(instructions) = &request.instructions {
        messages.insert(0, Message::new("system", instructions.clone()));
    }
    let listed = request.tools.unwrap_or_default();
    let offers = offers(&listed);
    let tool = tools::choose(&offers, &Choice::read(request.tool_choice.as_ref()), &messages);
    let tools_text = if listed.is_empty() { String::new() } else { Value::from(listed.clone()).to_string() };
    let conversation = Conversation { tools: tools_text, messages, partial: None };
    let keep = request.store.unwrap_or(true).then(|| Keep { store: Arc::clone(store), messages: kept });
    let voice = ResponseVoice::new(keep, request.previous_response_id, request.instructions, listed);
    Ok(Call {
        model: request.model,
        prompt: conversation.render(),
        stream: request.stream.unwrap_or(false),
        max_tokens: request.max_output_tokens,
        tool,
        hints: request.sim,
        voice: Box::new(voice),
    })
}

fn offers(tools: &[Value]) -> Vec<Offer> {
    tools
        .iter()
        .filter_map(|tool| {
            let name = tool["name"].as_str()?.to_owned();
            Some(Offer { name, schema: tool["parameters"].clone() })
        })
        .collect()
}

/// An input item as a message; items without a place in a prompt (reasoning, references) are left out.
fn message(item: Item) -> Option<Message> {
    match item.kind.as_deref() {
        Some("function_call") => {
            let call = ToolCall { name: item.name.unwrap_or_default(), arguments: item.arguments.unwrap_or_default() };
            Some(Message { role: "assistant".into(), text: String::new(), calls: vec![call] })
        }
        Some("function_call_output") => Some(Message::new("tool", item.output.text())),
        _ => Some(Message::new(item.role?, item.content.text())),
    }
}
