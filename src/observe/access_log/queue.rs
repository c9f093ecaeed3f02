//! Lines on their way from the threads that serve to the one that writes.
//!
//! They lie one behind the other in one piece of memory, of bounded length, so that no line is an allocation of its own which
//! one thread makes and another gives back. A sender copies its line in under a lock, and wakes the writer only where that
//! waits for lines.

use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Most bytes of lines that may wait: at about 700 each and 10,000 requests/s, 0.8 s of traffic.
pub(super) const QUEUE_BYTES: usize = 6 << 20;
/// Room that is kept when it is empty: some twenty times what comes between two writes at 10,000 requests/s.
const KEPT_BYTES: usize = 256 * 1024;

/// The lines that wait.
#[derive(Default)]
pub(super) struct Queue {
    // Std mutex: a section copies one line, or swaps two vectors.
    inner: Mutex<Inner>,
    come: Condvar,
}

#[derive(Default)]
struct Inner {
    lines: Vec<u8>,
    /// Who wants to know when all that came before is written.
    flushes: Vec<SyncSender<()>>,
    /// Whether the writer waits to be woken.
    waits: bool,
    closed: bool,
}

impl Queue {
    /// Adds a line with its end. False where there is no room for it.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut inner = self.lock();
        let fits = inner.lines.len() + line.len() <= QUEUE_BYTES;
        if fits {
            inner.lines.extend_from_slice(line);
            self.wake(inner);
        }
        fits
    }

    /// Has `done` told when everything before it has been written.
    pub(super) fn flush(&self, done: SyncSender<()>) {
        let mut inner = self.lock();
        inner.flushes.push(done);
        self.wake(inner);
    }

    /// No line comes any more.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.wake(inner);
    }

    /// Waits for lines and takes them all into `lines`, whose room is used for the next ones; who wants to be told when they
    /// are written comes with them. `None` when there are none and no more come.
    pub(super) fn take(&self, lines: &mut Vec<u8>) -> Option<Vec<SyncSender<()>>> {
        lines.clear();
        lines.shrink_to(KEPT_BYTES);
        let mut inner = self.lock();
        while inner.lines.is_empty() && inner.flushes.is_empty() {
            if inner.closed {
                return None;
            }
            inner.waits = true;
            inner = self.come.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut inner.lines, lines);
        Some(std::mem::take(&mut inner.flushes))
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        let waits = std::mem::take(&mut inner.waits);
        drop(inner);
        if waits {
            self.come.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every section leaves whole lines, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    #[test]
    fn lines_of_several_threads_come_whole_and_each_threads_own_in_order() {
        let queue = Arc::new(Queue::default());
        let senders: Vec<_> = (0..4)
            .map(|thread| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    (0..1_000).for_each(|n| assert!(queue.push(format!("{thread} {n}\n").as_bytes())))
                })
            })
            .collect();
        let (mut next, mut lines) = ([0; 4], Vec::new());
        while next.iter().sum::<usize>() < 4_000 {
            queue.take(&mut lines).unwrap();
            for line in String::from_utf8(lines.clone()).unwrap().lines() {
                let (thread, n) = line.split_once(' ').unwrap();
                let next: &mut usize = &mut next[thread.parse::<usize>().unwrap()];
                assert_eq!(n.parse(), Ok(*next));
                *next += 1;
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn it_is_bounded_and_has_room_again_when_its_lines_are_taken() {
        let (queue, line, mut lines) = (Queue::default(), vec![b'x'; 1 << 20], Vec::new());
        assert_eq!((0..10).filter(|_| queue.push(&line)).count(), QUEUE_BYTES >> 20);
        queue.take(&mut lines).unwrap();
        assert_eq!(lines.len(), QUEUE_BYTES);
        assert!(queue.push(&line));
    }

    #[test]
    fn the_end_comes_behind_the_last_lines() {
        let (queue, mut lines) = (Queue::default(), Vec::new());
        let (done, _told) = mpsc::sync_channel(1);
        assert!(queue.push(b"a\n"));
        queue.flush(done);
        queue.close();
        assert_eq!(queue.take(&mut lines).map(|flushes| flushes.len()), Some(1));
        assert_eq!(lines, b"a\n");
        assert!(queue.take(&mut lines).is_none());
    }
}
