//! Names and numbers that stand for things of one topology.

use std::fmt;

macro_rules! index {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// Valid only for the topology that it was taken from.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub usize);
    )*};
}

index! {
    /// The position of a region in [`Topology::regions`](super::topology::Topology::regions).
    RegionIx;
    /// The position of a model in [`Topology::models`](super::topology::Topology::models).
    ModelIx;
    /// The position of a pool in [`Topology::pools`](super::topology::Topology::pools).
    PoolIx;
    /// The position of a replica in [`Topology::replicas`](super::topology::Topology::replicas).
    ReplicaIx;
}

/// What a replica is known by across reloads, restarts and edges: a stable hash of its pool's name and its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaKey(pub u64);

/// A session as the edge remembers it: a 128-bit hash of the client's scope and the session's name.
///
/// A hash and not the name, so that a session costs the same whatever it is called, and so that a
/// client can neither guess nor reach another client's session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(pub u128);

/// A client as the edge tells clients apart: a 128-bit hash of its credential, else of its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(pub u128);

/// A stored response as the edge remembers it: a 128-bit hash of its client and its id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResponseKey(pub u128);

impl fmt::Debug for ResponseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseKey({:08x}…)", self.0 >> 96)
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({:08x}…)", self.0 >> 96)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({:08x}…)", self.0 >> 96)
    }
}
