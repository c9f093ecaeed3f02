use proptest::prelude::*;

use super::*;

const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";

const LOAD: EngineLoad = EngineLoad {
    running: 0,
    waiting: 0,
    kv_usage: None,
    kv_capacity_tokens: None,
    prefix_queries: None,
    prefix_hits: None,
};

fn of(engine: Engine, model: &str, page: impl AsRef<[u8]>) -> Option<EngineLoad> {
    let mut read = Page::new(engine, model);
    read.push(page.as_ref());
    read.finish()
}

#[track_caller]
fn check(engine: Engine, page: &str, expected: impl Into<Option<EngineLoad>>) {
    assert_eq!(of(engine, MODEL, page), expected.into(), "{page}");
}

const VLLM_PAGE: &str = r#"# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 14237.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 7.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 1.048576e+06
vllm:prefix_cache_queries_created{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 1.7369e+09
vllm:prefix_cache_hits_total{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 524288.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="meta-llama/Llama-3.1-8B-Instruct"} 4.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_cpu_blocks="None",num_gpu_blocks="93750",swap_space="4"} 1.0
"#;

#[test]
fn vllms_page_is_read() {
    let expected = EngineLoad {
        running: 7,
        waiting: 2,
        kv_usage: Some(0.25),
        kv_capacity_tokens: Some(1_500_000),
        prefix_queries: Some(1_048_576),
        prefix_hits: Some(524_288),
    };
    check(Engine::Vllm, VLLM_PAGE, expected);
    for other in [Engine::Sglang, Engine::LlamaCpp, Engine::OpenAi] {
        check(other, VLLM_PAGE, None);
    }
}

#[test]
fn vllms_older_names_are_read() {
    check(
        Engine::Vllm,
        "vllm:num_requests_running 1\nvllm:gpu_cache_usage_perc 0.5\nvllm:gpu_prefix_cache_hits_total 3\n",
        EngineLoad { running: 1, kv_usage: Some(0.5), prefix_hits: Some(3), ..LOAD },
    );
    check(
        Engine::Vllm,
        "vllm:num_requests_running 1\nvllm:gpu_prefix_cache_hits_total 3\nvllm:prefix_cache_hits_total 3\n\
         vllm:gpu_cache_usage_perc 0.5\nvllm:kv_cache_usage_perc 0.5\n",
        EngineLoad { running: 1, kv_usage: Some(0.5), prefix_hits: Some(3), ..LOAD },
    );
}

#[test]
fn sglangs_page_is_read() {
    check(
        Engine::Sglang,
        r#"sglang:num_running_reqs{engine_type="unified",model_name="meta-llama/Llama-3.1-8B-Instruct",pp_rank="0",tp_rank="0"} 3
sglang:num_running_reqs{engine_type="unified",model_name="meta-llama/Llama-3.1-8B-Instruct",pp_rank="0",tp_rank="1"} 3
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 4
sglang:token_usage{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.125
sglang:max_total_num_tokens{model_name="meta-llama/Llama-3.1-8B-Instruct"} 471258.0
sglang:prompt_tokens_total{model_name="meta-llama/Llama-3.1-8B-Instruct"} 100
sglang:cached_tokens_total{cache_source="device",model_name="meta-llama/Llama-3.1-8B-Instruct"} 60
sglang:cached_tokens_total{cache_source="host",model_name="meta-llama/Llama-3.1-8B-Instruct"} 10
"#,
        EngineLoad {
            running: 3,
            waiting: 4,
            kv_usage: Some(0.125),
            kv_capacity_tokens: Some(471_258),
            prefix_queries: Some(100),
            prefix_hits: Some(70),
        },
    );
}

#[test]
fn llama_cpps_page_is_read_with_and_without_its_older_series() {
    let page =
        "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 1\n";
    let expected = EngineLoad { running: 2, waiting: 1, ..LOAD };
    check(Engine::LlamaCpp, page, expected);
    let older = format!("{page}llamacpp:kv_cache_usage_ratio 0.25\nllamacpp:kv_cache_tokens 8192\n");
    let full = EngineLoad { kv_usage: Some(0.25), kv_capacity_tokens: Some(32_768), ..expected };
    check(Engine::LlamaCpp, &older, full);
    // A hundredth that was rounded may have been half or one and a half of it.
    let hardly = format!("{page}llamacpp:kv_cache_usage_ratio 0.01\nllamacpp:kv_cache_tokens 490\n");
    check(Engine::LlamaCpp, &hardly, EngineLoad { kv_usage: Some(0.01), ..expected });
    let idle = format!("{page}llamacpp:kv_cache_usage_ratio 0\nllamacpp:kv_cache_tokens 0\n");
    check(Engine::LlamaCpp, &idle, EngineLoad { kv_usage: Some(0.0), ..expected });
}

#[test]
fn engines_side_by_side_are_added_up_and_the_usage_of_their_caches_is_averaged() {
    let page: String = (0..4)
        .map(|n| {
            format!(
                "vllm:num_requests_running{{engine=\"{n}\"}} {n}\nvllm:num_requests_waiting{{engine=\"{n}\"}} 1\n\
                 vllm:kv_cache_usage_perc{{engine=\"{n}\"}} 0.{n}\n\
                 vllm:cache_config_info{{engine=\"{n}\",block_size=\"16\",num_gpu_blocks=\"100\"}} 1\n"
            )
        })
        .collect();
    let load = of(Engine::Vllm, MODEL, page).unwrap();
    assert_eq!((load.running, load.waiting, load.kv_capacity_tokens), (6, 4, Some(6_400)));
    assert!((load.kv_usage.unwrap() - 0.15).abs() < 1e-9);
}

#[test]
fn a_cache_whose_tokens_are_told_is_taken_at_its_word_and_one_not_yet_measured_says_nothing() {
    let page = |labels: &str| format!("vllm:num_requests_running 0\nvllm:cache_config_info{{{labels}}} 1\n");
    for (labels, tokens) in [
        (r#"block_size="16",num_gpu_blocks="10",kv_cache_size_tokens="100""#, Some(100)),
        (r#"block_size="16",num_gpu_blocks="10",kv_cache_size_tokens="None""#, Some(160)),
        (r#"block_size="16",num_gpu_blocks="None""#, None),
        (r#"block_size="16",num_gpu_blocks="0""#, None),
        (r#"block_size="16""#, None),
        ("", None),
    ] {
        check(Engine::Vllm, &page(labels), EngineLoad { kv_capacity_tokens: tokens, ..LOAD });
    }
}

#[test]
fn only_the_pools_model_counts_and_one_by_another_name_where_it_is_alone() {
    let of_model =
        |model: &str, running: u32| format!("vllm:num_requests_running{{model_name=\"{model}\"}} {running}\n");
    let config = "vllm:cache_config_info{block_size=\"2\",num_gpu_blocks=\"3\"} 1\n";
    let (own, a, b) = (of_model(MODEL, 1), of_model("a", 2), of_model("b", 4));
    let load = |running| EngineLoad { running, ..LOAD };
    check(Engine::Vllm, &format!("{a}{own}{b}"), load(1));
    check(Engine::Vllm, &format!("{a}{a}{config}"), EngineLoad { kv_capacity_tokens: Some(6), ..load(4) });
    check(Engine::Vllm, &format!("{a}{b}"), None);
    check(Engine::Vllm, &format!("{a}{b}{a}"), None);
}

#[test]
fn labels_are_read_with_their_escapes_and_values_as_floats_are_written() {
    let page = "vllm:num_requests_running { a = \"}\\\\\" , model_name=\"a\\\"\\n\\\\b\", } 1.2e1 1395066363000\n";
    assert_eq!(of(Engine::Vllm, "a\"\n\\b", page), Some(EngineLoad { running: 12, ..LOAD }));
    #[rustfmt::skip]
    let values = [("3", 3), ("3.0", 3), ("+3", 3), (".3e1", 3), ("1e300", u32::MAX), ("-0", 0), ("2.6", 3)];
    for (value, running) in values {
        check(
            Engine::Vllm,
            &format!("vllm:num_requests_running\t{value} # {{x=\"y\"}} 1\r\n"),
            EngineLoad { running, ..LOAD },
        );
    }
}

#[test]
fn what_tells_nothing_counts_for_nothing() {
    for line in [
        "",
        "vllm:num_requests_running",
        "vllm:num_requests_running ",
        "vllm:num_requests_running NaN",
        "vllm:num_requests_running +Inf",
        "vllm:num_requests_running -1",
        "vllm:num_requests_running one",
        "vllm:num_requests_running{",
        "vllm:num_requests_running{a",
        "vllm:num_requests_running{a=",
        "vllm:num_requests_running{a=\"",
        "vllm:num_requests_running{a=\"\\",
        "vllm:num_requests_running{a=\"b\"",
        "vllm:num_requests_running{a=\"b\"}",
        "vllm:num_requests_running{a=b} 1",
        "vllm:num_requests_running_total 1",
        "vllm:num_requests 1",
        "# vllm:num_requests_running 1",
        "num_requests_running 1",
        "vllm:kv_cache_usage_perc 0.5",
        "<html>vllm:num_requests_running 1</html>",
    ] {
        check(Engine::Vllm, &format!("{line}\n"), None);
    }
    let page = "vllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc NaN\nvllm:kv_cache_usage_perc 1.5\n";
    check(Engine::Vllm, page, EngineLoad { waiting: 1, kv_usage: Some(1.0), ..LOAD });
}

#[test]
fn the_last_line_needs_no_end() {
    check(Engine::Vllm, "vllm:num_requests_running 1", EngineLoad { running: 1, ..LOAD });
}

#[test]
fn a_line_without_end_is_passed_over_and_nothing_of_it_kept() {
    let mut page = Page::new(Engine::Vllm, MODEL);
    page.push(b"vllm:num_requests_running{a=\"");
    for _ in 0..PAGE_BYTES_MAX / 1024 {
        page.push(&[b'x'; 1024]);
        assert!(page.lines.held_bytes() <= lines::LINE_BYTES_MAX);
    }
    page.push(b"\"} 5\nvllm:num_requests_waiting 1");
    assert_eq!(page.finish(), Some(EngineLoad { waiting: 1, ..LOAD }));
}

#[test]
fn a_series_with_more_labels_than_any_engine_has_is_passed_over() {
    let with = |labels: usize| format!("vllm:num_requests_running{{{}}} 1\n", "a=\"b\",".repeat(labels));
    check(Engine::Vllm, &with(100), EngineLoad { running: 1, ..LOAD });
    check(Engine::Vllm, &with(200), None);
}

/// Lines as they are, broken ones, and bytes.
fn rubbish() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "vllm:num_requests_running",
        "vllm:cache_config_info",
        "vllm:kv_cache_usage_perc",
        "{",
        "}",
        "\"",
        "\\",
        "=",
        ",",
        " ",
        "\n",
        "\r\n",
        "NaN",
        "+Inf",
        "1e999",
        "-3",
        "0.5",
        "block_size=\"16\"",
        "num_gpu_blocks=\"18446744073709551615\"",
        "model_name=\"a\"",
        "model_name=\"b\"",
        "tp_rank=\"1\"",
        "#",
        "\u{0}",
        "ü",
    ]);
    let word = prop_oneof![
        4 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(word, 0..80).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whatever_comes_is_read_without_a_panic_and_the_same_in_any_pieces(
        page in rubbish(), cuts in prop::collection::vec(0usize..400, 0..6), whole in any::<bool>(),
    ) {
        let page = if whole { [VLLM_PAGE.as_bytes(), &page].concat() } else { page };
        for engine in [Engine::Vllm, Engine::Sglang, Engine::LlamaCpp, Engine::OpenAi] {
            let mut pieces = Page::new(engine, MODEL);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(page.len())).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts.into_iter().chain([page.len()]) {
                pieces.push(&page[from..cut]);
                from = cut;
            }
            let load = pieces.finish();
            prop_assert_eq!(load, of(engine, MODEL, &page));
            if let Some(usage) = load.and_then(|load| load.kv_usage) {
                prop_assert!((0.0..=1.0).contains(&usage), "{usage}");
            }
        }
    }
}
