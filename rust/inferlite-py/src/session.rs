//! The native half of `inferlite.InferenceSession`.

mod asking;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use inferlite_core::batch::Terms;
use inferlite_core::cache::{Looked, Missed, SmallTensor};
use inferlite_core::runtime::ort::{MemoryInfo, ModelSource, OrtEngine, RunOptions};
use inferlite_core::runtime::{Argument, Dim, Feed, Signature, ValueType};
use inferlite_core::stats::CallStats;
use inferlite_core::{Answer, Call, Model};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};
use smallvec::SmallVec;

use crate::array::Array;
use crate::bound::PyBoundCall;
use crate::boundary::{self, PyCoreError, incompatible_arguments, runtime_error};
use crate::exchange::Casting;
use crate::feed::{self, Fed, Names};
use crate::io_binding::{self, PyIoBinding};
use crate::ortvalue::PyOrtValue;
use crate::rows::{self, Said, Use};
use crate::run_options::Given;
use crate::settings::{self, Providers, session_settings, source};
use crate::value::{Handing, list_of};
use crate::zipped::ZipMaps;
use crate::{batching, live_cache, logging, run_options};

/// A model in ONNX Runtime, called as onnxruntime's own session is.
#[pyclass(name = "Session", module = "inferlite._core", subclass, frozen, weakref)]
pub(crate) struct PySession {
    opened: OnceLock<Opened>,
}

impl Drop for PySession {
    fn drop(&mut self) {
        boundary::free(self.opened.take());
    }
}

pub(crate) struct Opened {
    pub(crate) engine: Arc<OrtEngine>,
    pub(crate) model: Arc<Model>,
    pub(crate) may_hold_gil: bool,
    pub(crate) handing: Handing,
    /// Which arrays of another dtype are cast before they run.
    casting: Casting,
    names: Names,
    pub(crate) maps: Arc<ZipMaps>,
    every_output: SmallVec<[usize; 8]>,
    /// Whether one input is all that must be fed, and answers are kept.
    pub(crate) takes_one_array: bool,
}

impl Opened {
    pub(crate) fn new(
        py: Python<'_>,
        name: String,
        engine: OrtEngine,
        hold_gil: bool,
        stats: Option<Arc<CallStats>>,
        cache: Option<live_cache::Plan>,
        stack_level: i32,
    ) -> PyResult<Self> {
        let engine = Arc::new(engine);
        let mut model = Model::new(name, Box::new(engine.clone()), stats);
        let handing = cache.as_ref().map_or(Handing::Private, live_cache::Plan::handing);
        if let Some(plan) = cache {
            model = plan.add_to(py, model, stack_level)?;
        }
        let model = Arc::new(model);
        Ok(Self {
            may_hold_gil: hold_gil && boundary::environment_allows_holding(),
            handing,
            casting: Casting::No,
            names: Names::of(py, model.signature()),
            maps: Arc::new(ZipMaps::of(py, model.signature())?),
            every_output: (0..model.signature().outputs.len()).collect(),
            takes_one_array: model.signature().required == 1 && model.cache().is_some(),
            engine,
            model,
        })
    }

    pub(crate) fn signature(&self) -> &Signature {
        self.model.signature()
    }

    /// The call that feeds this and asks for `fetches`, or for all outputs.
    #[inline]
    fn call<'a>(&'a self, feeds: &'a [Feed], fetches: Option<&'a [usize]>) -> Call<'a> {
        Call {
            feeds,
            fetches: fetches.unwrap_or(&self.every_output),
            options: None,
        }
    }

    /// Runs what was fed, and gives the outputs in the order of `fetches`, or all of them; `missed` is what was looked up
    /// already.
    #[inline]
    pub(crate) fn run(
        &self,
        py: Python<'_>,
        fed: &mut Fed<'_>,
        fetches: Option<&[usize]>,
        options: Option<&RunOptions>,
        terms: &Terms,
        missed: Option<Missed>,
    ) -> Result<Answer<'_>, PyCoreError> {
        let call = Call {
            options,
            ..self.call(&fed.feeds, fetches)
        };
        boundary::run(py, &self.model, self.may_hold_gil, &call, terms, &mut fed.pins, missed)
    }
}

impl Opened {
    /// Reads the feed of a session into `fed`, which is new.
    #[inline]
    fn read<'py>(&self, given: &Bound<'py, PyAny>, fed: &mut Fed<'py>) -> Result<(), PyCoreError> {
        let signature = self.signature();
        let is_read = fed.read_directly(&self.names, signature.required, given)?;
        if !is_read || (self.casting != Casting::No && !fed.has_declared_dtypes(signature)) {
            *fed = Fed::from_mapping(signature, given, self.casting)?;
        }
        Ok(())
    }

    /// What a session's `run` returns; `None` where the onnxruntime package has to make the run.
    #[inline]
    fn answer<'py>(
        &self,
        session: &Bound<'py, PySession>,
        output_names: Option<&Bound<'py, PyAny>>,
        input_feed: &Bound<'py, PyAny>,
        run_options: Option<&Bound<'py, PyAny>>,
    ) -> Result<Option<Bound<'py, PyList>>, PyCoreError> {
        let py = session.py();
        let mut missed = None;
        if output_names.is_none() && run_options.is_none() {
            match self.look_up_mapping(input_feed)? {
                Looked::Found(entry) => {
                    return list_of(py, &mut Answer::Kept(entry), self.handing, &self.maps, None).map(Some);
                }
                looked => missed = looked.missed(),
            }
        }
        let signature = self.signature();
        // Both may run the caller's code, so they come before anything looks into an array; what is wrong with the feed
        // is said first all the same.
        let options = match run_options::read(session, run_options) {
            Ok(Some(Given::Package)) => return Ok(None),
            Ok(Some(Given::Native(options))) => Ok(Some(options)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let fetches = feed::fetches(signature, output_names, |_| incompatible_arguments("run"));
        let mut fed = Fed::default();
        self.read(input_feed, &mut fed)?;
        let (options, fetches) = (options?, fetches?);
        let terms = Terms::default();
        let mut answer = self.run(py, &mut fed, fetches.as_deref(), options.as_deref(), &terms, missed)?;
        list_of(py, &mut answer, self.handing, &self.maps, fetches.as_deref()).map(Some)
    }

    /// The exception for an error of a session's `run`, with what the caller can do about it.
    #[cold]
    fn explained(
        &self,
        py: Python<'_>,
        error: PyCoreError,
        output_names: Option<&Bound<'_, PyAny>>,
        input_feed: &Bound<'_, PyAny>,
    ) -> PyErr {
        static TEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        // Only an absent value makes a failing node a matter of the call.
        let is_of_a_node = matches!(&error, PyCoreError::Core(error) if error.message().starts_with("Non-zero status"));
        let feeds_none = || {
            let feed = input_feed.cast_exact::<PyDict>();
            feed.is_ok_and(|feed| feed.iter().any(|(_, value)| value.is_none()))
        };
        let error = PyErr::from(error);
        if is_of_a_node && !feeds_none() {
            return error;
        }
        let value = error.value(py);
        let explain = || {
            let (text,): (Bound<'_, PyString>,) = value.getattr(intern!(py, "args"))?.extract()?;
            let signature = self.signature();
            let inputs = describe(py, &signature.inputs)?;
            let outputs = describe(py, &signature.outputs)?;
            // No Python runs for any of this: a thread that ends with the interpreter must not be held up in here.
            let text = TEXT.import(py, "inferlite._hints", "Text")?.call1((text,))?;
            text.setattr(intern!(py, "call"), (output_names, input_feed, inputs, outputs))?;
            value.setattr(intern!(py, "args"), (text,))
        };
        // An error of the caller's own may be anything, and says what it says.
        let _: PyResult<()> = explain();
        error
    }

    /// Looks for the answer to a call of this one array, for all outputs, before the call is read: the quick way to what
    /// is asked most.
    #[inline]
    pub(crate) fn look_up_array(&self, value: &Bound<'_, PyAny>) -> Looked {
        if !self.takes_one_array {
            return Looked::Unasked;
        }
        let array = Array::new(value);
        let tensor = array.as_ref().and_then(Array::small_tensor);
        tensor.map_or(Looked::Unasked, |tensor| self.look_up_tensor(&tensor))
    }

    /// The same of the array's tensor, without any Python.
    #[inline]
    pub(crate) fn look_up_tensor(&self, tensor: &SmallTensor<'_>) -> Looked {
        self.model.look_up_small(tensor, &self.every_output)
    }

    /// [`Self::look_up_array`] for a dictionary of one array.
    #[inline]
    fn look_up_mapping(&self, feed: &Bound<'_, PyAny>) -> PyResult<Looked> {
        if self.takes_one_array
            && let Ok(feed) = feed.cast_exact::<PyDict>()
            && feed.len() == 1
            && let Some(name) = self.names.first(feed.py())
            && let Some(value) = feed.get_item(name)?
        {
            return Ok(self.look_up_array(&value));
        }
        Ok(Looked::Unasked)
    }

    /// Answers what was fed if that takes no time, else has it run on another thread.
    pub(crate) fn begin(
        &self,
        py: Python<'_>,
        fed: &mut Fed<'_>,
        fetches: Option<&[usize]>,
        options: Option<Arc<RunOptions>>,
        terms: Terms,
        may_run_here: bool,
    ) -> Result<boundary::Begun<'_>, PyCoreError> {
        let given = options.clone();
        let call = Call {
            options: given.as_deref(),
            ..self.call(&fed.feeds, fetches)
        };
        boundary::begin(py, self, &call, options, terms, &mut fed.pins, may_run_here)
    }

    /// Answers what was fed if that takes no time, else copies it for the end of the loop's turn.
    pub(crate) fn ask(
        &self,
        py: Python<'_>,
        fed: &mut Fed<'_>,
        fetches: Option<&[usize]>,
        terms: Terms,
        is_quiet: impl FnOnce() -> bool,
    ) -> Result<boundary::Said<'_>, PyCoreError> {
        let call = self.call(&fed.feeds, fetches);
        boundary::ask(py, self, &call, terms, &mut fed.pins, is_quiet)
    }

    /// Drops the answer to a call that is kept; whether there was one.
    pub(crate) fn invalidate(&self, py: Python<'_>, fed: &Fed<'_>, fetches: Option<&[usize]>) -> bool {
        let call = self.call(&fed.feeds, fetches);
        let Some(cache) = self.model.cache() else {
            return false;
        };
        let is_dropped = self.model.invalidate(&call);
        // The arrays are read before the GIL is given away.
        let shared = cache.shared_key(&call);
        shared.is_some_and(|key| boundary::detach(py, || cache.invalidate_shared(key))) || is_dropped
    }
}

impl PySession {
    #[inline]
    pub(crate) fn opened(&self) -> PyResult<&Opened> {
        self.opened
            .get()
            .ok_or_else(|| runtime_error("the session has no model: `__init__` has not run"))
    }
}

#[pymethods]
impl PySession {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            opened: OnceLock::new(),
        }
    }

    /// Makes the session; the first call wins.
    #[pyo3(signature = (model, settings, providers, hold_gil, cache = None, casting = "no"))]
    #[expect(clippy::too_many_arguments, reason = "one for each setting of a session")]
    fn _open(
        &self,
        py: Python<'_>,
        model: &Bound<'_, PyAny>,
        settings: &Bound<'_, PyDict>,
        providers: Providers,
        hold_gil: bool,
        cache: Option<live_cache::Given>,
        casting: &str,
    ) -> Result<(), PyCoreError> {
        if self.opened.get().is_some() {
            return Err(
                runtime_error("a session is made once: make a new one instead of calling `__init__` again").into(),
            );
        }
        let source = source(model)?;
        let mut settings = session_settings(settings, providers)?;
        settings.name = source.name();
        let loaded = boundary::detach(py, || live_cache::load(source, &settings, cache));
        logging::forward(py)?;
        let (engine, cache) = loaded?;
        let mut opened = Opened::new(
            py,
            String::new(),
            engine,
            hold_gil,
            None,
            cache,
            // `__init__` and `_create` are not the caller.
            3,
        )?;
        opened.casting = Casting::of(casting);
        let _ = self.opened.set(opened);
        Ok(())
    }

    /// Computes the outputs of the model.
    ///
    /// Many threads may call this on one session at once. Inputs in C order are not copied, or only into memory that
    /// the session keeps for small ones; every output is private to the caller.
    ///
    /// Args:
    ///     output_names: names of the outputs wanted, in that order; `None` or empty for all of them.
    ///     input_feed: a dictionary of input name to value: an array of the declared dtype and shape, or what lends one
    ///         by DLPack, Arrow, `__array_interface__` or the buffer protocol; a list for a sequence, a dictionary for a
    ///         map.
    ///     run_options: see `RunOptions`; `None` for the defaults.
    ///     out: arrays to write outputs into, by name: writable, C-contiguous, of the output's dtype and shape, and none
    ///         that shares memory with another of the call. They are returned themselves, and left as they are where
    ///         the run fails; the other outputs are new. `bind` has the runtime write into arrays without a copy.
    ///
    /// Returns:
    ///     A list with one result per output: an array, a list for a sequence, a dictionary for a map, `None` for an
    ///     absent optional.
    ///
    /// Raises:
    ///     ValueError: a required input is missing, or an array in `out` cannot take its output.
    ///     InvalidArgument: a name is unknown, or an input has the wrong dtype, rank or shape.
    #[pyo3(signature = (output_names, input_feed, run_options = None, *, out = None))]
    fn run<'py>(
        slf: &Bound<'py, Self>,
        output_names: Option<&Bound<'py, PyAny>>,
        input_feed: &Bound<'py, PyAny>,
        run_options: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, opened) = (slf.py(), slf.get().opened()?);
        if let Some(out) = out {
            let arguments = (slf, output_names, input_feed, run_options, out);
            return py.import("inferlite._out")?.call_method1("run", arguments);
        }
        match opened.answer(slf, output_names, input_feed, run_options) {
            Ok(Some(results)) => Ok(results.into_any()),
            Ok(None) => slf.call_method1("_run_on_package", (output_names, input_feed, run_options)),
            Err(error) => Err(opened.explained(py, error, output_names, input_feed)),
        }
    }

    /// Computes the outputs of the model for an event loop, which goes on meanwhile: `y, = await session.arun(None, feed)`.
    ///
    /// The inputs are read, and copied where the run does not start at once, before this returns, on any setting of
    /// threads. Runs that have proven to take less than 0.1 ms are over at once; others run on threads of the session's
    /// own, as many as there are processors for this process. A task that is cancelled, or whose `asyncio.timeout` is
    /// over, goes on at once, and its run ends between two nodes, with no other one ended.
    ///
    /// Args:
    ///     output_names: as for `run`.
    ///     input_feed: as for `run`.
    ///     run_options: as for `run`; setting `terminate` ends the run.
    ///
    /// Returns:
    ///     A coroutine of what `run` returns, which raises what `run` raises, and QueueFullError where 10,000 calls wait
    ///     for a thread already.
    #[pyo3(signature = (output_names, input_feed, run_options = None))]
    fn arun<'py>(
        slf: &Bound<'py, Self>,
        output_names: Option<&Bound<'py, PyAny>>,
        input_feed: &Bound<'py, PyAny>,
        run_options: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        asking::arun(slf, output_names, input_feed, run_options)
    }

    /// Computes the outputs of the model on another thread, which then calls `callback(results, user_data, error)`.
    ///
    /// The inputs are read and copied before this returns, on any setting of threads. What `callback` raises goes to
    /// `sys.unraisablehook`. A call still under way when the interpreter ends is not told of; the end waits for a
    /// `callback` that is under way.
    ///
    /// Args:
    ///     output_names: as for `run`.
    ///     input_feed: as for `run`.
    ///     callback: takes the list of results, `user_data`, and a string: empty, or what went wrong, with no results.
    ///     user_data: anything.
    ///     run_options: as for `run`.
    ///
    /// Raises:
    ///     TypeError: `callback` cannot be called.
    ///     ValueError: a required input is missing.
    ///     QueueFullError: 10,000 calls wait for a thread already.
    #[pyo3(signature = (output_names, input_feed, callback, user_data, run_options = None))]
    fn run_async(
        slf: &Bound<'_, Self>,
        output_names: Option<&Bound<'_, PyAny>>,
        input_feed: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        user_data: &Bound<'_, PyAny>,
        run_options: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), PyCoreError> {
        asking::run_async(slf, output_names, input_feed, callback, user_data, run_options)
    }

    /// Binds arrays to the session, for calls that name nothing: `call = session.bind({"x": x})`, then `call()`.
    ///
    /// Every call reads the bound arrays again, so that new inputs are written into them in place.
    ///
    /// Args:
    ///     inputs: a mapping of input name to array: the declared dtype, C order, aligned, native byte order.
    ///     outputs: `None` for all outputs as new arrays, a sequence of names for some of them, or a mapping of output
    ///         name to writable array, which every call overwrites and returns.
    ///
    /// Returns:
    ///     A call without arguments that returns the outputs as a list. One thread at a time may call it.
    ///
    /// Raises:
    ///     ValueError: an array cannot be bound; the message names it and the remedy.
    #[pyo3(signature = (inputs, outputs = None))]
    fn bind<'py>(
        &self,
        inputs: &Bound<'py, PyAny>,
        outputs: Option<&Bound<'py, PyAny>>,
    ) -> Result<PyBoundCall, PyCoreError> {
        PyBoundCall::new(self.opened()?, inputs, outputs)
    }

    /// Runs values by name, and gives those of the outputs; see `run_with_ort_values`.
    #[pyo3(signature = (names, values, output_names, outputs, run_options = None))]
    #[expect(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn _run_values(
        slf: &Bound<'_, Self>,
        names: Vec<String>,
        values: &Bound<'_, PyAny>,
        output_names: Vec<String>,
        outputs: Vec<Option<PyOrtValue>>,
        run_options: Option<&Bound<'_, PyAny>>,
    ) -> Result<Vec<PyOrtValue>, PyCoreError> {
        let (inputs, outputs) = ((names.as_slice(), values), (output_names.as_slice(), outputs));
        io_binding::run_values(slf.as_any(), slf.get().opened()?, inputs, outputs, run_options)
    }

    fn _io_binding(&self) -> PyResult<PyIoBinding> {
        Ok(PyIoBinding::new(self.opened()?))
    }

    fn _cache_summary<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        live_cache::summary(py, &self.opened()?.model)
    }

    fn _cache_clear(&self, py: Python<'_>) -> PyResult<()> {
        live_cache::clear(py, &self.opened()?.model);
        Ok(())
    }

    fn _cache_resize(&self, py: Python<'_>, max_bytes: usize, max_entries: Option<usize>) -> PyResult<()> {
        live_cache::resize(py, &self.opened()?.model, max_bytes, max_entries);
        Ok(())
    }

    fn _cache_save(&self, py: Python<'_>, path: PathBuf) -> PyResult<usize> {
        live_cache::save(py, &self.opened()?.model, path)
    }

    /// Drops the answer to a call of `run` with these arguments.
    fn _cache_invalidate(
        &self,
        py: Python<'_>,
        output_names: Option<&Bound<'_, PyAny>>,
        input_feed: &Bound<'_, PyAny>,
    ) -> Result<bool, PyCoreError> {
        let opened = self.opened()?;
        let fetches = feed::fetches(opened.signature(), output_names, |_| {
            incompatible_arguments("invalidate")
        })?;
        let mut fed = Fed::default();
        opened.read(input_feed, &mut fed)?;
        Ok(opened.invalidate(py, &fed, fetches.as_deref()))
    }

    /// Keeps answers by the row, combines calls, or both from now on, if the rows are independent.
    fn _use_rows(&self, py: Python<'_>, are_kept: bool, batching: Option<batching::Given>) -> PyResult<()> {
        let said = Said {
            lengths: batching.as_ref().map(batching::Given::lengths).unwrap_or_default(),
            ..Said::default()
        };
        let batching = batching.map(|given| given.settings());
        rows::establish(py, "model", self.opened()?, said, Use { are_kept, batching })
    }

    /// Makes the session anew on other providers, and forgets every answer that is kept.
    fn _set_providers(&self, py: Python<'_>, providers: Providers) -> Result<(), PyCoreError> {
        let opened = self.opened()?;
        let done = boundary::detach(py, || {
            let done = opened.engine.set_providers(settings::providers(providers));
            if done.is_ok() {
                opened.model.reconfigured();
            }
            done
        });
        logging::forward(py)?;
        Ok(done?)
    }

    /// Tells the execution providers something, and forgets every answer that is kept.
    #[expect(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn _set_dynamic_options(&self, py: Python<'_>, options: Vec<(String, String)>) -> Result<(), PyCoreError> {
        let opened = self.opened()?;
        Ok(boundary::detach(py, || {
            let done = opened.engine.set_dynamic_options(&options);
            opened.model.reconfigured();
            done
        })?)
    }

    /// Name, allocator type, device and memory type of every input's memory, or every output's.
    fn _memory_infos(&self, is_for_inputs: bool) -> Result<Vec<(String, i32, i32, i32)>, PyCoreError> {
        let engine = &self.opened()?.engine;
        let infos = if is_for_inputs {
            engine.input_memory()?
        } else {
            engine.output_memory()?
        };
        let row = |info: MemoryInfo| (info.name, info.allocator_type, info.device_id, info.mem_type);
        Ok(infos.into_iter().map(row).collect())
    }

    /// The absolute path of the file that the session was made from; `None` for bytes. A file that has changed since is
    /// refused, and `why` says who wanted it.
    fn _model_file(&self, why: &str) -> Result<Option<PathBuf>, PyCoreError> {
        let engine = &self.opened()?.engine;
        engine.refuse_changed_file(why)?;
        Ok(engine.path())
    }

    /// Gives up the bytes that the session was made from.
    fn _release_model(&self) -> PyResult<()> {
        self.opened()?.engine.release_source();
        Ok(())
    }

    /// What a session that is to be the same is made of, an absolute path or bytes, and whether that is unchanged.
    fn _source<'py>(&self, py: Python<'py>) -> Result<(Bound<'py, PyAny>, bool), PyCoreError> {
        let engine = &self.opened()?.engine;
        let source = match engine.source()? {
            ModelSource::Path(path) => path.into_os_string().into_bound_py_any(py)?,
            ModelSource::Bytes(bytes) => PyBytes::new(py, bytes.as_ref().as_ref()).into_any(),
        };
        Ok((source, engine.is_unchanged()))
    }

    /// Ends profiling.
    ///
    /// Returns:
    ///     The name of the file with the profile; an empty string if profiling was not enabled.
    fn end_profiling(&self, py: Python<'_>) -> Result<String, PyCoreError> {
        let opened = self.opened()?;
        Ok(boundary::detach(py, || opened.engine.end_profiling())?)
    }

    fn _profiling_start_time_ns(&self) -> Result<u64, PyCoreError> {
        Ok(self.opened()?.engine.profiling_start_ns()?)
    }

    fn _inputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        describe(py, self.opened()?.signature().proper_inputs())
    }

    fn _outputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        describe(py, &self.opened()?.signature().outputs)
    }

    fn _initializers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        describe(py, self.opened()?.signature().overridable_initializers())
    }

    fn _provider_names(&self) -> PyResult<Vec<String>> {
        Ok(self.opened()?.engine.providers())
    }

    fn _model_metadata<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyDict>, PyCoreError> {
        let metadata = self.opened()?.engine.metadata()?;
        let dict = PyDict::new(py);
        dict.set_item("custom_metadata_map", metadata.custom_metadata_map)?;
        dict.set_item("description", metadata.description)?;
        dict.set_item("domain", metadata.domain)?;
        dict.set_item("graph_description", metadata.graph_description)?;
        dict.set_item("graph_name", metadata.graph_name)?;
        dict.set_item("producer_name", metadata.producer_name)?;
        dict.set_item("version", metadata.version)?;
        Ok(dict)
    }
}

/// Name, type and axes of every argument, as `inferlite.NodeArg` shows them.
pub(crate) fn describe<'py>(py: Python<'py>, arguments: &[Argument]) -> PyResult<Bound<'py, PyList>> {
    let rows = arguments
        .iter()
        .map(|argument| {
            let shown = argument
                .zipped
                .is_none()
                .then(|| shape_of(&argument.value_type))
                .flatten();
            let dims = shown.unwrap_or_default();
            let dims = dims
                .iter()
                .map(|dim| dim_object(py, dim))
                .collect::<PyResult<Vec<_>>>()?;
            (argument.name.as_str(), argument.declared_type(), PyList::new(py, dims)?).into_pyobject(py)
        })
        .collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, rows)
}

/// The axes that onnxruntime shows: those of a tensor, also inside an optional.
fn shape_of(value_type: &ValueType) -> Option<&[Dim]> {
    match value_type {
        ValueType::Tensor { shape, .. } | ValueType::SparseTensor { shape, .. } => shape.as_deref(),
        ValueType::Optional(inner) => shape_of(inner),
        ValueType::Sequence(_) | ValueType::Map(..) | ValueType::Opaque => None,
    }
}

/// A number, a name, or `None`.
pub(crate) fn dim_object<'py>(py: Python<'py>, dim: &Dim) -> PyResult<Bound<'py, PyAny>> {
    match dim {
        Dim::Fixed(extent) => extent.into_bound_py_any(py),
        Dim::Symbol(name) => name.into_bound_py_any(py),
        Dim::Unknown => Ok(py.None().into_bound(py)),
    }
}
