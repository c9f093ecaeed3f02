//! Recorded calls: how long each prompt was and how much of it an earlier prompt had, without any text.

mod generator;
pub(crate) mod quantiles;
pub(crate) mod read;
pub(crate) mod rows;

pub(crate) use generator::generate;
pub(crate) use read::read;
pub(crate) use rows::{ArrivalRow, Rows, SessionRow, Shape};
