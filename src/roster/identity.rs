//! How a call tells its session: by its name, or by what was said.

use crate::domain::ids::SessionKey;
use crate::domain::prompt::Prompt;
use crate::policy::affinity;
use crate::wire::names::Names;

/// How a call tells its session. Every key belongs to one client and one model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// By a name.
    Named {
        /// The name's key.
        session: SessionKey,
        /// The session that it branches off from: a sub-agent's parent.
        parent: Option<SessionKey>,
    },
    /// By what was said.
    Conversation {
        /// Up to and with the first message of the user.
        opening: SessionKey,
        /// Up to and with each of the newest messages, oldest first; the last stands for the whole list.
        ends: Vec<SessionKey>,
    },
}

impl Identity {
    /// How a client of this scope tells its session to the model of this name; `None` where neither a name nor the messages
    /// do. Each model has a cache of its own, and so sessions of its own.
    pub fn of(scope: &[u8], names: &Names, prompt: &Prompt, model: &str) -> Option<Identity> {
        let at_model = |session: SessionKey| affinity::for_model(session, model);
        if let Some(name) = &names.session {
            let named = |name: &[u8]| at_model(affinity::session_key(scope, name));
            let parent = names.parent.as_ref().map(|parent| named(parent.as_bytes()));
            return Some(Identity::Named { session: named(name.as_bytes()), parent });
        }
        let conversation = prompt.conversation.as_ref()?;
        let own = affinity::conversations_of(scope, names.coarse);
        let key = |hash: u128| at_model(own.key(hash));
        let ends = conversation.ends.iter().map(|end| key(*end)).collect();
        Some(Identity::Conversation { opening: key(conversation.opening), ends })
    }
}
