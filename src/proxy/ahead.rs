//! What was read of a connection before anybody asked for it: what came behind a head, which the framework would else read
//! into a buffer of its own.

use bytes::BytesMut;
use memchr::memmem;
use tokio::io::ReadBuf;

/// What a head ends with. One that ends with bare line feeds is the framework's to find.
pub(super) const HEAD_END: &[u8] = b"\r\n\r\n";

/// Where the first head in these bytes ends.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, HEAD_END).map(|at| at + HEAD_END.len())
}

/// To be read before anything else.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pub(super) bytes: BytesMut,
    /// The length of the head that the framework was handed, as long as it has read nothing more.
    pub(super) head_bytes: Option<usize>,
}

impl Ahead {
    /// Up to so many bytes, without a copy.
    pub(super) fn take(&mut self, most: usize) -> BytesMut {
        if most < self.bytes.len() {
            return self.bytes.split_to(most);
        }
        // An empty rest would hold the memory as long as the connection lasts.
        std::mem::take(&mut self.bytes)
    }

    /// Adds what stands behind it, all in all up to `most`. Left to itself the buffer would double, and again whenever part of
    /// it was taken.
    pub(super) fn append(&mut self, behind: &[u8], most: usize) {
        if self.bytes.capacity() - self.bytes.len() < behind.len() {
            let mut roomy = BytesMut::with_capacity(most);
            roomy.extend_from_slice(&self.bytes);
            self.bytes = roomy;
        }
        self.bytes.extend_from_slice(behind);
    }

    /// Hands on to the framework what there is, and tells whether there was something.
    pub(super) fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.bytes.is_empty() {
            return false;
        }
        buf.put_slice(&self.take(buf.remaining()));
        self.head_bytes = None;
        true
    }
}
