//! What is kept: exactly the most recently used entries, within an exact number of bytes.
//!
//! Look-ups take the read lock of one shard and write the entry's own stamp, so that threads that look up do not wait for
//! each other. The order of use is kept beside the shards, by stamps that are brought up to date only when something has
//! to go: the entry with the oldest stamp on record is evicted if that stamp is still its own, and takes its newer place
//! otherwise. An entry is never used before its stamp on record, so what is evicted is the least recently used one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hashbrown::HashTable;

use super::entry::Entry;
use super::key::Key;

const SHARDS: usize = 16;

/// Entries by key.
#[derive(Debug)]
pub(super) struct Store {
    shards: [Shard; SHARDS],
    ticks: AtomicU64,
    /// Held by whoever adds or removes, before the lock of a shard.
    order: Mutex<Order>,
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    table: RwLock<HashTable<Arc<Entry>>>,
    hits: AtomicU64,
}

#[derive(Debug)]
struct Order {
    by_stamp: BTreeMap<u64, Arc<Entry>>,
    limits: Limits,
    evictions: u64,
    expired: u64,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of keys, values and bookkeeping.
    pub max_bytes: usize,
    /// Entries; no more than the bytes allow in any case.
    pub max_entries: usize,
}

/// What a store holds and has dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) hits: u64,
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) evictions: u64,
    pub(super) expired: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline]
fn found(table: &HashTable<Arc<Entry>>, key: &Key) -> Option<Arc<Entry>> {
    table.find(key.hash, |entry| *entry.words == *key.words).cloned()
}

impl Shard {
    fn with_table<T>(&self, change: impl FnOnce(&mut HashTable<Arc<Entry>>) -> T) -> T {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn remove(&self, entry: &Arc<Entry>) {
        self.with_table(|table| {
            if let Ok(found) = table.find_entry(entry.hash, |other| Arc::ptr_eq(other, entry)) {
                found.remove();
            }
        });
    }
}

impl Store {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            ticks: AtomicU64::new(0),
            order: Mutex::new(Order {
                by_stamp: BTreeMap::new(),
                limits,
                evictions: 0,
                expired: 0,
            }),
            bytes: AtomicUsize::new(0),
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        // The table uses both ends of a hash.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// The entry of a key, which is used by that; `now` is asked for entries that expire alone.
    pub(super) fn get(&self, key: &Key, now: impl FnOnce() -> Duration) -> Option<Arc<Entry>> {
        let shard = self.shard(key.hash);
        let entry = found(&shard.table.read().unwrap_or_else(PoisonError::into_inner), key)?;
        if entry.expires_at.is_some_and(|end| now() >= end) {
            self.expire(&entry);
            return None;
        }
        Some(self.used(shard, entry))
    }

    /// The same without waiting for anyone; `None` also where somebody is adding or removing.
    #[inline]
    pub(super) fn get_at_once(&self, key: &Key, now: impl FnOnce() -> Duration) -> Option<Arc<Entry>> {
        let shard = self.shard(key.hash);
        let entry = found(&*shard.table.try_read().ok()?, key)?;
        if entry.expires_at.is_some_and(|end| now() >= end) {
            return None;
        }
        Some(self.used(shard, entry))
    }

    #[inline]
    fn used(&self, shard: &Shard, entry: Arc<Entry>) -> Arc<Entry> {
        entry.used_at.store(self.tick(), Ordering::Relaxed);
        shard.hits.fetch_add(1, Ordering::Relaxed);
        entry
    }

    /// Keeps an entry in place of one with the same key, and evicts what is too much; false if it is too large by itself.
    pub(super) fn insert(&self, entry: &Arc<Entry>) -> bool {
        let mut order = locked(&self.order);
        if entry.bytes > order.limits.max_bytes || order.limits.max_entries == 0 {
            return false;
        }
        let replaced = self.shard(entry.hash).with_table(|table| {
            let old = table.find_entry(entry.hash, |other| other.words == entry.words);
            let old = old.ok().map(|found| found.remove().0);
            table.insert_unique(entry.hash, entry.clone(), |entry| entry.hash);
            old
        });
        if let Some(replaced) = replaced {
            self.forget(&mut order, &replaced);
        }
        let stamp = self.tick();
        entry.used_at.store(stamp, Ordering::Relaxed);
        entry.recorded.store(stamp, Ordering::Relaxed);
        order.by_stamp.insert(stamp, entry.clone());
        self.bytes.fetch_add(entry.bytes, Ordering::Relaxed);
        self.evict(&mut order);
        true
    }

    /// Drops an entry.
    pub(super) fn remove(&self, key: &Key) -> bool {
        let mut order = locked(&self.order);
        let removed = self.shard(key.hash).with_table(|table| {
            let found = table.find_entry(key.hash, |entry| *entry.words == *key.words);
            found.ok().map(|found| found.remove().0)
        });
        if let Some(entry) = &removed {
            self.forget(&mut order, entry);
        }
        removed.is_some()
    }

    #[cold]
    fn expire(&self, entry: &Arc<Entry>) {
        let mut order = locked(&self.order);
        // Another thread may have been quicker.
        if self.forget(&mut order, entry) {
            self.shard(entry.hash).remove(entry);
            order.expired += 1;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&self) {
        let mut order = locked(&self.order);
        // Entries are freed after the locks, since that may take long.
        let _dropped: Vec<_> = self
            .shards
            .iter()
            .map(|shard| shard.with_table(std::mem::take))
            .collect();
        let by_stamp = std::mem::take(&mut order.by_stamp);
        self.bytes.store(0, Ordering::Relaxed);
        drop(order);
        drop(by_stamp);
    }

    /// Changes how much is kept, and evicts what is too much.
    pub(super) fn resize(&self, limits: Limits) {
        let mut order = locked(&self.order);
        order.limits = limits;
        self.evict(&mut order);
    }

    pub(super) fn held(&self) -> Held {
        let order = locked(&self.order);
        Held {
            hits: self.shards.iter().map(|shard| shard.hits.load(Ordering::Relaxed)).sum(),
            entries: order.by_stamp.len(),
            bytes: self.bytes.load(Ordering::Relaxed),
            evictions: order.evictions,
            expired: order.expired,
        }
    }

    /// Every entry, the least recently used one first.
    pub(super) fn by_use(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<Arc<Entry>> = locked(&self.order).by_stamp.values().cloned().collect();
        entries.sort_by_cached_key(|entry| entry.used_at.load(Ordering::Relaxed));
        entries
    }

    pub(super) fn limits(&self) -> Limits {
        locked(&self.order).limits
    }

    /// Takes an entry off the record; false if it was not on it.
    fn forget(&self, order: &mut Order, entry: &Entry) -> bool {
        let is_known = order.by_stamp.remove(&entry.recorded.load(Ordering::Relaxed)).is_some();
        if is_known {
            self.bytes.fetch_sub(entry.bytes, Ordering::Relaxed);
        }
        is_known
    }

    fn evict(&self, order: &mut Order) {
        while self.bytes.load(Ordering::Relaxed) > order.limits.max_bytes
            || order.by_stamp.len() > order.limits.max_entries
        {
            let Some((stamp, entry)) = order.by_stamp.pop_first() else {
                return;
            };
            let used_at = entry.used_at.load(Ordering::Relaxed);
            if used_at == stamp {
                self.shard(entry.hash).remove(&entry);
                self.bytes.fetch_sub(entry.bytes, Ordering::Relaxed);
                order.evictions += 1;
            } else {
                entry.recorded.store(used_at, Ordering::Relaxed);
                order.by_stamp.insert(used_at, entry);
            }
        }
    }

    /// Checks what must always hold.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        let order = locked(&self.order);
        let entries: Vec<Arc<Entry>> = self
            .shards
            .iter()
            .flat_map(|shard| shard.with_table(|table| table.iter().cloned().collect::<Vec<_>>()))
            .collect();
        assert_eq!(entries.len(), order.by_stamp.len());
        let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(bytes, self.bytes.load(Ordering::Relaxed));
        assert!(bytes <= order.limits.max_bytes);
        assert!(entries.len() <= order.limits.max_entries);
        for (stamp, entry) in &order.by_stamp {
            assert_eq!(*stamp, entry.recorded.load(Ordering::Relaxed));
            assert!(entries.iter().any(|other| Arc::ptr_eq(other, entry)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(max_bytes: usize, max_entries: usize) -> Limits {
        Limits { max_bytes, max_entries }
    }

    fn key(number: u8) -> Key {
        Key::of_words(u64::from(number % 4) << 32, &[u128::from(number)])
    }

    fn entry(number: u8, bytes: usize, expires_at: Option<Duration>) -> Arc<Entry> {
        Arc::new(Entry::for_tests(&key(number), bytes, expires_at))
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Get(u8),
        Insert(u8, usize),
        Remove(u8),
        Resize(usize, usize),
        Clear,
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let operation = prop_oneof![
            8 => (0..12_u8).prop_map(Operation::Get),
            8 => (0..12_u8, 1..40_usize).prop_map(|(number, bytes)| Operation::Insert(number, bytes)),
            1 => (0..12_u8).prop_map(Operation::Remove),
            1 => (0..150_usize, 0..8_usize).prop_map(|(bytes, entries)| Operation::Resize(bytes, entries)),
            1 => Just(Operation::Clear),
        ];
        prop::collection::vec(operation, 0..200)
    }

    /// The obvious cache: a list, most recently used last.
    struct Naive {
        entries: Vec<(u8, usize)>,
        limits: Limits,
    }

    impl Naive {
        fn evict(&mut self) {
            let bytes = |entries: &[(u8, usize)]| entries.iter().map(|(_, bytes)| bytes).sum::<usize>();
            while bytes(&self.entries) > self.limits.max_bytes || self.entries.len() > self.limits.max_entries {
                self.entries.remove(0);
            }
        }

        fn get(&mut self, number: u8) -> Option<usize> {
            let place = self.entries.iter().position(|(other, _)| *other == number)?;
            let entry = self.entries.remove(place);
            self.entries.push(entry);
            Some(entry.1)
        }
    }

    proptest! {
        #[test]
        fn random_operations_end_as_in_the_obvious_cache(operations in operations()) {
            let store = Store::new(limits(100, 6));
            let mut naive = Naive { entries: Vec::new(), limits: limits(100, 6) };
            for operation in operations {
                match operation {
                    Operation::Get(number) => {
                        let found = store.get(&key(number), || unreachable!("nothing expires"));
                        prop_assert_eq!(found.map(|entry| entry.bytes), naive.get(number));
                    }
                    Operation::Insert(number, bytes) => {
                        if store.insert(&entry(number, bytes, None)) {
                            naive.entries.retain(|(other, _)| *other != number);
                            naive.entries.push((number, bytes));
                            naive.evict();
                        } else {
                            prop_assert!(bytes > naive.limits.max_bytes || naive.limits.max_entries == 0);
                        }
                    }
                    Operation::Remove(number) => {
                        let was_there = naive.entries.iter().any(|(other, _)| *other == number);
                        prop_assert_eq!(store.remove(&key(number)), was_there);
                        naive.entries.retain(|(other, _)| *other != number);
                    }
                    Operation::Resize(bytes, entries) => {
                        store.resize(limits(bytes, entries));
                        naive.limits = limits(bytes, entries);
                        naive.evict();
                    }
                    Operation::Clear => {
                        store.clear();
                        naive.entries.clear();
                    }
                }
                store.validate();
                prop_assert_eq!(store.held().entries, naive.entries.len());
            }
        }
    }

    #[test]
    fn an_expired_entry_is_gone_and_counted_once() {
        let store = Store::new(limits(100, 6));
        store.insert(&entry(1, 10, Some(Duration::from_secs(5))));
        assert!(store.get(&key(1), || Duration::from_secs(4)).is_some());
        assert!(store.get(&key(1), || Duration::from_secs(5)).is_none());
        assert!(store.get(&key(1), || Duration::from_secs(5)).is_none());
        store.validate();
        let held = store.held();
        assert_eq!((held.entries, held.bytes, held.expired, held.hits), (0, 0, 1, 1));
    }

    #[test]
    fn threads_under_pressure_leave_the_store_whole() {
        let store = Store::new(limits(100, 6));
        std::thread::scope(|scope| {
            for start in 0..4_u8 {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..5_000_u32 {
                        let number = u8::try_from((round * 7 + u32::from(start)) % 12).unwrap_or(0);
                        if let Some(found) = store.get(&key(number), Duration::default) {
                            assert_eq!(*found.words, *key(number).words);
                        } else {
                            store.insert(&entry(number, 20, None));
                        }
                        if round % 1_000 == 999 {
                            store.clear();
                        }
                    }
                });
            }
        });
        store.validate();
    }
}
