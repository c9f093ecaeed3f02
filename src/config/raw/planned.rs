//! Keys of the contract whose feature this version does not have. To set one is an error, never a silent nothing.
//!
//! Building a feature means deleting its line here.

/// Key, the one value that is meant (empty: any), and what happens without the feature.
///
/// `*` stands for a name in `regions.*` and, at the end, for the rest of a key.
const PLANNED: &[(&str, &str, &str)] = &[
    ("geo.residency", "", "no rule would keep a client's calls in a region, so do not rely on one"),
    ("geo.residency_unknown", "", "there is no residency yet, so unknown places need no rule"),
    ("geo.overrides", "", "places come from the database alone"),
    ("geo.nearest_to", "edge", "distances are measured from the client; leave the key out or write \"client\""),
    ("sessions.interaction_idle", "", "interactions are not measured yet"),
    ("pools.replicas.gpu_metrics", "", "GPU exporters are not scraped"),
    ("regions.*.bias", "", "regions are ordered by distance alone"),
];

/// Why this key cannot be set, when it is one of a feature to come.
pub(super) fn planned_key(path: &str) -> Option<&'static str> {
    PLANNED.iter().find(|(key, value, _)| value.is_empty() && matches(key, path)).map(|(_, _, why)| *why)
}

/// Why this key cannot have this value, when it is one of a feature to come.
pub(in crate::config) fn planned_value(path: &str, value: &str) -> Option<&'static str> {
    PLANNED.iter().find(|(key, planned, _)| *key == path && *planned == value).map(|(_, _, why)| *why)
}

fn matches(key: &str, path: &str) -> bool {
    key == path || key.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}
