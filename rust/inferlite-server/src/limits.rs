//! How much a client may ask of the server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The most of everything; what is beyond is refused at once, and nothing else suffers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body, after decompression.
    pub body: usize,
    /// Until a request's headers are there.
    pub header_time: Duration,
    /// Until a request's body is there.
    pub body_time: Duration,
    /// How long a connection may be silent between requests.
    pub idle_time: Duration,
    /// Open connections, over all workers.
    pub connections: usize,
    /// Requests that are read or answered at once.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 << 20,
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(75),
            connections: 10_000,
            requests: 4_096,
        }
    }
}

/// Counts the requests under way.
#[derive(Debug, Default)]
pub(crate) struct Crowd(AtomicUsize);

/// One request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guest<'a>(&'a Crowd);

impl Crowd {
    /// Lets one more in, unless there are `most` already.
    pub(crate) fn admit(&self, most: usize) -> Option<Guest<'_>> {
        let guest = Guest(self);
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(guest)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_is_refused_and_leaves_no_trace() {
        let crowd = Crowd::default();
        let (one, two) = (crowd.admit(2), crowd.admit(2));
        assert!(one.is_some() && two.is_some() && crowd.admit(2).is_none());
        assert_eq!(crowd.len(), 2);
        drop(one);
        assert!(crowd.admit(2).is_some());
        drop(two);
        assert_eq!(crowd.len(), 0);
    }
}
