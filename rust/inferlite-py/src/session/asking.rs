//! Calls of a session that are answered later.

use std::sync::Arc;

use inferlite_core::batch::Terms;
use inferlite_core::runtime::ort::RunOptions;
use inferlite_core::{Answer, Error, ErrorKind, Result as CoreResult};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyList;
use smallvec::SmallVec;

use super::PySession;
use crate::asker::Asker;
use crate::boundary::{self, PyCoreError, gate, incompatible_arguments};
use crate::event_loop::{self, Begun, PyEventLoop};
use crate::feed::{self, Fed};
use crate::logging;
use crate::prediction::{Course, PyPrediction};
use crate::run_options::{self, Given};
use crate::value::list_of;

/// What a call asks for, in the order of its caller.
type Wanted = Option<SmallVec<[usize; 8]>>;

/// What a call says.
struct Asked<'py> {
    fed: Fed<'py>,
    wanted: Wanted,
    options: Option<Given>,
}

impl<'py> Asked<'py> {
    fn read(
        session: &'py Bound<'py, PySession>,
        output_names: Option<&Bound<'py, PyAny>>,
        input_feed: &Bound<'py, PyAny>,
        run_options: Option<&Bound<'py, PyAny>>,
        function: &str,
    ) -> Result<Self, PyCoreError> {
        let opened = session.get().opened()?;
        let signature = opened.signature();
        // Both may run the caller's code, so they come before anything looks into an array; what is wrong with the feed
        // is said first all the same.
        let options = run_options::read_for_one(session, run_options);
        let wanted = feed::fetches(signature, output_names, |_| incompatible_arguments(function));
        let mut fed = Fed::default();
        opened.read(input_feed, &mut fed)?;
        Ok(Self {
            fed,
            wanted: wanted?,
            options: options?,
        })
    }

    /// Whether the options hold what only the onnxruntime package can use.
    fn needs_package(&self) -> bool {
        matches!(self.options, Some(Given::Package))
    }

    fn native_options(&self) -> Option<Arc<RunOptions>> {
        match &self.options {
            Some(Given::Native(options)) => Some(options.clone()),
            Some(Given::Package) | None => None,
        }
    }
}

pub(super) fn arun<'py>(
    slf: &Bound<'py, PySession>,
    output_names: Option<&Bound<'py, PyAny>>,
    input_feed: &Bound<'py, PyAny>,
    run_options: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let asked = Asked::read(slf, output_names, input_feed, run_options, "arun");
    if asked.as_ref().is_ok_and(Asked::needs_package) {
        let arguments = (output_names, input_feed, run_options);
        return slf.getattr("_package_session")?.call_method1("arun", arguments);
    }
    let opened = slf.get().opened()?;
    let explained = |error| opened.explained(py, error, output_names, input_feed);
    let (course, home) = match asked.and_then(|asked| begin(slf, asked)).map_err(explained) {
        Ok(begun) => begun,
        // Whoever awaits it is told.
        Err(error) if error.is_instance_of::<PyException>(py) => (Course::Failed(error), None),
        Err(error) => return Err(error),
    };
    let prediction = PyPrediction::new(Asker::Session(slf.clone().unbind()), course, None, None, None, home);
    Ok(Bound::new(py, prediction)?.into_any())
}

fn begin(slf: &Bound<'_, PySession>, mut asked: Asked<'_>) -> Result<(Course, Option<Py<PyEventLoop>>), PyCoreError> {
    let py = slf.py();
    let opened = slf.get().opened()?;
    let options = asked.native_options();
    let wanted = asked.wanted.as_deref();
    let begun = event_loop::begin(py, opened, &mut asked.fed, wanted, options, Terms::default())?;
    Ok(match begun {
        Begun::Answered(mut answer) => {
            let results = list_of(py, &mut answer, opened.handing, &opened.maps, wanted)?;
            (Course::Answered(results.into_any().unbind()), None)
        }
        Begun::Waiting(claim, home) => (Course::Waiting(opened.model.clone(), claim), home),
    })
}

pub(super) fn run_async(
    slf: &Bound<'_, PySession>,
    output_names: Option<&Bound<'_, PyAny>>,
    input_feed: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    user_data: &Bound<'_, PyAny>,
    run_options: Option<&Bound<'_, PyAny>>,
) -> Result<(), PyCoreError> {
    let py = slf.py();
    if !callback.is_callable() {
        return Err(incompatible_arguments("run_async").into());
    }
    let mut heard = Heard {
        session: slf.clone().unbind(),
        callback: callback.clone().unbind(),
        user_data: user_data.clone().unbind(),
        wanted: None,
    };
    let opened = slf.get().opened()?;
    let mut asked = match Asked::read(slf, output_names, input_feed, run_options, "run_async") {
        Ok(asked) => asked,
        // What onnxruntime finds out on its own thread is told there.
        Err(PyCoreError::Core(error)) if error.kind() == ErrorKind::InvalidArgument => {
            // `run_async` has a blank there, `run` has none.
            let text = error.message().replacen("output name:", "output name: ", 1);
            let error = Error::new(error.kind(), text);
            return Ok(opened.model.apart(move || heard.tell(Err(error)))?);
        }
        Err(error) => return Err(error),
    };
    if asked.needs_package() {
        let arguments = (output_names, input_feed, callback, user_data, run_options);
        slf.getattr("_package_session")?.call_method1("run_async", arguments)?;
        return Ok(());
    }
    let options = asked.native_options();
    let call = opened.call(&asked.fed.feeds, asked.wanted.as_deref());
    asked.fed.pins.forbid_resizing()?;
    heard.wanted.clone_from(&asked.wanted);
    let model = &opened.model;
    boundary::detach(py, || model.run_apart(&call, options, move |answer| heard.tell(answer)))?;
    Ok(())
}

/// Whoever is told of the end of a call, and what must live until then.
struct Heard {
    session: Py<PySession>,
    callback: Py<PyAny>,
    user_data: Py<PyAny>,
    wanted: Wanted,
}

impl Heard {
    /// Calls back, from a thread that Python may not know; not at all once the interpreter is about to end.
    fn tell(self, answer: CoreResult<Answer<'_>>) {
        gate::attach(|py| {
            let (results, error) = self.results(py, answer);
            let told = self.callback.call1(py, (results, self.user_data.bind(py), error));
            let told = told.and_then(|_| logging::forward(py));
            if let Err(error) = told {
                error.write_unraisable(py, Some(self.callback.bind(py)));
            }
            drop(self);
        });
    }

    fn results<'py>(&self, py: Python<'py>, answer: CoreResult<Answer<'_>>) -> (Bound<'py, PyList>, String) {
        let given = answer
            .map_err(|error| error.message().to_owned())
            .and_then(|mut answer| {
                let opened = self.session.get().opened();
                let wanted = self.wanted.as_deref();
                let results =
                    opened.and_then(|opened| Ok(list_of(py, &mut answer, opened.handing, &opened.maps, wanted)?));
                results.map_err(|error| error.to_string())
            });
        match given {
            Ok(results) => (results, String::new()),
            Err(message) => (PyList::empty(py), message),
        }
    }
}
