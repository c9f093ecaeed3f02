//! How a call tells its session: by its name, or by what was said.

use crate::domain::ids::SessionKey;
use crate::domain::prompt::Prompt;
use crate::policy::affinity;
use crate::wire::names::Names;

/// How a call tells its session. Every key belongs to one client.
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
    /// How a client of this scope tells its session; `None` where neither a name nor the messages do.
    pub fn of(scope: &[u8], names: &Names, prompt: &Prompt) -> Option<Identity> {
        if let Some(name) = &names.session {
            let named = |name: &[u8]| affinity::session_key(scope, name);
            let parent = names.parent.as_ref().map(|parent| named(parent.as_bytes()));
            return Some(Identity::Named { session: named(name.as_bytes()), parent });
        }
        let conversation = prompt.conversation.as_ref()?;
        let own = affinity::conversations_of(scope, names.coarse);
        let ends = conversation.ends.iter().map(|end| own.key(*end)).collect();
        Some(Identity::Conversation { opening: own.key(conversation.opening), ends })
    }

    /// The same as the model of this name sees it: each model has a cache of its own, and so sessions of its own.
    #[must_use]
    pub fn at_model(self, model: &str) -> Identity {
        let at_model = |session: SessionKey| affinity::for_model(session, model);
        match self {
            Identity::Named { session, parent } => {
                Identity::Named { session: at_model(session), parent: parent.map(at_model) }
            }
            Identity::Conversation { opening, ends } => {
                let ends = ends.into_iter().map(at_model).collect();
                Identity::Conversation { opening: at_model(opening), ends }
            }
        }
    }
}
