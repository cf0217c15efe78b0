//! Values that no row has any influence on: shapes, and what is computed from them and from constants.

use super::facts::{Content, Extent, Extents, Fact, Halt, UNFIT, axis_of, product};
use super::step::Step;
use crate::tensor::Dtype;
use Extent::{Number, Other, Rows, Settled};

/// Contents of more elements are not followed.
const MOST_ITEMS: usize = 1024;

/// What a node gives whose inputs say nothing of any row.
pub(super) fn outcome(step: &Step<'_>) -> Result<Vec<Fact>, Halt> {
    if let Some(fact) = filled(step) {
        return Ok(vec![fact]);
    }
    if let Some(content) = folded(step)? {
        return Ok(vec![Fact::known(content)]);
    }
    let counts = step.inputs().any(|input| input.counts);
    if matches!(step.operator(), "Shape" | "Size") {
        // Nothing is known of the shape, so it may hold the number of rows.
        return Ok(vec![Fact::free(None, true)]);
    }
    let shape = super::shapes::outcome(step)?;
    Ok((0..step.outputs())
        .map(|output| Fact::free(shape.clone().filter(|_| output == 0), counts))
        .collect())
}

/// A constant that was spread over the rows: the same for each.
fn filled(step: &Step<'_>) -> Option<Fact> {
    let (source, target) = match step.operator() {
        "ConstantOfShape" => (None, step.content(0)?.items.clone()),
        "Expand" => (Some(step.input(0)?), step.content(1)?.items.clone()),
        "Tile" => {
            let source = step.input(0)?;
            let repeats = &step.content(1)?.items;
            let shape = source.shape.as_ref().filter(|shape| shape.len() == repeats.len())?;
            (
                Some(source),
                std::iter::zip(shape, repeats).map(|(a, b)| a.times(*b)).collect(),
            )
        }
        _ => return None,
    };
    let own = match source {
        None => Extents::new(),
        Some(source) if !source.counts => source.shape.clone()?,
        Some(_) => return None,
    };
    let rank = target.len().max(own.len());
    let from_end = |extents: &Extents, position: usize| {
        (extents.len() + position)
            .checked_sub(rank)
            .map_or(Number(1), |at| extents[at])
    };
    let shape: Option<Extents> = (0..rank)
        .map(
            |position| match (from_end(&own, position), from_end(&target, position)) {
                (Number(1), wanted) => Some(wanted),
                (known, Number(1)) => Some(known),
                (known, wanted) if known == wanted => Some(known),
                _ => None,
            },
        )
        .collect();
    let shape = shape?;
    let counted: Vec<usize> = (0..rank).filter(|&axis| shape[axis].counts_rows()).collect();
    match counted[..] {
        [axis] if from_end(&own, axis) == Number(1) => {
            let Rows(block) = shape[axis] else { return None };
            Some(Fact::rows(axis, Some(block), shape))
        }
        _ => None,
    }
}

/// The content of what a node gives, if that of its inputs is known.
fn folded(step: &Step<'_>) -> Result<Option<Content>, Halt> {
    let first = || step.content(0).cloned();
    let content = match step.operator() {
        "Constant" => constant(step),
        "Shape" => return Ok(step.input(0).and_then(|input| shape_of(step, input))),
        "Size" => step
            .input(0)
            .and_then(|input| Some(Content::scalar(product(input.shape.as_ref()?)))),
        "Identity" => first(),
        "Cast" => {
            first().and_then(
                |content| match Dtype::from_proto(i32::try_from(step.integer("to", 0)).unwrap_or(0)) {
                    Dtype::Bool => Some(truth(content)),
                    dtype @ (Dtype::Int32 | Dtype::Int64 | Dtype::Uint32 | Dtype::Uint64) => {
                        Some(Content { dtype, ..content })
                    }
                    // A division of fractions is not that of integers.
                    _ => None,
                },
            )
        }
        "Not" => first().map(|content| each(content, |item| item.equals(Number(0)))),
        "Neg" => first().map(|content| each(content, |item| Number(0).minus(item))),
        "Add" => pairs(step, Extent::plus),
        "Sub" => pairs(step, Extent::minus),
        "Mul" => pairs(step, Extent::times),
        "Div" => pairs(step, Extent::divided_by),
        "Equal" => pairs(step, Extent::equals).map(|content| Content {
            dtype: Dtype::Bool,
            ..content
        }),
        "Unsqueeze" | "Squeeze" | "Reshape" | "Flatten" => first().and_then(|content| {
            let shape = super::shapes::outcome(step).ok()??;
            let dims: Option<_> = shape
                .iter()
                .map(|extent| usize::try_from(extent.number()?).ok())
                .collect();
            let dims: smallvec::SmallVec<[usize; 2]> = dims?;
            let count = dims
                .iter()
                .try_fold(1_usize, |count, &extent| count.checked_mul(extent));
            (count == Some(content.items.len())).then_some(Content { dims, ..content })
        }),
        "Where" => chosen(step),
        "Concat" => concat(step)?,
        "Gather" => gather(step)?,
        "Slice" => slice(step)?,
        "Transpose" => first().and_then(|content| transpose(step, content)),
        "ConstantOfShape" => constant_of_shape(step),
        "Range" => range(step),
        _ => None,
    };
    Ok(content.filter(|content| content.items.len() <= MOST_ITEMS && content.fits()))
}

/// The shape of a value, as `Shape` gives it.
fn shape_of(step: &Step<'_>, input: &Fact) -> Option<Content> {
    let shape = input.shape.as_ref()?;
    let rank = i64::try_from(shape.len()).ok()?;
    let at = |name, default| {
        let position = step.integer(name, default);
        let position = if position < 0 { position + rank } else { position };
        usize::try_from(position.clamp(0, rank)).unwrap_or(0)
    };
    let (start, end) = (at("start", 0), at("end", rank));
    Some(Content::list(Extents::from_slice(shape.get(start..end.max(start))?)))
}

fn constant(step: &Step<'_>) -> Option<Content> {
    let attribute = step.node().attribute.first()?;
    match attribute.name.as_str() {
        "value" => Content::of_weight(attribute.t.as_ref()?),
        "value_int" => Some(Content::scalar(Number(attribute.i))),
        "value_ints" => Some(Content::list(attribute.ints.iter().copied().map(Number).collect())),
        _ => None,
    }
}

fn each(content: Content, compute: impl Fn(Extent) -> Extent) -> Content {
    Content {
        items: content.items.into_iter().map(compute).collect(),
        ..content
    }
}

fn truth(content: Content) -> Content {
    let content = Content {
        dtype: Dtype::Bool,
        ..content
    };
    each(content, |item| match item.equals(Number(0)) {
        Number(is_zero) => Number(1 - is_zero),
        other => other,
    })
}

/// Whether a tensor is repeated as a whole to fill these dimensions, or fills them as it is.
fn fills(content: &Content, dims: &[usize]) -> bool {
    content.dims[..] == *dims || (content.items.len() == 1 && content.dims.len() <= dims.len())
}

/// The dimensions that tensors have together of which all but one shape are single numbers.
fn widest<'c>(contents: &[&'c Content]) -> Option<&'c [usize]> {
    let widest = contents
        .iter()
        .max_by_key(|content| (content.items.len(), content.dims.len()))?;
    let are_filled = contents.iter().all(|content| fills(content, &widest.dims));
    are_filled.then_some(&widest.dims)
}

fn item(content: &Content, position: usize) -> Extent {
    content.items[if content.items.len() == 1 { 0 } else { position }]
}

/// Combines two tensors, one of which may be a single number.
fn pairs(step: &Step<'_>, compute: impl Fn(Extent, Extent) -> Extent) -> Option<Content> {
    let (a, b) = (step.content(0)?, step.content(1)?);
    let dims = widest(&[a, b]).filter(|_| a.dtype == b.dtype)?;
    let count = a.items.len().max(b.items.len());
    Some(Content {
        dtype: a.dtype,
        dims: dims.into(),
        items: (0..count)
            .map(|position| compute(item(a, position), item(b, position)))
            .collect(),
    })
}

/// Elements of either of two lists of one length, or of two numbers: what converters write to leave an extent as it is.
fn chosen(step: &Step<'_>) -> Option<Content> {
    let (condition, yes, no) = (step.content(0)?, step.content(1)?, step.content(2)?);
    let dims = widest(&[condition, yes, no]).filter(|_| yes.dtype == no.dtype)?;
    let count = dims.iter().product();
    let items = (0..count).map(|position| {
        let (yes, no) = (item(yes, position), item(no, position));
        match item(condition, position) {
            Number(0) => no,
            Number(_) => yes,
            _ if yes == no && yes != Other => yes,
            condition => condition.vaguely(yes).vaguely(no),
        }
    });
    Some(Content {
        dtype: yes.dtype,
        dims: dims.into(),
        items: items.collect(),
    })
}

fn concat(step: &Step<'_>) -> Result<Option<Content>, Halt> {
    let mut items = Extents::new();
    let mut dtype = Dtype::Undefined;
    for position in 0..step.node().input.len() {
        let Some(content) = step.content(position) else {
            return Ok(None);
        };
        if content.dims.len() != 1 {
            return Ok(None);
        }
        dtype = content.dtype;
        axis_of(step.integer("axis", 0), 1)?;
        items.extend(content.items.iter().copied());
    }
    Ok(Some(Content {
        dtype,
        ..Content::list(items)
    }))
}

fn gather(step: &Step<'_>) -> Result<Option<Content>, Halt> {
    let (Some(data), Some(indices)) = (step.content(0), step.content(1)) else {
        return Ok(None);
    };
    let Some(numbers) = indices.numbers().filter(|_| data.dims.len() == 1) else {
        return Ok(None);
    };
    let items = numbers
        .iter()
        .map(|&index| Ok(data.items[axis_of(index, data.items.len())?]));
    Ok(Some(Content {
        dtype: data.dtype,
        dims: indices.dims.clone(),
        items: items.collect::<Result<_, Halt>>()?,
    }))
}

/// Where a slice begins, how many it takes, and how far apart.
pub(super) fn sliced(start: i64, end: i64, step: i64, extent: i64) -> Option<(i64, i64, i64)> {
    if step == 0 || extent < 0 {
        return None;
    }
    if extent == 0 {
        return Some((0, 0, step));
    }
    let counted = |at: i64| if at < 0 { at.saturating_add(extent) } else { at };
    let (start, end) = (counted(start), counted(end));
    let (start, end) = if step > 0 {
        (start.clamp(0, extent), end.clamp(0, extent))
    } else {
        (start.clamp(0, extent - 1), end.clamp(-1, extent - 1))
    };
    let distance = if step > 0 { end - start } else { start - end };
    let stride = step.checked_abs()?;
    Some((start, distance.max(0).saturating_add(stride - 1) / stride, step))
}

fn slice(step: &Step<'_>) -> Result<Option<Content>, Halt> {
    let Some(data) = step.content(0) else { return Ok(None) };
    let Some(ranges) = step.slices(data.dims.len())? else {
        return Ok(None);
    };
    let mut content = data.clone();
    for range in ranges {
        let (Some(start), Some(end)) = (range.start.number(), range.end.number()) else {
            return Ok(None);
        };
        let extent = i64::try_from(content.dims[range.axis]).unwrap_or(i64::MAX);
        let Some((start, count, stride)) = sliced(start, end, range.step, extent) else {
            return Ok(None);
        };
        let inner: usize = content.dims[range.axis + 1..].iter().product();
        let outer: usize = content.dims[..range.axis].iter().product();
        let mut items = Extents::new();
        for block in 0..outer {
            for picked in 0..count {
                let at = usize::try_from(start + picked * stride).map_err(|_| UNFIT)?;
                let first = (block * content.dims[range.axis] + at) * inner;
                items.extend(content.items[first..first + inner].iter().copied());
            }
        }
        content.dims[range.axis] = usize::try_from(count).unwrap_or(0);
        content.items = items;
    }
    Ok(Some(content))
}

/// Of two axes at most: what computes shapes needs no more.
fn transpose(step: &Step<'_>, content: Content) -> Option<Content> {
    match (&content.dims[..], step.integers("perm").as_deref()) {
        ([] | [_], _) | ([_, _], Some([0, 1])) => Some(content),
        (&[high, wide], None | Some([1, 0])) => {
            let items = (0..wide).flat_map(|x| (0..high).map(move |y| (y, x)));
            Some(Content {
                dtype: content.dtype,
                dims: [wide, high].into(),
                items: items.map(|(y, x)| content.items[y * wide + x]).collect(),
            })
        }
        _ => None,
    }
}

fn constant_of_shape(step: &Step<'_>) -> Option<Content> {
    let dims = step.content(0)?.numbers()?;
    let (dtype, value) = match step.tensor("value") {
        None => (Dtype::Float32, Settled),
        Some(weight) => (
            Dtype::from_proto(weight.data_type),
            weight
                .integers()
                .and_then(|numbers| numbers.first().copied())
                .map_or(Settled, Number),
        ),
    };
    let dims: smallvec::SmallVec<[usize; 2]> = dims
        .iter()
        .map(|&extent| usize::try_from(extent).ok())
        .collect::<Option<_>>()?;
    let count = dims
        .iter()
        .try_fold(1_usize, |count, &extent| count.checked_mul(extent))?;
    (count <= MOST_ITEMS).then(|| Content {
        dtype,
        dims,
        items: Extents::from_elem(value, count),
    })
}

fn range(step: &Step<'_>) -> Option<Content> {
    let number = |position| {
        step.content(position)
            .and_then(|content| content.items.first()?.number())
    };
    let (start, end, stride) = (number(0)?, number(1)?, number(2)?);
    if stride <= 0 || end.checked_sub(start)? / stride > 1024 {
        return None;
    }
    let mut items = Extents::new();
    let mut next = Some(start);
    while let Some(at) = next.filter(|&at| at < end) {
        items.push(Number(at));
        next = at.checked_add(stride);
    }
    Some(Content {
        dtype: step.content(0)?.dtype,
        ..Content::list(items)
    })
}

/// What a range of the runtime's own length looks like: `0, 1, 2, ...` up to the number of rows.
pub(super) fn length_of_range(step: &Step<'_>) -> Extent {
    let item = |position| {
        step.content(position)
            .and_then(|content| content.items.first().copied())
    };
    match (item(0), item(1), item(2)) {
        (Some(Number(0)), Some(end), Some(Number(1))) => end,
        _ if step.inputs().any(|input| input.counts) => Other,
        _ => Settled,
    }
}
