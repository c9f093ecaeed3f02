//! Why a body cannot be used; each message is meant for the client's 400.

use super::{DEPTH_MAX, MODEL_BYTES_MAX};

/// What is wrong with a body, and at which byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScanError {
    /// There is nothing but white space.
    #[error("the body is empty; a JSON object is expected")]
    Empty,
    /// The outermost value is no object.
    #[error("the body is not a JSON object: expected '{{' at byte {at}")]
    NotObject {
        /// Offset in the body.
        at: usize,
    },
    /// The grammar allows something else here.
    #[error("the body is not JSON: expected {expected} at byte {at}")]
    Syntax {
        /// What would have been right.
        expected: &'static str,
        /// Offset in the body.
        at: usize,
    },
    /// It stops in the middle.
    #[error("the body is not JSON: it ends after {at} bytes, where {expected} was expected")]
    Ended {
        /// What would have been right.
        expected: &'static str,
        /// Its length.
        at: usize,
    },
    /// Arrays and objects are nested too deep.
    #[error("the body is nested deeper than {DEPTH_MAX} levels at byte {at}")]
    TooDeep {
        /// Offset in the body.
        at: usize,
    },
    /// A key that steers routing stands twice: the engine could read the other one.
    #[error("the key '{key}' stands twice in the body, the second time at byte {at}")]
    Twice {
        /// Which.
        key: &'static str,
        /// Offset of the second one.
        at: usize,
    },
    /// `model` is something else than a string.
    #[error("'model' must be a string, at byte {at}")]
    ModelNotString {
        /// Offset of its value.
        at: usize,
    },
    /// `model` is longer than any name.
    #[error("'model' is longer than {MODEL_BYTES_MAX} bytes, at byte {at}")]
    ModelTooLong {
        /// Offset of its value.
        at: usize,
    },
    /// `model` is no Unicode text (bad UTF-8, or half a surrogate pair).
    #[error("'model' is not Unicode text, at byte {at}")]
    ModelNotText {
        /// Offset of its value.
        at: usize,
    },
    /// `stream` is something else than a boolean.
    #[error("'stream' must be true or false, at byte {at}")]
    StreamNotBool {
        /// Offset of its value.
        at: usize,
    },
}
