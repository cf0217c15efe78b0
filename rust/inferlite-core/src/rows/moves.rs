//! Operators that move elements, take some of them or join them, each in its own way.

use super::facts::{Extent, Extents, Halt, UNFIT, axis_of, product};
use super::operators::{COUNTS, Place, alone, first, place};
use super::shapes::{self, BEYOND};
use super::step::{Range, Step};
use Extent::Number;
use Halt::{Mixes, Unclear};

const POSITION: Halt = Mixes("treats rows by their position in the batch");
const TAKES: Halt = Mixes("takes rows by their position in the batch");
const WRITES: Halt = Mixes("writes to rows by their position in the batch");
const POINTS: Halt = Mixes("picks rows by what other rows say");

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
        "GatherND" => gathered_tuples(step),
        "EyeLike" => Err(POSITION),
        "Trilu" => triangular(step),
        "Scatter" | "ScatterElements" => scattered(step),
        "ScatterND" => scattered_tuples(step),
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
            axes.position(|axis| axis == Ok(found.axis)).ok_or(UNFIT)?
        }
    };
    Ok(Place { axis, ..found })
}

fn unsqueezed(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let axes = step.parameters("axes", 1)?.ok_or(UNFIT)?;
    let wide = rank + axes.len();
    let axes: Vec<usize> = axes.iter().map(|&axis| axis_of(axis, wide)).collect::<Result<_, _>>()?;
    let kept = (0..wide).filter(|axis| !axes.contains(axis)).nth(found.axis);
    Ok(Place {
        axis: kept.ok_or(UNFIT)?,
        ..found
    })
}

fn squeezed(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let axes = shapes::squeezed_axes(step, rank)?.ok_or(Mixes("removes the batch axis where it has one row"))?;
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
    let whole = found.block.map(Extent::Rows);
    let takes_all = |range: &Range| {
        let is_to_end = matches!(range.end, Number(BEYOND..)) || Some(range.end) == whole;
        range.start == Number(0) && range.step == 1 && is_to_end
    };
    if ranges.iter().any(|range| range.axis == found.axis && !takes_all(range)) {
        return Err(TAKES);
    }
    if ranges
        .iter()
        .any(|range| range.axis != found.axis && (range.start.counts_rows() || range.end.counts_rows()))
    {
        return Err(COUNTS);
    }
    Ok(found)
}

fn gathered_elements(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    let indices = step.input(1).and_then(place);
    if step.axis(0, rank)? == found.axis {
        Err(TAKES)
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
        None | Some(Number(1)) => Ok(Place { axis, ..found }),
        Some(Extent::Rows(block)) if found.block == Some(block) => Ok(Place { axis, ..found }),
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
    let found = places.find_map(|found| found).ok_or(UNFIT)?;
    for fact in step.inputs() {
        match place(fact) {
            Some(other) if other == found => {}
            Some(_) => return Err(Mixes("combines rows with other rows")),
            None => return Err(POSITION),
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
        (Some(found), None) if found.axis == axis => Err(TAKES),
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
        (Some(found), Some(_)) if found.axis == axis => Err(POINTS),
        _ => Err(Unclear("picks from rows by rows")),
    }
}

/// How many axes the tuples of indices go into.
fn length_of_tuples(step: &Step<'_>) -> Option<usize> {
    let length = step.shape(1)?.last()?.number()?;
    usize::try_from(length).ok()
}

fn gathered_tuples(step: &Step<'_>) -> Result<Place, Halt> {
    let data = step.input(0).and_then(place);
    let indices = step.input(1).and_then(place);
    let (Some(found), Some(length)) = (data, length_of_tuples(step)) else {
        return Err(Unclear("picks by tuples of unknown length"));
    };
    let shared = usize::try_from(step.integer("batch_dims", 0)).map_err(|_| UNFIT)?;
    let is_picked = (shared..shared + length).contains(&found.axis);
    Err(match (is_picked, indices) {
        (true, Some(_)) => POINTS,
        (true, None) => TAKES,
        (false, _) => Unclear("picks by tuples, which the analysis does not follow"),
    })
}

fn triangular(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = alone(step)?;
    if found.axis + 2 >= rank {
        Err(POSITION)
    } else {
        Ok(found)
    }
}

fn scattered(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, rank) = first(step)?;
    if step.axis(0, rank)? == found.axis || step.input(1).and_then(place).is_none() {
        Err(WRITES)
    } else if [1, 2].iter().all(|&at| step.input(at).and_then(place) == Some(found)) {
        Ok(found)
    } else {
        Err(Unclear("writes rows to other rows"))
    }
}

fn scattered_tuples(step: &Step<'_>) -> Result<Place, Halt> {
    let (found, _) = first(step)?;
    match length_of_tuples(step) {
        Some(length) if found.axis < length => Err(WRITES),
        _ => Err(Unclear("writes by tuples, which the analysis does not follow")),
    }
}
