//! What the runtime logs goes to Python's `logging`, from a thread that holds the GIL anyway.

use inferlite_core::runtime::ort;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

/// Hands waiting messages to the logger `inferlite.onnxruntime`; costs one load where there is none.
///
/// A handler of the user's may fail, which is not the caller's business; Ctrl-C and `sys.exit` in it are.
#[inline]
pub(crate) fn forward(py: Python<'_>) -> PyResult<()> {
    if ort::has_log() { forward_all(py) } else { Ok(()) }
}

#[cold]
fn forward_all(py: Python<'_>) -> PyResult<()> {
    let mut result = Ok(());
    for record in ort::drain_log() {
        if let Err(error) = log(py, record) {
            if error.is_instance_of::<PyException>(py) {
                error.write_unraisable(py, None);
            } else {
                result = Err(error);
            }
        }
    }
    result
}

fn log(py: Python<'_>, record: ort::LogRecord) -> PyResult<()> {
    let logger = py
        .import("logging")?
        .call_method1("getLogger", ("inferlite.onnxruntime",))?;
    let level = (record.severity + 1) * 10;
    logger.call_method1("log", (level, "%s [%s]", record.message, record.location))?;
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
