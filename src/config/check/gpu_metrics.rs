//! A replica's `gpu_metrics` and `gpus`: who tells how busy its GPUs are, and which they are.

use super::outside::Outside;
use super::url;
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report, Table};
use crate::domain::topology::GpuMetrics;

/// Most GPUs of one replica: the largest engines span some hosts of eight.
const GPUS_MAX: usize = 64;

/// Longest name of a GPU: a UUID has 40 characters.
const GPU_CHARS_MAX: usize = 64;

/// Reads both keys of a replica's table.
pub(super) fn check(table: &Table<'_>, outside: &Outside<'_>) -> Option<GpuMetrics> {
    let (report, page, gpus) = (table.report(), table.text("gpu_metrics"), table.get("gpus"));
    let Some(url) = page else {
        if let Some(gpus) = gpus {
            let hint = "name the exporter's page, as gpu_metrics = \"http://10.0.1.12:9400/metrics\"";
            report.error(&gpus.span(), "`gpus` has no `gpu_metrics` beside it", hint);
        }
        return None;
    };
    if let Some(gpus) = gpus.as_ref().filter(|gpus| gpus.is_empty_list()) {
        report.error(&gpus.span(), "`gpus` is empty", "leave the key out for all that the page tells of");
    }
    let gpus = gpus.map(|gpus| gpus.items()).unwrap_or_default();
    if gpus.len() > GPUS_MAX {
        let message = format!("more than {GPUS_MAX} GPUs of one replica");
        report.error(&gpus[GPUS_MAX].span(), message, "name those that its engine runs on");
    }
    let gpus = gpus.iter().take(GPUS_MAX).filter_map(|gpu| gpu_name(&gpu.text()?, report)).collect();
    match url::page(url.value) {
        Ok(page) => {
            outside.link_local(&page, &url, report);
            Some(GpuMetrics { page, gpus })
        }
        Err(refusal) => {
            if refusal.secret {
                report.mask(&url.span);
            }
            report.error(&url.span, refusal.message, refusal.hint);
            None
        }
    }
}

fn gpu_name(name: &At<&str>, report: &Report) -> Option<String> {
    if (1..=GPU_CHARS_MAX).contains(&name.value.len()) && name.value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(name.value.to_owned());
    }
    let hint =
        "write its number on the host or its UUID, as the exporter's labels `gpu` and `UUID` have them: [\"0\", \"1\"]";
    report.error(&name.span, format!("{} names no GPU", quoted(name.value)), hint);
    None
}
