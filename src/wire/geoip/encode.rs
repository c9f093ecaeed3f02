//! Values as a MaxMind database holds them: "MaxMind DB File Format Specification", version 2.0, "Output Data Section".
//!
//! Only what our own records and the metadata need. A value begins with its type in three bits and its size in five; types
//! from 8 on have 0 there and stand in the next byte, less 7.

use std::collections::BTreeMap;

use super::places::Fields;

const STRING: u8 = 2;
const DOUBLE: u8 = 3;
const UINT16: u8 = 5;
const UINT32: u8 = 6;
const MAP: u8 = 7;
const UINT64: u8 = 9;
const ARRAY: u8 = 11;
const BOOLEAN: u8 = 14;

/// A record of the nested City schema.
pub(super) fn record(fields: Fields) -> Vec<u8> {
    let Fields { country, is_member, continent, location } = fields;
    let mut out = Vec::new();
    control(&mut out, MAP, 2 + usize::from(location.is_some()));
    string(&mut out, "country");
    control(&mut out, MAP, 1 + usize::from(is_member));
    string(&mut out, "iso_code");
    string(&mut out, country.as_str());
    if is_member {
        string(&mut out, "is_in_european_union");
        control(&mut out, BOOLEAN, 1);
    }
    string(&mut out, "continent");
    control(&mut out, MAP, 1);
    string(&mut out, "code");
    string(&mut out, continent.as_str());
    if let Some((place, radius_km)) = location {
        string(&mut out, "location");
        control(&mut out, MAP, 3);
        string(&mut out, "latitude");
        double(&mut out, place.latitude);
        string(&mut out, "longitude");
        double(&mut out, place.longitude);
        string(&mut out, "accuracy_radius");
        unsigned(&mut out, UINT16, radius_km.into());
    }
    out
}

/// What a database says of itself, apart from its tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Account {
    pub(super) kind: String,
    pub(super) build_epoch_s: u64,
    pub(super) languages: Vec<String>,
    pub(super) description: BTreeMap<String, String>,
}

/// The metadata of a database of IPv4 and IPv6 with such a tree.
pub(super) fn metadata(account: &Account, node_count: u32, record_size: u16) -> Vec<u8> {
    let Account { kind, build_epoch_s, languages, description } = account;
    let mut out = Vec::new();
    control(&mut out, MAP, 9);
    string(&mut out, "binary_format_major_version");
    unsigned(&mut out, UINT16, 2);
    string(&mut out, "binary_format_minor_version");
    unsigned(&mut out, UINT16, 0);
    string(&mut out, "build_epoch");
    unsigned(&mut out, UINT64, *build_epoch_s);
    string(&mut out, "database_type");
    string(&mut out, kind);
    string(&mut out, "description");
    control(&mut out, MAP, description.len());
    for (language, text) in description {
        string(&mut out, language);
        string(&mut out, text);
    }
    string(&mut out, "ip_version");
    unsigned(&mut out, UINT16, 6);
    string(&mut out, "languages");
    control(&mut out, ARRAY, languages.len());
    languages.iter().for_each(|language| string(&mut out, language));
    string(&mut out, "node_count");
    unsigned(&mut out, UINT32, node_count.into());
    string(&mut out, "record_size");
    unsigned(&mut out, UINT16, record_size.into());
    out
}

/// The type and size that a value begins with. Sizes from 29 on stand in one, two or three more bytes.
fn control(out: &mut Vec<u8>, kind: u8, size: usize) {
    const MORE_1: usize = 29;
    const MORE_2: usize = MORE_1 + (1 << 8);
    const MORE_3: usize = MORE_2 + (1 << 16);
    let (in_first, more): (u8, &[u8]) = match size {
        0..MORE_1 => (size as u8, &[]),
        MORE_1..MORE_2 => (29, &((size - MORE_1) as u32).to_be_bytes()[3..]),
        MORE_2..MORE_3 => (30, &((size - MORE_2) as u32).to_be_bytes()[2..]),
        _ => (31, &((size - MORE_3) as u32).to_be_bytes()[1..]),
    };
    if kind <= MAP {
        out.push(kind << 5 | in_first);
    } else {
        out.extend([in_first, kind - 7]);
    }
    out.extend(more);
}

fn string(out: &mut Vec<u8>, text: &str) {
    control(out, STRING, text.len());
    out.extend(text.as_bytes());
}

fn double(out: &mut Vec<u8>, number: f64) {
    control(out, DOUBLE, 8);
    out.extend(number.to_be_bytes());
}

/// A number without its leading zero bytes.
fn unsigned(out: &mut Vec<u8>, kind: u8, number: u64) {
    let bytes = number.to_be_bytes();
    let significant = &bytes[number.leading_zeros() as usize / 8..];
    control(out, kind, significant.len());
    out.extend(significant);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_the_specification_shows_them() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out
        };
        assert_eq!(written(&|out| string(out, "DE")), [0x42, b'D', b'E']);
        assert_eq!(written(&|out| unsigned(out, UINT16, 0)), [0xa0]);
        assert_eq!(written(&|out| unsigned(out, UINT16, 500)), [0xa2, 1, 244]);
        assert_eq!(written(&|out| unsigned(out, UINT64, 1)), [1, 2, 1]);
        assert_eq!(written(&|out| control(out, BOOLEAN, 1)), [1, 7]);
        assert_eq!(written(&|out| double(out, 1.5)), [0x68, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        for (size, bytes) in [
            (28, &[0x5c][..]),
            (29, &[0x5d, 0]),
            (284, &[0x5d, 255]),
            (285, &[0x5e, 0, 0]),
            (65_820, &[0x5e, 255, 255]),
            (65_821, &[0x5f, 0, 0, 0]),
        ] {
            assert_eq!(written(&|out| control(out, STRING, size)), bytes, "{size}");
        }
    }
}
