//! The edge between Python and the core: one function that gives the GIL away, one conversion of errors.

use std::sync::{Mutex, PoisonError};

use inferlite_core::cache::{DIGESTED_BYTES, Lookup};
use inferlite_core::{Call, Error, ErrorKind, Model, Outputs};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::array::Pins;
use crate::logging;

/// Where onnxruntime keeps its exceptions.
const ONNXRUNTIME_EXCEPTIONS: &str = "onnxruntime.capi.onnxruntime_pybind11_state";

/// An error on its way to Python: one of the core's, or an exception already.
#[derive(Debug)]
pub(crate) enum PyCoreError {
    Core(Error),
    Python(PyErr),
}

impl From<Error> for PyCoreError {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl From<PyErr> for PyCoreError {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// As onnxruntime raises: its own classes, its own prefix.
impl From<PyCoreError> for PyErr {
    fn from(error: PyCoreError) -> Self {
        match error {
            PyCoreError::Python(error) => error,
            PyCoreError::Core(error) => {
                let made = Python::try_attach(|py| match error.kind().runtime_code() {
                    Some(_) => onnxruntime_exception(py, &error),
                    None => inferlite_exception(py, "BackendUnavailableError", error.message().to_owned()),
                });
                match made {
                    Some(Ok(made) | Err(made)) => made,
                    None => runtime_error(error.message()),
                }
            }
        }
    }
}

/// An exception of `inferlite.exceptions`, which declares them once for both back ends.
pub(crate) fn inferlite_exception(py: Python<'_>, class: &'static str, message: String) -> PyResult<PyErr> {
    let class = exception_class(py, "inferlite.exceptions", class)?;
    Ok(PyErr::from_value(class.call1((message,))?))
}

/// A class of a module, imported once.
///
/// Later calls run no Python code: on CPython before 3.14 a daemon thread that takes the GIL back while the interpreter
/// ends is unwound through whatever called Python, and Rust in between would abort the process.
fn exception_class<'py>(py: Python<'py>, module: &'static str, class: &'static str) -> PyResult<Bound<'py, PyAny>> {
    static CLASSES: Mutex<Vec<(&'static str, Py<PyAny>)>> = Mutex::new(Vec::new());
    let known = |name| {
        let classes = CLASSES.lock().unwrap_or_else(PoisonError::into_inner);
        classes
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, class)| class.bind(py).clone())
    };
    if let Some(class) = known(class) {
        return Ok(class);
    }
    let found = py.import(module)?.getattr(class)?;
    CLASSES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((class, found.clone().unbind()));
    Ok(found)
}

fn onnxruntime_exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let (code, name) = error.kind().runtime_code().unwrap_or((1, "FAIL"));
    let message = format!("[ONNXRuntimeError] : {code} : {name} : {}", error.message());
    let class = class_name(error.kind()).unwrap_or("Fail");
    // A class that an older onnxruntime does not have: such an onnxruntime would raise its general one.
    let class = exception_class(py, ONNXRUNTIME_EXCEPTIONS, class)
        .or_else(|_| exception_class(py, ONNXRUNTIME_EXCEPTIONS, "Fail"))?;
    Ok(PyErr::from_value(class.call1((message,))?))
}

fn class_name(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::Fail => "Fail",
        ErrorKind::InvalidArgument => "InvalidArgument",
        ErrorKind::NoSuchFile => "NoSuchFile",
        ErrorKind::NoModel => "NoModel",
        ErrorKind::EngineError => "EngineError",
        ErrorKind::RuntimeException => "RuntimeException",
        ErrorKind::InvalidProtobuf => "InvalidProtobuf",
        ErrorKind::ModelLoaded => "ModelLoaded",
        ErrorKind::NotImplemented => "NotImplemented",
        ErrorKind::InvalidGraph => "InvalidGraph",
        ErrorKind::ExecutionProviderFail => "EPFail",
        ErrorKind::ModelLoadCanceled => "ModelLoadCanceled",
        ErrorKind::ModelRequiresCompilation => "ModelRequiresCompilation",
        ErrorKind::NotFound => "NotFound",
        ErrorKind::DeviceReset => "DeviceReset",
        ErrorKind::RuntimeUnavailable => return None,
    })
}

/// Does `work` while other Python threads run: the one place that gives the GIL away.
#[inline]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn detach<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(work)
}

/// Runs a model, keeping the GIL where handing it over would cost more than the run.
///
/// `pins` are the arrays that the call's views point into.
#[inline]
pub(crate) fn run<'m>(
    py: Python<'_>,
    model: &'m Model,
    may_hold_gil: bool,
    call: &Call<'_>,
    pins: &mut Pins<'_>,
) -> Result<Outputs<'m>, PyCoreError> {
    // A digest of a large input takes its time.
    let is_looked_up_here = model.cache().is_none() || call.byte_len() <= DIGESTED_BYTES;
    let lookup = match is_looked_up_here.then(|| model.look_up(call)) {
        Some(Ok(outputs)) => return Ok(outputs),
        Some(Err(lookup)) => Some(lookup),
        None => None,
    };
    let workload = model.workload(call);
    let waits_for_nobody = matches!(lookup, Some(Lookup::Skipped));
    let result = if may_hold_gil && waits_for_nobody && model.is_inline(workload) {
        model.compute(call, Lookup::Skipped, &|| Ok(()))
    } else {
        pins.forbid_resizing()?;
        let interrupt = Mutex::new(None);
        let result = detach(py, || {
            let _detached = model.detach(workload);
            let lookup = match lookup.map_or_else(|| model.look_up(call), Err) {
                Ok(outputs) => return Ok(outputs),
                Err(lookup) => lookup,
            };
            model.compute(call, lookup, &|| check_signals(&interrupt))
        });
        if let Some(interrupt) = interrupt.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(PyCoreError::Python(interrupt));
        }
        result
    };
    logging::forward(py)?;
    Ok(result?)
}

/// Lets Ctrl-C end a wait; the exception goes to `interrupt`.
fn check_signals(interrupt: &Mutex<Option<PyErr>>) -> inferlite_core::Result<()> {
    let raised = Python::try_attach(|py| py.check_signals().err()).flatten();
    let Some(raised) = raised else { return Ok(()) };
    *interrupt.lock().unwrap_or_else(PoisonError::into_inner) = Some(raised);
    Err(Error::new(ErrorKind::Fail, "interrupted"))
}

/// Whether the environment lets runs keep the GIL; asked once per session.
pub(crate) fn environment_allows_holding() -> bool {
    std::env::var_os("INFERLITE_HOLD_GIL").is_none_or(|value| value != "0")
}

/// A pybind11 complaint about arguments, of which callers compare the class and the first line.
pub(crate) fn incompatible_arguments(function: &str) -> PyErr {
    pyo3::exceptions::PyTypeError::new_err(format!(
        "{function}(): incompatible function arguments. The following argument types are supported:"
    ))
}

/// What onnxruntime raises for values that it cannot make anything of.
pub(crate) fn runtime_error(message: impl Into<String>) -> PyErr {
    PyRuntimeError::new_err(message.into())
}

/// What onnxruntime raises where Python raised while a value was read.
pub(crate) fn conversion_failure(py: Python<'_>, error: &PyErr) -> PyErr {
    let message = format!("{}: {}", type_text(&error.get_type(py)), error.value(py));
    let made = exception_class(py, ONNXRUNTIME_EXCEPTIONS, "Fail")
        .and_then(|class| Ok(PyErr::from_value(class.call1((message,))?)));
    made.unwrap_or_else(|problem| problem)
}

/// The part of a name that a C string keeps, and that messages of the runtime show.
pub(crate) fn until_nul(name: &str) -> &str {
    name.split('\0').next().unwrap_or_default()
}

/// The full name of a type, as `str(type(value))` gives it.
pub(crate) fn type_text(class: &Bound<'_, PyType>) -> String {
    class
        .str()
        .map_or_else(|_| String::from("<class>"), |text| text.to_string())
}
