//! Streams whose replica dies in the middle: another one goes on, and the client sees one answer.
//!
//! A simulated replica's text is a function of the prompt and the position in it, whoever says it: so what a client got of
//! several replicas is compared with what one of them says alone.

mod bounds;
mod deaths;
mod matrix;
mod seen;
mod unsafe_to_resume;
