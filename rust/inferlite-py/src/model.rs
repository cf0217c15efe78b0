//! `inferlite.Model`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use inferlite_core::runtime::ort::OrtEngine;
use inferlite_core::runtime::{Argument, Dim, Signature};
use inferlite_core::stats::CallStats;
use inferlite_core::{Error, ErrorKind, Feed, Input, TensorView};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use smallvec::SmallVec;

use crate::array::Array;
use crate::boundary::{PyCoreError, detach, inferlite_exception};
use crate::feed::{Fed, Names};
use crate::session::{Opened, describe};
use crate::settings::{Providers, session_settings, source};
use crate::value::object_of;
use crate::{live_cache, logging};

/// A loaded model; `inferlite.load` makes it.
///
/// Many threads may call one model at once.
///
/// Example:
///     >>> y = model(x)  # doctest: +SKIP
///     >>> both = model({"a": a, "b": b})  # doctest: +SKIP
///     >>> score = model(a=a, b=b, outputs="score")  # doctest: +SKIP
#[pyclass(name = "Model", module = "inferlite", frozen, weakref)]
pub(crate) struct PyModel {
    name: String,
    /// Empty once the model is closed.
    opened: ArcSwapOption<Opened>,
    stats: Arc<CallStats>,
    names: Names,
    /// `inferlite._calls.Reader`: reads calls that are out of the ordinary, and words what is wrong with them.
    reader: PyOnceLock<Py<PyAny>>,
    declared: Signature,
}

#[pymethods]
impl PyModel {
    #[new]
    #[pyo3(signature = (model, *, name, settings, providers, hold_gil, cache = None))]
    fn new(
        py: Python<'_>,
        model: &Bound<'_, PyAny>,
        name: String,
        settings: &Bound<'_, PyDict>,
        providers: Providers,
        hold_gil: bool,
        cache: Option<live_cache::Given>,
    ) -> PyResult<Self> {
        let source = source(model)?;
        let settings = session_settings(settings, providers)?;
        let shown = if name.is_empty() { "model" } else { &name };
        let loaded = detach(py, || live_cache::load(source, settings, cache));
        logging::forward(py)?;
        let (engine, cache) = loaded.map_err(|error| load_error(py, shown, &error))?;
        let name = if name.is_empty() { graph_name(&engine) } else { name };
        let stats = Arc::<CallStats>::default();
        let opened = Opened::new(
            py,
            name.clone(),
            engine,
            hold_gil,
            Some(stats.clone()),
            cache,
            // `load`, its way to open a model, and `make` in there are not the caller.
            4,
        )?;
        let declared = opened.signature().clone();
        Ok(Self {
            name,
            names: Names::of(py, &declared),
            stats,
            opened: ArcSwapOption::from_pointee(opened),
            declared,
            reader: PyOnceLock::new(),
        })
    }

    /// What messages call the model.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// What runs the model: `"onnxruntime"`.
    #[getter]
    #[expect(clippy::unused_self, reason = "a property of every model")]
    fn engine(&self) -> &'static str {
        "onnxruntime"
    }

    /// What the model takes and gives: name, dtype and shape of every input and output, with symbolic dimensions.
    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.reader(py)?.getattr("signature")
    }

    /// Whether `close()` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.opened.load().is_none()
    }

    /// Run the model; calling the model does the same.
    ///
    /// Args:
    ///     inputs: A mapping of values by name, or the value itself for a model that has one input. Arrays must have
    ///         the input's dtype; lists, tuples, ranges and Python's own numbers and strings are converted where it
    ///         can hold them.
    ///     outputs: The names of the outputs to compute, or one name; None for all.
    ///     **named: The inputs by name, instead of a mapping.
    ///
    /// Returns:
    ///     The output itself where one was computed, else a dict by name: new arrays, lists or dicts.
    ///
    /// Raises:
    ///     InvalidInputError: An input is missing, unknown or does not fit, or an output is unknown.
    ///     ModelRunError: A node of the model fails.
    ///     ModelClosedError: `close()` was called before.
    #[pyo3(signature = (inputs = None, /, *, outputs = None, **named))]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let guard = self.opened.load();
        let opened = self.open_one(py, guard.as_ref())?;
        let signature = opened.signature();
        // Reading the names may run the caller's code, so it comes before anything looks into an array.
        let wanted = match outputs {
            Some(outputs) if !outputs.is_none() => Some(self.wanted(py, signature, outputs)),
            _ => None,
        };
        let mut fed = match self.read_directly(signature, inputs, named)? {
            Some(fed) => fed,
            None => self.read(py, signature, inputs, named)?,
        };
        let wanted = wanted.transpose()?;
        let mut outputs = opened
            .run(py, &mut fed, wanted.as_deref(), None)
            .map_err(|error| run_error(py, &self.name, error))?;
        let mut outputs = outputs.take();
        if outputs.len() == 1
            && let Some(only) = outputs.next()
        {
            return object_of(py, only);
        }
        let by_name = PyDict::new(py);
        for (position, value) in outputs.enumerate() {
            let index = wanted.as_ref().map_or(position, |wanted| wanted[position]);
            by_name.set_item(&signature.outputs[index].name, object_of(py, value)?)?;
        }
        Ok(by_name.into_any())
    }

    #[pyo3(signature = (inputs = None, /, *, outputs = None, **named))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.predict(py, inputs, outputs, named)
    }

    /// What the model has counted since it was loaded: calls, rows and the latency of the calls that succeeded.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let metadata = py.import("inferlite.metadata")?;
        let latency = self.stats.latency.summary();
        let seconds = |duration: Duration| duration.as_secs_f64();
        let latency_object = metadata.getattr("Latency")?.call1((
            latency.count,
            seconds(latency.mean),
            seconds(latency.p50),
            seconds(latency.p95),
            seconds(latency.p99),
            seconds(latency.max),
        ))?;
        let rows = self.stats.rows.load(Ordering::Relaxed);
        let cache = metadata.getattr("cache_stats")?.call1((self.summary_of_cache(py)?,))?;
        let answered = self.stats.answered.load(Ordering::Relaxed);
        metadata
            .getattr("Stats")?
            .call1((latency.count + answered, rows, latency_object, cache))
    }

    /// The answers that are kept: an `inferlite.PredictionCache`; None where the model was loaded without `cache=`.
    #[getter]
    fn cache<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        py.import("inferlite.cache")?.call_method1("live", (slf,))
    }

    fn _cache_summary<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.summary_of_cache(py)
    }

    fn _cache_clear(&self, py: Python<'_>) -> PyResult<()> {
        let guard = self.opened.load();
        live_cache::clear(py, &self.open_one(py, guard.as_ref())?.model);
        Ok(())
    }

    fn _cache_resize(&self, py: Python<'_>, max_bytes: usize, max_entries: Option<usize>) -> PyResult<()> {
        let guard = self.opened.load();
        live_cache::resize(py, &self.open_one(py, guard.as_ref())?.model, max_bytes, max_entries);
        Ok(())
    }

    fn _cache_save(&self, py: Python<'_>, path: std::path::PathBuf) -> PyResult<usize> {
        let guard = self.opened.load();
        live_cache::save(py, &self.open_one(py, guard.as_ref())?.model, path)
    }

    /// Drops the answer to a call of `predict` with these arguments.
    #[pyo3(signature = (inputs, outputs, named))]
    fn _cache_invalidate(
        &self,
        py: Python<'_>,
        inputs: Option<&Bound<'_, PyAny>>,
        outputs: Option<&Bound<'_, PyAny>>,
        named: &Bound<'_, PyDict>,
    ) -> PyResult<bool> {
        let guard = self.opened.load();
        let opened = self.open_one(py, guard.as_ref())?;
        let wanted = match outputs {
            Some(outputs) if !outputs.is_none() => Some(self.wanted(py, opened.signature(), outputs)?),
            _ => None,
        };
        let named = Some(named).filter(|named| !named.is_empty());
        let fed = match self.read_directly(opened.signature(), inputs, named)? {
            Some(fed) => fed,
            None => self.read(py, opened.signature(), inputs, named)?,
        };
        Ok(opened.invalidate(py, &fed, wanted.as_deref()))
    }

    /// Give the model's memory back once the calls under way have ended; later calls raise ModelClosedError.
    fn close(&self, py: Python<'_>) {
        let opened = self.opened.swap(None);
        detach(py, || drop(opened));
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        let state = if self.closed() { ", closed" } else { "" };
        format!("<inferlite.Model `{}` on onnxruntime{state}>", self.name)
    }
}

impl PyModel {
    fn summary_of_cache<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let guard = self.opened.load();
        guard
            .as_ref()
            .map_or(Ok(None), |opened| live_cache::summary(py, &opened.model))
    }

    fn open_one<'a>(&self, py: Python<'_>, opened: Option<&'a Arc<Opened>>) -> PyResult<&'a Opened> {
        match opened {
            Some(opened) => Ok(opened),
            None => Err(inferlite_exception(
                py,
                "ModelClosedError",
                format!("model `{}` is closed", self.name),
            )?),
        }
    }

    fn reader<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        let make = || {
            let class = py.import("inferlite._calls")?.getattr("Reader")?;
            let reader = class.call1((
                &self.name,
                describe(py, self.declared.proper_inputs())?,
                describe(py, &self.declared.outputs)?,
                describe(py, self.declared.overridable_initializers())?,
            ))?;
            Ok::<_, PyErr>(reader.unbind())
        };
        Ok(self.reader.get_or_try_init(py, make)?.bind(py))
    }

    /// Reads a call whose arrays all run as they are and fit; `None` where anything is out of the ordinary.
    #[inline]
    fn read_directly<'py>(
        &self,
        signature: &Signature,
        inputs: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Option<Fed<'py>>> {
        let fed = match (inputs, named) {
            (Some(value), None) => match Array::new(value) {
                Some(array) if signature.required == 1 => {
                    let Some(view) = array.direct_view() else {
                        return Ok(None);
                    };
                    let mut fed = Fed::default();
                    fed.feeds.push(Feed {
                        index: 0,
                        value: Input::Tensor(view),
                    });
                    fed.pins.keep(value.clone());
                    Some(fed)
                }
                Some(_) => None,
                None => Fed::directly(&self.names, signature.required, value)?,
            },
            (None, Some(named)) => Fed::directly(&self.names, signature.required, named.as_any())?,
            _ => None,
        };
        Ok(fed.filter(|fed| {
            fed.feeds.iter().all(|feed| match &feed.value {
                Input::Tensor(view) => fits(&signature.inputs[feed.index], view),
                Input::Value(_) => false,
            })
        }))
    }

    /// Reads any other call, or says what is wrong with it.
    #[cold]
    fn read<'py>(
        &self,
        py: Python<'py>,
        signature: &Signature,
        inputs: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Fed<'py>> {
        let named = named.cloned().unwrap_or_else(|| PyDict::new(py));
        let values = self
            .reader(py)?
            .call_method1("feed", (inputs, named))?
            .cast_into::<PyDict>()?;
        let values = values
            .iter()
            .map(|(name, value)| Ok((name.extract::<String>()?, value)))
            .collect::<PyResult<Vec<_>>>()?;
        // As in a session, what is `None` is not fed.
        let values = values.into_iter().filter(|(_, value)| !value.is_none()).collect();
        Fed::from_values(signature, values).map_err(|error| refusal(py, &self.name, error))
    }

    fn wanted(
        &self,
        py: Python<'_>,
        signature: &Signature,
        outputs: &Bound<'_, PyAny>,
    ) -> PyResult<SmallVec<[usize; 8]>> {
        let names: Vec<String> = self.reader(py)?.call_method1("wanted", (outputs,))?.extract()?;
        Ok(names.iter().filter_map(|name| signature.output(name)).collect())
    }
}

/// Whether a tensor is what an input declares; a declared scalar says nothing about the shape, as in onnxruntime.
#[inline]
fn fits(argument: &Argument, view: &TensorView) -> bool {
    argument.dtype() == Some(view.dtype())
        && argument.shape().filter(|axes| !axes.is_empty()).is_none_or(|axes| {
            axes.len() == view.shape().len()
                && std::iter::zip(axes, view.shape()).all(|(axis, extent)| match axis {
                    Dim::Fixed(wanted) => wanted == extent,
                    Dim::Symbol(_) | Dim::Unknown => true,
                })
        })
}

fn graph_name(engine: &OrtEngine) -> String {
    engine
        .metadata()
        .ok()
        .map(|metadata| metadata.graph_name)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "model".to_owned())
}

fn load_error(py: Python<'_>, name: &str, error: &Error) -> PyErr {
    let message = format!("model `{name}` cannot be loaded: {}", error.message().trim());
    inferlite_exception(py, "ModelLoadError", message).unwrap_or_else(|problem| problem)
}

/// An error of the runtime while the model ran: about the inputs, or about the model.
fn run_error(py: Python<'_>, name: &str, error: PyCoreError) -> PyErr {
    match error {
        PyCoreError::Python(error) => error,
        PyCoreError::Core(error) => {
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
fn refusal(py: Python<'_>, name: &str, error: PyCoreError) -> PyErr {
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
