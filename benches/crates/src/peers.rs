//! inferlite's cache and the crates, behind one seam: keys are bytes, and an answer weighs as much as its key is long.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inferlite_core::cache::{CacheSettings, Limits, Lookup, Policy, PredictionCache};
use inferlite_core::clock::Clock;
use inferlite_core::{Call, Dtype, Error, ErrorKind, Feed, Input, Outputs, TensorView};

/// How much a cache may keep.
#[derive(Clone, Copy)]
pub enum Room {
    Bytes(usize),
    Entries(usize),
}

/// How a computation that several callers share ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Value,
    Error,
    Panic,
}

pub trait Peer: Send + Sync {
    /// Whether there is an answer to a key, which is used by that.
    fn get(&self, key: &[u8]) -> bool;
    /// Keeps an answer.
    fn put(&self, key: &[u8]);
    /// The bytes of the answers that are alive, as they count themselves.
    fn alive(&self) -> usize;
    /// Changes the room in bytes; false if there is no such method.
    fn resize(&self, _bytes: usize) -> bool {
        false
    }
    /// Computes what is missing once for all who ask; `None` if there is no such method without an async runtime.
    fn compute(&self, _key: &[u8], _compute: &dyn Fn() -> Ending) -> Option<Ending> {
        None
    }
}

pub struct Maker {
    pub name: &'static str,
    pub make: fn(Room) -> Box<dyn Peer>,
}

pub const INFERLITE: Maker = Maker {
    name: "inferlite-core",
    make: |room| Box::new(Inferlite::new(room)),
};

pub const CRATES: [Maker; 5] = [
    Maker {
        name: "quick_cache",
        make: |room| Box::new(Quick::new(room)),
    },
    Maker {
        name: "moka",
        make: |room| Box::new(Moka::new(room)),
    },
    Maker {
        name: "foyer-memory",
        make: |room| Box::new(Foyer::new(room)),
    },
    Maker {
        name: "lru",
        make: |room| Box::new(Lru::new(room)),
    },
    Maker {
        name: "schnellru",
        make: |room| Box::new(Schnell::new(room)),
    },
];

/// What crates keep: it counts its bytes for as long as it lives.
struct Answer {
    bytes: usize,
    alive: Arc<AtomicUsize>,
}

impl Answer {
    fn new(bytes: usize, alive: &Arc<AtomicUsize>) -> Arc<Self> {
        alive.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Self {
            bytes,
            alive: alive.clone(),
        })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

type Kept = Arc<Answer>;
type Bytes = Vec<u8>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Inferlite(PredictionCache);

impl Inferlite {
    fn new(room: Room) -> Self {
        let (max_bytes, max_entries) = match room {
            Room::Bytes(bytes) => (bytes, usize::MAX),
            Room::Entries(entries) => (usize::MAX, entries),
        };
        let limits = Limits { max_bytes, max_entries };
        Self(PredictionCache::new(
            CacheSettings {
                limits,
                ttl: None,
                policy: Policy::Lru,
            },
            Clock::default(),
        ))
    }

    fn ask<R>(&self, key: &[u8], with: impl FnOnce(&Call<'_>) -> R) -> R {
        let shape = [i64::try_from(key.len()).expect("keys are short")];
        // SAFETY: the key is borrowed for longer than the view lives, and nobody writes to it.
        let view = unsafe { TensorView::new(Dtype::Uint8, shape.as_slice().into(), key.as_ptr(), key.len()) };
        let feeds = [Feed {
            index: 0,
            value: Input::Tensor(view),
        }];
        with(&Call {
            feeds: &feeds,
            fetches: &[0],
            options: None,
        })
    }
}

impl Peer for Inferlite {
    fn get(&self, key: &[u8]) -> bool {
        self.ask(key, |call| matches!(self.0.look_up(call), Lookup::Hit(_)))
    }

    fn put(&self, key: &[u8]) {
        self.compute(key, &|| Ending::Value);
    }

    fn alive(&self) -> usize {
        self.0.summary().bytes
    }

    fn resize(&self, bytes: usize) -> bool {
        self.0.resize(Limits {
            max_bytes: bytes,
            max_entries: usize::MAX,
        });
        true
    }

    fn compute(&self, key: &[u8], compute: &dyn Fn() -> Ending) -> Option<Ending> {
        self.ask(key, |call| match self.0.look_up(call) {
            Lookup::Hit(_) => Some(Ending::Value),
            Lookup::Skipped => panic!("the cache has turned itself down"),
            Lookup::Miss(key) => {
                let ended = self.0.compute(call, &key, &|| Ok(()), |_| match compute() {
                    Ending::Value => Ok(Outputs::default()),
                    Ending::Error => Err(Error::new(ErrorKind::Fail, "as told")),
                    Ending::Panic => panic!("as told"),
                });
                Some(if ended.is_ok() { Ending::Value } else { Ending::Error })
            }
        })
    }
}

#[derive(Clone)]
struct ByLength {
    by_entry: bool,
}

impl quick_cache::Weighter<Bytes, Kept> for ByLength {
    fn weight(&self, key: &Bytes, _: &Kept) -> u64 {
        if self.by_entry { 1 } else { key.len() as u64 }
    }
}

struct Quick(quick_cache::sync::Cache<Bytes, Kept, ByLength>, Arc<AtomicUsize>);

impl Quick {
    fn new(room: Room) -> Self {
        let (items, weight, by_entry) = match room {
            Room::Bytes(bytes) => (bytes / 1_000, bytes as u64, false),
            Room::Entries(entries) => (entries, entries as u64, true),
        };
        Self(
            quick_cache::sync::Cache::with_weighter(items, weight, ByLength { by_entry }),
            Arc::default(),
        )
    }
}

impl Peer for Quick {
    fn get(&self, key: &[u8]) -> bool {
        self.0.get(key).is_some()
    }

    fn put(&self, key: &[u8]) {
        self.0.insert(key.into(), Answer::new(key.len(), &self.1));
    }

    fn alive(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn resize(&self, bytes: usize) -> bool {
        self.0.set_capacity(bytes as u64);
        true
    }

    fn compute(&self, key: &[u8], compute: &dyn Fn() -> Ending) -> Option<Ending> {
        let ended = self.0.get_or_insert_with(key, || match compute() {
            Ending::Value => Ok(Answer::new(key.len(), &self.1)),
            Ending::Error => Err(()),
            Ending::Panic => panic!("as told"),
        });
        Some(if ended.is_ok() { Ending::Value } else { Ending::Error })
    }
}

struct Moka(moka::sync::Cache<Bytes, Kept>, Arc<AtomicUsize>);

impl Moka {
    fn new(room: Room) -> Self {
        let builder = moka::sync::Cache::builder().eviction_policy(moka::policy::EvictionPolicy::lru());
        let cache = match room {
            Room::Entries(entries) => builder.max_capacity(entries as u64).build(),
            Room::Bytes(bytes) => builder
                .max_capacity(bytes as u64)
                .weigher(|key: &Bytes, _: &Kept| u32::try_from(key.len()).unwrap_or(u32::MAX))
                .build(),
        };
        Self(cache, Arc::default())
    }
}

impl Peer for Moka {
    fn get(&self, key: &[u8]) -> bool {
        self.0.get(key).is_some()
    }

    fn put(&self, key: &[u8]) {
        self.0.insert(key.into(), Answer::new(key.len(), &self.1));
    }

    fn alive(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn compute(&self, key: &[u8], compute: &dyn Fn() -> Ending) -> Option<Ending> {
        let ended = self.0.try_get_with_by_ref(key, || match compute() {
            Ending::Value => Ok(Answer::new(key.len(), &self.1)),
            Ending::Error => Err(()),
            Ending::Panic => panic!("as told"),
        });
        Some(if ended.is_ok() { Ending::Value } else { Ending::Error })
    }
}

struct Foyer(foyer_memory::Cache<Bytes, Kept>, Arc<AtomicUsize>);

impl Foyer {
    fn new(room: Room) -> Self {
        // One shard, since each has a part of the budget of its own; and no pool beside the least recently used order.
        let config = foyer_memory::LruConfig {
            high_priority_pool_ratio: 0.0,
        };
        let (capacity, by_entry) = match room {
            Room::Bytes(bytes) => (bytes, false),
            Room::Entries(entries) => (entries, true),
        };
        let cache = foyer_memory::CacheBuilder::new(capacity)
            .with_shards(1)
            .with_eviction_config(config)
            .with_weighter(move |key: &Bytes, _: &Kept| if by_entry { 1 } else { key.len() })
            .build();
        Self(cache, Arc::default())
    }
}

impl Peer for Foyer {
    fn get(&self, key: &[u8]) -> bool {
        self.0.get(key).is_some()
    }

    fn put(&self, key: &[u8]) {
        self.0.insert(key.into(), Answer::new(key.len(), &self.1));
    }

    fn alive(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn resize(&self, bytes: usize) -> bool {
        self.0.resize(bytes).is_ok()
    }
}

/// By count alone: for a budget in bytes it is given as many entries as would fit if all were of the mean length.
struct Lru(Mutex<lru::LruCache<Bytes, Kept>>, Arc<AtomicUsize>);

pub const MEAN_BYTES: usize = 2_000;

impl Lru {
    fn new(room: Room) -> Self {
        let entries = match room {
            Room::Bytes(bytes) => bytes / MEAN_BYTES,
            Room::Entries(entries) => entries,
        };
        let entries = NonZeroUsize::new(entries).expect("there is room");
        Self(Mutex::new(lru::LruCache::new(entries)), Arc::default())
    }
}

impl Peer for Lru {
    fn get(&self, key: &[u8]) -> bool {
        let found = locked(&self.0).get(key).cloned();
        found.is_some()
    }

    fn put(&self, key: &[u8]) {
        let answer = Answer::new(key.len(), &self.1);
        locked(&self.0).put(key.into(), answer);
    }

    fn alive(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn resize(&self, bytes: usize) -> bool {
        locked(&self.0).resize(NonZeroUsize::new(bytes / MEAN_BYTES).expect("there is room"));
        true
    }
}

/// What schnellru lets its user write: an exact budget.
struct Budget {
    max_bytes: usize,
    max_entries: usize,
    bytes: usize,
}

impl schnellru::Limiter<Bytes, Kept> for Budget {
    type KeyToInsert<'a> = Bytes;
    type LinkType = u32;

    fn is_over_the_limit(&self, length: usize) -> bool {
        self.bytes > self.max_bytes || length > self.max_entries
    }

    fn on_insert(&mut self, _: usize, key: Bytes, value: Kept) -> Option<(Bytes, Kept)> {
        if key.len() > self.max_bytes {
            return None;
        }
        self.bytes += key.len();
        Some((key, value))
    }

    fn on_replace(&mut self, _: usize, _: &mut Bytes, _: Bytes, _: &mut Kept, _: &mut Kept) -> bool {
        true
    }

    fn on_removed(&mut self, key: &mut Bytes, _: &mut Kept) {
        self.bytes -= key.len();
    }

    fn on_cleared(&mut self) {
        self.bytes = 0;
    }

    fn on_grow(&mut self, _: usize) -> bool {
        true
    }
}

struct Schnell(Mutex<schnellru::LruMap<Bytes, Kept, Budget>>, Arc<AtomicUsize>);

struct Borrowed<'k>(&'k [u8]);

impl Hash for Borrowed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq<Bytes> for Borrowed<'_> {
    fn eq(&self, other: &Bytes) -> bool {
        *self.0 == **other
    }
}

impl Schnell {
    fn new(room: Room) -> Self {
        let (max_bytes, max_entries) = match room {
            Room::Bytes(bytes) => (bytes, usize::MAX),
            Room::Entries(entries) => (usize::MAX, entries),
        };
        let budget = Budget {
            max_bytes,
            max_entries,
            bytes: 0,
        };
        Self(Mutex::new(schnellru::LruMap::new(budget)), Arc::default())
    }
}

impl Peer for Schnell {
    fn get(&self, key: &[u8]) -> bool {
        let found = locked(&self.0).get(&Borrowed(key)).cloned();
        found.is_some()
    }

    fn put(&self, key: &[u8]) {
        let answer = Answer::new(key.len(), &self.1);
        locked(&self.0).insert(key.into(), answer);
    }

    fn alive(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn resize(&self, bytes: usize) -> bool {
        let mut map = locked(&self.0);
        map.limiter_mut().max_bytes = bytes;
        while map.limiter().bytes > bytes {
            map.pop_oldest();
        }
        true
    }
}
