//! A GPU exporter's metrics: how busy the GPUs of one replica are.
//!
//! Three exporters' names are known: NVIDIA's (DCGM), its finer one for GPUs that are split (MIG), which tell no
//! `GPU_UTIL`, and AMD's. The first of them that a page has counts, as the mean over its GPUs: a model that is spread over
//! several uses them in step, and one GPU that idles is a part of the replica that idles.
//!
//! An exporter tells of a whole host. Where other replicas run there too, only the GPUs that are named belong to this one:
//! by their number on the host or by their UUID, as the exporter's labels have them.

use super::lines::Lines;
use super::series::{Sample, read};

/// A name, and what its value says of a GPU that is busy all the time.
const FAMILIES: [(&[u8], f64); 4] = [
    (b"DCGM_FI_DEV_GPU_UTIL", 100.0),
    (b"DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1.0),
    (b"gpu_gfx_activity", 100.0),
    // The same with the prefix that AMD's exporter may be given.
    (b"amd_gpu_gfx_activity", 100.0),
];

/// Labels that name a GPU.
const NAMES: [&[u8]; 4] = [b"gpu", b"UUID", b"gpu_id", b"gpu_uuid"];

/// Reads one page, in whatever pieces it comes.
#[derive(Debug)]
pub struct GpuPage {
    lines: Lines,
    samples: Samples,
}

#[derive(Debug)]
struct Samples {
    /// Those that count; all if it is empty.
    gpus: Vec<String>,
    /// By family, the sum of the shares and of how many.
    sums: [(f64, u32); FAMILIES.len()],
}

impl GpuPage {
    /// A page of which these GPUs count, by number or UUID; all if none is named.
    pub fn new(gpus: &[String]) -> GpuPage {
        let samples = Samples { gpus: gpus.to_vec(), sums: Default::default() };
        GpuPage { lines: Lines::default(), samples }
    }

    /// The next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let GpuPage { lines, samples } = self;
        lines.push(piece, |line| samples.line(line));
    }

    /// The share of time in which the GPUs were busy, 0 to 1; `None` where the page does not tell of them.
    pub fn finish(self) -> Option<f64> {
        let GpuPage { lines, mut samples } = self;
        lines.finish(|line| samples.line(line));
        let told = samples.sums.into_iter().find(|(_, gpus)| *gpus > 0);
        told.map(|(sum, gpus)| sum / f64::from(gpus))
    }
}

impl Samples {
    fn line(&mut self, line: &[u8]) {
        let Some(end) = line.iter().position(|byte| matches!(byte, b'{' | b' ' | b'\t')) else { return };
        let (name, rest) = line.split_at(end);
        let Some(family) = FAMILIES.iter().position(|(known, _)| *known == name) else { return };
        let Some(sample) = read(rest).filter(|sample| self.is_meant(sample)) else { return };
        let (sum, gpus) = &mut self.sums[family];
        *sum += (sample.value / FAMILIES[family].1).min(1.0);
        *gpus += 1;
    }

    fn is_meant(&self, sample: &Sample<'_>) -> bool {
        let is_named = |label: &[u8]| self.gpus.iter().any(|gpu| gpu.as_bytes() == label);
        self.gpus.is_empty() || NAMES.iter().filter_map(|name| sample.label(name)).any(is_named)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DCGM: &str = r#"# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="h"} 1980
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="h"} 90
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="h"} 70
DCGM_FI_DEV_GPU_UTIL{gpu="10",UUID="GPU-c",device="nvidia10",modelName="NVIDIA H100 80GB HBM3",Hostname="h"} 5
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a",device="nvidia0"} 0.111
"#;

    fn of(gpus: &[&str], page: impl AsRef<[u8]>) -> Option<f64> {
        let mut read = GpuPage::new(&gpus.iter().map(|gpu| (*gpu).to_owned()).collect::<Vec<_>>());
        read.push(page.as_ref());
        read.finish()
    }

    #[track_caller]
    fn check(gpus: &[&str], page: &str, expected: impl Into<Option<f64>>) {
        let (found, expected) = (of(gpus, page), expected.into());
        let close = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() < 1e-12,
            (found, expected) => found == expected,
        };
        assert!(close, "{found:?}, expected {expected:?} of {page}");
    }

    #[test]
    fn a_pages_gpus_are_averaged() {
        check(&[], DCGM, 0.55);
        check(&[], "DCGM_FI_DEV_GPU_UTIL 37\n", 0.37);
        check(&[], "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 0", 0.0);
    }

    #[test]
    fn only_those_count_that_are_named_by_number_or_uuid() {
        check(&["0", "1"], DCGM, 0.8);
        check(&["1"], DCGM, 0.7);
        check(&["GPU-c"], DCGM, 0.05);
        check(&["0", "GPU-a"], DCGM, 0.9);
        check(&["2"], DCGM, None);
        check(&["nvidia0"], DCGM, None);
    }

    #[test]
    fn split_gpus_and_amds_are_read_too() {
        let split = "DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",GPU_I_ID=\"1\"} 0.5\n\
                     DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",GPU_I_ID=\"2\"} 1\n";
        check(&["0"], split, 0.75);
        for prefix in ["", "amd_"] {
            let page = format!("{prefix}gpu_gfx_activity{{gpu_id=\"3\",gpu_uuid=\"x\",card_model=\"m\"}} 42\n");
            check(&[], &page, 0.42);
            check(&["3"], &page, 0.42);
            check(&["x"], &page, 0.42);
        }
    }

    #[test]
    fn what_tells_nothing_of_gpus_has_no_utilisation() {
        for page in [
            "",
            "\n\n",
            "# DCGM_FI_DEV_GPU_UTIL 3",
            "DCGM_FI_DEV_GPU_UTIL",
            "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"}",
            "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\" 3",
            "DCGM_FI_DEV_GPU_UTIL -1",
            "DCGM_FI_DEV_GPU_UTIL NaN",
            "DCGM_FI_DEV_GPU_UTIL +Inf",
            "DCGM_FI_DEV_GPU_UTIL_X 3",
            "DCGM_FI_DEV_MEM_COPY_UTIL 3",
            "<html>",
        ] {
            check(&[], page, None);
        }
        check(&[], "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 250\n", 1.0);
    }

    #[test]
    fn pieces_make_no_difference() {
        for at in 0..DCGM.len() {
            let mut read = GpuPage::new(&[]);
            read.push(&DCGM.as_bytes()[..at]);
            read.push(&DCGM.as_bytes()[at..]);
            assert_eq!(read.finish(), of(&[], DCGM), "{at}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_share_or_nothing(page in prop::collection::vec(any::<u8>(), 0..200), value in any::<f64>()) {
            let page = [&b"DCGM_FI_DEV_GPU_UTIL "[..], value.to_string().as_bytes(), b"\n", &page].concat();
            prop_assert!(of(&[], page).is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
    }
}
