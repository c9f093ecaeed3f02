use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::wire::body::Body;

fn scan(chunks: &[&[u8]]) -> Result<Scan, ScanError> {
    let mut scanner = Scanner::new();
    for chunk in chunks {
        scanner.push(chunk)?;
    }
    scanner.finish()
}

/// The answer for the whole, after making sure that every cut in two, and single bytes, give the same.
#[track_caller]
fn scan_every_way(body: &[u8]) -> Result<Scan, ScanError> {
    let whole = scan(&[body]);
    for cut in 0..=body.len() {
        let (a, b) = body.split_at(cut);
        assert_eq!(scan(&[a, b]), whole, "cut at {cut} of {}", String::from_utf8_lossy(body));
    }
    assert_eq!(scan(&body.chunks(1).collect::<Vec<_>>()), whole);
    whole
}

#[track_caller]
fn good(body: &str, model: Option<&str>, stream: Option<bool>) {
    let scan = scan_every_way(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
    assert_eq!((scan.model.as_ref().map(|model| model.name.as_str()), scan.stream), (model, stream), "{body}");
    if let Some(model) = scan.model {
        assert_eq!(serde_json::from_str::<String>(&body[model.range]).unwrap(), model.name);
    }
}

#[track_caller]
fn bad(body: &str, message: &str) {
    assert_eq!(scan_every_way(body.as_bytes()).expect_err(body).to_string(), message, "{body}");
}

#[test]
fn a_call_that_leaves_state_behind_says_so_at_the_top_level() {
    for (body, expected) in [
        (r#"{"store":true}"#, true),
        (r#"{"background": true, "model":"m"}"#, true),
        (r#"{"st\u006fre":true}"#, true),
        (r#"{"store":false,"background":null}"#, false),
        (r#"{"metadata":{"store":true}}"#, false),
        (r#"{"store":false,"store":true}"#, true),
        (r#"{"store":"true"}"#, false),
        (r#"{"input":"store"}"#, false),
    ] {
        let mut scanner = Scanner::new();
        scanner.push(body.as_bytes()).unwrap();
        assert_eq!(scanner.finish().unwrap().leaves_state, expected, "{body}");
    }
}

#[test]
fn where_values_begin_is_told_at_the_top_level_and_of_several_the_last() {
    for (body, options, unstored) in [
        (r#"{"stream_options": {"a":{}},"store":false}"#, Some(19), true),
        (r#"{"stream_options":1,"stream_option\u0073":[],"store":null}"#, Some(42), false),
        (r#"{"x":{"stream_options":1,"store":false}}"#, None, false),
        (r#"{"store":false,"store":true}"#, None, false),
    ] {
        let scan = scan_every_way(body.as_bytes()).unwrap();
        assert_eq!((scan.stream_options_at, scan.unstored), (options, unstored), "{body}");
    }
}

#[test]
fn a_cache_mark_is_told_at_every_depth_by_its_whole_key() {
    for (body, marked) in [
        (r#"{"cache_control":{}}"#, true),
        (r#"{"messages":[{"content":[{"text":"x", "cache_control" : {"type":"ephemeral"}}]}]}"#, true),
        (r#"{"a":"cache_control","cache_contro":1,"cache_controll":2,"xcache_control":3}"#, false),
        (r#"{"a":"\"cache_control\":{}","\"cache_control":1,"":2}"#, false),
        (r#"{"cache\u005fcontrol":1,"\ncache_control":2}"#, false),
    ] {
        assert_eq!(scan_every_way(body.as_bytes()).unwrap().marked, marked, "{body}");
    }
}

#[test]
fn model_and_stream_are_found_at_the_top_level_only() {
    good("{}", None, None);
    good(" \r\n\t{ } \n", None, None);
    good(r#"{"model":"m"}"#, Some("m"), None);
    good(r#"{"model":""}"#, Some(""), None);
    good(r#"{ "stream" : true , "model" : "a/b" }"#, Some("a/b"), Some(true));
    good(r#"{"messages":[{"model":"x","stream":1}],"model":"y","stream":false}"#, Some("y"), Some(false));
    good(r#"{"a":{"model":1},"b":[["model"]],"c":"model"}"#, None, None);
    good(r#"{"stream":null}"#, None, None);
    good(r#"{"model ":1,"Model":2,"":3,"models":[4],"mode":5}"#, None, None);
}

#[test]
fn escapes_are_decoded_in_keys_and_names() {
    good(r#"{"mod\u0065l":"m\u00e9\"\\\/\n\ud83d\ude00"}"#, Some("mé\"\\/\n😀"), None);
    good(r#"{"\u006D\u006f\u0064\u0065\u006c":"x","str\u0065am":true}"#, Some("x"), Some(true));
    good(r#"{"mod\ud800el":1,"text":"\ud800 is half a pair \uDFFF","model":"é😀"}"#, Some("é😀"), None);
}

#[test]
fn every_kind_of_value_passes() {
    good(
        r#"{"n":[0,-0,1,-12,0.5,1.25e10,1E+2,-3e-4,0e0,123456789012345678901234567890,1e999],"l":[true,false,null],"o":{},"a":[],"aa":[[],[[]],{}],"s":["","\b\f\n\r\t\/\\\"\u0000"]}"#,
        None,
        None,
    );
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    bad("", "the body is empty; a JSON object is expected");
    bad(" \n", "the body is empty; a JSON object is expected");
    bad("[]", "the body is not a JSON object: expected '{' at byte 0");
    bad(" \"x\"", "the body is not a JSON object: expected '{' at byte 1");
    bad("\u{feff}{}", "the body is not a JSON object: expected '{' at byte 0");
    bad("{", "the body is not JSON: it ends after 1 bytes, where a key in double quotes or '}' was expected");
    bad(r#"{"a" 1}"#, "the body is not JSON: expected ':' at byte 5");
    bad(r#"{"a":1,}"#, "the body is not JSON: expected a key in double quotes at byte 7");
    bad(r#"{,}"#, "the body is not JSON: expected a key in double quotes or '}' at byte 1");
    bad(r#"{"a":1 "b":2}"#, "the body is not JSON: expected ',' or '}' at byte 7");
    bad(r#"{"a":[1 2]}"#, "the body is not JSON: expected ',' or ']' at byte 8");
    bad(r#"{"a":[1,]}"#, "the body is not JSON: expected a value at byte 8");
    bad(r#"{"a":[1}"#, "the body is not JSON: expected ',' or ']' at byte 7");
    bad(r#"{"a":{"b":1]"#, "the body is not JSON: expected ',' or '}' at byte 11");
    bad(r#"{"a":}"#, "the body is not JSON: expected a value at byte 5");
    bad(r#"{a:1}"#, "the body is not JSON: expected a key in double quotes or '}' at byte 1");
    bad(r#"{'a':1}"#, "the body is not JSON: expected a key in double quotes or '}' at byte 1");
    bad(r#"{} x"#, "the body is not JSON: expected nothing more at byte 3");
    bad(r#"{}{}"#, "the body is not JSON: expected nothing more at byte 2");
    bad(r#"{"a":tru}"#, "the body is not JSON: expected true, false or null at byte 8");
    bad(r#"{"a":truex}"#, "the body is not JSON: expected ',' or '}' at byte 9");
    bad(r#"{"a":NaN}"#, "the body is not JSON: expected a value at byte 5");
    bad(r#"{"a":+1}"#, "the body is not JSON: expected a value at byte 5");
    bad(r#"{"a":01}"#, "the body is not JSON: expected ',' or '}' at byte 6");
    bad(r#"{"a":-}"#, "the body is not JSON: expected a digit at byte 6");
    bad(r#"{"a":1.}"#, "the body is not JSON: expected a digit at byte 7");
    bad(r#"{"a":1e}"#, "the body is not JSON: expected a digit at byte 7");
    bad(r#"{"a":"\x"}"#, "the body is not JSON: expected one of \"\\/bfnrtu after a backslash at byte 7");
    bad(r#"{"a":"\u12g4"}"#, "the body is not JSON: expected four hex digits after \\u at byte 10");
    bad(
        "{\"a\":\"x\ny\"}",
        "the body is not JSON: expected the rest of a string (control characters must be escaped) at byte 7",
    );
    bad(
        r#"{"a":"x"#,
        "the body is not JSON: it ends after 7 bytes, where the rest of a string (control characters must be escaped) was expected",
    );
    bad(r#"{"a":1 // no"#, "the body is not JSON: expected ',' or '}' at byte 7");
}

#[test]
fn what_routing_could_misread_is_refused() {
    bad(r#"{"model":"a","model":"a"}"#, "the key 'model' stands twice in the body, the second time at byte 13");
    bad(
        r#"{"model":"a","x":[],"m\u006fdel":"b"}"#,
        "the key 'model' stands twice in the body, the second time at byte 20",
    );
    bad(r#"{"stream":null,"stream":true}"#, "the key 'stream' stands twice in the body, the second time at byte 15");
    bad(r#"{"model":1}"#, "'model' must be a string, at byte 9");
    bad(r#"{"model":null}"#, "'model' must be a string, at byte 9");
    bad(r#"{"model":["a"]}"#, "'model' must be a string, at byte 9");
    bad(r#"{"stream":"true"}"#, "'stream' must be true or false, at byte 10");
    bad(r#"{"stream":1}"#, "'stream' must be true or false, at byte 10");
    bad(r#"{"model":"\ud800"}"#, "'model' is not Unicode text, at byte 9");
}

#[test]
fn bad_utf8_is_refused_where_routing_looks() {
    assert_eq!(scan_every_way(b"{\"model\":\"\xff\"}"), Err(ScanError::ModelNotText { at: 9 }));
    let error = scan_every_way(b"{\"mo\xffdel\":\"x\"}").unwrap_err();
    assert_eq!(error.to_string(), "the body is not JSON: expected a key in UTF-8 at byte 1");
}

#[test]
fn names_are_bounded_by_their_decoded_length() {
    for (unit, bytes) in [("x", 1), ("\\u0078", 1), ("é", 2), ("\\ud83d\\ude00", 4)] {
        let fits = MODEL_BYTES_MAX / bytes;
        let body = |count| format!(r#"{{"model":"{}","stream":true}}"#, unit.repeat(count));
        assert_eq!(scan_every_way(body(fits).as_bytes()).unwrap().model.unwrap().name.len(), MODEL_BYTES_MAX);
        assert_eq!(scan_every_way(body(fits + 1).as_bytes()), Err(ScanError::ModelTooLong { at: 9 }));
    }
    let long_key = format!(r#"{{"{}":"x","model":"m"}}"#, "model".repeat(1000));
    assert_eq!(scan(&[long_key.as_bytes()]).unwrap().model.unwrap().name, "m");
}

#[test]
fn a_key_too_long_to_matter_does_not_inherit_the_one_before() {
    let key = "k".repeat(500);
    good(&format!(r#"{{"stream":true,"{key}":7,"model":"m","{key}":[1]}}"#), Some("m"), Some(true));
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
    good(&nested(128), None, None);
    bad(&nested(129), "the body is nested deeper than 128 levels at byte 132");
    bad(&"{\"a\":".repeat(100_000)[..5 * 300], "the body is nested deeper than 128 levels at byte 640");
}

#[test]
fn an_error_stays() {
    let mut scanner = Scanner::new();
    let first = scanner.push(b"{x").unwrap_err();
    assert_eq!(scanner.push(b"\"a\":1}"), Err(first));
    assert_eq!(scanner.finish(), Err(first));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~\n\"\\\\]{0,90}".prop_map(Value::from),
        "[a-c\n\r\t\"\\\\/\u{1}é]{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any_key(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![Just("model".into()), Just("stream".into()), "[a-z_\"\\\\é]{0,8}", any::<String>()]
}

/// A body as agents send it: an object with, mostly, a model and perhaps `stream`.
fn any_body() -> impl Strategy<Value = Value> {
    let members = prop::collection::hash_map(any_key(), any_json(), 0..6);
    (members, any::<Option<String>>(), any::<Option<bool>>()).prop_map(|(members, model, stream)| {
        let mut members: serde_json::Map<_, _> = members.into_iter().collect();
        members.remove("model");
        members.remove("stream");
        members.extend(model.map(|name| ("model".to_owned(), name.chars().take(60).collect::<String>().into())));
        members.extend(stream.map(|stream| ("stream".to_owned(), stream.into())));
        Value::Object(members)
    })
}

fn cut(bytes: &[u8], cuts: &[usize]) -> Body {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    places.sort_unstable();
    let mut body = Body::new();
    places.windows(2).for_each(|ends| body.push(bytes[ends[0]..ends[1]].to_vec().into()));
    body
}

fn scan_body(body: &Body) -> Result<Scan, ScanError> {
    let segments = body.segments();
    scan(&segments.iter().map(|segment| &segment[..]).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_serde_json_and_splices_the_name_alone(
        value in any_body(), pretty in any::<bool>(), cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        let body = cut(&bytes, &cuts);
        let found = scan_body(&body).unwrap();
        prop_assert_eq!(&found, &scan(&[&bytes]).unwrap());
        prop_assert_eq!(found.model.as_ref().map(|model| model.name.as_str()), value.get("model").and_then(Value::as_str));
        prop_assert_eq!(found.stream, value.get("stream").and_then(Value::as_bool));
        if let Some(model) = found.model {
            let spliced = body.edited(vec![(model.range.clone(), bytes::Bytes::from_static(b"\"other/model\""))]).concat();
            prop_assert_eq!(&spliced[..model.range.start], &bytes[..model.range.start]);
            prop_assert_eq!(&spliced[model.range.start + 13..], &bytes[model.range.end..]);
            // Parsed again, since serde_json reads a float's last digit back approximately.
            let mut expected: Value = serde_json::from_slice(&bytes).unwrap();
            expected["model"] = "other/model".into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), expected);
        }
    }

    /// serde_json's own skipping parser checks the same grammar, so the two must agree on anything.
    #[test]
    fn agrees_with_serde_json_on_damaged_bodies(
        value in any_body(), pretty in any::<bool>(),
        hits in prop::collection::vec((any::<usize>(), 0usize..3, damage()), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let mut bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        for (place, kind, byte) in hits {
            let place = place % bytes.len().max(1);
            match kind {
                0 if place < bytes.len() => bytes[place] = byte,
                1 if place < bytes.len() => drop(bytes.remove(place)),
                _ => bytes.insert(place, byte),
            }
        }
        let found = scan(&[&bytes]);
        prop_assert_eq!(&found, &scan_body(&cut(&bytes, &cuts)));
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        match found {
            Ok(_) => prop_assert!(is_json, "{}", String::from_utf8_lossy(&bytes)),
            Err(ScanError::Empty | ScanError::Ended { .. }) => prop_assert!(!is_json),
            Err(ScanError::Syntax { expected, .. }) => {
                prop_assert!(!is_json || expected == "a key in UTF-8", "{}", String::from_utf8_lossy(&bytes));
            }
            Err(_) => {}
        }
    }

    /// Strings as they stand in the bytes, so that escapes are also wrong, cut off and in runs.
    #[test]
    fn agrees_with_serde_json_on_strings_full_of_escapes(
        text in r#"([a-f0-9 ]{0,30}|(\\\\){1,5}|\\["\\/bfnrt]|(\\u[0-9a-fA-F]{4}){1,12}){0,30}(|\\|\\u[0-9a-f]{0,3}|\\[a-z]|["\x00-\x1f])"#,
        rest in r#"([a-f0-9 ]{0,30}|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,20}"#,
        cuts in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let body = format!(r#"{{"text":"{text}{rest}","stream":true}}"#).into_bytes();
        let found = scan(&[&body]);
        prop_assert_eq!(&found, &scan(&body.chunks(1).collect::<Vec<_>>()));
        prop_assert_eq!(&found, &scan_body(&cut(&body, &cuts)));
        prop_assert_eq!(found.is_ok(), serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok());
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(damage(), 0..200), cuts in prop::collection::vec(any::<usize>(), 0..6)) {
        prop_assert_eq!(scan(&[&bytes]), scan_body(&cut(&bytes, &cuts)));
        let object = [b"{", &bytes[..]].concat();
        prop_assert_eq!(scan(&[&object]), scan_body(&cut(&object, &cuts)));
    }
}

fn damage() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(b"{}[]\",:\\0123456789+-.eEtruefalsnu \n\r\t\x00\x1f/bd".to_vec()), any::<u8>()]
}

/// Structural mistakes by hand: whatever serde_json refuses as an object is refused here, but for the exceptions that the
/// module's doc names (none of which a splice or a route depends on).
#[test]
fn refuses_what_serde_json_refuses_but_for_the_documented_exceptions() {
    let left_to_the_engine = [r#"{"a":1e999}"#.as_bytes(), r#"{"a":"\ud800"}"#.as_bytes(), b"{\"a\":\"\xff\"}"];
    for body in left_to_the_engine {
        assert!(scan_every_way(body).is_ok() && serde_json::from_slice::<Value>(body).is_err());
    }
    let seed = r#"{"model":"m","messages":[{"role":"user","content":"a\"b\\"}],"n":-1.5e3,"stream":false,"x":null}"#;
    let serde_accepts = |text: &str| serde_json::from_str::<serde_json::Map<String, Value>>(text).is_ok();
    let mut refused = 0;
    for place in 0..seed.len() {
        let without = [&seed[..place], &seed[place + 1..]].concat();
        let ended = seed[..place].to_owned();
        let doubled = [&seed[..=place], &seed[place..]].concat();
        for mistake in [without, ended, doubled] {
            if !serde_accepts(&mistake) {
                assert!(scan(&[mistake.as_bytes()]).is_err(), "{mistake}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
