//! The search tree of a database: taken apart, changed, and written again.
//!
//! Each node has two slots, for the next bit of an address; a slot is nothing, a record, or another node. Databases share
//! nodes: the IPv4 addresses stand at `::/96`, and often again where IPv6 carries them; equal nodes may be stored once. So
//! nodes of the file are never changed, only copied: [`Tree::set`] makes the way to a network anew.

/// First bits of the networks that may stand for the IPv4 addresses a second time: mapped, Teredo and 6to4 (RFC 4291, 4380,
/// 3056), with their lengths.
const ALIASES: [(u128, u8); 3] = [(0xffff << 32, 96), (0x2001_0000 << 96, 32), (0x2002 << 112, 16)];

/// Where the IPv4 addresses stand.
const IPV4: (u128, u8) = (0, 96);

/// Bytes between the tree and the records.
const SEPARATOR_BYTES: u32 = 16;

/// What an address's next bit leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// No record.
    Empty,
    /// The record at this offset of the data section.
    Record(u32),
    /// Another node.
    Node(u32),
}

/// A tree over 128 bits.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<[Slot; 2]>,
    root: Slot,
    /// Nodes before this one may be shared.
    shared: usize,
}

/// A tree as it stands in a file.
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    pub(super) node_count: u32,
    /// Bits of a slot: 24, 28 or 32.
    pub(super) record_size: u16,
}

/// The records and nodes do not fit into slots of 32 bits.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the database would be too large for its format")]
pub struct TooLarge;

impl Tree {
    /// A tree without records.
    pub(super) fn empty() -> Tree {
        Tree { nodes: Vec::new(), root: Slot::Empty, shared: 0 }
    }

    /// Takes the tree of a checked database.
    pub(super) fn read(bytes: &[u8], node_count: u32, record_size: u16, ip_version: u16) -> Tree {
        let slot = |value: u32| match value.checked_sub(node_count) {
            None => Slot::Node(value),
            Some(beyond) => beyond.checked_sub(SEPARATOR_BYTES).map_or(Slot::Empty, Slot::Record),
        };
        let nodes = bytes.chunks_exact(usize::from(record_size) / 4).take(node_count as usize);
        let mut nodes: Vec<[Slot; 2]> = nodes.map(|node| unpack(node).map(slot)).collect();
        let mut root = if nodes.is_empty() { Slot::Empty } else { Slot::Node(0) };
        if ip_version == 4 {
            for _ in 0..IPV4.1 {
                nodes.push([root, Slot::Empty]);
                root = Slot::Node(nodes.len() as u32 - 1);
            }
        }
        Tree { shared: nodes.len(), nodes, root }
    }

    /// Puts a record at networks, given by their first bits and their number, one after the other: what stood there before,
    /// also of smaller networks, is gone. Those of IPv4 come first, and then also stand where they did a second time.
    pub(super) fn set_all(&mut self, mut networks: Vec<(u128, u8, u32)>) {
        let is_ipv6 = |first: u128| first >> 32 != 0;
        networks.sort_by_key(|(first, _, _)| is_ipv6(*first)); // stable: otherwise in the given order
        let ipv6_from = networks.partition_point(|(first, _, _)| !is_ipv6(*first));
        let before = self.at(IPV4);
        let aliases = ALIASES.map(|alias| (alias, matches!(before, Slot::Node(_)) && self.at(alias) == before));
        for (first, bits, record) in networks.drain(..ipv6_from) {
            self.set((first, bits), Slot::Record(record));
        }
        for (alias, _) in aliases.into_iter().filter(|(_, is_one)| *is_one) {
            self.set(alias, self.at(IPV4));
            self.shared = self.nodes.len();
        }
        for (first, bits, record) in networks {
            self.set((first, bits), Slot::Record(record));
        }
    }

    /// What a network's bits lead to; a leaf on the way stands for all below it.
    fn at(&self, (first, bits): (u128, u8)) -> Slot {
        let mut slot = self.root;
        for depth in 0..bits {
            let Slot::Node(node) = slot else { return slot };
            slot = self.nodes[node as usize][side(first, depth)];
        }
        slot
    }

    fn set(&mut self, network: (u128, u8), new: Slot) {
        self.root = self.replaced(self.root, network, 0, new);
    }

    /// The slot with the new one in it, `depth` bits on. At most 128 calls deep, one for each bit.
    fn replaced(&mut self, slot: Slot, network: (u128, u8), depth: u8, new: Slot) -> Slot {
        if depth == network.1 {
            return new;
        }
        let mut node = match slot {
            Slot::Node(node) => self.nodes[node as usize],
            leaf => [leaf, leaf],
        };
        let side = side(network.0, depth);
        node[side] = self.replaced(node[side], network, depth + 1, new);
        match slot {
            _ if node[0] == node[1] && !matches!(node[0], Slot::Node(_)) => node[0],
            Slot::Node(own) if own as usize >= self.shared => {
                self.nodes[own as usize] = node;
                slot
            }
            _ => {
                self.nodes.push(node);
                Slot::Node(self.nodes.len() as u32 - 1)
            }
        }
    }

    /// The tree as a file holds it, before so many bytes of records.
    pub(super) fn write(&self, data_bytes: usize) -> Result<Written, TooLarge> {
        let order = self.in_order();
        let mut numbers = vec![u32::MAX; self.nodes.len()];
        for (number, node) in order.iter().enumerate() {
            numbers[*node as usize] = number as u32;
        }
        // A tree of one leaf has no node of its own.
        let node_count = order.len().max(1) as u32;
        let largest = node_count as usize + SEPARATOR_BYTES as usize + data_bytes;
        let fitting = [24, 28, 32].into_iter().find(|bits| largest < 1_usize << bits);
        let record_size: u16 = fitting.ok_or(TooLarge)?;
        let value = |slot: Slot| match slot {
            Slot::Empty => node_count,
            Slot::Record(offset) => node_count + SEPARATOR_BYTES + offset,
            Slot::Node(node) => numbers[node as usize],
        };
        let mut bytes = Vec::with_capacity(node_count as usize * usize::from(record_size) / 4);
        if order.is_empty() {
            pack(record_size, [value(self.root); 2], &mut bytes);
        }
        order.iter().for_each(|node| pack(record_size, self.nodes[*node as usize].map(value), &mut bytes));
        Ok(Written { bytes, node_count, record_size })
    }

    /// The nodes that the root leads to, each once, the root first.
    fn in_order(&self) -> Vec<u32> {
        let (mut order, mut seen, mut open) = (Vec::new(), vec![false; self.nodes.len()], vec![self.root]);
        while let Some(slot) = open.pop() {
            let Slot::Node(node) = slot else { continue };
            if std::mem::replace(&mut seen[node as usize], true) {
                continue;
            }
            order.push(node);
            let [left, right] = self.nodes[node as usize];
            open.extend([right, left]);
        }
        order
    }
}

#[cfg(test)]
impl Tree {
    /// The IPv4 addresses alone, as a database of version 4 has them.
    pub(super) fn ipv4_alone(self) -> Tree {
        Tree { root: self.at(IPV4), ..self }
    }

    /// Lets the IPv4 addresses stand a second time wherever they may.
    pub(super) fn alias_ipv4(&mut self) {
        for alias in ALIASES {
            self.set(alias, self.at(IPV4));
            self.shared = self.nodes.len();
        }
    }
}

fn side(first: u128, depth: u8) -> usize {
    (first >> (127 - depth) & 1) as usize
}

/// The two slots of a node: of 28 bits, the middle byte holds the highest four of each.
fn unpack(node: &[u8]) -> [u32; 2] {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    match *node {
        [.., middle, _, _, _] if node.len() == 7 => {
            let (high_left, high_right) = (u32::from(middle >> 4), u32::from(middle & 0x0f));
            [high_left << 24 | number(&node[..3]), high_right << 24 | number(&node[4..])]
        }
        _ => [number(&node[..node.len() / 2]), number(&node[node.len() / 2..])],
    }
}

fn pack(record_size: u16, [left, right]: [u32; 2], into: &mut Vec<u8>) {
    let (left, right) = (left.to_be_bytes(), right.to_be_bytes());
    match record_size {
        24 => into.extend([&left[1..], &right[1..]].concat()),
        28 => {
            into.extend(&left[1..]);
            into.push(left[0] << 4 | right[0]);
            into.extend(&right[1..]);
        }
        _ => into.extend([left, right].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_every_size_are_read_as_they_are_written() {
        for (record_size, largest) in [(24, 0xff_ffff), (28, 0xfff_ffff), (32, u32::MAX)] {
            for node in [[0, 1], [largest, 0], [1, largest], [largest - 1, largest], [0xab_cdef, 0x12_3456]] {
                let mut bytes = Vec::new();
                pack(record_size, node, &mut bytes);
                assert_eq!(bytes.len(), usize::from(record_size) / 4);
                assert_eq!(unpack(&bytes), node, "{record_size}");
            }
        }
    }

    #[test]
    fn shared_nodes_of_the_file_are_copied_and_not_changed() {
        // Both halves of the root lead to one node.
        let mut tree = Tree {
            nodes: vec![[Slot::Node(1); 2], [Slot::Record(1), Slot::Record(2)]],
            root: Slot::Node(0),
            shared: 2,
        };
        tree.set((0, 2), Slot::Record(3));
        assert_eq!([tree.at((0, 2)), tree.at((1 << 126, 2))], [Slot::Record(3), Slot::Record(2)]);
        assert_eq!([tree.at((2 << 126, 2)), tree.at((3 << 126, 2))], [Slot::Record(1), Slot::Record(2)]);
        // What is the same on both sides needs no node.
        tree.set((1 << 126, 2), Slot::Record(3));
        assert_eq!(tree.nodes[tree_root(&tree)][0], Slot::Record(3));
    }

    fn tree_root(tree: &Tree) -> usize {
        let Slot::Node(node) = tree.root else { panic!("a leaf") };
        node as usize
    }

    #[test]
    fn the_smallest_slots_that_fit_are_taken() {
        let tree = Tree::empty();
        let size = |data_bytes| tree.write(data_bytes).map(|written| written.record_size);
        assert_eq!([size(0), size((1 << 24) - 18), size((1 << 24) - 17)], [Ok(24), Ok(24), Ok(28)]);
        assert_eq!([size(1 << 28), size(1 << 33)], [Ok(32), Err(TooLarge)]);
        let written = tree.write(0).unwrap();
        assert_eq!((written.node_count, written.bytes), (1, vec![0, 0, 1, 0, 0, 1]));
    }
}
