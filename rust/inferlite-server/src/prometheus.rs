//! `/metrics`, in Prometheus's text format: Triton's names where Triton has one, so that dashboards carry over.

use std::fmt::Write;
use std::time::Duration;

use crate::counts::Reason;
use crate::figures::Figures;
use crate::state::State;

/// In seconds.
const BOUNDS: [f64; 18] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0,
];

/// A family of one value for each version of a model.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    of: fn(&Figures) -> Option<u64>,
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

const FAMILIES: [Family; 19] = [
    Family {
        name: "nv_inference_request_success",
        kind: "counter",
        help: "Number of successful inference requests, all batch sizes",
        of: |figures| Some(figures.succeeded),
    },
    Family {
        name: "nv_inference_count",
        kind: "counter",
        help: "Number of inferences performed (does not include cached requests)",
        of: |figures| Some(figures.rows),
    },
    Family {
        name: "nv_inference_exec_count",
        kind: "counter",
        help: "Number of model executions performed (does not include cached requests)",
        of: |figures| Some(figures.runs),
    },
    Family {
        name: "nv_inference_request_duration_us",
        kind: "counter",
        help: "Cumulative inference request duration in microseconds (includes cached requests)",
        of: |figures| Some(microseconds(figures.request_time)),
    },
    Family {
        name: "nv_inference_queue_duration_us",
        kind: "counter",
        help: "Cumulative inference queuing duration in microseconds (includes cached requests)",
        of: |figures| Some(microseconds(figures.queue_time)),
    },
    Family {
        name: "nv_inference_compute_infer_duration_us",
        kind: "counter",
        help: "Cumulative compute inference duration in microseconds (does not include cached requests)",
        of: |figures| Some(microseconds(figures.compute_time)),
    },
    Family {
        name: "nv_cache_num_hits_per_model",
        kind: "counter",
        help: "Number of cache hits per model",
        of: |figures| figures.cache.as_ref().map(|cache| cache.hits),
    },
    Family {
        name: "nv_cache_num_misses_per_model",
        kind: "counter",
        help: "Number of cache misses per model",
        of: |figures| figures.cache.as_ref().map(|cache| cache.misses),
    },
    Family {
        name: "nv_inference_pending_request_count",
        kind: "gauge",
        help: "Instantaneous number of pending requests awaiting execution per-model.",
        of: |figures| Some(figures.pending),
    },
    Family {
        name: "inferlite_overdue_runs",
        kind: "gauge",
        help: "Runs that have not ended although the time of their caller is over",
        of: |figures| Some(figures.overdue),
    },
    Family {
        name: "inferlite_cache_bytes",
        kind: "gauge",
        help: "Bytes of memory that the answers of a cache take",
        of: |figures| figures.cache.as_ref().map(|cache| cache.bytes as u64),
    },
    Family {
        name: "inferlite_cache_entries",
        kind: "gauge",
        help: "Answers in a cache",
        of: |figures| figures.cache.as_ref().map(|cache| cache.entries as u64),
    },
    Family {
        name: "inferlite_cache_coalesced_total",
        kind: "counter",
        help: "Requests that the computation of an equal one has answered",
        of: |figures| figures.cache.as_ref().map(|cache| cache.coalesced),
    },
    Family {
        name: "inferlite_cache_evictions_total",
        kind: "counter",
        help: "Answers that made room for others",
        of: |figures| figures.cache.as_ref().map(|cache| cache.evictions),
    },
    Family {
        name: "inferlite_cache_shared_hits_total",
        kind: "counter",
        help: "Answers that the server of a shared cache had",
        of: |figures| figures.shared.map(|shared| shared.hits),
    },
    Family {
        name: "inferlite_cache_shared_misses_total",
        kind: "counter",
        help: "Questions that the server of a shared cache had no answer to",
        of: |figures| figures.shared.map(|shared| shared.misses),
    },
    Family {
        name: "inferlite_cache_shared_errors_total",
        kind: "counter",
        help: "Failures of the server of a shared cache",
        of: |figures| figures.shared.map(|shared| shared.errors),
    },
    Family {
        name: "inferlite_cache_shared_paused",
        kind: "gauge",
        help: "Whether the server of a shared cache is left alone since it fails",
        of: |figures| figures.shared.map(|shared| u64::from(shared.is_open)),
    },
    Family {
        name: "inferlite_batch_retries_total",
        kind: "counter",
        help: "Runs of parts of batches that had failed",
        of: |figures| figures.batch.as_ref().map(|batch| batch.retried),
    },
];

/// The whole page.
pub(crate) fn text(state: &State) -> String {
    let figures = state.figures();
    let mut page = String::with_capacity(4096);
    for family in &FAMILIES {
        begin(&mut page, family.name, family.kind, family.help);
        for figures in &figures {
            if let Some(value) = (family.of)(figures) {
                line(&mut page, family.name, &figures.labels(), value);
            }
        }
    }
    let name = "nv_inference_request_failure";
    begin(
        &mut page,
        name,
        "counter",
        "Number of failed inference requests, all batch sizes",
    );
    for figures in &figures {
        for (reason, count) in std::iter::zip(Reason::ALL, figures.failed) {
            line(
                &mut page,
                name,
                &format!("{},reason=\"{}\"", figures.labels(), reason.name()),
                count,
            );
        }
    }
    histograms(&mut page, &figures);
    for (name, kind, help, value) in [
        (
            "inferlite_requests_under_way",
            "gauge",
            "Requests that are being read or answered",
            state.crowd.len() as u64,
        ),
        (
            "inferlite_access_log_lost_lines_total",
            "counter",
            "Lines of the access log that could not be written",
            state.lost_lines(),
        ),
    ] {
        begin(&mut page, name, kind, help);
        let _ = writeln!(page, "{name} {value}");
    }
    page
}

fn histograms(page: &mut String, figures: &[Figures]) {
    let bounds = BOUNDS.map(Duration::from_secs_f64);
    let name = "inferlite_request_duration_seconds";
    begin(page, name, "histogram", "How long requests took that were answered");
    for figures in figures {
        let (counts, sum) = figures.counts.answered.at_most(&bounds);
        let labels = figures.labels();
        for (bound, count) in std::iter::zip(BOUNDS, &counts) {
            line(
                page,
                &format!("{name}_bucket"),
                &format!("{labels},le=\"{bound}\""),
                *count,
            );
        }
        line(
            page,
            &format!("{name}_bucket"),
            &format!("{labels},le=\"+Inf\""),
            figures.succeeded,
        );
        let _ = writeln!(page, "{name}_sum{{{labels}}} {}", sum.as_secs_f64());
        line(page, &format!("{name}_count"), &labels, figures.succeeded);
    }
    let name = "inferlite_batch_size";
    begin(page, name, "histogram", "Rows of the batches that have run");
    for figures in figures {
        let Some(batch) = &figures.batch else { continue };
        let labels = figures.labels();
        let (mut count, mut rows) = (batch.lone, batch.lone);
        let mut sizes = batch.sizes.iter().peekable();
        for power in 0..12_u32 {
            let bound = 1_usize << power;
            while let Some((size, batches)) = sizes.next_if(|(size, _)| *size <= bound) {
                count += batches;
                rows += *size as u64 * batches;
            }
            line(
                page,
                &format!("{name}_bucket"),
                &format!("{labels},le=\"{bound}\""),
                count,
            );
        }
        for (size, batches) in sizes {
            count += batches;
            rows += *size as u64 * batches;
        }
        line(page, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), count);
        line(page, &format!("{name}_sum"), &labels, rows);
        line(page, &format!("{name}_count"), &labels, count);
    }
}

fn begin(page: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(page: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(page, "{name}{{{labels}}} {value}");
}
