//! Waiting beside what happens all the time for what seldom happens.
//!
//! Whatever wakes a task, everything that it waits for is asked again: a stream that is woken by each event of its replica
//! would each time ask its client, its timer and the edge's end too. A [`Bell`] is given to those in the task's place: it
//! wakes the task, and only then are they asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// Tells whether what it was given to has woken the task since.
#[derive(Default)]
pub(super) struct Bell {
    hung: Option<(Arc<Hung>, Waker)>,
}

struct Hung {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Hung {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Bell {
    /// What to ask with, if there is reason to ask: it was rung, or this is the first time for this task. Whoever asks must
    /// do so until everything says that it is pending, or is never asked again.
    pub(super) fn rung(&mut self, task: &Waker) -> Option<&Waker> {
        let hung = self.hung.take().filter(|(hung, _)| hung.task.will_wake(task)).unwrap_or_else(|| {
            let hung = Arc::new(Hung { rung: AtomicBool::new(true), task: task.clone() });
            (Arc::clone(&hung), hung.into())
        });
        let (hung, waker) = self.hung.insert(hung);
        (hung.rung.load(Ordering::Relaxed) && hung.rung.swap(false, Ordering::Acquire)).then_some(waker)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_rung_at_first_and_then_when_it_woke_the_task() {
        let counted = Arc::new(Task::default());
        let task = Waker::from(Arc::clone(&counted));
        let mut bell = Bell::default();
        let given = bell.rung(&task).expect("rung at first").clone();
        assert!(bell.rung(&task).is_none());
        task.wake_by_ref();
        assert!(bell.rung(&task).is_none(), "something else woke the task");
        given.wake_by_ref();
        given.wake();
        assert_eq!(counted.0.load(Ordering::Relaxed), 3);
        assert!(bell.rung(&task).is_some());
        assert!(bell.rung(&task).is_none());
    }

    #[test]
    fn another_task_is_given_a_bell_of_its_own() {
        let (one, other) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let mut bell = Bell::default();
        assert!(bell.rung(&Arc::clone(&one).into()).is_some());
        let given = bell.rung(&Arc::clone(&other).into()).expect("not asked in its name").clone();
        given.wake();
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (0, 1));
    }
}
