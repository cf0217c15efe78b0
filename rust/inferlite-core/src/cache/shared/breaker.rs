//! Whether a server is worth a question: decisions without a clock of their own.

use std::time::Duration;

/// So many failures in a row are taken for a server that is gone.
const FAILURES: u32 = 3;
/// How long nothing is asked then.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Pauses double up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Closed while the server answers, open while it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaker {
    Closed {
        failures: u32,
    },
    Open {
        /// When a trial is due.
        until: Duration,
        pause: Duration,
        /// Whether somebody is trying.
        is_tried: bool,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// Whether the server may be asked now; where it was gone, one caller may try, and another one after one more pause.
    pub(super) fn allows(&mut self, now: Duration) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until, pause, is_tried } => {
                let is_due = now >= *until;
                if is_due {
                    *until = now.saturating_add(*pause);
                    *is_tried = true;
                }
                is_due
            }
        }
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, now: Duration) {
        *self = match *self {
            Self::Closed { failures } if failures + 1 < FAILURES => Self::Closed { failures: failures + 1 },
            Self::Closed { .. } => Self::paused(now, FIRST_PAUSE),
            Self::Open {
                pause, is_tried: true, ..
            } => Self::paused(now, (pause * 2).min(LONGEST_PAUSE)),
            // Of a question that was put before the breaker opened.
            open @ Self::Open { .. } => open,
        };
    }

    fn paused(now: Duration, pause: Duration) -> Self {
        Self::Open {
            until: now.saturating_add(pause),
            pause,
            is_tried: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn opened(now: Duration) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.allows(now));
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn failures_open_it_only_if_nothing_succeeds_between_them() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed(Duration::ZERO);
            breaker.failed(Duration::ZERO);
            assert!(!breaker.is_open());
            breaker.succeeded();
        }
        assert!(opened(Duration::ZERO).is_open());
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_one_success_ends_them() {
        let (clock, hand) = Clock::held();
        let mut breaker = opened(clock.now());
        let mut pause = FIRST_PAUSE;
        for _ in 0..10 {
            hand.advance(pause.saturating_sub(Duration::from_nanos(1)));
            assert!(!breaker.allows(clock.now()));
            hand.advance(Duration::from_nanos(1));
            assert!(breaker.allows(clock.now()));
            assert!(!breaker.allows(clock.now()), "one caller tries at a time");
            breaker.failed(clock.now());
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        assert_eq!(pause, LONGEST_PAUSE);
        hand.advance(LONGEST_PAUSE);
        assert!(breaker.allows(clock.now()));
        breaker.succeeded();
        assert!(breaker.allows(clock.now()));
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_trial_that_never_ends_does_not_keep_others_from_trying() {
        let mut breaker = opened(Duration::ZERO);
        assert!(breaker.allows(FIRST_PAUSE));
        assert!(!breaker.allows(FIRST_PAUSE));
        assert!(breaker.allows(FIRST_PAUSE * 2));
    }

    #[test]
    fn late_failures_of_earlier_questions_do_not_lengthen_the_pause() {
        let mut breaker = opened(Duration::ZERO);
        let before = breaker;
        for _ in 0..10 {
            breaker.failed(Duration::from_millis(1));
        }
        assert_eq!(breaker, before);
    }
}
