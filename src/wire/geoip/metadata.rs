//! What a database's own account of itself means: how old it is, and on what terms it may be used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Metadata;

/// From this age on, in days, a database is stale. The makers of databases publish at least once a month, so one of this age
/// has missed two issues.
pub const STALE_DAYS: u64 = 60;

const DAY_S: u64 = 24 * 60 * 60;

/// Kinds of databases, by how their names begin and end, and the terms that their makers publish. A file does not tell them.
const TERMS: [(&str, &str, &str); 3] = [
    ("Nearpool-", "", "CC BY 4.0; `nearpool geoip info --notice` prints the attribution that goes with every copy"),
    ("GeoLite2-", "", "MaxMind's GeoLite2 end user licence agreement; not to be passed on"),
    ("DBIP-", "-Lite", "CC BY 4.0; needs a link to db-ip.com"),
];

impl Metadata {
    /// When it was built; a time that no clock can show is 1970's first moment.
    pub fn built(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.build_epoch_s)).unwrap_or(UNIX_EPOCH)
    }

    /// Whole days since it was built; 0 when that is yet to come.
    pub fn age_days(&self, now: SystemTime) -> u64 {
        now.duration_since(self.built()).map_or(0, |age| age.as_secs() / DAY_S)
    }

    /// Whether it is [`STALE_DAYS`] old or older.
    pub fn is_stale(&self, now: SystemTime) -> bool {
        self.age_days(now) >= STALE_DAYS
    }

    /// The terms of databases of this kind, where they are known.
    pub fn terms(&self) -> Option<&'static str> {
        let known = TERMS.iter().find(|(start, end, _)| self.kind.starts_with(start) && self.kind.ends_with(end));
        known.map(|(_, _, terms)| *terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, build_epoch_s: u64) -> Metadata {
        let kind = kind.to_owned();
        Metadata { kind, description: String::new(), build_epoch_s, ip_version: 6, node_count: 1, bytes: 1 }
    }

    #[test]
    fn a_database_is_stale_from_its_sixtieth_day_on() {
        let built = 1_781_654_400;
        for (later_s, days, stale) in
            [(0, 0, false), (DAY_S - 1, 0, false), (60 * DAY_S - 1, 59, false), (60 * DAY_S, 60, true)]
        {
            let now = UNIX_EPOCH + Duration::from_secs(built + later_s);
            assert_eq!((of("x", built).age_days(now), of("x", built).is_stale(now)), (days, stale), "{later_s}");
        }
        assert_eq!(of("x", built).age_days(UNIX_EPOCH), 0, "built in the future");
        assert_eq!(of("x", u64::MAX).built(), UNIX_EPOCH);
    }

    #[test]
    fn terms_are_told_of_known_kinds_only() {
        for (kind, says) in [
            ("Nearpool-City", Some("CC BY 4.0")),
            ("GeoLite2-Country", Some("GeoLite2")),
            ("DBIP-City-Lite", Some("db-ip.com")),
            ("DBIP-City", None),
            ("GeoIP2-City", None),
        ] {
            let terms = of(kind, 0).terms();
            assert_eq!(terms.is_some(), says.is_some(), "{kind}");
            assert!(terms.unwrap_or_default().contains(says.unwrap_or_default()), "{kind}: {terms:?}");
        }
    }
}
