//! Where a call goes: one trait, and the policies that are compared.

mod admission;
mod blind;
mod hashed;
mod matched;
mod oracle;
mod roll;
mod router;

pub(crate) use admission::Params as AdmissionParams;
pub(crate) use roll::{Policy, Tuning};
pub(crate) use router::{Ask, Decision, Router};
