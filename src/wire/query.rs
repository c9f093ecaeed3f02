//! The query of a URL: `name=value&…`, as HTML forms send it (WHATWG URL, `application/x-www-form-urlencoded`).

/// The longest query that is read, in bytes, before decoding.
pub const QUERY_BYTES_MAX: usize = 8 * 1024;

/// Why a query cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadQuery {
    /// It is longer than may be.
    #[error("the query is longer than {QUERY_BYTES_MAX} bytes")]
    TooLong,
    /// A name that means nothing.
    #[error("'{name}' means nothing here; known are {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those that do.
        known: &'static [&'static str],
    },
    /// A name that is there twice.
    #[error("'{0}' is given twice")]
    Twice(&'static str),
    /// A value that is no text.
    #[error("'{0}' cannot be read: write it as UTF-8, with %XX for what is no letter, digit, '-', '.', '_' or '~'")]
    NoText(&'static str),
}

/// Reads the values of these names, in their order; one that is empty counts as absent, since forms send every field.
pub fn read(query: &str, known: &'static [&'static str]) -> Result<Vec<Option<String>>, BadQuery> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(BadQuery::TooLong);
    }
    let mut values: Vec<Option<String>> = vec![None; known.len()];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = known.iter().position(|own| *own == name) else {
            return Err(BadQuery::Unknown { name: name.to_owned(), known });
        };
        let value = decoded(value).ok_or(BadQuery::NoText(known[at]))?;
        if values[at].replace(value).is_some() {
            return Err(BadQuery::Twice(known[at]));
        }
    }
    Ok(values.into_iter().map(|value| value.filter(|value| !value.is_empty())).collect())
}

/// A value with `+` and `%XX` put back; `None` where that is no text, or a `%` has no two digits behind it.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["ip", "model"];

    #[test]
    fn values_are_read_as_forms_write_them() {
        let read = |query| read(query, KNOWN).unwrap();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("ip=::1&model=a"), [some("::1"), some("a")]);
        assert_eq!(read("model=a%2Fb+c%3d&&"), [None, some("a/b c=")]);
        assert_eq!(read("ip=%E2%82%ac&model="), [some("€"), None]);
        assert_eq!(read("ip&model=a=b"), [None, some("a=b")]);
        assert_eq!(read(""), [None, None]);
    }

    #[test]
    fn what_cannot_be_read_says_which_it_is() {
        for (query, says) in [
            ("ip=1&ip=2", "'ip' is given twice"),
            ("ip=&ip=2", "'ip' is given twice"),
            ("adress=1", "'adress' means nothing here; known are ip, model"),
            ("ip=%", "'ip' cannot be read"),
            ("ip=%4", "'ip' cannot be read"),
            ("ip=%4x", "'ip' cannot be read"),
            ("model=%ff", "'model' cannot be read"),
        ] {
            let error = read(query, KNOWN).unwrap_err().to_string();
            assert!(error.starts_with(says), "{query}: {error}");
        }
        assert_eq!(read(&format!("ip={}", "1".repeat(QUERY_BYTES_MAX)), KNOWN), Err(BadQuery::TooLong));
    }
}
