//! What calls have to have in common to share a batch.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHasher;
use smallvec::SmallVec;

use crate::rows::{Layout, Piece, extent};
use crate::runtime::{Call, Feed};

/// Bytes that calls must have in common are compared up to here; more of them by a digest.
const COMPARED_BYTES: usize = 256;

/// The outputs that are asked for, the types and extents of the inputs but for the batch axis, those that may be filled
/// up as the size that they become, and what is in inputs without a batch axis. Equal kinds have all of that in common:
/// bytes are compared, or BLAKE3 digests of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind(Arc<Common>);

#[derive(Debug, PartialEq, Eq)]
struct Common {
    hash: u64,
    /// Of the types and extents alone: calls that take equally long.
    workload: u64,
    words: SmallVec<[u64; 24]>,
}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl Kind {
    /// The kind of a call, and how many rows it brings; `None` where it cannot be put together with others: then its
    /// inputs disagree about the rows or a length, there are no rows, or something is fed that cannot be taken apart.
    ///
    /// The inputs must be the call's own: what a caller may still write to is no ground for a decision.
    pub(super) fn of(call: &Call<'_>, layout: &Layout) -> Option<(Self, usize)> {
        let (common, rows) = Common::of(call, layout)?;
        Some((Self(Arc::new(common)), rows))
    }

    /// How many rows a call of this kind brings; `None` for one of another kind.
    pub(super) fn rows_of(&self, call: &Call<'_>, layout: &Layout) -> Option<usize> {
        let (common, rows) = Common::of(call, layout)?;
        (common == *self.0).then_some(rows)
    }

    /// The kind of a call that stays by itself; others that wait at the same time have other numbers.
    pub(super) fn alone(number: u64) -> Self {
        let common = Common {
            hash: number,
            workload: 0,
            words: SmallVec::new(),
        };
        Self(Arc::new(common))
    }

    /// Whether it is one of those; others have words, the number of outputs at least.
    pub(super) fn is_alone(&self) -> bool {
        self.0.words.is_empty()
    }

    pub(super) fn hash(&self) -> u64 {
        self.0.hash
    }

    /// Stands for the shapes: kinds that share it differ in what is in their inputs at most.
    pub(super) fn workload(&self) -> u64 {
        self.0.workload
    }
}

impl Common {
    fn of(call: &Call<'_>, layout: &Layout) -> Option<(Self, usize)> {
        let Layout { axes, padding } = layout;
        if !axes.hold_for(call.feeds) {
            return None;
        }
        let lengths = padding.of_call(call.feeds)?;
        let mut feeds: SmallVec<[&Feed; 4]> = call.feeds.iter().collect();
        feeds.sort_by_key(|feed| feed.index);
        let mut words = SmallVec::new();
        words.push(call.fetches.len() as u64);
        words.extend(call.fetches.iter().map(|&fetch| fetch as u64));
        let mut contents = SmallVec::<[u64; 24]>::new();
        let mut rows = None;
        for feed in feeds {
            let piece = Piece::fed(&feed.value)?;
            let axis = axes.inputs[feed.index];
            words.push(feed.index as u64);
            words.push(type_of(piece));
            words.push(piece.shape().len() as u64);
            for (position, &axis_extent) in piece.shape().iter().enumerate() {
                words.push(if axis == Some(position) {
                    u64::MAX
                } else {
                    let size = padding.size(feed.index, position, &lengths);
                    size.map_or(axis_extent.cast_unsigned(), |size| size as u64)
                });
            }
            match axis {
                Some(axis) => {
                    let here = extent(piece, axis).filter(|&rows| rows > 0)?;
                    if *rows.get_or_insert(here) != here {
                        return None;
                    }
                }
                None => add_content(piece, &mut contents),
            }
        }
        let workload = hash_of(&words);
        words.extend(contents);
        let common = Self {
            hash: hash_of(&words),
            workload,
            words,
        };
        Some((common, rows?))
    }
}

fn hash_of(words: &[u64]) -> u64 {
    let mut hasher = FxHasher::default();
    for &word in words {
        hasher.write_u64(word);
    }
    hasher.finish()
}

fn type_of(piece: Piece<'_>) -> u64 {
    match piece {
        Piece::Tensor(view) => view.dtype() as u64,
        Piece::Strings(_) => u64::MAX,
    }
}

/// What is in an input that belongs to all rows alike.
fn add_content(piece: Piece<'_>, words: &mut SmallVec<[u64; 24]>) {
    let bytes = match piece {
        Piece::Tensor(view) => {
            let mut bytes = vec![0; view.byte_len()];
            view.copy_part(0, &mut bytes);
            bytes
        }
        Piece::Strings(strings) => {
            let written = strings.iter().flat_map(|string| {
                let length = (string.len() as u64).to_le_bytes();
                length.into_iter().chain(string.iter().copied())
            });
            written.collect()
        }
    };
    words.push(bytes.len() as u64);
    let digest;
    let compared = if bytes.len() > COMPARED_BYTES {
        digest = blake3::hash(&bytes);
        digest.as_bytes().as_slice()
    } else {
        bytes.as_slice()
    };
    words.extend(compared.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{BatchAxes, DeclaredLength, Filling, Padding};
    use crate::runtime::{Argument, Dim, Input, Signature, ValueType};
    use crate::tensor::{Dtype, Strings, Value};

    fn argument(name: &str, shape: &[Dim]) -> Argument {
        let value_type = ValueType::Tensor {
            dtype: Dtype::String,
            shape: Some(shape.to_vec()),
        };
        Argument::new(name.into(), value_type).expect("there is no NUL in it")
    }

    fn signature() -> Signature {
        Signature {
            inputs: vec![
                argument("x", &[Dim::Unknown, Dim::Unknown]),
                argument("words", &[Dim::Unknown]),
            ],
            required: 2,
            outputs: vec![argument("y", &[Dim::Unknown])],
        }
    }

    fn axes() -> BatchAxes {
        BatchAxes::of(&signature(), &[("words".into(), None)]).expect("there are rows")
    }

    fn fed(index: usize, shape: &[i64], text: &str) -> Feed {
        let mut strings = Strings::with_shape(shape.into());
        (0..shape.iter().product::<i64>()).for_each(|_| strings.push(text.as_bytes()));
        Feed {
            index,
            value: Input::Value(Arc::new(Value::Strings(strings))),
        }
    }

    fn kind(feeds: &[Feed], fetches: &[usize]) -> Option<(Kind, usize)> {
        let call = Call {
            feeds,
            fetches,
            options: None,
        };
        Kind::of(&call, &axes().into())
    }

    #[test]
    fn lengths_that_are_filled_up_to_one_size_are_one_kind() {
        let declared = DeclaredLength {
            inputs: vec![("x".into(), 1, Filling::Text(String::new()))],
            sizes: vec![4, 8],
            outputs: Vec::new(),
        };
        let axes = axes();
        let padding = Padding::of(&signature(), &axes, &[declared]).expect("it is fine");
        let layout = Layout { axes, padding };
        let of = |width: i64| {
            let call = Call {
                feeds: &[fed(0, &[2, width], "x"), fed(1, &[2], "a")],
                fetches: &[0],
                options: None,
            };
            Kind::of(&call, &layout).expect("it can be taken apart").0
        };
        assert_eq!((of(2), of(5)), (of(4), of(8)));
        let others = [of(0), of(1), of(4), of(8), of(9), of(10)];
        for (at, one) in others.iter().enumerate() {
            assert!(others[..at].iter().all(|other| other != one), "{at}");
        }
    }

    #[test]
    fn calls_may_differ_in_their_rows_and_in_nothing_else() {
        let of = |rows: i64, width: i64, words: &str, fetches: &[usize]| {
            kind(&[fed(0, &[rows, width], "x"), fed(1, &[2], words)], fetches).expect("it can be taken apart")
        };
        let (first, rows) = of(1, 3, "a", &[0]);
        assert_eq!(rows, 1);
        assert_eq!(of(5, 3, "a", &[0]), (first.clone(), 5));
        for other in [of(1, 4, "a", &[0]), of(1, 3, "b", &[0]), of(1, 3, "a", &[0, 0])] {
            assert_ne!(other.0, first);
        }
        let long = "a".repeat(1000);
        assert_eq!(of(1, 3, &long, &[0]).0, of(2, 3, &long, &[0]).0);
        assert_ne!(of(1, 3, &long, &[0]).0, of(1, 3, &"b".repeat(1000), &[0]).0);
        assert_eq!(of(1, 3, "b", &[0]).0.workload(), first.workload());
    }

    #[test]
    fn the_order_of_the_inputs_does_not_matter() {
        let (one, other) = (
            [fed(0, &[1, 3], "x"), fed(1, &[2], "a")],
            [fed(1, &[2], "a"), fed(0, &[1, 3], "x")],
        );
        assert_eq!(kind(&one, &[0]), kind(&other, &[0]));
    }

    #[test]
    fn what_has_no_rows_stands_alone() {
        assert_eq!(kind(&[fed(0, &[0, 3], "x"), fed(1, &[2], "a")], &[0]), None);
        assert_eq!(kind(&[fed(1, &[2], "a")], &[0]), None);
        assert!(Kind::alone(1).is_alone());
        assert_ne!(Kind::alone(1), Kind::alone(2));
    }
}
