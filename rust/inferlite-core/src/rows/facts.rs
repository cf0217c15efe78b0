//! What the analysis knows of a value: how it holds the rows, its shape, and its content where that is a few integers.

use smallvec::SmallVec;

use crate::graph::Weight;
use crate::tensor::Dtype;

/// A number that the analysis may know: the extent of an axis, or an element of a computed shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// This number.
    Number(i64),
    /// So many times the number of rows.
    Rows(i64),
    /// A number that is not known here, and does not depend on how many rows there are.
    Settled,
    /// Any number.
    Other,
}

use Extent::{Number, Other, Rows, Settled};

impl Extent {
    pub(super) fn counts_rows(self) -> bool {
        matches!(self, Rows(_) | Other)
    }

    pub(super) fn number(self) -> Option<i64> {
        if let Number(number) = self { Some(number) } else { None }
    }

    /// What a number becomes that is computed from both, if nothing better is known.
    pub(super) fn vaguely(self, other: Self) -> Self {
        if self.counts_rows() || other.counts_rows() {
            Other
        } else {
            Settled
        }
    }

    pub(super) fn times(self, other: Self) -> Self {
        match (self, other) {
            (Number(a), Number(b)) => a.checked_mul(b).map_or(Other, Number),
            (Rows(rows), Number(times)) | (Number(times), Rows(rows)) if times > 0 => {
                rows.checked_mul(times).map_or(Other, Rows)
            }
            _ => self.vaguely(other),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Number(a), Number(b)) => a.checked_add(b).map_or(Other, Number),
            (known, Number(0)) | (Number(0), known) => known,
            _ => self.vaguely(other),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        match (self, other) {
            (Number(a), Number(b)) => a.checked_sub(b).map_or(Other, Number),
            (known, Number(0)) => known,
            _ => self.vaguely(other),
        }
    }

    pub(super) fn divided_by(self, other: Self) -> Self {
        match (self, other) {
            (Number(a), Number(b)) => a.checked_div(b).map_or(Other, Number),
            (Rows(rows), Number(by)) if by > 0 && rows % by == 0 => Rows(rows / by),
            _ => self.vaguely(other),
        }
    }

    /// 1 or 0. There is at least one row: a batch without any never gets here.
    pub(super) fn equals(self, other: Self) -> Self {
        match (self, other) {
            (Number(a), Number(b)) | (Rows(a), Rows(b)) => Number(i64::from(a == b)),
            (Rows(_), Number(..=0)) | (Number(..=0), Rows(_)) => Number(0),
            _ => self.vaguely(other),
        }
    }
}

/// Extents, or the elements of a small tensor.
pub(super) type Extents = SmallVec<[Extent; 4]>;

/// Their product.
pub(super) fn product(extents: &[Extent]) -> Extent {
    extents.iter().fold(Number(1), |product, extent| product.times(*extent))
}

/// The extent that two axes have together where values of both are combined.
pub(super) fn broadcast(a: Extent, b: Extent) -> Result<Extent, Halt> {
    match (a, b) {
        _ if a == b && a != Other => Ok(a),
        (Number(1), other) | (other, Number(1)) => Ok(other),
        (Number(_), Number(_)) => Err(Halt::Impossible),
        (Number(number), _) | (_, Number(number)) => Ok(Number(number)),
        _ => Ok(a.vaguely(b)),
    }
}

/// A small tensor whose content is known, element by element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) dtype: Dtype,
    pub(super) dims: SmallVec<[usize; 2]>,
    pub(super) items: Extents,
}

/// So many times the number of rows fit into 32 bits, as long as a batch has no more than half a million of them.
const MOST_ROWS_TIMES: i64 = 4096;

impl Content {
    /// A number of 64 bits.
    pub(super) fn scalar(item: Extent) -> Self {
        Self {
            dtype: Dtype::Int64,
            dims: SmallVec::new(),
            items: Extents::from_slice(&[item]),
        }
    }

    /// Numbers of 64 bits.
    pub(super) fn list(items: Extents) -> Self {
        Self {
            dtype: Dtype::Int64,
            dims: SmallVec::from_slice(&[items.len()]),
            items,
        }
    }

    /// The integers of a weight or a constant.
    pub(super) fn of_weight(weight: &Weight) -> Option<Self> {
        let dims = weight.dims.iter().map(|&extent| usize::try_from(extent).ok());
        let content = Self {
            dtype: Dtype::from_proto(weight.data_type),
            dims: dims.collect::<Option<_>>()?,
            items: weight.integers()?.into_iter().map(Number).collect(),
        };
        content.fits().then_some(content)
    }

    /// Whether the type can hold every element; what a run makes of one that does not fit is not worth knowing.
    pub(super) fn fits(&self) -> bool {
        let bounds = match self.dtype {
            Dtype::Bool => 0..=1,
            Dtype::Int8 => i64::from(i8::MIN)..=i64::from(i8::MAX),
            Dtype::Uint8 => 0..=i64::from(u8::MAX),
            Dtype::Int32 => i64::from(i32::MIN)..=i64::from(i32::MAX),
            Dtype::Uint32 => 0..=i64::from(u32::MAX),
            Dtype::Uint64 => 0..=i64::MAX,
            _ => i64::MIN..=i64::MAX,
        };
        let most_rows = match self.dtype {
            Dtype::Int64 | Dtype::Uint64 => i64::from(i32::MAX),
            Dtype::Int32 | Dtype::Uint32 => MOST_ROWS_TIMES,
            _ => 0,
        };
        self.items.iter().all(|item| match item {
            Number(number) => bounds.contains(number),
            Rows(times) => *times <= most_rows,
            Settled | Other => true,
        })
    }

    /// Every element as a number.
    pub(super) fn numbers(&self) -> Option<Vec<i64>> {
        self.items.iter().map(|item| item.number()).collect()
    }
}

/// How a value holds the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spread {
    /// It says nothing of any row.
    Free,
    /// Each row is to be found on this axis alone, as `block` neighbours; `None` where that number is not known.
    Rows { axis: usize, block: Option<i64> },
    /// Not understood, and where that began.
    Unclear(String),
    /// Rows have influenced each other, and where they did.
    Mixed(String),
}

/// What is known of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) spread: Spread,
    /// The extent of every axis; `None` where not even the rank is known, which a value that holds rows always has.
    pub(super) shape: Option<Extents>,
    /// The elements.
    pub(super) content: Option<Content>,
    /// Whether the content may depend on how many rows there are.
    pub(super) counts: bool,
}

impl Fact {
    pub(super) fn free(shape: Option<Extents>, counts: bool) -> Self {
        Self {
            spread: Spread::Free,
            shape,
            content: None,
            counts,
        }
    }

    /// A value that is computed from shapes and constants.
    pub(super) fn known(content: Content) -> Self {
        let shape = content
            .dims
            .iter()
            .map(|&extent| i64::try_from(extent).map_or(Settled, Number))
            .collect();
        Self {
            spread: Spread::Free,
            shape: Some(shape),
            counts: content.items.iter().any(|item| item.counts_rows()),
            content: Some(content),
        }
    }

    pub(super) fn rows(axis: usize, block: Option<i64>, shape: Extents) -> Self {
        Self {
            spread: Spread::Rows { axis, block },
            shape: Some(shape),
            content: None,
            counts: false,
        }
    }

    pub(super) fn spread_only(spread: Spread) -> Self {
        Self {
            spread,
            shape: None,
            content: None,
            counts: true,
        }
    }

    pub(super) fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(SmallVec::len)
    }

    /// The numbers of a small tensor, if all are known.
    pub(super) fn numbers(&self) -> Option<Vec<i64>> {
        self.content.as_ref()?.numbers()
    }

    /// The axis of the rows.
    pub(super) fn axis(&self) -> Option<usize> {
        if let Spread::Rows { axis, .. } = self.spread {
            Some(axis)
        } else {
            None
        }
    }
}

/// Why there is nothing to say about what a node gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// A run that came this way would fail for certain, since extents or ranks contradict each other.
    Impossible,
    /// The node lets rows influence each other: this way.
    Mixes(&'static str),
    /// The node is not understood.
    Unclear(&'static str),
}

/// The node is not what the rules expect. That is no reason to believe that it cannot run.
pub(super) const UNFIT: Halt = Halt::Unclear("is used in a way that the analysis does not expect");

/// An axis that may be counted from the end.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, Halt> {
    let rank_number = i64::try_from(rank).unwrap_or(i64::MAX);
    let counted = if axis < 0 { axis + rank_number } else { axis };
    usize::try_from(counted).ok().filter(|&axis| axis < rank).ok_or(UNFIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_keeps_track_of_what_depends_on_the_number_of_rows() {
        assert_eq!(Rows(1).times(Number(8)), Rows(8));
        assert_eq!(Rows(8).divided_by(Number(8)), Rows(1));
        assert_eq!(Rows(1).plus(Number(1)), Other);
        assert_eq!(Settled.times(Number(2)), Settled);
        assert_eq!(Settled.times(Rows(1)), Other);
        assert_eq!(Number(i64::MAX).times(Number(2)), Other);
        assert_eq!(Number(1).divided_by(Number(0)), Other);
        assert_eq!(product(&[Rows(1), Number(3), Number(4)]), Rows(12));
    }

    #[test]
    fn a_number_of_rows_is_never_the_minus_one_of_a_shape() {
        assert_eq!(Rows(1).equals(Number(-1)), Number(0));
        assert_eq!(Number(0).equals(Rows(3)), Number(0));
        assert_eq!(Rows(2).equals(Rows(2)), Number(1));
        assert_eq!(Rows(1).equals(Rows(2)), Number(0));
        assert_eq!(Rows(1).equals(Number(1)), Other);
    }

    #[test]
    fn contents_fit_their_types_or_are_not_known() {
        let fits = |dtype, item| {
            let items = Extents::from_slice(&[item]);
            let content = Content {
                dtype,
                ..Content::list(items)
            };
            content.fits()
        };
        assert!(fits(Dtype::Int32, Number(i64::from(i32::MAX))));
        assert!(!fits(Dtype::Int32, Number(1 << 31)));
        assert!(!fits(Dtype::Uint8, Number(-1)));
        assert!(fits(Dtype::Int32, Rows(8)));
        assert!(!fits(Dtype::Int32, Rows(1 << 20)));
        assert!(!fits(Dtype::Int8, Rows(1)));
        assert!(fits(Dtype::Int64, Rows(1 << 20)));
        assert!(fits(Dtype::Bool, Other));
    }

    #[test]
    fn axes_are_counted_from_either_end() {
        assert_eq!(axis_of(-1, 3), Ok(2));
        assert_eq!(axis_of(0, 3), Ok(0));
        assert_eq!(axis_of(3, 3), Err(UNFIT));
        assert_eq!(axis_of(-4, 3), Err(UNFIT));
    }

    #[test]
    fn extents_that_cannot_be_combined_end_the_path() {
        assert_eq!(broadcast(Number(3), Number(1)), Ok(Number(3)));
        assert_eq!(broadcast(Rows(1), Rows(1)), Ok(Rows(1)));
        assert_eq!(broadcast(Number(3), Number(2)), Err(Halt::Impossible));
    }
}
