//! Who called, from a line of an access log or a list of addresses.

use std::net::IpAddr;

use serde_json::Value;

/// The address of a line: the `client` of an access line, or what comes first.
pub fn address(line: &str) -> Option<IpAddr> {
    if line.starts_with('{') {
        let line: Value = serde_json::from_str(line).ok()?;
        return line.get("client")?.as_str()?.parse().ok();
    }
    line.split([' ', '\t', ',']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_lists_and_access_lines() {
        for (line, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("2001:db8::1\tGET /", Some("2001:db8::1")),
            ("192.0.2.1,17", Some("192.0.2.1")),
            (r#"{"client":"192.0.2.1","status":200}"#, Some("192.0.2.1")),
            (r#"{"client":null}"#, None),
            (r#"{"client":"#, None),
            ("nobody", None),
        ] {
            assert_eq!(address(line), expected.map(|text| text.parse().unwrap()), "{line}");
        }
    }
}
