#![expect(
    unsafe_code,
    reason = "one value behind several locks, of which a reader holds one and a writer all"
)]
//! A lock whose readers do not write to the same memory.
//!
//! Taking a read lock writes to it, and two processors that write to one cache line in turn are slower together than one
//! alone. Here a thread that reads takes the lock of its own stripe, and a thread that writes takes those of all, which
//! is why there are few.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, TryLockError};

const STRIPES: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Striped<T> {
    stripes: [Stripe; STRIPES],
    value: UnsafeCell<T>,
}

// On cache lines of its own, in pairs as processors fetch them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    lock: RwLock<()>,
    /// Beside the lock, since whoever counts has just written to that.
    count: AtomicU64,
}

// SAFETY: many threads read the value at a time and may drop a clone of what it holds, hence `Sync` and `Send`; one
// writes to it, and then no other one reads.
unsafe impl<T: Send + Sync> Sync for Striped<T> {}

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The stripe of this thread; threads take turns.
#[inline]
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    STRIPE.with(|stripe| {
        if stripe.get() >= STRIPES {
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        stripe.get()
    })
}

impl<T> Striped<T> {
    /// Reads; waits for whoever writes.
    pub(super) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        let guard = self.stripes[stripe()]
            .lock
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.read_under(&guard, read)
    }

    /// Reads unless somebody writes.
    #[inline]
    pub(super) fn try_read<R>(&self, read: impl FnOnce(&T) -> R) -> Option<R> {
        let guard = match self.stripes[stripe()].lock.try_read() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.read_under(&guard, read))
    }

    #[inline]
    fn read_under<R>(&self, _guard: &RwLockReadGuard<'_, ()>, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the guard is of one of the stripes, all of which a writer holds: nobody writes while it lives.
        read(unsafe { &*self.value.get() })
    }

    /// Writes, alone; waits for whoever reads or writes.
    pub(super) fn write<R>(&self, write: impl FnOnce(&mut T) -> R) -> R {
        // Writers take the locks in one order and readers hold one each, so that nobody waits in a circle.
        let _guards = self
            .stripes
            .each_ref()
            .map(|stripe| stripe.lock.write().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: every stripe is held until the end, so that nobody reads or writes meanwhile.
        write(unsafe { &mut *self.value.get() })
    }

    /// Counts something that this thread has done; how often the threads of its stripe have by now.
    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.stripes[stripe()].count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What all threads have counted.
    pub(super) fn counted(&self) -> u64 {
        let counts = self.stripes.iter().map(|stripe| stripe.count.load(Ordering::Relaxed));
        counts.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_read_see_no_half_of_a_write() {
        let pair = Striped::<(u64, u64)>::default();
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let pair = &pair;
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        pair.write(|both| {
                            both.0 += writer + 1;
                            std::hint::spin_loop();
                            both.1 += writer + 1;
                        });
                    }
                });
            }
            for _ in 0..6 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < 6_000 {
                        last = pair.read(|both| {
                            assert_eq!(both.0, both.1);
                            both.0
                        });
                        if let Some(seen) = pair.try_read(|both| both.0 + both.1) {
                            assert!(seen >= 2 * last);
                        }
                        pair.count();
                    }
                });
            }
        });
        assert_eq!(pair.read(|both| *both), (6_000, 6_000));
        assert!(pair.counted() >= 6);
    }

    #[test]
    fn who_tries_does_not_wait_for_a_writer() {
        let value = Striped::<u64>::default();
        value.write(|_| {
            std::thread::scope(|scope| {
                for _ in 0..2 * STRIPES {
                    let value = &value;
                    let tried = scope.spawn(move || value.try_read(|value| *value));
                    assert_eq!(tried.join().expect("no panic"), None);
                }
            });
        });
        assert_eq!(value.try_read(|value| *value), Some(0));
    }

    #[test]
    fn a_panic_under_the_lock_leaves_it_open() {
        let value = Striped::<u64>::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| value.write(|_| panic!("as told"))));
        assert!(panicked.is_err());
        value.write(|value| *value += 1);
        assert_eq!(
            (value.read(|value| *value), value.try_read(|value| *value)),
            (1, Some(1))
        );
    }
}
