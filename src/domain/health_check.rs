//! Why a health check fails: a closed set, for `/status` and logs.

use std::fmt;

/// What is wrong with a replica, as its last check saw it. Shown to people: nothing of the replica's own words is in it
/// but names of models, shortened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Its host name does not resolve.
    Unresolved,
    /// Nobody listens there.
    Refused,
    /// No connection for another reason.
    Unreachable,
    /// No TLS, or a certificate that does not prove the host's name.
    Tls,
    /// No answer within `health.timeout`.
    Timeout,
    /// The connection broke before the answer was whole.
    Reset,
    /// An answer, but not 2xx.
    Status(u16),
    /// No HTTP, or not the JSON that was asked for.
    Garbage,
    /// The engine runs, its model is not loaded.
    NotLoaded,
    /// The engine serves other models.
    WrongModel {
        /// What it serves, as words.
        serves: String,
        /// What it should serve.
        wanted: String,
    },
    /// All is well but the call that was to warm it up.
    WarmUp(Box<Failure>),
    /// All is well but that it generates nothing.
    Generation(Box<Failure>),
}

/// Names of models that a message tells.
const NAMES_TOLD_MAX: usize = 3;
/// Characters of each name that it tells: names are paths at times.
const NAME_CHARS_MAX: usize = 80;

impl Failure {
    /// That a replica serves `names` and not `wanted`.
    pub fn wrong_model(names: &[String], wanted: &str) -> Failure {
        let mut serves = names.iter().take(NAMES_TOLD_MAX).map(|name| shown(name)).collect::<Vec<_>>().join(", ");
        if names.len() > NAMES_TOLD_MAX {
            serves += &format!(" and {} more", names.len() - NAMES_TOLD_MAX);
        }
        Failure::WrongModel { serves, wanted: wanted.to_owned() }
    }

    /// Its name in `/status` and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Failure::Unresolved => "unresolved",
            Failure::Refused => "refused",
            Failure::Unreachable => "unreachable",
            Failure::Tls => "tls",
            Failure::Timeout => "timeout",
            Failure::Reset => "reset",
            Failure::Status(_) => "status",
            Failure::Garbage => "garbage",
            Failure::NotLoaded => "not_loaded",
            Failure::WrongModel { .. } => "wrong_model",
            Failure::WarmUp(_) => "warm_up_failed",
            Failure::Generation(_) => "generation_failed",
        }
    }
}

/// What is wrong, and what to do where the configuration can mend it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unresolved => f.write_str("its host name does not resolve"),
            Failure::Refused => f.write_str("connection refused"),
            Failure::Unreachable => f.write_str("no connection"),
            Failure::Tls => f.write_str("no TLS, or a certificate that is not trusted or names another host"),
            Failure::Timeout => f.write_str("no answer in time"),
            Failure::Reset => f.write_str("the connection broke"),
            Failure::Status(status @ (401 | 403)) => write!(f, "status {status}; set the pool's api_key"),
            Failure::Status(status @ 300..=399) => write!(f, "status {status}; give the URL that it redirects to"),
            Failure::Status(status) => write!(f, "status {status}"),
            Failure::Garbage => f.write_str("an answer that makes no sense"),
            Failure::NotLoaded => f.write_str("its model is not loaded"),
            Failure::WrongModel { serves, wanted } => {
                write!(f, "serves {serves}, not {}; set served_as or mend the replica", shown(wanted))
            }
            Failure::WarmUp(failure) => write!(f, "its warm-up call failed: {failure}"),
            Failure::Generation(failure) => write!(f, "its one-token call failed: {failure}"),
        }
    }
}

/// A name in quotes, of bounded length and without anything that could forge a line of the log.
fn shown(name: &str) -> String {
    let cut = name.chars().nth(NAME_CHARS_MAX).map_or("", |_| "…");
    let name: String = name.chars().take(NAME_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("'{name}{cut}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], text: &str) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(Failure::wrong_model(&names, "bar").to_string(), text);
    }

    #[test]
    fn a_wrong_model_is_named_with_what_to_do() {
        check(&["foo"], "serves 'foo', not 'bar'; set served_as or mend the replica");
        check(&["a", "b", "c"], "serves 'a', 'b', 'c', not 'bar'; set served_as or mend the replica");
        check(
            &["a", "b", "c", "d", "e"],
            "serves 'a', 'b', 'c' and 2 more, not 'bar'; set served_as or mend the replica",
        );
    }

    #[test]
    fn names_cannot_forge_a_line_or_fill_the_log() {
        check(&["a\r\nERROR b"], "serves 'a??ERROR b', not 'bar'; set served_as or mend the replica");
        let long = Failure::wrong_model(&vec!["x".repeat(1 << 20); 1000], "bar").to_string();
        assert!(long.len() < 400 && long.contains("x…'"), "{long}");
    }

    #[test]
    fn what_the_configuration_can_mend_is_said() {
        let failed = Failure::WarmUp(Box::new(Failure::Status(401)));
        assert_eq!(failed.label(), "warm_up_failed");
        assert_eq!(failed.to_string(), "its warm-up call failed: status 401; set the pool's api_key");
        assert!(Failure::Status(308).to_string().contains("redirects"));
    }
}
