//! The least recently used entry goes first.
//!
//! The order holds stamps that are brought up to date only when something has to go: the entry with the oldest stamp on
//! record is evicted if that stamp is still its own, and takes its newer place otherwise. An entry is never used before
//! its stamp on record, so what is evicted is the least recently used one.
//!
//! Stamps come from the clock of the thread that uses an entry. Those of one thread are in its own order, to the last
//! one, and adding an entry sets the clocks of all; uses by threads that look up at the same time may be taken in another
//! order than they came in, if they are fewer than [`STEP`] apart.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::entry::Entry;

/// How far the clock of a thread runs ahead of what the others know.
const STEP: u64 = 64;

thread_local! {
    /// The last stamp of this thread, for whichever cache.
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// Gives stamps, without a write that all threads share for each of them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct UseClock(AtomicU64);

impl UseClock {
    /// A stamp later than every one of this thread, and than all that others have made known.
    #[inline]
    pub(super) fn tick(&self) -> u64 {
        let known = self.0.load(Ordering::Relaxed);
        let stamp = LAST.get().max(known) + 1;
        LAST.set(stamp);
        if stamp - known >= STEP {
            self.0.fetch_max(stamp, Ordering::Relaxed);
        }
        stamp
    }

    /// A stamp before all that any thread will give.
    pub(super) fn tick_for_all(&self) -> u64 {
        let stamp = self.tick();
        self.0.fetch_max(stamp, Ordering::Relaxed);
        stamp
    }
}

/// Two threads may give the same stamp: the address tells entries apart then.
type Place = (u64, usize);

fn place(stamp: u64, entry: &Entry) -> Place {
    (stamp, std::ptr::from_ref(entry).addr())
}

#[derive(Debug, Default)]
pub(in crate::cache) struct Lru {
    by_place: BTreeMap<Place, Arc<Entry>>,
}

impl Lru {
    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<Arc<Entry>> = self.by_place.values().cloned().collect();
        entries.sort_by_cached_key(|entry| entry.used_at.load(Ordering::Relaxed));
        entries
    }

    pub(super) fn insert(&mut self, entry: Arc<Entry>, stamp: u64) {
        entry.used_at.store(stamp, Ordering::Relaxed);
        self.record(entry, stamp);
    }

    fn record(&mut self, entry: Arc<Entry>, stamp: u64) {
        entry.recorded.store(stamp, Ordering::Relaxed);
        self.by_place.insert(place(stamp, &entry), entry);
    }

    pub(super) fn remove(&mut self, entry: &Entry) -> bool {
        let recorded = entry.recorded.load(Ordering::Relaxed);
        self.by_place.remove(&place(recorded, entry)).is_some()
    }

    pub(super) fn evict(&mut self) -> Option<Arc<Entry>> {
        // Each takes a newer place once at most, unless other threads use them meanwhile: those must not keep this going.
        for _ in 0..self.by_place.len() {
            let ((stamp, _), entry) = self.by_place.pop_first()?;
            let used_at = entry.used_at.load(Ordering::Relaxed);
            if used_at == stamp {
                return Some(entry);
            }
            self.record(entry, used_at);
        }
        self.by_place.pop_first().map(|(_, entry)| entry)
    }

    #[cfg(test)]
    pub(super) fn validate(&self, entries: &[Arc<Entry>]) {
        for (place, entry) in &self.by_place {
            assert_eq!(
                *place,
                (entry.recorded.load(Ordering::Relaxed), Arc::as_ptr(entry).addr())
            );
            assert!(entries.iter().any(|other| Arc::ptr_eq(other, entry)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_a_thread_are_in_order_whatever_the_clock() {
        let clocks = [UseClock::default(), UseClock::default()];
        let mut last = 0;
        for number in 0..1_000 {
            let stamp = clocks[number % 7 % 2].tick();
            assert!(stamp > last);
            last = stamp;
        }
    }

    #[test]
    fn stamps_of_threads_are_never_further_apart_than_a_step() {
        let clock = UseClock::default();
        let ahead = (0..1_000).map(|_| clock.tick()).last().expect("there are some");
        let behind = std::thread::scope(|scope| scope.spawn(|| clock.tick()).join().expect("no panic"));
        assert!(ahead < behind + STEP);
        let known = clock.tick_for_all();
        let later = std::thread::scope(|scope| scope.spawn(|| clock.tick()).join().expect("no panic"));
        assert!(later > known);
    }
}
