#![expect(unsafe_code, reason = "hands out the only reference by a flag")]
//! Something that one thread at a time may use, and that nobody waits for.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use inferlite_core::fork;

const FREE: u64 = 0;

/// A value for one thread at a time.
///
/// A mutex would stay locked in a forked child if another thread of the parent had it; a turn remembers the process
/// that it was taken in.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    taken_in: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a `Guard` alone, and there is one at a time.
unsafe impl<T: Send> Sync for Turn<T> {}

/// The turn of one thread.
pub(crate) struct Guard<'a, T>(&'a Turn<T>);

impl<T> Turn<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            taken_in: AtomicU64::new(FREE),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, unless another thread of this process has it.
    #[inline]
    pub(crate) fn take(&self) -> Option<Guard<'_, T>> {
        let here = fork::generation() + 1;
        let by = self.taken_in.load(Ordering::Relaxed);
        if by == here {
            return None;
        }
        // Free, or taken by a thread that a fork has left behind.
        self.taken_in
            .compare_exchange(by, here, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Guard(self))
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.taken_in.store(FREE, Ordering::Release);
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `take` gives out one guard at a time in a process.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_turn_has_to_wait_for_the_first_to_end() {
        let turn = Turn::new(1);
        let first = turn.take();
        assert!(first.is_some());
        assert!(turn.take().is_none());
        drop(first);
        assert!(turn.take().is_some());
    }

    #[test]
    fn a_turn_taken_before_a_fork_is_free_in_the_child() {
        let turn = Turn::new(1);
        // As a thread of another process would have left it.
        turn.taken_in.store(fork::generation() + 7, Ordering::Relaxed);
        assert!(turn.take().is_some());
    }

    #[test]
    fn threads_take_turns() {
        let turn = Turn::new(0_u32);
        let entered = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..10_000)
                            .filter(|_| match turn.take() {
                                Some(mut value) => {
                                    *value += 1;
                                    true
                                }
                                None => false,
                            })
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no thread panics"))
                .sum::<usize>()
        });
        let counted = turn.take().map(|value| *value as usize);
        assert_eq!(counted, Some(entered));
    }
}
