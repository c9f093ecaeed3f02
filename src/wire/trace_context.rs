//! `traceparent` and `tracestate`: W3C Trace Context, level 1, <https://www.w3.org/TR/trace-context/>.
//!
//! Read strictly, as the standard asks: what is not exactly right is as good as not there, and a new trace begins.

use std::str;

use crate::domain::hex::hex;
use crate::domain::trace::{SpanId, TraceContext, TraceId};

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

/// Entries of `tracestate` at most.
const STATE_MEMBERS_MAX: usize = 32;

/// Longest value of `tracestate` that is passed on; the standard asks for 512 bytes at least.
const STATE_BYTES_MAX: usize = 4096;

const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;

/// The context in a value of `traceparent`; `None` when it is not valid.
pub fn parse(value: &[u8]) -> Option<TraceContext> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let (version, flags) = (digits(&known[..2])? as u8, digits(&known[53..])? as u8);
    // A later version may have more fields behind those that are known; version 00 has not, and ff never will be one.
    let ends = match version {
        0x00 => rest.is_empty(),
        0xff => false,
        _ => rest.first().is_none_or(|next| *next == b'-'),
    };
    if !ends || known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
        return None;
    }
    let (trace_id, span_id) = (digits(&known[3..35])?, digits(&known[36..52])? as u64);
    (trace_id != 0 && span_id != 0).then_some(TraceContext {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        sampled: flags & SAMPLED != 0,
        random_id: flags & RANDOM != 0,
    })
}

/// At most 32 lower-case hexadecimal digits.
fn digits(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The value of `traceparent` that names this context.
pub fn write(context: &TraceContext) -> String {
    let flags = if context.sampled { SAMPLED } else { 0 } | if context.random_id { RANDOM } else { 0 };
    let (trace_id, span_id) = (context.trace_id.to_string(), context.span_id.to_string());
    ["00-", &trace_id, "-", &span_id, "-", &hex(&[flags])].concat()
}

/// Whether these values of `tracestate`, one for each line of it, may be passed on.
pub fn is_state<'a>(values: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut members, mut bytes) = (0, 0);
    for value in values {
        bytes += value.len();
        if bytes > STATE_BYTES_MAX {
            return false;
        }
        for member in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()) {
            members += 1;
            if members > STATE_MEMBERS_MAX || !is_member(member) {
                return false;
            }
        }
    }
    true
}

/// `key=value`; the key may be `tenant@system`.
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let key_byte = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let begins = key.first().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
    let one_at = key.iter().filter(|byte| **byte == b'@').count() <= 1;
    let value_byte = |byte: &u8| matches!(byte, b' '..=b'~') && !b",=".contains(byte);
    begins
        && one_at
        && key.len() <= 256
        && key.iter().all(key_byte)
        && (1..=256).contains(&value.len())
        && value.iter().all(value_byte)
}

/// These values of `tracestate` as one, as spans tell it.
pub fn state<'a>(values: impl Iterator<Item = &'a [u8]>) -> String {
    values.filter_map(|value| str::from_utf8(value).ok()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_reads_back_as_it_is_written() {
        for flags in ["00", "01", "02", "03"] {
            let value = format!("{}{flags}", &CALLER[..53]);
            let context = parse(value.as_bytes()).unwrap();
            assert_eq!(
                (context.trace_id.0, context.span_id.0),
                (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331)
            );
            assert_eq!(write(&context), value);
        }
    }

    #[test]
    fn flags_that_nobody_knows_are_not_passed_on() {
        let context = parse(format!("{}fd", &CALLER[..53]).as_bytes()).unwrap();
        assert_eq!(write(&context), CALLER);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for (value, good) in [
            (format!("cc{}", &CALLER[2..]), true),
            (format!("cc{}-what-the-future-has", &CALLER[2..]), true),
            (format!("cc{}.x", &CALLER[2..]), false),
            (format!("{CALLER}-x"), false),
            (format!("{CALLER}-"), false),
            (format!("ff{}", &CALLER[2..]), false),
        ] {
            assert_eq!(parse(value.as_bytes()).is_some(), good, "{value}");
        }
    }

    #[test]
    fn what_is_not_exactly_right_is_not_there() {
        for at in 0..CALLER.len() {
            for wrong in [b'G', b'g', b'-', b' ', b'A', 0xff, b'+'] {
                let mut value = CALLER.as_bytes().to_vec();
                let was = std::mem::replace(&mut value[at], wrong);
                assert!(was == wrong || parse(&value).is_none(), "{}", String::from_utf8_lossy(&value));
            }
            assert!(parse(&CALLER.as_bytes()[..at]).is_none());
        }
        for zero in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert!(parse(zero.as_bytes()).is_none(), "{zero}");
        }
    }

    #[test]
    fn a_state_is_a_list_of_few_keys_with_values() {
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let long = |value: usize| format!("k={}", "v".repeat(value));
        for (value, good) in [
            ("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", true),
            ("", true),
            (" , a=1 ,\tb=2,", true),
            ("tenant@system=x", true),
            ("a b=1", false),
            ("A=1", false),
            ("a@b@c=1", false),
            ("@b=1", false),
            ("a", false),
            ("a=", false),
            ("a=b=c", false),
            ("a=\u{e9}", false),
            (&many(32), true),
            (&many(33), false),
            (&long(256), true),
            (&long(257), false),
            // Empty members count for nothing, and take room all the same.
            (&",".repeat(STATE_BYTES_MAX), true),
            (&",".repeat(STATE_BYTES_MAX + 1), false),
        ] {
            assert_eq!(is_state([value.as_bytes()].into_iter()), good, "{value}");
        }
        let halves = [many(16), many(17)];
        assert!(!is_state(halves.iter().map(String::as_bytes)), "several lines are one list");
        assert_eq!(state([&b"a=1"[..], b"b=2"].into_iter()), "a=1,b=2");
    }
}
