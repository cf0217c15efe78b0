#![expect(unsafe_code, reason = "copies inputs, and runs from the copies")]
//! What a call asks, in bytes: two calls with equal keys are one question.
//!
//! The layout is read from front to back without a choice: counts come first, and each input says its form and its
//! lengths before its content, so that different calls never have equal bytes. An input of up to
//! [`DIGESTED_BYTES`] is in the key as it is, and runs from there: what was looked up is what is computed, whoever writes
//! to the caller's memory meanwhile. Of a larger one the key holds a keyed BLAKE3 digest, which is taken again after the
//! run, before anything is stored.

use std::hash::{BuildHasher, Hash};

use smallvec::SmallVec;

use crate::runtime::{Call, Feed, Input};
use crate::tensor::{Map, MapKeys, MapValues, Strings, TensorView, Value};

/// Tensors of more bytes are in a key as a digest.
///
/// The frames of the engine copy inputs up to this size in any case, from any alignment.
pub const DIGESTED_BYTES: usize = 16 * 1024;

const DIGEST_WORDS: usize = 2;
/// What most keys of small inputs need: moving a longer one costs more than it saves.
const INLINE_WORDS: usize = 8;
/// Stands for an input whose bytes the key has not.
const ELSEWHERE: u32 = u32::MAX;
const WORD: usize = size_of::<u128>();

#[derive(Clone, Copy)]
#[repr(u8)]
enum Form {
    Bytes,
    Digest,
    Value,
    DigestOfValue,
}

/// Makes keys: those of two keyers have nothing to do with each other.
#[derive(Debug)]
pub(super) struct Keyer {
    hasher: foldhash::fast::RandomState,
    secret: [u8; 32],
}

/// A call in bytes.
#[derive(Debug)]
pub struct Key {
    pub(super) hash: u64,
    pub(super) words: SmallVec<[u128; INLINE_WORDS]>,
    /// Where the bytes of each input begin, in words, or [`ELSEWHERE`].
    copies: SmallVec<[u32; 4]>,
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
    pub(super) fn key(&self, call: &Call<'_>, generation: u64) -> Key {
        let mut words = Words::default();
        words.push_pair(generation, (call.feeds.len() as u64) << 32 | call.fetches.len() as u64);
        for pair in call.fetches.chunks(2) {
            words.push_pair(pair[0] as u64, pair.get(1).map_or(0, |index| *index as u64));
        }
        let mut copies: SmallVec<[u32; 4]> = SmallVec::from_elem(ELSEWHERE, call.feeds.len());
        if call.feeds.is_sorted_by_key(|feed| feed.index) {
            for (position, feed) in call.feeds.iter().enumerate() {
                copies[position] = self.push_feed(&mut words, feed);
            }
        } else {
            // The order of a dictionary says nothing.
            let mut order: SmallVec<[usize; 8]> = (0..call.feeds.len()).collect();
            order.sort_unstable_by_key(|&position| call.feeds[position].index);
            for position in order {
                copies[position] = self.push_feed(&mut words, &call.feeds[position]);
            }
        }
        let hash = self.hash(&words.0);
        Key {
            hash,
            words: words.0,
            copies,
        }
    }

    pub(super) fn hash(&self, words: &[u128]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        u128::hash_slice(words, &mut hasher);
        std::hash::Hasher::finish(&hasher)
    }

    fn push_feed(&self, words: &mut Words, feed: &Feed) -> u32 {
        let index = feed.index as u64;
        match &feed.value {
            Input::Tensor(view) => {
                let is_small = view.byte_len() <= DIGESTED_BYTES;
                let form = if is_small { Form::Bytes } else { Form::Digest };
                let kind = (view.dtype() as u64) << 16 | (form as u64) << 8 | view.shape().len() as u64;
                words.push_pair(index << 32 | kind, view.byte_len() as u64);
                words.push_shape(view.shape());
                if is_small {
                    words.push_view(view)
                } else {
                    words.push_digest(self.digest(view));
                    ELSEWHERE
                }
            }
            Input::Value(value) => {
                let mut bytes = Vec::new();
                write_value(value, &mut bytes);
                let is_small = bytes.len() <= DIGESTED_BYTES;
                let form = if is_small { Form::Value } else { Form::DigestOfValue };
                words.push_pair(index << 32 | (form as u64) << 8, bytes.len() as u64);
                if is_small {
                    words.push_bytes(&bytes);
                } else {
                    words.push_digest(blake3::keyed_hash(&self.secret, &bytes));
                }
                ELSEWHERE
            }
        }
    }

    fn digest(&self, view: &TensorView) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        // By way of a buffer, since another thread may write to the bytes, of which there must be no slice then.
        let mut buffer = [0_u8; DIGESTED_BYTES];
        for start in (0..view.byte_len()).step_by(buffer.len()) {
            let part = &mut buffer[..(view.byte_len() - start).min(DIGESTED_BYTES)];
            // SAFETY: `start` is inside the view.
            let from = unsafe { view.data().add(start) };
            // SAFETY: the part ends where the view does or before, and its bytes are readable while it lives.
            unsafe { std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), part.len()) };
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// Whether the large inputs of a call still are what its key says.
    pub(super) fn still_fits(&self, key: &Key, call: &Call<'_>) -> bool {
        let is_large = |feed: &Feed| matches!(&feed.value, Input::Tensor(view) if view.byte_len() > DIGESTED_BYTES);
        !call.feeds.iter().any(is_large) || self.key(call, key.generation()).words == key.words
    }
}

impl Key {
    #[cfg(test)]
    pub(super) fn of_words(hash: u64, words: &[u128]) -> Self {
        Self {
            hash,
            words: words.into(),
            copies: SmallVec::new(),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        u64::try_from(self.words[0] & u128::from(u64::MAX)).unwrap_or(0)
    }

    /// What is fed, from the key's own copy where it has one; valid while the key and the call live.
    pub(super) fn feeds(&self, call: &Call<'_>) -> SmallVec<[Feed; 2]> {
        let copied = |view: &TensorView, start: u32| {
            if start == ELSEWHERE {
                // SAFETY: used for the call alone, which outlives the run.
                return unsafe { view.duplicate() };
            }
            let data = self.words[start as usize..].as_ptr().cast();
            // SAFETY: the key holds as many bytes as the view from this word on, and outlives the run.
            unsafe { TensorView::new(view.dtype(), view.shape().into(), data, view.byte_len()) }
        };
        std::iter::zip(call.feeds, &self.copies)
            .map(|(feed, start)| Feed {
                index: feed.index,
                value: match &feed.value {
                    Input::Tensor(view) => Input::Tensor(copied(view, *start)),
                    Input::Value(value) => Input::Value(value.clone()),
                },
            })
            .collect()
    }
}

#[derive(Default)]
struct Words(SmallVec<[u128; INLINE_WORDS]>);

impl Words {
    #[inline]
    fn push_pair(&mut self, low: u64, high: u64) {
        self.0.push(u128::from(high) << 64 | u128::from(low));
    }

    #[inline]
    fn push_shape(&mut self, shape: &[i64]) {
        for pair in shape.chunks(2) {
            self.push_pair(
                pair[0].cast_unsigned(),
                pair.get(1).map_or(0, |extent| extent.cast_unsigned()),
            );
        }
    }

    /// Copies the bytes of a view, and says where they begin.
    #[inline]
    fn push_view(&mut self, view: &TensorView) -> u32 {
        let start = self.0.len();
        self.0.resize(start + view.byte_len().div_ceil(WORD), 0);
        if view.byte_len() > 0 {
            let place = self.0[start..].as_mut_ptr().cast::<u8>();
            // SAFETY: the view's bytes are readable while it lives, and the words have room for them.
            unsafe { std::ptr::copy_nonoverlapping(view.data(), place, view.byte_len()) };
        }
        u32::try_from(start).unwrap_or(ELSEWHERE)
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(WORD) {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0.push(u128::from_ne_bytes(word));
        }
    }

    fn push_digest(&mut self, digest: blake3::Hash) {
        const { assert!(blake3::OUT_LEN == DIGEST_WORDS * WORD) };
        self.push_bytes(digest.as_bytes());
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
