//! Where all problems of one file are gathered.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::config::diagnostic::{Diagnostics, Problem, SHOWN_MAX};

/// A place in the file, in bytes.
pub(in crate::config) type Span = Range<usize>;

/// A value with its place.
#[derive(Clone, Debug)]
pub(in crate::config) struct At<T> {
    pub(in crate::config) value: T,
    pub(in crate::config) span: Span,
}

/// The problems found so far, and what must not be shown of the file.
#[derive(Default)]
pub(in crate::config) struct Report {
    problems: RefCell<Vec<Problem>>,
    more: Cell<usize>,
    masks: RefCell<Vec<Span>>,
    /// Every key that was asked for, `retry.attempts`, with its bounds where it has some.
    #[cfg(test)]
    pub(in crate::config) asked: RefCell<std::collections::BTreeMap<String, Option<String>>>,
}

impl Report {
    /// Reports a problem. Beyond [`SHOWN_MAX`] they are only counted.
    pub(in crate::config) fn push(&self, problem: Problem) {
        match self.is_full() {
            true => self.more.set(self.more.get() + 1),
            false => self.problems.borrow_mut().push(problem),
        }
    }

    /// Reports that something is wrong, with what to do about it.
    pub(in crate::config) fn error(&self, span: &Span, message: impl Into<String>, hint: impl Into<String>) {
        let (message, hint) = (message.into(), Some(hint.into()));
        self.push(Problem { span: span.clone(), message, hint, first: None });
    }

    /// Reports that something was there before.
    pub(in crate::config) fn twice(&self, span: &Span, first: &Span, message: impl Into<String>, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.push(Problem { span: span.clone(), message: message.into(), hint, first: Some(first.clone()) });
    }

    /// Whether further problems are only counted, so that their hints need not be worked out.
    pub(in crate::config) fn is_full(&self) -> bool {
        self.problems.borrow().len() >= SHOWN_MAX
    }

    /// Whether nothing is wrong so far.
    pub(in crate::config) fn is_empty(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// Keeps this place out of every excerpt.
    pub(in crate::config) fn mask(&self, span: &Span) {
        self.masks.borrow_mut().push(span.clone());
    }

    /// The problems with lines and columns.
    pub(in crate::config) fn locate(self, file: &str, text: &str) -> Diagnostics {
        let (problems, masks) = (self.problems.into_inner(), self.masks.into_inner());
        Diagnostics::locate(file, text, problems, self.more.get(), &masks)
    }
}
