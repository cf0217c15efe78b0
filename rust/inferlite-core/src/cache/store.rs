//! What is kept, within an exact number of bytes.
//!
//! Look-ups take a read lock that few other threads take, and write the entry's own atomics: threads that look up neither
//! wait for each other nor write to the same memory, unless they find the same entry. The order of eviction is kept beside the shards. Room is made before an entry is added: the budget
//! holds at every moment, and no entry pushes itself out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;

use super::entry::Entry;
use super::key::Key;
use super::order::{Order, Policy, Scarce, Uses};
use super::striped::Striped;

/// Whoever adds or removes keeps others from one of so many parts for a moment.
const SHARDS: usize = 16;

/// Entries by key.
#[derive(Debug)]
pub(super) struct Store {
    shards: Box<[Shard; SHARDS]>,
    uses: Uses,
    /// Held by whoever adds or removes, before the lock of a shard.
    kept: Mutex<Kept>,
}

/// Counts its hits.
type Shard = Striped<HashTable<Arc<Entry>>>;

#[derive(Debug)]
struct Kept {
    order: Order,
    policy: Policy,
    /// Of the entries.
    bytes: usize,
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
    table.find(key.hash, |entry| *entry.words() == *key.words).cloned()
}

fn take(shard: &Shard, hash: u64, is_wanted: impl FnMut(&Arc<Entry>) -> bool) -> Option<Arc<Entry>> {
    shard.write(|table| table.find_entry(hash, is_wanted).ok().map(|found| found.remove().0))
}

impl Kept {
    /// Bytes of the entries, and of what the policy remembers of others.
    fn bytes(&self) -> usize {
        self.bytes + self.order.extra_bytes()
    }

    /// What there is too little of for entries that are still to come.
    fn scarce(&self, bytes: usize, entries: usize) -> Option<Scarce> {
        if self.bytes().saturating_add(bytes) > self.limits.max_bytes {
            Some(Scarce::Bytes(self.limits.max_bytes))
        } else if self.order.len() + entries > self.limits.max_entries {
            Some(Scarce::Entries(self.limits.max_entries))
        } else {
            None
        }
    }

    /// Takes an entry off the record; false if it was not on it.
    fn forget(&mut self, entry: &Entry) -> bool {
        let is_known = self.order.remove(entry);
        if is_known {
            self.bytes -= entry.bytes;
        }
        is_known
    }
}

impl Store {
    pub(super) fn new(limits: Limits, policy: Policy) -> Self {
        Self {
            shards: Box::new(std::array::from_fn(|_| Shard::default())),
            uses: Uses::new(policy),
            kept: Mutex::new(Kept {
                order: Order::new(policy),
                policy,
                bytes: 0,
                limits,
                evictions: 0,
                expired: 0,
            }),
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        // The table uses both ends of a hash.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// The entry of a key, which is used by that but no hit; `now` is asked for entries that expire alone.
    pub(super) fn get(&self, key: &Key, now: impl FnOnce() -> Duration) -> Option<Arc<Entry>> {
        let shard = self.shard(key.hash);
        let entry = shard.read(|table| found(table, key))?;
        if entry.expires_at.is_some_and(|end| now() >= end) {
            self.expire(&entry);
            return None;
        }
        self.uses.record(&entry);
        Some(entry)
    }

    /// The same as a hit, with a count of some hits, this one the last; `None` also where somebody is adding or removing,
    /// since it waits for nobody.
    #[inline]
    pub(super) fn get_at_once(&self, key: &Key, now: impl FnOnce() -> Duration) -> Option<(Arc<Entry>, u64)> {
        let shard = self.shard(key.hash);
        let entry = shard.try_read(|table| found(table, key))??;
        if entry.expires_at.is_some_and(|end| now() >= end) {
            return None;
        }
        self.uses.record(&entry);
        Some((entry, shard.count()))
    }

    /// Keeps an entry in place of one with the same key, and evicts what is too much; false if it is too large by itself.
    pub(super) fn insert(&self, entry: &Arc<Entry>) -> bool {
        let mut kept = locked(&self.kept);
        if entry.bytes > kept.limits.max_bytes || kept.limits.max_entries == 0 {
            return false;
        }
        let shard = self.shard(entry.hash);
        let is_same = |other: &Arc<Entry>| other.words() == entry.words();
        // It hardly ever is there, and reading is cheap.
        if shard.read(|table| table.find(entry.hash, is_same).is_some())
            && let Some(replaced) = take(shard, entry.hash, is_same)
        {
            kept.forget(&replaced);
        }
        let was_recalled = kept.order.recall(entry.hash);
        self.make_room(&mut kept, entry.bytes, 1);
        kept.order.insert(entry.clone(), was_recalled, &self.uses);
        kept.bytes += entry.bytes;
        shard.write(|table| {
            table.insert_unique(entry.hash, entry.clone(), |entry| entry.hash);
        });
        true
    }

    /// Drops an entry.
    pub(super) fn remove(&self, key: &Key) -> bool {
        let mut kept = locked(&self.kept);
        let removed = take(self.shard(key.hash), key.hash, |entry| *entry.words() == *key.words);
        if let Some(entry) = &removed {
            kept.forget(entry);
        }
        removed.is_some()
    }

    #[cold]
    fn expire(&self, entry: &Arc<Entry>) {
        let mut kept = locked(&self.kept);
        // Another thread may have been quicker.
        if kept.forget(entry) {
            self.drop_from_table(entry);
            kept.expired += 1;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&self) {
        let mut kept = locked(&self.kept);
        // Entries are freed after the locks, since that may take long.
        let _dropped: Vec<_> = self.shards.iter().map(|shard| shard.write(std::mem::take)).collect();
        let empty = Order::new(kept.policy);
        let order = std::mem::replace(&mut kept.order, empty);
        kept.bytes = 0;
        drop(kept);
        drop(order);
    }

    /// Changes how much is kept, and evicts what is too much.
    pub(super) fn resize(&self, limits: Limits) {
        let mut kept = locked(&self.kept);
        kept.limits = limits;
        self.make_room(&mut kept, 0, 0);
    }

    /// How many look-ups have found something.
    pub(super) fn hits(&self) -> u64 {
        self.shards.iter().map(Shard::counted).sum()
    }

    pub(super) fn held(&self) -> Held {
        let kept = locked(&self.kept);
        Held {
            hits: self.hits(),
            entries: kept.order.len(),
            bytes: kept.bytes(),
            evictions: kept.evictions,
            expired: kept.expired,
        }
    }

    /// Every entry, the one that would go first before the others.
    pub(super) fn by_use(&self) -> Vec<Arc<Entry>> {
        locked(&self.kept).order.entries()
    }

    pub(super) fn limits(&self) -> Limits {
        locked(&self.kept).limits
    }

    fn drop_from_table(&self, entry: &Arc<Entry>) {
        take(self.shard(entry.hash), entry.hash, |other| Arc::ptr_eq(other, entry));
    }

    /// Evicts the entry that goes first, and says how large it was.
    #[cold]
    pub(super) fn evict(&self) -> Option<usize> {
        let mut kept = locked(&self.kept);
        let scarce = Scarce::Bytes(kept.limits.max_bytes);
        self.evict_from(&mut kept, scarce)
    }

    fn evict_from(&self, kept: &mut Kept, scarce: Scarce) -> Option<usize> {
        let entry = kept.order.evict(scarce)?;
        self.drop_from_table(&entry);
        kept.bytes -= entry.bytes;
        kept.evictions += 1;
        Some(entry.bytes)
    }

    /// Evicts until so much more can be kept.
    fn make_room(&self, kept: &mut Kept, bytes: usize, entries: usize) {
        while let Some(scarce) = kept.scarce(bytes, entries) {
            if self.evict_from(kept, scarce).is_none() {
                return;
            }
        }
    }

    /// Checks what must always hold.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        let kept = locked(&self.kept);
        let entries: Vec<Arc<Entry>> = self
            .shards
            .iter()
            .flat_map(|shard| shard.read(|table| table.iter().cloned().collect::<Vec<_>>()))
            .collect();
        kept.order.validate(&entries);
        let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(bytes, kept.bytes);
        assert!(kept.bytes() <= kept.limits.max_bytes);
        assert!(entries.len() <= kept.limits.max_entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::order::naive::Naive;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn limits(max_bytes: usize, max_entries: usize) -> Limits {
        Limits { max_bytes, max_entries }
    }

    fn key(number: u8) -> Key {
        // Some share a hash, and some a shard.
        Key::of_words(u64::from(number % 40) << 32, &[u64::from(number)])
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

    /// Twelve numbers, of which two pairs share a hash.
    fn numbers() -> impl Strategy<Value = u8> {
        (0..12_u8).prop_map(|number| if number < 10 { number } else { number + 30 })
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let operation = prop_oneof![
            40 => numbers().prop_map(Operation::Get),
            40 => (numbers(), 1..400_usize).prop_map(|(number, bytes)| Operation::Insert(number, bytes)),
            4 => numbers().prop_map(Operation::Remove),
            2 => (0..1_500_usize, 0..12_usize).prop_map(|(bytes, entries)| Operation::Resize(bytes, entries)),
            1 => Just(Operation::Clear),
        ];
        prop::collection::vec(operation, 0..300)
    }

    const POLICIES: [Policy; 2] = [Policy::Lru, Policy::S3Fifo];

    proptest! {
        #[test]
        fn random_operations_end_as_in_the_obvious_cache(operations in operations(), policy in prop::sample::select(&POLICIES)) {
            let store = Store::new(limits(1_000, 6), policy);
            let mut naive = Naive::new(policy, limits(1_000, 6));
            for operation in operations {
                match operation {
                    Operation::Get(number) => {
                        let found = store.get(&key(number), || unreachable!("nothing expires"));
                        prop_assert_eq!(found.map(|entry| entry.bytes), naive.get(number));
                    }
                    Operation::Insert(number, bytes) => {
                        let is_kept = store.insert(&entry(number, bytes, None));
                        prop_assert_eq!(is_kept, naive.insert(number, key(number).hash, bytes));
                    }
                    Operation::Remove(number) => prop_assert_eq!(store.remove(&key(number)), naive.remove(number)),
                    Operation::Resize(bytes, entries) => {
                        store.resize(limits(bytes, entries));
                        naive.resize(limits(bytes, entries));
                    }
                    Operation::Clear => {
                        store.clear();
                        naive.clear();
                    }
                }
                store.validate();
                let held = store.held();
                prop_assert_eq!(
                    (held.entries, held.bytes, held.evictions),
                    (naive.len(), naive.bytes(), naive.evictions)
                );
            }
        }
    }

    #[test]
    fn a_scan_leaves_what_is_asked_for_again_where_it_is() {
        let survivors = POLICIES.map(|policy| {
            let store = Store::new(limits(100_000, 20), policy);
            let ask = |number| {
                if store.get(&key(number), Duration::default).is_none() {
                    store.insert(&entry(number, 10, None));
                }
            };
            for _ in 0..4 {
                (0..15).for_each(ask);
            }
            (100..200).for_each(ask);
            store.validate();
            (0..15)
                .filter(|&number| store.get(&key(number), Duration::default).is_some())
                .count()
        });
        assert_eq!(survivors, [0, 15]);
    }

    #[test]
    fn what_returns_soon_after_it_left_is_kept_for_longer() {
        let store = Store::new(limits(100_000, 20), Policy::S3Fifo);
        for number in 0..21 {
            store.insert(&entry(number, 10, None));
        }
        assert!(store.get(&key(0), Duration::default).is_none());
        store.insert(&entry(0, 10, None));
        for number in 100..200 {
            store.insert(&entry(number, 10, None));
        }
        assert!(store.get(&key(0), Duration::default).is_some());
        store.validate();
    }

    #[test]
    fn an_expired_entry_is_gone_and_counted_once() {
        for policy in POLICIES {
            let store = Store::new(limits(100, 6), policy);
            store.insert(&entry(1, 10, Some(Duration::from_secs(5))));
            assert!(store.get_at_once(&key(1), || Duration::from_secs(4)).is_some());
            assert!(store.get(&key(1), || Duration::from_secs(4)).is_some());
            assert!(store.get(&key(1), || Duration::from_secs(5)).is_none());
            assert!(store.get(&key(1), || Duration::from_secs(5)).is_none());
            store.validate();
            let held = store.held();
            assert_eq!((held.entries, held.bytes, held.expired, held.hits), (0, 0, 1, 1));
        }
    }

    #[test]
    fn threads_under_pressure_leave_the_store_whole() {
        for policy in POLICIES {
            let store = Store::new(limits(1_000, 6), policy);
            std::thread::scope(|scope| {
                for start in 0..4_u8 {
                    let store = &store;
                    scope.spawn(move || {
                        for round in 0..5_000_u32 {
                            let number = u8::try_from((round * 7 + u32::from(start)) % 12).unwrap_or(0);
                            if let Some(found) = store.get(&key(number), || Duration::from_secs(u64::from(round))) {
                                assert_eq!(*found.words(), *key(number).words);
                            } else {
                                let expires_at = (round % 5 == 0).then(|| Duration::from_secs(u64::from(round) + 3));
                                store.insert(&entry(number, 200, expires_at));
                            }
                            match round % 1_000 {
                                999 => store.clear(),
                                500 => store.resize(limits(600 + 100 * usize::from(start), 6)),
                                250 => store.resize(limits(1_000, 6)),
                                _ if round % 50 == 0 => drop(store.remove(&key(number))),
                                _ => {}
                            }
                        }
                    });
                }
            });
            store.validate();
        }
    }

    #[test]
    fn entries_in_use_by_other_threads_do_not_keep_an_eviction_going() {
        for policy in POLICIES {
            let store = Store::new(limits(1_000, 1), policy);
            let is_over = AtomicBool::new(false);
            store.insert(&entry(0, 10, None));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        for number in 0..12 {
                            let _ = store.get_at_once(&key(number), Duration::default);
                        }
                    }
                });
                for round in 0..5_000_u32 {
                    assert!(store.insert(&entry(u8::try_from(round % 12).unwrap_or(0), 10, None)));
                }
                is_over.store(true, Ordering::Relaxed);
            });
            store.validate();
            assert_eq!(store.held().entries, 1);
        }
    }
}
