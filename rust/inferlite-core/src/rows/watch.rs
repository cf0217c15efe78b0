//! Runs that may be ended: trial inputs can keep a loop going for ever.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Result;
use crate::runtime::ort::RunOptions;

/// How long a run of made-up inputs may take before anything is known of the model.
pub(super) const FIRST_LIMIT: Duration = Duration::from_secs(5);
/// How often it is asked whether anybody still waits.
const PAUSE: Duration = Duration::from_millis(20);

/// What ends the runs that were given it, or lets later ones go on.
pub(super) trait Terminate {
    /// See [`RunOptions::set_terminate`].
    fn set_terminate(&self, terminate: bool) -> Result<()>;
}

impl Terminate for RunOptions {
    fn set_terminate(&self, terminate: bool) -> Result<()> {
        RunOptions::set_terminate(self, terminate)
    }
}

/// Why a run has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The model does not accept what it was given.
    Refused(String),
    /// Nobody waits for it any more.
    Interrupted(String),
}

/// How long a run may take, after a first one that took so long.
pub(super) fn later_limit(first: Duration) -> Duration {
    (first * 10).max(Duration::from_secs(1))
}

/// Does `work`, a run that `options` end, on another thread, and has it end once the limit is over or `check` fails.
///
/// The calling thread waits, so that `check` may be something which only that thread can do.
pub(super) fn run<T: Send>(
    options: &dyn Terminate,
    limit: Option<Duration>,
    clock: &Clock,
    check: &dyn Fn() -> Result<()>,
    work: impl FnOnce() -> std::result::Result<T, String> + Send,
) -> std::result::Result<T, Failure> {
    let refused = |error: &dyn ToString| Failure::Refused(error.to_string());
    let mut ended = None;
    let start = clock.now();
    let result = std::thread::scope(|scope| {
        let (done, waiting) = channel();
        let thread = Builder::new().name("inferlite-trial".into());
        let spawned = thread.spawn_scoped(scope, move || done.send(work()));
        if let Err(problem) = spawned {
            return Err(problem.to_string());
        }
        loop {
            match waiting.recv_timeout(PAUSE) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err("the engine panicked".to_owned()),
                Err(RecvTimeoutError::Timeout) if ended.is_some() => {}
                Err(RecvTimeoutError::Timeout) => {
                    let is_over = |limit: &Duration| clock.now().saturating_sub(start) >= *limit;
                    if let Err(error) = check() {
                        ended = Some(Failure::Interrupted(error.message().to_owned()));
                    } else if let Some(limit) = limit.filter(is_over) {
                        ended = Some(Failure::Refused(format!("it took longer than {} s", limit.as_secs())));
                    }
                    if ended.is_some()
                        && let Err(error) = options.set_terminate(true)
                    {
                        ended = Some(refused(&error.message()));
                    }
                }
            }
        }
    });
    if let Some(failure) = ended {
        options
            .set_terminate(false)
            .map_err(|error| refused(&error.message()))?;
        return Err(failure);
    }
    result.map_err(Failure::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_may_take_ten_times_the_first_or_a_second() {
        assert_eq!(later_limit(Duration::from_millis(1)), Duration::from_secs(1));
        assert_eq!(later_limit(Duration::from_secs(3)), Duration::from_secs(30));
    }
}
