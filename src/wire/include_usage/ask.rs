//! The request's half: where `include_usage` is put in.

use bytes::Bytes;

use crate::wire::body::{Body, Edit};
use crate::wire::members::{Members, value_at};
use crate::wire::scan::Scan;

/// The longest `stream_options` that are read. It has four keys at most, flags all of them.
const OPTIONS_BYTES_MAX: usize = 4096;

/// What asks for usage in the body of a stream of chat or completions; `None` when the client did so itself, or when its
/// `stream_options` are none to be changed.
pub fn ask(scan: &Scan, body: &Body) -> Option<Edit> {
    let Some(at) = scan.stream_options_at else {
        // Behind the model's name, a place that is known: the end of the body is where an answer's rest is asked for.
        let end = scan.model.as_ref()?.range.end;
        return Some((end..end, Bytes::from_static(b",\"stream_options\":{\"include_usage\":true}")));
    };
    let value = value_at(body, at, OPTIONS_BYTES_MAX)?;
    if &value[..] == b"null" {
        return Some((at..at + value.len(), Bytes::from_static(b"{\"include_usage\":true}")));
    }
    let options = Members::read(&value)?;
    // vLLM heeds it only beside `include_usage`: each event would tell usage then, and SGLang's do so already.
    if options.get("continuous_usage_stats").is_some_and(|value| value != "false") {
        return None;
    }
    let Some((_, own)) = options.0.iter().rev().find(|(key, _)| key == "include_usage") else {
        let comma = if options.0.is_empty() { "" } else { "," };
        return Some((at + 1..at + 1, format!("\"include_usage\":true{comma}").into()));
    };
    // Anything else may be a yes to this engine or that.
    let no = own.get().as_ptr() as usize - value.as_ptr() as usize;
    matches!(own.get(), "false" | "null").then(|| (at + no..at + no + own.get().len(), Bytes::from_static(b"true")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::scan::Scanner;

    /// The body as it goes up, cut in two at each place; `None` when it is left as it is.
    #[track_caller]
    fn asked(json: &str) -> Option<String> {
        let mut all: Vec<_> = (0..=json.len())
            .map(|cut| {
                let (mut scanner, mut body) = (Scanner::new(), Body::new());
                for piece in [&json[..cut], &json[cut..]] {
                    scanner.push(piece.as_bytes()).unwrap();
                    body.push(Bytes::copy_from_slice(piece.as_bytes()));
                }
                let edit = ask(&scanner.finish().unwrap(), &body)?;
                Some(String::from_utf8(body.edited(vec![edit]).concat()).unwrap())
            })
            .collect();
        all.dedup();
        assert_eq!(all.len(), 1, "{json}: the same however it was cut");
        all.remove(0)
    }

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(asked(json).as_deref(), Some(expected));
        let parsed: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(parsed["stream_options"]["include_usage"], json!(true));
    }

    #[test]
    fn it_is_put_in_where_the_client_did_not_ask_and_every_other_byte_stays() {
        check(r#"{"model":"m", "n" :1}"#, r#"{"model":"m","stream_options":{"include_usage":true}, "n" :1}"#);
        check(r#"{ "n":1,"model" : "m" }"#, r#"{ "n":1,"model" : "m","stream_options":{"include_usage":true} }"#);
        check(
            r#"{"model":"m","stream_options": null ,"n":1}"#,
            r#"{"model":"m","stream_options": {"include_usage":true} ,"n":1}"#,
        );
        check(r#"{"model":"m","stream_options":{ }}"#, r#"{"model":"m","stream_options":{"include_usage":true }}"#);
        check(
            r#"{"stream_options":{"include_obfuscation": false},"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true,"include_obfuscation": false},"model":"m"}"#,
        );
        check(
            r#"{"model":"m","stream_options":{"continuous_usage_stats":false}}"#,
            r#"{"model":"m","stream_options":{"include_usage":true,"continuous_usage_stats":false}}"#,
        );
        for no in ["false", "null"] {
            check(
                &format!(r#"{{"model":"m","stream_options" :{{"x":[1], "include_usage" : {no} }}}}"#),
                r#"{"model":"m","stream_options" :{"x":[1], "include_usage" : true }}"#,
            );
        }
        check(
            r#"{"model":"m","stream_options":{"include_usage":false},"stre\u0061m_options":{}}"#,
            r#"{"model":"m","stream_options":{"include_usage":false},"stre\u0061m_options":{"include_usage":true}}"#,
        );
    }

    #[test]
    fn what_asks_already_or_is_not_understood_is_left_alone() {
        let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(OPTIONS_BYTES_MAX));
        for options in [
            r#"{"include_usage":true}"#,
            r#"{"include_usage" :  true, "x":1}"#,
            r#"{"include_us\u0061ge":true}"#,
            r#"{"include_usage":"yes"}"#,
            r#"{"include_usage":1}"#,
            r#"{"include_usage":{}}"#,
            r#"{"continuous_usage_stats":true}"#,
            r#"{"continuous_usage_stats":1,"include_usage":false}"#,
            "[]",
            "true",
            "12",
            "\"include_usage\"",
            &long,
        ] {
            assert_eq!(asked(&format!(r#"{{"model":"m","stream_options":{options}}}"#)), None, "{options:.60}");
        }
    }
}
