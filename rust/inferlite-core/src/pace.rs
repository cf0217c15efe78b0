//! Which shapes of inputs run so quickly that handing over an interpreter's lock would cost more than the run.

use std::hash::Hasher;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustc_hash::FxHasher;

/// A run under this is quick.
pub const QUICK: Duration = Duration::from_micros(10);
/// A run under this may delay an event loop.
pub const BRIEF: Duration = Duration::from_micros(100);
/// While a workload is quick, one run in so many is timed: reading the clock twice is 4 % of the shortest run.
pub const SAMPLED: u32 = 8;
/// How many of the last timed runs of a workload are judged together, and how many of these may be slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many.
    pub runs: u32,
    /// So many slow ones are tolerated.
    pub slow: u32,
}

/// For a run that others wait for: the 99th percentile is quick.
///
/// Not the 99.9th: on a virtual machine of two processors, interrupts alone stretched 0.1 % of runs of 2 us beyond 10 us,
/// and with 16 threads that look whether it is their turn, 0.4 %. The GIL is no worse kept during those than during any
/// other Python code that is interrupted.
pub const STRICT: Window = Window { runs: 1024, slow: 10 };
/// For a run that may delay an event loop: what is to be expected counts. On a machine with other work, one run of 45 us in
/// a hundred takes more than 100 us, and to hand each of them over to another thread cost half as much again.
pub const LENIENT: Window = Window { runs: 128, slow: 16 };
/// How many workloads are watched at a time.
const SLOTS: usize = 64;

/// Stands for the shapes of all inputs of a call, which settle how much work its run is.
///
/// The number of elements would not do: `[1, n] + [1, n]` is n sums, and `[n, 1] + [1, n]` is n squared. A hash does: if
/// two ever met, one run would keep the lock that should not, and no answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload(NonZeroU64);

impl Workload {
    /// The workload of inputs with these indices and shapes; `None` if one of them is unknown.
    #[inline]
    #[must_use]
    pub fn of<'a>(shapes: impl Iterator<Item = Option<(usize, &'a [i64])>>) -> Option<Self> {
        let mut hasher = FxHasher::default();
        for shape in shapes {
            let (index, shape) = shape?;
            hasher.write_usize(index);
            hasher.write_usize(shape.len());
            for &extent in shape {
                hasher.write_i64(extent);
            }
        }
        Some(Self(NonZeroU64::MIN | hasher.finish()))
    }

    fn slot(self) -> usize {
        // The hasher's best bits are the upper ones.
        (self.0.get() >> 32) as usize % SLOTS
    }
}

/// The workloads of whose last runs hardly any was slow.
///
/// Workloads that fall into one slot take it from each other: the newcomer begins its window, and the other one has to
/// prove itself again.
#[derive(Debug)]
pub struct Pace {
    limit: Duration,
    window: Window,
    turn: AtomicU32,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Default)]
struct Slot {
    /// The workload that has proven quick; 0 for none. One word, so that no thread sees the verdict on another one.
    quick: AtomicU64,
    /// The workload that the counters are about.
    watched: AtomicU64,
    runs: AtomicU32,
    slow: AtomicU32,
}

impl Slot {
    fn begin(&self) {
        self.runs.store(0, Ordering::Relaxed);
        self.slow.store(0, Ordering::Relaxed);
    }
}

impl Pace {
    /// Watches for runs that are under `limit`.
    #[must_use]
    pub fn new(limit: Duration, window: Window) -> Self {
        Self {
            limit,
            window,
            turn: AtomicU32::new(0),
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }

    #[inline]
    fn slot(&self, workload: Workload) -> &Slot {
        &self.slots[workload.slot()]
    }

    /// Whether runs of this workload have proven quick.
    #[inline]
    #[must_use]
    pub fn is_quick(&self, workload: Workload) -> bool {
        self.slot(workload).quick.load(Ordering::Relaxed) == workload.0.get()
    }

    /// Whether the next run of this workload should be timed: always, until it has proven quick.
    #[inline]
    #[must_use]
    pub fn is_due(&self, workload: Workload) -> bool {
        if !self.is_quick(workload) {
            return true;
        }
        let turn = self.turn.load(Ordering::Relaxed).wrapping_add(1);
        self.turn.store(turn, Ordering::Relaxed);
        turn.is_multiple_of(SAMPLED)
    }

    /// Takes note of one run.
    ///
    /// Counts of threads that race may be lost or doubled: a verdict is then a run early or late, never about another
    /// workload's runs as a whole.
    #[inline]
    pub fn record(&self, workload: Workload, took: Duration) {
        let slot = self.slot(workload);
        if slot.watched.swap(workload.0.get(), Ordering::Relaxed) != workload.0.get() {
            slot.quick.store(0, Ordering::Relaxed);
            slot.begin();
        }
        if took >= self.limit {
            let count = slot.slow.load(Ordering::Relaxed) + 1;
            slot.slow.store(count, Ordering::Relaxed);
            if count > self.window.slow {
                slot.quick.store(0, Ordering::Relaxed);
                slot.begin();
                return;
            }
        }
        let runs = slot.runs.load(Ordering::Relaxed) + 1;
        slot.runs.store(runs, Ordering::Relaxed);
        if runs >= self.window.runs {
            slot.quick.store(workload.0.get(), Ordering::Relaxed);
            slot.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(2);
    const SLOW: Duration = Duration::from_millis(1);

    fn load(shapes: &[&[i64]]) -> Workload {
        Workload::of(shapes.iter().copied().enumerate().map(Some)).expect("all are known")
    }

    fn window(pace: &Pace, workload: Workload, took: Duration) {
        for _ in 0..STRICT.runs {
            pace.record(workload, took);
        }
    }

    #[test]
    fn nothing_is_quick_before_a_whole_window_was_measured() {
        let (pace, row) = (Pace::new(QUICK, STRICT), load(&[&[1, 4]]));
        for _ in 1..STRICT.runs {
            pace.record(row, FAST);
        }
        assert!(!pace.is_quick(row));
        pace.record(row, FAST);
        assert!(pace.is_quick(row));
    }

    #[test]
    fn other_shapes_of_as_many_elements_or_fewer_are_not_quick() {
        let pace = Pace::new(QUICK, STRICT);
        window(&pace, load(&[&[1, 2000], &[1, 2000]]), FAST);
        assert!(!pace.is_quick(load(&[&[2000, 1], &[1, 2000]])));
        assert!(!pace.is_quick(load(&[&[1, 2000, 1], &[2000]])));
        assert!(!pace.is_quick(load(&[&[1, 1], &[1, 1]])));
        assert!(!pace.is_quick(load(&[])));
    }

    #[test]
    fn what_is_left_out_or_unknown_is_another_workload() {
        let shape: &[i64] = &[1, 4];
        let only = |index| Workload::of(std::iter::once(Some((index, shape))));
        assert_ne!(only(0), only(1));
        assert_eq!(Workload::of([Some((0, shape)), None].into_iter()), None);
    }

    #[test]
    fn one_slow_run_in_a_hundred_is_tolerated_and_the_next_is_not() {
        let (pace, row) = (Pace::new(QUICK, STRICT), load(&[&[1, 4]]));
        window(&pace, row, FAST);
        for _ in 0..(STRICT.slow) {
            pace.record(row, SLOW);
        }
        assert!(pace.is_quick(row));
        pace.record(row, SLOW);
        assert!(!pace.is_quick(row));
        window(&pace, row, FAST);
        assert!(pace.is_quick(row));
    }

    #[test]
    fn workloads_that_share_a_slot_never_share_a_verdict() {
        let (pace, first) = (Pace::new(QUICK, STRICT), load(&[&[1]]));
        let second = (2..1_000_000)
            .map(|extent| load(&[&[extent]]))
            .find(|other| other.slot() == first.slot())
            .expect("there are more shapes than slots");
        window(&pace, first, FAST);
        assert!(!pace.is_quick(second));
        pace.record(second, FAST);
        assert!(!pace.is_quick(first));
        window(&pace, second, FAST);
        assert!(pace.is_quick(second));
        assert!(!pace.is_quick(first));
    }

    #[test]
    fn shapes_spread_over_the_slots() {
        let taken: std::collections::HashSet<_> = (0..256).map(|rows| load(&[&[rows, 4]]).slot()).collect();
        assert!(taken.len() > SLOTS / 2, "{} slots of {SLOTS}", taken.len());
    }

    #[test]
    fn a_workload_is_always_timed_until_it_has_proven_quick() {
        let (pace, row) = (Pace::new(QUICK, STRICT), load(&[&[1, 4]]));
        assert!((0..3 * SAMPLED).all(|_| pace.is_due(row)));
        window(&pace, row, FAST);
        assert_eq!((0..3 * SAMPLED).filter(|_| pace.is_due(row)).count(), 3);
        assert!(pace.is_due(load(&[&[1, 5]])));
    }
}
