//! What is counted of the requests to one version of a model.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use inferlite_core::stats::Latency;

/// Requests by how they ended.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// How long those took that were answered, from a body that is there to a reply that is written.
    pub(crate) answered: Latency,
    /// Seconds over all that were not.
    failed_ns: AtomicU64,
    rejected: AtomicU64,
    canceled: AtomicU64,
    broken: AtomicU64,
    wrong: AtomicU64,
    pending: AtomicU64,
    overdue: AtomicU64,
    /// In milliseconds since 1970.
    last: AtomicU64,
}

/// Why a request was not answered, in Triton's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There was no room, or no time left.
    Rejected,
    /// The client went away.
    Canceled,
    /// The model failed.
    Backend,
    /// Anything else: a mistake of the client's.
    Other,
}

impl Reason {
    pub(crate) const ALL: [Self; 4] = [Self::Other, Self::Backend, Self::Canceled, Self::Rejected];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Canceled => "CANCELED",
            Self::Backend => "BACKEND",
            Self::Other => "OTHER",
        }
    }

    fn of(status: u16) -> Self {
        match status {
            503 | 504 => Self::Rejected,
            500.. => Self::Backend,
            _ => Self::Other,
        }
    }
}

/// A request that is being answered; dropped without a word, its client has gone.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    counts: &'a Counts,
    start: Instant,
    has_ended: bool,
}

impl Counts {
    pub(crate) fn begin(&self) -> Counted<'_> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Counted {
            counts: self,
            start: Instant::now(),
            has_ended: false,
        }
    }

    pub(crate) fn failed(&self, reason: Reason) -> u64 {
        self.counter(reason).load(Ordering::Relaxed)
    }

    pub(crate) fn failed_time(&self) -> Duration {
        Duration::from_nanos(self.failed_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// How many runs are under way that were told to end when the time of their caller was over.
    pub(crate) fn overdue(&self) -> u64 {
        self.overdue.load(Ordering::Relaxed)
    }

    pub(crate) fn more_overdue(&self) {
        self.overdue.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn fewer_overdue(&self) {
        self.overdue.fetch_sub(1, Ordering::Relaxed);
    }

    /// When the last answer went out, in milliseconds since 1970; 0 if none has.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn counter(&self, reason: Reason) -> &AtomicU64 {
        match reason {
            Reason::Rejected => &self.rejected,
            Reason::Canceled => &self.canceled,
            Reason::Backend => &self.broken,
            Reason::Other => &self.wrong,
        }
    }
}

impl Counted<'_> {
    pub(crate) fn succeed(mut self) {
        self.has_ended = true;
        self.counts.answered.record(self.start.elapsed());
        self.counts.last.store(now(), Ordering::Relaxed);
    }

    /// Takes note of a reply with this status.
    pub(crate) fn fail(mut self, status: u16) {
        self.end(Reason::of(status));
    }

    fn end(&mut self, reason: Reason) {
        self.has_ended = true;
        self.counts.counter(reason).fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(0);
        self.counts.failed_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Reason::Canceled);
        }
        self.counts.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "clients and logs are told the time of day")]
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_is_counted_once() {
        let counts = Counts::default();
        counts.begin().succeed();
        counts.begin().fail(400);
        counts.begin().fail(503);
        counts.begin().fail(504);
        counts.begin().fail(500);
        drop(counts.begin());
        assert_eq!(counts.answered.summary().count, 1);
        let failed = Reason::ALL.map(|reason| counts.failed(reason));
        assert_eq!(failed, [1, 1, 1, 2]);
        assert_eq!(counts.pending(), 0);
        assert!(counts.last() > 1_600_000_000_000);
        let begun = counts.begin();
        assert_eq!(counts.pending(), 1);
        drop(begun);
    }
}
