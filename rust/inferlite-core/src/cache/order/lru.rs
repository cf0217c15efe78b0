//! The least recently used entry goes first.
//!
//! The order holds stamps that are brought up to date only when something has to go: the entry with the oldest stamp on
//! record is evicted if that stamp is still its own, and takes its newer place otherwise. An entry is never used before
//! its stamp on record, so what is evicted is the least recently used one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cache::entry::Entry;

#[derive(Debug, Default)]
pub(in crate::cache) struct Lru {
    by_stamp: BTreeMap<u64, Arc<Entry>>,
}

impl Lru {
    pub(super) fn len(&self) -> usize {
        self.by_stamp.len()
    }

    pub(super) fn insert(&mut self, entry: Arc<Entry>, stamp: u64) {
        entry.used_at.store(stamp, Ordering::Relaxed);
        entry.recorded.store(stamp, Ordering::Relaxed);
        self.by_stamp.insert(stamp, entry);
    }

    pub(super) fn remove(&mut self, entry: &Entry) -> bool {
        self.by_stamp.remove(&entry.recorded.load(Ordering::Relaxed)).is_some()
    }

    pub(super) fn evict(&mut self) -> Option<Arc<Entry>> {
        // Each takes a newer place once at most, unless other threads use them meanwhile: those must not keep this going.
        for _ in 0..self.by_stamp.len() {
            let (stamp, entry) = self.by_stamp.pop_first()?;
            let used_at = entry.used_at.load(Ordering::Relaxed);
            if used_at == stamp {
                return Some(entry);
            }
            entry.recorded.store(used_at, Ordering::Relaxed);
            self.by_stamp.insert(used_at, entry);
        }
        self.by_stamp.pop_first().map(|(_, entry)| entry)
    }

    #[cfg(test)]
    pub(super) fn validate(&self, entries: &[Arc<Entry>]) {
        for (stamp, entry) in &self.by_stamp {
            assert_eq!(*stamp, entry.recorded.load(Ordering::Relaxed));
            assert!(entries.iter().any(|other| Arc::ptr_eq(other, entry)));
        }
    }
}
