//! Operators that move elements, take some of them or join them, each in its own way.

use super::facts::{Extent, Extents, Halt, axis_of, product};
use super::operators::{Place, alone, first, place};
use super::shapes::{self, BEYOND};
use super::step::{Range, Step};
use Extent::Number;
use Halt::{Impossible, Mixes, Unclear};

/// Where the rows are after a node that moves, takes or joins elements.
pub(super) fn outcome(step: &Step<'_>) -> Result<Place, Halt> {
    match step.operator() {
        "Compress" | "NonMaxSuppression" | "NonZero" | "Unique" => {
            Err(Mixes("gives as many values as the rows together hold"))
        }
        "DynamicQuantizeLinear" => Err(Mixes("scales by the largest value of the batch")),
        "Concat" => concatenated(step),
        "Transpose" => transposed(step),
        "Unsqueeze" => unsqueezed(step),
        "Squeeze" => squeezed(step),
        "Flatten" | "Reshape" => reshaped(step),
        "Slice" => sliced(step),
        "Gather" => gathered(step),
        "GatherElements" => gathered_elements(step),
        "Expand" => expanded(step),
        "Tile" => tiled(step),
        "Pad" => padded(step),
        "OneHot" => {
            let (found, rank) = alone(step)?;
            let new = axis_of(step.integer("axis", -1), rank + 1)?;
            Ok(Place {
                axis: found.axis + usize::from(new <= found.axis),
                ..found
            })
        }
        // Their contents are known wherever the shape is.
        "Shape" | "Size" => Err(Unclear("measures a value of unknown shape")),
        _ => Err(Unclear("takes rows where it expects none")),
    }
}

fn concatenated(step: &Step<'_>) -> Result<Place, Halt> {
    let found = together_alike(step)?;
    let rank = step.rank(0).ok_or(Unclear("joins values of unknown rank"))?;
    if step.axis(1, rank)? == found.axis {
        Err(Mixes("joins values along the batch axis"))
    } else {
        Ok(found)
    }
}

fn transposed(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let perm = step.integers("perm");
    let axis = match perm {
        None => rank - 1 - found.axis,
        Some(perm) => {
            let mut axes = perm.iter().map(|&axis| axis_of(axis, rank));
            axes.position(|axis| axis == Ok(found.axis)).ok_or(Impossible)?
        }
    };
    Ok(Place { axis, ..found })
}

fn unsqueezed(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let axes = step.parameters("axes", 1)?.ok_or(Impossible)?;
    let wide = rank + axes.len();
    let axes: Vec<usize> = axes.iter().map(|&axis| axis_of(axis, wide)).collect::<Result<_, _>>()?;
    let kept = (0..wide).filter(|axis| !axes.contains(axis)).nth(found.axis);
    Ok(Place {
        axis: kept.ok_or(Impossible)?,
        ..found
    })
}

fn squeezed(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let axes = step
        .axes("axes", 1, rank)?
        .ok_or(Mixes("removes the batch axis where it has one row"))?;
    if axes.contains(&found.axis) {
        return Err(Mixes("removes the batch axis"));
    }
    let before = axes.iter().filter(|&&axis| axis < found.axis).count();
    Ok(Place {
        axis: found.axis - before,
        ..found
    })
}

fn sliced(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let ranges = step
        .slices(rank)?
        .ok_or(Unclear("takes a part that is not known before the run"))?;
    let takes_all = |range: &Range| {
        range.start == Number(0) && range.step == 1 && matches!(range.end, Number(end) if end >= BEYOND)
            || (range.start == Number(0) && range.step == 1 && range.end == Extent::Rows(1))
    };
    if ranges.iter().any(|range| range.axis == found.axis && !takes_all(range)) {
        return Err(Mixes("takes rows by their position in the batch"));
    }
    if ranges
        .iter()
        .any(|range| range.axis != found.axis && (range.start.counts_rows() || range.end.counts_rows()))
    {
        return Err(Mixes("computes with the number of rows"));
    }
    Ok(found)
}

fn gathered_elements(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let indices = step.input(1).and_then(place);
    if step.axis(0, rank)? == found.axis {
        Err(Mixes("takes rows by their position in the batch"))
    } else if indices == Some(found) {
        Ok(found)
    } else {
        Err(Unclear("takes the same elements of several rows"))
    }
}

fn expanded(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let target = &step
        .content(1)
        .ok_or(Unclear("takes a shape that is not known before the run"))?
        .items;
    let wide = target.len().max(rank);
    let axis = found.axis + wide - rank;
    match (axis + target.len()).checked_sub(wide).map(|at| target[at]) {
        None | Some(Number(1) | Extent::Rows(_)) => Ok(Place { axis, ..found }),
        Some(_) => Err(Unclear("expands the batch axis")),
    }
}

fn tiled(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, _) = first(step)?;
    let repeats = step
        .content(1)
        .ok_or(Unclear("takes a number that is not known before the run"))?;
    match repeats.items.get(found.axis) {
        Some(Number(1)) => Ok(found),
        _ => Err(Mixes("repeats the batch axis")),
    }
}

fn padded(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let given = step
        .integers("pads")
        .map(|pads| pads.into_iter().map(Number).collect::<Extents>());
    let pads = given.or_else(|| step.content(1).map(|content| content.items.clone()));
    let pads = pads.ok_or(Unclear("takes a number that is not known before the run"))?;
    let is_all = step.input(3).is_none() && pads.len() == 2 * rank;
    match is_all.then(|| [pads[found.axis], pads[rank + found.axis]]) {
        Some([Number(0), Number(0)]) => Ok(found),
        Some(_) => Err(Mixes("pads the batch axis")),
        None => Err(Unclear("pads axes that are not known before the run")),
    }
}

/// Values that are joined: all hold rows on the same axis.
fn together_alike(step: &Step<'_>) -> Result<Place, Halt> {
    let mut places = step.inputs().map(place);
    let found = places.find_map(|found| found).ok_or(Impossible)?;
    for fact in step.inputs() {
        match place(fact) {
            Some(other) if other == found => {}
            Some(_) => return Err(Mixes("combines rows with other rows")),
            None => return Err(Mixes("treats rows by their position in the batch")),
        }
    }
    Ok(found)
}

/// A reshape keeps the rows apart if nothing but ones comes before them, on either side.
fn reshaped(step: &Step<'_>) -> Result<Place, Halt> {
    const SHAPE: Halt = Unclear("moves rows in a way that the analysis does not follow");
    let (found, _) = first(step)?;
    let shape = step.shape(0).ok_or(SHAPE)?;
    let given = step.content(1).map(|content| &content.items);
    if step.operator() == "Reshape" && given.is_none() {
        return Err(Unclear("takes a shape that is not known before the run"));
    }
    let target = shapes::outcome(step)?.ok_or(SHAPE)?;
    let ones = |extents: &[Extent]| extents.iter().take_while(|extent| **extent == Number(1)).count();
    if ones(&shape[..found.axis]) < found.axis {
        // The rows may stay where they are behind axes that stay as well.
        let is_kept = target.len() > found.axis
            && target[..=found.axis] == shape[..=found.axis]
            && !shape[..=found.axis].contains(&Extent::Other)
            && !shape[..=found.axis].contains(&Extent::Settled);
        return if is_kept { Ok(found) } else { Err(SHAPE) };
    }
    let axis = ones(&target);
    let Some(extent) = target.get(axis) else {
        return Err(SHAPE);
    };
    let inner = found
        .block
        .map_or(Extent::Settled, Number)
        .times(product(&shape[found.axis + 1..]));
    let rest = product(&target[axis + 1..]);
    let known = shape[found.axis + 1..].iter().filter_map(|extent| extent.number());
    let known = known
        .chain(found.block)
        .try_fold(1_i64, i64::checked_mul)
        .ok_or(SHAPE)?;
    let block = match (extent, inner, rest) {
        (Extent::Rows(block), ..) => Some(*block),
        // As many elements a row as before: what the others do not take is on this axis.
        (_, Number(inner), Number(rest)) if rest > 0 && inner % rest == 0 => Some(inner / rest),
        // Whole rows are on it wherever what is known of a row is enough to fill the others.
        (Extent::Other | Extent::Settled, _, Number(rest)) if rest > 0 && known % rest == 0 => None,
        (Number(_), ..) => return Err(Mixes("has a batch axis of a fixed extent")),
        _ => return Err(SHAPE),
    };
    Ok(Place { axis, block })
}

fn gathered(step: &Step<'_>) -> Result<Place, Halt> {
    const RANK: Halt = Unclear("picks from a value of unknown rank");
    let rank = step.rank(0).ok_or(RANK)?;
    let axis = step.axis(0, rank)?;
    let (data, indices) = (step.input(0).and_then(place), step.input(1).and_then(place));
    match (data, indices) {
        (Some(found), None) if found.axis == axis => Err(Mixes("takes rows by their position in the batch")),
        (Some(found), None) => {
            let own = step.rank(1).ok_or(RANK)?;
            let is_before = axis < found.axis;
            Ok(Place {
                axis: if is_before { found.axis + own - 1 } else { found.axis },
                ..found
            })
        }
        (None, Some(found)) => Ok(Place {
            axis: axis + found.axis,
            ..found
        }),
        _ => Err(Unclear("picks from rows by rows")),
    }
}
