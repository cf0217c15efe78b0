//! The shape of what a node gives.

use super::facts::{Extent, Extents, Halt, UNFIT, axis_of, broadcast, product};
use super::operators::{self, Kind};
use super::settled::{length_of_range, sliced};
use super::step::Step;
use Extent::{Number, Other, Rows, Settled};

/// Slices that end here or later go to the end of the axis; converters write this very number, among others.
pub(super) const BEYOND: i64 = 1_000_000_000;

/// The shape of a node's first output; `None` where it is not known.
pub(super) fn outcome(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    let Some(kind) = operators::kind(step) else {
        return Ok(None);
    };
    match kind {
        Kind::Elementwise => broadcast_all((0..step.node().input.len()).filter_map(|position| step.input(position))),
        Kind::Alike | Kind::Normalising | Kind::PerChannel => Ok(step.shape(0).cloned()),
        // Nobody asks for the shape of what has four axes and holds no rows.
        Kind::Recurrent => Ok(None),
        Kind::Reducing => reduced(step),
        Kind::Choosing => chosen(step),
        Kind::Windowed => windowed(step),
        Kind::Product => multiplied(step),
        Kind::Other => other(step),
        Kind::Tabular => Ok(step.shape(0).and_then(|shape| tabular(step, shape))),
    }
}

pub(super) fn broadcast_all<'f>(facts: impl Iterator<Item = &'f super::facts::Fact>) -> Result<Option<Extents>, Halt> {
    let mut shape = Extents::new();
    for fact in facts {
        let Some(next) = &fact.shape else { return Ok(None) };
        shape = broadcast_two(&shape, next)?;
    }
    Ok(Some(shape))
}

fn broadcast_two(a: &[Extent], b: &[Extent]) -> Result<Extents, Halt> {
    let rank = a.len().max(b.len());
    let at = |extents: &[Extent], position: usize| {
        (extents.len() + position)
            .checked_sub(rank)
            .map_or(Number(1), |at| extents[at])
    };
    (0..rank)
        .map(|position| broadcast(at(a, position), at(b, position)))
        .collect()
}

/// The axes that a reduction removes; an empty list where it reduces nothing.
pub(super) fn reduced_axes(step: &Step<'_>, rank: usize) -> Result<Vec<usize>, Halt> {
    let axes = step.axes("axes", 1, rank)?.filter(|axes| !axes.is_empty());
    Ok(match axes {
        Some(axes) => axes,
        None if step.integer("noop_with_empty_axes", 0) == 1 => Vec::new(),
        None => (0..rank).collect(),
    })
}

fn reduced(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    let Some(shape) = step.shape(0) else { return Ok(None) };
    let axes = reduced_axes(step, shape.len())?;
    let keeps = step.integer("keepdims", 1) == 1;
    Ok(Some(without(shape, &axes, keeps)))
}

fn chosen(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    let Some(shape) = step.shape(0) else { return Ok(None) };
    let axis = step.axis(0, shape.len())?;
    Ok(Some(without(shape, &[axis], step.integer("keepdims", 1) == 1)))
}

fn without(shape: &[Extent], axes: &[usize], keeps: bool) -> Extents {
    let extents = shape.iter().enumerate();
    extents
        .filter_map(|(axis, extent)| match (axes.contains(&axis), keeps) {
            (false, _) => Some(*extent),
            (true, true) => Some(Number(1)),
            (true, false) => None,
        })
        .collect()
}

/// Convolutions and pools: rows, channels, and what remains of the other axes.
fn windowed(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    let Some(shape) = step.shape(0) else { return Ok(None) };
    if shape.len() < 3 {
        return Err(UNFIT);
    }
    let operator = step.operator();
    if operator.starts_with("Global") {
        let rest = Extents::from_elem(Number(1), shape.len() - 2);
        return Ok(Some(shape[..2].iter().copied().chain(rest).collect()));
    }
    let is_convolution = matches!(operator, "Conv" | "ConvInteger" | "QLinearConv");
    let weight = step.shape(if operator == "QLinearConv" { 3 } else { 1 });
    let channels = match (is_convolution, weight) {
        (true, Some(weight)) => weight.first().copied().unwrap_or(Settled),
        (false, _) if operator != "ConvTranspose" => shape[1],
        _ => Settled,
    };
    let kernel = step.integers("kernel_shape").or_else(|| {
        let weight = weight.filter(|_| is_convolution)?;
        weight.get(2..)?.iter().map(|extent| extent.number()).collect()
    });
    let count = shape.len() - 2;
    let list = |name, default: i64, length| step.integers(name).unwrap_or_else(|| vec![default; length]);
    let (strides, dilations, pads) = (
        list("strides", 1, count),
        list("dilations", 1, count),
        list("pads", 0, 2 * count),
    );
    let is_plain = operator != "ConvTranspose"
        && step.integer("ceil_mode", 0) == 0
        && matches!(step.text("auto_pad"), b"" | b"NOTSET")
        && [strides.len(), dilations.len(), pads.len() / 2] == [count; 3]
        && strides.iter().all(|&stride| stride > 0);
    let left = |axis: usize| {
        let extent = shape[2 + axis];
        let window = kernel.as_ref().filter(|kernel| is_plain && kernel.len() == count);
        match (extent, window) {
            (Number(extent), Some(kernel)) => {
                let window = dilations[axis]
                    .saturating_mul(kernel[axis].saturating_sub(1))
                    .saturating_add(1);
                let pads = pads[axis].saturating_add(pads[count + axis]);
                let padded = extent.saturating_add(pads).saturating_sub(window);
                if padded < 0 {
                    Err(UNFIT)
                } else {
                    Ok(Number((padded / strides[axis]).saturating_add(1)))
                }
            }
            (extent, _) => Ok(if extent.counts_rows() { Other } else { Settled }),
        }
    };
    let spatial: Extents = (0..count).map(left).collect::<Result<_, _>>()?;
    Ok(Some([shape[0], channels].into_iter().chain(spatial).collect()))
}

fn multiplied(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    let (Some(a), Some(b)) = (step.shape(0), step.shape(1)) else {
        return Ok(None);
    };
    if step.operator() == "Gemm" {
        let (&[high, inner_a], &[inner_b, wide]) = (
            &turned(a, step.integer("transA", 0) == 1)?[..],
            &turned(b, step.integer("transB", 0) == 1)?[..],
        ) else {
            return Err(UNFIT);
        };
        broadcast(inner_a, inner_b)?;
        return Ok(Some(Extents::from_slice(&[high, wide])));
    }
    let (Some(inner_a), Some(inner_b)) = (a.last(), b.get(b.len().saturating_sub(2))) else {
        return Err(UNFIT);
    };
    if let (Number(a), Number(b)) = (inner_a, inner_b)
        && a != b
    {
        return Err(UNFIT);
    }
    let outer = |shape: &Extents| Extents::from_slice(&shape[..shape.len().saturating_sub(2)]);
    let mut shape = broadcast_two(&outer(a), &outer(b))?;
    if a.len() > 1 {
        shape.push(a[a.len() - 2]);
    }
    if b.len() > 1 {
        shape.push(b[b.len() - 1]);
    }
    Ok(Some(shape))
}

fn turned(shape: &Extents, is_turned: bool) -> Result<Extents, Halt> {
    match (&shape[..], is_turned) {
        (&[a, b], false) => Ok(Extents::from_slice(&[a, b])),
        (&[a, b], true) => Ok(Extents::from_slice(&[b, a])),
        _ => Err(UNFIT),
    }
}

/// The operators of `ai.onnx.ml` that take a table of one row each.
fn tabular(step: &Step<'_>, shape: &Extents) -> Option<Extents> {
    let &[rows, columns] = &shape[..] else { return None };
    Some(match step.node().op_type.as_str() {
        "TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" => Extents::from_slice(&[rows]),
        "Scaler" | "Imputer" | "Normalizer" | "Binarizer" => Extents::from_slice(&[rows, columns]),
        _ => Extents::from_slice(&[rows, Settled]),
    })
}

fn other(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    if step.operator() == "Range" {
        return Ok(Some(Extents::from_slice(&[length_of_range(step)])));
    }
    if step.operator() == "ConstantOfShape" {
        return Ok(step.content(0).map(|content| content.items.clone()));
    }
    if step.operator() == "Constant" {
        let tensor = step.tensor("value");
        let dims = tensor.map(|weight| weight.dims.iter().copied().map(Number).collect());
        return Ok(dims.or_else(|| step.attribute("value_float").map(|_| Extents::new())));
    }
    match step.operator() {
        "Transpose" | "Unsqueeze" | "Squeeze" | "Flatten" | "Reshape" => rearranged(step),
        _ => selected(step),
    }
}

/// The axes that a `Squeeze` removes; `None` where these are all that have one element.
pub(super) fn squeezed_axes(step: &Step<'_>, rank: usize) -> Result<Option<Vec<usize>>, Halt> {
    Ok(step.axes("axes", 1, rank)?.filter(|axes| !axes.is_empty()))
}

/// Operators that keep all elements.
fn rearranged(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    let Some(shape) = step.shape(0) else { return Ok(None) };
    let rank = shape.len();
    Ok(match step.operator() {
        "Transpose" => {
            let perm = step.integers("perm");
            let perm = perm.unwrap_or_else(|| (0..rank).rev().filter_map(|axis| i64::try_from(axis).ok()).collect());
            if perm.len() != rank {
                return Err(UNFIT);
            }
            Some(
                perm.iter()
                    .map(|&axis| Ok(shape[axis_of(axis, rank)?]))
                    .collect::<Result<_, Halt>>()?,
            )
        }
        "Unsqueeze" => {
            let Some(axes) = step.parameters("axes", 1)? else {
                return Err(UNFIT);
            };
            let wide = rank + axes.len();
            let axes: Vec<usize> = axes.iter().map(|&axis| axis_of(axis, wide)).collect::<Result<_, _>>()?;
            let mut rest = shape.iter();
            let extents = (0..wide).map(|axis| {
                if axes.contains(&axis) {
                    Some(&Number(1))
                } else {
                    rest.next()
                }
            });
            Some(
                extents
                    .map(|extent| extent.copied().ok_or(UNFIT))
                    .collect::<Result<_, _>>()?,
            )
        }
        "Squeeze" => match squeezed_axes(step, rank)? {
            None if shape.iter().all(|extent| extent.number().is_some()) => {
                Some(shape.iter().copied().filter(|extent| *extent != Number(1)).collect())
            }
            None => None,
            Some(axes) => {
                if axes
                    .iter()
                    .any(|&axis| matches!(shape[axis], Number(extent) if extent != 1))
                {
                    return Err(UNFIT);
                }
                Some(without(shape, &axes, false))
            }
        },
        "Flatten" => {
            let axis = step.integer("axis", 1);
            let axis = if axis == i64::try_from(rank).unwrap_or(-1) {
                rank
            } else {
                axis_of(axis, rank)?
            };
            Some(Extents::from_slice(&[product(&shape[..axis]), product(&shape[axis..])]))
        }
        "Reshape" => step
            .content(1)
            .map(|target| reshaped(step, shape, &target.items))
            .transpose()?,
        _ => None,
    })
}

/// Operators that join, take or repeat elements.
fn selected(step: &Step<'_>) -> Result<Option<Extents>, Halt> {
    let Some(shape) = step.shape(0) else { return Ok(None) };
    let rank = shape.len();
    Ok(match step.operator() {
        "Concat" => {
            let axis = step.axis(1, rank)?;
            let mut joined = shape.clone();
            for position in 1..step.node().input.len() {
                match step.shape(position) {
                    None => joined[axis] = Other,
                    Some(next) if next.len() != rank => return Err(UNFIT),
                    Some(next) => joined[axis] = joined[axis].plus(next[axis]),
                }
            }
            Some(joined)
        }
        "Slice" => step.slices(rank)?.map(|ranges| {
            let mut left = shape.clone();
            for range in ranges {
                left[range.axis] = match (shape[range.axis], range.start, range.end) {
                    (Number(extent), Number(start), Number(end)) => {
                        sliced(start, end, range.step, extent).map_or(Settled, |(_, count, _)| Number(count))
                    }
                    (extent, Number(0), Number(BEYOND..)) if range.step == 1 => extent,
                    (extent, start, end) => {
                        if extent.counts_rows() || start.counts_rows() || end.counts_rows() {
                            Other
                        } else {
                            Settled
                        }
                    }
                };
            }
            left
        }),
        "Gather" => match step.shape(1) {
            None => None,
            Some(indices) => {
                let axis = step.axis(0, rank)?;
                let (before, after) = (&shape[..axis], &shape[axis + 1..]);
                Some(before.iter().chain(indices).chain(after).copied().collect())
            }
        },
        "GatherElements" => step.shape(1).cloned(),
        "EyeLike" | "Scatter" | "ScatterElements" | "ScatterND" | "Trilu" => Some(shape.clone()),
        "Expand" => match step.content(1) {
            Some(target) => Some(broadcast_two(shape, &target.items)?),
            None => None,
        },
        "Tile" => step.content(1).and_then(|repeats| {
            (repeats.items.len() == rank).then(|| {
                std::iter::zip(shape, &repeats.items)
                    .map(|(a, b)| a.times(*b))
                    .collect()
            })
        }),
        "Pad" => {
            let pads = match (step.integers("pads"), step.content(1), step.input(3)) {
                (Some(pads), ..) => Some(pads.into_iter().map(Number).collect::<Extents>()),
                (None, Some(pads), None) => Some(pads.items.clone()),
                _ => None,
            };
            pads.filter(|pads| pads.len() == 2 * rank).map(|pads| {
                (0..rank)
                    .map(|axis| shape[axis].plus(pads[axis]).plus(pads[rank + axis]))
                    .collect()
            })
        }
        "OneHot" => {
            let axis = axis_of(step.integer("axis", -1), rank + 1)?;
            let depth = step.content(1).and_then(|content| content.items.first().copied());
            let mut wide = shape.clone();
            wide.insert(axis, depth.unwrap_or(Settled));
            Some(wide)
        }
        _ => None,
    })
}

/// The shape that a `Reshape` gives, with `0` and `-1` resolved as far as they are known.
fn reshaped(step: &Step<'_>, shape: &Extents, target: &Extents) -> Result<Extents, Halt> {
    let copies = step.integer("allowzero", 0) == 0;
    let mut resolved = Extents::new();
    for (position, item) in target.iter().enumerate() {
        resolved.push(match item {
            Number(0) if copies => *shape.get(position).ok_or(UNFIT)?,
            other => *other,
        });
    }
    if let Some(rest) = resolved.iter().position(|item| *item == Number(-1)) {
        let others: Extents = resolved.iter().copied().filter(|item| *item != Number(-1)).collect();
        // What both sides have in common need not be known to be left out of the division.
        let mut given = shape.clone();
        let mut taken = Extents::new();
        for item in others {
            match given
                .iter()
                .position(|extent| *extent == item && item != Other && item != Settled)
            {
                Some(position) => {
                    given.remove(position);
                }
                None => taken.push(item),
            }
        }
        resolved[rest] = product(&given).divided_by(product(&taken));
        // What is left of each row is the same for any number of them.
        let others = resolved.iter().enumerate().filter(|(position, _)| *position != rest);
        let mut counted = others.map(|(_, item)| item).filter(|item| item.counts_rows());
        let is_split_by_rows = matches!((counted.next(), counted.next()), (Some(Rows(_)), None));
        if is_split_by_rows && resolved[rest] == Other && step.input(0).is_some_and(|input| input.axis().is_some()) {
            resolved[rest] = Settled;
        }
    }
    Ok(resolved)
}
