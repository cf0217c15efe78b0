//! What goes wrong with a model, in words of its users.

use inferlite_core::{Error, ErrorKind};
use pyo3::prelude::*;

use super::PyModel;
use crate::boundary::{PyCoreError, inferlite_exception, own_class};

impl PyModel {
    /// What messages call the model.
    pub(crate) fn title(&self) -> &str {
        &self.name
    }

    /// What a call raises whose answer did not come in time.
    #[cold]
    pub(crate) fn late(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyErr {
        let made = py
            .import("inferlite._checks")
            .and_then(|checks| checks.call_method1("deadline_exceeded", (&self.name, timeout)));
        made.map_or_else(|problem| problem, PyErr::from_value)
    }

    /// What a call raises whose run failed.
    #[cold]
    pub(crate) fn failure(&self, py: Python<'_>, error: PyCoreError) -> PyErr {
        run_error(py, &self.name, error)
    }
}

pub(super) fn load_error(py: Python<'_>, name: &str, error: &Error) -> PyErr {
    let message = format!("model `{name}` cannot be loaded: {}", error.message().trim());
    inferlite_exception(py, "ModelLoadError", message).unwrap_or_else(|problem| problem)
}

/// An error of the runtime while the model ran: about the inputs, or about the model.
fn run_error(py: Python<'_>, name: &str, error: PyCoreError) -> PyErr {
    match error {
        PyCoreError::Python(error) => error,
        PyCoreError::Core(error) => {
            if let Some(class) = own_class(error.kind()) {
                let message = if error.kind() == ErrorKind::Closed {
                    format!("model `{name}` is closed")
                } else {
                    format!("model `{name}`: {}", error.message())
                };
                return inferlite_exception(py, class, message).unwrap_or_else(|problem| problem);
            }
            // The runtime calls the arguments of a failing node invalid, too.
            let is_node = error.message().starts_with("Non-zero status code");
            if error.kind() == ErrorKind::InvalidArgument && !is_node {
                return refusal(py, name, error.into());
            }
            let message = format!("model `{name}` failed: {}", error.message().trim());
            inferlite_exception(py, "ModelRunError", message).unwrap_or_else(|problem| problem)
        }
    }
}

/// A value that cannot become an input.
pub(super) fn refusal(py: Python<'_>, name: &str, error: PyCoreError) -> PyErr {
    let text = |error: &Error| error.message().trim().to_owned();
    let (text, cause) = match error {
        PyCoreError::Core(error) => (text(&error), None),
        PyCoreError::Python(error) => (error.value(py).to_string(), Some(error)),
    };
    let message = format!("model `{name}` refuses its inputs: {text}");
    let refusal = inferlite_exception(py, "InvalidInputError", message).unwrap_or_else(|problem| problem);
    refusal.set_cause(py, cause);
    refusal
}
