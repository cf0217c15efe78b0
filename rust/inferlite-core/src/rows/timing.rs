//! How long a model takes for batches of some sizes, to begin with.

use std::sync::Arc;
use std::time::Duration;

use super::axes::BatchAxes;
use super::batch::{Piece, join, part};
use super::company::{Company, ROWS, Surroundings};
use super::probe::EXTENTS;
use super::{Demand, watch};
use crate::clock::Clock;
use crate::error::Result;
use crate::runtime::{Call, Engine, Feed, Input};

/// All runs together take no longer than this, unless two of them do.
const BUDGET: Duration = Duration::from_millis(50);
const SIZES: [usize; 4] = [1, 4, 16, 64];
/// After so many runs of a size the shortest is taken for the usual one.
const ROUNDS: usize = 12;

/// The inputs of a batch, and how long it took.
pub type Timed = (Vec<Feed>, Duration);

/// Times of batches of several sizes: the shortest of some runs. Fewer where runs take long, none where no run succeeds.
///
/// They end early once `check` fails, which is asked between two runs.
pub fn times(
    engine: &dyn Engine,
    axes: &BatchAxes,
    demand: &Demand<'_>,
    clock: &Clock,
    check: &dyn Fn() -> Result<()>,
) -> Vec<Timed> {
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
            Some(options) => watch::run(options, Some(watch::FIRST_LIMIT), check, || {
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
    let Some(rows) = rows else { return Vec::new() };
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
                Err(_) => return Vec::new(),
            }
        }
    }
    timed
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
    let resize = |feed: &Feed| {
        let value = match (&feed.value, layout.inputs[feed.index]) {
            (Input::Value(value), None) => value.clone(),
            (Input::Value(value), Some(axis)) => {
                let piece = Piece::of(value)?;
                Arc::new(if rows <= ROWS {
                    part(piece, axis, 0..rows)
                } else {
                    join(&vec![piece; rows.div_ceil(ROWS)], axis)?
                })
            }
            (Input::Tensor(_), _) => return None,
        };
        Some(Feed {
            index: feed.index,
            value: Input::Value(value),
        })
    };
    feeds.iter().map(resize).collect()
}
