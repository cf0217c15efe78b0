//! What the runtime logs goes to Python's `logging`, from a thread that holds the GIL anyway.

use inferlite_core::runtime::ort;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

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
    let drained = ort::drain_log();
    let dropped = (drained.dropped > 0).then(|| note_dropped(py, drained.dropped));
    let logged = drained.records.into_iter().map(|record| log(py, &record));
    for logged in dropped.into_iter().chain(logged) {
        if let Err(error) = logged {
            if error.is_instance_of::<PyException>(py) {
                error.write_unraisable(py, None);
            } else {
                result = Err(error);
            }
        }
    }
    result
}

/// Looked up once: an import takes a lock, which a child would find taken for ever if its parent forked meanwhile.
fn logger(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let found = LOGGER.get_or_try_init(py, || {
        let logging = py.import("logging")?;
        let found = logging.call_method1("getLogger", ("inferlite.onnxruntime",))?;
        Ok::<_, PyErr>(found.unbind())
    })?;
    Ok(found.bind(py))
}

/// The model's name comes first, and is the record's attribute `model`.
fn log(py: Python<'_>, record: &ort::LogRecord) -> PyResult<()> {
    let level = (record.severity + 1) * 10;
    let extra = PyDict::new(py);
    extra.set_item("model", &record.id)?;
    let settings = PyDict::new(py);
    settings.set_item("extra", extra)?;
    let format = if record.id.is_empty() {
        "%s%s [%s]"
    } else {
        "%s: %s [%s]"
    };
    let arguments = (level, format, &record.id, &record.message, &record.location);
    logger(py)?.call_method("log", arguments, Some(&settings))?;
    Ok(())
}

fn note_dropped(py: Python<'_>, count: u64) -> PyResult<()> {
    let text = "%d messages of the runtime were dropped: there were more than are kept until the next call";
    logger(py)?.call_method1("warning", (text, count))?;
    Ok(())
}

/// Takes the messages that the runtime has logged and nobody has read: severity 0 to 4, category, place, text.
#[pyfunction]
pub(crate) fn drain_log() -> Vec<(i32, String, String, String)> {
    let records = ort::drain_log().records.into_iter();
    records
        .map(|record| (record.severity, record.category, record.location, record.message))
        .collect()
}
