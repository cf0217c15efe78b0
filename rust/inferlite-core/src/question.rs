#![expect(unsafe_code, reason = "looks at tensors that it owns")]
//! What a call asks, in memory of its own: it outlives the call, and nobody writes to it.

use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use crate::cache::{DIGESTED_BYTES, Key, Keyer, MissingRows};
use crate::runtime::ort::RunOptions;
use crate::runtime::{Call, Feed, Input};
use crate::tensor::{Tensor, TensorView};

/// Inputs and the outputs wanted.
#[derive(Debug)]
pub(crate) struct Question {
    /// Views into the key and the copies below, which are never changed.
    feeds: SmallVec<[Feed; 2]>,
    fetches: SmallVec<[usize; 8]>,
    key: Option<Arc<Key>>,
    copies: SmallVec<[Tensor; 2]>,
    /// The rows to compute, where answers are kept by the row; whoever computes takes them.
    rows: Mutex<Option<Box<MissingRows>>>,
    /// Options of the caller's, which are this run's alone.
    options: Option<Arc<RunOptions>>,
}

impl Question {
    /// Copies what a call feeds.
    pub(crate) fn copied(call: &Call<'_>) -> Self {
        let mut copies = SmallVec::new();
        Self {
            feeds: call
                .feeds
                .iter()
                .map(|feed| with_value(feed, |view| copy_into(&mut copies, view)))
                .collect(),
            fetches: call.fetches.into(),
            key: None,
            copies,
            rows: Mutex::default(),
            options: None,
        }
    }

    /// The same under options that no other run has.
    pub(crate) fn with_options(self, options: Option<Arc<RunOptions>>) -> Self {
        Self { options, ..self }
    }

    /// What the caller has said of its run.
    pub(crate) fn options(&self) -> Option<&Arc<RunOptions>> {
        self.options.as_ref()
    }

    /// The same where some of the rows are kept.
    pub(crate) fn of_rows(call: &Call<'_>, missing: Box<MissingRows>) -> Self {
        Self {
            rows: Mutex::new(Some(missing)),
            ..Self::copied(call)
        }
    }

    /// The rows to compute, once.
    pub(crate) fn take_rows(&self) -> Option<Box<MissingRows>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether there are rows to compute, where answers are kept by the row.
    pub(crate) fn has_rows(&self) -> bool {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What a key stands for: small inputs are in it; large ones are copied, and keyed again, since their bytes may have
    /// changed since they were looked up, and change back.
    pub(crate) fn of_key(call: &Call<'_>, key: Arc<Key>, keyer: &Keyer) -> (Self, Arc<Key>) {
        let mut question = Self {
            feeds: key.feeds(call),
            fetches: call.fetches.into(),
            key: None,
            copies: SmallVec::new(),
            rows: Mutex::default(),
            options: None,
        };
        let is_large = |feed: &Feed| matches!(&feed.value, Input::Tensor(view) if view.byte_len() > DIGESTED_BYTES);
        if !question.feeds.iter().any(is_large) {
            question.key = Some(key.clone());
            return (question, key);
        }
        for feed in question.feeds.iter_mut().filter(|feed| is_large(feed)) {
            *feed = with_value(feed, |view| copy_into(&mut question.copies, view));
        }
        let settled = Call {
            feeds: &question.feeds,
            ..*call
        };
        let settled_key = Arc::new(keyer.key(&settled, key.generation()));
        question.feeds = settled_key.feeds(&settled);
        question.key = Some(settled_key.clone());
        (question, settled_key)
    }

    /// The call that asks it.
    pub(crate) fn call<'a>(&'a self, options: Option<&'a RunOptions>) -> Call<'a> {
        Call {
            feeds: &self.feeds,
            fetches: &self.fetches,
            options,
        }
    }

    /// What stands for it in the cache.
    pub(crate) fn key(&self) -> Option<&Arc<Key>> {
        self.key.as_ref()
    }
}

fn with_value(feed: &Feed, tensor: impl FnOnce(&TensorView) -> TensorView) -> Feed {
    Feed {
        index: feed.index,
        value: match &feed.value {
            Input::Tensor(view) => Input::Tensor(tensor(view)),
            Input::Value(value) => Input::Value(value.clone()),
        },
    }
}

fn copy_into(copies: &mut SmallVec<[Tensor; 2]>, view: &TensorView) -> TensorView {
    let copy = Tensor::copied(view);
    // SAFETY: the bytes are on the heap, and the question keeps the copy for as long as its feeds.
    let view = unsafe { copy.view().duplicate() };
    copies.push(copy);
    view
}
