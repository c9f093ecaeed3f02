//! How a request, or one attempt of it, ends. One closed enum and one table: the status and the error code that a
//! client sees, the label of metrics and log, who is to blame, and whether another replica may be tried.

/// Who caused an ending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// Nobody: all went well.
    None,
    /// The client: the same request would end so everywhere.
    Client,
    /// This edge: its limits or its configuration.
    Edge,
    /// The replica.
    Upstream,
}

impl Blame {
    /// The name used in logs and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Blame::None => "none",
            Blame::Client => "client",
            Blame::Edge => "edge",
            Blame::Upstream => "upstream",
        }
    }
}

/// What an attempt's ending means for the next attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// No further attempt: it went well, or it would end the same way anywhere.
    Never,
    /// Elsewhere, and it does not count: no byte of the body left the edge.
    Free,
    /// Elsewhere; it counts as an attempt.
    Elsewhere,
    /// Elsewhere; it counts as an attempt, and the replica is busy rather than broken.
    Busy,
}

/// The facts that follow from an ending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Label value in metrics, value of `outcome` in the access log; snake case.
    pub label: &'static str,
    /// The status sent to the client when the edge itself answers, else 0 (the replica's own is sent).
    pub status: u16,
    /// `error.type` in OpenAI's envelope.
    pub openai_type: &'static str,
    /// `error.type` in Anthropic's envelope.
    pub anthropic_type: &'static str,
    /// Who caused it.
    pub blame: Blame,
    /// What it means for the next attempt.
    pub again: Again,
}

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident: $label:literal, $status:literal, $openai:literal, $anthropic:literal, $blame:ident, $again:ident;)*) => {
        /// How a request or an attempt ended.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Outcome { $($(#[$doc])* $name,)* }

        impl Outcome {
            /// Every ending.
            pub const ALL: &'static [Outcome] = &[$(Outcome::$name,)*];

            /// What follows from it.
            pub const fn facts(self) -> Facts {
                match self {
                    $(Outcome::$name => Facts {
                        label: $label, status: $status, openai_type: $openai, anthropic_type: $anthropic,
                        blame: Blame::$blame, again: Again::$again,
                    },)*
                }
            }
        }
    };
}

outcomes! {
    /// A whole answer.
    Ok: "ok", 0, "", "", None, Never;

    /// The body is not JSON, or not a JSON object, or a key that steers routing stands in it twice.
    BadJson: "bad_json", 400, "invalid_request_error", "invalid_request_error", Client, Never;
    /// The body names no model.
    MissingModel: "missing_model", 400, "invalid_request_error", "invalid_request_error", Client, Never;
    /// A header that steers routing cannot be used.
    BadHeader: "bad_header", 400, "invalid_request_error", "invalid_request_error", Client, Never;
    /// The request can be read in two ways.
    AmbiguousFraming: "ambiguous_framing", 400, "invalid_request_error", "invalid_request_error", Client, Never;
    /// The body did not arrive in time, or not whole.
    BodyTimeout: "body_timeout", 408, "invalid_request_error", "invalid_request_error", Client, Never;
    /// No such path.
    NotFound: "not_found", 404, "invalid_request_error", "not_found_error", Client, Never;
    /// No model, alias or step has this name.
    ModelNotFound: "model_not_found", 404, "invalid_request_error", "not_found_error", Client, Never;
    /// The path exists, the method does not.
    MethodNotAllowed: "method_not_allowed", 405, "invalid_request_error", "invalid_request_error", Client, Never;
    /// The model is served, but by no engine that speaks this dialect.
    DialectNotServed: "dialect_not_served", 400, "invalid_request_error", "invalid_request_error", Client, Never;
    /// The body is longer than `limits.body`.
    BodyTooLarge: "body_too_large", 413, "invalid_request_error", "request_too_large", Client, Never;
    /// The headers are longer or more than the limits.
    HeadersTooLarge: "headers_too_large", 431, "invalid_request_error", "invalid_request_error", Client, Never;
    /// The replica answered 4xx; passed on as it came.
    ClientError: "client_error", 0, "", "", Client, Never;
    /// The deadline that the client itself set passed.
    ClientDeadline: "client_deadline", 504, "timeout_error", "timeout_error", Client, Never;
    /// The client went away before the answer was whole.
    ClientGone: "client_gone", 499, "", "", Client, Never;

    /// The edge holds as many bodies as `limits.buffered` allows.
    Overloaded: "overloaded", 503, "overloaded_error", "overloaded_error", Edge, Never;
    /// Every usable replica is at `max_in_flight`.
    AtCapacity: "at_capacity", 429, "rate_limit_error", "rate_limit_error", Edge, Never;
    /// No pool of the regions that residency allows to the client can serve.
    ResidencyUnavailable: "residency_unavailable", 503, "overloaded_error", "overloaded_error", Edge, Never;
    /// No replica of the model is usable.
    NoReplica: "no_replica", 503, "overloaded_error", "overloaded_error", Edge, Never;
    /// The replica that holds the response which the call goes on with cannot serve.
    ResponseOwnerUnavailable: "response_owner_unavailable", 503, "overloaded_error", "overloaded_error", Edge, Never;
    /// The edge ended while the answer was under way.
    Drained: "drained", 503, "overloaded_error", "overloaded_error", Edge, Never;

    /// No connection could be made.
    ConnectFailed: "connect_failed", 502, "server_error", "api_error", Upstream, Free;
    /// No connection could be made within `timeouts.connect`.
    ConnectTimeout: "connect_timeout", 504, "server_error", "api_error", Upstream, Free;
    /// The connection broke before the answer began.
    Reset: "reset", 502, "server_error", "api_error", Upstream, Elsewhere;
    /// What came is no HTTP answer.
    Garbage: "garbage", 502, "server_error", "api_error", Upstream, Elsewhere;
    /// The replica answered 5xx.
    ServerError: "server_error", 502, "server_error", "api_error", Upstream, Elsewhere;
    /// The replica answered 429, or 503 with `Retry-After`.
    Busy: "busy", 429, "rate_limit_error", "overloaded_error", Upstream, Busy;
    /// A stream's first event did not come within `timeouts.first_byte`.
    FirstByteTimeout: "first_byte_timeout", 504, "server_error", "api_error", Upstream, Elsewhere;
    /// An answer that is not streamed did not come within `timeouts.answer`.
    AnswerTimeout: "answer_timeout", 504, "server_error", "api_error", Upstream, Elsewhere;
    /// The answer broke off before its end.
    Cut: "cut", 502, "server_error", "api_error", Upstream, Elsewhere;
    /// Nothing came for `timeouts.idle` in the middle of an answer.
    IdleTimeout: "idle_timeout", 504, "server_error", "api_error", Upstream, Elsewhere;
    /// The whole took longer than `timeouts.total`.
    TotalTimeout: "total_timeout", 504, "server_error", "api_error", Upstream, Never;
    /// Two replicas broke down over the same whole body.
    Crashed: "upstream_crashed", 502, "server_error", "api_error", Upstream, Never;
}

impl Outcome {
    /// Label of metrics and log; also `error.code` of the envelope.
    pub const fn label(self) -> &'static str {
        self.facts().label
    }

    /// Whether the ending counts against the replica's health.
    pub const fn counts_against_replica(self) -> bool {
        let facts = self.facts();
        matches!(facts.blame, Blame::Upstream) && matches!(facts.again, Again::Elsewhere | Again::Free)
    }

    /// The class of an answer's status line. `retry_after` tells whether the header `Retry-After` came with it.
    pub const fn of_status(status: u16, retry_after: bool) -> Outcome {
        match status {
            200..=299 => Outcome::Ok,
            429 => Outcome::Busy,
            503 if retry_after => Outcome::Busy,
            400..=499 => Outcome::ClientError,
            500..=599 => Outcome::ServerError,
            // Redirections too: engines send none, and one would lead the client past the edge, to an address that is
            // not its to know.
            _ => Outcome::Garbage,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_distinct_and_in_snake_case() {
        let labels: HashSet<_> = Outcome::ALL.iter().map(|outcome| outcome.label()).collect();
        assert_eq!(labels.len(), Outcome::ALL.len());
        assert!(labels.iter().all(|label| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn every_ending_that_the_edge_answers_itself_has_an_error_status_and_types() {
        for outcome in Outcome::ALL {
            let facts = outcome.facts();
            if facts.status != 0 && *outcome != Outcome::ClientGone {
                assert!((400..600).contains(&facts.status), "{outcome:?}");
                assert!(!facts.openai_type.is_empty() && !facts.anthropic_type.is_empty(), "{outcome:?}");
            }
        }
    }

    #[test]
    fn clients_faults_are_never_tried_again_and_never_held_against_a_replica() {
        for outcome in Outcome::ALL {
            if outcome.facts().blame != Blame::Upstream {
                assert_eq!(outcome.facts().again, Again::Never, "{outcome:?}");
                assert!(!outcome.counts_against_replica(), "{outcome:?}");
            }
        }
        assert!(!Outcome::Busy.counts_against_replica(), "busy is not broken");
        assert!(Outcome::ConnectFailed.counts_against_replica());
    }

    #[test]
    fn statuses_fall_into_their_classes() {
        for (status, retry_after, outcome) in [
            (200, false, Outcome::Ok),
            (404, false, Outcome::ClientError),
            (429, false, Outcome::Busy),
            (500, false, Outcome::ServerError),
            (503, false, Outcome::ServerError),
            (503, true, Outcome::Busy),
            (101, false, Outcome::Garbage),
            (307, false, Outcome::Garbage),
            (999, false, Outcome::Garbage),
        ] {
            assert_eq!(Outcome::of_status(status, retry_after), outcome, "{status}");
        }
    }
}
