//! The prediction cache: what was computed once is not computed again.
//!
//! A hit is proven: keys hold the inputs themselves, or a keyed cryptographic digest of large ones, and are compared in
//! full. Concurrent identical calls are computed once.

mod decode;
mod entry;
mod key;
mod memory;
mod order;
mod portable;
mod rows;
mod sampling;
mod saved;
mod shared;
mod store;
mod striped;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

pub use entry::Entry;
pub use key::{DIGESTED_BYTES, Key, SmallTensor};
pub use order::Policy;
pub use portable::{FORMAT, Identity, Portable};
pub use rows::MissingRows;
pub use shared::{Address, Server, SharedKey, SharedSummary};
pub use store::Limits;

use crate::clock::Clock;
use crate::error::Result;
use crate::flight::{Ending, Flights, Role};
use crate::question::Question;
use crate::runtime::{Answer, Call, Outputs, Values};
use crate::stats::{Latency, LatencySummary};
use crate::ticket::PATIENCE;
use memory::Memory;
use sampling::Sampling;
use shared::Shared;
use store::Store;

pub(crate) use entry::copied;
pub(crate) use key::Keyer;

/// About one hit in so many is timed.
const TIMED: u64 = 64;
/// For an entry that finds no place others go, up to this part of all there may be.
const EVICTED_FOR_ONE: usize = 4;

/// How a cache is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// How much is kept.
    pub limits: Limits,
    /// How long an answer counts; for ever without it.
    pub ttl: Option<Duration>,
    /// Which answer goes first when there is no room.
    pub policy: Policy,
}

/// What a cache has counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheSummary {
    /// Calls answered from what was kept.
    pub hits: u64,
    /// Calls that were looked up and computed.
    pub misses: u64,
    /// Calls that the computation of an identical one has answered, which was under way when they came.
    pub coalesced: u64,
    /// Calls that were not looked up, because too few were hits.
    pub skipped: u64,
    /// Entries dropped for want of room.
    pub evictions: u64,
    /// Entries dropped because their time was over.
    pub expired: u64,
    /// Entries now.
    pub entries: usize,
    /// Bytes now: keys, values and bookkeeping.
    pub bytes: usize,
    /// Whether only a sample of calls is looked up now.
    pub is_sampling: bool,
}

/// Answers of one model, by what was asked.
#[derive(Debug)]
pub struct PredictionCache {
    keyer: Keyer,
    store: Store,
    memory: Arc<Memory>,
    flights: Arc<Flights>,
    sampling: Sampling,
    clock: Clock,
    ttl: Option<Duration>,
    /// What answers beyond this process are known by, where there may be any.
    portable: Option<Portable>,
    /// The second tier.
    shared: Option<Shared>,
    /// Counts what makes earlier answers void.
    generation: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
    skipped: AtomicU64,
    /// How many look-ups come until one is timed, that one included; 0 for none of the next.
    until_timed: AtomicU8,
    hit_latency: Latency,
}

/// What a look-up found.
#[derive(Debug)]
pub enum Found {
    /// The answer to the call.
    Entry(Arc<Entry>),
    /// The answers to all of its rows, put together.
    Batch(Box<Outputs<'static>>),
}

/// What a look-up leaves to whoever computes the answer.
#[derive(Debug)]
pub enum Missed {
    /// What was asked, of which nothing is kept.
    Call(Arc<Key>),
    /// The rows of which nothing is kept, and the answers to the others.
    Rows(Box<MissingRows>),
    /// Everything: nothing was looked up.
    Skipped,
}

/// What has come of looking for the answer to one small tensor: one pointer at most, which comes back in a register.
#[derive(Debug)]
pub enum Looked {
    /// The answer.
    Found(Arc<Entry>),
    /// What was asked, of which nothing is kept.
    Missed(Arc<Key>),
    /// Nothing was looked up.
    Skipped,
    /// Nobody has looked, since this is not the way to look.
    Unasked,
}

impl Looked {
    /// What is known not to be there; `None` where nobody has looked.
    #[must_use]
    pub fn missed(self) -> Option<Missed> {
        match self {
            Self::Missed(key) => Some(Missed::Call(key)),
            Self::Skipped => Some(Missed::Skipped),
            Self::Found(_) | Self::Unasked => None,
        }
    }
}

impl Missed {
    /// Whether this is what a call asks that was read after one small tensor was looked up: reading may have run somebody
    /// else's code.
    #[must_use]
    pub fn is_of(&self, call: &Call<'_>) -> bool {
        match self {
            Self::Call(key) => key.is_of_small(call),
            Self::Rows(_) => false,
            Self::Skipped => true,
        }
    }
}

/// From 0 to 7, another number after each 64 hits: calls that take turns are timed in turn.
fn some_more(hits: u64) -> u8 {
    let scattered = (hits / TIMED).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
    u8::try_from(scattered).unwrap_or(0)
}

impl PredictionCache {
    /// An empty cache.
    #[must_use]
    pub fn new(settings: CacheSettings, clock: Clock) -> Self {
        Self {
            keyer: Keyer::new(),
            store: Store::new(settings.limits, settings.policy),
            memory: Arc::new(Memory::new(settings.limits.max_bytes)),
            flights: Arc::default(),
            sampling: Sampling::default(),
            clock,
            ttl: settings.ttl,
            portable: None,
            shared: None,
            generation: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            until_timed: AtomicU8::new(0),
            hit_latency: Latency::default(),
        }
    }

    /// The same cache, whose answers may leave the process; nothing may have been looked up in it.
    #[must_use]
    pub fn with_portable(mut self, portable: Portable) -> Self {
        self.keyer = self.keyer.with_secret(portable.digest_key());
        self.portable = Some(portable);
        self
    }

    /// The same cache with a second tier behind it, which other processes use as well.
    #[must_use]
    pub fn with_shared(mut self, portable: Portable, server: Server) -> Self {
        self.shared = Some(Shared::new(server, &portable, self.clock.clone()));
        self.with_portable(portable)
    }

    /// Drops every answer, and lets none leave the process or come into it from now on: the model has become another one.
    pub fn reconfigure(&self) {
        if let Some(portable) = &self.portable {
            portable.make_void();
        }
        self.clear();
    }

    fn portable(&self) -> Option<&Portable> {
        self.portable.as_ref().filter(|portable| !portable.is_void())
    }

    /// The second tier, while it has answers of this model.
    fn shared(&self) -> Option<&Shared> {
        self.portable().and(self.shared.as_ref())
    }

    /// Whether there is a second tier.
    pub(crate) fn has_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// Why the second tier cannot be used now.
    pub fn problem_of_shared(&self) -> Option<String> {
        self.shared.as_ref()?.problem()
    }

    /// How the second tier failed, if that is why it is left alone now.
    #[must_use]
    pub fn pause_of_shared(&self) -> Option<String> {
        self.shared.as_ref()?.pause()
    }

    /// What the second tier has counted, if there is one.
    #[must_use]
    pub fn shared_summary(&self) -> Option<SharedSummary> {
        self.shared.as_ref().map(Shared::summary)
    }

    /// What the second tier calls a call.
    #[must_use]
    pub fn shared_key(&self, call: &Call<'_>) -> Option<SharedKey> {
        let shared = self.shared()?;
        Some(shared.key(&self.key(call).words))
    }

    /// Drops an answer from the second tier; whether there was one.
    pub fn invalidate_shared(&self, key: SharedKey) -> bool {
        self.shared().is_some_and(|shared| shared.remove(key))
    }

    /// Asks the second tier, and keeps what it has.
    pub(crate) fn fetch(&self, key: &Key) -> Option<Arc<Entry>> {
        let (values, left) = self.shared()?.get(&key.words)?;
        // Look-ups pay, although none was answered here.
        self.sampling.record(true, || self.store.hits());
        // Without a time to live, the server's own is about its memory, not about the answer.
        let left = self.ttl.map(|ttl| left.map_or(ttl, |left| left.min(ttl)));
        let expires_at = left.map(|left| self.clock.now().saturating_add(left));
        Some(self.keep_values(key, values.into(), expires_at))
    }

    /// Gives the second tier an answer that was computed here.
    pub(crate) fn share(&self, entry: &Entry) {
        if let Some(shared) = self.shared()
            && portable::generation_of(entry.words()) == self.generation.load(Ordering::Acquire)
        {
            shared.put(entry.words(), entry.values(), self.ttl);
        }
    }

    /// Keeps an entry unless it is void by now.
    fn insert(&self, key: &Key, entry: &Arc<Entry>) {
        if key.generation() == self.generation.load(Ordering::Acquire) {
            self.store.insert(entry);
        }
    }

    /// Takes the answers over that a file holds, and says how many; the error says why the file is not used.
    ///
    /// A file that is not there holds none. What is more than the limits allow goes, the least recently used first.
    pub fn warm_from(&self, path: &Path) -> Result<usize, String> {
        let Some(portable) = &self.portable else { return Ok(0) };
        let restored = saved::load(path, portable, self.clock.wall())?.unwrap_or_default();
        let count = restored.len();
        let generation = self.generation.load(Ordering::Acquire);
        for mut answer in restored {
            if let Some(first) = answer.words.first_mut() {
                *first = generation;
            }
            let left = answer.left.into_iter().chain(self.ttl).min();
            let expires_at = left.map(|left| self.clock.now().saturating_add(left));
            let hash = self.keyer.hash(&answer.words);
            let entry = self.with_room(Values::from(answer.values), |values| {
                Entry::of_values(&self.memory, hash, &answer.words, values, expires_at)
            });
            if let Ok(entry) = entry {
                self.store.insert(&Arc::new(entry));
            }
        }
        Ok(count)
    }

    /// Writes every answer to a file, and says how many; `None` for a cache whose answers may not leave the process.
    pub fn save(&self, path: &Path) -> Option<std::io::Result<usize>> {
        let portable = self.portable()?;
        let generation = self.generation.load(Ordering::Acquire);
        let mut entries = self.store.by_use();
        entries.retain(|entry| portable::generation_of(entry.words()) == generation);
        Some(saved::save(
            path,
            portable,
            &entries,
            self.clock.now(),
            self.clock.wall(),
        ))
    }

    fn key(&self, call: &Call<'_>) -> Key {
        self.keyer.key(call, self.generation.load(Ordering::Acquire))
    }

    /// Looks again, for as long as it takes. What it finds is no hit: another call has computed it meanwhile.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Entry>> {
        self.store.get(key, || self.clock.now())
    }

    #[inline]
    fn get_at_once(&self, key: &Key) -> Option<Arc<Entry>> {
        let (entry, hits) = self.store.get_at_once(key, || self.clock.now())?;
        if hits % TIMED == TIMED / 2 {
            self.until_timed.store(1 + some_more(hits), Ordering::Relaxed);
        }
        Some(entry)
    }

    /// When a look-up begins, if it is one to be timed; without hits none is, and none reads the clock.
    #[inline]
    fn start(&self) -> Option<Duration> {
        let left = self.until_timed.load(Ordering::Relaxed);
        if left > 0 {
            self.until_timed.store(left - 1, Ordering::Relaxed);
        }
        (left == 1).then(|| self.clock.now())
    }

    /// Takes note of a call that was answered from what is kept, and of how long that took, if it was timed.
    #[inline]
    fn finish(&self, start: Option<Duration>) {
        if let Some(start) = start {
            self.hit_latency.record(self.clock.now().saturating_sub(start));
        }
    }

    /// How long it took to find the answer to a call, of about one hit in 64: from the inputs that were read to the answer that
    /// is still to be copied.
    #[must_use]
    pub fn hit_latency(&self) -> LatencySummary {
        self.hit_latency.summary()
    }

    /// Looks for the answer to a call; takes no longer than reading its inputs, and waits for nobody.
    #[inline]
    pub fn look_up(&self, call: &Call<'_>) -> Result<Arc<Entry>, Missed> {
        self.look_up_with(|key, generation| self.keyer.write_key(key, call, generation))
    }

    /// Looks for the answer to a call that feeds one small tensor to the first input: [`PredictionCache::look_up`] without
    /// the call.
    #[inline]
    pub fn look_up_small(&self, tensor: &SmallTensor<'_>, fetches: &[usize]) -> Looked {
        let looked =
            self.look_up_with(|key, generation| self.keyer.write_key_of_small(key, tensor, fetches, generation));
        match looked {
            Ok(entry) => Looked::Found(entry),
            Err(Missed::Call(key)) => Looked::Missed(key),
            Err(Missed::Rows(_) | Missed::Skipped) => Looked::Skipped,
        }
    }

    #[inline]
    fn look_up_with(&self, write: impl FnOnce(&mut Key, u64)) -> Result<Arc<Entry>, Missed> {
        if !self.sampling.is_due() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return Err(Missed::Skipped);
        }
        let start = self.start();
        let mut key = Key::default();
        write(&mut key, self.generation.load(Ordering::Acquire));
        let found = self.get_at_once(&key);
        self.sampling.record(found.is_some(), || self.store.hits());
        let entry = found.ok_or_else(|| Missed::Call(Arc::new(key)))?;
        self.finish(start);
        Ok(entry)
    }

    /// What a look-up has missed, in memory of its own, and what stands for that.
    pub(crate) fn question(&self, call: &Call<'_>, key: Arc<Key>) -> (Question, Arc<Key>) {
        Question::of_key(call, key, &self.keyer)
    }

    /// Joins the computation of what a key stands for, or begins it.
    pub(crate) fn join(&self, key: &Arc<Key>) -> Role {
        self.flights.join(key)
    }

    /// Takes note of a call that is computed.
    pub(crate) fn count_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of a call that another one's computation has answered.
    pub(crate) fn count_coalesced(&self) {
        self.coalesced.fetch_add(1, Ordering::Relaxed);
    }

    /// Computes what a look-up has missed, or waits for whoever does already.
    ///
    /// `compute` is given a call whose inputs are those that the key stands for, whoever writes to the caller's meanwhile.
    /// While this waits, `check` is asked every 50 ms whether it should go on; its error is the caller's alone.
    pub fn compute<'e>(
        &self,
        call: &Call<'_>,
        key: Arc<Key>,
        check: &dyn Fn() -> Result<()>,
        compute: impl Fn(&Call<'_>) -> Result<Outputs<'e>>,
    ) -> Result<Answer<'e>> {
        let (question, key) = self.question(call, key);
        let (call, key) = (question.call(call.options), &key);
        if call.options.is_some() {
            // Options belong to one caller, who may end the run: nobody else waits for it.
            self.count_miss();
            let computed = compute(&call)?;
            self.share(&self.keep(key, &computed));
            return Ok(Answer::Computed(computed));
        }
        loop {
            let seat = match self.join(key) {
                Role::Wait(seat) => seat,
                Role::Lead(leader, _seat) => {
                    // Its computation may have ended between the look-up and now.
                    let found = self.find(key);
                    if found.is_some() {
                        self.count_coalesced();
                    }
                    if let Some(entry) = found.or_else(|| self.fetch(key)) {
                        leader.end(Ending::Answer(entry.clone()));
                        return Ok(Answer::Kept(entry));
                    }
                    self.count_miss();
                    let computed = compute(&call);
                    let kept = computed.as_ref().map(|outputs| self.keep(key, outputs));
                    leader.end(match &kept {
                        Err(error) if error.kind().is_of_one_caller() => Ending::Abandoned,
                        Err(error) => Ending::Error((*error).clone()),
                        Ok(entry) => Ending::Answer(entry.clone()),
                    });
                    // Those who wait have it by now.
                    if let Ok(entry) = &kept {
                        self.share(entry);
                    }
                    return computed.map(Answer::Computed);
                }
            };
            let ending = loop {
                if let Some(ending) = seat.wait(PATIENCE) {
                    break ending;
                }
                check()?;
            };
            match ending {
                Ending::Answer(entry) => {
                    self.count_coalesced();
                    return Ok(Answer::of(entry));
                }
                Ending::Error(error) => {
                    self.count_coalesced();
                    return Err(error);
                }
                Ending::Abandoned => {}
            }
        }
    }

    /// Keeps an answer, unless it is void by now.
    pub(crate) fn keep(&self, key: &Key, outputs: &Outputs<'_>) -> Arc<Entry> {
        let expires_at = self.ttl.map(|ttl| self.clock.now().saturating_add(ttl));
        let made = self.with_room((), |()| Entry::new(&self.memory, key, outputs, expires_at).ok_or(()));
        match made.map(Arc::new) {
            Ok(entry) => {
                self.insert(key, &entry);
                entry
            }
            Err(()) => Arc::new(Entry::unkept(outputs.copied())),
        }
    }

    /// Keeps values that are an answer, unless it is void by now.
    fn keep_values(&self, key: &Key, values: Values, expires_at: Option<Duration>) -> Arc<Entry> {
        let made = self.with_room(values, |values| {
            Entry::of_values(&self.memory, key.hash, &key.words, values, expires_at)
        });
        match made.map(Arc::new) {
            Ok(entry) => {
                self.insert(key, &entry);
                entry
            }
            Err(values) => Arc::new(Entry::unkept(values)),
        }
    }

    /// Makes an entry, of parts that come back where there is no place for it; then others go, as long as that is no
    /// large part of them.
    fn with_room<P>(&self, parts: P, mut attempt: impl FnMut(P) -> Result<Entry, P>) -> Result<Entry, P> {
        let mut made = attempt(parts);
        let mut evicted = 0;
        while let Err(parts) = made {
            if evicted > self.store.limits().max_bytes / EVICTED_FOR_ONE {
                return Err(parts);
            }
            let Some(bytes) = self.store.evict() else {
                return Err(parts);
            };
            evicted += bytes;
            made = attempt(parts);
        }
        made
    }

    /// Drops the answer to a call; whether there was one.
    pub fn invalidate(&self, call: &Call<'_>) -> bool {
        self.store.remove(&self.key(call))
    }

    /// Drops every answer. One whose computation is under way is not kept either.
    pub fn clear(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.store.clear();
        self.memory.trim();
    }

    /// Changes how much is kept.
    pub fn resize(&self, limits: Limits) {
        self.store.resize(limits);
        self.memory.set_budget(limits.max_bytes);
        self.memory.trim();
    }

    /// How much is kept at most.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.store.limits()
    }

    /// Calls answered from what was kept.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.store.hits()
    }

    /// What has been counted.
    #[must_use]
    pub fn summary(&self) -> CacheSummary {
        let held = self.store.held();
        CacheSummary {
            hits: held.hits,
            misses: self.misses.load(Ordering::Relaxed),
            coalesced: self.coalesced.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            evictions: held.evictions,
            expired: held.expired,
            entries: held.entries,
            bytes: held.bytes,
            is_sampling: self.sampling.is_sparse(),
        }
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "makes views over arrays of the tests")]
mod tests {
    use super::*;
    use crate::clock::Hand;
    use crate::error::{Error, ErrorKind};
    use crate::runtime::{Feed, Input};
    use crate::tensor::{Dtype, Shape, Strings, Tensor, TensorView, Value};
    use std::cell::Cell;
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    fn cache_with(max_bytes: usize, ttl: Option<Duration>) -> (PredictionCache, Hand) {
        let (clock, hand) = Clock::held();
        let limits = Limits {
            max_bytes,
            max_entries: usize::MAX,
        };
        let policy = Policy::default();
        (PredictionCache::new(CacheSettings { limits, ttl, policy }, clock), hand)
    }

    fn cache() -> PredictionCache {
        cache_with(1 << 20, None).0
    }

    fn floats(index: usize, shape: &[i64], numbers: &[f32]) -> Feed {
        // SAFETY: the tests keep the numbers for as long as the feeds.
        let view = unsafe {
            TensorView::new(
                Dtype::Float32,
                shape.into(),
                numbers.as_ptr().cast(),
                size_of_val(numbers),
            )
        };
        Feed {
            index,
            value: Input::Tensor(view),
        }
    }

    fn value(index: usize, value: Value) -> Feed {
        Feed {
            index,
            value: Input::Value(Arc::new(value)),
        }
    }

    fn call<'a>(feeds: &'a [Feed], fetches: &'a [usize]) -> Call<'a> {
        Call {
            feeds,
            fetches,
            options: None,
        }
    }

    fn strings(items: &[&str]) -> Value {
        let mut strings = Strings::with_shape(Shape::from_slice(&[i64::try_from(items.len()).unwrap_or(0)]));
        for item in items {
            strings.push(item.as_bytes());
        }
        Value::Strings(strings)
    }

    /// Whether a call is computed, as opposed to found; the answer is what was fed first.
    fn is_computed(cache: &PredictionCache, asked: &Call<'_>) -> bool {
        let computed = Cell::new(false);
        match cache.look_up(asked) {
            Ok(_) => {}
            Err(Missed::Skipped | Missed::Rows(_)) => panic!("it was not looked up"),
            Err(Missed::Call(key)) => {
                let outputs = cache.compute(asked, key, &|| Ok(()), |call| {
                    computed.set(true);
                    let mut outputs = Outputs::default();
                    if let Some(Input::Tensor(view)) = call.feeds.first().map(|feed| &feed.value) {
                        outputs.push(Value::Tensor(crate::tensor::Tensor::copied(view)));
                    }
                    Ok(outputs)
                });
                assert!(outputs.is_ok());
            }
        }
        computed.get()
    }

    const ZEROS: [f32; 6] = [0.0; 6];

    #[test]
    fn one_hit_in_64_is_timed_and_not_always_the_same_call() {
        let cache = cache();
        let feeds = [floats(0, &[6], &ZEROS)];
        let asked = call(&feeds, &[0]);
        assert!(is_computed(&cache, &asked));
        assert_eq!(cache.hit_latency().count, 0);
        for _ in 0..10 * TIMED {
            assert!(!is_computed(&cache, &asked));
        }
        assert_eq!(cache.hit_latency().count, 10);
        let places: HashSet<u8> = (0..10).map(|count| some_more(count * TIMED) % 2).collect();
        assert_eq!(places.len(), 2);
    }

    fn small<'a>(shape: &'a [i64], numbers: &'a [f32]) -> SmallTensor<'a> {
        // SAFETY: the numbers are borrowed for as long as the tensor.
        let tensor = unsafe { SmallTensor::new(Dtype::Float32, shape, numbers.as_ptr().cast(), size_of_val(numbers)) };
        tensor.expect("it is small")
    }

    #[test]
    fn one_small_tensor_is_looked_up_as_the_call_that_feeds_it() {
        let many: Vec<f32> = (0_u8..200).map(f32::from).collect();
        for (shape, count) in [
            (&[][..], 1),
            (&[6][..], 6),
            (&[2, 3], 6),
            (&[0, 3], 0),
            (&[1, 2, 100], 200),
        ] {
            for fetches in [&[0][..], &[0, 1], &[]] {
                let cache = cache();
                let numbers = &many[..count];
                let looked = cache.look_up_small(&small(shape, numbers), fetches);
                let missed = looked.missed().expect("nothing is kept yet");
                let feeds = [floats(0, shape, numbers)];
                assert!(missed.is_of(&call(&feeds, fetches)));
                assert!(is_computed(&cache, &call(&feeds, fetches)));
                let again = cache.look_up_small(&small(shape, numbers), fetches);
                assert!(matches!(again, Looked::Found(_)));
                let others = cache.look_up_small(&small(shape, numbers), &[7]);
                assert!(matches!(others, Looked::Missed(_)));
            }
        }
    }

    #[test]
    fn what_was_missed_is_of_no_use_to_a_call_that_turned_out_otherwise() {
        let cache = cache();
        let looked = cache.look_up_small(&small(&[2, 3], &ZEROS), &[0]);
        let missed = looked.missed().expect("nothing is kept yet");
        let turned = [
            floats(0, &[3, 2], &ZEROS),
            floats(0, &[6], &ZEROS),
            floats(1, &[2, 3], &ZEROS),
            floats(0, &[2, 1], &ZEROS[..2]),
        ];
        for feed in turned {
            assert!(!missed.is_of(&call(&[feed], &[0])));
        }
        assert!(!missed.is_of(&call(&[floats(0, &[2, 3], &ZEROS)], &[1])));
        assert!(!missed.is_of(&call(&[floats(0, &[2, 3], &ZEROS), floats(1, &[6], &ZEROS)], &[0])));
        let large = vec![0.0; DIGESTED_BYTES];
        assert!(!missed.is_of(&call(&[floats(0, &[2, 3], &large)], &[0])));
        assert!(missed.is_of(&call(&[floats(0, &[2, 3], &[1.0; 6])], &[0])));
    }

    #[test]
    fn equal_bytes_of_another_shape_are_another_question() {
        let cache = cache();
        for shape in [&[2, 3][..], &[3, 2], &[1, 6], &[6], &[6, 1, 1]] {
            assert!(is_computed(&cache, &call(&[floats(0, shape, &ZEROS)], &[0])));
        }
        assert!(!is_computed(&cache, &call(&[floats(0, &[3, 2], &ZEROS)], &[0])));
    }

    #[test]
    fn other_outputs_are_another_question() {
        let cache = cache();
        let feeds = [floats(0, &[6], &ZEROS)];
        for fetches in [&[0][..], &[0, 1], &[1], &[1, 0], &[0, 1, 2], &[]] {
            assert!(is_computed(&cache, &call(&feeds, fetches)));
            assert!(!is_computed(&cache, &call(&feeds, fetches)));
        }
    }

    #[test]
    fn the_input_that_bytes_are_fed_to_counts_and_the_order_of_feeding_does_not() {
        let cache = cache();
        let ones = [1.0; 6];
        let one_way = [floats(0, &[6], &ZEROS), floats(1, &[6], &ones)];
        assert!(is_computed(&cache, &call(&one_way, &[0])));
        let exchanged = [floats(0, &[6], &ones), floats(1, &[6], &ZEROS)];
        assert!(is_computed(&cache, &call(&exchanged, &[0])));
        let reordered = [floats(1, &[6], &ones), floats(0, &[6], &ZEROS)];
        assert!(!is_computed(&cache, &call(&reordered, &[0])));
        assert!(is_computed(&cache, &call(&one_way[..1], &[0])));
    }

    #[test]
    fn every_bit_of_a_number_counts() {
        let cache = cache();
        for number in [0.0, -0.0, f32::NAN, -f32::NAN, f32::from_bits(0x7fc0_0001)] {
            assert!(is_computed(&cache, &call(&[floats(0, &[1], &[number])], &[0])));
            assert!(!is_computed(&cache, &call(&[floats(0, &[1], &[number])], &[0])));
        }
    }

    #[test]
    fn strings_are_not_confused_by_where_they_end() {
        let cache = cache();
        for items in [
            &["ab", "c"][..],
            &["a", "bc"],
            &["abc", ""],
            &["", "abc"],
            &["abc"],
            &["a\0b", "c"],
        ] {
            assert!(is_computed(&cache, &call(&[value(0, strings(items))], &[0])));
            assert!(!is_computed(&cache, &call(&[value(0, strings(items))], &[0])));
        }
        for element in [Dtype::Float32, Dtype::Int64] {
            let empty = || Value::Sequence {
                element,
                items: Vec::new(),
            };
            assert!(is_computed(&cache, &call(&[value(0, empty())], &[0])));
            assert!(!is_computed(&cache, &call(&[value(0, empty())], &[0])));
        }
        let nested = Value::Sequence {
            element: Dtype::String,
            items: vec![strings(&["ab", "c"])],
        };
        assert!(is_computed(&cache, &call(&[value(0, nested)], &[0])));
        assert!(is_computed(&cache, &call(&[value(0, Value::Absent)], &[0])));
    }

    #[test]
    fn large_inputs_are_told_apart_by_any_byte() {
        let cache = cache();
        let mut large = vec![1.0_f32; 10_000];
        assert!(is_computed(&cache, &call(&[floats(0, &[10_000], &large)], &[0])));
        assert!(!is_computed(&cache, &call(&[floats(0, &[10_000], &large)], &[0])));
        assert!(is_computed(&cache, &call(&[floats(0, &[100, 100], &large)], &[0])));
        large[9_999] = 1.000_000_1;
        assert!(is_computed(&cache, &call(&[floats(0, &[10_000], &large)], &[0])));
    }

    #[test]
    fn a_saved_answer_lives_no_longer_than_it_had_left() {
        let portable = || Portable::new([1; 32], None);
        let path = std::env::temp_dir().join(format!("inferlite-lives-{}", std::process::id()));
        let asked_of =
            |cache: &PredictionCache, number: &[f32; 1]| is_computed(cache, &call(&[floats(0, &[1], number)], &[0]));
        let (cache, hand) = cache_with(1 << 20, Some(Duration::from_secs(10)));
        let cache = cache.with_portable(portable());
        assert!(asked_of(&cache, &[1.0]));
        cache.clear();
        assert!(asked_of(&cache, &[2.0]));
        hand.advance(Duration::from_secs(4));
        assert!(matches!(cache.save(&path), Some(Ok(1))));
        for (ttl, lives_for) in [(None, 6_000), (Some(100), 6_000), (Some(3), 3_000)] {
            let (next, hand) = cache_with(1 << 20, ttl.map(Duration::from_secs));
            let next = next.with_portable(portable());
            hand.advance(Duration::from_secs(4));
            assert_eq!(next.warm_from(&path), Ok(1));
            hand.advance(Duration::from_millis(lives_for - 1));
            assert!(!asked_of(&next, &[2.0]));
            hand.advance(Duration::from_millis(1));
            assert!(asked_of(&next, &[2.0]));
            assert!(asked_of(&next, &[1.0]));
        }
        std::fs::remove_file(&path).expect("it was written");
        assert_eq!(cache.warm_from(&path), Ok(0));
    }

    #[test]
    fn a_small_input_runs_from_the_bytes_that_were_looked_up() {
        let cache = cache();
        let mut numbers = [1.0_f32; 6];
        let place = numbers.as_mut_ptr();
        let feeds = [floats(0, &[6], &numbers)];
        let asked = call(&feeds, &[0]);
        let Err(Missed::Call(key)) = cache.look_up(&asked) else {
            panic!("nothing is kept yet")
        };
        // SAFETY: inside the array; nothing else looks at it now.
        unsafe { place.write(7.0) };
        cache
            .compute(&asked, key, &|| Ok(()), |call| {
                let Input::Tensor(view) = &call.feeds[0].value else {
                    panic!("it is a tensor")
                };
                let copy = crate::tensor::Tensor::copied(view);
                assert_eq!(copy.to_bytes()[..4], 1.0_f32.to_ne_bytes());
                Ok(Outputs::default())
            })
            .expect("it computes");
        assert!(!is_computed(&cache, &call(&[floats(0, &[6], &[1.0; 6])], &[0])));
    }

    #[test]
    fn a_large_input_that_changes_meanwhile_is_kept_as_what_ran() {
        let cache = cache();
        let mut numbers = vec![1.0_f32; 10_000];
        let place = numbers.as_mut_ptr();
        let feeds = [floats(0, &[10_000], &numbers)];
        let asked = call(&feeds, &[0]);
        let Err(Missed::Call(key)) = cache.look_up(&asked) else {
            panic!("nothing is kept yet")
        };
        // SAFETY: inside the vector; nothing else looks at it now.
        unsafe { place.write(7.0) };
        let outputs = cache.compute(&asked, key, &|| Ok(()), |call| {
            // SAFETY: as above.
            unsafe { place.write(1.0) };
            let Input::Tensor(view) = &call.feeds[0].value else {
                panic!("it is a tensor")
            };
            let mut outputs = Outputs::default();
            outputs.push(Value::Tensor(crate::tensor::Tensor::copied(view)));
            Ok(outputs)
        });
        assert!(outputs.is_ok());
        assert!(is_computed(&cache, &asked));
        let mut ran = vec![1.0_f32; 10_000];
        ran[0] = 7.0;
        let feeds = [floats(0, &[10_000], &ran)];
        let Ok(entry) = cache.look_up(&call(&feeds, &[0])) else {
            panic!("what ran was kept")
        };
        assert!(matches!(&entry.values()[0], Value::Tensor(answer) if answer.to_bytes()[..4] == 7.0_f32.to_ne_bytes()));
    }

    #[test]
    fn an_error_is_not_kept() {
        let cache = cache();
        let feeds = [floats(0, &[6], &ZEROS)];
        let asked = call(&feeds, &[0]);
        let Err(Missed::Call(key)) = cache.look_up(&asked) else {
            panic!("nothing is kept yet")
        };
        let failed = cache.compute(&asked, key, &|| Ok(()), |_| Err(Error::new(ErrorKind::Fail, "as told")));
        assert_eq!(failed.expect_err("as told").message(), "as told");
        assert!(is_computed(&cache, &asked));
        assert!(!is_computed(&cache, &asked));
    }

    #[test]
    fn an_answer_counts_until_its_time_is_over() {
        let (cache, hand) = cache_with(1 << 20, Some(Duration::from_secs(60)));
        let feeds = [floats(0, &[6], &ZEROS)];
        let asked = call(&feeds, &[0]);
        assert!(is_computed(&cache, &asked));
        hand.advance(Duration::from_secs(59));
        assert!(!is_computed(&cache, &asked));
        hand.advance(Duration::from_secs(1));
        assert!(is_computed(&cache, &asked));
        assert_eq!(cache.summary().expired, 1);
    }

    #[test]
    fn clearing_also_voids_what_is_being_computed() {
        let cache = cache();
        let feeds = [floats(0, &[6], &ZEROS)];
        let asked = call(&feeds, &[0]);
        let Err(Missed::Call(key)) = cache.look_up(&asked) else {
            panic!("nothing is kept yet")
        };
        let computed = cache.compute(&asked, key, &|| Ok(()), |_| {
            cache.clear();
            Ok(Outputs::default())
        });
        assert!(computed.is_ok());
        assert_eq!(cache.summary().entries, 0);
        assert!(is_computed(&cache, &asked));
        assert!(cache.invalidate(&asked));
        assert!(!cache.invalidate(&asked));
        assert!(is_computed(&cache, &asked));
    }

    #[test]
    fn the_budget_counts_everything_and_what_is_too_large_is_not_kept() {
        let (cache, _) = cache_with(4_000, None);
        for number in 0..100_u8 {
            is_computed(&cache, &call(&[floats(0, &[1], &[f32::from(number)])], &[0]));
            assert!(cache.summary().bytes <= 4_000);
        }
        let summary = cache.summary();
        assert_eq!(summary.entries as u64 + summary.evictions, 100);
        assert!(summary.entries > 4);
        let large = vec![0.0; 2_000];
        assert!(is_computed(&cache, &call(&[floats(0, &[2_000], &large)], &[0])));
        assert!(is_computed(&cache, &call(&[floats(0, &[2_000], &large)], &[0])));
        assert_eq!(cache.summary().entries, summary.entries);
    }

    #[test]
    fn a_large_answer_is_kept_among_holes_of_small_ones() {
        const BUDGET: usize = 16 << 20;
        let (cache, _) = cache_with(BUDGET, None);
        let keep = |number: f32, bytes: usize| {
            let (number, shape) = ([number], i64::try_from(bytes).expect("it is small"));
            let (feeds, fetches) = ([floats(0, &[1], &number)], [0]);
            let answer = Tensor::of_bytes(Dtype::Uint8, Shape::from_slice(&[shape]), vec![1; bytes].into());
            let key = cache.key(&call(&feeds, &fetches));
            cache.keep_values(&key, Values::from_iter([Value::Tensor(answer)]), None);
            cache.look_up(&call(&feeds, &fetches)).is_ok()
        };
        let small = || (0..16_000_u16).map(f32::from);
        for number in small() {
            assert!(keep(number, 1_000));
        }
        for number in small().step_by(2) {
            cache.invalidate(&call(&[floats(0, &[1], &[number])], &[0]));
        }
        let before = cache.summary();
        // There is enough room, but not in one place: small ones go to make some.
        assert!(keep(-1.0, 3 << 20));
        assert!(keep(-2.0, 3 << 20));
        let after = cache.summary();
        assert!(after.evictions > before.evictions);
        assert!(after.bytes > BUDGET / 2, "{after:?}");
    }

    #[test]
    fn concurrent_identical_calls_are_computed_once() {
        let cache = cache();
        let (runs, threads) = (AtomicUsize::new(0), 8);
        let barrier = Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let feeds = [floats(0, &[6], &ZEROS)];
                    let asked = call(&feeds, &[0]);
                    let lookup = cache.look_up(&asked);
                    barrier.wait();
                    let Err(Missed::Call(key)) = lookup else {
                        panic!("nobody has computed it before all had looked")
                    };
                    let outputs = cache.compute(&asked, key, &|| Ok(()), |call| {
                        runs.fetch_add(1, Ordering::Relaxed);
                        let mut outputs = Outputs::default();
                        outputs.push(strings(&["answer"]));
                        assert_eq!(call.feeds.len(), 1);
                        Ok(outputs)
                    });
                    assert_eq!(outputs.map(|outputs| outputs.len()).ok(), Some(1));
                });
            }
        });
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        assert_eq!(cache.summary().misses, 1);
    }

    #[test]
    fn a_waiter_that_gives_up_takes_nobody_with_it() {
        let cache = cache();
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let feeds = [floats(0, &[6], &ZEROS)];
                let asked = call(&feeds, &[0]);
                let Err(Missed::Call(key)) = cache.look_up(&asked) else {
                    panic!("nothing is kept yet")
                };
                let outputs = cache.compute(&asked, key, &|| Ok(()), |_| {
                    barrier.wait();
                    // The other one has given up by the second time.
                    barrier.wait();
                    Ok(Outputs::default())
                });
                assert!(outputs.is_ok());
            });
            barrier.wait();
            let feeds = [floats(0, &[6], &ZEROS)];
            let asked = call(&feeds, &[0]);
            let Err(Missed::Call(key)) = cache.look_up(&asked) else {
                panic!("it is still being computed")
            };
            let give_up = || Err(Error::new(ErrorKind::Fail, "enough"));
            let ended = cache.compute(&asked, key, &give_up, |_| panic!("somebody else leads"));
            assert_eq!(ended.expect_err("it gave up").message(), "enough");
            barrier.wait();
        });
        assert_eq!(cache.summary().entries, 1);
    }

    #[test]
    fn a_panic_frees_the_waiters_and_one_of_them_computes() {
        let cache = cache();
        let feeds = [floats(0, &[6], &ZEROS)];
        let asked = call(&feeds, &[0]);
        let Err(Missed::Call(key)) = cache.look_up(&asked) else {
            panic!("nothing is kept yet")
        };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = cache.compute(&asked, key, &|| Ok(()), |_| panic!("as told"));
        }));
        assert!(panicked.is_err());
        assert!(is_computed(&cache, &asked));
    }
}
