//! The batches of trial runs: one row that is watched, and other rows around it.

use std::sync::Arc;

use super::axes::BatchAxes;
use super::batch::{Piece, extent, join, row};
use super::invented::{self, Numbers, encoded, is_float};
use super::nearness::bits;
use crate::runtime::{Feed, Input, Signature};
use crate::tensor::{Dtype, Strings, Tensor, Value};

/// How many rows a trial has. Not one that a kernel would treat in a way of its own, and few, since time is short.
pub(super) const ROWS: usize = 4;
/// Which of them is watched: it has others before and after it.
pub(super) const OWN: usize = 1;
/// Which one is watched where the others become the largest integers: where rows are one number of two, the first is the
/// smaller one, which an influence of the largest does not show on, nor does one of the smallest on the larger.
pub(super) const OTHER_OWN: usize = 2;

/// How the other rows are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Not at all.
    Kept,
    /// By numbers a thousand times as large, and by other integers.
    Scaled,
    /// By numbers that are none, and by the smallest integers.
    NotANumber,
    /// By other numbers of the same size, and by the largest integers.
    Other,
}

/// What surrounds the watched row in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub(super) change: Change,
    /// Which row of the first batch is watched.
    pub(super) own: usize,
    /// Where it is now.
    pub(super) place: usize,
    /// How many rows there are, the watched one included.
    pub(super) count: usize,
}

impl Surroundings {
    /// Those in which the watched rows are seen first.
    pub(super) const FIRST: Self = Self {
        change: Change::Kept,
        own: OWN,
        place: OWN,
        count: ROWS,
    };

    /// Whether a kernel does with the row what it did first, bit for bit.
    pub(super) fn is_exact(self) -> bool {
        (self.place, self.count) == (self.own, ROWS)
    }
}

/// The rows of a trial, input by input.
pub(super) struct Company(Vec<Part>);

enum Part {
    Shared(usize, Arc<Value>),
    Rows {
        index: usize,
        axis: usize,
        rows: Vec<Value>,
        /// Where other rows take their integers and strings from: the model is known to accept these.
        pool: Value,
    },
}

impl Company {
    /// The first rows of an example, as often as it takes.
    pub(super) fn of_example(feeds: &[Feed], signature: &Signature, layout: &BatchAxes) -> Result<Self, String> {
        let is_fed = |index| feeds.iter().any(|feed| feed.index == index);
        let left_out = (0..layout.inputs.len()).find(|&index| layout.inputs[index].is_some() && !is_fed(index));
        if let Some(index) = left_out {
            let name = &signature.inputs[index].name;
            return Err(format!("the example leaves out input `{name}`, which has rows"));
        }
        let parts = feeds.iter().map(|feed| {
            let value = match &feed.value {
                Input::Tensor(view) => Arc::new(Value::Tensor(Tensor::copied(view))),
                Input::Value(value) => value.clone(),
            };
            Part::of(feed.index, layout.inputs[feed.index], value)
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// Inputs of the declared types and shapes, with this extent wherever none is declared.
    pub(super) fn invented(signature: &Signature, layout: &BatchAxes, unknown: i64) -> Result<Self, String> {
        Self::invented_from(signature, layout, unknown, |_| invented::SEED)
    }

    /// The same of which no two inputs have equal numbers: a mask that is what it masks would hide much.
    pub(super) fn invented_apart(signature: &Signature, layout: &BatchAxes, unknown: i64) -> Result<Self, String> {
        Self::invented_from(signature, layout, unknown, |index| {
            invented::SEED.wrapping_mul(2 * index as u64 + 1)
        })
    }

    fn invented_from(
        signature: &Signature,
        layout: &BatchAxes,
        unknown: i64,
        seed: impl Fn(usize) -> u64,
    ) -> Result<Self, String> {
        let is_fed = |index: usize| match signature.proper_inputs().get(index) {
            Some(argument) => !argument.is_optional(),
            None => layout.inputs[index].is_some(),
        };
        let parts = (0..signature.inputs.len()).filter(|&index| is_fed(index)).map(|index| {
            let axis = layout.inputs[index];
            let value = invented::value(&signature.inputs[index], axis, ROWS, unknown, seed(index))?;
            Part::of(index, axis, Arc::new(value))
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// A batch with the watched row in it.
    pub(super) fn batch(&self, around: Surroundings) -> Vec<Feed> {
        self.0.iter().map(|part| part.feed(around)).collect()
    }

    /// Whether a batch is the one that was seen first.
    pub(super) fn is_first(&self, feeds: &[Feed]) -> bool {
        let first = self.batch(Surroundings::FIRST);
        std::iter::zip(&first, feeds).all(|(first, feed)| match (&first.value, &feed.value) {
            (Input::Value(first), Input::Value(value)) => bits(first) == bits(value),
            _ => false,
        })
    }
}

impl Part {
    fn of(index: usize, axis: Option<usize>, value: Arc<Value>) -> Result<Self, String> {
        let Some(axis) = axis else {
            return Ok(Self::Shared(index, value));
        };
        let piece = Piece::of(&value).ok_or("an input with a batch axis is no tensor")?;
        let count = extent(piece, axis)
            .filter(|&count| count > 0)
            .ok_or("the example has no rows")?;
        let rows = (0..ROWS).map(|at| row(piece, axis, at % count)).collect();
        let pool = join(&[piece], axis).unwrap_or(Value::Absent);
        Ok(Self::Rows {
            index,
            axis,
            rows,
            pool,
        })
    }

    fn feed(&self, around: Surroundings) -> Feed {
        let (index, value) = match self {
            Self::Shared(index, value) => (*index, value.clone()),
            Self::Rows {
                index,
                axis,
                rows,
                pool,
            } => {
                let mut numbers = Numbers(0xD1B5_4A32_D192_ED03);
                let others = rows.iter().enumerate().filter(|(at, _)| *at != around.own);
                let others: Vec<Value> = others
                    .map(|(_, row)| replaced(row, pool, around.change, &mut numbers))
                    .collect();
                let mut pieces: Vec<Piece<'_>> = others.iter().filter_map(Piece::of).collect();
                if let Some(own) = Piece::of(&rows[around.own]) {
                    pieces.insert(around.place, own);
                }
                pieces.truncate(around.count);
                (*index, Arc::new(join(&pieces, *axis).unwrap_or(Value::Absent)))
            }
        };
        Feed {
            index,
            value: Input::Value(value),
        }
    }
}

fn replaced(row: &Value, pool: &Value, change: Change, numbers: &mut Numbers) -> Value {
    match (row, pool) {
        (Value::Strings(row), Value::Strings(pool)) => {
            let items: Vec<&[u8]> = pool.iter().collect();
            let mut other = Strings::with_shape(row.shape.clone());
            let own = row.iter();
            own.for_each(|string| other.push(picked(string, &items, change, numbers, Ord::cmp)));
            Value::Strings(other)
        }
        (Value::Tensor(row), Value::Tensor(pool)) => {
            let (dtype, shape) = (row.view().dtype(), row.view().shape());
            let (own, pool) = (row.to_bytes(), pool.to_bytes());
            let size = (dtype.bits() / 8).max(1);
            let bytes: Vec<u8> = if is_float(dtype) {
                let items = own.chunks(size);
                items.flat_map(|item| fraction(item, dtype, change, numbers)).collect()
            } else {
                let items: Vec<&[u8]> = pool.chunks(size).collect();
                let own = own.chunks(size);
                own.flat_map(|item| picked(item, &items, change, numbers, in_order).to_vec())
                    .collect()
            };
            Value::Tensor(Tensor::of_bytes(dtype, shape.into(), bytes.into()))
        }
        _ => Value::Absent,
    }
}

fn fraction(own: &[u8], dtype: Dtype, change: Change, numbers: &mut Numbers) -> Vec<u8> {
    match change {
        Change::Kept => own.to_vec(),
        Change::Scaled => encoded(dtype, numbers.fraction() * 1e3),
        Change::NotANumber => encoded(dtype, f64::NAN),
        Change::Other => encoded(dtype, numbers.fraction()),
    }
}

/// How integers of little-endian bytes are ordered, but for their signs.
fn in_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.iter().rev().cmp(b.iter().rev())
}

fn picked<'i>(
    own: &'i [u8],
    items: &[&'i [u8]],
    change: Change,
    numbers: &mut Numbers,
    compare: impl Fn(&[u8], &[u8]) -> std::cmp::Ordering,
) -> &'i [u8] {
    let all = items.iter().copied();
    let found = match change {
        Change::Kept => None,
        Change::Scaled => items.get(numbers.below(items.len().max(1))).copied(),
        Change::NotANumber => all.min_by(|a, b| compare(a, b)),
        Change::Other => all.max_by(|a, b| compare(a, b)),
    };
    found.unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    fn integers(shape: &[i64], numbers: &[i16]) -> Value {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Value::Tensor(Tensor::of_bytes(Dtype::Int16, shape.into(), bytes.into()))
    }

    fn seen(part: &Part, change: Change, place: usize, count: usize) -> Vec<i16> {
        let feed = part.feed(Surroundings {
            change,
            own: OWN,
            place,
            count,
        });
        let Input::Value(value) = feed.value else {
            panic!("it is a value")
        };
        let bytes = bits(&value).1;
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| i16::from_le_bytes(*bytes))
            .collect()
    }

    #[test]
    fn the_watched_row_is_where_it_is_wanted() {
        let part = Part::of(0, Some(0), Arc::new(integers(&[4], &[1, 2, 3, 4]))).expect("it has rows");
        assert_eq!(seen(&part, Change::Kept, OWN, ROWS), [1, 2, 3, 4]);
        assert_eq!(seen(&part, Change::Kept, 0, ROWS), [2, 1, 3, 4]);
        assert_eq!(seen(&part, Change::Kept, 3, ROWS), [1, 3, 4, 2]);
        assert_eq!(seen(&part, Change::Kept, OWN, 2), [1, 2]);
    }

    #[test]
    fn integers_are_replaced_by_others_of_the_whole_example() {
        let example = integers(&[5, 1], &[5, 6, 7, 8, 9]);
        let part = Part::of(0, Some(0), Arc::new(example)).expect("it has rows");
        assert_eq!(seen(&part, Change::NotANumber, OWN, ROWS), [5, 6, 5, 5]);
        assert_eq!(seen(&part, Change::Other, OWN, ROWS), [9, 6, 9, 9]);
        let others = seen(&part, Change::Scaled, OWN, ROWS);
        assert_eq!(others[OWN], 6);
        assert!(others.iter().all(|number| (5..10).contains(number)));
        assert_ne!(others, [5, 6, 7, 8]);
    }

    #[test]
    fn strings_are_replaced_by_others_of_the_whole_example() {
        let mut strings = Strings::with_shape(smallvec![3]);
        for text in [b"b", b"c", b"a"] {
            strings.push(text);
        }
        let part = Part::of(0, Some(0), Arc::new(Value::Strings(strings))).expect("it has rows");
        let around = Surroundings {
            change: Change::NotANumber,
            ..Surroundings::FIRST
        };
        let Input::Value(value) = part.feed(around).value else {
            panic!("it is a value")
        };
        assert_eq!(bits(&value).1, b"a\0c\0a\0a\0");
    }
}
