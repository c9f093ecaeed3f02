//! OpenAI completions.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;

use super::answer::{Answer, Meta, Piece, Usage, Voice, data_event};
use super::call::{Call, Hints, Refusal, read};
use super::chat::{StreamOptions, finish_word, usage_json};
use crate::sim::prompt::Prompt;

/// vLLM's default.
const MAX_TOKENS_DEFAULT: u64 = 16;

#[derive(Debug, Deserialize)]
struct Request {
    model: Option<String>,
    prompt: InPrompt,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    n: Option<u64>,
    #[serde(default)]
    return_token_ids: Option<bool>,
    #[serde(default)]
    sim: Hints,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum InPrompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

/// Reads a completions request of a single prompt.
pub(super) fn read_call(body: &[u8]) -> Result<Call, Refusal> {
    let request: Request = read(body)?;
    let single = || Refusal::bad("this simulated engine takes one prompt and gives one choice").about("prompt");
    if request.n.is_some_and(|n| n != 1) {
        return Err(single());
    }
    let prompt = match request.prompt {
        InPrompt::Text(text) => Prompt::from_text(&text),
        InPrompt::Ids(ids) => Prompt::from_ids(&ids),
        InPrompt::Texts(texts) => match texts.as_slice() {
            [text] => Prompt::from_text(text),
            _ => return Err(single()),
        },
        InPrompt::ManyIds(prompts) => match prompts.as_slice() {
            [ids] => Prompt::from_ids(ids),
            _ => return Err(single()),
        },
    };
    let voice = CompletionVoice {
        include_usage: request.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        token_ids: request.return_token_ids.unwrap_or(false),
    };
    let default = request.sim.tokens.map_or(MAX_TOKENS_DEFAULT, |_| u64::MAX);
    Ok(Call {
        model: request.model,
        prompt,
        stream: request.stream.unwrap_or(false),
        max_tokens: Some(request.max_tokens.unwrap_or(default)),
        tool: None,
        hints: request.sim,
        voice: Box::new(voice),
    })
}

struct CompletionVoice {
    include_usage: bool,
    token_ids: bool,
}

fn object(meta: &Meta, choices: Value) -> Value {
    json!({
        "id": format!("cmpl-{}", meta.id),
        "object": "text_completion",
        "created": meta.created_s,
        "model": meta.model,
        "choices": choices,
    })
}

fn choice(text: &str, finish: Option<&str>) -> Value {
    json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish, "stop_reason": null})
}

impl Voice for CompletionVoice {
    fn open(&mut self, _: &Meta, _: &Usage, _: &mut VecDeque<Bytes>) {}

    fn piece(&mut self, meta: &Meta, piece: &Piece, out: &mut VecDeque<Bytes>) {
        if let Piece::Text { text, token_ids } = piece {
            let mut choice = choice(text, None);
            if self.token_ids {
                choice["token_ids"] = json!(token_ids);
            }
            out.push_back(data_event(&object(meta, json!([choice]))));
        }
    }

    fn close(&mut self, meta: &Meta, answer: &Answer, usage: &Usage, out: &mut VecDeque<Bytes>) {
        let last = choice("", Some(finish_word(answer.finish)));
        out.push_back(data_event(&object(meta, json!([last]))));
        if self.include_usage {
            let mut last = object(meta, json!([]));
            last["usage"] = usage_json(usage);
            out.push_back(data_event(&last));
        }
        out.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }

    fn whole(&mut self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
        let mut whole = object(meta, json!([choice(&answer.text(), Some(finish_word(answer.finish)))]));
        whole["usage"] = usage_json(usage);
        whole
    }
}
