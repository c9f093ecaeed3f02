//! What edges, restarts and failures do to the places of sessions: the roster, the sessions and the policies together, in
//! virtual time.

mod agents;
mod agree;
mod apart;
mod edge;
mod leftovers;
mod loss;
mod restart;
mod spill;
mod streams;
mod world;
