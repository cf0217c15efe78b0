//! Runs over values that stay where they are: the native half of `inferlite.IOBinding` and of `run_with_ort_values`.

use std::ffi::CString;
use std::sync::Arc;

use inferlite_core::runtime::ort::{HeldRun, HeldValue, OrtEngine, RunOptions};
use inferlite_core::{Error, ErrorKind, Model};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::boundary::{self, PyCoreError, runtime_error, until_nul};
use crate::ortvalue::{PyOrtValue, held, refuse_as_output, values_of};
use crate::run_options::Given;
use crate::session::Opened;
use crate::turn::{Guard, Turn};
use crate::{logging, run_options};

/// A name as the runtime wants it: up to a NUL, as C reads it.
fn c_name(name: &str) -> CString {
    CString::new(until_nul(name)).unwrap_or_default()
}

/// Runs values once, and gives the values of the outputs in order.
///
/// `outputs` are values to be written into, or `None`; they may be fewer than the names.
pub(crate) fn run_values(
    session: &Bound<'_, PyAny>,
    opened: &Opened,
    (names, values): (&[String], &Bound<'_, PyAny>),
    (output_names, outputs): (&[String], Vec<Option<PyOrtValue>>),
    options: Option<&Bound<'_, PyAny>>,
) -> Result<Vec<PyOrtValue>, PyCoreError> {
    let py = session.py();
    let options = native_options(session, options)?;
    let values = values_of(values)?;
    if names.len() != values.len() {
        let message = format!(
            "feed names has {} elements, but feed has {} elements.",
            names.len(),
            values.len()
        );
        return Err(Error::new(ErrorKind::InvalidArgument, message).into());
    }
    let signature = opened.signature();
    for name in output_names {
        if signature.output(name).is_none() {
            let message = format!("Invalid output name:{}", until_nul(name));
            return Err(Error::new(ErrorKind::InvalidArgument, message).into());
        }
    }
    let mut given = outputs.into_iter();
    let mut outputs = Vec::with_capacity(output_names.len());
    for name in output_names {
        let output = given.next().flatten().map(|output| output.0);
        if let Some(output) = &output {
            refuse_as_output(name, output)?;
        }
        outputs.push((c_name(name), output));
    }
    let inputs = std::iter::zip(names.iter().map(|name| c_name(name)), values);
    let mut run = HeldRun::new(inputs, outputs.into_iter());
    run.prepare(signature)?;
    let engine = &opened.engine;
    boundary::launch(py, &opened.model, opened.may_hold_gil, run.workload(), || {
        engine.run_held(&mut run, options.as_deref())
    })?;
    logging::forward(py)?;
    Ok(run.into_outputs().map(PyOrtValue).collect())
}

/// Options that the runtime can be given.
fn native_options(
    session: &Bound<'_, PyAny>,
    options: Option<&Bound<'_, PyAny>>,
) -> Result<Option<Arc<RunOptions>>, PyCoreError> {
    match run_options::read(session, options)? {
        None => Ok(None),
        Some(Given::Native(options)) => Ok(Some(options)),
        Some(Given::Package) => Err(Error::new(
            ErrorKind::RuntimeUnavailable,
            "these run options need the onnxruntime package, which cannot run inferlite's values: call `run`, or set \
             INFERLITE_BACKEND=python",
        )
        .into()),
    }
}

/// Inputs and outputs that are bound to a session, one by one.
#[pyclass(name = "IoBinding", module = "inferlite._core", frozen, weakref)]
pub(crate) struct PyIoBinding {
    engine: Arc<OrtEngine>,
    model: Arc<Model>,
    may_hold_gil: bool,
    bound: Turn<HeldRun>,
}

impl PyIoBinding {
    pub(crate) fn new(opened: &Opened) -> Self {
        Self {
            engine: opened.engine.clone(),
            model: opened.model.clone(),
            may_hold_gil: opened.may_hold_gil,
            bound: Turn::new(HeldRun::default()),
        }
    }

    fn enter(&self) -> PyResult<Guard<'_, HeldRun>> {
        self.bound.take().ok_or_else(|| {
            PyRuntimeError::new_err("an IOBinding serves one thread at a time: make one per thread by `io_binding()`")
        })
    }

    fn set_input(&self, name: &str, value: Arc<HeldValue>) -> PyResult<()> {
        self.enter()?.bind_input(c_name(name), value);
        Ok(())
    }

    fn set_output(&self, name: &str, value: Option<Arc<HeldValue>>) -> PyResult<()> {
        if let Some(value) = &value {
            refuse_as_output(name, value)?;
        }
        self.enter()?.bind_output(c_name(name), value);
        Ok(())
    }

    /// Refuses to run what lacks something, or asks for what there is not.
    fn refuse_unready(&self, bound: &HeldRun) -> PyResult<()> {
        let signature = self.model.signature();
        if bound.output_names().is_empty() {
            return Err(in_execution("At least one output should be requested."));
        }
        let is_bound = |wanted: &str| bound.names().iter().any(|name| name.as_bytes() == wanted.as_bytes());
        let mut inputs = signature.proper_inputs().iter();
        if let Some(input) = inputs.find(|input| !input.is_optional() && !is_bound(&input.name)) {
            return Err(in_execution(&format!(
                "input `{}` is not bound: call `bind_input` or the like",
                input.name
            )));
        }
        let mut names = bound.output_names().iter();
        let is_unknown = |name: &&CString| name.to_str().map_or(true, |name| signature.output(name).is_none());
        if let Some(name) = names.find(is_unknown) {
            return Err(in_execution(&format!(
                "Invalid output name: {}",
                name.to_string_lossy()
            )));
        }
        Ok(())
    }

    fn run_bound(&self, py: Python<'_>, bound: &mut HeldRun, options: Option<&RunOptions>) -> Result<(), PyCoreError> {
        if !bound.is_prepared() {
            self.refuse_unready(bound)?;
            bound
                .prepare(self.model.signature())
                .map_err(|error| in_execution(error.message()))?;
        }
        let engine = &self.engine;
        boundary::launch(py, &self.model, self.may_hold_gil, bound.workload(), || {
            engine.run_held(bound, options)
        })
        .map_err(|error| match error {
            PyCoreError::Core(error) => PyCoreError::Python(in_execution(error.message())),
            PyCoreError::Python(error) => PyCoreError::Python(error),
        })
    }
}

/// What onnxruntime raises for a run of bound values, whatever the failure.
fn in_execution(message: &str) -> PyErr {
    runtime_error(format!("Error in execution: {message}"))
}

#[pymethods]
impl PyIoBinding {
    /// Binds anything that `run` takes; the memory of an array that runs as it is stays the array's.
    fn bind_cpu_input(&self, name: &str, value: Bound<'_, PyAny>) -> Result<(), PyCoreError> {
        let signature = self.model.signature();
        let Some(index) = signature.input(name) else {
            return Err(runtime_error(format!("Failed to find NodeArg with name: {name} in the def list")).into());
        };
        if value.is_none() {
            return Err(runtime_error("Unable to create OrtValue from the given python object").into());
        }
        let value = held(name, Some(&signature.inputs[index].value_type), value)?;
        Ok(self.set_input(name, Arc::new(value))?)
    }

    fn bind_value_input(&self, name: &str, value: &PyOrtValue) -> PyResult<()> {
        if self.model.signature().input(name).is_none() {
            return Err(runtime_error(format!(
                "Error when binding input: Failed to find input name in the mapping: {name}"
            )));
        }
        self.set_input(name, value.0.clone())
    }

    /// Binds an output, to a value that runs overwrite or to none.
    #[pyo3(signature = (name, value = None))]
    fn bind_output(&self, name: &str, value: Option<&PyOrtValue>) -> PyResult<()> {
        self.set_output(name, value.map(|value| value.0.clone()))
    }

    fn clear_inputs(&self) -> PyResult<()> {
        self.enter()?.clear_inputs();
        Ok(())
    }

    fn clear_outputs(&self) -> PyResult<()> {
        self.enter()?.clear_outputs();
        Ok(())
    }

    /// The outputs that have a value, in the order in which they were bound.
    ///
    /// Raises:
    ///     RuntimeError: one has none yet.
    fn outputs(&self) -> PyResult<Vec<PyOrtValue>> {
        let bound = self.enter()?;
        std::iter::zip(bound.output_names(), bound.outputs())
            .map(|(name, output)| match output {
                Some(output) => Ok(PyOrtValue(output.clone())),
                None => Err(runtime_error(format!(
                    "output `{}` has no value yet: call `session.run_with_iobinding(binding)` first",
                    name.to_string_lossy()
                ))),
            })
            .collect()
    }

    /// Copies of the outputs, as `run` gives them.
    fn copies<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyList>, PyCoreError> {
        let outputs = self.outputs()?;
        let copies = outputs
            .iter()
            .map(|output| output.copy(py))
            .collect::<Result<Vec<_>, PyCoreError>>()?;
        Ok(PyList::new(py, copies)?)
    }

    /// Runs what is bound; `session` is the one that it is bound to.
    #[pyo3(signature = (session, options = None))]
    fn run(&self, session: &Bound<'_, PyAny>, options: Option<&Bound<'_, PyAny>>) -> Result<(), PyCoreError> {
        let py = session.py();
        let options = native_options(session, options)?;
        let ended = self.run_bound(py, &mut *self.enter()?, options.as_deref());
        // A handler may run this again, so it comes after the turn.
        logging::forward(py)?;
        ended
    }
}
