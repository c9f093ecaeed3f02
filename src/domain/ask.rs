//! What one request asks for.

use super::ids::SessionKey;

/// The API that a client speaks; it fixes the shape of bodies, streams and errors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dialect {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI (legacy) completions.
    Completions,
    /// OpenAI Responses.
    Responses,
    /// OpenAI embeddings.
    Embeddings,
    /// Anthropic messages.
    Messages,
}

impl Dialect {
    /// Every dialect, in the order of the documentation.
    pub const ALL: [Dialect; 5] =
        [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Embeddings, Dialect::Messages];

    /// The dialect of this name.
    pub fn named(name: &str) -> Option<Dialect> {
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The name used in config, logs and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Dialect::Chat => "chat",
            Dialect::Completions => "completions",
            Dialect::Responses => "responses",
            Dialect::Embeddings => "embeddings",
            Dialect::Messages => "messages",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of dialects: what a pool's engine speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DialectSet(u8);

impl DialectSet {
    /// The set with this dialect added.
    #[must_use]
    pub const fn with(self, dialect: Dialect) -> DialectSet {
        DialectSet(self.0 | dialect.bit())
    }

    /// Whether the dialect is in the set.
    pub const fn contains(self, dialect: Dialect) -> bool {
        self.0 & dialect.bit() != 0
    }

    /// Whether the set holds nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in the order of [`Dialect::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Dialect> {
        Dialect::ALL.into_iter().filter(move |dialect| self.contains(*dialect))
    }
}

impl FromIterator<Dialect> for DialectSet {
    fn from_iter<I: IntoIterator<Item = Dialect>>(dialects: I) -> DialectSet {
        dialects.into_iter().fold(DialectSet::default(), DialectSet::with)
    }
}

/// An agents' endpoint that is forwarded to a replica. The path is the same on both sides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
}

impl Endpoint {
    /// Every endpoint, in the order of the documentation.
    pub const ALL: [Endpoint; 6] = [
        Endpoint::Chat,
        Endpoint::Completions,
        Endpoint::Responses,
        Endpoint::Embeddings,
        Endpoint::Messages,
        Endpoint::CountTokens,
    ];

    /// The path, without a query.
    pub const fn path(self) -> &'static str {
        match self {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
            Endpoint::Responses => "/v1/responses",
            Endpoint::Embeddings => "/v1/embeddings",
            Endpoint::Messages => "/v1/messages",
            Endpoint::CountTokens => "/v1/messages/count_tokens",
        }
    }

    /// The endpoint with this exact path, if any.
    pub fn of_path(path: &str) -> Option<Endpoint> {
        Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// The dialect spoken there.
    pub const fn dialect(self) -> Dialect {
        match self {
            Endpoint::Chat => Dialect::Chat,
            Endpoint::Completions => Dialect::Completions,
            Endpoint::Responses => Dialect::Responses,
            Endpoint::Embeddings => Dialect::Embeddings,
            Endpoint::Messages | Endpoint::CountTokens => Dialect::Messages,
        }
    }

    /// Whether a call there builds on a KV cache, so that a session's replica matters.
    pub const fn generates(self) -> bool {
        !matches!(self, Endpoint::Embeddings | Endpoint::CountTokens)
    }
}

/// What one request asks for, known once its headers and its body have been read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Where it was sent.
    pub endpoint: Endpoint,
    /// The `model` of the body as the client wrote it: a model, an alias, a step or `auto`.
    pub model: String,
    /// The step named by the header `x-agent-step`, as the client wrote it.
    pub step: Option<String>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The session, when one is known.
    pub session: Option<SessionKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_found_by_its_own_path_only() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::of_path(endpoint.path()), Some(endpoint));
            assert_eq!(Endpoint::of_path(&format!("{}/", endpoint.path())), None);
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let set: DialectSet = [Dialect::Chat, Dialect::Messages].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Dialect::Chat, Dialect::Messages]);
        assert!(!set.contains(Dialect::Embeddings));
        assert!(DialectSet::default().is_empty());
    }
}
