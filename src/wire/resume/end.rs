//! The closing words of an answer that lacks nothing else.

use super::told::Told;
use crate::domain::ask::Dialect;
use crate::wire::usage::Usage;

impl Told {
    /// What is missing of an answer whose text is whole. Where its end was not told, its tokens are used up: the reason is
    /// then `length`. `usage` says that the client asked for the event that reports tokens; it comes if they are known, and
    /// is else left out, as the API allows for a stream that was interrupted.
    pub fn end(&mut self, usage: bool) -> Vec<u8> {
        let mut end = Vec::new();
        if !self.finished {
            self.finished = true;
            let said = if self.dialect == Dialect::Chat { "\"delta\":{}" } else { "\"text\":\"\"" };
            let choice = format!("{{\"index\":0,{said},\"logprobs\":null,\"finish_reason\":\"length\"}}");
            self.closing(&format!("\"choices\":[{choice}]"), &mut end);
        }
        if let Some(known) = self.tokens.known().filter(|_| usage && !self.usage_told) {
            self.usage_told = true;
            self.closing(&format!("\"choices\":[],\"usage\":{}", object(known)), &mut end);
        }
        end.extend_from_slice(b"data: [DONE]\n\n");
        end
    }

    /// The tokens of the whole answer as far as they are known without a last word of the replica.
    pub fn known_usage(&self) -> Option<Usage> {
        self.tokens.known()
    }

    fn closing(&self, rest: &str, end: &mut Vec<u8>) {
        end.extend_from_slice(b"data: {");
        let own = &self.identity;
        for (key, value) in [("id", &own.id), ("object", &own.object), ("created", &own.created), ("model", &own.model)]
        {
            if !value.is_empty() {
                end.extend_from_slice(format!("\"{key}\":{value},").as_bytes());
            }
        }
        end.extend_from_slice(rest.as_bytes());
        end.extend_from_slice(b"}\n\n");
    }
}

fn object(usage: Usage) -> String {
    let Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
    let total = prompt_tokens.saturating_add(completion_tokens);
    let details = cached_tokens.map(|cached| format!(",\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}"));
    format!(
        "{{\"prompt_tokens\":{prompt_tokens},\"total_tokens\":{total},\"completion_tokens\":{completion_tokens}{}}}",
        details.unwrap_or_default()
    )
}
