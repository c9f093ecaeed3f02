//! The PROXY header (HAProxy's proxy-protocol.txt, versions 1 and 2): a load balancer begins a connection with it and says
//! whose connection it passes on.
//!
//! The caller gives what has come so far, and is told that more is needed, what the header says and where it ends, or that
//! this is none: the first byte that no header can have decides, so that nobody waits for the rest of something else.
//! What stands behind the addresses of version 2 (TLVs) is passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest header in bytes. Version 1 has 107 at most, version 2 232 without TLVs; the TLVs of cloud load balancers and of
/// TLS (names, a cipher) take some hundreds. A longer one is malformed.
pub const HEADER_BYTES_MAX: usize = 2048;

/// Longest header of version 1, with its line end.
const V1_BYTES_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, and the length of what follows.
const V2_HEAD_BYTES: usize = V2_START.len() + 4;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// They may be a header's beginning.
    Incomplete,
    /// They begin with a header.
    Whole {
        /// Whose connection it is; `None` when the sender does not say (`UNKNOWN`, `LOCAL`, no internet address): the
        /// connection is then its own.
        source: Option<IpAddr>,
        /// The header's length in bytes; what follows is the client's.
        bytes: usize,
    },
    /// They are no header.
    Malformed,
}

/// Reads a header off the first bytes of a connection.
pub fn read(begun: &[u8]) -> Read {
    // What has come must be the beginning of one of the two signatures.
    let begins = |start: &[u8]| begun.iter().zip(start).all(|(a, b)| a == b);
    match (begins(V1_START), begins(V2_START)) {
        (true, _) => v1(begun),
        (_, true) => v2(begun),
        _ => Read::Malformed,
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n`, or `PROXY UNKNOWN …\r\n`.
fn v1(begun: &[u8]) -> Read {
    let line_end = begun.iter().take(V1_BYTES_MAX).position(|byte| *byte == b'\n');
    let Some(end) = line_end else {
        return if begun.len() < V1_BYTES_MAX { Read::Incomplete } else { Read::Malformed };
    };
    let line = begun[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    match line.and_then(|line| v1_source(line.strip_prefix("PROXY ")?)) {
        Some(source) => Read::Whole { source, bytes: end + 1 },
        None => Read::Malformed,
    }
}

/// The source in what follows `PROXY `; the outer `None` is a line that says something else.
fn v1_source(line: &str) -> Option<Option<IpAddr>> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows is to be passed over.
        return Some(None);
    }
    let mut address = || match family {
        "TCP4" => words.next()?.parse().ok().map(IpAddr::V4),
        "TCP6" => words.next()?.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let (source, _destination) = (address()?, address()?);
    let ports = [words.next()?, words.next()?].into_iter().all(is_port);
    (ports && words.next().is_none()).then(|| Some(source.to_canonical()))
}

/// Decimal, 0 to 65535, without a sign or leading zeros.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port.to_string() == text)
}

fn v2(begun: &[u8]) -> Read {
    let head = begun.get(V2_START.len()..).and_then(|rest| rest.first_chunk());
    let Some(&[command, family, high, low]) = head else { return Read::Incomplete };
    let bytes = V2_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let addressed = match (command, family) {
        // LOCAL: the load balancer's own, a health check for example. The rest is to be passed over.
        (0x20, _) => Some(0),
        // PROXY of no known family.
        (0x21, 0x00) => Some(0),
        (0x21, 0x11 | 0x12) => Some(4),
        (0x21, 0x21 | 0x22) => Some(16),
        // Sockets of the same machine, with two paths.
        (0x21, 0x31 | 0x32) => Some(0),
        _ => None,
    };
    let Some(address_bytes) = addressed.filter(|_| bytes <= HEADER_BYTES_MAX) else { return Read::Malformed };
    // Two addresses and two ports must be there.
    if address_bytes > 0 && bytes < V2_HEAD_BYTES + 2 * (address_bytes + 2) {
        return Read::Malformed;
    }
    let Some(header) = begun.get(..bytes) else { return Read::Incomplete };
    let addresses = &header[V2_HEAD_BYTES..];
    let source = match address_bytes {
        4 => addresses.first_chunk::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets))),
        16 => addresses.first_chunk::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets))),
        _ => None,
    };
    Read::Whole { source: source.map(|source| source.to_canonical()), bytes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2.
    fn v2_of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family][..], &length, rest].concat()
    }

    fn addresses(from: IpAddr) -> Vec<u8> {
        match from {
            IpAddr::V4(v4) => [&v4.octets()[..], &[127, 0, 0, 1, 1, 2, 3, 4]].concat(),
            IpAddr::V6(v6) => [&v6.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[1, 2, 3, 4]].concat(),
        }
    }

    /// The header is read so, whatever follows it, and not before it is there.
    #[track_caller]
    fn check(header: &[u8], source: Option<&str>) {
        let source = source.map(|source| source.parse().unwrap());
        for rest in [&b""[..], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\n"] {
            let whole = [header, rest].concat();
            assert_eq!(read(&whole), Read::Whole { source, bytes: header.len() }, "{}", header.escape_ascii());
        }
        for split in 0..header.len() {
            assert_eq!(read(&header[..split]), Read::Incomplete, "{split} bytes of {}", header.escape_ascii());
        }
    }

    #[test]
    fn version_1_is_read() {
        check(b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", Some("192.0.2.1"));
        check(b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n", Some("2001:db8::1"));
        check(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 1\r\n", Some("192.0.2.1"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None);
        // The longest there is, by the specification: 107 bytes.
        let longest = ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"; 2].join(" ");
        let line = format!("PROXY UNKNOWN {longest} 65535 65535\r\n");
        assert_eq!(line.len(), V1_BYTES_MAX);
        check(line.as_bytes(), None);
    }

    #[test]
    fn version_2_is_read() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        for transport in [1, 2] {
            check(&v2_of(0x21, 0x10 + transport, &addresses(v4)), Some("192.0.2.1"));
            check(&v2_of(0x21, 0x20 + transport, &addresses(v6)), Some("2001:db8::1"));
            check(&v2_of(0x21, 0x30 + transport, &[b'/'; 216]), None);
        }
        check(&v2_of(0x21, 0x21, &addresses("::ffff:192.0.2.1".parse().unwrap())), Some("192.0.2.1"));
        check(&v2_of(0x20, 0x00, b""), None);
        check(&v2_of(0x20, 0x11, &addresses(v4)), None);
        check(&v2_of(0x21, 0x00, b"anything"), None);
        // TLVs, up to the bound.
        let with_tlvs = |bytes: usize| [addresses(v4), vec![4; bytes]].concat();
        check(&v2_of(0x21, 0x11, &with_tlvs(3)), Some("192.0.2.1"));
        check(&v2_of(0x21, 0x11, &with_tlvs(HEADER_BYTES_MAX - V2_HEAD_BYTES - 12)), Some("192.0.2.1"));
        assert_eq!(read(&v2_of(0x21, 0x11, &with_tlvs(HEADER_BYTES_MAX - V2_HEAD_BYTES - 11))), Read::Malformed);
    }

    #[test]
    fn what_is_no_header_is_told() {
        for text in [
            "G",
            "GET / HTTP/1.1\r\n",
            "\x16\x03\x01",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\r\n\r\nG",
            "proxy ",
            "PROXY\t",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.7 1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 01 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 +1 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY unknown\r\n",
        ] {
            assert_eq!(read(text.as_bytes()), Read::Malformed, "{text:?}");
        }
        assert_eq!(read(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat()), Read::Malformed);
        let v4 = addresses("192.0.2.1".parse().unwrap());
        for (command, family) in [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x21, 0x13), (0x21, 0x41), (0x21, 0x01)] {
            assert_eq!(read(&v2_of(command, family, &v4)), Read::Malformed, "{command:x} {family:x}");
        }
        assert_eq!(read(&v2_of(0x21, 0x11, &v4[..11])), Read::Malformed);
        assert_eq!(read(&v2_of(0x21, 0x21, &v4)), Read::Malformed);
        // Already its head says so.
        assert_eq!(read(&[&V2_START[..], &[0x21, 0x11, 0xff, 0xff]].concat()), Read::Malformed);
    }

    /// Bytes that come near to being a header.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            Just(Vec::new()),
            Just(b"PROXY ".to_vec()),
            Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
            Just(b"PROXY TCP6 ::1 ".to_vec()),
            (0x1f..0x23u8, prop_oneof![Just(0x11), Just(0x21), any::<u8>()], 0..300u16).prop_map(
                |(command, family, length)| [V2_START, &[command, family][..], &length.to_be_bytes()].concat()
            ),
        ];
        let rest = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[0-9.: ]{0,60}(\r\n)?".prop_map(String::into_bytes),
        ];
        (start, rest).prop_map(|(start, rest)| [start, rest].concat())
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_the_same_verdict_however_they_come(bytes in nearly(), more in any::<[u8; 4]>()) {
            let mut verdict = Read::Incomplete;
            for end in 0..=bytes.len() {
                verdict = read(&bytes[..end]);
                if verdict != Read::Incomplete {
                    // What follows changes nothing, and a header lies within what has come.
                    prop_assert_eq!(read(&bytes), verdict);
                    prop_assert_eq!(read(&[&bytes[..], &more].concat()), verdict);
                    if let Read::Whole { bytes: length, .. } = verdict {
                        prop_assert_eq!(length, end);
                    }
                    break;
                }
            }
            prop_assert!(verdict != Read::Incomplete || bytes.len() < HEADER_BYTES_MAX);
        }
    }
}
