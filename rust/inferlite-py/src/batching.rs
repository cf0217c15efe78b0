//! `inferlite.Batching` on its way into the core, and what is counted of batches on its way out.

use std::time::Duration;

use inferlite_core::Model;
use inferlite_core::batch::BatchSettings;
use inferlite_core::rows::{DeclaredLength, Filling};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::live_cache;

/// `inferlite.Batching` as the Python layer hands it over; times in seconds.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Given {
    max_rows: Option<usize>,
    max_delay: f64,
    max_queue: usize,
    instances: usize,
    target_latency: Option<f64>,
    pad: Vec<GivenPad>,
    /// What `timeout` is where a call does not say.
    pub(crate) timeout: Option<Py<PyAny>>,
}

/// `inferlite.Pad`, with an axis in each item.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct GivenPad {
    inputs: Vec<(String, usize, GivenFilling)>,
    sizes: Vec<usize>,
    outputs: Vec<(String, usize)>,
}

#[derive(FromPyObject)]
enum GivenFilling {
    Integer(i64),
    Number(f64),
    Text(String),
}

impl GivenFilling {
    fn filling(&self) -> Filling {
        match self {
            Self::Integer(number) => Filling::Integer(*number),
            Self::Number(number) => Filling::Number(*number),
            Self::Text(text) => Filling::Text(text.clone()),
        }
    }
}

impl Given {
    /// Lengths that calls of a batch may differ in.
    pub(crate) fn lengths(&self) -> Vec<DeclaredLength> {
        let length = |pad: &GivenPad| DeclaredLength {
            inputs: pad
                .inputs
                .iter()
                .map(|(name, axis, filling)| (name.clone(), *axis, filling.filling()))
                .collect(),
            sizes: pad.sizes.clone(),
            outputs: pad.outputs.clone(),
        };
        self.pad.iter().map(length).collect()
    }

    pub(crate) fn settings(&self) -> BatchSettings {
        // More seconds than a duration holds are as good as the most.
        let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        BatchSettings {
            max_rows: self.max_rows,
            max_delay: duration(self.max_delay),
            max_queue: self.max_queue,
            instances: self.instances,
            target_latency: self.target_latency.map(duration),
        }
    }
}

/// An `inferlite.BatchingStats`; `None` where calls are not batched.
pub(crate) fn stats<'py>(py: Python<'py>, model: &Model) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(summary) = model.batch_summary() else {
        return Ok(None);
    };
    let figures = [
        ("lone", summary.lone),
        ("idle", summary.idle),
        ("full", summary.full),
        ("delay", summary.delay),
        ("deadline", summary.deadline),
        ("dropped", summary.dropped),
        ("refused", summary.refused),
        ("retried", summary.retried),
        ("running", summary.running),
    ];
    let figures = figures.into_py_dict(py)?;
    figures.set_item("sizes", summary.sizes.into_py_dict(py)?)?;
    figures.set_item("queue_time", live_cache::latency(py, summary.queue_time)?)?;
    figures.set_item("compute_time", live_cache::latency(py, summary.compute_time)?)?;
    figures.set_item("queued_calls", summary.queued_calls)?;
    figures.set_item("queued_rows", summary.queued_rows)?;
    figures.set_item("max_rows", summary.max_rows)?;
    figures.set_item("seconds_per_row", summary.line.map(|line| line.per_row / 1e9))?;
    figures.set_item("seconds_per_run", summary.line.map(|line| line.fixed / 1e9))?;
    figures.set_item("rounding", summary.rounding)?;
    figures.set_item("pays", !summary.is_off)?;
    stats_of(py, &figures).map(Some)
}

fn stats_of<'py>(py: Python<'py>, figures: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import("inferlite.metadata")?.getattr("BatchingStats")?;
    class.call((), Some(figures))
}
