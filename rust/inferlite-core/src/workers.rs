//! Threads that run models for callers who must not, or may not for long, wait themselves.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Builder, Condvar, Mutex, MutexGuard, locked};
use crate::threads;

/// How many runs may wait for a thread.
pub(crate) const MAX_QUEUE: usize = 10_000;

type Job = Box<dyn FnOnce() + Send>;

/// As many threads as this process may keep busy, each started when there is work for it.
///
/// Dropping them ends the threads once the jobs that wait are done; nobody waits for that.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    /// Looked up when the first thread is wanted: the system tells it by way of files, which takes a sixth of the time of
    /// making a small session.
    max_threads: OnceLock<usize>,
}

struct Shared {
    state: Mutex<State>,
    has_changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    has_stopped: bool,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.locked();
        f.debug_struct("Workers")
            .field("threads", &state.threads)
            .field("waiting", &state.jobs.len())
            .finish_non_exhaustive()
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self::with(OnceLock::new())
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The next job; `None` once there is none and none will come.
    fn next(&self) -> Option<Job> {
        let mut state = self.locked();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.has_stopped {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            state = self.has_changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl Workers {
    /// At most so many threads.
    pub(crate) fn with_threads(max_threads: usize) -> Self {
        Self::with(max_threads.into())
    }

    fn with(max_threads: OnceLock<usize>) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                has_changed: Condvar::new(),
            }),
            max_threads,
        }
    }

    /// Has a job done on another thread.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`] if too many wait already, and [`ErrorKind::Fail`] if there is no thread to be had.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut state = self.shared.locked();
        if state.jobs.len() >= MAX_QUEUE {
            return Err(Error::new(
                ErrorKind::QueueFull,
                format!("{MAX_QUEUE} calls are waiting for a thread already"),
            ));
        }
        state.jobs.push_back(Box::new(job));
        if state.jobs.len() <= state.idle || state.threads >= *self.max_threads.get_or_init(threads::available) {
            self.shared.has_changed.notify_one();
            return Ok(());
        }
        let shared = self.shared.clone();
        let started = Builder::new().name("inferlite-worker".into()).spawn(move || {
            while let Some(job) = shared.next() {
                // A job says itself how it ended; the thread goes on.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        });
        match started {
            Ok(_) => state.threads += 1,
            // The threads that are there will come to it.
            Err(_) if state.threads > 0 => {}
            Err(error) => {
                state.jobs.pop_back();
                return Err(Error::new(
                    ErrorKind::Fail,
                    format!("no thread can be started: {error}"),
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.locked().has_stopped = true;
        self.shared.has_changed.notify_all();
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Waits until all threads are gone: each holds a reference until its last moment.
    fn wait_for_end(shared: &Arc<Shared>) {
        while Arc::strong_count(shared) > 1 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_job_is_done_and_the_threads_end_with_their_owner() {
        let workers = Workers::default();
        let shared = workers.shared.clone();
        let (sender, receiver) = mpsc::channel();
        for number in 0..100 {
            let sender = sender.clone();
            workers
                .spawn(move || sender.send(number).expect("somebody listens"))
                .expect("there is room");
        }
        assert!(shared.locked().threads <= threads::available());
        drop((workers, sender));
        let mut numbers: Vec<i32> = receiver.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        wait_for_end(&shared);
        assert_eq!(shared.locked().threads, 0);
    }

    #[test]
    fn a_panic_ends_its_job_alone() {
        let workers = Workers::default();
        let (sender, receiver) = mpsc::channel();
        for _ in 0..2 * threads::available() {
            workers.spawn(|| panic!("as told")).expect("there is room");
        }
        workers
            .spawn(move || sender.send(1).expect("somebody listens"))
            .expect("there is room");
        assert_eq!(receiver.recv(), Ok(1));
    }

    #[test]
    fn a_full_queue_refuses_and_loses_nothing() {
        let workers = Workers::with_threads(1);
        let (sender, receiver) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        workers
            .spawn(move || {
                begun.send(()).expect("somebody listens");
                gate.recv().expect_err("it is dropped to open");
            })
            .expect("there is room");
        has_begun.recv().expect("it begins");
        for number in 0..MAX_QUEUE {
            let sender = sender.clone();
            workers
                .spawn(move || sender.send(number).expect("somebody listens"))
                .expect("there is room");
        }
        let refused = workers.spawn(|| unreachable!("it was refused"));
        assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::QueueFull));
        drop((open, sender));
        assert_eq!(receiver.iter().count(), MAX_QUEUE);
    }
}
