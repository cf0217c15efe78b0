//! Surviving `fork()`: the child has one thread, and whatever the others held is lost to it.
//!
//! `pthread_atfork` counts generations, so nobody asks for a process id per call. What must not be half done in a
//! child (the runtime's own process-wide locks, taken while a session is made or released; the log queue) is held
//! still while the process forks.

use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// How many forks lie between this process and the one that loaded the library.
#[inline]
#[must_use]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
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
