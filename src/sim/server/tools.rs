//! Whether an answer is a tool call, and with which arguments.
//!
//! A call is made when `tool_choice` demands one, or when the last message is the user's and mentions a tool: its name, a
//! word of its name, or the word "tool". Arguments follow the tool's schema: every property gets a plain value of its type.

use serde_json::{Map, Value, json};

use crate::sim::prompt::{Message, ToolCall};
use crate::sim::text::word;

/// A tool on offer.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) name: String,
    /// JSON schema of its arguments.
    pub(super) schema: Value,
}

/// What the request says about calling tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Auto,
    Never,
    Any,
    Named(String),
}

impl Choice {
    /// Reads `tool_choice` of any dialect.
    pub(super) fn read(choice: Option<&Value>) -> Self {
        let Some(choice) = choice else {
            return Self::Auto;
        };
        let word = choice.as_str().or_else(|| choice["type"].as_str());
        match word {
            Some("none") => Self::Never,
            Some("required" | "any") => Self::Any,
            Some("function" | "tool") => {
                let name = choice["function"]["name"].as_str().or_else(|| choice["name"].as_str());
                name.map_or(Self::Any, |name| Self::Named(name.to_owned()))
            }
            _ => Self::Auto,
        }
    }
}

/// The call to answer with, if any.
pub(super) fn choose(offers: &[Offer], choice: &Choice, messages: &[Message]) -> Option<ToolCall> {
    let wish = messages.last().filter(|message| message.role == "user").map(|message| message.text.to_lowercase());
    let mentioned = || {
        let wish = wish.as_deref()?;
        let named = offers.iter().find(|offer| mentions(wish, &offer.name));
        named.or_else(|| offers.first().filter(|_| wish.contains("tool")))
    };
    let offer = match choice {
        Choice::Never => None,
        Choice::Named(name) => offers.iter().find(|offer| offer.name == *name),
        Choice::Any => mentioned().or_else(|| offers.first()),
        Choice::Auto => mentioned(),
    }?;
    Some(ToolCall { name: offer.name.clone(), arguments: value(&offer.schema, 0).to_string() })
}

fn mentions(wish: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    wish.contains(&name) || name.split(['_', '-', '.']).any(|part| part.len() > 3 && wish.contains(part))
}

/// A plain value under a schema. Nested deeper than any sane tool, it is null.
fn value(schema: &Value, depth: usize) -> Value {
    if depth > 8 {
        return Value::Null;
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("string") => json!(word(depth as u64, 0)),
        Some("integer") => json!(1),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("array") => json!([value(&schema["items"], depth + 1)]),
        Some("null") => Value::Null,
        _ => {
            let mut object = Map::new();
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                object.insert(name.clone(), value(property, depth + 1));
            }
            Value::Object(object)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers() -> Vec<Offer> {
        let schema = json!({"type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}}});
        vec![Offer { name: "get_weather".into(), schema }, Offer { name: "search".into(), schema: json!({}) }]
    }

    fn asked(choice: Choice, text: &str) -> Option<String> {
        choose(&offers(), &choice, &[Message::new("user", text)]).map(|call| call.name)
    }

    #[test]
    fn a_mentioned_tool_is_called() {
        assert_eq!(asked(Choice::Auto, "What is the weather in Kyoto?").as_deref(), Some("get_weather"));
        assert_eq!(asked(Choice::Auto, "Search for it").as_deref(), Some("search"));
        assert_eq!(asked(Choice::Auto, "Say hello"), None);
        assert_eq!(asked(Choice::Never, "Search for it"), None);
        assert_eq!(asked(Choice::Any, "Say hello").as_deref(), Some("get_weather"));
        assert_eq!(asked(Choice::Named("search".into()), "Hello").as_deref(), Some("search"));
    }

    #[test]
    fn a_tool_result_is_answered_with_text() {
        let messages = [Message::new("user", "search"), Message::new("tool", "search found it")];
        assert_eq!(choose(&offers(), &Choice::Auto, &messages), None);
    }

    #[test]
    fn arguments_follow_the_schema() {
        let call = choose(&offers(), &Choice::Any, &[]).unwrap();
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        assert_eq!(arguments["days"], 1);
        assert_eq!(arguments["unit"], "C");
        assert!(arguments["city"].is_string());
    }
}
