//! Which sizes of input run so quickly that handing over an interpreter's lock would cost more than the run.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// A run under this is quick.
pub const QUICK: Duration = Duration::from_micros(10);
/// How many of the last timed runs of a size are judged together.
pub const WINDOW: u32 = 1024;
/// While a size is quick, one run in so many is timed: reading the clock twice is 4 % of the shortest run.
pub const SAMPLED: u32 = 8;
/// The 99th percentile of a window is quick as long as no more than this many of its runs are not.
///
/// Not the 99.9th: on a virtual machine of two processors, interrupts alone stretched 0.1 % of runs of 2 us beyond 10 us,
/// and with 16 threads that look whether it is their turn, 0.4 %. The GIL is no worse kept during those than during any
/// other Python code that is interrupted.
const TOLERATED: u32 = WINDOW / 100;
const CLASSES: usize = usize::BITS as usize + 1;

/// The largest input size for which the 99th percentile of the last runs is quick.
///
/// Sizes are kept by power of two; within a class only sizes up to the largest one that was measured count. A size
/// is quick only if every smaller class that was measured is quick, too.
#[derive(Debug)]
pub struct Pace {
    limit: AtomicUsize,
    turn: AtomicU32,
    classes: [Class; CLASSES],
}

#[derive(Debug, Default)]
struct Class {
    runs: AtomicU32,
    slow: AtomicU32,
    largest: AtomicUsize,
    verdict: AtomicU32,
}

const UNKNOWN: u32 = 0;
const IS_QUICK: u32 = 1;
const IS_SLOW: u32 = 2;

impl Default for Pace {
    fn default() -> Self {
        Self {
            limit: AtomicUsize::new(0),
            turn: AtomicU32::new(0),
            classes: std::array::from_fn(|_| Class::default()),
        }
    }
}

fn class_of(elements: usize) -> usize {
    (usize::BITS - elements.leading_zeros()) as usize
}

impl Pace {
    /// Whether inputs of this many elements in all have proven quick.
    #[inline]
    #[must_use]
    pub fn is_quick(&self, elements: usize) -> bool {
        elements < self.limit.load(Ordering::Relaxed)
    }

    /// Whether the next run of this many elements should be timed: always, until its size has proven quick.
    #[inline]
    #[must_use]
    pub fn is_due(&self, elements: usize) -> bool {
        if !self.is_quick(elements) {
            return true;
        }
        let turn = self.turn.load(Ordering::Relaxed).wrapping_add(1);
        self.turn.store(turn, Ordering::Relaxed);
        turn.is_multiple_of(SAMPLED)
    }

    /// Takes note of one run.
    ///
    /// Counts of threads that race may be lost or doubled: a verdict is then a run early or late, never unsound.
    #[inline]
    pub fn record(&self, elements: usize, took: Duration) {
        let class = &self.classes[class_of(elements)];
        if elements > class.largest.load(Ordering::Relaxed) {
            // A size not seen before starts its window anew: what smaller ones proved says nothing about it.
            class.largest.store(elements, Ordering::Relaxed);
            class.runs.store(0, Ordering::Relaxed);
            class.slow.store(0, Ordering::Relaxed);
            self.judge(class, UNKNOWN);
        }
        if took >= QUICK {
            let slow = class.slow.load(Ordering::Relaxed) + 1;
            class.slow.store(slow, Ordering::Relaxed);
            if slow > TOLERATED {
                class.runs.store(0, Ordering::Relaxed);
                class.slow.store(0, Ordering::Relaxed);
                self.judge(class, IS_SLOW);
                return;
            }
        }
        let runs = class.runs.load(Ordering::Relaxed) + 1;
        class.runs.store(runs, Ordering::Relaxed);
        if runs >= WINDOW {
            class.runs.store(0, Ordering::Relaxed);
            class.slow.store(0, Ordering::Relaxed);
            self.judge(class, IS_QUICK);
        }
    }

    #[inline]
    fn judge(&self, class: &Class, verdict: u32) {
        if class.verdict.swap(verdict, Ordering::Relaxed) != verdict {
            self.recompute();
        }
    }

    #[cold]
    fn recompute(&self) {
        let mut limit = 0;
        for class in &self.classes {
            match class.verdict.load(Ordering::Relaxed) {
                IS_QUICK => limit = class.largest.load(Ordering::Relaxed).saturating_add(1),
                IS_SLOW => break,
                _ if class.largest.load(Ordering::Relaxed) > 0 => break,
                _ => {}
            }
        }
        self.limit.store(limit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(2);
    const SLOW: Duration = Duration::from_millis(1);

    fn window(pace: &Pace, elements: usize, took: Duration) {
        for _ in 0..WINDOW {
            pace.record(elements, took);
        }
    }

    #[test]
    fn nothing_is_quick_before_a_whole_window_was_measured() {
        let pace = Pace::default();
        for _ in 1..WINDOW {
            pace.record(4, FAST);
        }
        assert!(!pace.is_quick(4));
        pace.record(4, FAST);
        assert!(pace.is_quick(4));
    }

    #[test]
    fn a_larger_input_than_any_measured_is_not_quick() {
        let pace = Pace::default();
        window(&pace, 4, FAST);
        assert!(pace.is_quick(3));
        assert!(!pace.is_quick(5));
        assert!(!pace.is_quick(1_000_000));
    }

    #[test]
    fn one_slow_run_in_a_hundred_is_tolerated_and_the_next_is_not() {
        let pace = Pace::default();
        window(&pace, 4, FAST);
        for _ in 0..TOLERATED {
            pace.record(4, SLOW);
        }
        assert!(pace.is_quick(4));
        pace.record(4, SLOW);
        assert!(!pace.is_quick(4));
        window(&pace, 4, FAST);
        assert!(pace.is_quick(4));
    }

    #[test]
    fn a_slow_small_size_bars_the_larger_ones() {
        let pace = Pace::default();
        window(&pace, 64, FAST);
        assert!(pace.is_quick(64));
        window(&pace, 4, SLOW);
        assert!(!pace.is_quick(64));
    }

    #[test]
    fn a_larger_size_of_a_quick_class_must_prove_itself() {
        let pace = Pace::default();
        window(&pace, 5, FAST);
        pace.record(7, SLOW);
        assert!(!pace.is_quick(7));
    }

    #[test]
    fn a_size_is_always_timed_until_it_has_proven_quick() {
        let pace = Pace::default();
        assert!((0..3 * SAMPLED).all(|_| pace.is_due(4)));
        window(&pace, 4, FAST);
        assert_eq!((0..3 * SAMPLED).filter(|_| pace.is_due(4)).count(), 3);
        assert!(pace.is_due(5));
    }

    #[test]
    fn an_input_without_elements_can_be_quick() {
        let pace = Pace::default();
        window(&pace, 0, FAST);
        assert!(pace.is_quick(0));
    }
}
