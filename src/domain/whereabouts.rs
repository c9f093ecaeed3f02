//! Where a client is, and who said so.

use std::net::IpAddr;

use super::code::Code;
use super::place::Place;

/// What is known of a client's place.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Whereabouts {
    /// Its address, as far as trusted peers tell it.
    pub address: Option<IpAddr>,
    /// Where it is; `None` when nothing says so: then it stands at the edge.
    pub place: Option<Place>,
    /// In which country; of a country code that nobody has, its unions are none.
    pub country: Option<Code>,
    /// On which continent.
    pub continent: Option<Code>,
    /// The unions of states that the country is in.
    pub unions: Unions,
    /// How far off the place may be, in km; a large one means that only the country is known.
    pub accuracy_radius_km: Option<u16>,
    /// Who said where it is.
    pub source: Source,
}

/// Unions of states that rules can speak of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Unions {
    /// The European Union.
    pub eu: bool,
    /// The European Economic Area.
    pub eea: bool,
}

/// Where a client's address, or its place, was learned from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The connection's other end.
    Peer,
    /// The PROXY header that its connection began with.
    ProxyProtocol,
    /// A trusted peer's `Forwarded`.
    Forwarded,
    /// A trusted peer's `X-Forwarded-For`.
    ForwardedFor,
    /// A header of a trusted peer's that names the place itself.
    PlaceHeader,
}

impl Source {
    /// The word in logs and in `explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Peer => "peer",
            Source::ProxyProtocol => "proxy_protocol",
            Source::Forwarded => "forwarded",
            Source::ForwardedFor => "x_forwarded_for",
            Source::PlaceHeader => "place_header",
        }
    }
}

impl Whereabouts {
    /// A client of which nothing is known at all.
    pub const NOWHERE: Whereabouts = Whereabouts::unknown(None, Source::Peer);

    /// A client of which nothing is known but its address.
    pub const fn unknown(address: Option<IpAddr>, source: Source) -> Whereabouts {
        Whereabouts {
            address,
            place: None,
            country: None,
            continent: None,
            unions: Unions { eu: false, eea: false },
            accuracy_radius_km: None,
            source,
        }
    }
}
