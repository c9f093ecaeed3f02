//! The reference and the code say the same; hostile input ends in diagnostics; pushes stay within the running config.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::check::Outside;
use super::raw::{Document, Report};
use super::*;
use crate::domain::topology::Credential;
use crate::policy::affinity;

const REFERENCE: &str = include_str!("../../conf/edge.toml");

const SMALL: &str = r#"
[edge]
name = "e"
region = "r"
listen = ["127.0.0.1:0"]
[regions]
r = { latitude = 0, longitude = 0.5 }
[models.m]
[[pools]]
name = "p"
region = "r"
model = "m"
engine = "openai"
replicas = ["http://h:1"]
"#;

fn no_env(_: &str) -> Option<String> {
    None
}

fn some_env(name: &str) -> Option<String> {
    ["TOKEN", "KEY"].contains(&name).then(|| format!("secret-{name}"))
}

fn read(text: &str) -> Result<Config, Diagnostics> {
    parse("test.toml", text, Path::new(""), &some_env)
}

#[track_caller]
fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn small_with(more: &str) -> String {
    format!("{SMALL}{more}")
}

fn messages(result: Result<Config, Diagnostics>) -> Vec<String> {
    result.expect_err("an error").iter().map(|diagnostic| diagnostic.message.clone()).collect()
}

#[test]
fn the_reference_is_valid_and_its_knobs_are_the_defaults() {
    let (reference, small) = (good(REFERENCE), good(SMALL));
    assert_eq!(reference.sessions, small.sessions);
    assert_eq!(reference.health, small.health);
    assert_eq!(reference.engine_metrics, small.engine_metrics);
    assert_eq!(reference.circuit_breaker, small.circuit_breaker);
    assert_eq!(reference.retry, small.retry);
    assert_eq!(reference.retry_budget, small.retry_budget);
    assert_eq!(reference.hedging, small.hedging);
    assert_eq!(reference.timeouts, small.timeouts);
    assert_eq!(reference.limits, small.limits);
    assert_eq!(reference.geo, small.geo);
    assert_eq!(reference.access_log, small.access_log);
    assert_eq!(reference.tracing, small.tracing);
    assert_eq!(reference.topology.pools[0].max_in_flight, small.topology.pools[0].max_in_flight);
    assert_eq!(reference.topology.pools[0].queue, small.topology.pools[0].queue);
    assert_eq!(reference.topology.pools[0].queue_timeout, small.topology.pools[0].queue_timeout);
    assert_eq!(reference.topology.pools.len(), 8);
}

/// The reference's comment above a key and the key's own line; `path` is `retry.attempts`, `pools.api_key.env`, ….
fn reference_of(path: &str) -> Option<String> {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let (section, key) = match section {
        "pools.replicas"
        | "pools.api_key"
        | "pools.price_per_million_tokens"
        | "edge.admin_token"
        | "tracing.headers.*"
        | "regions.*" => {
            return REFERENCE.contains(&format!("{key} = ")).then(|| REFERENCE.to_owned());
        }
        "" => return REFERENCE.contains(&format!("[{key}")).then(|| REFERENCE.to_owned()),
        "edge" if key == "tls" => return REFERENCE.contains("# [edge.tls]").then(|| REFERENCE.to_owned()),
        "models.*" => ("[models.", key),
        section => (section, key),
    };
    let headers = ["[models.".to_owned(), format!("[{section}]"), format!("[[{section}]]"), format!("# [{section}]")];
    let mut comment = String::new();
    let mut inside = false;
    for line in REFERENCE.lines() {
        if line.starts_with('[') || line.starts_with("# [") {
            inside = headers.iter().any(|header| line == header || (section == "[models." && line.contains(section)));
        }
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if inside && bare.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = ")) {
            return Some(comment + line);
        }
        match line.starts_with('#') {
            true => comment += &format!("{line}\n"),
            false => comment.clear(),
        }
    }
    None
}

#[test]
fn every_known_key_stands_in_the_reference_with_its_bounds() {
    let text = REFERENCE
        .replace("# admin_token", "admin_token")
        .replace("# api_key", "api_key")
        .replace("# price_per", "price_per")
        .replace("# [edge.tls]", "[edge.tls]")
        .replace("# listen", "listen");
    let report = Report::default();
    let document = Document::parse(&text, &report).expect("TOML");
    let env: &Env<'_> = &some_env;
    check::config(&document.root(&report), Outside::new(Path::new(""), env, None), String::new());
    let asked = report.asked.take();
    assert!(asked.len() > 60, "{}", asked.len());
    for (path, bounds) in asked {
        let Some(comment) = reference_of(&path) else { panic!("conf/edge.toml does not mention {path}") };
        if let Some(bounds) = bounds {
            assert!(comment.contains(&bounds), "conf/edge.toml does not say `{bounds}` at {path}:\n{comment}");
        }
    }
}

#[test]
fn an_alias_belongs_to_its_model_and_leads_to_it() {
    let config = good(&SMALL.replace("[models.m]", "[models.m]\naliases = [\"small\", \"tiny\"]"));
    assert_eq!(config.topology.models[0].aliases, ["small", "tiny"]);
    assert_eq!(config.topology.model_names["tiny"], config.topology.model_names["m"]);
}

#[test]
fn secrets_come_from_outside_and_are_never_printed() {
    let text = SMALL.replace("listen =", "admin_token = { env = \"TOKEN\" }\nlisten =");
    let config = good(&format!("{text}api_key = {{ env = \"KEY\" }}\n"));
    assert!(matches!(&config.topology.pools[0].credential, Credential::Key(key) if key == "secret-KEY"));
    assert_eq!(config.admin_token, Some(Secret("secret-TOKEN".into())));
    assert!(!format!("{config:?}").contains("secret-"));
    assert!(matches!(good(&small_with("api_key = \"pass\"")).topology.pools[0].credential, Credential::Pass));
}

#[test]
fn a_secret_written_out_is_masked_in_every_diagnostic() {
    for line in [
        "api_key = \"sk-live-1\"",
        "api_key = \"sk-live-1",
        "api_key = { env = \"sk-live-1\" }",
        "api_key = 'sk-live-1'",
        "api_key = { key = \"sk-live-1\" }",
        "api_key = { env = [\"sk-live-1\"] }",
        "api_key = [\"sk-live-1\"]",
        "api_key = sk-live-1",
        "replicas = [\"http://user:sk-live-1@h\"]",
    ] {
        let text = SMALL.replace("replicas = [\"http://h:1\"]", line);
        let shown = read(&text).expect_err(line).to_string();
        assert!(!shown.contains("sk-live"), "{line}:\n{shown}");
    }
}

#[test]
fn replicas_are_named_by_their_canonical_url_and_keyed_by_pool_and_name() {
    let config = good(&SMALL.replace("[\"http://h:1\"]", "[\"http://H:80/\", { name = \"b\", url = \"https://h\" }]"));
    let [first, second] = &config.topology.replicas[..] else { panic!("two replicas") };
    assert_eq!(first.name, affinity::replica_name("http://h"));
    assert_eq!((first.key, second.key), (affinity::replica_key("p", &first.name), affinity::replica_key("p", "b")));
    assert_eq!((second.address.tls, second.address.port, second.address.http2), (true, 443, false));
    assert!(good(&small_with("http2 = true")).topology.replicas[0].address.http2);
}

#[test]
fn a_model_on_a_kind_of_gpu_takes_the_matching_pools_that_serve_the_same() {
    let pool = |name: &str, gpu: &str, port: u16| {
        format!(
            "[[pools]]\nname = \"{name}\"\nregion = \"r\"\nmodel = \"m\"\nengine = \"vllm\"\ngpu = \"{gpu}\"\n\
             replicas = [\"http://h:{port}\"]\n"
        )
    };
    let models = "[models.m]\nserved_as = \"x\"\n[models.h]\nserved_as = \"x\"\ngpu = \"H100\"\n";
    let text = SMALL.replace("[models.m]\n", models);
    let config = good(&format!("{text}{}{}", pool("a", "A100 80GB", 2), pool("h", "H100 80GB", 3)));
    let pools = |name: &str| {
        let model = config.topology.model(config.topology.model_names[name]);
        model.pools.iter().map(|pool| config.topology.pool(*pool).name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((pools("m"), pools("h")), (vec!["p", "a", "h"], vec!["h"]));
}

#[test]
fn a_default_yields_to_what_is_written_and_two_written_values_must_agree() {
    let config = good(&small_with("[timeouts]\ntotal = \"5s\"\n[retry]\nattempts = 1\n"));
    assert_eq!((config.timeouts.first_byte, config.timeouts.answer), (Duration::from_secs(5), Duration::from_secs(5)));
    assert_eq!(config.retry.attempts_per_pool, 1);
    let both = small_with("[timeouts]\ntotal = \"5s\"\nfirst_byte = \"6s\"\n");
    assert_eq!(messages(read(&both)), ["`timeouts.first_byte` must not be above `timeouts.total` (5s)"]);
}

#[test]
fn what_is_no_config_is_refused_with_a_reason() {
    let errors = |bytes: &[u8]| text_of("f", bytes).and_then(|text| parse("f", text, Path::new(""), &no_env));
    assert_eq!(messages(errors(b"")), ["the config is empty"]);
    assert_eq!(messages(errors(b" \n\t\r\n")), ["the config is empty"]);
    assert_eq!(messages(errors(b"\x7fELF\0\0")), ["this is a binary file, not a config"]);
    assert_eq!(messages(errors(b"a = 1\nb = \"\xff\"")), ["line 2 is not UTF-8"]);
    assert_eq!(messages(errors(&vec![b' '; FILE_BYTES_MAX + 1])), ["the config is larger than 1 MiB"]);
    assert_eq!(messages(errors(b"# nothing\n")).len(), 4, "four sections are missing");
    let missing = load(Path::new("no/such.toml"), &no_env).expect_err("missing");
    assert!(missing.to_string().starts_with("no/such.toml: error: the config cannot be read: there is no such file\n"));
    assert_eq!(messages(load(Path::new("src"), &no_env)), ["this is a directory, not a config"]);
}

#[test]
fn a_byte_order_mark_and_dos_line_ends_are_no_matter() {
    let config = good(&format!("\u{feff}{}", SMALL.replace('\n', "\r\n")));
    assert_eq!(config.topology.pools.len(), 1);
    assert_ne!(config.hash, good(SMALL).hash);
}

#[test]
fn a_push_may_not_introduce_what_the_running_config_lacks() {
    let running = good(&small_with("api_key = { env = \"KEY\" }\n"));
    let looked = std::cell::Cell::new(0);
    let env = |name: &str| {
        looked.set(looked.get() + 1);
        some_env(name)
    };
    let push = |text: &str| parse_push("pushed", text, Path::new(""), &env, &running);
    assert!(push(&small_with("api_key = { env = \"KEY\" }\ncost_per_hour = 1\n")).is_ok());
    let before = looked.get();
    let secret = "a pushed config may not introduce a secret";
    let path = "a pushed config may not introduce a path";
    let link_local = "a pushed config may not introduce a link-local address";
    assert_eq!(messages(push(&small_with("api_key = { env = \"TOKEN\" }\n"))), [secret]);
    assert_eq!(messages(push(&small_with("api_key = { file = \"Cargo.toml\" }\n"))), [path]);
    assert_eq!(messages(push(&small_with("[geo]\ndatabase = \"Cargo.toml\"\n"))), [path]);
    // A secret that is shown to replicas is not thereby the admin listener's, nor the other way round.
    assert_eq!(messages(push(&SMALL.replace("listen =", "admin_token = { env = \"KEY\" }\nlisten ="))), [secret]);
    for host in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"] {
        assert_eq!(messages(push(&SMALL.replace("http://h:1", &format!("http://{host}")))), [link_local], "{host}");
    }
    assert_eq!(looked.get(), before, "nothing was looked up for a refused push");
}

#[test]
fn listeners_need_a_restart_and_nothing_else_does() {
    let old = good(SMALL);
    let with = |from: &str, to: &str| restart_needed(&old, &good(&SMALL.replace(from, to)));
    assert_eq!(with("http://h:1", "http://h:2"), Vec::<String>::new());
    assert_eq!(with("127.0.0.1:0", "127.0.0.1:81"), ["edge.listen"]);
    assert_eq!(with("listen =", "admin = \"127.0.0.1:9901\"\nlisten ="), ["edge.admin"]);
}

/// What stands in the place of a stretch of the reference.
fn replacement() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[\\[\\]{}=\"'.,#\n ]{1,6}",
        "\\PC{0,8}",
        "[0-9_.eE+-]{1,30}",
        Just("\u{0}\t\r\u{feff}東".to_owned()),
        Just("[[pools]]\n".to_owned()),
        Just("a.".repeat(100)),
        Just("[".repeat(300)),
        Just("{a=".repeat(300)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_mutation_of_the_reference_panics(
        edits in prop::collection::vec((0..REFERENCE.len(), 0..40usize, replacement()), 1..6),
    ) {
        let mut text: Vec<char> = REFERENCE.chars().collect();
        for (at, length, with) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, with.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = read(&text) {
            prop_assert!(errors.iter().count() > 0);
            prop_assert!(errors.to_string().starts_with("test.toml"));
            prop_assert!(errors.iter().zip(errors.iter().skip(1)).all(|(a, b)| a.line <= b.line));
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = read(&text);
    }
}

/// Rules that name the last of so many regions.
fn many_regions_with_rules(count: usize) -> String {
    let regions: String = (0..count).map(|n| format!("z{n:05} = {{ latitude = 0, longitude = 0 }}\n")).collect();
    let last = format!("z{:05}", count - 1);
    let rules = format!("[geo]\nresidency = {{ \"union:EU\" = [\"{last}\"] }}\nresidency_unknown = [\"{last}\"]\n");
    SMALL.replace("[regions]\n", &format!("{rules}[regions]\n{regions}"))
}

#[test]
fn more_regions_than_there_may_be_are_refused_also_where_rules_name_them() {
    for (count, is_good) in [(127, true), (128, false), (129, false), (300, false)] {
        let parsed = parse("c.toml", &many_regions_with_rules(count), Path::new(""), &|_| None);
        let said =
            parsed.map_or_else(|errors| errors.iter().map(|error| error.message.clone()).collect(), |_| Vec::new());
        let expected = if is_good { vec![] } else { vec![format!("there are {} regions, more than 128", count + 1)] };
        assert_eq!(said, expected, "{count}");
    }
}

#[test]
fn hostile_texts_of_full_size_end_in_few_words() {
    let full = |part: &str| part.repeat(FILE_BYTES_MAX / part.len());
    for text in [
        full("["),
        full("a."),
        full("{a="),
        full("[[pools]]\n"),
        full("\"\n"),
        full("x=1\n"),
        full("api_key = "),
        format!("a = {}", full("[")),
        format!("{SMALL}[nonsense]\n{}", (0..60_000).map(|n| format!("k{n}=1\n")).collect::<String>()),
        format!("[regions]\n{}", (0..40_000).map(|n| format!("r{n}={{}}\n")).collect::<String>()),
        many_regions_with_rules(10_000),
        format!("{SMALL}dialects = [{}]", full("\"chat\",")).chars().take(FILE_BYTES_MAX).collect(),
    ] {
        // What grew with the square of the text would not end within the patience of whoever runs this.
        let errors = read(&text).expect_err("hostile").to_string();
        assert!(errors.len() < 100_000, "{} bytes of errors", errors.len());
    }
}
