//! OpenAI embeddings: unit vectors that are a pure function of the text.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Meta, Usage};
use super::call::{Refusal, read};
use crate::sim::text::{Tokens, mix};

/// Dimensions of a vector for which nothing is said.
const DIMENSIONS_DEFAULT: usize = 64;
/// As many as the largest models in use have.
const DIMENSIONS_MAX: usize = 8_192;
/// Texts in one request, as OpenAI bounds it.
const INPUTS_MAX: usize = 2_048;

#[derive(Debug, Deserialize)]
struct Request {
    model: Option<String>,
    input: Input,
    #[serde(default)]
    encoding_format: Option<String>,
    dimensions: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

/// What is to be embedded, and how.
#[derive(Debug)]
pub(super) struct Embed {
    pub(super) model: Option<String>,
    inputs: Vec<Tokens>,
    base64: bool,
    dimensions: usize,
}

impl Embed {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let request: Request = read(body)?;
        let inputs: Vec<Tokens> = match request.input {
            Input::Text(text) => vec![of_text(&text)],
            Input::Ids(ids) => vec![of_ids(&ids)],
            Input::Texts(texts) => texts.iter().map(|text| of_text(text)).collect(),
            Input::ManyIds(prompts) => prompts.iter().map(|ids| of_ids(ids)).collect(),
        };
        let dimensions = request.dimensions.unwrap_or(DIMENSIONS_DEFAULT);
        if inputs.is_empty() || inputs.len() > INPUTS_MAX {
            return Err(Refusal::bad(format!("input must have 1 to {INPUTS_MAX} texts")).about("input"));
        }
        if dimensions == 0 || dimensions > DIMENSIONS_MAX {
            return Err(Refusal::bad(format!("dimensions must be 1 to {DIMENSIONS_MAX}")).about("dimensions"));
        }
        let base64 = request.encoding_format.as_deref() == Some("base64");
        Ok(Self { model: request.model, inputs, base64, dimensions })
    }

    /// Tokens to compute.
    pub(super) fn tokens(&self) -> u64 {
        self.inputs.iter().map(Tokens::len).sum()
    }

    pub(super) fn answer(&self, meta: &Meta, usage: &Usage) -> Value {
        let data: Vec<Value> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(index, input)| {
                let vector = vector(input.key(), self.dimensions);
                let embedding = if self.base64 { json!(base64(&vector)) } else { json!(vector) };
                json!({"object": "embedding", "index": index, "embedding": embedding})
            })
            .collect();
        json!({
            "object": "list", "model": meta.model, "data": data,
            "usage": {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt},
        })
    }
}

fn of_text(text: &str) -> Tokens {
    let mut tokens = Tokens::default();
    tokens.push(text);
    tokens
}

fn of_ids(ids: &[u32]) -> Tokens {
    let mut tokens = Tokens::default();
    tokens.push_ids(ids);
    tokens
}

fn vector(key: u64, dimensions: usize) -> Vec<f32> {
    let raw: Vec<f32> =
        (0..dimensions as u64).map(|at| (mix(key ^ mix(at + 1)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.into_iter().map(|x| x / length).collect()
}

/// The SDKs ask for vectors as base64 of little-endian floats by default.
fn base64(vector: &[f32]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_others_write_it() {
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[0.0, 0.0, 0.0]), "AAAAAAAAAAAAAAAA");
    }

    #[test]
    fn vectors_have_length_one_and_follow_the_text() {
        let one = vector(7, 100);
        assert!((one.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(one, vector(7, 100));
        assert_ne!(one, vector(8, 100));
    }
}
