//! Recorded calls: how long each prompt was and how much of it an earlier prompt had, without any text.

mod generator;
mod quantiles;
mod read;
mod rows;

pub(crate) use generator::generate;
pub(crate) use read::read;
pub(crate) use rows::{ArrivalRow, Kind, Rows, SessionRow, Shape};
