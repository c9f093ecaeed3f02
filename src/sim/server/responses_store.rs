//! The answers of the Responses API that `previous_response_id` may name. They live in this replica's memory alone, as in vLLM.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::sim::prompt::Message;

/// Answers that are kept; the oldest goes first.
const KEPT_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct ResponseStore(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<String, Vec<Message>>,
    order: VecDeque<String>,
}

impl ResponseStore {
    /// Keeps the messages up to and with an answer.
    pub(super) fn put(&self, id: String, messages: Vec<Message>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.order.push_back(id.clone());
        kept.by_id.insert(id, messages);
        while kept.order.len() > KEPT_MAX {
            if let Some(oldest) = kept.order.pop_front() {
                kept.by_id.remove(&oldest);
            }
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Vec<Message>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }

    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }
}
