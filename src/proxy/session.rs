//! Station 2, continued: which session a call belongs to, by its name or by what was said.

use super::identify::Caller;
use crate::domain::ids::SessionKey;
use crate::domain::prompt::Prompt;
use crate::policy::affinity;
use crate::roster::Identity;
use crate::wire::names::Names;

/// How the call tells its session to the model of this name; `None` where neither a name nor the messages do. Each model
/// has a cache of its own, and so sessions of its own.
pub(super) fn identity(caller: &Caller, names: &Names, prompt: &Prompt, model: &str) -> Option<Identity> {
    let at_model = |session: SessionKey| affinity::for_model(session, model);
    if let Some(name) = &names.session {
        let parent = names.parent.as_ref().map(|parent| at_model(caller.session(parent)));
        return Some(Identity::Named { session: at_model(caller.session(name)), parent });
    }
    let conversation = prompt.conversation.as_ref()?;
    let own = affinity::conversations_of(&caller.scope, names.coarse);
    let key = |hash: u128| at_model(own.key(hash));
    let ends = conversation.ends.iter().map(|end| key(*end)).collect();
    Some(Identity::Conversation { opening: key(conversation.opening), ends })
}
