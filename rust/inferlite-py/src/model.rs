//! `inferlite.Model`.

mod asking;
mod errors;
mod reading;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use inferlite_core::batch::Terms;
use inferlite_core::cache::{Entry, Looked, Missed};
use inferlite_core::runtime::Signature;
use inferlite_core::runtime::ort::OrtEngine;
use inferlite_core::stats::CallStats;
use inferlite_core::{Answer, ErrorKind, Value};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use smallvec::SmallVec;

use self::errors::load_error;
use crate::array::{Array, copied_array};
use crate::asker::Asker;
use crate::boundary::{self, PyCoreError, detach, inferlite_exception};
use crate::closable::{Closable, Handle};
use crate::exchange::Casting;
use crate::feed::{Fed, Names};
use crate::prediction::{Course, PyPrediction};
use crate::rows::{self, Said, Use};
use crate::session::Opened;
use crate::settings::{Providers, session_settings, source};
use crate::ticket::PyTicket;
use crate::value::{Handing, output_of};
use crate::zipped::{Form, ZipMaps};
use crate::{batching, live_cache, logging};

/// A loaded model; `inferlite.load` makes it.
///
/// Many threads may call one model at once.
///
/// Example:
///     >>> y = model(x)  # doctest: +SKIP
///     >>> both = model({"a": a, "b": b})  # doctest: +SKIP
///     >>> score = model(a=a, b=b, outputs="score")  # doctest: +SKIP
#[pyclass(name = "Model", module = "inferlite._core", frozen, subclass, weakref)]
pub(crate) struct PyModel {
    name: String,
    /// Empty once the model is closed.
    opened: Closable,
    stats: Arc<CallStats>,
    names: Names,
    /// `inferlite._calls.Reader`: reads calls that are out of the ordinary, and words what is wrong with them.
    reader: PyOnceLock<Py<PyAny>>,
    declared: Signature,
    handing: Handing,
    /// What `timeout` is where a call does not say, if anything.
    timeout: PyOnceLock<Py<PyAny>>,
    /// The batch axes that were declared, if any were.
    axes: PyOnceLock<Py<PyAny>>,
    casting: Casting,
    maps: Arc<ZipMaps>,
    /// As [`Opened`] has it, which is open no longer after `close`.
    takes_one_array: bool,
}

#[pymethods]
impl PyModel {
    #[new]
    #[pyo3(signature = (model, *, name, settings, providers, hold_gil, cache = None, casting = "no"))]
    #[expect(clippy::too_many_arguments, reason = "one for each setting of `load`")]
    fn new(
        py: Python<'_>,
        model: &Bound<'_, PyAny>,
        name: String,
        settings: &Bound<'_, PyDict>,
        providers: Providers,
        hold_gil: bool,
        cache: Option<live_cache::Given>,
        casting: &str,
    ) -> PyResult<Self> {
        let source = source(model)?;
        let mut settings = session_settings(settings, providers)?;
        let called = Some(name.clone()).filter(|name| !name.is_empty() && !name.contains('\0'));
        settings.name = called.or_else(|| source.name());
        let shown = if name.is_empty() { "model" } else { &name };
        let loaded = detach(py, || live_cache::load(source, &settings, cache));
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
        let (maps, takes_one_array) = (opened.maps.clone(), opened.takes_one_array);
        Ok(Self {
            name,
            names: Names::of(py, &declared),
            handing: opened.handing,
            stats,
            opened: Closable::new(py, opened)?,
            declared,
            reader: PyOnceLock::new(),
            timeout: PyOnceLock::new(),
            axes: PyOnceLock::new(),
            casting: Casting::of(casting),
            maps,
            takes_one_array,
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
    fn closed(slf: &Bound<'_, Self>) -> bool {
        slf.get().opened.get(slf).is_none()
    }

    /// Run the model; calling the model does the same.
    ///
    /// Args:
    ///     inputs: A mapping of values by name, or the value itself for a model that has one input. Arrays, and what
    ///         lends one (DLPack, Arrow, the buffer protocol), must have the input's dtype, unless `casting=` of
    ///         `load` lets them be cast; lists, tuples, ranges and Python's own numbers and strings are converted
    ///         where the dtype can hold them.
    ///     outputs: The names of the outputs to compute, or one name; None for all.
    ///     timeout: How many seconds the answer may take; None for as long as it takes. With one, a run that has not
    ///         proven to be short is another thread's, which copies the inputs, and ends early if nobody waits for it.
    ///     priority: Where calls are batched: those with a higher number leave first, and waiting while a whole batch
    ///         leaves counts as one. Else nothing.
    ///     out: An array to write the output into, or a mapping of arrays by name: writable, C-contiguous, of the
    ///         output's dtype and shape, and none that shares memory with another of the call. They are returned
    ///         themselves, and left as they are where the run fails.
    ///     **named: The inputs by name, instead of a mapping.
    ///
    /// Returns:
    ///     The output itself where one was computed, else a dict by name: new arrays, lists or dicts. The rows of a
    ///     `ZipMap` are a dict of one array for each key.
    ///
    /// Raises:
    ///     InvalidInputError: An input is missing, unknown or does not fit, an output is unknown, or an array in `out`
    ///         cannot take its output.
    ///     ModelRunError: A node of the model fails.
    ///     DeadlineExceededError: The answer did not come within `timeout`.
    ///     ModelClosedError: `close()` was called before.
    #[pyo3(signature = (inputs = None, /, *, outputs = None, timeout = None, priority = None, out = None, **named))]
    pub(crate) fn predict<'py>(
        slf: &Bound<'py, Self>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(out) = out {
            let named = named.cloned().unwrap_or_else(|| PyDict::new(slf.py()));
            let arguments = (slf, inputs, outputs, timeout, priority, named, out);
            return slf.py().import("inferlite._out")?.call_method1("predict", arguments);
        }
        let mut terms = Self::terms(slf, priority)?;
        if let Some(timeout) = Self::timeout(slf, timeout)
            && let Some(deadline) = Self::deadline(slf, timeout)?
        {
            terms.deadline = Some(deadline);
            let (this, py) = (slf.get(), slf.py());
            let handle = Self::open(slf)?;
            let (mut fed, wanted) = this.read_call(py, handle.get().opened().signature(), inputs, outputs, named)?;
            let begun = handle
                .get()
                .opened()
                .begin(py, &mut fed, wanted.as_deref(), None, terms, true);
            return match begun.map_err(|error| this.failure(py, error))? {
                boundary::Begun::Answered(mut answer) => this.object(py, &mut answer, wanted.as_deref()),
                boundary::Begun::Waiting(ticket) => {
                    let answer = boundary::wait(py, ticket, deadline);
                    let mut answer = answer.map_err(|error| match error {
                        PyCoreError::Core(error) if error.kind() == ErrorKind::DeadlineExceeded => {
                            this.late(py, timeout)
                        }
                        error => this.failure(py, error),
                    })?;
                    this.object(py, &mut answer, wanted.as_deref())
                }
            };
        }
        let mut missed = None;
        if let (Some(inputs), None, None) = (inputs, outputs, named) {
            match Self::look_up(slf, inputs) {
                Looked::Found(entry) => return slf.get().kept(slf.py(), entry),
                looked => missed = looked.missed(),
            }
        }
        Self::predict_missed(slf, inputs, outputs, &terms, named, missed)
    }

    #[pyo3(signature = (inputs = None, /, *, outputs = None, timeout = None, priority = None, out = None, **named))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::predict(slf, inputs, outputs, timeout, priority, out, named)
    }

    /// Run the model for an event loop, which goes on meanwhile: `y = await model.apredict(x)`.
    ///
    /// The inputs are read, and copied where the run does not start at once, before this returns. Kept answers, and runs
    /// that have proven to take less than 0.1 ms, are there at once; others run on threads of the model's own, as many
    /// as there are processors for this process. Where calls are batched, those of one turn of the loop leave together at
    /// its end. A task that is cancelled gives its answer up; the run ends early once
    /// nobody waits for it.
    ///
    /// Args:
    ///     inputs: As for `predict`.
    ///     outputs: As for `predict`.
    ///     timeout: As for `predict`.
    ///     priority: As for `predict`.
    ///     **named: As for `predict`.
    ///
    /// Returns:
    ///     A coroutine of what `predict` returns, which raises what `predict` raises, and QueueFullError where 10,000
    ///     calls wait for a thread already, or as many rows for a batch as may.
    #[pyo3(signature = (inputs = None, /, *, outputs = None, timeout = None, priority = None, **named))]
    fn apredict<'py>(
        slf: &Bound<'py, Self>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let timeout = Self::timeout(slf, timeout);
        let begin = || {
            let mut terms = Self::terms(slf, priority)?;
            terms.deadline = timeout.map_or(Ok(None), |timeout| Self::deadline(slf, timeout))?;
            Ok::<_, PyErr>((Self::begin(slf, inputs, outputs, named, terms)?, terms.deadline))
        };
        let (course, wanted, home, deadline) = match begin() {
            Ok(((course, wanted, home), deadline)) => (course, wanted, home, deadline),
            // Whoever awaits it is told.
            Err(error) if error.is_instance_of::<PyException>(slf.py()) => (Course::Failed(error), None, None, None),
            Err(error) => return Err(error),
        };
        let timeout = timeout.map(|timeout| timeout.clone().unbind());
        let prediction = PyPrediction::new(
            Asker::Model(slf.clone().unbind()),
            course,
            wanted,
            timeout,
            deadline,
            home,
        );
        Ok(Bound::new(slf.py(), prediction)?.into_any())
    }

    /// Run the model on another thread: `future = model.submit(x)`.
    ///
    /// The inputs are read and copied before this returns. Where calls are batched, those that are submitted while the
    /// model runs leave together.
    ///
    /// Args:
    ///     inputs: As for `predict`.
    ///     outputs: As for `predict`.
    ///     timeout: As for `predict`.
    ///     priority: As for `predict`.
    ///     **named: As for `predict`.
    ///
    /// Returns:
    ///     A `concurrent.futures.Future` of what `predict` returns or raises, or QueueFullError. Cancelling it gives the
    ///     answer up: the call leaves the line, or its run ends if nobody else waits for it. Its done callbacks run on
    ///     the thread that delivers answers: a slow one holds up others, and one that waits for the model may wait for
    ///     ever.
    ///
    /// Example:
    ///     >>> future = model.submit(x)  # doctest: +SKIP
    ///     >>> y = future.result()  # doctest: +SKIP
    #[pyo3(signature = (inputs = None, /, *, outputs = None, timeout = None, priority = None, **named))]
    fn submit<'py>(
        slf: &Bound<'py, Self>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let timeout = Self::timeout(slf, timeout);
        let futures = py.import("inferlite._futures")?.getattr("Submitted")?;
        let begin = || {
            let mut terms = Self::terms(slf, priority)?;
            terms.deadline = timeout.map_or(Ok(None), |timeout| Self::deadline(slf, timeout))?;
            let handle = Self::open(slf)?;
            let opened = handle.get().opened();
            let (mut fed, wanted) = this.read_call(py, opened.signature(), inputs, outputs, named)?;
            // What runs here keeps no company.
            let may_run_here = !opened.model.is_batched();
            let begun = opened.begin(py, &mut fed, wanted.as_deref(), None, terms, may_run_here);
            match begun.map_err(|error| this.failure(py, error))? {
                boundary::Begun::Answered(mut answer) => {
                    futures.call_method1("answered", (this.object(py, &mut answer, wanted.as_deref())?,))
                }
                boundary::Begun::Waiting(ticket) => {
                    let ticket = PyTicket::new(slf.clone().unbind(), ticket, wanted, terms.deadline);
                    futures.call_method1("waiting", (Bound::new(py, ticket)?, &this.name, timeout))
                }
            }
        };
        match begin() {
            Err(error) if error.is_instance_of::<PyException>(py) => {
                futures.call_method1("failed", (error.into_value(py),))
            }
            future => future,
        }
    }

    /// Run the model for each of many inputs: `for y in model.map(inputs)`.
    ///
    /// Up to 256 calls are under way ahead of the answer that is given next; closing the generator cancels them.
    ///
    /// Args:
    ///     items: What `predict` takes, one after the other; read as answers are taken.
    ///     outputs: As for `predict`, for every call.
    ///     timeout: As for `predict`, for every call by itself.
    ///     priority: As for `predict`, for every call.
    ///
    /// Returns:
    ///     A generator of what `predict` returns, in the order of the items, which raises what `predict` raises.
    ///
    /// Example:
    ///     >>> answers = list(model.map([x, y, z]))  # doctest: +SKIP
    #[pyo3(signature = (items, /, *, outputs = None, timeout = None, priority = None))]
    fn map<'py>(
        slf: &Bound<'py, Self>,
        items: &Bound<'py, PyAny>,
        outputs: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let settings = Self::settings(slf.py(), outputs, timeout, priority)?;
        let futures = slf.py().import("inferlite._futures")?;
        futures.call_method1("map_calls", (slf, items, settings))
    }

    /// Run the model for each of many rows, which have no batch axis: `for y in model.map_rows(table)`.
    ///
    /// Args:
    ///     rows: Arrays or lists for a model that has one input, or mappings by name, each without the batch axis: axis 0
    ///         where that is dynamic or 1, or the one that `batch_axes=` of `load` declares. Inputs without one are given
    ///         as they are.
    ///     outputs: As for `predict`, for every row.
    ///     timeout: As for `predict`, for every row by itself.
    ///     priority: As for `predict`, for every row.
    ///
    /// Returns:
    ///     A generator as `map` returns it, of answers without the batch axis.
    ///
    /// Example:
    ///     >>> answers = list(model.map_rows(np.ones((1000, 4), np.float32)))  # doctest: +SKIP
    #[pyo3(signature = (rows, /, *, outputs = None, timeout = None, priority = None))]
    fn map_rows<'py>(
        slf: &Bound<'py, Self>,
        rows: &Bound<'py, PyAny>,
        outputs: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let settings = Self::settings(py, outputs, timeout, priority)?;
        let declared = slf
            .get()
            .axes
            .get(py)
            .map_or_else(|| PyTuple::empty(py).into_any(), |axes| axes.bind(py).clone());
        let futures = py.import("inferlite._futures")?;
        futures.call_method1("map_rows", (slf, rows, settings, declared))
    }

    /// Takes note of where the rows of a batch are, for `map_rows`.
    fn _declare_axes(&self, py: Python<'_>, axes: Py<PyAny>) {
        let _ = self.axes.set(py, axes);
    }

    /// What the model has counted since it was loaded: calls, rows and the latency of the calls that succeeded.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let metadata = py.import("inferlite.metadata")?;
        let latency = this.stats.latency.summary();
        let latency_object = live_cache::latency(py, latency)?;
        let hits = this
            .opened
            .get(slf)
            .map_or(0, |handle| handle.get().opened().model.hits());
        let rows = this.stats.rows.load(Ordering::Relaxed).wrapping_add(hits);
        let cache = metadata.getattr("cache_stats")?.call1((Self::_cache_summary(slf)?,))?;
        let batching = match this.opened.get(slf) {
            Some(handle) => batching::stats(py, &handle.get().opened().model)?,
            None => None,
        };
        let answered = this.stats.answered.load(Ordering::Relaxed) + hits;
        metadata
            .getattr("Stats")?
            .call1((latency.count + answered, rows, latency_object, cache, batching))
    }

    /// The answers that are kept: an `inferlite.PredictionCache`; None where the model was loaded without `cache=`.
    #[getter]
    fn cache<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        py.import("inferlite.cache")?.call_method1("live", (slf,))
    }

    fn _cache_summary<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let handle = slf.get().opened.get(slf);
        let summary = |handle: Bound<'py, Handle>| live_cache::summary(slf.py(), &handle.get().opened().model);
        handle.map_or(Ok(None), summary)
    }

    fn _cache_clear(slf: &Bound<'_, Self>) -> PyResult<()> {
        live_cache::clear(slf.py(), &Self::open(slf)?.get().opened().model);
        Ok(())
    }

    fn _cache_resize(slf: &Bound<'_, Self>, max_bytes: usize, max_entries: Option<usize>) -> PyResult<()> {
        let handle = Self::open(slf)?;
        live_cache::resize(slf.py(), &handle.get().opened().model, max_bytes, max_entries);
        Ok(())
    }

    fn _cache_save(slf: &Bound<'_, Self>, path: std::path::PathBuf) -> PyResult<usize> {
        live_cache::save(slf.py(), &Self::open(slf)?.get().opened().model, path)
    }

    /// Drops the answer to a call of `predict` with these arguments.
    #[pyo3(signature = (inputs, outputs, named))]
    fn _cache_invalidate(
        slf: &Bound<'_, Self>,
        inputs: Option<&Bound<'_, PyAny>>,
        outputs: Option<&Bound<'_, PyAny>>,
        named: &Bound<'_, PyDict>,
    ) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let handle = Self::open(slf)?;
        let opened = handle.get().opened();
        let wanted = match outputs {
            Some(outputs) if !outputs.is_none() => Some(this.wanted(py, opened.signature(), outputs)?),
            _ => None,
        };
        let named = Some(named).filter(|named| !named.is_empty());
        let mut fed = Fed::default();
        if !this.read_directly(opened.signature(), inputs, named, &mut fed)? {
            fed = this.read(py, opened.signature(), inputs, named)?;
        }
        Ok(opened.invalidate(py, &fed, wanted.as_deref()))
    }

    /// Keeps answers by the row, combines calls, or both from now on, if the rows are independent.
    #[pyo3(signature = (declared, example, is_independent, are_kept, batching))]
    fn _use_rows(
        slf: &Bound<'_, Self>,
        declared: Vec<(String, Option<usize>)>,
        example: Option<&Bound<'_, PyAny>>,
        is_independent: Option<bool>,
        are_kept: bool,
        batching: Option<batching::Given>,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let handle = Self::open(slf)?;
        let opened = handle.get().opened();
        let mut fed = example
            .map(|example| this.read(py, opened.signature(), Some(example), None))
            .transpose()?;
        let mut lengths = Vec::new();
        let batching = match batching {
            Some(given) => {
                lengths = given.lengths();
                if let Some(timeout) = &given.timeout {
                    let _ = this.timeout.set(py, timeout.clone_ref(py));
                }
                Some(given.settings())
            }
            None => None,
        };
        let said = Said {
            declared,
            example: fed.as_mut(),
            is_independent,
            lengths,
        };
        rows::establish(py, &this.name, opened, said, Use { are_kept, batching })
    }

    /// Says what is wrong with inputs that were given as an example.
    fn _check_example(&self, py: Python<'_>, example: &Bound<'_, PyAny>) -> PyResult<()> {
        self.read(py, &self.declared, Some(example), None).map(drop)
    }

    /// Give the model's memory back once the calls under way have ended; later calls raise ModelClosedError.
    ///
    /// Args:
    ///     cancel: Whether calls that wait for a batch end with ModelClosedError, instead of being answered still.
    #[pyo3(signature = (*, cancel = false))]
    fn close(slf: &Bound<'_, Self>, cancel: bool) {
        if let Some(opened) = slf.get().opened.take(slf) {
            opened.model.count_hits_for_good();
            detach(slf.py(), || {
                opened.model.close(cancel);
                drop(opened);
            });
        }
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(slf: &Bound<'_, Self>, _exception: &Bound<'_, PyTuple>) {
        Self::close(slf, false);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let state = if Self::closed(slf) { ", closed" } else { "" };
        format!("<inferlite.Model `{}` on onnxruntime{state}>", slf.get().name)
    }
}

/// Which outputs a call wants; all of them where it does not say.
type Wanted = Option<SmallVec<[usize; 8]>>;

impl PyModel {
    /// Looks for the answer to a call of this value alone, which does not say how long it may take.
    #[inline]
    pub(crate) fn look_up(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> Looked {
        let this = slf.get();
        if !this.takes_one_array {
            return Looked::Unasked;
        }
        // Reading the array may run Python for a rare dtype.
        let array = Array::new(value);
        let tensor = array.as_ref().and_then(Array::small_tensor);
        let looked = tensor.and_then(|tensor| this.opened.with(slf, |opened| opened.look_up_tensor(&tensor)));
        looked.unwrap_or(Looked::Unasked)
    }

    /// Answers a call that takes as long as it takes; `missed` is what was looked up already.
    pub(crate) fn predict_missed<'py>(
        slf: &Bound<'py, Self>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        terms: &Terms,
        named: Option<&Bound<'py, PyDict>>,
        missed: Option<Missed>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let handle = Self::open(slf)?;
        let opened = handle.get().opened();
        let signature = opened.signature();
        // Reading the names may run the caller's code, so it comes before anything looks into an array.
        let wanted = match outputs {
            Some(outputs) if !outputs.is_none() => Some(this.wanted(py, signature, outputs)),
            _ => None,
        };
        let mut fed = Fed::default();
        if !this.read_directly(signature, inputs, named, &mut fed)? {
            fed = this.read(py, signature, inputs, named)?;
        }
        let wanted = wanted.transpose()?;
        let mut answer = opened
            .run(py, &mut fed, wanted.as_deref(), None, terms, missed)
            .map_err(|error| this.failure(py, error))?;
        this.object(py, &mut answer, wanted.as_deref())
    }

    /// What a call returns that the cache has answered.
    #[inline]
    pub(crate) fn kept<'py>(&self, py: Python<'py>, entry: Arc<Entry>) -> PyResult<Bound<'py, PyAny>> {
        // Most answers are one tensor: this is the short way to what `object` makes of it.
        if let [Value::Tensor(tensor)] = entry.values()
            && self.handing == Handing::Private
            && self.maps.is_empty()
        {
            return copied_array(py, tensor.view());
        }
        self.object(py, &mut Answer::Kept(entry), None)
    }

    /// What a call returns: the output itself, or several by name.
    #[inline]
    pub(crate) fn object<'py>(
        &self,
        py: Python<'py>,
        answer: &mut Answer<'_>,
        wanted: Option<&[usize]>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if answer.len() == 1 {
            return self.output(py, answer, wanted, 0);
        }
        let by_name = PyDict::new(py);
        for position in 0..answer.len() {
            let index = wanted.map_or(position, |wanted| wanted[position]);
            let name = &self.declared.outputs[index].name;
            by_name.set_item(name, self.output(py, answer, wanted, position)?)?;
        }
        Ok(by_name.into_any())
    }

    #[inline]
    fn output<'py>(
        &self,
        py: Python<'py>,
        answer: &mut Answer<'_>,
        wanted: Option<&[usize]>,
        position: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let zipped = self.maps.at(wanted, position);
        output_of(py, answer, position, self.handing, zipped, Form::Columns).map_err(|error| self.failure(py, error))
    }

    #[inline]
    fn open<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Handle>> {
        slf.get().opened.get(slf).ok_or_else(|| {
            let message = format!("model `{}` is closed", slf.get().name);
            inferlite_exception(slf.py(), "ModelClosedError", message).unwrap_or_else(|problem| problem)
        })
    }
}

fn graph_name(engine: &OrtEngine) -> String {
    engine
        .metadata()
        .ok()
        .map(|metadata| metadata.graph_name)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "model".to_owned())
}
