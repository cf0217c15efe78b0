//! What time it is, for whatever grows old: the system's monotonic clock, or one that tests hold still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that never goes back.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System(Instant),
    Held(Arc<AtomicU64>),
}

impl Default for Clock {
    fn default() -> Self {
        Self(Source::System(Instant::now()))
    }
}

impl Clock {
    /// A clock that stands still until its [`Hand`] moves it.
    #[must_use]
    pub fn held() -> (Self, Hand) {
        let nanoseconds = Arc::<AtomicU64>::default();
        (Self(Source::Held(nanoseconds.clone())), Hand(nanoseconds))
    }

    /// The time since the clock was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::System(start) => start.elapsed(),
            Source::Held(nanoseconds) => Duration::from_nanos(nanoseconds.load(Ordering::Acquire)),
        }
    }
}

impl Clock {
    /// The time since 1970, for what outlives the process; it may jump, where [`Clock::now`] never goes back.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "only the wall clock means something to another process"
    )]
    pub fn wall(&self) -> Duration {
        match &self.0 {
            Source::System(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Held(_) => self.now(),
        }
    }
}

/// Moves a clock that is held.
#[derive(Debug, Clone)]
pub struct Hand(Arc<AtomicU64>);

impl Hand {
    /// Lets this much time pass.
    pub fn advance(&self, by: Duration) {
        let nanoseconds = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanoseconds, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_clock_moves_only_by_hand() {
        let (clock, hand) = Clock::held();
        assert_eq!(clock.now(), Duration::ZERO);
        hand.advance(Duration::from_secs(3));
        assert_eq!(clock.now(), Duration::from_secs(3));
    }

    #[test]
    fn the_systems_clock_does_not_go_back() {
        let clock = Clock::default();
        let first = clock.now();
        assert!(clock.now() >= first);
    }
}
