//! Where threads meet: the locks of the standard library, or ones that try every schedule.
//!
//! With the feature `shuttle`, which tests alone turn on, the tickets, the workers and the batcher are scheduled by
//! shuttle: the same code, not a model of it. Shuttle and not loom, because it schedules condition variables with time
//! limits, and a batch of three callers is beyond what loom gets through; its waits never time out, so that a wake-up
//! that is lost is a deadlock, which it reports.

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, atomic::AtomicU64},
    thread::Builder,
};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic::AtomicU64},
    thread::Builder,
};

/// Waits while a condition holds, but not for longer than this.
#[cfg(not(feature = "shuttle"))]
pub(crate) fn wait_for<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    at_most: Duration,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    let waited = condvar.wait_timeout_while(guard, at_most, condition);
    waited.unwrap_or_else(PoisonError::into_inner).0
}

/// The same under shuttle, whose waits never time out: shorter ones than a caller's patience may be over at once, which
/// a deadline is; longer ones last until somebody wakes the caller, which somebody has to.
#[cfg(feature = "shuttle")]
pub(crate) fn wait_for<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    at_most: Duration,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    use shuttle::rand::{Rng, thread_rng};
    if at_most < crate::ticket::PATIENCE && thread_rng().gen_bool(0.5) {
        return guard;
    }
    condvar
        .wait_while(guard, condition)
        .unwrap_or_else(PoisonError::into_inner)
}

/// Locks, whoever panicked before: every lock here is left in a state that holds.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
