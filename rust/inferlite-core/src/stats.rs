//! Counters and histograms that many threads write without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SUB_BITS: u32 = 3;
const SUBS: usize = 1 << SUB_BITS;
const BUCKETS: usize = 64 * SUBS;

/// A histogram of durations with eight buckets per power of two: a quantile is at most 12.5 % too high.
///
/// Recording is one relaxed addition per figure, so that a run that holds an interpreter's lock never waits here.
#[derive(Debug)]
pub struct Latency {
    buckets: Box<[AtomicU64]>,
    total_ns: AtomicU64,
    max_ns: AtomicU64,
}

/// What a [`Latency`] held at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LatencySummary {
    /// How many durations were recorded.
    pub count: u64,
    /// Their mean.
    pub mean: Duration,
    /// The median, from above.
    pub p50: Duration,
    /// The 95th percentile, from above.
    pub p95: Duration,
    /// The 99th percentile, from above.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            total_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < SUBS as u64 {
        return usize::try_from(ns).unwrap_or(0);
    }
    let exponent = ns.ilog2();
    let sub = (ns >> (exponent - SUB_BITS)) & (SUBS as u64 - 1);
    (exponent - SUB_BITS + 1) as usize * SUBS + usize::try_from(sub).unwrap_or(0)
}

fn upper_bound_of(bucket: usize) -> u64 {
    let (octave, sub) = (bucket / SUBS, (bucket % SUBS) as u64);
    if octave == 0 {
        return sub;
    }
    let shift = u32::try_from(octave - 1).unwrap_or(0);
    ((SUBS as u64 + sub + 1) << shift) - 1
}

impl Latency {
    /// Adds one duration.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 1);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }

    /// What has been recorded so far.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        self.summary_with(0)
    }

    /// How many durations were at most as long as each of these, which ascend, by the buckets that lie below them whole;
    /// and the sum of all.
    #[must_use]
    pub fn at_most(&self, bounds: &[Duration]) -> (Vec<u64>, Duration) {
        let mut counts = vec![0; bounds.len()];
        for (bucket, count) in self.buckets.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            // The last ones end beyond what a number of nanoseconds can say.
            if count == 0 {
                continue;
            }
            let longest = Duration::from_nanos(upper_bound_of(bucket));
            let first = bounds.partition_point(|bound| *bound < longest);
            if let Some(counted) = counts.get_mut(first) {
                *counted += count;
            }
        }
        let mut below = 0;
        for count in &mut counts {
            below += *count;
            *count = below;
        }
        (counts, Duration::from_nanos(self.total_ns.load(Ordering::Relaxed)))
    }

    /// The same as if a duration of nothing at all had been recorded so many times more.
    #[must_use]
    pub fn summary_with(&self, zeros: u64) -> LatencySummary {
        let mut counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        counts[0] += zeros;
        let count: u64 = counts.iter().sum();
        if count == 0 {
            return LatencySummary::default();
        }
        let max = self.max_ns.load(Ordering::Relaxed);
        let quantile = |percent: u64| {
            let rank = (count * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let bucket = counts.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            Duration::from_nanos(bucket.map_or(max, upper_bound_of).min(max))
        };
        LatencySummary {
            count,
            mean: Duration::from_nanos(self.total_ns.load(Ordering::Relaxed) / count),
            p50: quantile(50),
            p95: quantile(95),
            p99: quantile(99),
            max: Duration::from_nanos(max),
        }
    }
}

/// What a model counts about its calls.
#[derive(Debug, Default)]
pub struct CallStats {
    /// The latency of the runs that succeeded.
    pub latency: Latency,
    /// Calls that were answered without a run of their own, less the hits of a cache that counts them itself.
    pub answered: AtomicU64,
    /// Rows over all calls that succeeded, less one for each hit of a cache that counts them itself; may wrap.
    pub rows: AtomicU64,
    /// Those among them that no run was made for: they were kept, or another call's computation had them. Less one for
    /// each hit as well; may wrap.
    pub kept_rows: AtomicU64,
}

impl CallStats {
    /// Rows over all runs that succeeded.
    #[must_use]
    pub fn run_rows(&self) -> u64 {
        let kept = self.kept_rows.load(Ordering::Relaxed);
        self.rows.load(Ordering::Relaxed).wrapping_sub(kept)
    }

    /// Takes note of rows that no run was made for.
    pub(crate) fn add_kept_rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.kept_rows.fetch_add(rows, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_says_zero() {
        assert_eq!(Latency::default().summary(), LatencySummary::default());
    }

    #[test]
    fn bounds_count_what_lies_below_them() {
        let latency = Latency::default();
        for us in [1, 2, 90, 2000] {
            latency.record(Duration::from_micros(us));
        }
        let bounds = [5, 100, 1000].map(Duration::from_micros);
        assert_eq!(latency.at_most(&bounds), (vec![2, 3, 3], Duration::from_micros(2093)));
    }

    #[test]
    fn what_took_no_time_counts_without_being_recorded() {
        let latency = Latency::default();
        latency.record(Duration::from_micros(8));
        let summary = latency.summary_with(3);
        assert_eq!((summary.count, summary.p50), (4, Duration::ZERO));
        assert_eq!(
            (summary.mean, summary.max),
            (Duration::from_micros(2), Duration::from_micros(8))
        );
    }

    #[test]
    fn quantiles_come_from_above_and_within_an_eighth() {
        let latency = Latency::default();
        for us in 1..=1000 {
            latency.record(Duration::from_micros(us));
        }
        let summary = latency.summary();
        assert_eq!(summary.count, 1000);
        assert_eq!(summary.max, Duration::from_millis(1));
        for (got, exact) in [(summary.p50, 500.0), (summary.p95, 950.0), (summary.p99, 990.0)] {
            let us = got.as_secs_f64() * 1e6;
            assert!(us >= exact && us <= exact * 1.125, "{us} for {exact}");
        }
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_put_into_it(ns in 0..u64::MAX / 4) {
            let bucket = bucket_of(ns);
            prop_assert!(ns <= upper_bound_of(bucket));
            prop_assert!(bucket == 0 || ns > upper_bound_of(bucket - 1));
        }
    }
}
