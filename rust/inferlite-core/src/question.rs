//! What a call asks, in memory of its own: it outlives the call, and nobody writes to it.

use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use crate::cache::{DIGESTED_BYTES, Key, Keyer, Missed, MissingRows};
use crate::runtime::ort::RunOptions;
use crate::runtime::{Call, Feed, Input, OwnedFeeds};
use crate::tensor::{Owner, Tensor, TensorView};

/// Inputs and the outputs wanted.
#[derive(Debug)]
pub(crate) struct Question {
    // Dropped in this order: what looks at memory goes before what releases it.
    /// Views into what follows, which is never changed.
    feeds: SmallVec<[Feed; 1]>,
    owners: SmallVec<[Owner; 1]>,
    key: Option<Arc<Key>>,
    fetches: SmallVec<[usize; 8]>,
    /// The rows to compute, where answers are kept by the row; whoever computes takes them.
    rows: Mutex<Option<Box<MissingRows>>>,
    /// Options of the caller's, which are this run's alone.
    options: Option<Arc<RunOptions>>,
}

impl Question {
    /// Copies what a call feeds.
    pub(crate) fn copied(call: &Call<'_>) -> Self {
        let mut owners = SmallVec::new();
        Self {
            feeds: call
                .feeds
                .iter()
                .map(|feed| with_value(feed, |view| copy_into(&mut owners, view)))
                .collect(),
            owners,
            key: None,
            fetches: call.fetches.into(),
            rows: Mutex::default(),
            options: None,
        }
    }

    /// Takes inputs that are the call's own, of which this was missed.
    pub(crate) fn owned(feeds: OwnedFeeds, fetches: &[usize], missed: Missed) -> Self {
        let (feeds, owners) = feeds.into_parts();
        let (key, rows) = match missed {
            Missed::Call(key) => (Some(key), None),
            Missed::Rows(missing) => (None, Some(missing)),
            Missed::Skipped => (None, None),
        };
        Self {
            feeds,
            owners,
            key,
            fetches: fetches.into(),
            rows: Mutex::new(rows),
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

    /// The same where some of the rows are kept, and these are to be computed.
    pub(crate) fn with_rows(self, missing: Box<MissingRows>) -> Self {
        Self {
            rows: Mutex::new(Some(missing)),
            ..self
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
            owners: SmallVec::new(),
            key: None,
            fetches: call.fetches.into(),
            rows: Mutex::default(),
            options: None,
        };
        let is_large = |feed: &Feed| matches!(&feed.value, Input::Tensor(view) if view.byte_len() > DIGESTED_BYTES);
        if !question.feeds.iter().any(is_large) {
            question.key = Some(key.clone());
            return (question, key);
        }
        for feed in question.feeds.iter_mut().filter(|feed| is_large(feed)) {
            *feed = with_value(feed, |view| copy_into(&mut question.owners, view));
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

fn copy_into(owners: &mut SmallVec<[Owner; 1]>, view: &TensorView) -> TensorView {
    let (view, owner) = Tensor::copied(view).into_parts();
    owners.push(owner);
    view
}
