//! What has been counted of one version of a model, gathered from the places that count.

use std::sync::Arc;
use std::time::Duration;

use inferlite_core::batch::BatchSummary;
use inferlite_core::cache::{CacheSummary, PredictionCache, SharedSummary};
use inferlite_core::repository::Served;
use inferlite_core::stats::LatencySummary;

use crate::counts::{Counts, Reason};

/// What there is to tell of one version.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) model: String,
    pub(crate) version: String,
    pub(crate) counts: Arc<Counts>,
    pub(crate) succeeded: u64,
    /// In the order of [`Reason::ALL`].
    pub(crate) failed: [u64; 4],
    /// Of all requests.
    pub(crate) request_time: Duration,
    pub(crate) queue_time: Duration,
    pub(crate) compute_time: Duration,
    /// Those of runs: what a cache has answered is not among them, as with Triton.
    pub(crate) rows: u64,
    pub(crate) runs: u64,
    pub(crate) pending: u64,
    pub(crate) overdue: u64,
    pub(crate) cache: Option<CacheSummary>,
    /// Of the server behind the cache, where answers are shared.
    pub(crate) shared: Option<SharedSummary>,
    pub(crate) batch: Option<BatchSummary>,
}

impl Figures {
    pub(crate) fn of(served: &Served, counts: Arc<Counts>) -> Self {
        let model = &served.model;
        let batch = model.batch_summary();
        let answered = counts.answered.at_most(&[]).1;
        let (runs, compute_time, rows) = model.stats().map_or_else(Default::default, |stats| {
            let latency = stats.latency.summary();
            // A batch counts once for each of its calls there.
            let alone = batch.as_ref().map_or((latency.count, total(latency)), |batch| {
                let batches: u64 = batch.sizes.iter().map(|(_, count)| count).sum();
                (batch.lone + batches, total(batch.compute_time))
            });
            (alone.0, alone.1, stats.run_rows())
        });
        Self {
            model: served.name.to_string(),
            version: served.version_text.to_string(),
            succeeded: counts.answered.summary().count,
            failed: Reason::ALL.map(|reason| counts.failed(reason)),
            request_time: answered + counts.failed_time(),
            queue_time: batch.as_ref().map_or(Duration::ZERO, |batch| total(batch.queue_time)),
            compute_time,
            rows,
            runs,
            pending: counts.pending(),
            overdue: counts.overdue(),
            cache: model.cache().map(PredictionCache::summary),
            shared: model.cache().and_then(PredictionCache::shared_summary),
            batch,
            counts,
        }
    }

    /// As Prometheus wants them.
    pub(crate) fn labels(&self) -> String {
        format!("model=\"{}\",version=\"{}\"", self.model, self.version)
    }
}

fn total(latency: LatencySummary) -> Duration {
    Duration::from_nanos(
        u64::try_from(latency.mean.as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_mul(latency.count),
    )
}
