//! Calls of a model that are answered later, and what calls say of their turn.

use std::time::Duration;

use inferlite_core::batch::Terms;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{PyModel, Wanted};
use crate::event_loop::{self, Begun, PyEventLoop};
use crate::prediction::Course;

impl PyModel {
    /// Reads a call of an event loop, and answers it or has it begin: at once, or with all others of the loop's turn.
    pub(super) fn begin(
        slf: &Bound<'_, Self>,
        inputs: Option<&Bound<'_, PyAny>>,
        outputs: Option<&Bound<'_, PyAny>>,
        named: Option<&Bound<'_, PyDict>>,
        terms: Terms,
    ) -> PyResult<(Course, Wanted, Option<Py<PyEventLoop>>)> {
        let (this, py) = (slf.get(), slf.py());
        let handle = Self::open(slf)?;
        let opened = handle.get().opened();
        let (mut fed, wanted) = this.read_call(py, opened.signature(), inputs, outputs, named)?;
        let begun = event_loop::begin(py, opened, &mut fed, wanted.as_deref(), None, terms);
        Ok(match begun.map_err(|error| this.failure(py, error))? {
            Begun::Answered(mut answer) => {
                let answer = this.object(py, &mut answer, wanted.as_deref())?;
                (Course::Answered(answer.unbind()), wanted, None)
            }
            Begun::Waiting(claim, home) => (Course::Waiting(opened.model.clone(), claim), wanted, home),
        })
    }

    /// The `timeout` of a call: its own, or that of the model.
    #[inline]
    pub(crate) fn timeout<'a, 'py>(
        slf: &'a Bound<'py, Self>,
        given: Option<&'a Bound<'py, PyAny>>,
    ) -> Option<&'a Bound<'py, PyAny>> {
        given.or_else(|| slf.get().timeout.get(slf.py()).map(|timeout| timeout.bind(slf.py())))
    }

    /// What a call says of its turn.
    #[inline]
    pub(super) fn terms(slf: &Bound<'_, Self>, priority: Option<&Bound<'_, PyAny>>) -> PyResult<Terms> {
        let Some(priority) = priority else {
            return Ok(Terms::default());
        };
        let checks = slf.py().import("inferlite._checks")?;
        Ok(Terms {
            priority: checks.call_method1("priority", (priority,))?.extract()?,
            deadline: None,
        })
    }

    /// The time of the model's clock by which an answer must be there.
    pub(super) fn deadline(slf: &Bound<'_, Self>, timeout: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
        let seconds = slf
            .py()
            .import("inferlite._checks")?
            .call_method1("timeout", (timeout,))?;
        let Some(seconds) = seconds.extract::<Option<f64>>()? else {
            return Ok(None);
        };
        let now = Self::open(slf)?.get().opened().model.clock().now();
        // What is beyond a duration is as good as no deadline.
        Ok(Duration::try_from_secs_f64(seconds)
            .ok()
            .map(|timeout| now.saturating_add(timeout)))
    }

    /// What every call of `map` says.
    pub(super) fn settings<'py>(
        py: Python<'py>,
        outputs: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let settings = PyDict::new(py);
        settings.set_item("outputs", outputs)?;
        for (name, value) in [("timeout", timeout), ("priority", priority)] {
            if let Some(value) = value {
                settings.set_item(name, value)?;
            }
        }
        Ok(settings)
    }
}
