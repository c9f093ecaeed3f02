//! Keys of the contract whose feature this version does not have. To set one is an error, never a silent nothing.
//!
//! Building a feature means deleting its line here.

/// Key, and what happens without the feature. `*` at the end stands for the rest of a key.
const PLANNED: &[(&str, &str)] = &[("sessions.interaction_idle", "interactions are not measured yet")];

/// Why this key cannot be set, when it is one of a feature to come.
pub(super) fn planned_key(path: &str) -> Option<&'static str> {
    PLANNED.iter().find(|(key, _)| matches(key, path)).map(|(_, why)| *why)
}

fn matches(key: &str, path: &str) -> bool {
    key == path || key.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}
