//! How much time trial runs may take.

use std::time::Duration;

use crate::clock::Clock;

/// Trial runs take no longer than this, unless two of them do.
const BUDGET: Duration = Duration::from_millis(100);

/// Whether there is time for another run.
///
/// One that had to wait for a processor says nothing of the model: as much is tried on a busy machine as on a quiet one
/// wherever the quickest run shows that this fits.
pub(super) struct Pace<'a> {
    clock: &'a Clock,
    start: Duration,
    last: Duration,
    quickest: Duration,
    runs: u32,
}

impl<'a> Pace<'a> {
    pub(super) fn new(clock: &'a Clock) -> Self {
        let start = clock.now();
        Self {
            clock,
            start,
            last: start,
            quickest: Duration::MAX,
            runs: 0,
        }
    }

    /// Counts a run that has just ended.
    pub(super) fn count(&mut self) {
        let now = self.clock.now();
        self.quickest = self.quickest.min(now.saturating_sub(self.last));
        self.last = now;
        self.runs += 1;
    }

    /// Whether one more of `planned` runs would take too long.
    pub(super) fn is_over(&self, planned: usize) -> bool {
        let spent = self.clock.now().saturating_sub(self.start);
        let planned = u32::try_from(planned).unwrap_or(u32::MAX);
        spent + spent / self.runs.max(1) > BUDGET && self.quickest.saturating_mul(planned) > BUDGET
    }
}
