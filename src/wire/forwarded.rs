//! Whom proxies name as the one before them: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Both are lists that each proxy adds to at the right end, of one line or of several. They are read from there: a hop is
//! an address, or hidden when it is none (`unknown`, `_name`, what cannot be read), and nothing can be known of what
//! stands to the left of a hidden one. Of a line of `Forwarded` that does not follow its grammar no part is read: in an
//! open quotation it cannot be told what the last proxy wrote.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, header};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A proxy's word on the one before it; `None` is hidden.
type Hop = Option<IpAddr>;

/// The hops of `X-Forwarded-For`, the last proxy's word first; `None` without the header.
pub fn x_forwarded_for(headers: &HeaderMap) -> Option<impl Iterator<Item = Option<IpAddr>>> {
    let lines = present(headers, &X_FORWARDED_FOR)?;
    Some(lines.flat_map(|line| line.rsplit(',').map(|hop| node(hop.trim_matches(BLANK).trim_matches('"')))))
}

/// The hops of `Forwarded`, the last proxy's word first; `None` without the header.
pub fn forwarded(headers: &HeaderMap) -> Option<impl Iterator<Item = Option<IpAddr>>> {
    let lines = present(headers, &header::FORWARDED)?;
    Some(lines.flat_map(|line| elements(line).unwrap_or_else(|| vec![None]).into_iter().rev()))
}

/// Optional white space (RFC 9110, 5.6.3).
const BLANK: [char; 2] = [' ', '\t'];

/// The lines of a header, the last one first; one that is not ASCII is empty, and so a hidden hop.
fn present<'h>(headers: &'h HeaderMap, name: &'static HeaderName) -> Option<impl Iterator<Item = &'h str>> {
    let lines = headers.get_all(name);
    lines.iter().next()?;
    Some(lines.iter().rev().map(|line| line.to_str().unwrap_or_default()))
}

/// The `for` of each element of a line; `None` for a line that does not follow the grammar.
fn elements(line: &str) -> Option<Vec<Hop>> {
    let (mut hops, mut rest) = (Vec::new(), line.trim_matches(BLANK));
    loop {
        let (mut hop, mut named) = (None, false);
        // The pairs of one element.
        loop {
            let (name, behind) = token(rest);
            if !name.is_empty() {
                let (value, behind) = value(behind.strip_prefix('=')?)?;
                if name.eq_ignore_ascii_case("for") {
                    // A parameter may stand once (RFC 7239, 4).
                    if std::mem::replace(&mut named, true) {
                        return None;
                    }
                    hop = node(&value);
                }
                rest = behind;
            }
            rest = rest.trim_start_matches(BLANK);
            let Some(behind) = rest.strip_prefix(';') else { break };
            rest = behind.trim_start_matches(BLANK);
        }
        hops.push(hop);
        if rest.is_empty() {
            return Some(hops);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(BLANK);
    }
}

/// A token (RFC 9110, 5.6.2), perhaps empty, and what is behind it.
fn token(text: &str) -> (&str, &str) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    text.split_at(text.bytes().take_while(|byte| is_token(*byte)).count())
}

/// A token or a quoted string, and what is behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, behind) = token(text);
        return (!token.is_empty()).then(|| (token.to_owned(), behind));
    };
    let (mut value, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// A node's address: `192.0.2.1`, `192.0.2.1:443`, `[2001:db8::1]`, `[2001:db8::1]:443`, and, against the grammar but
/// common, `2001:db8::1`. A port may be hidden (`:_name`).
fn node(text: &str) -> Hop {
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let hidden_port = || {
        let (address, port) = text.rsplit_once(':').unwrap_or((text, "_"));
        let bracketed = || address.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        let v4 = || address.parse().ok().map(IpAddr::V4);
        port.starts_with('_').then(|| bracketed().or_else(v4))?
    };
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let address = bare().or_else(with_port).or_else(bracketed).or_else(hidden_port);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(name: &'static str, lines: &[&str]) -> HeaderMap {
        let line = |line: &&str| (HeaderName::from_static(name), HeaderValue::from_bytes(line.as_bytes()).unwrap());
        lines.iter().map(line).collect()
    }

    /// The lines' hops, rightmost first; `_` stands for a hidden one.
    #[track_caller]
    fn check(name: &'static str, lines: &[&str], expected: &[&str]) {
        let headers = headers(name, lines);
        let hops: Vec<Hop> = match name {
            "forwarded" => forwarded(&headers).unwrap().collect(),
            _ => x_forwarded_for(&headers).unwrap().collect(),
        };
        let hop = |text: &&str| text.parse().ok();
        assert_eq!(hops, expected.iter().map(hop).collect::<Vec<_>>(), "{lines:?}");
    }

    #[test]
    fn x_forwarded_for_is_read_from_the_right_and_from_the_last_line() {
        let check = |lines: &[&str], expected: &[&str]| check("x-forwarded-for", lines, expected);
        check(&["192.0.2.1"], &["192.0.2.1"]);
        check(&["192.0.2.1, 192.0.2.2,192.0.2.3 "], &["192.0.2.3", "192.0.2.2", "192.0.2.1"]);
        check(&["192.0.2.1, 192.0.2.2", "192.0.2.3"], &["192.0.2.3", "192.0.2.2", "192.0.2.1"]);
        check(
            &["192.0.2.1:99, [2001:db8::1]:99, [2001:db8::2], 2001:db8::3"],
            &["2001:db8::3", "2001:db8::2", "2001:db8::1", "192.0.2.1"],
        );
        check(&["::ffff:192.0.2.1, \"192.0.2.2\""], &["192.0.2.2", "192.0.2.1"]);
        check(&["unknown, 192.0.2.2,, nonsense"], &["_", "_", "192.0.2.2", "_"]);
        check(&["", "é"], &["_", "_"]);
        assert!(x_forwarded_for(&HeaderMap::new()).is_none());
    }

    #[test]
    fn forwarded_is_read_as_its_grammar_says() {
        let check = |lines: &[&str], expected: &[&str]| check("forwarded", lines, expected);
        check(&["for=192.0.2.1"], &["192.0.2.1"]);
        check(&["For=\"[2001:db8:cafe::17]:4711\""], &["2001:db8:cafe::17"]);
        check(&["for=192.0.2.60;proto=http;by=203.0.113.43"], &["192.0.2.60"]);
        check(&["by=203.0.113.43; proto=http ;FOR=192.0.2.60"], &["192.0.2.60"]);
        check(
            &["for=192.0.2.43, for=\"[2001:db8::17]\"", "for=192.0.2.1"],
            &["192.0.2.1", "2001:db8::17", "192.0.2.43"],
        );
        check(
            &["for=\"192.0.2.1:80\", for=\"192.0.2.2:_port\", for=\"[2001:db8::1]:_p\""],
            &["2001:db8::1", "192.0.2.2", "192.0.2.1"],
        );
        check(&["for=unknown, for=_hidden, for=\"_SEVKISEK\", proto=https"], &["_", "_", "_", "_"]);
        check(&["for=\"192\\.0.2.1\""], &["192.0.2.1"]);
        check(&["for=192.0.2.1;host=\"a,b;for=6.6.6.6\\\"\""], &["192.0.2.1"]);
        check(&["for=192.0.2.1;"], &["192.0.2.1"]);
        assert!(forwarded(&HeaderMap::new()).is_none());
    }

    #[test]
    fn of_a_line_against_the_grammar_nothing_is_read() {
        for line in [
            "for=\"192.0.2.1",
            "for=\"192.0.2.1, for=192.0.2.2",
            "for",
            "for=",
            "for=192.0.2.1 for=192.0.2.2",
            "=192.0.2.1",
            "for=192.0.2.1;for=192.0.2.2",
            "for = 192.0.2.1",
            "192.0.2.1",
            "for=[2001:db8::1]",
            "for=192.0.2.1:80",
            "for=\"a\\",
        ] {
            check("forwarded", &[line], &["_"]);
            check("forwarded", &[line, "for=192.0.2.9"], &["192.0.2.9", "_"]);
        }
    }

    proptest! {
        #[test]
        fn no_line_panics_and_the_last_proxys_word_counts_whatever_stands_before(
            line in "([a-z_]{0,4}=?\"?[0-9.:\\[\\]\\\\_]{0,9}\"?[ ,;]{0,2}){0,6}",
        ) {
            let mine: Hop = "192.0.2.77".parse().ok();
            let all = headers("x-forwarded-for", &[&format!("{line}, 192.0.2.77")]);
            prop_assert_eq!(x_forwarded_for(&all).unwrap().next(), Some(mine));
            let all = headers("forwarded", &[&line, "for=192.0.2.77"]);
            prop_assert_eq!(forwarded(&all).unwrap().next(), Some(mine));
            // In one line with it, it is what the proxy wrote or nothing.
            let all = headers("forwarded", &[&format!("{line}, for=192.0.2.77")]);
            prop_assert!([Some(mine), Some(None)].contains(&forwarded(&all).unwrap().next()));
        }
    }
}
