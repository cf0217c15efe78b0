//! Micro-batching: calls that come while the model runs leave together when it is free again.
//!
//! ```text
//!   a call ---> gate: is a run to be had, and does nobody wait? --yes--> it runs at once, on its own thread
//!                 | no
//!                 v
//!              queue (pure decisions) <--- whoever ends a run serves it: forms the next batch, and
//!                                          calls one of its threads to lead it, or a worker if none waits
//! ```
//!
//! Nobody dispatches: a lone call pays one atomic operation to come in and one to go out ([`gate`]), and a thread that
//! leads runs one batch, its own, then serves the queue and returns. Two rules keep wake-ups from getting lost: whoever
//! joins the queue says so in the gate's word before looking for room; whoever goes out reads the same word. Calls that
//! an event loop brings together pass the gate as one batch, if they can ([`at_once`]).
//!
//! A batch that fails is halved until the culprit is alone, which then gets the error of a lone run: one culprit among n
//! costs about `2 log n` runs where one by one would cost n. A panic is everybody's error at once: to run into it again
//! would be no better. Outputs that do not have the rows that were asked for show that calls of this kind cannot be put
//! together, which is remembered.

mod at_once;
mod errands;
mod gate;
mod gather;
mod kind;
mod lead;
mod line;
mod queue;
#[cfg(all(test, feature = "shuttle"))]
mod schedules;
#[cfg(test)]
mod scripted;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
mod tuning;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub use tuning::Line;

pub(crate) use line::Request;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::flight::Leader;
use crate::model::Model;
use crate::question::Question;
use crate::rows::{Layout, Measured};
use crate::runtime::{Call, Feed};
use crate::stats::{Latency, LatencySummary};
use crate::sync::{Condvar, Mutex, locked};
use crate::threads;
use crate::workers::Workers;
use gate::{Gate, MOST_RUNS};
use kind::Kind;
use queue::{Forming, Member, Queue, Why};
use tuning::{Goal, Tuning};

/// So many kinds whose outputs cannot be split are remembered one by one; after that no calls are put together.
const MOST_APART: usize = 1024;

/// With each batch this part of the company that was seen is forgotten.
const FORGETTING: usize = 16;

/// How a model is batched.
#[derive(Debug, Clone, Copy)]
pub struct BatchSettings {
    /// The most rows of a batch, a larger call apart; `None` to choose by the times of runs.
    pub max_rows: Option<usize>,
    /// How long a call waits for company.
    pub max_delay: Duration,
    /// How many rows may wait; a call that is larger needs the queue for itself.
    pub max_queue: usize,
    /// How many runs may be under way at once.
    pub instances: usize,
    /// How long a call should take at most, as far as the size of batches decides about that.
    pub target_latency: Option<Duration>,
}

/// What one call says of its turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// Higher ones leave first; to wait while a whole batch leaves counts as one.
    pub priority: i32,
    /// The time of the model's clock by which the answer must be there.
    pub deadline: Option<Duration>,
}

/// How long a run took.
#[derive(Debug, Clone, Copy)]
struct Time {
    workload: u64,
    rows: usize,
    took: Duration,
}

/// What is known of a model's runs before it is called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    times: Vec<Time>,
    rounding: Option<f64>,
}

/// A call that waits.
#[derive(Debug)]
struct Item {
    question: Arc<Question>,
    leader: Leader,
    /// The model, where whoever asks does not wait in a thread that could lead.
    away: Option<Arc<Model>>,
}

type Batch = Forming<Kind, Item>;

type Apart = HashSet<u64, foldhash::fast::RandomState>;

/// Combines the calls of one model.
#[derive(Debug)]
pub(crate) struct Batcher {
    gate: Gate,
    state: Mutex<State>,
    /// Wakes the one who watches the windows of those who do not wait themselves.
    windows: Condvar,
    /// How long a call waits for company, where that is asked for.
    max_delay: Option<Duration>,
    layout: Layout,
    clock: Clock,
    /// Lead batches of which no member waits in a thread; they do nothing else, so that a batch never waits for them.
    workers: Workers,
    /// How far rows in a batch were from rows by themselves.
    rounding: Option<f64>,
    /// Whether batches were found not to pay, so that all calls run at once.
    is_off: bool,
    queue_time: Latency,
    compute_time: Latency,
}

#[derive(Debug)]
struct State {
    queue: Queue<Kind, Item>,
    /// Batches whose leader has been called and has not come yet, by the place of whoever that is.
    appointed: Vec<(queue::Place, Batch)>,
    tuning: Tuning,
    /// How many rows left last.
    left_last: usize,
    /// How many rows are answered just now: their callers may be about to call again.
    returning: usize,
    /// The most rows that were there at once of late: those that waited, and those that were answered just then.
    company: usize,
    /// Kinds of calls that cannot be put together.
    apart: Apart,
    is_closed: bool,
    has_watchman: bool,
    counts: Counts,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    idle: u64,
    full: u64,
    delay: u64,
    deadline: u64,
    sizes: BTreeMap<usize, u64>,
    dropped: u64,
    refused: u64,
    retried: u64,
}

/// What a batcher has counted, and how it stands.
#[derive(Debug, Clone, Default)]
pub struct BatchSummary {
    /// Calls that ran at once and by themselves, without standing in line.
    pub lone: u64,
    /// Batches that left because the model was free.
    pub idle: u64,
    /// Batches that left because there was no room for more.
    pub full: u64,
    /// Batches that left because the time to wait for company was over.
    pub delay: u64,
    /// Batches that left because a member could not wait any longer.
    pub deadline: u64,
    /// How many batches had so many rows; in order.
    pub sizes: Vec<(usize, u64)>,
    /// How long calls stood in line, those that ran at once as not at all.
    pub queue_time: LatencySummary,
    /// How long the runs of batches took.
    pub compute_time: LatencySummary,
    /// Calls that left before their run: their time was over, or their caller gone.
    pub dropped: u64,
    /// Calls that were refused because the queue was full.
    pub refused: u64,
    /// Runs of parts of batches that had failed.
    pub retried: u64,
    /// Calls that wait now.
    pub queued_calls: usize,
    /// Rows that wait now.
    pub queued_rows: usize,
    /// Runs under way now.
    pub running: u64,
    /// How many rows a batch of calls holds at most, with the shapes that ran last.
    pub max_rows: usize,
    /// The times of runs, for the shapes that ran last, if they are known.
    pub line: Option<Line>,
    /// How far rows in a batch were from rows by themselves when the model was loaded, as a part of the largest number of an
    /// output; `None` where nothing rounds, or nothing was measured.
    pub rounding: Option<f64>,
    /// Whether batches do not pay for this model, so that every call runs at once.
    pub is_off: bool,
}

impl State {
    /// How many rows of a kind are worth a run.
    fn limit(tuning: &Tuning, apart: &Apart, kind: &Kind) -> usize {
        if can_be_joined(apart, kind) {
            tuning.limit(kind.workload())
        } else {
            1
        }
    }

    /// How many rows a batch of a kind holds at most, where so many are there at once.
    fn room(tuning: &Tuning, apart: &Apart, kind: &Kind, company: usize) -> usize {
        if can_be_joined(apart, kind) {
            tuning.room(kind.workload(), company)
        } else {
            1
        }
    }

    fn form(&mut self, now: Duration, dropped: &mut Vec<Member<Item>>) -> Option<Batch> {
        let seen = self.returning.saturating_add(self.queue.rows());
        self.company = self.company.max(seen);
        let Self {
            queue,
            tuning,
            apart,
            company,
            ..
        } = self;
        queue.form(
            now,
            |kind| Self::limit(tuning, apart, kind),
            |kind| Self::room(tuning, apart, kind, *company),
            is_gone,
            dropped,
        )
    }

    fn fill(&mut self, batch: &mut Batch, now: Duration, dropped: &mut Vec<Member<Item>>) {
        let Self {
            queue,
            tuning,
            apart,
            company,
            ..
        } = self;
        let room = |kind: &_| Self::room(tuning, apart, kind, *company);
        queue.fill(batch, now, room, is_gone, dropped);
    }

    fn count(&mut self, why: Why, rows: usize) {
        let counts = &mut self.counts;
        *match why {
            Why::Idle => &mut counts.idle,
            Why::Full => &mut counts.full,
            Why::Delay => &mut counts.delay,
            Why::Deadline => &mut counts.deadline,
        } += 1;
        *counts.sizes.entry(rows).or_default() += 1;
        self.company -= self.company.div_ceil(FORGETTING);
    }

    /// The batch that somebody has been called to lead; `None` if it has been given to another one.
    fn appointed(&mut self, place: queue::Place) -> Option<Batch> {
        let found = self.appointed.iter().position(|(by, _)| *by == place)?;
        Some(self.appointed.swap_remove(found).1)
    }
}

/// Whether calls of a kind can be put together.
fn can_be_joined(apart: &Apart, kind: &Kind) -> bool {
    !kind.is_alone() && apart.len() < MOST_APART && !apart.contains(&kind.hash())
}

fn is_gone(item: &Item) -> bool {
    item.leader.is_deserted()
}

fn late() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the answer did not come in time")
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the model is closed")
}

impl Batcher {
    /// A batcher that begins with these times of runs.
    pub(crate) fn new(layout: Layout, settings: BatchSettings, measured: &Times, clock: Clock) -> Self {
        let mut tuning = Tuning::new(Goal {
            max_rows: settings.max_rows,
            target_latency: settings.target_latency,
        });
        for time in &measured.times {
            tuning.record(time.workload, time.rows, time.took);
        }
        let is_off = settings.max_rows.is_none() && !measured.times.is_empty() && tuning.gains_nothing();
        let max_delay = Some(settings.max_delay).filter(|delay| !delay.is_zero() && !is_off);
        let instances = settings.instances.max(1);
        let (max_runs, threads) = if is_off {
            (MOST_RUNS, threads::available())
        } else {
            (instances as u64, instances)
        };
        Self {
            gate: Gate::new(max_runs, max_delay.is_some()),
            state: Mutex::new(State {
                queue: Queue::new(max_delay.unwrap_or_default(), settings.max_queue),
                appointed: Vec::new(),
                tuning,
                left_last: 0,
                returning: 0,
                company: 0,
                apart: HashSet::default(),
                is_closed: false,
                has_watchman: false,
                counts: Counts::default(),
            }),
            windows: Condvar::new(),
            max_delay,
            layout,
            clock,
            workers: Workers::with_threads(threads + usize::from(max_delay.is_some())),
            rounding: measured.rounding,
            is_off,
            queue_time: Latency::default(),
            compute_time: Latency::default(),
        }
    }

    /// Whether a call would run at once.
    pub(crate) fn is_idle(&self) -> bool {
        self.gate.is_open()
    }

    /// What runs of some sizes say.
    pub(crate) fn times(layout: &Layout, outputs: usize, measured: &Measured) -> Times {
        let fetches: Vec<usize> = (0..outputs).collect();
        let time = |(feeds, took): &(Vec<Feed>, Duration)| {
            let call = Call {
                feeds,
                fetches: &fetches,
                options: None,
            };
            Self::time(layout, &call, *took)
        };
        Times {
            times: measured.times.iter().filter_map(time).collect(),
            rounding: measured.rounding,
        }
    }

    fn time(layout: &Layout, call: &Call<'_>, took: Duration) -> Option<Time> {
        let (kind, rows) = Kind::of(call, layout)?;
        Some(Time {
            workload: kind.workload(),
            rows,
            took,
        })
    }

    /// What has been counted.
    pub(crate) fn summary(&self) -> BatchSummary {
        let lone = self.gate.lone();
        let state = locked(&self.state);
        let (times, max_rows) = state.tuning.last();
        let counts = state.counts.clone();
        BatchSummary {
            lone,
            idle: counts.idle,
            full: counts.full,
            delay: counts.delay,
            deadline: counts.deadline,
            sizes: counts.sizes.into_iter().collect(),
            queue_time: self.queue_time.summary_with(lone),
            compute_time: self.compute_time.summary(),
            dropped: counts.dropped,
            refused: counts.refused,
            retried: counts.retried,
            queued_calls: state.queue.calls(),
            queued_rows: state.queue.rows(),
            running: self.gate.runs(),
            max_rows,
            line: times,
            rounding: self.rounding,
            is_off: self.is_off,
        }
    }
}
