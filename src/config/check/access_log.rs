//! `[access_log]`: where requests are logged.

use super::outside::Outside;
use crate::config::raw::{Bytes, Knob, Table};
use crate::config::values::AccessLog;

const ROTATE_AT: Knob<Bytes> = Knob {
    key: "rotate_at",
    default: Bytes(256 << 20),
    min: Bytes(64 << 10),
    max: Bytes(1 << 40),
    why: "a line has about 800 bytes, and lines are written up to 64 KiB at a time",
};

const KEEP: Knob<u32> = Knob {
    key: "keep",
    default: 5,
    min: 1,
    max: 1_000,
    why: "files set aside; together with the one being written they take `keep` + 1 times `rotate_at` of the disk",
};

/// Checks `[access_log]`.
pub(super) fn check(root: &Table<'_>, outside: &Outside<'_>) -> AccessLog {
    let (section, report) = (root.section("access_log"), root.report());
    let file = section.text("file");
    let (rotate_at, keep) = (section.knob(&ROTATE_AT), section.knob(&KEEP));
    if file.is_none() {
        for key in [KEEP.key, ROTATE_AT.key] {
            if let Some(value) = section.get(key) {
                let message = format!("`access_log.{key}` says nothing without `file`");
                report.error(&value.span(), message, "name the file, or remove the key: standard output has no size");
            }
        }
    }
    AccessLog {
        file: file.and_then(|file| outside.written("access_log.file", &file, report)),
        rotate_at_bytes: rotate_at.value.0 as u64,
        keep: keep.value,
    }
}
