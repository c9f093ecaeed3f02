//! Which clients a rule of `[geo]` speaks of.

use ipnet::IpNet;

use crate::domain::code::Code;
use crate::domain::whereabouts::Whereabouts;

/// The fewest hexadecimal digits of a key's hash that name it: 64 bits, so that no two keys meet by chance.
pub const KEY_DIGITS_MIN: usize = 16;

/// Clients of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    /// Whose API key's SHA-256 begins with these lower-case hexadecimal digits.
    Key(String),
    /// Whose address is in a network.
    Network(IpNet),
    /// Who are in a country.
    Country(Code),
    /// Who are in a union of states.
    Union(Union),
    /// Who are on a continent.
    Continent(Code),
}

/// A union of states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Union {
    /// The European Union.
    Eu,
    /// The European Economic Area.
    Eea,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Where it is.
    pub whereabouts: &'a Whereabouts,
    /// SHA-256 of each API key that it shows, in lower-case hexadecimal digits; none where no rule names one.
    pub keys: &'a [String],
}

impl Asker<'_> {
    /// Somebody of whom nothing is known.
    pub const NOBODY: Asker<'static> = Asker { whereabouts: &Whereabouts::NOWHERE, keys: &[] };
}

/// Whether a client is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meant {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Nobody knows where it is.
    Unknown,
}

impl Selector {
    /// Whether this client is meant.
    pub fn means(&self, asker: Asker<'_>) -> Meant {
        let at = asker.whereabouts;
        let told = |known: bool, is: bool| match (known, is) {
            (false, _) => Meant::Unknown,
            (true, true) => Meant::Yes,
            (true, false) => Meant::No,
        };
        match self {
            Selector::Key(digits) => told(true, asker.keys.iter().any(|key| key.starts_with(digits.as_str()))),
            Selector::Network(network) => match at.address {
                Some(address) => told(true, network.contains(&address.to_canonical())),
                None => Meant::Unknown,
            },
            Selector::Country(country) => told(at.country.is_some(), at.country == Some(*country)),
            // A continent alone does not tell: parts of the union lie overseas.
            Selector::Union(Union::Eu) => told(at.country.is_some(), at.unions.eu),
            Selector::Union(Union::Eea) => told(at.country.is_some(), at.unions.eea),
            Selector::Continent(continent) => told(at.continent.is_some(), at.continent == Some(*continent)),
        }
    }

    /// What speaks of fewer clients comes first: a key, then networks from the longest prefix on, then places.
    pub fn breadth(&self) -> u32 {
        match self {
            Selector::Key(_) => 0,
            Selector::Network(network) => 1 + u32::from(network.max_prefix_len() - network.prefix_len()),
            Selector::Country(_) => 200,
            Selector::Union(_) => 201,
            Selector::Continent(_) => 202,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::whereabouts::{Source, Unions};

    fn at(address: &str, country: &str, continent: &str, eu: bool, eea: bool) -> Whereabouts {
        Whereabouts {
            country: Code::new(country),
            continent: Code::new(continent),
            unions: Unions { eu, eea },
            ..Whereabouts::unknown(address.parse().ok(), Source::Peer)
        }
    }

    #[track_caller]
    fn check(selector: Selector, whereabouts: Whereabouts, expected: Meant) {
        let asker = Asker { whereabouts: &whereabouts, keys: &["aa".into(), "00ff00ff00ff00ff00ff".into()] };
        assert_eq!(selector.means(asker), expected, "{selector:?} {whereabouts:?}");
    }

    #[test]
    fn clients_are_meant_by_place_network_and_key() {
        use Meant::{No, Unknown, Yes};
        let code = |text| Code::new(text).unwrap();
        let (berlin, oslo) = (at("203.0.113.9", "DE", "EU", true, true), at("192.0.2.1", "NO", "EU", false, true));
        let (somewhere, in_europe) = (at("192.0.2.1", "", "", false, false), at("192.0.2.1", "", "EU", false, false));
        for (selector, expected) in [
            (Selector::Country(code("DE")), [Yes, No, Unknown, Unknown]),
            (Selector::Union(Union::Eu), [Yes, No, Unknown, Unknown]),
            (Selector::Union(Union::Eea), [Yes, Yes, Unknown, Unknown]),
            (Selector::Continent(code("EU")), [Yes, Yes, Unknown, Yes]),
            (Selector::Continent(code("AS")), [No, No, Unknown, No]),
            (Selector::Network("203.0.113.0/24".parse().unwrap()), [Yes, No, No, No]),
            (Selector::Key("00ff00ff00ff00ff".into()), [Yes; 4]),
            (Selector::Key("00ff00ff00ff00fe".into()), [No; 4]),
        ] {
            for (whereabouts, expected) in [berlin, oslo, somewhere, in_europe].into_iter().zip(expected) {
                check(selector.clone(), whereabouts, expected);
            }
        }
        check(Selector::Network("203.0.113.0/24".parse().unwrap()), at("", "", "", false, false), Unknown);
        check(
            Selector::Network("203.0.113.0/24".parse().unwrap()),
            at("::ffff:203.0.113.9", "", "", false, false),
            Yes,
        );
    }

    #[test]
    fn what_speaks_of_fewer_comes_first() {
        let network = |text: &str| Selector::Network(text.parse().unwrap());
        let mut selectors = [
            Selector::Continent(Code::new("EU").unwrap()),
            network("10.0.0.0/8"),
            Selector::Union(Union::Eu),
            network("10.1.0.0/16"),
            Selector::Country(Code::new("DE").unwrap()),
            network("::/0"),
            Selector::Key("0".repeat(16)),
        ];
        let sorted = [6, 3, 1, 5, 4, 2, 0].map(|n: usize| selectors[n].clone());
        selectors.sort_by_key(Selector::breadth);
        assert_eq!(selectors, sorted);
    }
}
