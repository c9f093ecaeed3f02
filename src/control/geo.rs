//! Where the GeoIP database comes from: the operator's file, or the one inside the binary.
//!
//! It is read into memory and swapped whole. A mapped file would change under its readers (RUSTSEC-2025-0132).

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::files::{self, read_bounded};
use crate::observe::timestamp::Timestamp;
use crate::wire::geoip::overlay::{LIST_BYTES_MAX, Overlay};
use crate::wire::geoip::registry::{REGISTRY_BYTES_MAX, Registry};
use crate::wire::geoip::{DATABASE_BYTES_MAX, GeoDb, Metadata};

/// How often a stale database is spoken of.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The database that comes with the binary.
pub fn embedded() -> &'static [u8] {
    include_bytes!("../../geoip/nearpool.mmdb")
}

/// The licence and the attribution that go with it, and so with the binary.
pub fn notice() -> &'static str {
    include_str!("../../geoip/NOTICE")
}

/// Reads and checks a database; `None` is the embedded one, which is used where it lies. The error is a line for people.
pub fn read(path: Option<&Path>) -> Result<GeoDb, String> {
    let name = path.map_or("the embedded one".into(), Path::to_string_lossy);
    GeoDb::from_bytes(bytes(path)?).map_err(|error| format!("{error} ({name})"))
}

/// The bytes of a database, whatever they are.
pub fn bytes(path: Option<&Path>) -> Result<Cow<'static, [u8]>, String> {
    let Some(path) = path else { return Ok(Cow::Borrowed(embedded())) };
    let bytes = read_bounded(path, DATABASE_BYTES_MAX as u64);
    bytes.map(Cow::Owned).map_err(|error| format!("the GeoIP database cannot be read: {error} ({})", path.display()))
}

/// Reads a list of networks to be laid over a database. The error is a line for people, with the place in the file.
pub fn read_overlay(path: &Path) -> Result<Overlay, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = read_bounded(path, LIST_BYTES_MAX as u64).map_err(|error| named(&error))?;
    Overlay::read(&bytes).map_err(|error| named(&error))
}

/// Reads registries' statistics, of which a database can be made; `None` when there are none. The error is as that of
/// [`read_overlay`].
pub fn read_registries(paths: &[PathBuf]) -> Result<Option<Registry>, String> {
    let one = |path: &PathBuf| {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let bytes = read_bounded(path, REGISTRY_BYTES_MAX as u64).map_err(|error| named(&error))?;
        Registry::read(&bytes).map_err(|error| named(&error))
    };
    let all = paths.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Registry::joined(all).map_err(|error| error.to_string())
}

/// Puts a database into a file, so that at every moment either the old or the new one is there whole.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    files::put(path, bytes)
}

/// Tells the operator that the database in use is stale: once of each, and then once a day.
#[derive(Default, Debug)]
pub(super) struct Reminder {
    /// The build time of the one that was last spoken of, and when that was.
    last: Option<(u64, SystemTime)>,
}

impl Reminder {
    /// The line for the log, if there is cause for one now. `file` is `None` for the embedded database.
    pub(super) fn due(&mut self, file: Option<&Path>, metadata: &Metadata, now: SystemTime) -> Option<String> {
        if !metadata.is_stale(now) {
            return None;
        }
        if let Some((build, at)) = self.last
            && build == metadata.build_epoch_s
            // A clock that was set back is no cause to say it again.
            && now.duration_since(at).unwrap_or_default() < REMIND_EVERY
        {
            return None;
        }
        self.last = Some((metadata.build_epoch_s, now));
        let (source, what_to_do) = match file {
            None => (
                "embedded".to_owned(),
                "take a newer release, or make a database with nearpool geoip build --registry and name it in geo.database",
            ),
            Some(file) => (
                file.display().to_string(),
                "replace the file by a newer one (see nearpool geoip build), which is taken without a restart",
            ),
        };
        let (built, age_days) = (Timestamp(metadata.built()), metadata.age_days(now));
        let kind = &metadata.kind;
        Some(format!(
            "geoip database is stale source={source} kind={kind} built={built} age_days={age_days}: {what_to_do}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::geoip::metadata::STALE_DAYS;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn a_stale_database_is_spoken_of_once_and_once_a_day() {
        let metadata = read(None).unwrap().metadata();
        let stale_from = metadata.built() + DAY * STALE_DAYS as u32;
        let mut reminder = Reminder::default();
        let file = Path::new("geo.mmdb");
        let mut due = |file, metadata: &Metadata, now| reminder.due(file, metadata, now);
        assert_eq!(due(None, &metadata, stale_from - DAY), None);
        let said = due(None, &metadata, stale_from).unwrap();
        assert!(said.contains("source=embedded") && said.contains("age_days=60") && said.contains("release"), "{said}");
        assert_eq!(due(None, &metadata, stale_from + DAY / 2), None);
        assert_eq!(due(None, &metadata, stale_from - DAY / 2), None, "the clock was set back");
        assert!(due(None, &metadata, stale_from + DAY).is_some());
        // Another one is spoken of at once, unless it is fresh.
        let older = Metadata { build_epoch_s: metadata.build_epoch_s - 1, ..metadata.clone() };
        let said = due(Some(file), &older, stale_from + DAY).unwrap();
        assert!(said.contains("source=geo.mmdb") && said.contains("without a restart"), "{said}");
        let fresh = Metadata { build_epoch_s: metadata.build_epoch_s + 5 * 86_400, ..metadata };
        assert_eq!(due(Some(file), &fresh, stale_from + DAY), None);
    }
}
