//! What the live cache of a model or a session is asked, behind `inferlite.PredictionCache`.

use std::time::Duration;

use inferlite_core::Model;
use inferlite_core::cache::{CacheSettings, Limits, Policy};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::boundary::detach;

/// `inferlite.Cache` as the Python layer hands it over.
#[derive(FromPyObject, Clone, Copy)]
#[pyo3(from_item_all)]
pub(crate) struct Given {
    max_bytes: usize,
    max_entries: Option<usize>,
    /// In seconds.
    ttl: Option<f64>,
    #[pyo3(from_py_with = policy)]
    policy: Policy,
}

fn policy(name: &Bound<'_, PyAny>) -> PyResult<Policy> {
    match name.extract()? {
        "lru" => Ok(Policy::Lru),
        "s3-fifo" => Ok(Policy::S3Fifo),
        other => Err(PyValueError::new_err(format!("there is no policy `{other}`"))),
    }
}

pub(crate) fn settings(given: Given) -> CacheSettings {
    CacheSettings {
        limits: limits(given.max_bytes, given.max_entries),
        // Seconds beyond what a duration holds are as good as for ever.
        ttl: given.ttl.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        policy: given.policy,
    }
}

fn limits(max_bytes: usize, max_entries: Option<usize>) -> Limits {
    Limits {
        max_bytes,
        max_entries: max_entries.unwrap_or(usize::MAX),
    }
}

/// The figures of `inferlite.CacheStats`, in its order, then the limits; `None` without a cache.
pub(crate) fn summary<'py>(py: Python<'py>, model: &Model) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(cache) = model.cache() else { return Ok(None) };
    let (summary, limits) = detach(py, || (cache.summary(), cache.limits()));
    let max_entries = Some(limits.max_entries).filter(|&entries| entries != usize::MAX);
    let figures = [
        summary.hits.into_bound_py_any(py)?,
        summary.misses.into_bound_py_any(py)?,
        summary.coalesced.into_bound_py_any(py)?,
        summary.skipped.into_bound_py_any(py)?,
        summary.evictions.into_bound_py_any(py)?,
        summary.expired.into_bound_py_any(py)?,
        summary.entries.into_bound_py_any(py)?,
        summary.bytes.into_bound_py_any(py)?,
        summary.is_sampling.into_bound_py_any(py)?,
        limits.max_bytes.into_bound_py_any(py)?,
        max_entries.into_bound_py_any(py)?,
    ];
    PyTuple::new(py, figures).map(Some)
}

pub(crate) fn clear(py: Python<'_>, model: &Model) {
    detach(py, || {
        if let Some(cache) = model.cache() {
            cache.clear();
        }
    });
}

pub(crate) fn resize(py: Python<'_>, model: &Model, max_bytes: usize, max_entries: Option<usize>) {
    detach(py, || {
        if let Some(cache) = model.cache() {
            cache.resize(limits(max_bytes, max_entries));
        }
    });
}
