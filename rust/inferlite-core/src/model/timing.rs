//! How long runs of a model take, and who may wait for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Model;
use crate::error::Result;
use crate::pace::Workload;
use crate::runtime::Call;

impl Model {
    /// What settles the time of a call; `None` where the model does more than its inputs' shapes say.
    #[inline]
    #[must_use]
    pub fn workload(&self, call: &Call<'_>) -> Option<Workload> {
        if self.is_straight_line() { call.workload() } else { None }
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
            self.patience.record(workload, took);
        }
        Ok((done, Some(took)))
    }

    fn is_quick(&self, workload: Option<Workload>) -> bool {
        workload.is_some_and(|workload| self.pace.is_quick(workload))
    }

    /// Whether a run of this workload is over before handing it to another thread would be worth it.
    #[must_use]
    pub fn is_brief(&self, workload: Option<Workload>) -> bool {
        workload.is_some_and(|workload| self.patience.is_quick(workload))
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
}

/// A run that other threads of the interpreter may overtake.
#[derive(Debug)]
pub struct Detached<'a>(&'a AtomicUsize);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
