//! `GET /metrics`, under vLLM's names.

use std::fmt::Write;

use super::replica::ServerStats;

/// The exposition of one engine.
pub(super) fn text(model: &str, stats: &ServerStats) -> String {
    let engine = &stats.engine;
    let labels = format!("engine=\"0\",model_name=\"{}\"", model.replace('\\', "\\\\").replace('"', "\\\""));
    let series = [
        ("num_requests_running", "gauge", engine.running as f64),
        ("num_requests_waiting", "gauge", engine.waiting as f64),
        ("kv_cache_usage_perc", "gauge", engine.kv_usage_ratio),
        ("prefix_cache_queries_total", "counter", engine.prefix_queries as f64),
        ("prefix_cache_hits_total", "counter", engine.prefix_hits as f64),
        ("generation_tokens_total", "counter", engine.output_tokens as f64),
    ];
    let mut out = String::new();
    for (name, kind, value) in series {
        // Writing to a string cannot fail.
        let _ =
            write!(out, "# HELP vllm:{name} Simulated.\n# TYPE vllm:{name} {kind}\nvllm:{name}{{{labels}}} {value}\n");
    }
    let _ = write!(
        out,
        "# HELP vllm:cache_config_info Simulated.\n# TYPE vllm:cache_config_info gauge\n\
         vllm:cache_config_info{{block_size=\"{}\",num_gpu_blocks=\"{}\",{labels}}} 1\n",
        engine.block_size, engine.num_gpu_blocks
    );
    out
}
