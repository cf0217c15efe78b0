//! S3-FIFO: entries that were asked for once leave quickly, whatever their number.
//!
//! After "FIFO queues are all you need for cache eviction" (SOSP 2023). A new entry joins the *small* queue, a tenth of
//! what is kept. At its end it moves to the *main* queue if it was used more than once meanwhile; otherwise it goes, and
//! its hash stays in the *ghost* queue. Whoever is remembered there joins the main queue at once. At the end of the main
//! queue an entry starts over as often as it was used, three times at most.
//!
//! Two things are settled here that the paper leaves open, since its entries are all of one size. The limit that is
//! exceeded, bytes or entries, is the one of which the small queue gets a tenth. And the ghost queue is never longer than
//! there are entries; its bytes are part of the budget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashTable;

use super::Scarce;
use crate::cache::entry::Entry;

/// The small queue gets one part in so many.
const SMALL_PART: usize = 10;
/// More uses than these move an entry from the small queue to the main one.
const PASSING: u8 = 1;
/// More uses than these are not told apart.
const MOST_USES: u8 = 3;

/// What a hash in the ghost queue takes: its place in the queue and in the table, both at most twice as large as they are
/// full.
pub(super) const GHOST_BYTES: usize = 2 * size_of::<Ghost>() + 2 * (size_of::<Ghost>() + 1);

#[derive(Debug, Default)]
pub(in crate::cache) struct S3Fifo {
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    next_place: u64,
}

#[derive(Debug, Default)]
struct Queue {
    by_place: BTreeMap<u64, Arc<Entry>>,
    bytes: usize,
}

/// Hashes of entries that left the small queue, the oldest first.
///
/// Two keys of one hash are taken for each other here, which costs a place in a queue and no answer.
#[derive(Debug, Default)]
struct Ghosts {
    by_place: BTreeMap<u64, u64>,
    places: HashTable<Ghost>,
    next_place: u64,
}

#[derive(Debug, Clone, Copy)]
struct Ghost {
    hash: u64,
    place: u64,
}

/// Takes note of a hit; of those that race, one may be lost.
#[inline]
pub(super) fn record(entry: &Entry) {
    let uses = entry.uses.load(Ordering::Relaxed);
    // An entry that is asked for all the time is not written at all, and stays in the caches of every processor.
    if uses < MOST_USES {
        entry.uses.store(uses + 1, Ordering::Relaxed);
    }
}

impl S3Fifo {
    pub(super) fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        let queues = [&self.small, &self.main];
        queues
            .into_iter()
            .flat_map(|queue| queue.by_place.values().cloned())
            .collect()
    }

    pub(super) fn ghost_bytes(&self) -> usize {
        self.ghosts.len() * GHOST_BYTES
    }

    pub(super) fn recall(&mut self, hash: u64) -> bool {
        self.ghosts.take(hash)
    }

    pub(super) fn insert(&mut self, entry: Arc<Entry>, was_recalled: bool) {
        let queue = if was_recalled { &mut self.main } else { &mut self.small };
        entry.uses.store(0, Ordering::Relaxed);
        queue.push(entry, &mut self.next_place);
    }

    pub(super) fn remove(&mut self, entry: &Entry) -> bool {
        let is_known = self.small.remove(entry) || self.main.remove(entry);
        self.ghosts.shorten(self.len());
        is_known
    }

    pub(super) fn evict(&mut self, scarce: Scarce) -> Option<Arc<Entry>> {
        // An entry passes from the small queue once, and starts over in the main one as often as it was used. Threads that
        // use entries meanwhile must not keep this going for longer.
        let mut patience = self.len().saturating_mul(usize::from(MOST_USES) + 2);
        loop {
            patience = patience.saturating_sub(1);
            let is_over = patience == 0;
            if self.is_small_due(scarce) {
                let entry = self.small.pop()?;
                if entry.uses.load(Ordering::Relaxed) <= PASSING || is_over {
                    self.ghosts.push(entry.hash);
                    self.ghosts.shorten(self.len());
                    return Some(entry);
                }
                entry.uses.store(0, Ordering::Relaxed);
                self.main.push(entry, &mut self.next_place);
            } else {
                let entry = self.main.pop()?;
                let uses = entry.uses.load(Ordering::Relaxed);
                if uses == 0 || is_over {
                    self.ghosts.shorten(self.len());
                    return Some(entry);
                }
                entry.uses.store(uses - 1, Ordering::Relaxed);
                self.main.push(entry, &mut self.next_place);
            }
        }
    }

    fn is_small_due(&self, scarce: Scarce) -> bool {
        let (has, of) = match scarce {
            Scarce::Bytes(max) => (self.small.bytes, max),
            Scarce::Entries(max) => (self.small.len(), max),
        };
        self.main.len() == 0 || (self.small.len() > 0 && has >= of / SMALL_PART)
    }

    #[cfg(test)]
    pub(super) fn validate(&self, entries: &[Arc<Entry>]) {
        for queue in [&self.small, &self.main] {
            let bytes: usize = queue.by_place.values().map(|entry| entry.bytes).sum();
            assert_eq!(bytes, queue.bytes);
            for (place, entry) in &queue.by_place {
                assert_eq!(*place, entry.recorded.load(Ordering::Relaxed));
                assert!(entry.uses.load(Ordering::Relaxed) <= MOST_USES);
                assert!(entries.iter().any(|other| Arc::ptr_eq(other, entry)));
            }
        }
        assert!(self.ghosts.len() <= self.len());
        assert_eq!(self.ghosts.places.len(), self.ghosts.len());
        for ghost in &self.ghosts.places {
            assert_eq!(self.ghosts.by_place.get(&ghost.place), Some(&ghost.hash));
        }
    }
}

impl Queue {
    fn len(&self) -> usize {
        self.by_place.len()
    }

    fn push(&mut self, entry: Arc<Entry>, next_place: &mut u64) {
        entry.recorded.store(*next_place, Ordering::Relaxed);
        self.bytes += entry.bytes;
        self.by_place.insert(*next_place, entry);
        *next_place += 1;
    }

    fn pop(&mut self) -> Option<Arc<Entry>> {
        let (_, entry) = self.by_place.pop_first()?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    fn remove(&mut self, entry: &Entry) -> bool {
        let is_known = self.by_place.remove(&entry.recorded.load(Ordering::Relaxed)).is_some();
        if is_known {
            self.bytes -= entry.bytes;
        }
        is_known
    }
}

impl Ghosts {
    fn len(&self) -> usize {
        self.by_place.len()
    }

    fn push(&mut self, hash: u64) {
        self.take(hash);
        let place = self.next_place;
        self.next_place += 1;
        self.by_place.insert(place, hash);
        self.places
            .insert_unique(hash, Ghost { hash, place }, |ghost| ghost.hash);
    }

    fn take(&mut self, hash: u64) -> bool {
        let Ok(found) = self.places.find_entry(hash, |ghost| ghost.hash == hash) else {
            return false;
        };
        let (ghost, _) = found.remove();
        self.by_place.remove(&ghost.place);
        true
    }

    /// Forgets the oldest.
    fn shorten(&mut self, at_most: usize) {
        while self.len() > at_most {
            let Some((_, hash)) = self.by_place.pop_first() else {
                return;
            };
            self.take(hash);
        }
        // The memory that is held must go down with what is counted.
        if self.places.len() < self.places.capacity() / 4 {
            self.places.shrink_to(2 * self.places.len(), |ghost| ghost.hash);
        }
    }
}
