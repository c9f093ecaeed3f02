//! What is done once or seldom, kept apart from what is done with every event of a stream.
//!
//! A future that is awaited where it is made has its room in the one around it and, when that is polled, on its stack frame
//! too, whether it has begun or not. So a stream's way from its task to its next event would lead through 40 KiB of stack
//! that is nearly all for other parts of a request, and at an edge with many streams each place of memory costs.

use std::pin::Pin;

/// A future on the heap, made and polled in frames of its own.
#[inline(never)]
pub(super) fn apart<'a, F: Future + Send + 'a>(
    make: impl FnOnce() -> F,
) -> Pin<Box<dyn Future<Output = F::Output> + Send + 'a>> {
    Box::pin(make())
}
