//! Traffic without repeats must not pay for a cache: it looks at one call in a few, until repeats return.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// So many look-ups are judged together.
pub(super) const WINDOW: u32 = 10_000;
/// A window with fewer hits than one in so many is not worth its look-ups.
const WORTHWHILE: u32 = 100;
/// So many misses are in a window that is not worth it.
const MANY_MISSES: u32 = WINDOW - WINDOW / WORTHWHILE + 1;
/// While look-ups do not pay, one call in so many is looked up and stored.
pub(super) const SAMPLED: u32 = 64;

/// Decides which calls are looked up.
///
/// A hit writes nothing here, so that threads that hit do not wait for each other's processors: misses are counted, and
/// the hits of a window are asked for when it has too many of those. A window with fewer misses goes on.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    is_sparse: AtomicBool,
    /// Counts of threads that race may be lost: a call is then looked up early or late.
    calls: AtomicU32,
    misses: AtomicU32,
    hits_before: AtomicU64,
}

impl Sampling {
    /// Whether only a sample is looked up now.
    pub(super) fn is_sparse(&self) -> bool {
        self.is_sparse.load(Ordering::Relaxed)
    }

    /// Whether the next call is looked up.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        if !self.is_sparse() {
            return true;
        }
        let calls = self.calls.load(Ordering::Relaxed).wrapping_add(1);
        self.calls.store(calls, Ordering::Relaxed);
        calls.is_multiple_of(SAMPLED)
    }

    /// Takes note of a look-up; `hits` counts all there were so far.
    #[inline]
    pub(super) fn record(&self, is_hit: bool, hits: impl FnOnce() -> u64) {
        // Among a sample, one hit is more than one in a hundred.
        if is_hit == self.is_sparse() {
            if is_hit {
                self.begin_window(false, hits());
            } else {
                self.record_miss(hits);
            }
        }
    }

    fn record_miss(&self, hits: impl FnOnce() -> u64) {
        let misses = self.misses.fetch_add(1, Ordering::Relaxed) + 1;
        if misses < MANY_MISSES {
            return;
        }
        let hits = hits();
        let hits_in_window = hits.saturating_sub(self.hits_before.load(Ordering::Relaxed));
        let lookups = hits_in_window + u64::from(misses);
        if lookups >= u64::from(WINDOW) {
            self.begin_window(hits_in_window * u64::from(WORTHWHILE) < lookups, hits);
        }
    }

    fn begin_window(&self, is_sparse: bool, hits: u64) {
        self.is_sparse.store(is_sparse, Ordering::Relaxed);
        self.misses.store(0, Ordering::Relaxed);
        self.hits_before.store(hits, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls, and what they find; the number of those that were looked up.
    struct Traffic {
        sampling: Sampling,
        hits: u64,
    }

    impl Traffic {
        fn new() -> Self {
            Self {
                sampling: Sampling::default(),
                hits: 0,
            }
        }

        fn pass(&mut self, calls: u32, is_hit: impl Fn(u32) -> bool) -> u32 {
            let mut due = 0;
            for call in 0..calls {
                if self.sampling.is_due() {
                    self.hits += u64::from(is_hit(call));
                    self.sampling.record(is_hit(call), || self.hits);
                    due += 1;
                }
            }
            due
        }
    }

    #[test]
    fn traffic_without_repeats_is_sampled_after_a_window() {
        let mut passing = Traffic::new();
        assert_eq!(passing.pass(WINDOW, |_| false), WINDOW);
        assert!(passing.sampling.is_sparse());
        assert_eq!(passing.pass(100 * SAMPLED, |_| false), 100);
    }

    #[test]
    fn one_hit_in_a_hundred_is_worth_every_look_up() {
        let mut passing = Traffic::new();
        passing.pass(WINDOW, |call| call % WORTHWHILE == 0);
        assert!(!passing.sampling.is_sparse());
        passing.pass(WINDOW, |call| call % (WORTHWHILE + 2) == 1);
        passing.pass(WINDOW / WORTHWHILE, |_| false);
        assert!(passing.sampling.is_sparse());
    }

    #[test]
    fn repeats_bring_every_look_up_back_within_a_thousand_calls() {
        let mut passing = Traffic::new();
        passing.pass(WINDOW, |_| false);
        passing.pass(1_000, |call| call > 200);
        assert!(!passing.sampling.is_sparse());
    }

    #[test]
    fn threads_that_hit_all_the_time_are_always_looked_up() {
        let sampling = Sampling::default();
        let hits = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for call in 0..200_000 {
                        assert!(sampling.is_due());
                        let is_hit = call % 4 != 0;
                        hits.fetch_add(u64::from(is_hit), Ordering::Relaxed);
                        sampling.record(is_hit, || hits.load(Ordering::Relaxed));
                    }
                });
            }
        });
    }
}
