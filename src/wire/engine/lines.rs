//! A page's lines, in whatever pieces it comes.

use memchr::memchr;

/// Bytes of a line that came in pieces; a longer one is passed over. `cache_config_info`, with all its labels, has 1 KiB.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// Cuts what comes into lines, and holds at most one that has only begun.
#[derive(Default, Debug)]
pub(super) struct Lines {
    /// The beginning of a line whose end is still to come.
    begun: Vec<u8>,
    /// The line is too long: nothing of it counts.
    skips: bool,
}

impl Lines {
    /// Takes the next piece; `line` is called with each line that ends in it, without its end.
    pub(super) fn push(&mut self, mut piece: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(at) = memchr(b'\n', piece) {
            let (last, rest) = (&piece[..at], &piece[at + 1..]);
            piece = rest;
            if std::mem::take(&mut self.skips) {
                continue;
            }
            if self.begun.is_empty() {
                tell(last, &mut line);
            } else if self.keep(last) {
                tell(&self.begun, &mut line);
                self.begun.clear();
            } else {
                self.skips = false;
            }
        }
        if !self.skips && !piece.is_empty() {
            self.keep(piece);
        }
    }

    /// The page ends; `line` is called with the last line if it has no end.
    pub(super) fn finish(self, mut line: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            tell(&self.begun, &mut line);
        }
    }

    /// How much of a line it holds.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.begun.len()
    }

    /// Adds to the line that has begun; `false` when it is too long now, and given up.
    fn keep(&mut self, part: &[u8]) -> bool {
        self.skips = self.begun.len() + part.len() > LINE_BYTES_MAX;
        if self.skips {
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(part);
        }
        !self.skips
    }
}

/// One that is too long is passed over also where it came in one piece, so that pieces make no difference.
fn tell(whole: &[u8], line: &mut impl FnMut(&[u8])) {
    if whole.len() <= LINE_BYTES_MAX {
        line(whole);
    }
}
