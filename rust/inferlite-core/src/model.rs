//! The one path that every caller takes.

mod timing;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::batch::{BatchSettings, BatchSummary, Batcher, Terms};
use crate::cache::{Entry, Found, Looked, Missed, MissingRows, PredictionCache, SmallTensor};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Claims, Ending, Leader};
use crate::fork::PerProcess;
use crate::pace::{BRIEF, LENIENT, Pace, QUICK, STRICT};
use crate::question::Question;
use crate::rows::{BatchAxes, Layout, Measured};
use crate::runtime::ort::RunOptions;
use crate::runtime::{Answer, Call, Engine, Input, Outputs, Signature};
use crate::stats::CallStats;
use crate::ticket::Ticket;
use crate::workers::Workers;

pub use timing::Detached;

/// An engine under a name, with what it has learned about its runs.
#[derive(Debug)]
pub struct Model {
    name: String,
    engine: Box<dyn Engine>,
    stats: Option<Arc<CallStats>>,
    cache: Option<PerProcess<PredictionCache>>,
    /// Where answers are kept by the row: the axes of the rows.
    rows: OnceLock<BatchAxes>,
    /// Combines calls, where they are batched.
    batcher: OnceLock<PerProcess<Batcher>>,
    pace: Pace,
    /// Which runs are so short that an event loop may as well wait for them.
    patience: Pace,
    is_straight_line: AtomicBool,
    has_dynamic_rows: bool,
    detached: AtomicUsize,
    clock: Clock,
    /// Run what is begun and not waited for.
    workers: PerProcess<Workers>,
}

impl Model {
    /// A model that runs on `engine`, and counts its calls where there are `stats`.
    #[must_use]
    pub fn new(name: String, engine: Box<dyn Engine>, stats: Option<Arc<CallStats>>) -> Self {
        let is_straight_line = engine.is_straight_line();
        let first = engine.signature().inputs.first();
        let has_dynamic_rows = first.is_some_and(|input| input.has_dynamic_rows);
        Self {
            name,
            engine,
            stats,
            cache: None,
            rows: OnceLock::new(),
            batcher: OnceLock::new(),
            pace: Pace::new(QUICK, STRICT),
            patience: Pace::new(BRIEF, LENIENT),
            is_straight_line: AtomicBool::new(is_straight_line),
            has_dynamic_rows,
            detached: AtomicUsize::new(0),
            clock: Clock::default(),
            workers: PerProcess::new(Workers::default),
        }
    }

    /// The same model, whose answers are kept.
    #[must_use]
    pub fn with_cache(mut self, cache: PerProcess<PredictionCache>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The same model, whose deadlines go by another clock.
    #[cfg(test)]
    pub(crate) fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The answers that are kept.
    #[must_use]
    pub fn cache(&self) -> Option<&PredictionCache> {
        self.cache.as_ref().map(PerProcess::get)
    }

    /// Keeps answers by the row from now on; the first axes that are given count.
    ///
    /// The rows must be independent ([`crate::rows::establish`]).
    pub fn keep_rows(&self, axes: BatchAxes) {
        let _ = self.rows.set(axes);
    }

    /// Drops the answer to a call that is kept; whether there was one.
    pub fn invalidate(&self, call: &Call<'_>) -> bool {
        self.cache().is_some_and(|cache| match self.rows.get() {
            Some(axes) => cache.invalidate_rows(call, axes),
            None => cache.invalidate(call),
        })
    }

    /// The name that messages use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is counted of its calls.
    #[must_use]
    pub fn stats(&self) -> Option<&CallStats> {
        self.stats.as_deref()
    }

    /// What the model takes and gives.
    #[inline]
    #[must_use]
    pub fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    /// The engine underneath.
    #[inline]
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Gives the outputs that the call asks for, in its order: those that are kept, or those of a run.
    #[inline]
    pub fn run(&self, call: &Call<'_>) -> Result<Answer<'_>> {
        match self.look_up(call) {
            Ok(found) => Ok(found.into()),
            Err(missed) => self.compute(call, missed, &Terms::default(), &|| Ok(())),
        }
    }

    /// The answer to a call if it is kept, else what [`Model::compute`] needs; takes no longer than reading the inputs.
    #[inline]
    pub fn look_up(&self, call: &Call<'_>) -> Result<Found, Missed> {
        let Some(cache) = self
            .cache()
            .filter(|_| call.options.is_none_or(RunOptions::are_neutral))
        else {
            return Err(Missed::Skipped);
        };
        if let Some(axes) = self.rows.get() {
            let found = cache.look_up_rows(call, axes)?;
            self.count_answered(call);
            return Ok(found);
        }
        let entry = cache.look_up(call)?;
        self.count_more_rows(|| self.rows(call));
        Ok(Found::Entry(entry))
    }

    /// What [`Model::look_up`] finds for a call that feeds one small tensor to the first input and asks for these outputs,
    /// without the call.
    ///
    /// Whether the tensor fits need not be known: no other one has an answer.
    #[inline]
    pub fn look_up_small(&self, tensor: &SmallTensor<'_>, fetches: &[usize]) -> Looked {
        let Some(cache) = self.cache().filter(|_| self.rows.get().is_none()) else {
            return Looked::Unasked;
        };
        let looked = cache.look_up_small(tensor, fetches);
        if let Looked::Found(_) = &looked {
            self.count_more_rows(|| self.rows_of(tensor.shape()));
        }
        looked
    }

    /// Takes note of the rows of a hit that the cache has counted as one: an atomic addition is a thirtieth of such a call.
    #[inline]
    fn count_more_rows(&self, rows: impl FnOnce() -> u64) {
        if let Some(stats) = &self.stats
            && let rows = rows()
            && rows != 1
        {
            stats.add_kept_rows(rows.wrapping_sub(1));
        }
    }

    /// The answer to a call that is not kept; may wait for another caller's run of the same call, or for company in a
    /// batch, and asks `check` every 50 ms meanwhile whether to go on.
    #[inline]
    pub fn compute(
        &self,
        call: &Call<'_>,
        missed: Missed,
        terms: &Terms,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Answer<'_>> {
        let (key, cache) = match (missed, self.cache()) {
            (Missed::Call(key), Some(cache)) => (key, cache),
            (Missed::Rows(missing), Some(cache)) => {
                let run = |call: &Call<'_>| self.run_engine(call, terms, check);
                return self.compute_rows(call, *missing, cache, &run).map(Answer::Computed);
            }
            _ => return self.run_engine(call, terms, check).map(Answer::Computed),
        };
        let has_run = Cell::new(false);
        let answer = cache.compute(call, key, check, |call| {
            has_run.set(true);
            self.run_engine(call, terms, check)
        })?;
        if !has_run.get() {
            self.count_answered(call);
        }
        Ok(answer)
    }

    /// Begins a call that is not kept, for a caller who does not wait, or not for ever: see [`Ticket`].
    ///
    /// The inputs are copied, and the run is another thread's.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) if too many calls wait already.
    pub fn begin(self: &Arc<Self>, call: &Call<'_>, missed: Missed, terms: Terms) -> Result<Ticket> {
        Ticket::new(self.clone(), Arc::new(self.question(call, missed)), terms)
    }

    /// The same under options that no other run has: giving the claim up ends the run by them.
    ///
    /// Its answer is not kept.
    ///
    /// # Errors
    /// As for [`Model::begin`].
    pub fn begin_under(self: &Arc<Self>, call: &Call<'_>, options: Arc<RunOptions>) -> Result<Ticket> {
        let question = Question::copied(call).with_options(Some(options));
        Ticket::new(self.clone(), Arc::new(question), Terms::default())
    }

    /// Answers a call on another thread, which hands the answer to `then`: nobody can give it up.
    ///
    /// The inputs are copied.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) if too many calls wait already; `then` is dropped.
    pub fn run_apart(
        self: &Arc<Self>,
        call: &Call<'_>,
        options: Option<Arc<RunOptions>>,
        then: impl FnOnce(Result<Answer<'_>>) + Send + 'static,
    ) -> Result<()> {
        let question = Question::copied(call).with_options(options);
        let model = self.clone();
        self.workers().spawn(move || {
            let call = question.call(question.options().map(Arc::as_ref));
            let answer = {
                let _detached = model.detach(model.workload(&call));
                let run = AssertUnwindSafe(|| model.run(&call));
                catch_unwind(run).unwrap_or_else(|_| Err(panicked()))
            };
            then(answer);
        })
    }

    /// Does `work` on another thread.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) if too many calls wait already.
    pub fn apart(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.workers().spawn(work)
    }

    pub(crate) fn question(&self, call: &Call<'_>, missed: Missed) -> Question {
        match (missed, self.cache()) {
            (Missed::Call(key), Some(cache)) => cache.question(call, key).0,
            (Missed::Rows(missing), _) => Question::copied(call).with_rows(missing),
            _ => Question::copied(call),
        }
    }

    /// Computes what a leader has begun, for whoever waits for it.
    pub(crate) fn lead(self: &Arc<Self>, leader: Leader, question: &Question, terms: &Terms) {
        let options = match question.options() {
            Some(options) => Ok(Some(options.clone())),
            None => self.engine.options_to_end().map(|options| options.map(Arc::new)),
        };
        let options = match options {
            Ok(options) => options,
            Err(error) => return leader.end(Ending::Error(error)),
        };
        if let Some(options) = &options {
            leader.may_be_ended_by(&Claims::new(1, options.clone()));
        }
        if leader.is_deserted() {
            return;
        }
        let kept = self.cache().zip(question.key());
        if let Some((cache, key)) = kept
            && let Some(entry) = cache.fetch(key)
        {
            return leader.end(Ending::Answer(entry));
        }
        self.count_computed(question);
        let call = question.call(options.as_deref());
        let _detached = self.detach(self.workload(&call));
        let check = || {
            if leader.is_deserted() {
                return Err(Error::new(ErrorKind::Interrupted, "nobody waits for the answer"));
            }
            Ok(())
        };
        // This thread wants nothing for itself: a batch that it is in must not go on for its sake.
        let run = |call: &Call<'_>| match self.batcher() {
            None => self.run_by_itself(call),
            Some(batcher) => batcher.run_for_others(self, call, *terms, &check),
        };
        let computed = catch_unwind(AssertUnwindSafe(|| match (question.take_rows(), self.cache()) {
            (Some(missing), Some(cache)) => self.compute_rows(&call, *missing, cache, &run),
            _ => run(&call),
        }));
        let computed = computed.unwrap_or_else(|_| Err(panicked()));
        let ending = self.ending(&leader, question, computed);
        let computed = match &ending {
            Ending::Answer(entry) if kept.is_some() => Some(entry.clone()),
            Ending::Answer(_) | Ending::Error(_) | Ending::Abandoned => None,
        };
        leader.end(ending);
        // Those who wait have it by now.
        if let Some(entry) = computed {
            self.share(&entry);
        }
    }

    /// Takes note of a question whose computation begins.
    pub(crate) fn count_computed(&self, question: &Question) {
        if let Some((cache, _)) = self.cache().zip(question.key()) {
            cache.count_miss();
        }
    }

    /// What those are told who wait for the answer to a question, which is kept if it is to be.
    pub(crate) fn ending(&self, leader: &Leader, question: &Question, computed: Result<Outputs<'_>>) -> Ending {
        let kept = self.cache().zip(question.key());
        match computed {
            // It was told to end: whoever has come since asks anew.
            Err(_) if leader.is_deserted() => Ending::Abandoned,
            Err(error) => Ending::Error(error),
            Ok(outputs) => Ending::Answer(match kept {
                Some((cache, key)) => cache.keep(key, &outputs),
                None => Arc::new(Entry::unkept(outputs.into_values())),
            }),
        }
    }

    /// Whether answers may be had from other processes, which takes a thread that can wait.
    #[must_use]
    pub fn asks_others(&self) -> bool {
        self.cache().is_some_and(PredictionCache::has_shared)
    }

    /// Gives an answer to other processes, where they share a cache.
    pub(crate) fn share(&self, entry: &Entry) {
        if let Some(cache) = self.cache() {
            cache.share(entry);
        }
    }

    /// Takes note of a call that another one's computation has answered.
    pub(crate) fn count_joined(&self, call: &Call<'_>) {
        if let Some(cache) = self.cache() {
            cache.count_coalesced();
        }
        self.count_answered(call);
    }

    /// The time that deadlines go by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn workers(&self) -> &Workers {
        self.workers.get()
    }

    /// Calls that the cache has answered and counted, each as one row; where it counts rows, calls are counted here.
    #[must_use]
    pub fn hits(&self) -> u64 {
        let counts_calls = self.rows.get().is_none();
        self.cache().filter(|_| counts_calls).map_or(0, PredictionCache::hits)
    }

    /// Adds the hits to the statistics, which outlive the model; once, when nobody looks up any more.
    pub fn count_hits_for_good(&self) {
        if let Some(stats) = &self.stats {
            stats.answered.fetch_add(self.hits(), Ordering::Relaxed);
            stats.add_kept_rows(self.hits());
        }
    }

    /// Runs the rows that are missing by `run`; the whole batch counts.
    fn compute_rows<'m>(
        &'m self,
        call: &Call<'_>,
        missing: MissingRows,
        cache: &PredictionCache,
        run: &dyn Fn(&Call<'_>) -> Result<Outputs<'m>>,
    ) -> Result<Outputs<'m>> {
        let Some(axes) = self.rows.get() else {
            return run(call);
        };
        let rows = self.rows(call);
        cache.compute_rows(call, axes, self.signature(), missing, |feeds| {
            let missing = Call { feeds, ..*call };
            let outputs = run(&missing)?;
            // The rows that were kept count as well; the run has counted the others.
            if let Some(stats) = &self.stats {
                stats.add_kept_rows(rows.saturating_sub(self.rows(&missing)));
            }
            Ok(outputs)
        })
    }

    fn count_answered(&self, call: &Call<'_>) {
        if let Some(stats) = &self.stats {
            stats.answered.fetch_add(1, Ordering::Relaxed);
            stats.add_kept_rows(self.rows(call));
        }
    }

    #[inline]
    fn run_engine(&self, call: &Call<'_>, terms: &Terms, check: &dyn Fn() -> Result<()>) -> Result<Outputs<'_>> {
        match self.batcher() {
            None => self.run_by_itself(call),
            Some(batcher) => batcher.run(self, call, terms, check),
        }
    }

    /// Runs a call on this thread, in no company.
    #[inline]
    pub(crate) fn run_by_itself(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
        self.run_counted(call, || self.rows(call))
    }

    /// Runs calls, each of so many rows, that were put together to one.
    pub(crate) fn run_together(&self, call: &Call<'_>, rows: &[usize]) -> Result<Outputs<'_>> {
        let _detached = self.detach(self.workload(call));
        let start = Instant::now();
        let outputs = self.engine.run(call)?;
        let took = start.elapsed();
        // The pace of batches stays unknown: there are too many sizes of them for those of calls to keep their slots.
        if let Some(stats) = &self.stats {
            for _ in rows {
                stats.latency.record(took);
            }
            if self.has_dynamic_rows {
                stats
                    .rows
                    .fetch_add(rows.iter().sum::<usize>() as u64, Ordering::Relaxed);
            } else {
                stats.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
            }
        }
        Ok(outputs)
    }

    /// The answer to a call on this thread, if it is to be had without standing in line.
    #[inline]
    pub fn compute_at_once(&self, call: &Call<'_>) -> Option<Result<Answer<'_>>> {
        let outputs = match self.batcher() {
            None => self.run_by_itself(call),
            Some(batcher) => batcher.run_at_once(self, call)?,
        };
        Some(outputs.map(Answer::Computed))
    }

    /// Whether a call would run now, in no company and without standing in line.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.batcher().is_none_or(Batcher::is_idle)
    }

    /// Whether the shapes of a call's inputs settle how long its run takes.
    pub(crate) fn is_straight_line(&self) -> bool {
        self.is_straight_line.load(Ordering::Relaxed)
    }

    /// Takes note of an engine that has become another one: what was learned and kept of it counts no longer.
    pub fn reconfigured(&self) {
        self.is_straight_line
            .store(self.engine.is_straight_line(), Ordering::Relaxed);
        if let Some(cache) = self.cache() {
            cache.reconfigure();
        }
    }

    /// Whether calls are combined.
    #[must_use]
    pub fn is_batched(&self) -> bool {
        self.batcher.get().is_some()
    }

    /// Combines calls from now on; the first settings that are given count.
    ///
    /// The rows must be independent ([`crate::rows::establish`]), and padding tried out ([`Layout::padded`]). The number of
    /// rows of a batch is chosen by what was measured ([`crate::rows::measure`]); without such a number from the user, a
    /// model that would gain nothing is not batched.
    pub fn batch_rows(&self, layout: &Layout, settings: BatchSettings, measured: &Measured) {
        let (layout, clock) = (layout.clone(), self.clock.clone());
        let times = Batcher::times(&layout, self.signature().outputs.len(), measured);
        let make = move || Batcher::new(layout.clone(), settings, &times, clock.clone());
        let _ = self.batcher.set(PerProcess::new(make));
    }

    #[inline]
    pub(crate) fn batcher(&self) -> Option<&Batcher> {
        self.batcher.get().map(PerProcess::get)
    }

    /// What has been counted of batches, where calls are batched.
    #[must_use]
    pub fn batch_summary(&self) -> Option<BatchSummary> {
        self.batcher().map(Batcher::summary)
    }

    /// Serves those who wait for a batch at once, and whoever is on the way to one; or with `cancels` takes no more calls for
    /// batches, and tells those who wait that the model is closed. It is for its owner to let no more calls begin.
    pub fn close(&self, cancels: bool) {
        if let Some(batcher) = self.batcher() {
            batcher.close(cancels);
        }
    }

    #[inline]
    fn run_counted(&self, call: &Call<'_>, rows: impl FnOnce() -> u64) -> Result<Outputs<'_>> {
        let (outputs, took) = self.timed(self.workload(call), || self.engine.run(call))?;
        if let Some(stats) = &self.stats
            && let Some(took) = took
        {
            stats.latency.record(took);
            stats.rows.fetch_add(rows(), Ordering::Relaxed);
        }
        Ok(outputs)
    }

    fn rows(&self, call: &Call<'_>) -> u64 {
        let first = call.feeds.iter().find(|feed| feed.index == 0);
        let shape = first.and_then(|feed| match &feed.value {
            Input::Tensor(view) => Some(view.shape()),
            Input::Value(value) => value.shape(),
        });
        shape.map_or(1, |shape| self.rows_of(shape))
    }

    /// How many rows there are in a call whose first input has this shape.
    #[inline]
    fn rows_of(&self, shape: &[i64]) -> u64 {
        match shape.first() {
            Some(&rows) if self.has_dynamic_rows => u64::try_from(rows).unwrap_or(0),
            _ => 1,
        }
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::RuntimeException, "the engine panicked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheSettings, Limits, Policy};
    use crate::clock::Hand;
    use crate::pace::SAMPLED;
    use crate::pace::Workload;
    use crate::runtime::{Argument, Dim, Feed, ValueType};
    use crate::tensor::{Dtype, TensorView, Value};
    use smallvec::smallvec;
    use std::time::Duration;

    /// Answers as it is told to.
    #[derive(Debug)]
    struct Scripted {
        signature: Signature,
        is_straight_line: bool,
        answer: fn() -> Result<Value>,
    }

    impl Engine for Scripted {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
            let mut outputs = Outputs::default();
            for _ in call.fetches {
                outputs.push((self.answer)()?);
            }
            Ok(outputs)
        }

        fn is_straight_line(&self) -> bool {
            self.is_straight_line
        }

        fn name(&self) -> &'static str {
            "scripted"
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the script of an engine may also fail")]
    fn absent() -> Result<Value> {
        Ok(Value::Absent)
    }

    fn model(is_straight_line: bool, answer: fn() -> Result<Value>) -> Model {
        let shape = Some(vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
        let x = Argument::new(
            "x".into(),
            ValueType::Tensor {
                dtype: Dtype::Float32,
                shape,
            },
        );
        let signature = Signature {
            inputs: x.into_iter().collect(),
            required: 1,
            outputs: Vec::new(),
        };
        let engine = Scripted {
            signature,
            is_straight_line,
            answer,
        };
        Model::new("scripted".into(), Box::new(engine), Some(Arc::default()))
    }

    #[expect(unsafe_code, reason = "a view over a static array")]
    fn rows(count: i64) -> Feed {
        static NUMBERS: [f32; 64] = [0.0; 64];
        let bytes = usize::try_from(count).unwrap_or(0) * 8;
        // SAFETY: no more than 32 rows of two floats are asked for, and the array lives for ever.
        let view = unsafe { TensorView::new(Dtype::Float32, smallvec![count, 2], NUMBERS.as_ptr().cast(), bytes) };
        Feed {
            index: 0,
            value: Input::Tensor(view),
        }
    }

    fn with_rows<T>(count: i64, work: impl FnOnce(&Call<'_>) -> T) -> T {
        work(&Call {
            feeds: &[rows(count)],
            fetches: &[0, 1],
            options: None,
        })
    }

    fn run(model: &Model, count: i64) -> Result<usize> {
        with_rows(count, |call| model.run(call).map(|answer| answer.len()))
    }

    fn workload(model: &Model, count: i64) -> Option<Workload> {
        with_rows(count, |call| model.workload(call))
    }

    #[test]
    fn calls_and_rows_that_succeed_are_counted() {
        let model = model(false, absent);
        assert_eq!(run(&model, 3).ok(), Some(2));
        assert_eq!(run(&model, 1).ok(), Some(2));
        let stats = model.stats.as_ref().expect("it was made with stats");
        assert_eq!(stats.latency.summary().count, 2);
        assert_eq!(stats.rows.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn an_error_comes_through_and_is_not_counted() {
        let model = model(false, || Err(Error::new(ErrorKind::Fail, "as told")));
        assert_eq!(run(&model, 1).expect_err("as told").message(), "as told");
        let stats = model.stats.as_ref().expect("it was made with stats");
        assert_eq!(stats.latency.summary().count, 0);
    }

    #[test]
    fn a_panic_of_the_engine_leaves_the_model_usable() {
        static PANICS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);
        let model = model(false, || {
            assert!(!PANICS.load(Ordering::Relaxed), "as told");
            absent()
        });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&model, 1)));
        assert!(panicked.is_err());
        PANICS.store(false, Ordering::Relaxed);
        assert_eq!(run(&model, 1).ok(), Some(2));
    }

    #[test]
    fn a_run_is_inline_once_its_shapes_have_proven_quick_and_no_longer_one_is_under_way() {
        let model = model(true, absent);
        let (one, many) = (workload(&model, 1), workload(&model, 32));
        assert!(!model.is_inline(one));
        for _ in 0..4 * STRICT.runs * SAMPLED {
            run(&model, 1).expect("it answers");
        }
        assert!(model.is_inline(one));
        assert!(!model.is_inline(many));
        let longer = model.detach(many);
        assert!(longer.is_some());
        assert!(!model.is_inline(one));
        drop(longer);
        assert!(model.is_inline(one));
        assert!(model.detach(one).is_none());
    }

    #[test]
    fn runs_that_fail_prove_nothing() {
        let model = model(true, || Err(Error::new(ErrorKind::Fail, "as told")));
        for _ in 0..4 * STRICT.runs {
            assert!(run(&model, 1).is_err());
        }
        assert!(!model.is_inline(workload(&model, 1)));
    }

    /// Holds the runs of an engine until the test lets them go.
    mod gate {
        use super::*;
        use std::sync::{Condvar, Mutex, MutexGuard};

        #[derive(Default)]
        struct State {
            begun: usize,
            let_go: usize,
        }

        static STATE: (Mutex<State>, Condvar) = (Mutex::new(State { begun: 0, let_go: 0 }), Condvar::new());
        static TURN: Mutex<()> = Mutex::new(());

        /// One test at a time.
        pub(super) fn enter() -> MutexGuard<'static, ()> {
            let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *STATE.0.lock().expect("no panic") = State::default();
            turn
        }

        pub(super) fn held() -> Result<Value> {
            let mut state = STATE.0.lock().expect("no panic");
            state.begun += 1;
            let turn = state.begun;
            STATE.1.notify_all();
            drop(
                STATE
                    .1
                    .wait_while(state, |state| state.let_go < turn)
                    .expect("no panic"),
            );
            Err(Error::new(ErrorKind::Fail, format!("run {turn}")))
        }

        pub(super) fn wait_for(begun: usize) {
            let state = STATE.0.lock().expect("no panic");
            drop(
                STATE
                    .1
                    .wait_while(state, |state| state.begun < begun)
                    .expect("no panic"),
            );
        }

        pub(super) fn let_go(runs: usize) {
            STATE.0.lock().expect("no panic").let_go = runs;
            STATE.1.notify_all();
        }
    }

    fn with_cache(model: Model) -> (Arc<Model>, Hand) {
        let (clock, hand) = Clock::held();
        let settings = CacheSettings {
            limits: Limits {
                max_bytes: 1 << 20,
                max_entries: usize::MAX,
            },
            ttl: None,
            policy: Policy::Lru,
        };
        let mut model = model.with_cache(PerProcess::new(move || {
            PredictionCache::new(settings, Clock::default())
        }));
        model.clock = clock;
        (Arc::new(model), hand)
    }

    fn begin(model: &Arc<Model>, count: i64) -> Ticket {
        with_rows(count, |call| {
            let lookup = model.look_up(call).expect_err("it is not kept");
            model.begin(call, lookup, Terms::default()).expect("there is room")
        })
    }

    fn message(result: Result<Answer<'_>>) -> String {
        result.expect_err("it fails").message().to_owned()
    }

    #[test]
    fn a_ticket_gives_the_answer_and_later_calls_find_it() {
        let (model, _hand) = with_cache(model(false, absent));
        let answer = begin(&model, 1).wait(None, &|| Ok(())).expect("it answers");
        assert_eq!(answer.len(), 2);
        assert!(with_rows(1, |call| model.look_up(call)).is_ok());
        let stats = model.stats.as_ref().expect("it was made with stats");
        assert_eq!((stats.latency.summary().count, model.hits()), (1, 1));
    }

    #[test]
    fn tickets_for_one_question_share_a_run_and_its_error() {
        let _turn = gate::enter();
        let (model, _hand) = with_cache(model(false, gate::held));
        let tickets = [begin(&model, 1), begin(&model, 1), begin(&model, 1)];
        gate::wait_for(1);
        gate::let_go(1);
        for ticket in tickets {
            assert_eq!(message(ticket.wait(None, &|| Ok(()))), "run 1");
        }
        let summary = model.cache().expect("it has one").summary();
        assert_eq!((summary.misses, summary.coalesced, summary.entries), (1, 2, 0));
    }

    #[test]
    fn a_deadline_ends_one_wait_and_no_other() {
        let _turn = gate::enter();
        let (model, hand) = with_cache(model(false, gate::held));
        let (first, second) = (begin(&model, 1), begin(&model, 1));
        gate::wait_for(1);
        let deadline = Some(Duration::from_secs(5));
        let check = || {
            hand.advance(Duration::from_secs(2));
            Ok(())
        };
        let ended = first.wait(deadline, &check).expect_err("nobody lets the run go");
        assert_eq!(ended.kind(), ErrorKind::DeadlineExceeded);
        gate::let_go(1);
        assert_eq!(message(second.wait(None, &|| Ok(()))), "run 1");
    }

    #[test]
    fn what_nobody_wants_any_more_is_no_answer_for_those_who_come_later() {
        let _turn = gate::enter();
        let (model, _hand) = with_cache(model(false, gate::held));
        let early = begin(&model, 1);
        gate::wait_for(1);
        drop(early);
        let late = begin(&model, 1);
        gate::let_go(2);
        assert_eq!(message(late.wait(None, &|| Ok(()))), "run 2");
    }

    #[test]
    fn a_ticket_wakes_whoever_asked_for_it() {
        let _turn = gate::enter();
        let (model, _hand) = with_cache(model(false, gate::held));
        let mut ticket = begin(&model, 1);
        let (sender, receiver) = std::sync::mpsc::channel();
        ticket
            .bell()
            .when_ended(Box::new(move || sender.send(()).expect("somebody listens")));
        assert!(ticket.answer().expect("it has not failed yet").is_none());
        gate::let_go(1);
        receiver.recv().expect("it wakes");
        assert_eq!(
            message(ticket.answer().map(|answer| answer.expect("it has ended"))),
            "run 1"
        );
    }

    #[test]
    fn a_panic_on_another_thread_is_an_error_here() {
        let (model, _hand) = with_cache(model(false, || panic!("as told")));
        assert_eq!(message(begin(&model, 1).wait(None, &|| Ok(()))), "the engine panicked");
    }

    #[test]
    fn tickets_without_a_cache_run_for_themselves() {
        let model = Arc::new(model(false, absent));
        let answers: Vec<_> = (0..3)
            .map(|_| begin(&model, 2).wait(None, &|| Ok(())).expect("it answers"))
            .collect();
        assert!(answers.iter().all(|answer| answer.len() == 2));
        assert_eq!(
            model
                .stats
                .as_ref()
                .expect("it was made with stats")
                .latency
                .summary()
                .count,
            3
        );
    }

    #[test]
    fn an_engine_that_is_no_straight_line_is_never_inline() {
        let model = model(false, absent);
        for _ in 0..2 * STRICT.runs {
            run(&model, 1).expect("it answers");
        }
        assert!(!model.is_inline(workload(&model, 1)));
    }
}
