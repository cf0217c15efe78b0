//! How many runs are under way, and whether a call may begin at once: one word, so that a lone call pays one atomic
//! operation to come in and one to go out.

use std::sync::atomic::Ordering;

use crate::sync::AtomicU64;

/// Calls wait: whoever comes stands in line behind them, and whoever goes out serves them.
const QUEUED: u64 = 1;
/// Nobody comes in by this door: all calls stand in line.
const HELD: u64 = 2;
const RUN: u64 = 1 << 8;
const RUNS: u64 = 0xFFFF;
/// The rest of the word counts calls that have come in and gone out without standing in line.
const LONE: u64 = 1 << 24;

/// So many runs may be under way at most.
pub(super) const MOST_RUNS: u64 = RUNS - 1;

/// The door to the model.
#[derive(Debug)]
pub(super) struct Gate {
    word: AtomicU64,
    max_runs: u64,
}

fn runs(word: u64) -> u64 {
    (word / RUN) & RUNS
}

impl Gate {
    /// A door that so many runs may pass at a time; through the queue alone, if it `is_held`.
    pub(super) fn new(max_runs: u64, is_held: bool) -> Self {
        Self {
            word: AtomicU64::new(if is_held { HELD } else { 0 }),
            max_runs: max_runs.clamp(1, MOST_RUNS),
        }
    }

    fn try_add(&self, flags: u64) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & flags != 0 || runs(word) >= self.max_runs {
                return false;
            }
            match self
                .word
                .compare_exchange_weak(word, word + RUN, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Comes in, if there is room and nobody waits.
    #[inline]
    pub(super) fn enter(&self) -> bool {
        self.try_add(QUEUED | HELD)
    }

    /// Comes in for those who wait; under the lock of the queue.
    pub(super) fn enter_for_queue(&self) -> bool {
        self.try_add(0)
    }

    /// Goes out after a run that did not stand in line. Whether somebody waits.
    #[inline]
    pub(super) fn leave_alone(&self) -> bool {
        // Everything that the run has done comes before what the next one does.
        let before = self.word.fetch_add(LONE.wrapping_sub(RUN), Ordering::AcqRel);
        before & QUEUED != 0
    }

    /// Goes out after a run for those who waited; under the lock of the queue, whose owner looks by itself who is next.
    pub(super) fn leave(&self) {
        self.word.fetch_sub(RUN, Ordering::AcqRel);
    }

    /// Says whether calls wait; under the lock of the queue.
    ///
    /// Whoever sees that nobody waits while somebody joins has gone out before this, so that the one who joins, and looks
    /// for room after this, finds the room that was left.
    pub(super) fn set_queued(&self, is_queued: bool) {
        if is_queued {
            self.word.fetch_or(QUEUED, Ordering::AcqRel);
        } else {
            self.word.fetch_and(!QUEUED, Ordering::AcqRel);
        }
    }

    /// Lets nobody come in but through the queue from now on.
    pub(super) fn hold(&self) {
        self.word.fetch_or(HELD, Ordering::AcqRel);
    }

    /// Whether a call would come in now.
    pub(super) fn is_open(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word & (QUEUED | HELD) == 0 && runs(word) < self.max_runs
    }

    /// How many calls have come in and gone out without standing in line.
    pub(super) fn lone(&self) -> u64 {
        self.word.load(Ordering::Relaxed) / LONE
    }

    /// How many runs are under way.
    pub(super) fn runs(&self) -> u64 {
        runs(self.word.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_in_as_there_is_room_for() {
        let gate = Gate::new(2, false);
        assert!(gate.enter() && gate.enter() && !gate.enter() && !gate.enter_for_queue());
        assert!(!gate.leave_alone());
        assert!(gate.enter());
        assert_eq!((gate.runs(), gate.lone()), (2, 1));
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let gate = Gate::new(1, false);
        assert!(gate.enter());
        gate.set_queued(true);
        assert!(gate.leave_alone());
        assert!(!gate.enter() && gate.enter_for_queue());
        gate.set_queued(false);
        gate.leave();
        assert!(gate.enter());
    }

    #[test]
    fn a_door_that_is_held_opens_for_the_queue_alone() {
        let gate = Gate::new(1, true);
        assert!(!gate.enter() && gate.enter_for_queue());
        gate.leave();
        assert_eq!((gate.runs(), gate.lone()), (0, 0));
    }
}
