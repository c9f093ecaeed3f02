//! Did you mean …?

use crate::config::diagnostic::quoted;

/// Longest name that is compared: the cost grows with the product of the lengths.
const CHARS_MAX: usize = 64;

/// Most names that a message lists.
const LISTED_MAX: usize = 20;

/// The known name that is nearest to a misspelt one, when one is near.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > CHARS_MAX {
        return None;
    }
    let fold = |name: &str| name.to_lowercase().replace(['-', '.', ' '], "_");
    let (wanted, far) = (fold(name), (name.chars().count() / 3).max(1));
    known
        .filter(|candidate| candidate.len() <= CHARS_MAX)
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What to say of a name that is not among the known ones: the nearest, and all of them.
pub(in crate::config) fn hint_among<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let all = list(known.clone());
    match nearest(name, known) {
        Some(nearest) => format!("did you mean {}? Known: {all}", quoted(nearest)),
        None => format!("known: {all}"),
    }
}

/// Names in a row: quoted, in the given order, bounded.
pub(in crate::config) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names = names.map(quoted);
    let head: Vec<String> = names.by_ref().take(LISTED_MAX).collect();
    match (head.is_empty(), names.count()) {
        (true, _) => "none".to_owned(),
        (false, 0) => head.join(", "),
        (false, more) => format!("{} and {more} more", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_names_the_nearest_and_a_foreign_one_none() {
        let known = ["us-west", "us-east", "eu-west"];
        assert_eq!(nearest("us-wset", known.into_iter()), Some("us-west"));
        assert_eq!(nearest("US_East", known.into_iter()), Some("us-east"));
        assert_eq!(nearest("mars", known.into_iter()), None);
        assert_eq!(nearest(&"us-west".repeat(1000), known.into_iter()), None);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..25).map(|n| format!("n{n}")).collect();
        assert!(list(names.iter().map(String::as_str)).ends_with("\"n19\" and 5 more"));
        assert_eq!(list(std::iter::empty()), "none");
    }
}
