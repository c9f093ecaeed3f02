//! Where a call goes: one trait, and the policies that are compared.

mod admission;
mod blind;
mod hashed;
mod matched;
mod nearpool;
mod oracle;
mod reading;
mod roll;
mod router;
mod setting;

pub(crate) use admission::Params as AdmissionParams;
pub(crate) use reading::{Identities, Reading};
pub(crate) use roll::{Policy, Tuning};
pub(crate) use router::{Ask, Decision, Router};
pub(crate) use setting::{Besides, sessions};
