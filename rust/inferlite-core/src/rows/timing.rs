//! How long a model takes for batches of some sizes, and how they round, to begin with.

use std::sync::Arc;
use std::time::Duration;

use super::axes::BatchAxes;
use super::batch::{Piece, extent, join, part};
use super::company::{Company, ROWS, Surroundings};
use super::nearness::distance;
use super::probe::EXTENTS;
use super::{Demand, watch};
use crate::clock::Clock;
use crate::error::Result;
use crate::runtime::{Call, Engine, Feed, Input};
use crate::tensor::Value;

/// All runs together take no longer than this, unless two of them do.
const BUDGET: Duration = Duration::from_millis(50);
const SIZES: [usize; 4] = [1, 4, 16, 64];
/// After so many runs of a size the shortest is taken for the usual one.
const ROUNDS: usize = 12;

/// The inputs of a batch, and how long it took.
type Timed = (Vec<Feed>, Duration);

/// What runs of some sizes have shown.
#[derive(Debug, Default)]
pub struct Measured {
    /// Batches of several sizes, each with the shortest of some runs. Fewer where runs take long.
    pub times: Vec<(Vec<Feed>, Duration)>,
    /// How far the outputs of rows by themselves are from those in the largest batch, as a part of the largest number of
    /// an output: another order of the same sums rounds in another way.
    pub rounding: Option<f64>,
}

/// Runs batches of several sizes; nothing comes of it where no run succeeds.
///
/// They end early once `check` fails, which is asked between two runs.
pub fn measure(
    engine: &dyn Engine,
    axes: &BatchAxes,
    demand: &Demand<'_>,
    clock: &Clock,
    check: &dyn Fn() -> Result<()>,
) -> Measured {
    let start = clock.now();
    let signature = engine.signature();
    let fetches: Vec<usize> = (0..signature.outputs.len()).collect();
    let run = |feeds: &[Feed]| {
        let call = Call {
            feeds,
            fetches: &fetches,
            options: demand.options,
        };
        let start = clock.now();
        check().and_then(|()| engine.run(&call).map(drop))?;
        Ok(clock.now().saturating_sub(start))
    };
    let first = |company: std::result::Result<Company, String>| {
        let rows = company.ok()?.batch(Surroundings::FIRST);
        let feeds = resized(&rows, axes, 1)?;
        // The first run of all is slow; it shows whether the model accepts these.
        let took: Result<Duration> = match demand.options {
            // What is made up may keep a loop going for ever.
            Some(options) => watch::run(options, Some(watch::FIRST_LIMIT), clock, check, || {
                run_alone(engine, &feeds, &fetches, options)
            })
            .map(|()| clock.now().saturating_sub(start))
            .map_err(|_| crate::error::Error::new(crate::error::ErrorKind::Fail, "no run succeeds")),
            None => run(&feeds),
        };
        took.ok().map(|_| rows)
    };
    let rows = match demand.example {
        Some(feeds) => first(Company::of_example(feeds, signature, axes)),
        None => EXTENTS
            .iter()
            .find_map(|&unknown| first(Company::invented(signature, axes, unknown))),
    };
    let Some(rows) = rows else {
        return Measured::default();
    };
    let mut timed: Vec<Timed> = Vec::new();
    let left = || BUDGET.saturating_sub(clock.now().saturating_sub(start));
    for size in SIZES {
        let Some(feeds) = resized(&rows, axes, size) else { break };
        // Four times the rows take at most about four times as long, and the first run of a size is slow.
        let is_affordable = timed.last().is_none_or(|(_, took)| *took * 8 < left());
        if !is_affordable {
            break;
        }
        let Ok(took) = run(&feeds) else { break };
        timed.push((feeds, took));
    }
    for _ in 1..ROUNDS {
        for (feeds, shortest) in &mut timed {
            if *shortest > left() {
                continue;
            }
            match run(feeds) {
                Ok(took) => *shortest = took.min(*shortest),
                Err(_) => return Measured::default(),
            }
        }
    }
    let rounding = match timed.last() {
        Some((batch, took)) if timed.len() > 1 && *took < left() => rounding(engine, axes, demand, &rows, batch),
        _ => None,
    };
    Measured { times: timed, rounding }
}

/// How far rows by themselves are from the same rows in a batch.
fn rounding(
    engine: &dyn Engine,
    layout: &BatchAxes,
    demand: &Demand<'_>,
    rows: &[Feed],
    batch: &[Feed],
) -> Option<f64> {
    let fetches: Vec<usize> = (0..engine.signature().outputs.len()).collect();
    let row_of = |feeds: &[Feed], index: usize| {
        let call = Call {
            feeds,
            fetches: &fetches,
            options: demand.options,
        };
        let outputs = engine.run(&call).ok()?;
        let row = std::iter::zip(outputs.pieces(), &layout.outputs).map(|(piece, axis)| {
            let (piece, axis) = (piece?, (*axis)?);
            let rows = extent(piece, axis)?;
            (index < rows).then(|| part(piece, axis, index..index + 1))
        });
        row.collect::<Option<Vec<Value>>>()
    };
    let mut most: Option<f64> = None;
    for index in 0..ROWS {
        let (alone, together) = (row_of(&taken(rows, layout, index)?, 0)?, row_of(batch, index)?);
        let distances = std::iter::zip(&alone, &together).filter_map(|(alone, together)| distance(alone, together));
        most = most.into_iter().chain(distances).reduce(f64::max);
    }
    most
}

/// One of the rows by itself.
fn taken(feeds: &[Feed], layout: &BatchAxes, row: usize) -> Option<Vec<Feed>> {
    with_rows(feeds, layout, |piece, axis| Some(part(piece, axis, row..row + 1)))
}

fn run_alone(
    engine: &dyn Engine,
    feeds: &[Feed],
    fetches: &[usize],
    options: &crate::runtime::ort::RunOptions,
) -> std::result::Result<(), String> {
    let call = Call {
        feeds,
        fetches,
        options: Some(options),
    };
    engine.run(&call).map(drop).map_err(|error| error.message().to_owned())
}

/// The same inputs with so many rows.
fn resized(feeds: &[Feed], layout: &BatchAxes, rows: usize) -> Option<Vec<Feed>> {
    with_rows(feeds, layout, |piece, axis| {
        if rows <= ROWS {
            Some(part(piece, axis, 0..rows))
        } else {
            join(&vec![piece; rows.div_ceil(ROWS)], axis)
        }
    })
}

/// The same inputs with other rows.
fn with_rows(
    feeds: &[Feed],
    layout: &BatchAxes,
    rows: impl Fn(Piece<'_>, usize) -> Option<Value>,
) -> Option<Vec<Feed>> {
    let change = |feed: &Feed| {
        let Input::Value(value) = &feed.value else { return None };
        let value = match layout.inputs[feed.index] {
            None => value.clone(),
            Some(axis) => Arc::new(rows(Piece::of(value)?, axis)?),
        };
        Some(Feed {
            index: feed.index,
            value: Input::Value(value),
        })
    };
    feeds.iter().map(change).collect()
}
