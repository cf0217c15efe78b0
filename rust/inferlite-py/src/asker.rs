//! Whose call it is that is answered later: a model's or a session's, which word answers and errors differently.

use inferlite_core::Answer;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use crate::boundary::{PyCoreError, inferlite_exception};
use crate::model::PyModel;
use crate::session::PySession;
use crate::value::list_of;

/// Keeps what was asked alive until the answer is there.
pub(crate) enum Asker {
    Model(Py<PyModel>),
    Session(Py<PySession>),
}

impl Asker {
    /// What a call returns.
    #[inline]
    pub(crate) fn object<'py>(
        &self,
        py: Python<'py>,
        answer: &mut Answer<'_>,
        wanted: Option<&[usize]>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Model(model) => model.get().object(py, answer, wanted),
            Self::Session(session) => {
                let opened = session.get().opened()?;
                Ok(list_of(py, answer, opened.handing, &opened.maps, wanted)?.into_any())
            }
        }
    }

    /// What a call raises whose run failed.
    #[cold]
    pub(crate) fn failure(&self, py: Python<'_>, error: PyCoreError) -> PyErr {
        match self {
            Self::Model(model) => model.get().failure(py, error),
            Self::Session(_) => error.into(),
        }
    }

    /// What a call raises whose answer did not come in time.
    #[cold]
    pub(crate) fn late(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyErr {
        match self {
            Self::Model(model) => model.get().late(py, timeout),
            // Calls of sessions have no deadline of their own.
            Self::Session(_) => {
                let message = "the answer did not come in time".to_owned();
                inferlite_exception(py, "DeadlineExceededError", message).unwrap_or_else(|problem| problem)
            }
        }
    }

    /// The call, as messages name it.
    pub(crate) fn call_text(&self) -> String {
        match self {
            Self::Model(model) => format!("inferlite.Model.apredict of `{}`", model.get().title()),
            Self::Session(_) => "inferlite.InferenceSession.arun".to_owned(),
        }
    }

    /// What Python says of a coroutine of this call that was never awaited.
    pub(crate) fn neglect_text(&self) -> &'static std::ffi::CStr {
        match self {
            Self::Model(_) => c"coroutine 'Model.apredict' was never awaited",
            Self::Session(_) => c"coroutine 'InferenceSession.arun' was never awaited",
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Model(model) => visit.call(model),
            Self::Session(session) => visit.call(session),
        }
    }
}
