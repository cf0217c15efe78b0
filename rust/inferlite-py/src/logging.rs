//! What the runtime logs goes to Python's `logging`, from a thread that holds the GIL anyway.

use inferlite_core::runtime::ort;
use pyo3::prelude::*;

/// Hands waiting messages to the logger `inferlite.onnxruntime`; costs one load where there is none.
#[inline]
pub(crate) fn forward(py: Python<'_>) {
    if ort::has_log() {
        forward_all(py);
    }
}

#[cold]
fn forward_all(py: Python<'_>) {
    // A handler of the user's may fail, or there may be no interpreter left to import from: neither is the caller's.
    if let Err(error) = try_forward(py) {
        error.write_unraisable(py, None);
    }
}

fn try_forward(py: Python<'_>) -> PyResult<()> {
    let records = ort::drain_log();
    // A call that fails may be on its way out with an exception set by nobody yet; logging must not see one.
    let logger = py
        .import("logging")?
        .call_method1("getLogger", ("inferlite.onnxruntime",))?;
    for record in records {
        let level = (record.severity + 1) * 10;
        logger.call_method1("log", (level, "%s [%s]", record.message, record.location))?;
    }
    Ok(())
}

/// Takes the messages that the runtime has logged and nobody has read: severity 0 to 4, category, place, text.
#[pyfunction]
pub(crate) fn drain_log() -> Vec<(i32, String, String, String)> {
    ort::drain_log()
        .into_iter()
        .map(|record| (record.severity, record.category, record.location, record.message))
        .collect()
}
