//! Lengths that calls may differ in and share a batch all the same: which axes have them, and what fills them up.
//!
//! A length is one number of a call that several axes have: of inputs, which are filled up to a larger size, and of
//! outputs, which are cut back to it. Sizes are few, so that calls meet. A length of 0 or 1 is never filled up: an axis
//! of one element is repeated where it meets a longer one, which a filled one would not be, and a model may do anything
//! with nothing.

pub(super) mod trial;

use smallvec::SmallVec;

use super::axes::BatchAxes;
use super::batch::{Piece, extent, filled, part};
use super::invented::encoded;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{Argument, Dim, Feed, Signature};
use crate::tensor::{Dtype, Value};

/// What an axis is filled up with, as somebody says it.
#[derive(Debug, Clone, PartialEq)]
pub enum Filling {
    /// A whole number; 0 and 1 for truth values.
    Integer(i64),
    /// Any number.
    Number(f64),
    /// A string.
    Text(String),
}

/// A length as somebody declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredLength {
    /// The name of an input, one of its axes, and what fills it up.
    pub inputs: Vec<(String, usize, Filling)>,
    /// To how many elements, the fewest first; one of three at least.
    pub sizes: Vec<usize>,
    /// The name of an output, and one of its axes that is as long as those.
    pub outputs: Vec<(String, usize)>,
}

/// Which axes of a model may be filled up.
#[derive(Debug, Clone, Default)]
pub struct Padding(Vec<Length>);

#[derive(Debug, Clone)]
pub(super) struct Length {
    pub(super) inputs: Vec<Filled>,
    sizes: Vec<usize>,
    /// Indices of outputs, and their axes.
    pub(super) outputs: Vec<(usize, usize)>,
}

/// An axis of an input.
#[derive(Debug, Clone)]
pub(super) struct Filled {
    pub(super) index: usize,
    pub(super) axis: usize,
    dtype: Dtype,
    element: Vec<u8>,
}

/// The lengths of a call, or the sizes that they are filled up to.
pub(crate) type Lengths = SmallVec<[usize; 2]>;

/// What the lengths of the calls of one batch become: a size where they differ, `None` where there is nothing to fill.
pub(crate) type Sizes = SmallVec<[Option<usize>; 2]>;

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

impl Padding {
    /// The lengths of a model whose rows lie on these axes.
    ///
    /// # Errors
    /// A name is not the model's, an axis is not there or cannot have another length, or an input cannot hold what is to
    /// fill it.
    pub fn of(signature: &Signature, axes: &BatchAxes, declared: &[DeclaredLength]) -> Result<Self> {
        let mut seen = Seen::default();
        let lengths = declared.iter().map(|declared| {
            let inputs = declared
                .inputs
                .iter()
                .map(|(name, axis, filling)| seen.input(signature, axes, name, *axis, filling));
            let inputs = inputs.collect::<Result<_>>()?;
            let outputs = declared
                .outputs
                .iter()
                .map(|(name, axis)| seen.output(signature, axes, name, *axis));
            Ok(Length {
                inputs,
                sizes: declared.sizes.clone(),
                outputs: outputs.collect::<Result<_>>()?,
            })
        });
        lengths.collect::<Result<_>>().map(Self)
    }

    /// Whether nothing is filled up.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn lengths(&self) -> &[Length] {
        &self.0
    }

    /// The lengths of a call; `None` where axes that are to have one length have several.
    pub(crate) fn of_call(&self, feeds: &[Feed]) -> Option<Lengths> {
        self.0.iter().map(|length| length.of_call(feeds)).collect()
    }

    /// What an axis of an input counts as: the size of its length, which is its own extent where it has none.
    pub(crate) fn size(&self, index: usize, axis: usize, lengths: &Lengths) -> Option<usize> {
        std::iter::zip(&self.0, lengths).find_map(|(length, &here)| {
            let is_it = |filled: &Filled| (filled.index, filled.axis) == (index, axis);
            length.inputs.iter().any(is_it).then(|| length.size(here))
        })
    }

    /// What the lengths of calls that share a batch become.
    pub(crate) fn sizes(&self, calls: &[Lengths]) -> Sizes {
        let sizes = self.0.iter().enumerate().map(|(number, length)| {
            let mut here = calls.iter().map(|lengths| lengths[number]);
            let first = here.next()?;
            // Equal ones stay as they are: that is less to compute, and what the calls would get by themselves.
            here.any(|other| other != first).then(|| length.size(first))
        });
        sizes.collect()
    }

    /// An input of a call, filled up to the sizes; `None` where there is nothing to do, or it is not as declared.
    pub(crate) fn fill(&self, index: usize, piece: Piece<'_>, sizes: &Sizes) -> Option<Value> {
        self.bytes(index, piece, sizes)?;
        let mut value: Option<Value> = None;
        for (length, size) in std::iter::zip(&self.0, sizes) {
            let Some(size) = *size else { continue };
            for axis in length.inputs.iter().filter(|axis| axis.index == index) {
                value = Some(axis.fill(value.as_ref().map_or(Some(piece), Piece::of)?, size)?);
            }
        }
        value
    }

    /// How many bytes an input of a call takes once it is filled up, a string as one; `None` for more than can be said.
    pub(crate) fn bytes(&self, index: usize, piece: Piece<'_>, sizes: &Sizes) -> Option<usize> {
        let width = match piece {
            Piece::Tensor(view) => view.dtype().bits() / 8,
            Piece::Strings(_) => 1,
        };
        let extent = |(position, &extent): (usize, &i64)| {
            let size = std::iter::zip(&self.0, sizes).find_map(|(length, &size)| {
                let is_it = |filled: &Filled| (filled.index, filled.axis) == (index, position);
                size.filter(|_| length.inputs.iter().any(is_it))
            });
            size.or_else(|| usize::try_from(extent).ok())
        };
        let mut extents = piece.shape().iter().enumerate().map(extent);
        extents.try_fold(width, |bytes, extent| bytes.checked_mul(extent?))
    }

    /// Whether an input of a call is filled up.
    pub(crate) fn fills(&self, index: usize, sizes: &Sizes) -> bool {
        std::iter::zip(&self.0, sizes)
            .any(|(length, size)| size.is_some() && length.inputs.iter().any(|axis| axis.index == index))
    }

    /// Whether an output of a batch has the sizes on the axes that follow.
    pub(crate) fn fits(&self, output: usize, piece: Piece<'_>, sizes: &Sizes) -> bool {
        self.following(output, sizes)
            .all(|(_, axis, size)| extent(piece, axis) == Some(size))
    }

    /// An output of one call out of a batch, cut back to the lengths of the call.
    pub(crate) fn cut(&self, output: usize, value: Value, lengths: &Lengths, sizes: &Sizes) -> Value {
        self.following(output, sizes).fold(value, |value, (number, axis, _)| {
            let cut = Piece::of(&value).map(|piece| part(piece, axis, 0..lengths[number]));
            cut.unwrap_or(value)
        })
    }

    /// The axes of an output that follow lengths which are filled up: the number of the length, the axis and the size.
    fn following<'a>(&'a self, output: usize, sizes: &'a Sizes) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
        let of_length = move |(number, (length, size)): (usize, (&'a Length, &'a Option<usize>))| {
            let axes = length.outputs.iter().filter(move |(index, _)| *index == output);
            size.map(|size| axes.map(move |&(_, axis)| (number, axis, size)))
        };
        std::iter::zip(&self.0, sizes)
            .enumerate()
            .filter_map(of_length)
            .flatten()
    }
}

impl Length {
    fn of_call(&self, feeds: &[Feed]) -> Option<usize> {
        let mut found = None;
        for axis in &self.inputs {
            let Some(feed) = feeds.iter().find(|feed| feed.index == axis.index) else {
                continue;
            };
            let here = extent(Piece::fed(&feed.value)?, axis.axis)?;
            if *found.get_or_insert(here) != here {
                return None;
            }
        }
        // One that no input of the call has is not filled up.
        Some(found.unwrap_or(0))
    }

    /// The size that a length is filled up to, which is its own where it is none to fill up.
    fn size(&self, length: usize) -> usize {
        let fitting = self.sizes.iter().copied().find(|&size| size >= length);
        fitting.filter(|_| length > 1).unwrap_or(length)
    }

    /// The largest size.
    pub(super) fn most(&self) -> usize {
        self.sizes.last().copied().unwrap_or(0)
    }
}

impl Filled {
    fn fill(&self, piece: Piece<'_>, size: usize) -> Option<Value> {
        let dtype = match piece {
            Piece::Tensor(view) => view.dtype(),
            Piece::Strings(_) => Dtype::String,
        };
        let is_as_declared = dtype == self.dtype && extent(piece, self.axis)? <= size;
        is_as_declared.then(|| filled(piece, self.axis, size, &self.element))
    }
}

/// Axes that have a length already.
#[derive(Default)]
struct Seen {
    inputs: Vec<(usize, usize)>,
    outputs: Vec<(usize, usize)>,
}

impl Seen {
    fn input(
        &mut self,
        signature: &Signature,
        rows: &BatchAxes,
        name: &str,
        axis: usize,
        filling: &Filling,
    ) -> Result<Filled> {
        let index = signature
            .input(name)
            .ok_or_else(|| refused(format!("`pad` names input `{name}`, which the model has not")))?;
        let argument = &signature.inputs[index];
        check_axis("input", argument, axis, rows.inputs[index])?;
        if rows.inputs[index].is_none() {
            return Err(refused(format!(
                "input `{name}` cannot be padded, since it has no batch axis: it must be equal in all calls of a batch"
            )));
        }
        if self.inputs.contains(&(index, axis)) {
            return Err(refused(format!("`pad` gives axis {axis} of input `{name}` twice")));
        }
        self.inputs.push((index, axis));
        let dtype = argument.dtype().unwrap_or(Dtype::Undefined);
        let element = element(dtype, filling).ok_or_else(|| {
            let shown = match filling {
                Filling::Integer(number) => number.to_string(),
                Filling::Number(number) => number.to_string(),
                Filling::Text(text) => format!("{text:?}"),
            };
            refused(format!(
                "`pad` fills input `{name}` up with {shown}, which a {dtype} cannot be: pass another `value`"
            ))
        })?;
        Ok(Filled {
            index,
            axis,
            dtype,
            element,
        })
    }

    fn output(&mut self, signature: &Signature, rows: &BatchAxes, name: &str, axis: usize) -> Result<(usize, usize)> {
        let index = signature
            .output(name)
            .ok_or_else(|| refused(format!("`pad` names output `{name}`, which the model has not")))?;
        check_axis("output", &signature.outputs[index], axis, rows.outputs[index])?;
        if self.outputs.contains(&(index, axis)) {
            return Err(refused(format!("`pad` gives axis {axis} of output `{name}` twice")));
        }
        self.outputs.push((index, axis));
        Ok((index, axis))
    }
}

fn check_axis(kind: &str, argument: &Argument, axis: usize, rows: Option<usize>) -> Result<()> {
    let name = &argument.name;
    if let Some(shape) = argument.shape() {
        if axis >= shape.len() {
            return Err(refused(format!(
                "`pad` gives {kind} `{name}` axis {axis}, but it has {} axes",
                shape.len()
            )));
        }
        if let Dim::Fixed(extent) = shape[axis] {
            return Err(refused(format!(
                "axis {axis} of {kind} `{name}` is {extent} long in every call: it cannot be padded"
            )));
        }
    }
    if rows == Some(axis) {
        return Err(refused(format!(
            "axis {axis} of {kind} `{name}` holds the rows of the batch, which cannot be padded"
        )));
    }
    Ok(())
}

/// The bytes of what fills an input up; `None` where its type cannot hold it.
fn element(dtype: Dtype, filling: &Filling) -> Option<Vec<u8>> {
    let number = match filling {
        Filling::Text(text) => return (dtype == Dtype::String).then(|| text.as_bytes().to_vec()),
        Filling::Integer(number) => *number,
        Filling::Number(number) => return fraction(dtype, *number),
    };
    let range = match dtype {
        Dtype::Bool => 0..=1,
        Dtype::Int8 => i8::MIN.into()..=i8::MAX.into(),
        Dtype::Uint8 => 0..=u8::MAX.into(),
        Dtype::Int16 => i16::MIN.into()..=i16::MAX.into(),
        Dtype::Uint16 => 0..=u16::MAX.into(),
        Dtype::Int32 => i32::MIN.into()..=i32::MAX.into(),
        Dtype::Uint32 => 0..=u32::MAX.into(),
        Dtype::Int64 => i64::MIN..=i64::MAX,
        Dtype::Uint64 => 0..=i64::MAX,
        #[expect(clippy::cast_precision_loss, reason = "a number with a fraction rounds")]
        _ => return fraction(dtype, number as f64),
    };
    let mut bytes = number.to_ne_bytes().to_vec();
    if cfg!(target_endian = "big") {
        bytes.reverse();
    }
    bytes.truncate(dtype.bits() / 8);
    if cfg!(target_endian = "big") {
        bytes.reverse();
    }
    range.contains(&number).then_some(bytes)
}

fn fraction(dtype: Dtype, number: f64) -> Option<Vec<u8>> {
    const MOST_HALF: f64 = 65504.0;
    #[expect(clippy::cast_possible_truncation, reason = "whether it does is what is asked")]
    let is_single = !number.is_finite() || (number as f32).is_finite();
    match dtype {
        Dtype::Float64 => Some(encoded(dtype, number)),
        Dtype::Float32 | Dtype::Bfloat16 => is_single.then(|| encoded(dtype, number)),
        Dtype::Float16 if number.is_infinite() => {
            let sign = if number < 0.0 { 0x8000_u16 } else { 0 };
            Some((sign | 0x7C00).to_ne_bytes().to_vec())
        }
        Dtype::Float16 => (number.is_nan() || number.abs() <= MOST_HALF).then(|| encoded(dtype, number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
