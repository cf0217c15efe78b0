//! Trial runs: what a model gives for inputs that are filled up must be what it gives for them as they are.

use std::sync::Arc;
use std::time::Duration;

use super::{Lengths, Padding, Sizes, refused};
use crate::clock::Clock;
use crate::error::Result;
use crate::rows::axes::BatchAxes;
use crate::rows::batch::Piece;
use crate::rows::company::{Company, Surroundings};
use crate::rows::nearness::is_near;
use crate::rows::probe::EXTENTS;
use crate::rows::watch::{self, Failure};
use crate::rows::{Demand, Layout};
use crate::runtime::{Call, Engine, Feed, Input, Values};
use crate::tensor::Value;

/// Lengths from here on can be filled up.
const LEAST: usize = 2;
/// How long a run of longer inputs may take at least. It is to end what would go on for ever, and no more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Larger inputs are not tried out.
const MOST_BYTES: usize = 1 << 30;

/// Refuses padding that changes the outputs of a model, or that cannot be tried out.
///
/// Each length is filled up to its largest size, the others left as they are: one that belongs to another shows by a run
/// that fails. Trial runs end early once `check` fails.
pub(crate) fn run(
    engine: &dyn Engine,
    layout: &Layout,
    demand: &Demand<'_>,
    clock: &Clock,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    if layout.padding.is_empty() {
        return Ok(());
    }
    let bench = Bench {
        engine,
        axes: &layout.axes,
        padding: &layout.padding,
        demand,
        clock,
        check,
    };
    let seen = bench.first()?;
    (0..seen.lengths.len()).try_for_each(|number| bench.compare(&seen, number))
}

struct Bench<'a> {
    engine: &'a dyn Engine,
    axes: &'a BatchAxes,
    padding: &'a Padding,
    demand: &'a Demand<'a>,
    clock: &'a Clock,
    check: &'a dyn Fn() -> Result<()>,
}

/// Inputs as they are, and what the model gives for them.
struct Seen {
    feeds: Vec<Feed>,
    lengths: Lengths,
    outputs: Values,
    took: Duration,
}

impl Bench<'_> {
    /// The first run that the model accepts, of lengths that can be filled up.
    fn first(&self) -> Result<Seen> {
        let signature = self.engine.signature();
        let tried = |problem: String| {
            refused(format!(
                "`pad` cannot be tried out: {}; pass `example=` with inputs that the model accepts",
                problem.trim()
            ))
        };
        if let Some(feeds) = self.demand.example {
            let seen = Company::of_example(feeds, signature, self.axes).and_then(|company| self.seen(&company, None));
            return seen.map_err(tried);
        }
        let start = self.clock.now();
        // One that fits wherever one does.
        let most = self.padding.lengths().iter().map(super::Length::most).min();
        let fitting = most.and_then(|most| i64::try_from(most - 1).ok());
        let mut problem = "there is no input".to_owned();
        for extent in EXTENTS.into_iter().chain(fitting) {
            let seen = Company::invented_apart(signature, self.axes, extent)
                .and_then(|company| self.seen(&company, Some(watch::FIRST_LIMIT)));
            match seen {
                Ok(seen) => return Ok(seen),
                Err(failed) => problem = failed,
            }
            if (self.check)().is_err() || self.clock.now().saturating_sub(start) > watch::FIRST_LIMIT {
                break;
            }
        }
        Err(tried(problem))
    }

    fn seen(&self, company: &Company, limit: Option<Duration>) -> std::result::Result<Seen, String> {
        let feeds = company.batch(Surroundings::FIRST);
        let lengths = self
            .padding
            .of_call(&feeds)
            .ok_or("axes of one `Pad` have several lengths")?;
        for (length, &here) in std::iter::zip(self.padding.lengths(), &lengths) {
            let most = length.most() - 1;
            if !(LEAST..=most).contains(&here) {
                let title = self.title(length);
                return Err(format!(
                    "{title} would have {here} elements, but lengths from {LEAST} to {most} can be filled up"
                ));
            }
        }
        let start = self.clock.now();
        let outputs = self.outputs(&feeds, limit)?;
        let took = self.clock.now().saturating_sub(start);
        Ok(Seen {
            feeds,
            lengths,
            outputs,
            took,
        })
    }

    fn compare(&self, seen: &Seen, number: usize) -> Result<()> {
        let length = &self.padding.lengths()[number];
        let (here, most) = (seen.lengths[number], length.most());
        let sizes: Sizes = (0..seen.lengths.len())
            .map(|other| (other == number).then_some(most))
            .collect();
        let how = format!("{} padded from {here} to {most}", self.title(length));
        if let Some(feed) = seen.feeds.iter().find(|feed| self.is_too_large(feed, &sizes)) {
            let name = &self.engine.signature().inputs[feed.index].name;
            return Err(refused(format!(
                "input `{name}` is too large to be tried out with {how}"
            )));
        }
        let feeds: Vec<Feed> = seen.feeds.iter().map(|feed| self.filled(feed, &sizes)).collect();
        // Attention takes the square of the length.
        let times = u32::try_from(most.div_ceil(here)).unwrap_or(u32::MAX);
        let longer = watch::later_limit(seen.took).saturating_mul(times.saturating_mul(times));
        let outputs = self.outputs(&feeds, Some(longer.max(PATIENCE))).map_err(|problem| {
            refused(format!(
                "a trial run failed with {how}: {}; axes that are equally long in every call belong into one `Pad`",
                problem.trim()
            ))
        })?;
        let signature = self.engine.signature();
        for (index, (before, after)) in std::iter::zip(&seen.outputs, outputs).enumerate() {
            let name = &signature.outputs[index].name;
            let shape = after.shape().unwrap_or_default().to_vec();
            if Piece::of(&after).is_none_or(|piece| !self.padding.fits(index, piece, &sizes)) {
                return Err(refused(format!(
                    "output `{name}` has shape {shape:?} with {how}, which does not follow it as `outputs` of the `Pad` \
                     says"
                )));
            }
            let after = self.padding.cut(index, after, &seen.lengths, &sizes);
            if before.shape() != after.shape() {
                return Err(refused(format!(
                    "output `{name}` has shape {shape:?} with {how}, and {:?} without: name the axis that follows in \
                     `outputs` of the `Pad`",
                    before.shape().unwrap_or_default()
                )));
            }
            if !is_near(before, &after) {
                return Err(refused(format!(
                    "output `{name}` is another one with {how}: padding takes a model that ignores what it is filled up \
                     with, and perhaps a mask in the same `Pad`"
                )));
            }
        }
        Ok(())
    }

    fn filled(&self, feed: &Feed, sizes: &Sizes) -> Feed {
        let filled = Piece::fed(&feed.value).and_then(|piece| self.padding.fill(feed.index, piece, sizes));
        let value = match (&feed.value, filled) {
            (_, Some(value)) => Arc::new(value),
            (Input::Value(value), None) => value.clone(),
            // A company is made of values.
            (Input::Tensor(_), None) => Arc::new(Value::Absent),
        };
        Feed {
            index: feed.index,
            value: Input::Value(value),
        }
    }

    fn is_too_large(&self, feed: &Feed, sizes: &Sizes) -> bool {
        let bytes = Piece::fed(&feed.value).and_then(|piece| self.padding.bytes(feed.index, piece, sizes));
        bytes.is_none_or(|bytes| bytes > MOST_BYTES)
    }

    fn title(&self, length: &super::Length) -> String {
        let inputs = &self.engine.signature().inputs;
        let axes = length
            .inputs
            .iter()
            .map(|filled| format!("axis {} of input `{}`", filled.axis, inputs[filled.index].name));
        axes.collect::<Vec<_>>().join(" and ")
    }

    fn outputs(&self, feeds: &[Feed], limit: Option<Duration>) -> std::result::Result<Values, String> {
        let (engine, options) = (self.engine, self.demand.options);
        let work = move || {
            let fetches: Vec<usize> = (0..engine.signature().outputs.len()).collect();
            let call = Call {
                feeds,
                fetches: &fetches,
                options,
            };
            let outputs = engine.run(&call).map_err(|error| error.message().to_owned())?;
            Ok(outputs.into_values())
        };
        let Some(options) = options else { return work() };
        watch::run(options, limit, self.clock, self.check, work).map_err(|failure| match failure {
            Failure::Refused(problem) | Failure::Interrupted(problem) => problem,
        })
    }
}
