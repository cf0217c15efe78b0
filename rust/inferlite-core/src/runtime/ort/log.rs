#![expect(unsafe_code, reason = "the runtime calls back into this module")]
//! What the runtime logs: a bounded queue, so that logging never waits for anyone who reads it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use ort_sys::OrtLoggingFunction;

use super::api::string_of;
use crate::fork;

/// Records beyond this are dropped, oldest first: a failing model in a loop must not fill the memory.
const CAPACITY: usize = 1024;

/// One message of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// From 0, verbose, to 4, fatal.
    pub severity: i32,
    /// What the session is called that speaks, perhaps with the name of its run; empty where none speaks.
    pub id: String,
    /// The part of the runtime that speaks.
    pub category: String,
    /// The place in the runtime's source.
    pub location: String,
    /// The message.
    pub message: String,
}

struct Queue {
    generation: u64,
    waiting: Mutex<Drained>,
}

/// What has gathered since the last look.
#[derive(Debug, Default)]
pub struct Drained {
    /// The records, oldest first.
    pub records: VecDeque<LogRecord>,
    /// How many older ones were dropped.
    pub dropped: u64,
}

static QUEUE: AtomicPtr<Queue> = AtomicPtr::new(std::ptr::null_mut());
static WAITING: AtomicBool = AtomicBool::new(false);

// The lock of a queue may have been held by a thread that a fork left behind: a child starts with a queue of its own,
// and the old one is leaked.
fn queue() -> &'static Queue {
    let current = QUEUE.load(Ordering::Acquire);
    // SAFETY: null or a queue that was leaked below.
    if let Some(queue) = unsafe { current.as_ref() }
        && queue.generation == fork::generation()
    {
        return queue;
    }
    let fresh = Box::into_raw(Box::new(Queue {
        generation: fork::generation(),
        waiting: Mutex::default(),
    }));
    match QUEUE.compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: just made, and never freed from now on.
        Ok(_) => unsafe { &*fresh },
        Err(other) => {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
            // SAFETY: another thread of this process put it there, and queues are never freed.
            unsafe { &*other }
        }
    }
}

/// What the runtime calls for every message.
pub(super) fn callback() -> OrtLoggingFunction {
    // SAFETY: the severity is a number of this size in C; read as an enumeration, one that this build does not know
    // would be undefined behaviour.
    unsafe { std::mem::transmute::<Callback, OrtLoggingFunction>(on_message) }
}

type Callback = unsafe extern "system" fn(*mut c_void, i32, *const c_char, *const c_char, *const c_char, *const c_char);

unsafe extern "system" fn on_message(
    _parameter: *mut c_void,
    severity: i32,
    category: *const c_char,
    id: *const c_char,
    location: *const c_char,
    message: *const c_char,
) {
    let record = LogRecord {
        severity,
        id: string_of(id),
        category: string_of(category),
        location: string_of(location),
        message: string_of(message),
    };
    let record = HELD.with_borrow_mut(|held| match held {
        Some(held) => {
            held.push(record);
            None
        }
        None => Some(record),
    });
    record.into_iter().for_each(push);
}

fn push(record: LogRecord) {
    let mut waiting = queue().waiting.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.records.len() == CAPACITY {
        waiting.records.pop_front();
        waiting.dropped += 1;
    }
    waiting.records.push_back(record);
    WAITING.store(true, Ordering::Release);
}

/// Whether [`drain`] would give anything; costs one load.
#[inline]
#[must_use]
pub fn has_records() -> bool {
    WAITING.load(Ordering::Relaxed)
}

/// Takes the records that have gathered.
#[must_use]
pub fn drain() -> Drained {
    let mut waiting = queue().waiting.lock().unwrap_or_else(PoisonError::into_inner);
    WAITING.store(false, Ordering::Release);
    std::mem::take(&mut *waiting)
}

/// A part of the warning that an optimized graph is for this machine alone, which the key of a kept one says by itself.
const ABOUT_HARDWARE: &str = "hardware specific optimizations";

thread_local! {
    /// What the runtime says on this thread about something that may be tried in another way.
    static HELD: RefCell<Option<Vec<LogRecord>>> = const { RefCell::new(None) };
}

/// Does `work`, of which the runtime's messages count only if something comes of it.
pub(super) fn attempt<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    HELD.set(Some(Vec::new()));
    let done = work();
    let said = HELD.take().unwrap_or_default();
    if done.is_some() {
        said.into_iter()
            .filter(|record| !record.message.contains(ABOUT_HARDWARE))
            .for_each(push);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_records_go_first_when_there_are_too_many() {
        let record = |i: usize| LogRecord {
            severity: 2,
            id: String::new(),
            category: String::new(),
            location: String::new(),
            message: i.to_string(),
        };
        for i in 0..CAPACITY + 5 {
            push(record(i));
        }
        assert!(has_records());
        let drained = drain();
        assert_eq!(drained.records.len(), CAPACITY);
        assert_eq!(drained.dropped, 5);
        assert_eq!(drained.records[0].message, "5");
        assert!(!has_records());
    }
}
