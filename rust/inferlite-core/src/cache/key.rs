#![expect(unsafe_code, reason = "copies inputs, and runs from the copies")]
//! What a call asks, in bytes: two calls with equal keys are one question.
//!
//! The layout is read from front to back without a choice: counts come first, and each input says its form and its
//! lengths before its content, so that different calls never have equal bytes. An input of up to
//! [`DIGESTED_BYTES`] is in the key as it is, and runs from there: what was looked up is what is computed, whoever writes
//! to the caller's memory meanwhile. Of a larger one the key holds a keyed BLAKE3 digest; it runs from a copy, whose digest
//! is taken for the key of what is stored. (To take the digest of the caller's memory again after the run would not do:
//! bytes that change and change back have equal digests, and another answer.)

use std::cell::Cell;
use std::hash::{BuildHasher, Hash};

use smallvec::SmallVec;

use crate::runtime::{Call, Feed, Input};
use crate::tensor::{Dtype, Map, MapKeys, MapValues, Strings, TensorView, Value};

/// Tensors of more bytes are in a key as a digest.
///
/// The frames of the engine copy inputs up to this size in any case, from any alignment.
pub const DIGESTED_BYTES: usize = 16 * 1024;

/// Bytes that are digested at once: BLAKE3 hashes several of its 1 KiB chunks side by side, and joins them in a tree that
/// grows more quickly from long runs than from short ones.
const DIGEST_BUFFER: usize = 64 * 1024;
/// What most keys of small inputs need: moving a longer one costs more than it saves.
const INLINE_WORDS: usize = 18;
const WORD: usize = size_of::<u64>();
const DIGEST_WORDS: usize = blake3::OUT_LEN / WORD;
/// The word that holds the generation.
pub(super) const GENERATION: usize = 0;
/// The word that holds how many inputs there are, and how many outputs are wanted.
pub(super) const COUNTS: usize = 1;
/// Words before those of the outputs.
const HEAD_WORDS: usize = 2;
/// Words before the shape of an input, or before the content of one that is no tensor: what it is, and its bytes.
const INPUT_WORDS: usize = 2;

#[derive(Clone, Copy)]
#[repr(u8)]
enum Form {
    Bytes,
    Digest,
    Value,
    DigestOfValue,
}

type Words = SmallVec<[u64; INLINE_WORDS]>;

thread_local! {
    /// Memory of a key that this thread has dropped, for its next long one: the program's allocator is slow with so much.
    static SPARE: Cell<Vec<u64>> = const { Cell::new(Vec::new()) };
}

/// Makes keys: those of two keyers have nothing to do with each other.
#[derive(Debug)]
pub(crate) struct Keyer {
    hasher: foldhash::fast::RandomState,
    secret: [u8; 32],
}

/// A tensor of at most [`DIGESTED_BYTES`] of fixed-size elements, where its owner has it.
#[derive(Debug)]
pub struct SmallTensor<'a> {
    dtype: Dtype,
    shape: &'a [i64],
    data: *const u8,
    byte_len: usize,
}

impl<'a> SmallTensor<'a> {
    /// A tensor over memory that others may write to; `None` if it is large.
    ///
    /// # Safety
    /// `byte_len` bytes at `data` are readable while the tensor is used, and are as many as type and shape say.
    #[inline]
    #[must_use]
    pub unsafe fn new(dtype: Dtype, shape: &'a [i64], data: *const u8, byte_len: usize) -> Option<Self> {
        (byte_len <= DIGESTED_BYTES).then_some(Self {
            dtype,
            shape,
            data,
            byte_len,
        })
    }

    /// The extent of every axis.
    #[inline]
    pub(crate) fn shape(&self) -> &'a [i64] {
        self.shape
    }
}

/// A call in bytes.
#[derive(Debug, Default)]
pub struct Key {
    pub(super) hash: u64,
    pub(super) words: Words,
}

impl Keyer {
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        // Without randomness of the system's, a digest is still one of BLAKE3, only not one of our own.
        let _ = getrandom::fill(&mut secret);
        Self {
            hasher: foldhash::fast::RandomState::default(),
            secret,
        }
    }

    /// The same, with digests that whoever has this secret takes as well.
    pub(super) fn with_secret(self, secret: [u8; 32]) -> Self {
        Self { secret, ..self }
    }

    /// The key of a call, of a model in this state of its configuration.
    #[inline]
    pub(crate) fn key(&self, call: &Call<'_>, generation: u64) -> Key {
        let mut key = Key::default();
        self.write_key(&mut key, call, generation);
        key
    }

    /// Writes the key of a call into an empty one, where it stays: moving so much right after it was written takes as long
    /// as writing it.
    #[inline]
    pub(super) fn write_key(&self, key: &mut Key, call: &Call<'_>, generation: u64) {
        push_head(&mut key.words, generation, call.feeds.len(), call.fetches);
        if is_in_order(call) {
            for feed in call.feeds {
                self.push_feed(&mut key.words, feed);
            }
        } else {
            for position in positions_by_index(call) {
                self.push_feed(&mut key.words, &call.feeds[position]);
            }
        }
        key.hash = self.hash(&key.words);
    }

    /// Writes the key of a call that feeds one small tensor to the first input; [`Keyer::write_key`] writes the same.
    #[inline]
    pub(super) fn write_key_of_small(
        &self,
        key: &mut Key,
        tensor: &SmallTensor<'_>,
        fetches: &[usize],
        generation: u64,
    ) {
        let described = HEAD_WORDS + fetches.len() + INPUT_WORDS + tensor.shape.len();
        let count = described + tensor.byte_len.div_ceil(WORD);
        if count > INLINE_WORDS {
            key.words = spare_words(count);
        }
        debug_assert!(key.words.is_empty() && key.words.capacity() >= count);
        let mut place = key.words.as_mut_ptr();
        let mut put = |word: u64| {
            // SAFETY: there is room for `count` words, of which those before the content are put.
            unsafe { place.write(word) };
            // SAFETY: as above.
            place = unsafe { place.add(1) };
        };
        for word in head_words(generation, 1, fetches) {
            put(word);
        }
        for &index in fetches {
            put(index as u64);
        }
        for word in tensor_words(0, Form::Bytes, tensor.dtype, tensor.shape, tensor.byte_len) {
            put(word);
        }
        for extent in tensor.shape {
            put(extent.cast_unsigned());
        }
        // SAFETY: whoever made the tensor vouches for its bytes, and there is room for them.
        unsafe { copy_content(place, tensor.data, tensor.byte_len) };
        // SAFETY: the words of the description and of the content were written.
        unsafe { key.words.set_len(count) };
        key.hash = self.hash(&key.words);
    }

    #[inline]
    pub(super) fn hash(&self, words: &[u64]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        u64::hash_slice(words, &mut hasher);
        std::hash::Hasher::finish(&hasher)
    }

    #[inline]
    fn push_feed(&self, words: &mut Words, feed: &Feed) {
        match &feed.value {
            Input::Tensor(view) => {
                let is_small = view.byte_len() <= DIGESTED_BYTES;
                let form = if is_small { Form::Bytes } else { Form::Digest };
                push_tensor(words, feed.index, form, view.dtype(), view.shape(), view.byte_len());
                if is_small {
                    // SAFETY: the view's bytes are readable while it lives.
                    unsafe { push_memory(words, view.data(), view.byte_len()) };
                } else {
                    push_bytes(words, self.digest(view).as_bytes());
                }
            }
            Input::Value(value) => self.push_value(words, feed.index as u64, value),
        }
    }

    #[cold]
    fn push_value(&self, words: &mut Words, index: u64, value: &Value) {
        let mut bytes = Vec::new();
        write_value(value, &mut bytes);
        let is_small = bytes.len() <= DIGESTED_BYTES;
        let form = if is_small { Form::Value } else { Form::DigestOfValue };
        push(words, [index << 32 | (form as u64) << 8, bytes.len() as u64]);
        if is_small {
            push_bytes(words, &bytes);
        } else {
            push_bytes(words, blake3::keyed_hash(&self.secret, &bytes).as_bytes());
        }
    }

    /// The digest of a large view.
    fn digest(&self, view: &TensorView) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        // By way of a buffer, since another thread may write to the bytes, of which there must be no slice then.
        let mut buffer = vec![0_u8; view.byte_len().min(DIGEST_BUFFER)];
        for start in (0..view.byte_len()).step_by(buffer.len()) {
            let part = &mut buffer[..(view.byte_len() - start).min(DIGEST_BUFFER)];
            // SAFETY: `start` is inside the view.
            let from = unsafe { view.data().add(start) };
            // SAFETY: the part ends where the view does or before, and its bytes are readable while it lives.
            unsafe { std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), part.len()) };
            hasher.update(part);
        }
        hasher.finalize()
    }
}

impl Key {
    #[cfg(test)]
    pub(crate) fn of_words(hash: u64, words: &[u64]) -> Self {
        Self {
            hash,
            words: words.into(),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.words[GENERATION]
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether another one stands for the same question.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.words == other.words
    }

    /// Whether a call feeds and asks for what a key of one small tensor says, its bytes aside: from those of the key it
    /// can run.
    pub(crate) fn is_of_small(&self, call: &Call<'_>) -> bool {
        let [feed] = call.feeds else { return false };
        let Input::Tensor(view) = &feed.value else { return false };
        if view.byte_len() > DIGESTED_BYTES {
            return false;
        }
        let mut words = Words::new();
        push_head(&mut words, self.generation(), 1, call.fetches);
        push_tensor(
            &mut words,
            feed.index,
            Form::Bytes,
            view.dtype(),
            view.shape(),
            view.byte_len(),
        );
        let content = view.byte_len().div_ceil(WORD);
        self.words.len() == words.len() + content && self.words.starts_with(&words)
    }

    /// What is fed, from the key's own copy where it has one; valid while the call lives, and the key stays where it is.
    pub(crate) fn feeds(&self, call: &Call<'_>) -> SmallVec<[Feed; 1]> {
        let mut feeds = SmallVec::new();
        for (feed, place) in std::iter::zip(call.feeds, self.places(call)) {
            feeds.push(Feed {
                index: feed.index,
                value: match &feed.value {
                    Input::Tensor(view) if view.byte_len() <= DIGESTED_BYTES => {
                        Input::Tensor(self.copy_of(view, place + INPUT_WORDS + view.shape().len()))
                    }
                    // SAFETY: used for the call alone, which outlives the run.
                    Input::Tensor(view) => Input::Tensor(unsafe { view.duplicate() }),
                    Input::Value(value) => Input::Value(value.clone()),
                },
            });
        }
        feeds
    }

    /// The word at which each feed of a call begins.
    fn places(&self, call: &Call<'_>) -> SmallVec<[usize; 8]> {
        let fetches = self.words[COUNTS] & u64::from(u32::MAX);
        let mut place = HEAD_WORDS + usize::try_from(fetches).unwrap_or(usize::MAX);
        if call.feeds.len() == 1 {
            return SmallVec::from_slice(&[place]);
        }
        let mut places: SmallVec<[usize; 8]> = SmallVec::from_elem(0, call.feeds.len());
        for position in positions_by_index(call) {
            places[position] = place;
            let byte_len = usize::try_from(self.words[place + 1]).unwrap_or(usize::MAX);
            let content = if byte_len <= DIGESTED_BYTES {
                byte_len.div_ceil(WORD)
            } else {
                DIGEST_WORDS
            };
            let rank = match &call.feeds[position].value {
                Input::Tensor(view) => view.shape().len(),
                Input::Value(_) => 0,
            };
            place += INPUT_WORDS + rank + content;
        }
        places
    }

    /// The tensor whose bytes begin at this word of the key.
    fn copy_of(&self, view: &TensorView, content: usize) -> TensorView {
        let bytes = &self.words[content..content + view.byte_len().div_ceil(WORD)];
        // SAFETY: the words hold as many bytes as the view, and the key outlives the run.
        unsafe {
            TensorView::new(
                view.dtype(),
                view.shape().into(),
                bytes.as_ptr().cast(),
                view.byte_len(),
            )
        }
    }
}

#[inline]
fn is_in_order(call: &Call<'_>) -> bool {
    call.feeds.is_sorted_by_key(|feed| feed.index)
}

/// The positions of the feeds in the order of their inputs: the order of a dictionary says nothing.
fn positions_by_index(call: &Call<'_>) -> SmallVec<[usize; 8]> {
    let mut positions: SmallVec<[usize; 8]> = (0..call.feeds.len()).collect();
    positions.sort_unstable_by_key(|&position| call.feeds[position].index);
    positions
}

impl Drop for Key {
    #[inline]
    fn drop(&mut self) {
        if self.words.spilled() {
            let mut words = std::mem::take(&mut self.words).into_vec();
            words.clear();
            // A thread that ends keeps nothing.
            let _ = SPARE.try_with(|spare| spare.set(words));
        }
    }
}

/// Room for so many words, more than fit inside a key.
fn spare_words(count: usize) -> Words {
    let mut words = SPARE.try_with(Cell::take).unwrap_or_default();
    words.reserve(count);
    Words::from_vec(words)
}

#[inline]
fn push<const N: usize>(words: &mut Words, more: [u64; N]) {
    words.extend_from_slice(&more);
}

#[inline]
fn head_words(generation: u64, feeds: usize, fetches: &[usize]) -> [u64; HEAD_WORDS] {
    [generation, (feeds as u64) << 32 | fetches.len() as u64]
}

#[inline]
fn tensor_words(index: usize, form: Form, dtype: Dtype, shape: &[i64], byte_len: usize) -> [u64; INPUT_WORDS] {
    let kind = (dtype as u64) << 16 | (form as u64) << 8 | shape.len() as u64;
    [(index as u64) << 32 | kind, byte_len as u64]
}

#[inline]
fn push_head(words: &mut Words, generation: u64, feeds: usize, fetches: &[usize]) {
    push(words, head_words(generation, feeds, fetches));
    for &index in fetches {
        words.push(index as u64);
    }
}

/// What a tensor is; its content, or a digest of it, is to follow.
#[inline]
fn push_tensor(words: &mut Words, index: usize, form: Form, dtype: Dtype, shape: &[i64], byte_len: usize) {
    push(words, tensor_words(index, form, dtype, shape, byte_len));
    for extent in shape {
        words.push(extent.cast_unsigned());
    }
}

/// Copies bytes that others may write to.
///
/// # Safety
/// The bytes are readable.
#[inline]
unsafe fn push_memory(words: &mut Words, data: *const u8, byte_len: usize) {
    let count = byte_len.div_ceil(WORD);
    words.reserve(count);
    let end = words.len() + count;
    // SAFETY: inside the words, or at their end.
    let place = unsafe { words.as_mut_ptr().add(words.len()) };
    // SAFETY: the caller vouches for the bytes, and there is room for so many words more.
    unsafe { copy_content(place, data, byte_len) };
    // SAFETY: all words up to the end were written above.
    unsafe { words.set_len(end) };
}

/// Writes bytes into as many words as they need: the last one, which they may fill in part only, ends in zeros.
///
/// # Safety
/// The bytes are readable, and there is room for the words.
#[inline]
unsafe fn copy_content(place: *mut u64, data: *const u8, byte_len: usize) {
    if byte_len == 0 {
        return;
    }
    // SAFETY: there is room for so many words.
    let last = unsafe { place.add((byte_len - 1) / WORD) };
    // SAFETY: as above.
    unsafe { last.write(0) };
    // SAFETY: the caller vouches for the bytes, and the words have room for them.
    unsafe { std::ptr::copy_nonoverlapping(data, place.cast::<u8>(), byte_len) };
}

fn push_bytes(words: &mut Words, bytes: &[u8]) {
    for chunk in bytes.chunks(WORD) {
        let mut word = [0; WORD];
        word[..chunk.len()].copy_from_slice(chunk);
        words.push(u64::from_ne_bytes(word));
    }
}

/// Writes a value so that different values have different bytes: every part says its kind and length first.
pub(super) fn write_value(value: &Value, into: &mut Vec<u8>) {
    let number = |into: &mut Vec<u8>, number: usize| into.extend_from_slice(&(number as u64).to_ne_bytes());
    let shape = |into: &mut Vec<u8>, shape: &[i64]| {
        number(into, shape.len());
        for extent in shape {
            into.extend_from_slice(&extent.to_ne_bytes());
        }
    };
    match value {
        Value::Absent => into.push(0),
        Value::Tensor(tensor) => {
            into.extend_from_slice(&[1, tensor.view().dtype() as u8]);
            shape(into, tensor.view().shape());
            into.extend_from_slice(&tensor.to_bytes());
        }
        Value::Strings(strings) => {
            into.push(2);
            shape(into, &strings.shape);
            write_strings(strings, into);
        }
        Value::Sequence { element, items } => {
            into.extend_from_slice(&[3, *element as u8]);
            number(into, items.len());
            for item in items {
                write_value(item, into);
            }
        }
        Value::Map(map) => write_map(map, into),
    }
}

fn write_strings(strings: &Strings, into: &mut Vec<u8>) {
    for string in strings.iter() {
        into.extend_from_slice(&(string.len() as u64).to_ne_bytes());
        into.extend_from_slice(string);
    }
}

fn write_map(map: &Map, into: &mut Vec<u8>) {
    fn numbers<const N: usize>(kind: u8, numbers: impl ExactSizeIterator<Item = [u8; N]>, into: &mut Vec<u8>) {
        into.push(kind);
        into.extend_from_slice(&(numbers.len() as u64).to_ne_bytes());
        numbers.for_each(|number| into.extend_from_slice(&number));
    }
    match &map.keys {
        MapKeys::Int64(keys) => numbers(4, keys.iter().map(|key| key.to_ne_bytes()), into),
        MapKeys::String(keys) => {
            numbers(5, std::iter::once((keys.len() as u64).to_ne_bytes()), into);
            write_strings(keys, into);
        }
    }
    match &map.values {
        MapValues::Float(values) => numbers(6, values.iter().map(|value| value.to_ne_bytes()), into),
        MapValues::Double(values) => numbers(7, values.iter().map(|value| value.to_ne_bytes()), into),
        MapValues::Int64(values) => numbers(8, values.iter().map(|value| value.to_ne_bytes()), into),
        MapValues::String(values) => {
            numbers(9, std::iter::once((values.len() as u64).to_ne_bytes()), into);
            write_strings(values, into);
        }
    }
}
