//! An interaction that is over: counted, and a line of its own in the access log.
//!
//! The line says with `"kind":"interaction"` that it is none of a request, of which there is one line each without that
//! field. Both have the session in the same form, so that those of one session between `ts` and `seconds` later are the
//! interaction's calls.

use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use super::access_log::{AccessLog, Tokens, session};
use super::metrics::Metrics;
use super::timestamp::Timestamp;
use crate::domain::ids::SessionKey;
use crate::roster::{Cause, Closed};

/// What is logged of one interaction.
#[derive(Clone, Debug, Serialize)]
struct InteractionLine {
    kind: &'static str,
    /// When its first request came.
    ts: Timestamp,
    /// As in the lines of its requests.
    #[serde(serialize_with = "session")]
    session: Option<SessionKey>,
    /// Why it is over: idle, full, end.
    closed: &'static str,
    calls: u32,
    /// Those of them without a whole answer.
    errors: u32,
    /// From its first request to its last answer.
    seconds: f64,
    /// USD; `null` where no price is known.
    #[serde(serialize_with = "dollars")]
    cost_dollars: Option<f64>,
    /// Of all calls, as the replicas reported them.
    tokens: Tokens,
}

/// Counts an interaction that was closed at `now`, and logs it.
pub fn tell(closed: &Closed, metrics: &Metrics, log: &AccessLog, now: Instant) {
    metrics.interaction(&closed.interaction);
    log.log(&line(closed, SystemTime::now(), now.saturating_duration_since(closed.began)));
}

/// The line of an interaction that began so long before `today`.
fn line(closed: &Closed, today: SystemTime, ago: Duration) -> InteractionLine {
    let Closed { session, interaction, cause, .. } = closed;
    InteractionLine {
        kind: "interaction",
        ts: Timestamp(today.checked_sub(ago).unwrap_or(today)),
        session: Some(*session),
        closed: match cause {
            Cause::Idle => "idle",
            Cause::Full => "full",
            Cause::End => "end",
        },
        calls: interaction.calls,
        errors: interaction.errors,
        seconds: f64::from(interaction.lasted_ms) / 1_000.0,
        cost_dollars: interaction.cost_dollars(),
        tokens: Tokens {
            prompt: Some(interaction.prompt_tokens),
            cached: Some(interaction.cached_tokens),
            completion: Some(interaction.completion_tokens),
        },
    }
}

/// USD to a billionth: further digits are those of a binary fraction.
pub(super) fn billionths(dollars: f64) -> f64 {
    (dollars * 1e9).round() / 1e9
}

fn dollars<S: Serializer>(dollars: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    dollars.map(billionths).serialize(to)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::domain::outcome::Outcome;
    use crate::policy::interaction::{CallEnd, Interaction};

    #[test]
    fn a_line_says_what_its_calls_came_to_and_how_to_find_them() {
        let (mut interaction, began) = (Interaction::new(5), Instant::now());
        let call = |outcome, cost_dollars| CallEnd { outcome, cost_dollars, tokens: (100, 60, 7) };
        interaction.ends(&call(Outcome::Ok, None), 1_000);
        let session = SessionKey(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let told = |interaction, cause| {
            let closed = Closed { session, interaction, began, cause };
            serde_json::to_string(&line(&closed, UNIX_EPOCH + Duration::from_secs(200), Duration::from_secs(190)))
                .unwrap()
        };
        assert_eq!(
            told(interaction, Cause::Full),
            concat!(
                r#"{"kind":"interaction","ts":"1970-01-01T00:00:10.000Z","session":"01234567","closed":"full","calls":1,"#,
                r#""errors":0,"seconds":0.995,"cost_dollars":null,"tokens":{"prompt":100,"cached":60,"completion":7}}"#
            )
        );
        interaction.ends(&call(Outcome::Cut, Some(0.1)), 2_000);
        interaction.ends(&call(Outcome::Ok, Some(0.2)), 3_005);
        assert_eq!(
            told(interaction, Cause::Idle),
            concat!(
                r#"{"kind":"interaction","ts":"1970-01-01T00:00:10.000Z","session":"01234567","closed":"idle","calls":3,"#,
                r#""errors":1,"seconds":3.0,"cost_dollars":0.3,"tokens":{"prompt":300,"cached":180,"completion":21}}"#
            )
        );
    }
}
