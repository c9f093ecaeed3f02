//! What names a request's session: the one place where that is decided.
//!
//! The first of these that is there counts:
//!
//! 1. the headers of `sessions.headers`, in their order: what an operator has settled with his agents; one that cannot be
//!    used is the client's mistake, and an error;
//! 2. the agents' own headers ([`AGENTS_HEADERS`]); one that cannot be used is passed over, since no operator asked for it;
//! 3. fields of the body that hold an id: `conversation` (or its `id`), `metadata.session_id`, `session_id`, and the session
//!    that Claude Code packs into `metadata.user_id`.
//!
//! A name is the same session whichever of them gave it, since agents change their headers between versions and send some
//! of them in some calls only. A sub-agent is a session of its own in that of its agent: its prompt is another.
//!
//! `user` and `prompt_cache_key` name users, tasks or prompts, often the same for all sessions of a program: they only
//! refine what the messages tell. Ids of requests (`x-request-id`, `x-client-request-id`, `traceparent`, and, unless it is
//! configured, `x-correlation-id`) are never looked at: with each call being a session of its own, none would be warm.

use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use twox_hash::XxHash3_64;

use super::scan::{Field, Fields};

/// Longest name, in bytes: names go into hashes, labels and log lines.
pub const NAME_BYTES_MAX: usize = 256;

/// Headers that agents send by themselves, in the order in which they are looked for.
pub static AGENTS_HEADERS: [HeaderName; 13] = [
    HeaderName::from_static("x-claude-code-session-id"),
    // Codex. Its threads have a prompt each and share the session; before 0.131 it sent the other two.
    HeaderName::from_static("thread-id"),
    HeaderName::from_static("session-id"),
    HeaderName::from_static("session_id"),
    HeaderName::from_static("conversation_id"),
    // OpenCode; also aiperf.
    HeaderName::from_static("x-session-affinity"),
    HeaderName::from_static("x-session-id"),
    HeaderName::from_static("x-amp-thread-id"),
    HeaderName::from_static("x-qwen-code-session-id"),
    HeaderName::from_static("x-dynamo-session-id"),
    HeaderName::from_static("x-bf-session-id"),
    HeaderName::from_static("x-litellm-session-id"),
    HeaderName::from_static(ROUTING_KEY),
];

/// SMG's. It names what belongs together, not a session, so its values are apart from those of the others.
const ROUTING_KEY: &str = "x-smg-routing-key";

/// Headers that name the session which began this one, in the order in which they are looked for.
static PARENTS_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-parent-session-id"),
    HeaderName::from_static("x-dynamo-parent-session-id"),
    HeaderName::from_static("x-codex-parent-thread-id"),
];

static AGENT: HeaderName = HeaderName::from_static("x-claude-code-agent-id");
static PARENT_AGENT: HeaderName = HeaderName::from_static("x-claude-code-parent-agent-id");

/// Between the parts of a name; no part can hold it.
const SEPARATOR: u8 = 0;

/// A session's name, to be hashed together with the client's scope.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(Vec<u8>);

impl Name {
    fn new(name: &str) -> Name {
        Name(name.as_bytes().to_vec())
    }

    fn routing_key(key: &str) -> Name {
        Name([&[SEPARATOR], key.as_bytes()].concat())
    }

    /// The name of an agent in this session.
    fn agent(&self, agent: &str) -> Name {
        Name([&self.0, &[SEPARATOR][..], agent.as_bytes()].concat())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a request says of its session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// The session's name.
    pub session: Option<Name>,
    /// The name of the session that this one was begun by, and shares a beginning with.
    pub parent: Option<Name>,
    /// Hash of what tells conversations apart and names none: `user` and `prompt_cache_key`.
    pub coarse: Option<u64>,
}

/// What a request's head says of its session. The body may say more: [`with`](HeadNames::with).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeadNames {
    session: Option<Name>,
    parent: Option<Name>,
    agent: Option<String>,
    parent_agent: Option<String>,
}

/// A header whose value cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the header {header} {what}")]
pub struct Unusable {
    header: String,
    what: String,
}

impl HeadNames {
    /// Reads a head. An error if one of the configured headers cannot be used.
    pub fn read(headers: &HeaderMap, configured: &[HeaderName]) -> Result<HeadNames, Unusable> {
        let mut session = None;
        for header in configured {
            session = visible(headers, header)?.map(Name::new);
            if session.is_some() {
                break;
            }
        }
        let usable = |header: &HeaderName| visible(headers, header).ok().flatten();
        let agents = |header: &HeaderName| {
            let name = if header == ROUTING_KEY { Name::routing_key } else { Name::new };
            usable(header).map(name)
        };
        Ok(HeadNames {
            session: session.or_else(|| AGENTS_HEADERS.iter().find_map(agents)),
            parent: PARENTS_HEADERS.iter().find_map(usable).map(Name::new),
            agent: usable(&AGENT).map(str::to_owned),
            parent_agent: usable(&PARENT_AGENT).map(str::to_owned),
        })
    }

    /// All that head and body say together.
    pub fn with(&self, fields: &Fields) -> Names {
        let named = self.session.clone().or_else(|| in_body(fields));
        let (session, parent) = match (&named, &self.agent) {
            (Some(main), Some(agent)) => {
                let parent = self.parent_agent.as_ref().map_or_else(|| main.clone(), |parent| main.agent(parent));
                (Some(main.agent(agent)), Some(parent))
            }
            _ => (named, self.parent.clone()),
        };
        Names { parent: parent.filter(|parent| session.as_ref() != Some(parent)), session, coarse: coarse(fields) }
    }
}

/// A header's value without space around it, if it is present and not empty; an error if it is no short visible ASCII or
/// comes with two values.
pub fn visible<'a>(headers: &'a HeaderMap, header: &HeaderName) -> Result<Option<&'a str>, Unusable> {
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let unusable = |what: String| Err(Unusable { header: header.to_string(), what });
    if values.any(|other| other != value) {
        return unusable("comes more than once with different values".to_owned());
    }
    if value.len() > NAME_BYTES_MAX {
        return unusable(format!("is longer than {NAME_BYTES_MAX} bytes"));
    }
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if is_visible(text) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        _ => unusable("may hold visible ASCII only".to_owned()),
    }
}

fn in_body(fields: &Fields) -> Option<Name> {
    let whole = [Field::Conversation, Field::MetadataSessionId, Field::SessionId];
    let name = |id: &str| Some(id.trim()).filter(|id| is_name(id)).map(Name::new);
    let whole = whole.iter().find_map(|field| fields.get(*field).and_then(name));
    whole.or_else(|| name(&packed(fields.get(Field::MetadataUserId)?)?))
}

/// The session in Claude Code's `user_id`: `user_…_account_…_session_ID`, later a JSON object with a `session_id`.
fn packed(user_id: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Packed {
        session_id: String,
    }
    if user_id.starts_with('{') {
        return serde_json::from_str(user_id).ok().map(|packed: Packed| packed.session_id);
    }
    let (_, after) = user_id.strip_prefix("user_")?.split_once("_account_")?;
    after.rsplit_once("_session_").map(|(_, id)| id.to_owned())
}

fn coarse(fields: &Fields) -> Option<u64> {
    let both = [Field::User, Field::PromptCacheKey].map(|field| fields.get(field));
    both.iter().any(Option::is_some).then(|| {
        let [user, key] = both.map(|text| text.unwrap_or_default().as_bytes());
        let len = |text: &[u8]| (text.len() as u64).to_le_bytes();
        // Each with its length, so that no pair is read as another.
        XxHash3_64::oneshot(&[&len(user), user, &len(key), key].concat())
    })
}

/// Whether this can be a session's or a step's name: short visible ASCII.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && is_visible(text)
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

#[cfg(test)]
mod tests;
