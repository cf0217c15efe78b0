#![expect(unsafe_code, reason = "describes tensors inside its own block")]
//! One answer that is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::Duration;

use smallvec::SmallVec;

use super::key::Key;
use super::memory::{Block, Memory};
use crate::runtime::{Kept, Outputs, Values};
use crate::tensor::{Map, MapKeys, MapValues, Owner, Tensor, TensorView, Value};

/// What an allocation takes beside its bytes, on average.
const MALLOC: usize = 16;

/// What an entry takes beside its block and values: the entry itself with its counts of references, its place in the
/// table, at most twice as large as it is full, and its place in the order of use.
const BOOKKEEPING: usize =
    MALLOC + size_of::<Entry>() + 2 * size_of::<usize>() + 2 * (size_of::<usize>() + 1) + 3 * size_of::<u64>();

/// The outputs of one call, in memory of their own.
#[derive(Debug)]
pub struct Entry {
    pub(super) hash: u64,
    /// The outputs; tensors lie in the block, which is dropped later.
    values: Values,
    /// The words of the key and the bytes of the tensors; an answer that is handed over and never kept has none.
    block: Option<Block>,
    pub(super) bytes: usize,
    pub(super) expires_at: Option<Duration>,
    /// When it was used last.
    pub(super) used_at: AtomicU64,
    /// How often it was used lately.
    pub(super) uses: AtomicU8,
    /// Under which number the order of eviction has it.
    pub(super) recorded: AtomicU64,
}

impl Entry {
    /// A compact copy of outputs, which keeps nothing else alive; `None` where there is no memory for it.
    pub(super) fn new(
        memory: &Arc<Memory>,
        key: &Key,
        outputs: &Outputs<'_>,
        expires_at: Option<Duration>,
    ) -> Option<Self> {
        let tensors = outputs.kept().filter_map(|kept| match kept {
            Kept::Tensor(view) => Some(view),
            Kept::Other(_) => None,
        });
        let block = Block::new(memory, &key.words, tensors.clone())?;
        let mut places = block.places(tensors);
        let mut values = SmallVec::new();
        for kept in outputs.kept() {
            match kept {
                Kept::Tensor(_) => values.extend(places.next().map(|(place, view)| inside(place, view))),
                Kept::Other(value) => values.push(copied(value)),
            }
        }
        drop(places);
        Some(Self::with_size(key.hash, values, Some(block), expires_at))
    }

    /// The same of values, which are given back where there is no memory for them, and of the words of a key.
    pub(super) fn of_values(
        memory: &Arc<Memory>,
        hash: u64,
        words: &[u64],
        values: Values,
        expires_at: Option<Duration>,
    ) -> Result<Self, Values> {
        let tensors = values.iter().filter_map(|value| match value {
            Value::Tensor(tensor) => Some(tensor.view()),
            _ => None,
        });
        let Some(block) = Block::new(memory, words, tensors.clone()) else {
            return Err(values);
        };
        let mut inner: SmallVec<[Value; 2]> = block.places(tensors).map(|(place, view)| inside(place, view)).collect();
        inner.reverse();
        let values = values.into_iter().map(|value| match value {
            Value::Tensor(_) => inner.pop().unwrap_or(Value::Absent),
            other => other,
        });
        let values = values.collect();
        Ok(Self::with_size(hash, values, Some(block), expires_at))
    }

    /// An answer that is handed over and never kept.
    pub(crate) fn unkept(values: Values) -> Self {
        Self::with_size(0, values, None, None)
    }

    fn with_size(hash: u64, values: Values, block: Option<Block>, expires_at: Option<Duration>) -> Self {
        let spilled = if values.spilled() {
            MALLOC + size_of_val(values.as_slice())
        } else {
            0
        };
        let others: usize = values.iter().map(heap_of_value).sum();
        let bytes = block.as_ref().map_or(0, Block::size) + spilled + others + BOOKKEEPING;
        Self {
            hash,
            values,
            block,
            bytes,
            expires_at,
            used_at: AtomicU64::new(0),
            uses: AtomicU8::new(0),
            recorded: AtomicU64::new(0),
        }
    }

    /// What was asked, in words; none for an answer that is never kept.
    #[inline]
    pub(super) fn words(&self) -> &[u64] {
        self.block.as_ref().map_or(&[], Block::words)
    }

    /// The outputs, in the order asked for.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The outputs, for whoever has the last reference.
    pub(crate) fn into_values(self) -> Values {
        match self.block {
            None => self.values,
            Some(_) => self.values.iter().map(copied).collect(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(key: &Key, bytes: usize, expires_at: Option<Duration>) -> Self {
        let block = Block::new(&Arc::new(Memory::new(0)), &key.words, std::iter::empty());
        let mut entry = Self::with_size(key.hash, SmallVec::new(), block, expires_at);
        entry.bytes = bytes;
        entry
    }
}

/// The tensor whose bytes are at this place of a block.
fn inside(place: *const u8, view: &TensorView) -> Value {
    // SAFETY: the bytes of the tensor were copied there, and an entry drops its values before its block.
    let view = unsafe { TensorView::new(view.dtype(), view.shape().into(), place, view.byte_len()) };
    Value::Tensor(Tensor::new(view, Owner::of_nothing()))
}

/// What an output takes from the program's heap; a tensor lies in the block.
fn heap_of_value(value: &Value) -> usize {
    match value {
        Value::Absent | Value::Tensor(_) => 0,
        Value::Strings(strings) => strings.heap_bytes(),
        Value::Sequence { items, .. } => items.iter().map(size_of_item).sum(),
        Value::Map(map) => size_of::<Map>() + size_of_map(map),
    }
}

/// The bytes of an element of a sequence, with what holds them.
fn size_of_item(value: &Value) -> usize {
    let inside = match value {
        Value::Tensor(tensor) => tensor.view().byte_len() + HEAP_OF_TENSOR,
        other => heap_of_value(other),
    };
    size_of::<Value>() + inside
}

/// The box around the box of a tensor's bytes.
const HEAP_OF_TENSOR: usize = size_of::<Box<[u8]>>() + 2 * MALLOC;

fn size_of_map(map: &Map) -> usize {
    let keys = match &map.keys {
        MapKeys::Int64(keys) => size_of_val(keys.as_slice()),
        MapKeys::String(keys) => keys.heap_bytes(),
    };
    let values = match &map.values {
        MapValues::Float(values) => size_of_val(values.as_slice()),
        MapValues::Double(values) => size_of_val(values.as_slice()),
        MapValues::Int64(values) => size_of_val(values.as_slice()),
        MapValues::String(values) => values.heap_bytes(),
    };
    keys + values
}

/// A value in memory of its own.
pub(crate) fn copied(value: &Value) -> Value {
    match value {
        Value::Absent => Value::Absent,
        Value::Tensor(tensor) => Value::Tensor(Tensor::copied(tensor.view())),
        Value::Strings(strings) => Value::Strings(strings.clone()),
        Value::Sequence { element, items } => Value::Sequence {
            element: *element,
            items: items.iter().map(copied).collect(),
        },
        Value::Map(map) => Value::Map(map.clone()),
    }
}
