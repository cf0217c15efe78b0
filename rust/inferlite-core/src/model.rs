//! The one path that every caller takes.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cache::{Lookup, PredictionCache};
use crate::error::Result;
use crate::fork::PerProcess;
use crate::pace::{Pace, Workload};
use crate::runtime::ort::RunOptions;
use crate::runtime::{Call, Engine, Input, Outputs, Signature};
use crate::stats::CallStats;

/// An engine under a name, with what it has learned about its runs.
#[derive(Debug)]
pub struct Model {
    name: String,
    engine: Box<dyn Engine>,
    stats: Option<Arc<CallStats>>,
    cache: Option<PerProcess<PredictionCache>>,
    pace: Pace,
    is_straight_line: bool,
    detached: AtomicUsize,
}

impl Model {
    /// A model that runs on `engine`, and counts its calls where there are `stats`.
    #[must_use]
    pub fn new(name: String, engine: Box<dyn Engine>, stats: Option<Arc<CallStats>>) -> Self {
        let is_straight_line = engine.is_straight_line();
        Self {
            name,
            engine,
            stats,
            cache: None,
            pace: Pace::default(),
            is_straight_line,
            detached: AtomicUsize::new(0),
        }
    }

    /// The same model, whose answers are kept.
    #[must_use]
    pub fn with_cache(mut self, cache: PerProcess<PredictionCache>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The answers that are kept.
    #[must_use]
    pub fn cache(&self) -> Option<&PredictionCache> {
        self.cache.as_ref().map(PerProcess::get)
    }

    /// The name that messages use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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
    pub fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
        match self.look_up(call) {
            Ok(outputs) => Ok(outputs),
            Err(lookup) => self.compute(call, lookup, &|| Ok(())),
        }
    }

    /// The outputs of a call if they are kept, else what [`Model::compute`] needs; takes no longer than reading the
    /// inputs.
    #[inline]
    pub fn look_up(&self, call: &Call<'_>) -> Result<Outputs<'_>, Lookup> {
        let Some(cache) = self
            .cache()
            .filter(|_| call.options.is_none_or(RunOptions::are_neutral))
        else {
            return Err(Lookup::Skipped);
        };
        match cache.look_up(call) {
            Lookup::Hit(entry) => {
                self.count_answered(call);
                Ok(Outputs::of_entry(entry))
            }
            lookup => Err(lookup),
        }
    }

    /// The outputs of a call that are not kept; may wait for another caller's run of the same call, and asks `check`
    /// every 50 ms meanwhile whether to go on.
    #[inline]
    pub fn compute(&self, call: &Call<'_>, lookup: Lookup, check: &dyn Fn() -> Result<()>) -> Result<Outputs<'_>> {
        let (Lookup::Miss(key), Some(cache)) = (lookup, self.cache()) else {
            return self.run_engine(call);
        };
        let has_run = Cell::new(false);
        let outputs = cache.compute(call, &key, check, |feeds| {
            has_run.set(true);
            self.run_engine(&Call { feeds, ..*call })
        })?;
        if !has_run.get() {
            self.count_answered(call);
        }
        Ok(outputs)
    }

    fn count_answered(&self, call: &Call<'_>) {
        if let Some(stats) = &self.stats {
            stats.answered.fetch_add(1, Ordering::Relaxed);
            stats.rows.fetch_add(self.rows(call), Ordering::Relaxed);
        }
    }

    #[inline]
    fn run_engine(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
        let (outputs, took) = self.timed(self.workload(call), || self.engine.run(call))?;
        if let Some(stats) = &self.stats
            && let Some(took) = took
        {
            stats.latency.record(took);
            stats.rows.fetch_add(self.rows(call), Ordering::Relaxed);
        }
        Ok(outputs)
    }

    /// What settles the time of a call; `None` where the model does more than its inputs' shapes say.
    #[inline]
    #[must_use]
    pub fn workload(&self, call: &Call<'_>) -> Option<Workload> {
        if self.is_straight_line { call.workload() } else { None }
    }

    /// Does a run, and takes note of how long it took if that is not known well enough; a run that fails tells nothing.
    #[inline]
    pub fn timed<T>(
        &self,
        workload: Option<Workload>,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Option<Duration>)> {
        let is_due = self.stats.is_some() || workload.is_some_and(|workload| self.pace.is_due(workload));
        if !is_due {
            return run().map(|done| (done, None));
        }
        let start = Instant::now();
        let done = run()?;
        let took = start.elapsed();
        if let Some(workload) = workload {
            self.pace.record(workload, took);
        }
        Ok((done, Some(took)))
    }

    fn is_quick(&self, workload: Option<Workload>) -> bool {
        workload.is_some_and(|workload| self.pace.is_quick(workload))
    }

    /// Whether a run of this workload is over sooner than an interpreter's lock can be handed to another thread and
    /// back, and cannot wait for anyone.
    ///
    /// True only for an engine whose run is a straight line on the calling thread, for workloads whose 99th percentile
    /// is quick, and while no longer run that gave the lock away is under way, which could hold a lock of the runtime.
    #[inline]
    #[must_use]
    pub fn is_inline(&self, workload: Option<Workload>) -> bool {
        self.is_quick(workload) && self.detached.load(Ordering::Relaxed) == 0
    }

    /// Counts a run of this workload that gave the interpreter's lock away, until the guard is dropped, which should be
    /// before the lock is taken back.
    ///
    /// Only runs that are not known to be quick count: to wait for a quick one costs less than handing over the lock, and
    /// if they counted, many threads would keep each other from ever keeping it.
    #[inline]
    #[must_use]
    pub fn detach(&self, workload: Option<Workload>) -> Option<Detached<'_>> {
        if self.is_quick(workload) {
            return None;
        }
        self.detached.fetch_add(1, Ordering::Relaxed);
        Some(Detached(&self.detached))
    }

    fn rows(&self, call: &Call<'_>) -> u64 {
        if !self
            .signature()
            .inputs
            .first()
            .is_some_and(|input| input.has_dynamic_rows)
        {
            return 1;
        }
        let first = call.feeds.iter().find(|feed| feed.index == 0);
        let shape = first.and_then(|feed| match &feed.value {
            Input::Tensor(view) => Some(view.shape()),
            Input::Value(value) => value.shape(),
        });
        shape
            .and_then(<[i64]>::first)
            .map_or(1, |&rows| u64::try_from(rows).unwrap_or(0))
    }
}

/// A run that other threads of the interpreter may overtake.
#[derive(Debug)]
pub struct Detached<'a>(&'a AtomicUsize);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::pace::{SAMPLED, WINDOW};
    use crate::runtime::{Argument, Dim, Feed, ValueType};
    use crate::tensor::{Dtype, TensorView, Value};
    use smallvec::smallvec;

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
        with_rows(count, |call| model.run(call).map(|outputs| outputs.len()))
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
        for _ in 0..4 * WINDOW * SAMPLED {
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
        for _ in 0..4 * WINDOW {
            assert!(run(&model, 1).is_err());
        }
        assert!(!model.is_inline(workload(&model, 1)));
    }

    #[test]
    fn an_engine_that_is_no_straight_line_is_never_inline() {
        let model = model(false, absent);
        for _ in 0..2 * WINDOW {
            run(&model, 1).expect("it answers");
        }
        assert!(!model.is_inline(workload(&model, 1)));
    }
}
