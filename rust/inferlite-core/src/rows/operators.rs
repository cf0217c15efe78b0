//! Where the rows are after a node: one rule for each family of operators.

use super::facts::{Extent, Extents, Fact, Halt, Spread, UNFIT, axis_of, product};
use super::step::Step;
use super::{moves, shapes};
use Extent::Number;
use Halt::{Mixes, Unclear};

/// A family of operators that the same rules describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Every element by itself, with broadcasting.
    Elementwise,
    /// The shape of the first input, whose rows stay where they are; the other inputs are scales and the like.
    Alike,
    /// One axis, or all from one on, are seen together.
    Normalising,
    /// Each channel has numbers of its own.
    PerChannel,
    /// Axes are folded into one number.
    Reducing,
    /// One axis is folded into an index.
    Choosing,
    /// Convolutions and pools: rows on axis 0.
    Windowed,
    /// Products of matrices.
    Product,
    /// Steps over time.
    Recurrent,
    /// A table: a row each.
    Tabular,
    /// Each in its own way.
    Other,
}

/// The family of an operator; `None` for one that is not known.
pub(super) fn kind(step: &Step<'_>) -> Option<Kind> {
    let (domain, operator) = step.qualified()?;
    Some(match domain {
        "" => match operator {
            "Abs" | "Acos" | "Acosh" | "Add" | "And" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitShift"
            | "BitwiseAnd" | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" | "Cast" | "CastLike" | "Ceil" | "Celu"
            | "Clip" | "Cos" | "Cosh" | "Div" | "Elu" | "Equal" | "Erf" | "Exp" | "Floor" | "Gelu" | "Greater"
            | "GreaterOrEqual" | "HardSigmoid" | "HardSwish" | "Identity" | "IsInf" | "IsNaN" | "LeakyRelu"
            | "Less" | "LessOrEqual" | "Log" | "Max" | "Mean" | "Min" | "Mish" | "Mod" | "Mul" | "Neg" | "Not"
            | "Or" | "PRelu" | "Pow" | "Reciprocal" | "Relu" | "Round" | "Selu" | "Shrink" | "Sigmoid" | "Sign"
            | "Sin" | "Sinh" | "Softplus" | "Softsign" | "Sqrt" | "StringConcat" | "Sub" | "Sum" | "Swish" | "Tan"
            | "Tanh" | "ThresholdedRelu" | "Where" | "Xor" => Kind::Elementwise,
            "DequantizeLinear" | "Dropout" | "QuantizeLinear" => Kind::Alike,
            "CumSum" | "Hardmax" | "LayerNormalization" | "LogSoftmax" | "LpNormalization" | "RMSNormalization"
            | "Softmax" => Kind::Normalising,
            "BatchNormalization" | "GroupNormalization" | "InstanceNormalization" | "LRN" => Kind::PerChannel,
            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
            | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => Kind::Reducing,
            "ArgMax" | "ArgMin" => Kind::Choosing,
            "AveragePool" | "Conv" | "ConvInteger" | "ConvTranspose" | "GlobalAveragePool" | "GlobalLpPool"
            | "GlobalMaxPool" | "LpPool" | "MaxPool" | "QLinearConv" => Kind::Windowed,
            "Gemm" | "MatMul" | "MatMulInteger" => Kind::Product,
            "GRU" | "LSTM" | "RNN" => Kind::Recurrent,
            "Compress"
            | "Concat"
            | "Constant"
            | "ConstantOfShape"
            | "DynamicQuantizeLinear"
            | "Expand"
            | "EyeLike"
            | "Flatten"
            | "Gather"
            | "GatherElements"
            | "GatherND"
            | "NonMaxSuppression"
            | "NonZero"
            | "OneHot"
            | "Pad"
            | "Range"
            | "Reshape"
            | "Scatter"
            | "ScatterElements"
            | "ScatterND"
            | "Shape"
            | "Size"
            | "Slice"
            | "Split"
            | "Squeeze"
            | "Tile"
            | "TopK"
            | "Transpose"
            | "Trilu"
            | "Unique"
            | "Unsqueeze" => Kind::Other,
            _ => return None,
        },
        "ai.onnx.ml" => match operator {
            "CategoryMapper" | "LabelEncoder" => Kind::Elementwise,
            "Binarizer"
            | "Imputer"
            | "LinearClassifier"
            | "LinearRegressor"
            | "Normalizer"
            | "SVMClassifier"
            | "SVMRegressor"
            | "Scaler"
            | "TreeEnsembleClassifier"
            | "TreeEnsembleRegressor" => Kind::Tabular,
            _ => return None,
        },
        "com.microsoft" => match operator {
            "BiasGelu" | "FastGelu" | "Gelu" | "QuickGelu" => Kind::Elementwise,
            _ => return None,
        },
        _ => return None,
    })
}

/// A value that is not the same in a batch of another size.
pub(super) const COUNTS: Halt = Mixes("computes with the number of rows");

/// Which inputs are sizes, axes and shapes rather than numbers to compute with.
pub(super) fn is_parameter(step: &Step<'_>, position: usize) -> bool {
    match step.operator() {
        "Reshape" | "Expand" | "Squeeze" | "Unsqueeze" | "Tile" | "Split" | "TopK" | "CumSum" => position == 1,
        "Slice" => position >= 1,
        "Pad" => matches!(position, 1 | 3),
        operator => position == 1 && operator.starts_with("Reduce"),
    }
}

/// What a node gives of whose inputs at least one holds rows, and none is unclear or mixed.
pub(super) fn outcome(step: &Step<'_>) -> Result<Vec<Fact>, Halt> {
    let Some(kind) = kind(step) else {
        return Err(Unclear("is an operator that the analysis does not know"));
    };
    for position in 0..step.node().input.len() {
        let Some(fact) = step.input(position) else { continue };
        if fact.counts && !is_parameter(step, position) && !matches!(step.operator(), "Shape" | "Size") {
            return Err(COUNTS);
        }
        if is_parameter(step, position) && fact.spread != Spread::Free {
            return Err(Mixes("takes sizes or axes from the rows"));
        }
    }
    let facts = if matches!(step.operator(), "Split" | "TopK") {
        several(step)?
    } else if kind == Kind::Recurrent {
        recurrent(step)?
    } else {
        single(step, kind)?
    };
    facts.iter().try_for_each(check)?;
    Ok(facts)
}

/// What holds of every value that holds rows, whichever rule it comes from.
fn check(fact: &Fact) -> Result<(), Halt> {
    let (Some(Place { axis, block }), Some(shape)) = (place(fact), &fact.shape) else {
        return Ok(());
    };
    let mut others = shape.iter().enumerate().filter(|(position, _)| *position != axis);
    if others.any(|(_, extent)| extent.counts_rows()) {
        return Err(COUNTS);
    }
    match block {
        Some(block) if shape[axis] != Extent::Rows(block) => Err(Unclear("gives a batch axis of an unknown extent")),
        _ => Ok(()),
    }
}

/// Operators of which the first output is the one that matters.
fn single(step: &Step<'_>, kind: Kind) -> Result<Vec<Fact>, Halt> {
    let place = match kind {
        // The bounds are scalars to the runtime.
        Kind::Elementwise if step.operator() == "Clip" => alone(step)?.0,
        Kind::Elementwise => together(step, 0..step.node().input.len())?,
        Kind::Alike => alike(step)?,
        Kind::Normalising => normalising(step)?,
        Kind::PerChannel => channels(step)?,
        Kind::Reducing => reducing(step)?,
        Kind::Choosing => choosing(step)?,
        Kind::Windowed => windowed(step)?,
        Kind::Product => multiplied(step)?,
        Kind::Tabular => tabular(step)?,
        Kind::Recurrent | Kind::Other => moves::outcome(step)?,
    };
    let shape = shapes::outcome(step)?.ok_or(Unclear("gives a shape that is not known before the run"))?;
    let first = Fact::rows(place.axis, place.block, shape);
    let mut facts = vec![first.clone()];
    for output in 1..step.outputs() {
        // A mask is shaped as what it masks, and the probabilities of a classifier have its rows.
        let fact = match (step.operator(), kind) {
            ("Dropout", _) => first.clone(),
            ("MaxPool", _) if output == 1 => Fact::spread_only(Spread::Mixed(
                step.named("numbers elements through the batch in its second output"),
            )),
            (_, Kind::Tabular) => {
                let rows = first.shape.as_ref().map_or(Extent::Other, |shape| shape[0]);
                Fact::rows(0, place.block, Extents::from_slice(&[rows, Extent::Settled]))
            }
            _ => Fact::spread_only(Spread::Unclear(
                step.named("has another output, which the analysis does not follow"),
            )),
        };
        facts.push(fact);
    }
    Ok(facts)
}

/// Where the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) axis: usize,
    pub(super) block: Option<i64>,
}

/// The rows of an input, if it holds any.
pub(super) fn place(fact: &Fact) -> Option<Place> {
    match fact.spread {
        Spread::Rows { axis, block } => Some(Place { axis, block }),
        _ => None,
    }
}

/// The rows of an input that must hold them, and its rank.
pub(super) fn first(step: &Step<'_>) -> Result<(Place, usize), Halt> {
    let fact = step.input(0).ok_or(UNFIT)?;
    let rank = fact.rank().ok_or(Unclear("takes a value of unknown rank"))?;
    let found = place(fact).ok_or(Unclear("takes rows by another input than its first"))?;
    Ok((found, rank))
}

/// Refuses rows in any input but the first.
pub(super) fn alone(step: &Step<'_>) -> Result<(Place, usize), Halt> {
    let found = first(step)?;
    if (1..step.node().input.len()).any(|position| step.input(position).and_then(place).is_some()) {
        return Err(Unclear("takes rows by several inputs"));
    }
    Ok(found)
}

/// Values that are combined element by element: their rows must lie on one axis, on which the others have one element.
fn together(step: &Step<'_>, positions: impl Iterator<Item = usize> + Clone) -> Result<Place, Halt> {
    const RANK: Halt = Unclear("combines values of which the rank is not known");
    let facts = positions.filter_map(|position| step.input(position));
    let mut rank = 0;
    for fact in facts.clone() {
        rank = rank.max(fact.rank().ok_or(RANK)?);
    }
    let mut found: Option<Place> = None;
    for fact in facts.clone() {
        let Some(Place { axis, block }) = place(fact) else {
            continue;
        };
        let axis = axis + rank - fact.rank().ok_or(RANK)?;
        match found {
            None => found = Some(Place { axis, block }),
            Some(other) if other.axis != axis => return Err(Mixes("combines rows with other rows")),
            Some(other) => {
                if other.block.is_some() && block.is_some() && other.block != block {
                    return Err(Mixes("combines rows with other rows"));
                }
                found = Some(Place {
                    axis,
                    block: block.or(other.block),
                });
            }
        }
    }
    let found = found.ok_or(UNFIT)?;
    for fact in facts.filter(|fact| place(fact).is_none()) {
        let shape = fact.shape.as_ref().ok_or(RANK)?;
        let at = (found.axis + shape.len()).checked_sub(rank);
        match at.map(|at| shape[at]) {
            None | Some(Number(1)) => {}
            // No trial tells what happens to a call that feeds as many elements as it has rows.
            Some(Extent::Settled) => {
                return Err(Mixes("combines rows with a value that may hold one element for each"));
            }
            Some(_) => return Err(Mixes("treats rows by their position in the batch")),
        }
    }
    Ok(found)
}

fn alike(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = alone(step)?;
    if step.operator() == "Dropout" {
        return Ok(found);
    }
    let scale = step.shape(1).ok_or(Unclear("scales by a value of unknown shape"))?;
    let is_blocked = step.integer("block_size", 0) != 0 || scale.len() > 1;
    let is_shared = if product(scale) == Number(1) {
        true
    } else if is_blocked {
        scale.len() == rank && scale[found.axis] == Number(1)
    } else {
        step.axis(1, rank)? != found.axis
    };
    if is_shared {
        Ok(found)
    } else {
        Err(Mixes("scales rows by their position in the batch"))
    }
}

fn normalising(step: &Step<'_>) -> Result<Place, Halt> {
    const ALONG: Halt = Mixes("works along the batch axis");
    let (found, rank) = alone(step)?;
    let (is_from, axis) = match step.operator() {
        "CumSum" => {
            let axis = step.content(1).and_then(|content| content.items.first()?.number());
            (
                false,
                axis_of(
                    axis.ok_or(Unclear("takes an axis that is not known before the run"))?,
                    rank,
                )?,
            )
        }
        "LayerNormalization" | "RMSNormalization" => (true, step.axis(-1, rank)?),
        "LpNormalization" => (false, step.axis(-1, rank)?),
        // Before, all axes from this one on were one.
        _ if !step.is_since(13) => (true, step.axis(1, rank)?),
        _ => (false, step.axis(-1, rank)?),
    };
    if found.axis == axis || (is_from && found.axis > axis) {
        return Err(ALONG);
    }
    if is_from && (1..step.node().input.len()).any(|position| step.rank(position).is_some_and(|own| own > rank - axis))
    {
        return Err(Unclear("scales by more axes than it normalises"));
    }
    Ok(found)
}

fn channels(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, _) = alone(step)?;
    if step.integer("training_mode", 0) == 1 {
        return Err(Mixes("normalises over the batch"));
    }
    if step.integer("spatial", 1) == 0 {
        return Err(Unclear("has numbers for every element"));
    }
    // The numbers of a batch normalisation are constants, so that every other axis is as good as the first.
    let is_fine = if step.operator() == "BatchNormalization" {
        found.axis != 1
    } else {
        found.axis == 0
    };
    if is_fine {
        Ok(found)
    } else {
        Err(Mixes("works along the batch axis"))
    }
}

fn reducing(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = alone(step)?;
    let axes = shapes::reduced_axes(step, rank)?;
    if axes.contains(&found.axis) {
        return Err(Mixes("reduces the batch axis"));
    }
    if step.integer("keepdims", 1) == 1 {
        return Ok(found);
    }
    let before = axes.iter().filter(|&&axis| axis < found.axis).count();
    Ok(Place {
        axis: found.axis - before,
        ..found
    })
}

fn choosing(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = alone(step)?;
    let axis = step.axis(0, rank)?;
    if axis == found.axis {
        return Err(Mixes("reduces the batch axis"));
    }
    let is_before = axis < found.axis && step.integer("keepdims", 1) == 0;
    Ok(Place {
        axis: found.axis - usize::from(is_before),
        ..found
    })
}

fn windowed(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, _) = alone(step)?;
    if found.axis == 0 {
        Ok(found)
    } else {
        Err(Mixes("works along the batch axis"))
    }
}

fn tabular(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = alone(step)?;
    match (rank, found.axis) {
        (2, 0) => Ok(found),
        (2, _) => Err(Mixes("takes its rows from another axis")),
        _ => Err(Unclear("takes a value that is no table")),
    }
}

fn multiplied(step: &Step<'_>) -> Result<Place, Halt> {
    const SUMS: Halt = Mixes("sums over the batch axis");
    const RANK: Halt = Unclear("multiplies values of which the rank is not known");
    let is_gemm = step.operator() == "Gemm";
    let is_single = |fact: &Fact| {
        fact.spread == Spread::Free && fact.shape.as_ref().is_some_and(|shape| product(shape) == Number(1))
    };
    if !is_gemm
        && (2..step.node().input.len())
            .filter_map(|position| step.input(position))
            .any(|zero| !is_single(zero))
    {
        return Err(Unclear("takes a zero point of its own for each row or column"));
    }
    let side = |position: usize, name: &str| -> Result<Option<(Place, usize)>, Halt> {
        let fact = step.input(position).ok_or(UNFIT)?;
        let rank = fact.rank().ok_or(RANK)?;
        let is_turned = is_gemm && step.integer(name, 0) == 1;
        Ok(place(fact).map(|found| {
            (
                Place {
                    axis: if is_turned { 1 - found.axis.min(1) } else { found.axis },
                    ..found
                },
                rank,
            )
        }))
    };
    let (a, b) = (side(0, "transA")?, side(1, "transB")?);
    let (rank_a, rank_b) = (step.rank(0).ok_or(RANK)?, step.rank(1).ok_or(RANK)?);
    let outer = rank_a.max(rank_b).saturating_sub(2);
    // Counted as in the product, whose last two axes are those of the matrices.
    let of_a = a
        .map(|(found, rank)| {
            if found.axis + 1 == rank {
                Err(SUMS)
            } else {
                Ok(Place {
                    axis: found.axis + (outer + 2) - rank,
                    ..found
                })
            }
        })
        .transpose()?;
    let of_b = b
        .map(|(found, rank)| {
            if found.axis + 2 == rank || rank == 1 {
                Err(SUMS)
            } else {
                let axis = found.axis + (outer + 2) - rank;
                Ok(Place {
                    axis: axis - usize::from(axis == outer + 1 && rank_a == 1),
                    ..found
                })
            }
        })
        .transpose()?;
    let found = match (of_a, of_b) {
        (Some(a), Some(b)) if a == b && a.axis < outer => a,
        (Some(_), Some(_)) => return Err(Mixes("multiplies rows with other rows")),
        (Some(found), None) | (None, Some(found)) => found,
        (None, None) => return Err(Unclear("takes rows by another input than its factors")),
    };
    if found.axis < outer {
        // A stack of matrices: the other one must be the same for all rows.
        for (position, rank) in [(0, rank_a), (1, rank_b)] {
            let shape = step.shape(position).ok_or(RANK)?;
            let at = (found.axis + rank).checked_sub(outer + 2);
            let is_rows = step.input(position).and_then(place).is_some();
            if let Some(at) = at.filter(|at| !is_rows && at + 2 < rank)
                && shape[at] != Number(1)
            {
                return Err(Mixes("treats rows by their position in the batch"));
            }
        }
    }
    if is_gemm && let Some(offset) = step.input(2) {
        let shape = offset.shape.as_ref().ok_or(RANK)?;
        let at = (found.axis + shape.len()).checked_sub(2);
        if offset.axis().is_some() && offset.axis() != at {
            return Err(Mixes("combines rows with other rows"));
        }
        if offset.axis().is_none() && at.is_some_and(|at| shape[at] != Number(1)) {
            return Err(Mixes("treats rows by their position in the batch"));
        }
    }
    Ok(found)
}

/// Operators that give several values with the same rows.
fn several(step: &Step<'_>) -> Result<Vec<Fact>, Halt> {
    let (found, rank) = alone(step)?;
    let is_split = step.operator() == "Split";
    let axis = step.axis(if is_split { 0 } else { -1 }, rank)?;
    if axis == found.axis {
        return Err(Mixes(if is_split {
            "splits the batch axis"
        } else {
            "works along the batch axis"
        }));
    }
    let shape = step.shape(0).ok_or(Unclear("splits a value of unknown shape"))?;
    let count = i64::try_from(step.outputs()).unwrap_or(i64::MAX);
    let sizes = if is_split { step.parameters("split", 1)? } else { None };
    let extent = |output: usize| match (&sizes, shape[axis], is_split) {
        (Some(sizes), ..) => sizes.get(output).map_or(Extent::Settled, |&size| Number(size)),
        (None, Number(extent), true) if extent % count == 0 => Number(extent / count),
        (None, ..) if is_split => Extent::Settled,
        _ => match (step.content(1), step.input(1)) {
            (Some(content), _) => content.items.first().copied().unwrap_or(Extent::Settled),
            (None, Some(fact)) if fact.counts => Extent::Other,
            (None, _) => Extent::Settled,
        },
    };
    let facts = (0..step.outputs()).map(|output| {
        let mut part = shape.clone();
        part[axis] = extent(output);
        Fact::rows(found.axis, found.block, part)
    });
    Ok(facts.collect())
}

fn recurrent(step: &Step<'_>) -> Result<Vec<Fact>, Halt> {
    const ALONG: Halt = Mixes("takes the batch axis for time");
    let shape = step.shape(0).ok_or(Unclear("takes a value of unknown shape"))?;
    let &[first_axis, second_axis, _] = &shape[..] else {
        // The runtime refuses any other rank, which is as good as extents that do not fit: models hold such branches.
        return Err(Halt::Impossible);
    };
    let is_batch_first = step.integer("layout", 0) == 1;
    let batch = usize::from(!is_batch_first);
    let (rows, time) = if is_batch_first {
        (first_axis, second_axis)
    } else {
        (second_axis, first_axis)
    };
    let found = step
        .input(0)
        .and_then(place)
        .ok_or(Unclear("takes rows by another input than its first"))?;
    if found.axis != batch {
        return Err(ALONG);
    }
    for position in 1..step.node().input.len() {
        let Some(fact) = step.input(position) else { continue };
        let wanted = match position {
            4 => Some(0),
            5 | 6 => Some(batch),
            _ => None,
        };
        match (place(fact), wanted) {
            (Some(other), Some(axis)) if other.axis == axis && other.block == found.block => {}
            (None, None) => {}
            (Some(_), Some(_)) => return Err(ALONG),
            (Some(_), None) => return Err(Unclear("takes rows where it expects weights")),
            (None, Some(_)) => return Err(Mixes("treats rows by their position in the batch")),
        }
    }
    let directions = if step.text("direction") == b"bidirectional" {
        2
    } else {
        1
    };
    let hidden = match step.integer("hidden_size", 0) {
        0 => Extent::Settled,
        size => Number(size),
    };
    let directions = Number(directions);
    let facts = (0..step.outputs()).map(|output| match (output, is_batch_first) {
        (0, false) => Fact::rows(2, found.block, Extents::from_slice(&[time, directions, rows, hidden])),
        (0, true) => Fact::rows(0, found.block, Extents::from_slice(&[rows, time, directions, hidden])),
        (_, false) => Fact::rows(1, found.block, Extents::from_slice(&[directions, rows, hidden])),
        (_, true) => Fact::rows(0, found.block, Extents::from_slice(&[rows, directions, hidden])),
    });
    Ok(facts.collect())
}
