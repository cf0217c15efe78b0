//! Who goes first when there is no room.
//!
//! A policy has two halves. A hit writes the entry's own atomics and takes no lock of the order; whoever adds or removes
//! holds the lock, and reads there what hits have written since.

mod lru;
#[cfg(test)]
pub(super) mod naive;
mod s3_fifo;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::Entry;
use lru::{Lru, UseClock};
use s3_fifo::S3Fifo;

/// Which entry goes first when there is no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// The least recently used one.
    #[default]
    Lru,
    /// One that was asked for once: what a scan leaves behind does not push out what is asked for again and again.
    S3Fifo,
}

/// Writes down hits, without a lock.
#[derive(Debug)]
pub(super) struct Uses {
    policy: Policy,
    clock: UseClock,
}

/// Every entry, in the order of eviction.
#[derive(Debug)]
pub(super) enum Order {
    Lru(Lru),
    S3Fifo(S3Fifo),
}

/// What there is too little of, and how much of it is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scarce {
    Bytes(usize),
    Entries(usize),
}

impl Uses {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            clock: UseClock::default(),
        }
    }

    /// Takes note of a hit.
    #[inline]
    pub(super) fn record(&self, entry: &Entry) {
        match self.policy {
            Policy::Lru => entry.used_at.store(self.clock.tick(), Ordering::Relaxed),
            Policy::S3Fifo => s3_fifo::record(entry),
        }
    }
}

impl Order {
    pub(super) fn new(policy: Policy) -> Self {
        match policy {
            Policy::Lru => Self::Lru(Lru::default()),
            Policy::S3Fifo => Self::S3Fifo(S3Fifo::default()),
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Lru(order) => order.len(),
            Self::S3Fifo(order) => order.len(),
        }
    }

    /// Every entry, more or less in the order of eviction.
    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        match self {
            Self::Lru(order) => order.entries(),
            Self::S3Fifo(order) => order.entries(),
        }
    }

    /// What the policy remembers of entries that are gone, in bytes.
    pub(super) fn extra_bytes(&self) -> usize {
        match self {
            Self::Lru(_) => 0,
            Self::S3Fifo(order) => order.ghost_bytes(),
        }
    }

    /// Whether an entry of this hash was here lately; asked before room is made for it, which could make that forgotten.
    pub(super) fn recall(&mut self, hash: u64) -> bool {
        match self {
            Self::Lru(_) => false,
            Self::S3Fifo(order) => order.recall(hash),
        }
    }

    /// Adds an entry; `was_recalled` is what `recall` has said of it.
    pub(super) fn insert(&mut self, entry: Arc<Entry>, was_recalled: bool, uses: &Uses) {
        match self {
            Self::Lru(order) => order.insert(entry, uses.clock.tick_for_all()),
            Self::S3Fifo(order) => order.insert(entry, was_recalled),
        }
    }

    /// Takes an entry out; false if it is not in here.
    pub(super) fn remove(&mut self, entry: &Entry) -> bool {
        match self {
            Self::Lru(order) => order.remove(entry),
            Self::S3Fifo(order) => order.remove(entry),
        }
    }

    /// Takes out the entry that goes first; `None` if there is none at all.
    pub(super) fn evict(&mut self, scarce: Scarce) -> Option<Arc<Entry>> {
        match self {
            Self::Lru(order) => order.evict(),
            Self::S3Fifo(order) => order.evict(scarce),
        }
    }

    /// Checks what must always hold, given every entry there is.
    #[cfg(test)]
    pub(super) fn validate(&self, entries: &[Arc<Entry>]) {
        assert_eq!(entries.len(), self.len());
        match self {
            Self::Lru(order) => order.validate(entries),
            Self::S3Fifo(order) => order.validate(entries),
        }
    }
}
