//! What was looked up lately: agents call again and again, and to read a record anew takes ten times what finding it here
//! does.
//!
//! One table for each thread, so that no lock is taken: 256 places of some 100 bytes, made with the first look-up. An address
//! has one place, and whoever comes last has it.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::DefaultHashBuilder;

use super::Located;

/// A power of two.
const PLACES: usize = 256;

thread_local! {
    static LATELY: RefCell<Lately> = RefCell::new(Lately::default());
}

/// Tells databases apart: their addresses in memory may come again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DbId(u64);

impl DbId {
    pub(super) fn new() -> DbId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        DbId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Lately {
    hasher: DefaultHashBuilder,
    places: Vec<Option<Found>>,
}

#[derive(Clone, Copy)]
struct Found {
    db: DbId,
    address: IpAddr,
    located: Option<Located>,
}

/// What this database says of the address: from what this thread looked up lately, else by looking it up. Errors are not
/// kept.
pub(super) fn find<E>(
    db: DbId,
    address: IpAddr,
    look_up: impl FnOnce() -> Result<Option<Located>, E>,
) -> Result<Option<Located>, E> {
    LATELY.with_borrow_mut(|lately| {
        let at = lately.hasher.hash_one(address) as usize % PLACES;
        if let Some(Some(found)) = lately.places.get(at)
            && found.db == db
            && found.address == address
        {
            return Ok(found.located);
        }
        let located = look_up()?;
        lately.places.resize(PLACES, None);
        lately.places[at] = Some(Found { db, address, located });
        Ok(located)
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// What the database `db` says of the `n`th address; `asked` counts how often it was.
    fn ask(db: (DbId, u16), n: u32, asked: &mut usize) -> Option<Located> {
        let truth =
            (!n.is_multiple_of(7)).then_some(Located { accuracy_radius_km: Some(db.1 + n as u16), ..Located::NOWHERE });
        let address = IpAddr::V4(Ipv4Addr::from(n));
        let found = find(db.0, address, || -> Result<_, ()> {
            *asked += 1;
            Ok(truth)
        });
        assert_eq!(found, Ok(truth), "{n}");
        truth
    }

    #[test]
    fn an_answer_is_its_databases_and_its_addresss_however_many_there_are() {
        let (one, other) = ((DbId::new(), 0), (DbId::new(), 10_000));
        let mut asked = 0;
        for n in (0..2_000).chain(0..2_000) {
            ask(one, n, &mut asked);
            ask(other, n, &mut asked);
        }
        let before = asked;
        ask(one, 5, &mut asked);
        ask(one, 5, &mut asked);
        assert!(asked <= before + 1, "the second time it is found here");
    }

    #[test]
    fn an_error_is_no_answer() {
        let (db, address) = (DbId::new(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(find(db, address, || Err("damaged")), Err("damaged"));
        assert_eq!(find(db, address, || Ok::<_, &str>(None)), Ok(None));
    }
}
