//! Taking batches apart into rows, and putting rows together, on any axis.

use std::ops::Range;

use crate::runtime::Input;
use crate::tensor::{Shape, Strings, Tensor, TensorView, Value};

/// A tensor, wherever it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece<'a> {
    /// Of fixed-size elements.
    Tensor(&'a TensorView),
    /// Of strings.
    Strings(&'a Strings),
}

impl<'a> Piece<'a> {
    /// The tensor that a value is.
    pub(crate) fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Tensor(tensor) => Some(Self::Tensor(tensor.view())),
            Value::Strings(strings) => Some(Self::Strings(strings)),
            Value::Sequence { .. } | Value::Map(_) | Value::Absent => None,
        }
    }

    /// The tensor that is fed.
    pub(crate) fn fed(input: &'a Input) -> Option<Self> {
        match input {
            Input::Tensor(view) => Some(Self::Tensor(view)),
            Input::Value(value) => Self::of(value),
        }
    }

    pub(crate) fn shape(&self) -> &'a [i64] {
        match self {
            Self::Tensor(view) => view.shape(),
            Self::Strings(strings) => &strings.shape,
        }
    }
}

/// How many rows there are on an axis; `None` where the axis is not there.
pub(crate) fn extent(piece: Piece<'_>, axis: usize) -> Option<usize> {
    usize::try_from(*piece.shape().get(axis)?).ok()
}

fn elements(extents: &[i64]) -> usize {
    extents
        .iter()
        .map(|&extent| usize::try_from(extent).unwrap_or(0))
        .product()
}

fn with_extent(shape: &[i64], axis: usize, extent: usize) -> Shape {
    let mut shape = Shape::from_slice(shape);
    shape[axis] = i64::try_from(extent).unwrap_or(i64::MAX);
    shape
}

/// One row of a batch, in memory of its own: the axis stays, with one element. There must be such a row.
pub(crate) fn row(piece: Piece<'_>, axis: usize, index: usize) -> Value {
    part(piece, axis, index..index + 1)
}

/// Some rows of a batch, in memory of their own. There must be such rows.
pub(crate) fn part(piece: Piece<'_>, axis: usize, taken: Range<usize>) -> Value {
    let shape = piece.shape();
    let (outer, rows, inner) = (
        elements(&shape[..axis]),
        elements(&shape[axis..=axis]),
        elements(&shape[axis + 1..]),
    );
    let shape = with_extent(shape, axis, taken.len());
    match piece {
        Piece::Strings(strings) => {
            let mut part = Strings::with_shape(shape);
            for block in 0..outer {
                let first = (block * rows + taken.start) * inner;
                let strings = strings.part(first..first + taken.len() * inner);
                strings.for_each(|string| part.push(string));
            }
            Value::Strings(part)
        }
        Piece::Tensor(view) => {
            let inner = inner * view.dtype().bits() / 8;
            let length = taken.len() * inner;
            let mut bytes = vec![0; outer * length].into_boxed_slice();
            for block in 0..outer {
                view.copy_part(
                    (block * rows + taken.start) * inner,
                    &mut bytes[block * length..][..length],
                );
            }
            Value::Tensor(Tensor::of_bytes(view.dtype(), shape, bytes))
        }
    }
}

/// A tensor with one axis filled up to `size`, which is no less than it has, with copies of an element.
pub(crate) fn filled(piece: Piece<'_>, axis: usize, size: usize, element: &[u8]) -> Value {
    let shape = piece.shape();
    let (outer, own, inner) = (
        elements(&shape[..axis]),
        elements(&shape[axis..]),
        elements(&shape[axis + 1..]),
    );
    let (shape, whole) = (with_extent(shape, axis, size), size * inner);
    match piece {
        Piece::Strings(strings) => {
            let mut filled = Strings::with_shape(shape);
            for block in 0..outer {
                let strings = strings.part(block * own..(block + 1) * own);
                strings.for_each(|string| filled.push(string));
                (own..whole).for_each(|_| filled.push(element));
            }
            Value::Strings(filled)
        }
        Piece::Tensor(view) => {
            let (own, width) = (own * element.len(), whole * element.len());
            let mut bytes = element.repeat(outer * whole).into_boxed_slice();
            for block in 0..outer {
                view.copy_part(block * own, &mut bytes[block * width..][..own]);
            }
            Value::Tensor(Tensor::of_bytes(view.dtype(), shape, bytes))
        }
    }
}

/// Batches one after the other on an axis; `None` where they do not fit together, or there are none.
pub(crate) fn join(pieces: &[Piece<'_>], axis: usize) -> Option<Value> {
    let first = pieces.first()?;
    let shape = first.shape();
    let mut total = 0;
    for piece in pieces {
        let other = piece.shape();
        let is_alike = other.len() == shape.len()
            && other.get(..axis)? == &shape[..axis]
            && other.get(axis + 1..)? == &shape[axis + 1..];
        total += extent(*piece, axis).filter(|_| is_alike)?;
    }
    let (outer, inner) = (elements(&shape[..axis]), elements(&shape[axis + 1..]));
    let joined = with_extent(shape, axis, total);
    match first {
        Piece::Strings(_) => {
            let mut strings = Strings::with_shape(joined);
            for block in 0..outer {
                for piece in pieces {
                    let Piece::Strings(part) = piece else { return None };
                    let count = extent(*piece, axis)? * inner;
                    part.part(block * count..(block + 1) * count)
                        .for_each(|string| strings.push(string));
                }
            }
            Some(Value::Strings(strings))
        }
        Piece::Tensor(view) => {
            let dtype = view.dtype();
            let inner = inner * dtype.bits() / 8;
            let mut bytes = vec![0; outer * total * inner].into_boxed_slice();
            let mut at = 0;
            for block in 0..outer {
                for piece in pieces {
                    let Piece::Tensor(part) = piece else { return None };
                    if part.dtype() != dtype {
                        return None;
                    }
                    let count = extent(*piece, axis)? * inner;
                    part.copy_part(block * count, &mut bytes[at..at + count]);
                    at += count;
                }
            }
            Some(Value::Tensor(Tensor::of_bytes(dtype, joined, bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;
    use proptest::prelude::*;

    fn tensor(shape: &[i64]) -> Value {
        let bytes: Vec<u8> = (0..elements(shape)).map(|number| number.to_le_bytes()[0]).collect();
        Value::Tensor(Tensor::of_bytes(Dtype::Uint8, shape.into(), bytes.into()))
    }

    fn strings(shape: &[i64]) -> Value {
        let mut strings = Strings::with_shape(shape.into());
        (0..elements(shape)).for_each(|number| strings.push(number.to_string().as_bytes()));
        Value::Strings(strings)
    }

    fn written(value: &Value) -> String {
        match value {
            Value::Tensor(tensor) => format!("{:?} {:?}", tensor.view().shape(), tensor.to_bytes()),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_row_is_taken_from_the_axis_that_holds_the_rows() {
        let batch = tensor(&[2, 3, 2]);
        let piece = Piece::of(&batch).expect("it is a tensor");
        assert_eq!(written(&row(piece, 1, 2)), "[2, 1, 2] [4, 5, 10, 11]");
        assert_eq!(written(&row(piece, 0, 1)), "[1, 3, 2] [6, 7, 8, 9, 10, 11]");
        assert_eq!(written(&row(piece, 2, 0)), "[2, 3, 1] [0, 2, 4, 6, 8, 10]");
        assert_eq!(written(&part(piece, 1, 0..2)), "[2, 2, 2] [0, 1, 2, 3, 6, 7, 8, 9]");
    }

    #[test]
    fn what_does_not_fit_is_not_joined() {
        let (a, b, c) = (tensor(&[2, 3]), tensor(&[2, 2]), strings(&[2, 3]));
        let piece = |value| Piece::of(value).expect("it is a tensor");
        assert!(join(&[piece(&a), piece(&b)], 0).is_none());
        assert!(join(&[piece(&a), piece(&b)], 1).is_some());
        assert!(join(&[piece(&a), piece(&c)], 0).is_none());
        assert!(join(&[piece(&a)], 2).is_none());
        assert!(join(&[], 0).is_none());
    }

    #[test]
    fn a_row_of_strings_takes_no_longer_where_many_come_before_it() {
        // To go through those before each would be five thousand million steps.
        let batch = strings(&[100_000]);
        let piece = Piece::of(&batch).expect("it is a tensor");
        let rows: Vec<Value> = (0..100_000).map(|index| row(piece, 0, index)).collect();
        let pieces: Vec<_> = rows.iter().filter_map(Piece::of).collect();
        assert_eq!(written(&join(&pieces, 0).expect("they fit")), written(&batch));
    }

    proptest! {
        #[test]
        fn rows_that_are_joined_again_are_the_batch(
            shape in proptest::collection::vec(1..4_i64, 1..4),
            axis in 0..4_usize,
            is_text in any::<bool>(),
        ) {
            let axis = axis % shape.len();
            let batch = if is_text { strings(&shape) } else { tensor(&shape) };
            let piece = Piece::of(&batch).expect("it is a tensor");
            let rows: Vec<Value> = (0..extent(piece, axis).unwrap_or(0)).map(|index| row(piece, axis, index)).collect();
            let pieces: Vec<_> = rows.iter().filter_map(Piece::of).collect();
            let joined = join(&pieces, axis).expect("they fit");
            prop_assert_eq!(written(&joined), written(&batch));
        }
    }
}
