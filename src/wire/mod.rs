//! Bytes.
pub mod geoip;
