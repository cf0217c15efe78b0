//! `inferlite._core`: the core, as Python sees it.
#![expect(
    clippy::doc_markdown,
    reason = "docstrings are written for Python's `help`, which shows no Markdown"
)]

mod array;
mod asker;
mod batching;
mod bound;
mod boundary;
mod closable;
mod dlpack;
mod event_loop;
mod exchange;
mod extended;
mod feed;
mod file;
mod io_binding;
mod live_cache;
mod logging;
mod model;
mod ortvalue;
mod prediction;
mod rows;
mod run_options;
mod server;
mod session;
mod settings;
mod sparse;
mod ticket;
mod turn;
mod value;
mod vectorcall;
mod wire;
mod zipped;

use std::path::PathBuf;

use inferlite_core::{runtime::ort, threads};
use pyo3::prelude::*;

use boundary::PyCoreError;

/// Loads ONNX Runtime's shared library; once per process.
///
/// Raises:
///     BackendUnavailableError: it cannot be used; the text names the file and the remedy.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
fn load_runtime(py: Python<'_>, path: PathBuf) -> Result<(), PyCoreError> {
    Ok(boundary::detach(py, || ort::load(&path))?)
}

/// The version of the loaded ONNX Runtime, such as `"1.32.0"`.
#[pyfunction]
fn runtime_version() -> Result<&'static str, PyCoreError> {
    Ok(ort::version()?)
}

/// The execution providers of the loaded ONNX Runtime, in its order of preference.
#[pyfunction]
fn available_providers() -> Result<Vec<String>, PyCoreError> {
    Ok(ort::available_providers()?)
}

/// The least severe messages that ONNX Runtime logs where a session says nothing, from 0 to 4.
#[pyfunction]
fn set_log_severity(level: i32) -> Result<(), PyCoreError> {
    Ok(ort::set_log_severity(level)?)
}

/// Whether ONNX Runtime may say what it is used for, where it has a way to.
#[pyfunction]
fn set_telemetry(is_on: bool) -> Result<(), PyCoreError> {
    Ok(ort::set_telemetry(is_on)?)
}

/// How many threads this process may keep busy, by its affinity mask and its cgroup's CPU quota.
#[pyfunction]
fn available_threads() -> usize {
    threads::available()
}

/// Has the sessions that ask for it share one pool of threads; 0 is as many threads as there are processors.
///
/// Raises:
///     RuntimeError: there is a session already.
#[pyfunction]
fn set_global_thread_pool(intra_op: i32, inter_op: i32, allow_spinning: bool) -> PyResult<()> {
    let pool = ort::GlobalThreadPool {
        intra_op_num_threads: intra_op,
        inter_op_num_threads: inter_op,
        allow_spinning,
    };
    ort::set_global_thread_pool(pool).map_err(|error| boundary::runtime_error(error.message()))
}

/// `"release"`, or `"debug"` for a build whose speed says nothing.
#[pyfunction]
fn build_profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

// The runtime releases the GIL itself and shares nothing that the GIL would have to guard.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::bound::PyBoundCall;
    #[pymodule_export]
    use super::boundary::gate::shut;
    #[pymodule_export]
    use super::event_loop::PyEventLoop;
    #[pymodule_export]
    use super::file::model_info;
    #[pymodule_export]
    use super::io_binding::PyIoBinding;
    #[pymodule_export]
    use super::logging::drain_log;
    #[pymodule_export]
    use super::ortvalue::PyOrtValue;
    #[pymodule_export]
    use super::prediction::PyPrediction;
    #[pymodule_export]
    use super::run_options::PyRunOptions;
    #[pymodule_export]
    use super::server::PyServer;
    #[pymodule_export]
    use super::session::PySession;
    #[pymodule_export]
    use super::sparse::{sparse_coo, sparse_csr, sparse_format, sparse_indices, sparse_values};
    #[pymodule_export]
    use super::ticket::PyTicket;
    use super::vectorcall;
    #[pymodule_export]
    use super::{
        available_providers, available_threads, build_profile, load_runtime, runtime_version, set_global_thread_pool,
        set_log_severity, set_telemetry,
    };
    use pyo3::prelude::*;

    #[pymodule_init]
    fn add_model(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("Model", vectorcall::model_class(module.py())?)
    }
}
