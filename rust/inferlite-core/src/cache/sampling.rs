//! Traffic without repeats must not pay for a cache: it looks at one call in a few, until repeats return.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// So many look-ups are judged together.
pub(super) const WINDOW: u32 = 10_000;
/// A window with fewer hits than one in so many is not worth its look-ups.
const WORTHWHILE: u32 = 100;
/// While look-ups do not pay, one call in so many is looked up and stored.
pub(super) const SAMPLED: u32 = 64;
/// So many look-ups of a sample are judged together: few, so that repeats are noticed within a thousand calls.
const SAMPLE: u32 = 8;

/// Decides which calls are looked up.
///
/// Counts of threads that race may be lost: a decision is then a call early or late.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    is_sparse: AtomicBool,
    calls: AtomicU32,
    lookups: AtomicU32,
    hits: AtomicU32,
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

    /// Takes note of a look-up.
    #[inline]
    pub(super) fn record(&self, is_hit: bool) {
        let hits = self.hits.load(Ordering::Relaxed) + u32::from(is_hit);
        let lookups = self.lookups.load(Ordering::Relaxed) + 1;
        let is_sparse = self.is_sparse();
        let window = if is_sparse { SAMPLE } else { WINDOW };
        if lookups >= window || (is_sparse && is_hit) {
            self.is_sparse.store(hits * WORTHWHILE < lookups, Ordering::Relaxed);
            self.hits.store(0, Ordering::Relaxed);
            self.lookups.store(0, Ordering::Relaxed);
        } else {
            self.hits.store(hits, Ordering::Relaxed);
            self.lookups.store(lookups, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(sampling: &Sampling, calls: u32, is_hit: impl Fn(u32) -> bool) -> u32 {
        let due = (0..calls).filter(|call| {
            let is_due = sampling.is_due();
            if is_due {
                sampling.record(is_hit(*call));
            }
            is_due
        });
        u32::try_from(due.count()).unwrap_or(0)
    }

    #[test]
    fn traffic_without_repeats_is_sampled_after_a_window() {
        let sampling = Sampling::default();
        assert_eq!(traffic(&sampling, WINDOW, |_| false), WINDOW);
        assert!(sampling.is_sparse());
        assert_eq!(traffic(&sampling, 100 * SAMPLED, |_| false), 100);
    }

    #[test]
    fn one_hit_in_a_hundred_is_worth_every_look_up() {
        let sampling = Sampling::default();
        traffic(&sampling, WINDOW, |call| call % WORTHWHILE == 0);
        assert!(!sampling.is_sparse());
        traffic(&sampling, WINDOW, |call| call % (WORTHWHILE + 2) == 1);
        assert!(sampling.is_sparse());
    }

    #[test]
    fn repeats_bring_every_look_up_back_within_a_thousand_calls() {
        let sampling = Sampling::default();
        traffic(&sampling, WINDOW, |_| false);
        traffic(&sampling, 1_000, |call| call > 200);
        assert!(!sampling.is_sparse());
    }
}
