//! What every dialect's request comes down to: tools, messages, and perhaps the beginning of the answer.

use super::text::Tokens;

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    pub text: String,
    /// The tools that an assistant's message calls.
    pub calls: Vec<ToolCall>,
}

impl Message {
    /// A message of text only.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), text: text.into(), calls: Vec::new() }
    }
}

/// A call of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// Its arguments, JSON.
    pub arguments: String,
}

impl ToolCall {
    fn render(&self, tokens: &mut Tokens) {
        tokens.push("<|call|>");
        tokens.push(&self.name);
        tokens.push(&self.arguments);
    }

    /// The tokens that a model spends on this call, the arguments' last of them.
    pub fn tokens(&self) -> Tokens {
        let mut tokens = Tokens::default();
        self.render(&mut tokens);
        tokens
    }
}

/// A conversation that wants its next assistant message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The tools on offer, as JSON; empty when there are none.
    pub tools: String,
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// The beginning of the answer, when it is to be continued.
    pub partial: Option<String>,
}

/// A prompt, ready for the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// All its tokens, a partial answer included.
    pub tokens: Tokens,
    /// The key of the answer's text.
    pub key: u64,
    /// How many tokens of the answer the prompt already has.
    pub position: u64,
}

impl Conversation {
    /// Makes the last message, when it is the assistant's, the beginning of the answer.
    pub fn continue_last(&mut self) {
        let is_text = |message: &Message| message.role == "assistant" && message.calls.is_empty();
        if self.messages.last().is_some_and(is_text) {
            self.partial = self.messages.pop().map(|message| message.text);
        }
    }

    /// Applies the chat template: tools first, then the messages, then the marker after which the answer stands.
    pub fn render(&self) -> Prompt {
        let mut tokens = Tokens::default();
        if !self.tools.is_empty() {
            tokens.push("<|tools|>\n");
            tokens.push(&self.tools);
        }
        for message in &self.messages {
            push_marker(&mut tokens, &message.role);
            tokens.push(&message.text);
            for call in &message.calls {
                call.render(&mut tokens);
            }
            tokens.push("<|end|>\n");
        }
        push_marker(&mut tokens, "assistant");
        let key = tokens.key();
        let before = tokens.len();
        tokens.push(self.partial.as_deref().unwrap_or_default());
        Prompt { key, position: tokens.len() - before, tokens }
    }
}

impl Prompt {
    /// A prompt that is plain text, perhaps with the beginning of its own answer at the end.
    pub fn from_text(text: &str) -> Self {
        let key_of = |text: &str| {
            let mut tokens = Tokens::default();
            tokens.push(text);
            tokens.key()
        };
        let (before, position) = super::text::trailing_run(text, key_of).unwrap_or((text, 0));
        let mut tokens = Tokens::default();
        tokens.push(before);
        let key = tokens.key();
        tokens.push(text.get(before.len()..).unwrap_or_default());
        Self { tokens, key, position }
    }

    /// A prompt given by token ids, perhaps with the beginning of its own answer at the end.
    pub fn from_ids(ids: &[u32]) -> Self {
        let mut tokens = Tokens::default();
        tokens.push_ids(ids);
        let (key, position) = match tokens.split_answer() {
            Some((before, position)) => (before.key(), position),
            None => (tokens.key(), 0),
        };
        Self { tokens, key, position }
    }
}

fn push_marker(tokens: &mut Tokens, role: &str) {
    tokens.push("<|role|>");
    tokens.push(role);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::text::word;

    fn conversation() -> Conversation {
        Conversation {
            tools: r#"[{"name":"search"}]"#.into(),
            messages: vec![Message::new("system", "Be brief."), Message::new("user", "Où est la gare?")],
            partial: None,
        }
    }

    fn said(prompt: &Prompt, tokens: u64) -> String {
        (0..tokens).map(|at| word(prompt.key, prompt.position + at)).collect()
    }

    #[test]
    fn the_next_turn_begins_with_this_prompt_and_its_answer() {
        let mut conversation = conversation();
        let first = conversation.render();
        let mut whole = first.tokens.clone();
        let answer = said(&first, 21);
        whole.push(&answer);
        conversation.messages.push(Message::new("assistant", answer));
        conversation.messages.push(Message::new("user", "And then?"));
        let second = conversation.render().tokens.chain(1);
        assert_eq!(whole.chain(1), second[..whole.len() as usize]);
    }

    #[test]
    fn a_tool_call_is_remembered_as_it_was_generated() {
        let mut conversation = conversation();
        let mut whole = conversation.render().tokens;
        let call = ToolCall { name: "search".into(), arguments: r#"{"q":"gare"}"#.into() };
        whole.push_ids(&call.tokens().ids());
        conversation.messages.push(Message { role: "assistant".into(), calls: vec![call], ..Message::default() });
        let second = conversation.render().tokens.chain(1);
        assert_eq!(whole.chain(1), second[..whole.len() as usize]);
    }

    #[test]
    fn a_continued_chat_says_what_the_uninterrupted_one_would_have() {
        let mut conversation = conversation();
        let whole = said(&conversation.render(), 30);
        for cut in 0..30 {
            conversation.messages.push(Message::new("assistant", &whole[..4 * cut]));
            conversation.continue_last();
            let resumed = said(&conversation.render(), 30 - cut as u64);
            assert_eq!(format!("{}{resumed}", &whole[..4 * cut]), whole);
        }
    }

    #[test]
    fn a_continued_completion_says_what_the_uninterrupted_one_would_have() {
        let prompt = Prompt::from_text("Once upon a time");
        let whole = said(&prompt, 30);
        for cut in 0..30 {
            let resumed = Prompt::from_text(&format!("Once upon a time{}", &whole[..4 * cut]));
            assert_eq!(resumed.position, cut as u64);
            assert_eq!(said(&resumed, 30 - cut as u64), whole[4 * cut..]);
            let by_ids = Prompt::from_ids(&resumed.tokens.ids());
            assert_eq!(by_ids, resumed);
        }
    }
}
