//! The edge between Python and the core: one function that gives the GIL away, one conversion of errors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inferlite_core::batch::Terms;
use inferlite_core::cache::{DIGESTED_BYTES, Missed};
use inferlite_core::pace::Workload;
use inferlite_core::runtime::ort::RunOptions;
use inferlite_core::ticket::{Asked, Ticket};
use inferlite_core::{Answer, Call, Error, ErrorKind, Model};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::array::Pins;
use crate::logging;
use crate::session::Opened;

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
                let made = Python::try_attach(|py| match own_class(error.kind()) {
                    None => onnxruntime_exception(py, &error),
                    Some(class) => inferlite_exception(py, class, error.message().to_owned()),
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
        ErrorKind::RuntimeUnavailable
        | ErrorKind::DeadlineExceeded
        | ErrorKind::QueueFull
        | ErrorKind::Closed
        | ErrorKind::Interrupted => return None,
    })
}

/// The class of `inferlite.exceptions` for a kind that onnxruntime does not have.
pub(crate) fn own_class(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::RuntimeUnavailable => Some("BackendUnavailableError"),
        ErrorKind::DeadlineExceeded => Some("DeadlineExceededError"),
        ErrorKind::QueueFull => Some("QueueFullError"),
        ErrorKind::Closed => Some("ModelClosedError"),
        ErrorKind::Interrupted => Some("InferliteError"),
        ErrorKind::Fail
        | ErrorKind::InvalidArgument
        | ErrorKind::NoSuchFile
        | ErrorKind::NoModel
        | ErrorKind::EngineError
        | ErrorKind::RuntimeException
        | ErrorKind::InvalidProtobuf
        | ErrorKind::ModelLoaded
        | ErrorKind::NotImplemented
        | ErrorKind::InvalidGraph
        | ErrorKind::ExecutionProviderFail
        | ErrorKind::ModelLoadCanceled
        | ErrorKind::ModelRequiresCompilation
        | ErrorKind::NotFound
        | ErrorKind::DeviceReset => None,
    }
}

/// Does `work` while other Python threads run: the one place that gives the GIL away.
#[inline]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn detach<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(work)
}

/// Drops `model` while other Python threads run, since the runtime takes its time over freeing one.
pub(crate) fn free<T: Send>(model: T) {
    Python::try_attach(|py| detach(py, || drop(model)));
}

/// Runs a model, keeping the GIL where handing it over would cost more than the run.
///
/// `pins` are the arrays that the call's views point into; `missed` is what was looked up before the call was read.
#[inline]
pub(crate) fn run<'m>(
    py: Python<'_>,
    model: &'m Model,
    may_hold_gil: bool,
    call: &Call<'_>,
    terms: &Terms,
    pins: &mut Pins<'_>,
    missed: Option<Missed>,
) -> Result<Answer<'m>, PyCoreError> {
    let missed = match missed.filter(|missed| missed.is_of(call)) {
        Some(missed) => Some(missed),
        // A digest of a large input takes its time.
        None if model.cache().is_some() && call.byte_len() > DIGESTED_BYTES => None,
        None => match model.look_up(call) {
            Ok(found) => return Ok(found.into()),
            Err(missed) => Some(missed),
        },
    };
    let workload = model.workload(call);
    let waits_for_nobody = matches!(missed, Some(Missed::Skipped));
    let holds_gil = may_hold_gil && waits_for_nobody && model.is_inline(workload);
    // Whoever stands in line for a batch has given the GIL away.
    let result = if let Some(answer) = holds_gil.then(|| model.compute_at_once(call)).flatten() {
        answer
    } else {
        pins.forbid_resizing()?;
        let interrupt = Mutex::new(None);
        let result = detach(py, || {
            let _detached = model.detach(workload);
            match missed.map_or_else(|| model.look_up(call), Err) {
                Ok(found) => Ok(found.into()),
                Err(missed) => model.compute(call, missed, terms, &|| check_signals(&interrupt)),
            }
        });
        if let Some(interrupt) = interrupt.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(PyCoreError::Python(interrupt));
        }
        result
    };
    logging::forward(py)?;
    Ok(result?)
}

/// Makes one run of values that stay where they are, keeping the GIL where handing it over would cost more than the run.
#[inline]
pub(crate) fn launch<T: Send>(
    py: Python<'_>,
    model: &Model,
    may_hold_gil: bool,
    workload: Option<Workload>,
    run: impl FnOnce() -> inferlite_core::Result<T> + Send,
) -> Result<T, PyCoreError> {
    let run = || model.timed(workload, run);
    let result = if may_hold_gil && model.is_inline(workload) {
        run()
    } else {
        detach(py, || {
            let _detached = model.detach(workload);
            run()
        })
    };
    let (done, _) = result?;
    Ok(done)
}

/// What a call has come to that does not wait for its run.
pub(crate) enum Begun<'m> {
    Answered(Answer<'m>),
    Waiting(Ticket),
}

/// Answers a call at once if it is kept, or over soon and `may_run_here`, else has it run on another thread.
///
/// `options` are those of the call, where it has any: no other run has them.
pub(crate) fn begin<'m>(
    py: Python<'_>,
    opened: &'m Opened,
    call: &Call<'_>,
    options: Option<Arc<RunOptions>>,
    terms: Terms,
    pins: &mut Pins<'_>,
    may_run_here: bool,
) -> Result<Begun<'m>, PyCoreError> {
    let model = &opened.model;
    if (may_run_here && model.is_brief(model.workload(call)) && model.is_free()) || gate::is_shut() {
        // It is over before the deadline matters.
        let terms = Terms {
            deadline: None,
            ..terms
        };
        return run(py, model, opened.may_hold_gil, call, &terms, pins, None).map(Begun::Answered);
    }
    pins.forbid_resizing()?;
    let begun = detach(py, || match model.look_up(call) {
        Ok(found) => Ok(Begun::Answered(found.into())),
        Err(missed) => match options {
            None => model.begin(call, missed, terms).map(Begun::Waiting),
            Some(options) => model.begin_under(call, options).map(Begun::Waiting),
        },
    })?;
    logging::forward(py)?;
    Ok(begun)
}

/// What a call has come to that leaves at the end of its event loop's turn.
pub(crate) enum Said<'m> {
    Answered(Answer<'m>),
    Asked(Asked),
}

/// Answers a call at once if it is kept, or over soon on a loop that is quiet, else copies it.
pub(crate) fn ask<'m>(
    py: Python<'_>,
    opened: &'m Opened,
    call: &Call<'_>,
    terms: Terms,
    pins: &mut Pins<'_>,
    is_quiet: impl FnOnce() -> bool,
) -> Result<Said<'m>, PyCoreError> {
    let model = &opened.model;
    if (model.is_free() && model.is_brief(model.workload(call)) && is_quiet()) || gate::is_shut() {
        // It is over before the deadline matters.
        let terms = Terms {
            deadline: None,
            ..terms
        };
        return run(py, model, opened.may_hold_gil, call, &terms, pins, None).map(Said::Answered);
    }
    let ask = || match model.look_up(call) {
        Ok(found) => Said::Answered(found.into()),
        Err(missed) => Said::Asked(model.ask(call, missed)),
    };
    if call.byte_len() <= DIGESTED_BYTES {
        return Ok(ask());
    }
    pins.forbid_resizing()?;
    Ok(detach(py, ask))
}

/// Waits for an answer until the model's clock shows the deadline.
pub(crate) fn wait(py: Python<'_>, ticket: Ticket, deadline: Duration) -> Result<Answer<'static>, PyCoreError> {
    let interrupt = Mutex::new(None);
    let result = detach(py, || ticket.wait(Some(deadline), &|| check_signals(&interrupt)));
    if let Some(interrupt) = interrupt.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(PyCoreError::Python(interrupt));
    }
    logging::forward(py)?;
    Ok(result?)
}

/// The door through which threads that Python does not know come in.
pub(crate) mod gate {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{LazyLock, PoisonError, RwLock};

    use inferlite_core::fork::PerProcess;
    use pyo3::prelude::*;

    static IS_SHUT: AtomicBool = AtomicBool::new(false);
    /// Read by whoever is inside.
    static INSIDE: LazyLock<PerProcess<RwLock<()>>> = LazyLock::new(|| PerProcess::new(RwLock::default));

    thread_local! {
        /// Whether this thread is inside: it would wait for itself if it came in again while somebody shuts the gate.
        static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    }

    /// Does `work` as a thread of the interpreter, unless that is about to end.
    pub(crate) fn attach(work: impl FnOnce(Python<'_>)) {
        if IS_INSIDE.get() {
            Python::try_attach(work);
            return;
        }
        let _inside = INSIDE.get().read().unwrap_or_else(PoisonError::into_inner);
        if !is_shut() {
            IS_INSIDE.set(true);
            let _leave = Leave;
            Python::try_attach(work);
        }
    }

    struct Leave;

    impl Drop for Leave {
        fn drop(&mut self) {
            IS_INSIDE.set(false);
        }
    }

    pub(super) fn is_shut() -> bool {
        IS_SHUT.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more: CPython before 3.14 ends threads that come back while it ends, through Rust's frames.
    ///
    /// From now on calls of event loops run where they are made.
    #[pyfunction]
    #[pyo3(name = "_shut_gate")]
    pub(crate) fn shut(py: Python<'_>) -> PyResult<()> {
        IS_SHUT.store(true, Ordering::SeqCst);
        // Whoever is inside needs the lock of the interpreter to come out.
        super::detach(py, || {
            drop(INSIDE.get().write().unwrap_or_else(PoisonError::into_inner));
        });
        // What the runtime has said, and no call has come to hear.
        crate::logging::forward(py)
    }
}

/// Lets Ctrl-C end a wait; the exception goes to `interrupt`.
pub(crate) fn check_signals(interrupt: &Mutex<Option<PyErr>>) -> inferlite_core::Result<()> {
    let raised = Python::try_attach(|py| py.check_signals().err()).flatten();
    let Some(raised) = raised else { return Ok(()) };
    *interrupt.lock().unwrap_or_else(PoisonError::into_inner) = Some(raised);
    Err(Error::new(ErrorKind::Interrupted, "interrupted"))
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
