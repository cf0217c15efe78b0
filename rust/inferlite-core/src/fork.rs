//! Surviving `fork()`: the child has one thread, and whatever the others held is lost to it.
//!
//! `pthread_atfork` counts generations, so nobody asks for a process id per call. What must not be half done in a
//! child (the runtime's own process-wide locks, taken while a session is made or released; the log queue) is held
//! still while the process forks.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// How many forks lie between this process and the one that loaded the library.
#[inline]
#[must_use]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// A value that a forked child makes anew: locks in the parent's may have been held, and are left behind with it.
pub struct PerProcess<T> {
    made: AtomicPtr<Made<T>>,
    make: Box<dyn Fn() -> T + Send + Sync>,
    owns: PhantomData<T>,
}

struct Made<T> {
    generation: u64,
    value: T,
}

impl<T: fmt::Debug> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerProcess").field(self.get()).finish()
    }
}

#[expect(unsafe_code, reason = "replaces a value that other threads of the parent had")]
mod per_process {
    use std::marker::PhantomData;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use super::{Made, PerProcess, generation};

    impl<T> PerProcess<T> {
        /// A value, and how to make it again.
        pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
            let first = Box::new(Made {
                generation: generation(),
                value: make(),
            });
            Self {
                made: AtomicPtr::new(Box::into_raw(first)),
                make: Box::new(make),
                owns: PhantomData,
            }
        }

        /// The value of this process.
        #[inline]
        pub fn get(&self) -> &T {
            // SAFETY: never null, and what is replaced is leaked, so that it stays readable.
            let made = unsafe { &*self.made.load(Ordering::Acquire) };
            if made.generation == generation() {
                &made.value
            } else {
                self.make_anew(made)
            }
        }

        #[cold]
        fn make_anew(&self, old: &Made<T>) -> &T {
            let fresh = Box::into_raw(Box::new(Made {
                generation: generation(),
                value: (self.make)(),
            }));
            let old = std::ptr::from_ref(old).cast_mut();
            if self
                .made
                .compare_exchange(old, fresh, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: nobody else has seen it: another thread of the child was quicker.
                drop(unsafe { Box::from_raw(fresh) });
            }
            self.get()
        }
    }

    impl<T> Drop for PerProcess<T> {
        fn drop(&mut self) {
            let made = *self.made.get_mut();
            // SAFETY: never null, and alive until the next lines.
            if unsafe { &*made }.generation == generation() {
                // SAFETY: made from a box, and nobody else has it any more.
                drop(unsafe { Box::from_raw(made) });
            }
        }
    }
}

#[cfg(unix)]
mod handlers {
    #![expect(unsafe_code, reason = "pthread_atfork is a C function")]

    use std::cell::RefCell;
    use std::sync::atomic::Ordering;
    use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

    // std's lock, not parking_lot's: the child unlocks it, which must not touch a table of parked threads that another
    // thread of the parent may have locked at the moment of the fork.
    static STILL: RwLock<()> = RwLock::new(());
    static INSTALL: Once = Once::new();

    thread_local! {
        static HELD: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
    }

    /// Keeps the process from forking until the guard is dropped.
    pub(crate) fn hold() -> RwLockReadGuard<'static, ()> {
        STILL.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn install() {
        INSTALL.call_once(|| {
            // SAFETY: the three functions have the right type, do not unwind, and live as long as the process.
            unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        });
    }

    extern "C" fn prepare() {
        // A thread that is ending has no thread-local storage left: it forks unprotected rather than not at all.
        let _ = HELD.try_with(|held| {
            *held.borrow_mut() = Some(STILL.write().unwrap_or_else(PoisonError::into_inner));
        });
    }

    extern "C" fn parent() {
        let _ = HELD.try_with(|held| held.borrow_mut().take());
    }

    extern "C" fn child() {
        super::GENERATION.fetch_add(1, Ordering::Relaxed);
        let _ = HELD.try_with(|held| held.borrow_mut().take());
    }
}

#[cfg(not(unix))]
mod handlers {
    pub(crate) fn hold() {}
    pub(crate) fn install() {}
}

pub(crate) use handlers::{hold, install};

#[cfg(all(test, unix))]
mod tests {
    #![expect(unsafe_code, reason = "fork is a C function")]

    #[test]
    fn a_child_knows_that_it_is_one() {
        super::install();
        let before = super::generation();
        // SAFETY: the child calls only functions that are safe after a fork, and ends itself.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let _still_usable = super::hold();
            let code = i32::from(super::generation() != before + 1);
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `pid` is the child made above, `status` is a valid place.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(status, 0);
        assert_eq!(super::generation(), before);
    }
}
