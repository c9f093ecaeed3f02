//! Files that are read while others replace them, and the one that is replaced here.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What tells two states of a file apart without reading it. It changes with every replacement, also by a renamed file
/// or through symbolic links (a new inode), and with every write (time or length).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The state of the file that the path leads to now; `None` if there is none.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        let meta = fs::metadata(path).ok()?;
        Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// The bytes of a regular file, if they are at most `bytes_max`. A pipe or a device could keep the reader for ever.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Replaces a file so that at every moment, also after a loss of power, either the old or the new one is there whole.
/// Links are followed, so that a link stays one; permissions and, where this process may, the owner are kept.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path)?;
    place(&target, bytes, Some(&fs::metadata(&target)?))
}

/// The same, where there may be no file yet.
pub(super) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => replace(path, bytes),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => place(path, bytes, None),
        Err(error) => Err(error),
    }
}

/// `like` is the file that is replaced.
fn place(target: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's path"));
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let temporary = directory.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let written = write_new(&temporary, bytes, like).and_then(|()| fs::rename(&temporary, target));
    if written.is_err() {
        let _never_made = fs::remove_file(&temporary);
        return written;
    }
    // The rename itself lasts only once the directory is on disk.
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    // Left over from a process of the same id that was killed here.
    let _none = fs::remove_file(path);
    // Nobody else may read it before it has the permissions of the one that it replaces: it can hold keys.
    let mode = if like.is_some() { 0o600 } else { 0o666 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    if let Some(like) = like {
        // Only root may give files away; a file that is replaced by another user than its owner becomes that user's.
        let _not_root = std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()));
        file.set_permissions(like.permissions())?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::control::testing::Directory;

    #[test]
    fn a_replaced_file_keeps_its_permissions_and_leaves_nothing_behind() {
        let directory = Directory::new();
        let path = directory.write("edge.toml", "old");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = Directory::new();
        let target = directory.write("real.toml", "old");
        let link = directory.path().join("edge.toml");
        symlink("real.toml", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(target).unwrap(), "new");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_left_as_it_was() {
        let directory = Directory::new();
        assert!(replace(&directory.path().join("absent.toml"), b"new").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_may_be_put_where_none_was_and_never_where_something_else_is() {
        let directory = Directory::new();
        let path = directory.path().join("new.mmdb");
        for text in ["one", "two"] {
            put(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(put(directory.path(), b"x").is_err() && put(Path::new("/dev/null"), b"x").is_err());
        assert!(put(&directory.path().join("absent/new.mmdb"), b"x").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_stamp_tells_replacements_apart_and_nothing_else() {
        let directory = Directory::new();
        let path = directory.write("a", "same");
        let before = Stamp::of(&path);
        assert_eq!(before, Stamp::of(&path));
        replace(&path, b"same").unwrap();
        assert_ne!(before, Stamp::of(&path));
        assert_eq!(Stamp::of(&directory.path().join("absent")), None);
    }

    #[test]
    fn reading_is_bounded_and_takes_regular_files_only() {
        let directory = Directory::new();
        let path = directory.write("a", "1234");
        assert_eq!(read_bounded(&path, 4).unwrap(), b"1234");
        assert_eq!(read_bounded(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_bounded(directory.path(), 9).is_err());
        assert!(read_bounded(Path::new("/dev/zero"), 9).is_err());
    }
}
