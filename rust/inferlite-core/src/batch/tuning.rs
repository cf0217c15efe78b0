//! How many rows a batch should have: from the times of runs, a line `time = per_row * rows + fixed`, and from the line a
//! number.
//!
//! * Without a number from the user, the knee: the fewest rows with which a run does [`YIELD`] of the most that runs of
//!   any size could do in a second. Since that most is one row in `per_row`, the knee is where the rows take so many times
//!   what is fixed: more rows would add to every caller's wait and hardly to what is done.
//! * Where more rows are there at once than two such batches hold, one half of them or another equal part, so that it does
//!   [`MOST_YIELD`] at most: while one part runs, the callers of the others go on, and a small rest, of which each row is
//!   dear, does not come about. The first part is answered later than a smaller one would be, the last one sooner. There
//!   at once are, by what was seen of late, rows that wait and those that were answered just then, whose callers may be
//!   about to call again.
//! * A model of which a row in such a batch costs nearly what it costs alone ([`WORTHWHILE`]) is not batched.
//! * With `target_latency`, the line says how many rows may run so that two runs fit in: the one that is under way when a
//!   call comes, and its own. The line and not AIMD, which has to miss the goal again and again to find out where it is.
//!
//! Times are kept by size, in classes that double, each a moving average in which one outlier counts no more than a run
//! of twice the usual time. The line weighs relative errors, so that long runs do not drown what is fixed, and classes by
//! how lately they ran and not by how often, so that a size which is frequent does not either. Calls with equal shapes
//! have one line.

use std::collections::HashMap;
use std::time::Duration;

/// The knee does this part of what is possible.
const YIELD: f64 = 0.9;
/// A batch among many does at most this part.
const MOST_YIELD: f64 = 0.95;
/// A batch is worthwhile if calls alone take at least so many times as long for each row.
const WORTHWHILE: f64 = 1.1;
/// No knee is beyond; and what a batch holds at most of calls whose times are not known yet.
const MOST_ROWS: usize = 1024;
const UNKNOWN_ROWS: usize = 32;
/// Sizes are told apart up to two to the power of this.
const CLASSES: usize = 16;
/// What one run changes of its class.
const WEIGHT: f64 = 1.0 / 8.0;
/// What a run takes from the freshness of other sizes; and what is left of it at least, since one size makes no line.
const AGING: f64 = 63.0 / 64.0;
const STALE: f64 = 0.01;
/// Of so many shapes at most something is known at a time.
const MOST_SHAPES: usize = 256;

/// How long a run of some rows takes, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Line {
    /// What each row adds.
    pub per_row: f64,
    /// What a run takes whatever the number of its rows.
    pub fixed: f64,
}

impl Line {
    /// How long a run takes.
    #[must_use]
    pub fn time(&self, rows: usize) -> Duration {
        Duration::try_from_secs_f64(self.per_row.mul_add(number(rows), self.fixed) / 1e9).unwrap_or(Duration::MAX)
    }

    /// The fewest rows that do so much of what is possible, if batches are worthwhile; else 1.
    fn knee(&self, part: f64) -> usize {
        let rows = |part: f64| {
            whole(self.fixed * part / (1.0 - part) / self.per_row.max(f64::MIN_POSITIVE)).clamp(1, MOST_ROWS)
        };
        let (alone, together) = (
            self.per_row + self.fixed,
            self.per_row + self.fixed / number(rows(YIELD)),
        );
        if alone >= WORTHWHILE * together { rows(part) } else { 1 }
    }

    /// How many rows run within a time.
    fn rows_within(&self, time: Duration) -> usize {
        whole((time.as_secs_f64().mul_add(1e9, -self.fixed)) / self.per_row.max(f64::MIN_POSITIVE))
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of batches are small")]
fn number(rows: usize) -> f64 {
    rows as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and what is negative or none is 0"
)]
fn whole(rows: f64) -> usize {
    rows as usize
}

/// Times of runs with equal shapes, by the number of rows.
#[derive(Debug, Clone, Default)]
struct Times([Option<Class>; CLASSES]);

/// Runs of about so many rows.
#[derive(Debug, Clone, Copy)]
struct Class {
    rows: f64,
    nanoseconds: f64,
    /// 1 for the class of the last run; less the longer there was none.
    freshness: f64,
}

impl Times {
    fn record(&mut self, rows: usize, took: Duration) {
        let class = (rows.max(1).ilog2() as usize).min(CLASSES - 1);
        let (rows, took) = (number(rows), took.as_secs_f64() * 1e9);
        for known in self.0.iter_mut().flatten() {
            known.freshness *= AGING;
        }
        let known = self.0[class].get_or_insert(Class {
            rows,
            nanoseconds: took,
            freshness: 1.0,
        });
        known.freshness = 1.0;
        // What this run says of the class, whatever its own size inside it.
        let took = took.min(2.0 * known.nanoseconds);
        known.rows += WEIGHT * (rows - known.rows);
        known.nanoseconds += WEIGHT * (took - known.nanoseconds);
    }

    /// The only class that is known, if no other one is.
    fn only(&self) -> Option<&Class> {
        let mut known = self.0.iter().flatten();
        known.next().filter(|_| known.next().is_none())
    }

    /// The line through the classes; `None` before two of them are known.
    fn line(&self) -> Option<Line> {
        let known = || self.0.iter().flatten();
        if known().count() < 2 {
            return None;
        }
        let mut sums = [0.0; 5];
        for class in known() {
            let weight = class.freshness.max(STALE) * class.nanoseconds.max(1.0).powi(-2);
            let terms = [
                1.0,
                class.rows,
                class.rows * class.rows,
                class.nanoseconds,
                class.rows * class.nanoseconds,
            ];
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum += weight * term;
            }
        }
        let [one, rows, squares, times, products] = sums;
        let spread = one * squares - rows * rows;
        let per_row = ((one * products - rows * times) / spread).max(0.0);
        let fixed = (times - per_row * rows) / one;
        if fixed < 0.0 {
            // Through the origin: nothing is fixed.
            return Some(Line {
                per_row: products / squares,
                fixed: 0.0,
            });
        }
        (per_row.is_finite() && fixed.is_finite()).then_some(Line { per_row, fixed })
    }
}

/// What is wanted of the size of batches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goal {
    /// The most rows; `None` for the knee.
    pub(super) max_rows: Option<usize>,
    /// How long a call should take at most.
    pub(super) target_latency: Option<Duration>,
}

impl Goal {
    /// The sizes by what is known: a line, or runs of one size alone.
    ///
    /// One size makes no line, and callers who all come back together would make no other one for ever: the next batches
    /// hold half as many.
    fn sizes(&self, line: Option<Line>, only: Option<&Class>) -> Sizes {
        let (least, most) = match (self.max_rows, line, only) {
            (Some(rows), ..) => (rows, rows),
            (None, Some(line), _) => (line.knee(YIELD), line.knee(MOST_YIELD)),
            (None, None, Some(only)) if only.rows >= 2.0 => {
                let half = whole(only.rows / 2.0).min(UNKNOWN_ROWS);
                (half, half)
            }
            (None, None, _) => (UNKNOWN_ROWS, UNKNOWN_ROWS),
        };
        // As if nothing were fixed, which is the most that fewer rows may take.
        let from_zero = || {
            only.map(|only| Line {
                per_row: only.nanoseconds / only.rows.max(1.0),
                fixed: 0.0,
            })
        };
        let within = match (self.target_latency, line.or_else(from_zero)) {
            (Some(target), Some(line)) => line.rows_within(target / 2),
            _ => usize::MAX,
        };
        Sizes {
            least: least.min(within).max(1),
            most: most.min(within).max(1),
        }
    }
}

/// How many rows a batch holds: so many where no more than twice as many are there at once, and so many at most.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    least: usize,
    most: usize,
}

/// What is known of the times of a model's runs, by shapes.
#[derive(Debug, Default)]
pub(super) struct Tuning {
    goal: Goal,
    known: HashMap<u64, Known, foldhash::fast::RandomState>,
    /// The shapes that were recorded last.
    last: u64,
}

#[derive(Debug, Default)]
struct Known {
    times: Times,
    line: Option<Line>,
    sizes: Sizes,
}

impl Tuning {
    pub(super) fn new(goal: Goal) -> Self {
        Self {
            goal,
            ..Self::default()
        }
    }

    /// Takes note of a run of calls with these shapes.
    pub(super) fn record(&mut self, workload: u64, rows: usize, took: Duration) {
        if self.known.len() >= MOST_SHAPES && !self.known.contains_key(&workload) {
            // What is frequent is known again soon.
            self.known.clear();
        }
        let known = self.known.entry(workload).or_default();
        known.times.record(rows, took);
        known.line = known.times.line();
        known.sizes = self.goal.sizes(known.line, known.times.only());
        self.last = workload;
    }

    fn sizes(&self, workload: u64) -> Sizes {
        let known = self.known.get(&workload);
        known.map_or_else(|| self.goal.sizes(None, None), |known| known.sizes)
    }

    /// How many rows a batch of calls with these shapes holds at most, where so many are there at once.
    pub(super) fn room(&self, workload: u64, company: usize) -> usize {
        let Sizes { least, most } = self.sizes(workload);
        let parts = company.div_ceil(most).max(2);
        company.div_ceil(parts).max(least)
    }

    /// How many rows of these shapes are worth a run.
    pub(super) fn limit(&self, workload: u64) -> usize {
        self.sizes(workload).least
    }

    /// How many rows a batch holds at most, however many are there.
    pub(super) fn most(&self, workload: u64) -> usize {
        self.sizes(workload).most
    }

    /// How long a run takes, if that is known.
    pub(super) fn time(&self, workload: u64, rows: usize) -> Option<Duration> {
        let known = self.known.get(&workload)?;
        known.line.map(|line| line.time(rows))
    }

    /// Whether the shapes that ran last are better off without company, whatever is wanted.
    pub(super) fn gains_nothing(&self) -> bool {
        let line = self.known.get(&self.last).and_then(|known| known.line);
        line.is_some_and(|line| line.knee(YIELD) == 1)
    }

    /// The shapes that ran last: their line, and how many rows a batch of them holds at most.
    pub(super) fn last(&self) -> (Option<Line>, usize) {
        let line = self.known.get(&self.last).and_then(|known| known.line);
        (line, self.most(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn us(microseconds: f64) -> Duration {
        Duration::from_secs_f64(microseconds / 1e6)
    }

    fn tuned(goal: Goal, time: impl Fn(f64) -> f64) -> Tuning {
        let mut tuning = Tuning::new(goal);
        for _ in 0..100 {
            for rows in [1, 2, 4, 8, 16, 32, 64] {
                tuning.record(7, rows, us(time(number(rows))));
            }
        }
        tuning
    }

    #[test]
    fn the_knee_is_where_rows_take_nine_times_what_is_fixed() {
        let tuning = tuned(Goal::default(), |rows| 20.0 + 2.0 * rows);
        assert_eq!(tuning.limit(7), 90);
        let line = tuning.last().0.expect("there are several classes");
        assert!(
            (line.fixed - 20e3).abs() < 1.0 && (line.per_row - 2e3).abs() < 1.0,
            "{line:?}"
        );
        assert_eq!(tuning.limit(8), UNKNOWN_ROWS);
    }

    #[test]
    fn among_many_half_of_them_leave_together() {
        let tuning = tuned(Goal::default(), |rows| 20.0 + 2.0 * rows);
        let rooms = [0, 90, 180, 201, 300, 10_000].map(|company| tuning.room(7, company));
        assert_eq!(rooms, [90, 90, 90, 101, 150, 189]);
        assert_eq!((tuning.limit(7), tuning.most(7)), (90, 189));
        assert_eq!([378, 379, 567].map(|company| tuning.room(7, company)), [189, 127, 189]);
        // Neither beyond what the user says, nor where batches do not pay.
        let goal = Goal {
            max_rows: Some(48),
            target_latency: None,
        };
        assert_eq!(tuned(goal, |rows| 20.0 + 2.0 * rows).room(7, 300), 48);
        let goal = Goal {
            max_rows: None,
            target_latency: Some(us(440.0)),
        };
        assert_eq!(tuned(goal, |rows| 20.0 + 2.0 * rows).room(7, 300), 100);
        assert_eq!(tuned(Goal::default(), |rows| 100.0 * rows).room(7, 300), 1);
    }

    #[test]
    fn callers_who_come_back_together_show_more_than_one_size() {
        let mut tuning = Tuning::new(Goal::default());
        tuning.record(7, 1, us(200.0));
        assert_eq!(tuning.limit(7), UNKNOWN_ROWS);
        let mut tuning = Tuning::new(Goal::default());
        tuning.record(7, 8, us(1_600.0));
        assert_eq!((tuning.limit(7), tuning.last().0), (4, None));
        tuning.record(7, 4, us(800.0));
        assert!(tuning.gains_nothing());
        let mut tuning = Tuning::new(Goal {
            max_rows: Some(64),
            target_latency: Some(us(2_000.0)),
        });
        tuning.record(7, 32, us(6_400.0));
        assert_eq!(tuning.limit(7), 5);
    }

    #[test]
    fn a_model_that_gains_nothing_is_not_batched() {
        assert_eq!(tuned(Goal::default(), |rows| 1.0 + 100.0 * rows).limit(7), 1);
        assert_eq!(tuned(Goal::default(), |rows| 100.0 * rows).limit(7), 1);
        // A time that grows faster than the rows leaves nothing that is fixed.
        assert_eq!(tuned(Goal::default(), |rows| rows * rows).limit(7), 1);
    }

    #[test]
    fn a_run_that_takes_no_longer_for_more_rows_has_no_knee() {
        assert_eq!(tuned(Goal::default(), |_| 50.0).limit(7), MOST_ROWS);
    }

    #[test]
    fn two_runs_fit_into_a_target() {
        let goal = Goal {
            max_rows: Some(64),
            target_latency: Some(us(100.0)),
        };
        assert_eq!(tuned(goal, |rows| 20.0 + 2.0 * rows).limit(7), 15);
        assert_eq!(tuned(goal, |rows| 0.2 + 0.1 * rows).limit(7), 64);
        // A run of one row is the least that there is.
        assert_eq!(tuned(goal, |rows| 200.0 + 2.0 * rows).limit(7), 1);
    }

    #[test]
    fn a_number_from_the_user_counts() {
        let goal = Goal {
            max_rows: Some(48),
            target_latency: None,
        };
        assert_eq!(tuned(goal, |rows| 100.0 * rows).limit(7), 48);
        assert_eq!(Tuning::new(goal).limit(7), 48);
    }

    #[test]
    fn an_outlier_hardly_counts_and_a_change_is_learned() {
        let mut tuning = tuned(Goal::default(), |rows| 20.0 + 2.0 * rows);
        tuning.record(7, 8, us(50_000.0));
        let limit = tuning.limit(7);
        assert!((70..120).contains(&limit), "{limit}");
        for _ in 0..100 {
            tuning.record(7, 1, us(42.0));
            tuning.record(7, 64, us(168.0));
        }
        let line = tuning.last().0.expect("there are several classes");
        assert!(line.fixed > 30e3, "{line:?}");
    }

    proptest! {
        #[test]
        fn a_limit_is_always_a_number_of_rows(
            runs in proptest::collection::vec((0..100_000_usize, 0..u64::MAX), 0..50),
            max_rows in proptest::option::of(1..1000_usize),
            target in proptest::option::of(0..u64::MAX),
        ) {
            let mut tuning = Tuning::new(Goal { max_rows, target_latency: target.map(Duration::from_nanos) });
            for (rows, nanoseconds) in runs {
                tuning.record(1, rows, Duration::from_nanos(nanoseconds));
                let (least, most) = (tuning.limit(1), tuning.most(1));
                prop_assert!(1 <= least && least <= most && most <= MOST_ROWS.max(max_rows.unwrap_or(0)));
            }
        }
    }
}
