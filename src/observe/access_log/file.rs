//! The log's file: appended to, and set aside when it is full.
//!
//! `access.log` becomes `access.log.1`, that one `access.log.2`, and so on; beyond `keep` the oldest is removed. A file that
//! somebody else moved or removed (logrotate) is made anew within [`LOOK_EVERY`]. Of the crates for this, the best kept one
//! panics when a file vanishes between two of its steps, takes lines without an error when it cannot open its file, and
//! cuts lines in two where a file is full.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::observe::seldom::Seldom;

/// How often it is looked whether the path still leads to the open file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Clients' addresses stand in it: for the operator and the operator's group.
const MODE: u32 = 0o640;

/// A log file of bounded size with its predecessors.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    /// Bytes from which on it is set aside.
    rotate_at: u64,
    /// Predecessors that are kept.
    keep: u32,
    open: Option<Open>,
    looked: Instant,
    not_set_aside: Seldom,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// Device and number: whether the path leads to another file by now.
    id: (u64, u64),
    /// Whether a line is whole: nothing is cut in two by setting the file aside.
    at_line_end: bool,
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Open {
    fn at(path: &Path) -> io::Result<Open> {
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        let metadata = file.metadata()?;
        Ok(Open { file, bytes: metadata.len(), id: id(&metadata), at_line_end: true })
    }
}

impl RotatingFile {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path, rotate_at: u64, keep: u32) -> io::Result<RotatingFile> {
        let open = Some(Open::at(path)?);
        let not_set_aside = Seldom::default();
        Ok(RotatingFile { path: path.to_owned(), rotate_at, keep, open, looked: Instant::now(), not_set_aside })
    }

    /// The open file; a new one where somebody moved the old one away.
    fn current(&mut self, now: Instant) -> io::Result<&mut Open> {
        if now.saturating_duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            let found = fs::metadata(&self.path).ok();
            self.open = self.open.take().filter(|open| found.as_ref().map(id) == Some(open.id));
            if let (Some(open), Some(found)) = (&mut self.open, found) {
                // The process that this one hands over to writes there too.
                open.bytes = found.len();
            }
        }
        match &mut self.open {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(Open::at(&self.path)?)),
        }
    }

    /// The file's predecessor of this number; 0 is the file itself.
    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        name.into()
    }

    /// Sets the file aside and begins a new one.
    fn set_aside(&mut self) -> io::Result<()> {
        // Nothing beyond a gap moves: where the file itself cannot be renamed (one that is mounted into a container, or may
        // only be appended to), trying again and again would else push its predecessors over the end, one by one.
        let gap = (1..self.keep).find(|number| !self.numbered(*number).exists()).unwrap_or(self.keep);
        for number in (0..gap).rev() {
            // The last one is replaced, and so removed.
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.open = None;
        self.open = Some(Open::at(&self.path)?);
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (now, rotate_at) = (Instant::now(), self.rotate_at);
        let open = self.current(now)?;
        let full = open.bytes > 0 && open.bytes.saturating_add(bytes.len() as u64) > rotate_at;
        if full && open.at_line_end {
            match self.set_aside() {
                Ok(()) => drop(self.not_set_aside.is_over()),
                // Too long a log is better than none.
                Err(error) if self.not_set_aside.is_due(now) => {
                    log::warn!(
                        "access log cannot be set aside and grows on file={} error={error}",
                        self.path.display()
                    );
                }
                Err(_) => {}
            }
        }
        let open = self.current(now)?;
        let written = open.file.write(bytes)?;
        open.bytes += written as u64;
        if let Some(last) = bytes[..written].last() {
            open.at_line_end = *last == b'\n';
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder of one test, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("nearpool-log-{}-{name}", std::process::id()));
            let _left = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn log(&self) -> PathBuf {
            self.0.join("access.log")
        }

        /// Names and contents, in order of name.
        fn files(&self) -> Vec<(String, String)> {
            let mut files: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|entry| {
                    let text = fs::read_to_string(entry.path()).unwrap();
                    (entry.file_name().into_string().unwrap(), text)
                })
                .collect();
            files.sort();
            files
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    fn check(folder: &Folder, files: &[(&str, &str)]) {
        let expected: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(folder.files(), expected);
    }

    #[test]
    fn a_full_file_is_set_aside_between_two_lines_and_the_oldest_is_removed() {
        let folder = Folder::new("rotate");
        let mut log = RotatingFile::open(&folder.log(), 10, 2).unwrap();
        log.write_all(b"first\n").unwrap();
        log.write_all(b"2nd\n").unwrap();
        // A line that comes in two pieces stays in one file.
        log.write_all(b"third").unwrap();
        log.write_all(b" line\n").unwrap();
        check(&folder, &[("access.log", "third line\n"), ("access.log.1", "first\n2nd\n")]);
        for line in ["4\n", "5\n", "6\n", "7\n", "8\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        check(
            &folder,
            &[("access.log", "4\n5\n6\n7\n8\n"), ("access.log.1", "third line\n"), ("access.log.2", "first\n2nd\n")],
        );
        log.write_all(b"0123456789\n").unwrap();
        check(
            &folder,
            &[("access.log", "0123456789\n"), ("access.log.1", "4\n5\n6\n7\n8\n"), ("access.log.2", "third line\n")],
        );
    }

    #[test]
    fn a_gap_is_filled_before_anything_older_moves() {
        let folder = Folder::new("gap");
        for older in [2, 3] {
            fs::write(folder.0.join(format!("access.log.{older}")), format!("{older}\n")).unwrap();
        }
        let mut log = RotatingFile::open(&folder.log(), 3, 3).unwrap();
        for line in ["a\n", "b\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        let older = [("access.log.2", "2\n"), ("access.log.3", "3\n")];
        check(&folder, &[&[("access.log", "b\n"), ("access.log.1", "a\n")][..], &older].concat());
        log.write_all(b"c\n").unwrap();
        check(
            &folder,
            &[("access.log", "c\n"), ("access.log.1", "b\n"), ("access.log.2", "a\n"), ("access.log.3", "2\n")],
        );
    }

    #[test]
    fn a_log_that_is_there_is_gone_on_with() {
        let folder = Folder::new("append");
        fs::write(folder.log(), "before\n").unwrap();
        let mut log = RotatingFile::open(&folder.log(), 12, 1).unwrap();
        log.write_all(b"now\n").unwrap();
        check(&folder, &[("access.log", "before\nnow\n")]);
        log.write_all(b"later\n").unwrap();
        check(&folder, &[("access.log", "later\n"), ("access.log.1", "before\nnow\n")]);
    }

    #[test]
    fn a_file_that_somebody_moved_is_made_anew() {
        let folder = Folder::new("moved");
        let mut log = RotatingFile::open(&folder.log(), 1000, 1).unwrap();
        log.write_all(b"one\n").unwrap();
        fs::rename(folder.log(), folder.0.join("theirs")).unwrap();
        log.looked -= LOOK_EVERY;
        log.write_all(b"two\n").unwrap();
        check(&folder, &[("access.log", "two\n"), ("theirs", "one\n")]);
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_log_goes_on_when_there_is_room() {
        let folder = Folder::new("full");
        symlink("/dev/full", folder.log()).unwrap();
        let mut log = RotatingFile::open(&folder.log(), 1000, 1).unwrap();
        assert_eq!(log.write_all(b"lost\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        fs::remove_file(folder.log()).unwrap();
        log.looked -= LOOK_EVERY;
        log.write_all(b"kept\n").unwrap();
        check(&folder, &[("access.log", "kept\n")]);
    }

    #[test]
    fn what_cannot_be_set_aside_grows_on() {
        let folder = Folder::new("blocked");
        // A folder that is not empty cannot be replaced by a file.
        fs::create_dir_all(folder.0.join("access.log.1/x")).unwrap();
        let mut log = RotatingFile::open(&folder.log(), 4, 1).unwrap();
        for _ in 0..3 {
            log.write_all(b"line\n").unwrap();
        }
        assert_eq!(fs::read_to_string(folder.log()).unwrap(), "line\nline\nline\n");
    }
}
