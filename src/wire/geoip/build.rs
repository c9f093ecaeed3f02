//! A database made of another one and of lists of networks laid over it.
//!
//! The records of the database below stay as they are, byte for byte, and new ones stand behind them: pointers inside of
//! records count from the first. Only the search tree is made anew. It keeps its build time, since what is not laid over is
//! as old as it was. What is below may also be the registries' statistics: countries alone.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::encode::{self, Account};
use super::overlay::{Overlay, widest_first};
use super::places::Spot;
use super::registry::Registry;
use super::tree::{TooLarge, Tree};
use super::{GeoDb, GeoError};

/// Between a tree and its records.
const SEPARATOR: [u8; 16] = [0; 16];
/// Before the metadata.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// What the description of an overlaid database ends with; `geoip/build --check` looks for it.
const OVERLAID: &str = " Overlaid with files of the operator.";

/// The description of one that is made of the registries' statistics.
const BY_REGISTRY: &str =
    "Country by registry (NRO, CC BY 4.0), centres of population (GeoNames, CC BY 4.0). See geoip/NOTICE.";
/// Its kind.
const KIND: &str = "Nearpool-City";

/// What lists are laid over.
#[derive(Debug)]
pub enum Base {
    /// A database.
    Database(Vec<u8>),
    /// The registries' statistics.
    Registry(Registry),
}

/// Why a database could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The one below cannot be used.
    #[error(transparent)]
    Base(#[from] GeoError),
    /// There is no room in the format.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// What was made cannot be read.
    #[error("the new database is not right: {0} (a fault of nearpool's; nothing is written)")]
    Made(#[source] GeoError),
}

/// Lays lists over a database; of two that name the same address, the later wins, and within one the smaller network. What
/// is returned has been read back and checked.
pub fn lay_over(base: Base, overlays: &[Overlay]) -> Result<(Vec<u8>, GeoDb), BuildError> {
    let (mut below, mut placed) = match base {
        Base::Database(bytes) => (Below::read(bytes)?, Vec::new()),
        Base::Registry(registry) => (Below::of(&registry), registry.networks),
    };
    placed.extend(overlays.iter().flat_map(|overlay| widest_first(&overlay.placed)));
    let mut known = HashMap::new();
    let in_tree = placed.into_iter().filter_map(|(network, spot)| {
        let ((first, bits), record) = (in_tree(network), below.record(spot, &mut known)?);
        Some((first, bits, record))
    });
    let networks = in_tree.collect();
    below.tree.set_all(networks);
    let bytes = below.write(!overlays.is_empty())?;
    let db = GeoDb::from_bytes(bytes.clone()).map_err(BuildError::Made)?;
    Ok((bytes, db))
}

/// A database in its parts.
struct Below {
    tree: Tree,
    data: Vec<u8>,
    account: Account,
}

impl Below {
    fn read(base: Vec<u8>) -> Result<Below, GeoError> {
        // Checked whole: its tree and its records lie within it.
        let db = GeoDb::from_bytes(base.clone())?;
        let metadata = db.reader.metadata().clone();
        let node_bytes = usize::from(metadata.record_size) / 4;
        let tree_bytes = metadata.node_count as usize * node_bytes;
        let tree = Tree::read(&base[..tree_bytes], metadata.node_count, metadata.record_size, metadata.ip_version);
        let end = memchr::memmem::rfind(&base, MARKER).unwrap_or(base.len());
        let data = base.get(tree_bytes + SEPARATOR.len()..end).unwrap_or_default().to_vec();
        let account = Account {
            kind: metadata.database_type,
            build_epoch_s: metadata.build_epoch,
            languages: metadata.languages,
            description: metadata.description,
        };
        Ok(Below { tree, data, account })
    }

    /// Nothing yet but what it will say of itself.
    fn of(registry: &Registry) -> Below {
        let account = Account {
            kind: KIND.to_owned(),
            build_epoch_s: registry.made_epoch_s,
            languages: vec!["en".to_owned()],
            description: BTreeMap::from([("en".to_owned(), BY_REGISTRY.to_owned())]),
        };
        Below { tree: Tree::empty(), data: Vec::new(), account }
    }

    /// Where the record of a spot stands; it is put there the first time.
    fn record(&mut self, spot: Spot, known: &mut HashMap<Vec<u8>, u32>) -> Option<u32> {
        let record = encode::record(spot.fields()?);
        let offset = known.entry(record).or_insert_with_key(|record| {
            let offset = self.data.len() as u32;
            self.data.extend(record);
            offset
        });
        Some(*offset)
    }

    fn write(&mut self, is_overlaid: bool) -> Result<Vec<u8>, TooLarge> {
        let tree = self.tree.write(self.data.len())?;
        if is_overlaid {
            self.account.description.values_mut().for_each(|text| *text = overlaid(text));
        }
        let metadata = encode::metadata(&self.account, tree.node_count, tree.record_size);
        Ok([&tree.bytes, &SEPARATOR[..], &self.data, MARKER, &metadata].concat())
    }
}

fn overlaid(description: &str) -> String {
    format!("{}{OVERLAID}", description.strip_suffix(OVERLAID).unwrap_or(description))
}

/// A network's first address and its length in a tree over IPv6.
fn in_tree(network: IpNet) -> (u128, u8) {
    match network {
        IpNet::V4(v4) => (u128::from(u32::from(v4.network())), v4.prefix_len() + 96),
        IpNet::V6(v6) => (u128::from(v6.network()), v6.prefix_len()),
    }
}

#[cfg(test)]
mod tests;
