//! What the file refers to outside of itself: environment variables and files.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::diagnostic::quoted;
use crate::config::entry::{Env, reason};
use crate::config::raw::{At, Report, Value};
use crate::config::values::References;
use crate::domain::topology::ReplicaAddress;

/// Longest secret and longest PEM file in bytes; a chain of certificates has a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest secret: it goes into a header.
const SECRET_CHARS_MAX: usize = 4096;

const PUSH_HINT: &str =
    "a pushed config may use only what the running one uses in the same place; put it into the file on the edge first";

/// The outside as this config may see it, and what it has used of it.
pub(in crate::config) struct Outside<'a> {
    base: &'a Path,
    env: &'a Env<'a>,
    running: Option<&'a References>,
    used: RefCell<References>,
}

impl<'a> Outside<'a> {
    /// `running` is what the running config refers to, when this one is a push.
    pub(in crate::config) fn new(base: &'a Path, env: &'a Env<'a>, running: Option<&'a References>) -> Outside<'a> {
        Outside { base, env, running, used: RefCell::default() }
    }

    /// Everything that was referred to.
    pub(super) fn into_references(self) -> References {
        self.used.into_inner()
    }

    /// The secret that `{ env = "NAME" }` or `{ file = "…" }` stands for, under this key.
    pub(super) fn secret(&self, key: &'static str, value: &Value<'_>, report: &Report) -> Option<String> {
        let hint = "it goes into a header: 1 to 4096 visible ASCII characters on one line";
        self.sendable(key, value, report, |byte| byte.is_ascii_graphic(), hint)
    }

    /// The same for the whole value of a header, `Bearer …`: there may be spaces inside.
    pub(super) fn header(&self, key: &'static str, value: &Value<'_>, report: &Report) -> Option<String> {
        let hint = "it goes into a header: 1 to 4096 characters of ASCII on one line";
        self.sendable(key, value, report, |byte| byte.is_ascii_graphic() || byte == b' ', hint)
    }

    fn sendable(
        &self,
        key: &'static str,
        value: &Value<'_>,
        report: &Report,
        may_have: impl Fn(u8) -> bool,
        sendable: &str,
    ) -> Option<String> {
        value.mask_all_but(&["env", "file"]);
        if value.as_text().is_some() {
            let hint = "secrets do not belong in the file: write { env = \"NAME\" } or { file = \"path\" }";
            report.error(&value.span(), format!("`{}` is written out", value.key()), hint);
            return None;
        }
        let table = value.table()?;
        let (env, file) = (table.text("env"), table.text("file"));
        let (place, secret) = match (env, file) {
            (Some(env), None) => (env.span.clone(), self.env_secret(key, &env, report)?),
            (None, Some(file)) => (file.span.clone(), self.file_secret(key, &file, report)?),
            _ => {
                let hint = "write { env = \"NAME\" } or { file = \"path\" }";
                report.error(&value.span(), format!("`{}` must name one source", value.key()), hint);
                return None;
            }
        };
        if secret.is_empty() || secret.len() > SECRET_CHARS_MAX || !secret.bytes().all(may_have) {
            report.error(&place, "the secret there is empty or cannot be sent", sendable);
            return None;
        }
        Some(secret)
    }

    fn env_secret(&self, key: &'static str, name: &At<&str>, report: &Report) -> Option<String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.value.is_empty() || name.value.len() > 128 || !name.value.chars().all(is_name) {
            // It may well be the secret itself.
            report.mask(&name.span);
            let hint = "`env` takes the variable's name, of letters, digits and `_`, not the secret itself";
            report.error(&name.span, "this is no name of an environment variable", hint);
            return None;
        }
        let reference = (key, name.value.to_owned());
        if self.running.is_some_and(|running| !running.env.contains(&reference)) {
            report.error(&name.span, "a pushed config may not introduce a secret", PUSH_HINT);
            return None;
        }
        self.used.borrow_mut().env.insert(reference);
        let secret = (self.env)(name.value);
        if secret.is_none() {
            let message = format!("the environment variable {} is not set", quoted(name.value));
            report.error(&name.span, message, "set it where nearpool is started, or use { file = \"path\" }");
        }
        secret.map(|secret| secret.trim().to_owned())
    }

    fn file_secret(&self, key: &'static str, path: &At<&str>, report: &Report) -> Option<String> {
        let (_, bytes) = self.file(key, path, report)?;
        let text = String::from_utf8(bytes).ok();
        if text.is_none() {
            report.error(
                &path.span,
                "the secret there is not text",
                "put the secret into the file, as text on one line",
            );
        }
        text.map(|text| text.trim().to_owned())
    }

    /// A file that a key names: where it is and what is in it.
    pub(super) fn file(&self, key: &'static str, path: &At<&str>, report: &Report) -> Option<(PathBuf, Vec<u8>)> {
        let (full, file) = self.open(key, path, report)?;
        let mut bytes = Vec::new();
        match file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
            Ok(length) if length as u64 <= FILE_BYTES_MAX => Some((full, bytes)),
            Ok(_) => {
                report.error(&path.span, "the file is larger than 1 MiB", "name the file that is meant");
                None
            }
            Err(error) => {
                report.error(&path.span, format!("the file cannot be read: {}", reason(&error)), "check the file");
                None
            }
        }
    }

    /// Opens a file that a key names, without reading it.
    pub(super) fn open(&self, key: &'static str, path: &At<&str>, report: &Report) -> Option<(PathBuf, File)> {
        if path.value.is_empty() {
            report.error(&path.span, "the path is empty", "name a file");
            return None;
        }
        let reference = (key, PathBuf::from(path.value));
        if self.running.is_some_and(|running| !running.files.contains(&reference)) {
            report.error(&path.span, "a pushed config may not introduce a path", PUSH_HINT);
            return None;
        }
        self.used.borrow_mut().files.insert(reference);
        let full = self.base.join(path.value);
        // A pipe or a device could keep the reader waiting for ever, so only regular files are opened.
        let regular = std::fs::metadata(&full).map(|metadata| metadata.is_file());
        let opened = regular.and_then(|regular| if regular { File::open(&full).map(Some) } else { Ok(None) });
        match opened {
            Ok(Some(file)) => Some((full, file)),
            Ok(None) => {
                report.error(&path.span, format!("{} is no regular file", quoted(path.value)), "name a file");
                None
            }
            Err(error) => {
                let message = format!("{} cannot be read: {}", quoted(path.value), reason(&error));
                report.error(&path.span, message, "relative paths count from the directory where nearpool is started");
                None
            }
        }
    }

    /// A file that is to be written, which need not be there yet. Whether it can be is seen when it is opened.
    pub(super) fn written(&self, key: &'static str, path: &At<&str>, report: &Report) -> Option<PathBuf> {
        if path.value.is_empty() || path.value.ends_with('/') {
            report.error(&path.span, format!("{} names no file", quoted(path.value)), "name a file");
            return None;
        }
        let reference = (key, PathBuf::from(path.value));
        if self.running.is_some_and(|running| !running.written.contains(&reference)) {
            report.error(&path.span, "a pushed config may not introduce a path", PUSH_HINT);
            return None;
        }
        self.used.borrow_mut().written.insert(reference);
        let full = self.base.join(path.value);
        // A pipe would keep the edge from starting until somebody reads it.
        match std::fs::metadata(&full) {
            Ok(found) if !found.is_file() => {
                let hint = "name a file; without the key it goes to standard output";
                report.error(&path.span, format!("{} is no regular file", quoted(path.value)), hint);
                return None;
            }
            _ => {}
        }
        let folder = full.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            let message = format!("the folder of {} does not exist", quoted(path.value));
            report.error(&path.span, message, "create it: nearpool makes the file, and no folders");
            return None;
        }
        Some(full)
    }

    /// Notes an address that is to be called if it is a link-local one: cloud metadata services live there.
    pub(super) fn link_local(&self, called: &ReplicaAddress, place: &At<&str>, report: &Report) {
        let Some(address) = called.host.parse().ok().filter(is_link_local) else { return };
        if self.running.is_some_and(|running| !running.link_local.contains(&address)) {
            report.error(&place.span, "a pushed config may not introduce a link-local address", PUSH_HINT);
        }
        self.used.borrow_mut().link_local.insert(address);
    }
}

/// 169.254.0.0/16 and fe80::/10, also where an IPv6 address maps an IPv4 one.
fn is_link_local(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
