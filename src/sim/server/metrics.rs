//! `GET /metrics`, under vLLM's names, and `GET /gpu/metrics`, under those of NVIDIA's exporter (DCGM).

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

/// The exposition of a GPU exporter: each of the replica's GPUs is as busy as its engine (0 to 1), in whole percent.
pub(super) fn gpu_text(replica: &str, gpus: u32, utilization: f64) -> String {
    let percent = (utilization * 100.0).round();
    let mut out = "# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).\n# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n".to_owned();
    for gpu in 0..gpus {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "DCGM_FI_DEV_GPU_UTIL{{gpu=\"{gpu}\",UUID=\"GPU-{replica}-{gpu}\",device=\"nvidia{gpu}\",\
             modelName=\"NVIDIA H100 80GB HBM3\",Hostname=\"{replica}\"}} {percent}"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gpu_has_its_line() {
        let page = gpu_text("a", 2, 0.734);
        let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",UUID=\"GPU-a-1\",device=\"nvidia1\","));
        assert!(lines.iter().all(|line| line.ends_with("Hostname=\"a\"} 73")), "{page}");
    }
}
