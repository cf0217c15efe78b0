//! One answer that is kept.

use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::Duration;

use super::key::Key;
use crate::runtime::Outputs;
use crate::tensor::{Map, MapKeys, MapValues, Tensor, Value};

/// What an entry takes beside its key and values: the entry itself with its counts of references, its place in the table,
/// at most twice as large as it is full, its place in the order of use, and what the allocator adds to its parts.
const BOOKKEEPING: usize =
    4 * MALLOC + size_of::<Entry>() + 2 * size_of::<usize>() + 2 * (size_of::<usize>() + 1) + 3 * size_of::<u64>();

/// The outputs of one call, in memory of their own.
#[derive(Debug)]
pub struct Entry {
    pub(super) hash: u64,
    pub(super) words: Box<[u64]>,
    pub(super) values: Vec<Value>,
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
    /// A compact copy of outputs, which keeps nothing else alive.
    pub(super) fn new(key: &Key, outputs: &Outputs<'_>, expires_at: Option<Duration>) -> Self {
        Self::of_values(key.hash, &key.words, outputs.copied(), expires_at)
    }

    /// An answer that is handed over and never kept.
    pub(crate) fn unkept(values: Vec<Value>) -> Self {
        Self::with_size(0, &[], values, 0, None)
    }

    /// An entry of values in memory of their own.
    pub(super) fn of_values(hash: u64, words: &[u64], values: Vec<Value>, expires_at: Option<Duration>) -> Self {
        let bytes = size_of_val(words) + values.iter().map(size_of_value).sum::<usize>() + BOOKKEEPING;
        Self::with_size(hash, words, values, bytes, expires_at)
    }

    /// The outputs, for whoever has the last reference.
    pub(crate) fn into_values(self) -> Vec<Value> {
        self.values
    }

    fn with_size(hash: u64, words: &[u64], values: Vec<Value>, bytes: usize, expires_at: Option<Duration>) -> Self {
        Self {
            hash,
            words: words.into(),
            values,
            bytes,
            expires_at,
            used_at: AtomicU64::new(0),
            uses: AtomicU8::new(0),
            recorded: AtomicU64::new(0),
        }
    }

    /// The outputs, in the order asked for.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    #[cfg(test)]
    pub(crate) fn for_tests(key: &Key, bytes: usize, expires_at: Option<Duration>) -> Self {
        Self::with_size(key.hash, &key.words, Vec::new(), bytes, expires_at)
    }
}

/// The bytes of a value, with what holds them.
fn size_of_value(value: &Value) -> usize {
    let inside = match value {
        Value::Absent => 0,
        Value::Tensor(tensor) => tensor.view().byte_len() + HEAP_OF_TENSOR,
        Value::Strings(strings) => strings.heap_bytes(),
        Value::Sequence { items, .. } => items.iter().map(size_of_value).sum(),
        Value::Map(map) => size_of::<Map>() + size_of_map(map),
    };
    size_of::<Value>() + inside
}

/// The box around the box of a tensor's bytes.
const HEAP_OF_TENSOR: usize = size_of::<Box<[u8]>>() + 2 * MALLOC;

/// What an allocation takes beside its bytes, on average.
const MALLOC: usize = 16;

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
