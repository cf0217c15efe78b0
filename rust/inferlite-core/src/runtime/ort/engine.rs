#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! A model in ONNX Runtime, run from many threads at once.

use std::ffi::c_char;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort_sys::{OrtSession, OrtValue};
use smallvec::SmallVec;

use super::api::{Handle, call};
use super::frame::{COPIED_BYTES, Frame, Pool};
use super::library::{Runtime, runtime};
use super::metadata::{self, ModelMetadata, take_string};
use super::options::{Provider, SessionSettings};
use super::run_options::RunOptions;
use super::session::{Live, Loaded, drop_live};
use super::source::{FileIdentity, ModelSource};
use super::value::{ValueHandle, borrow_tensor, from_runtime, to_runtime};
use crate::error::{Error, ErrorKind, Result};
use crate::fork;
use crate::graph::ModelFile;
use crate::runtime::{Argument, Call, Engine, Feed, Input, Outputs, Signature};
use crate::tensor::{Dtype, TensorView, Value};

/// A model in ONNX Runtime.
#[derive(Debug)]
pub struct OrtEngine {
    runtime: &'static Runtime,
    live: AtomicPtr<Live>,
    /// Empty once it was released.
    source: Mutex<Option<ModelSource>>,
    path: Option<PathBuf>,
    identity: Option<FileIdentity>,
    pub(super) signature: Signature,
    frames: Pool,
    /// The runtime's defaults, made once: without options, the runtime makes and destroys some for every run.
    default_options: RunOptions,
    /// Held during a run where a provider demands it.
    serial: Mutex<()>,
    is_straight_line: AtomicBool,
    /// Whether sessions are made of the file without `ZipMap`.
    is_unzipped: bool,
    /// The same model with its `ZipMap`, once somebody has needed it.
    whole: Mutex<Option<Arc<OrtEngine>>>,
    reuses_outputs: AtomicBool,
}

/// Values of the runtime that nobody has taken yet.
struct Fetched(SmallVec<[*mut OrtValue; 8]>);

impl Drop for Fetched {
    fn drop(&mut self) {
        for &value in &self.0 {
            if !value.is_null() {
                // SAFETY: made by a run, and not taken by anyone else, which would have left null here.
                unsafe { super::library::release_value(value.cast()) };
            }
        }
    }
}

impl OrtEngine {
    /// Makes a session; takes as long as the runtime needs to read and optimise the model.
    pub fn load(source: ModelSource, settings: &SessionSettings) -> Result<Self> {
        Self::load_as(source, settings, may_unzip(settings))
    }

    fn load_as(source: ModelSource, settings: &SessionSettings, may_unzip: bool) -> Result<Self> {
        let runtime = runtime()?;
        let identity = source.identity();
        let (file, maps) = source
            .unzipped()
            .map_or((None, Vec::new()), |unzipped| (unzipped.file, unzipped.maps));
        let unzipped = file.filter(|_| may_unzip).map(bytes).and_then(|graph| {
            // What the runtime refuses is said of the file that the caller knows.
            let live = Loaded::make(runtime, &graph, settings).ok()?;
            let signature = live.signature().ok()?;
            let is_known = |(name, _): &(String, _)| {
                let output = signature.output(name).map(|index| &signature.outputs[index]);
                output.and_then(Argument::dtype) == Some(Dtype::Float32)
            };
            maps.iter().all(is_known).then_some((live, graph))
        });
        let (live, graph) = match unzipped {
            Some((live, graph)) => (live, Some(graph)),
            None => (Loaded::make(runtime, &source, settings)?, None),
        };
        let source = source.anchored();
        let is_settled = live.is_settled_by_shapes(graph.as_ref().unwrap_or(&source));
        let mut signature = live.signature()?;
        for (name, map) in maps {
            if let Some(index) = signature.output(&name) {
                signature.outputs[index].zipped = Some(map);
            }
        }
        let default_options = RunOptions::new()?;
        let stays_here = settings.runs_on_the_calling_thread();
        Ok(Self {
            runtime,
            reuses_outputs: AtomicBool::new(
                is_settled && settings.custom_op_libraries.is_empty() && signature.is_reusable(),
            ),
            live: AtomicPtr::new(Box::into_raw(live.keep())),
            path: match &source {
                ModelSource::Path(path) => Some(path.clone()),
                ModelSource::Bytes(_) => None,
            },
            source: Mutex::new(Some(source)),
            identity,
            signature,
            frames: Pool::default(),
            default_options,
            serial: Mutex::default(),
            is_straight_line: AtomicBool::new(stays_here && is_settled),
            is_unzipped: graph.is_some(),
            whole: Mutex::default(),
        })
    }

    /// The engine of the file as it is, for those who take values of the runtime themselves; `None` where this is it.
    pub(super) fn whole(&self) -> Result<Option<Arc<Self>>> {
        if !self.is_unzipped {
            return Ok(None);
        }
        if let Some(whole) = self.with_whole(|whole| whole.clone()) {
            return Ok(Some(whole));
        }
        self.refuse_changed_file("the session has to load")?;
        let settings = self.live().settings.without_files();
        let made = Arc::new(Self::load_as(self.source()?, &settings, false)?);
        Ok(Some(self.with_whole(|whole| whole.get_or_insert(made).clone())))
    }

    fn with_whole<T>(&self, work: impl FnOnce(&mut Option<Arc<Self>>) -> T) -> T {
        // A child that forked off while it is locked would find it locked for ever.
        let _no_fork_meanwhile = fork::hold();
        work(&mut self.whole.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[inline]
    fn live(&self) -> &Live {
        let live = self.live.load(Ordering::Acquire);
        // SAFETY: set when the engine was made; what is replaced goes when the engine goes, or is leaked after a fork.
        unsafe { &*live }
    }

    /// The graph that sessions are made of.
    fn graph(&self) -> Result<ModelSource> {
        let source = self.source()?;
        let unzipped = self.is_unzipped.then(|| source.unzipped()).flatten();
        Ok(unzipped.and_then(|unzipped| unzipped.file).map_or(source, bytes))
    }

    /// The session of this process.
    #[inline]
    pub(super) fn session(&self) -> Result<*mut OrtSession> {
        let live = self.live();
        if live.generation == fork::generation() {
            Ok(live.session)
        } else {
            self.rebuild()
        }
    }

    /// Makes a session of this process, and leaves the parent's alone: its threads and locks stayed behind.
    #[cold]
    fn rebuild(&self) -> Result<*mut OrtSession> {
        let old = self.live.load(Ordering::Acquire);
        // The parent's profile and optimised model are the parent's to write.
        let settings = self.live().settings.without_files();
        let fresh = Loaded::make(self.runtime, &self.graph()?, &settings)?;
        let session = fresh.session();
        // Looked at last: a file exchanged any earlier is noticed, too.
        self.refuse_changed_file("the session was made before this process forked, and has to load")?;
        let fresh = Box::into_raw(fresh.keep());
        if self
            .live
            .compare_exchange(old, fresh, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            return Ok(session);
        }
        // SAFETY: nobody else has seen it. Another thread was quicker; its session serves both.
        drop_live(self.runtime, *unsafe { Box::from_raw(fresh) });
        self.session()
    }

    /// Makes the session anew on other providers. Runs that are under way end on the old one, which is kept until the
    /// engine goes.
    pub fn set_providers(&self, providers: Vec<Provider>) -> Result<()> {
        // Optimizers are disabled for the first session alone, as in onnxruntime.
        let settings = SessionSettings {
            providers,
            disabled_optimizers: Vec::new(),
            ..self.live().settings.clone()
        };
        let stays_here = settings.runs_on_the_calling_thread();
        drop(self.with_whole(Option::take));
        let fresh = Loaded::make(self.runtime, &self.graph()?, &settings)?;
        self.refuse_changed_file("the session has to load")?;
        if !stays_here {
            self.is_straight_line.store(false, Ordering::Relaxed);
        }
        let fresh = Box::into_raw(fresh.keep());
        let mut old = self.live.load(Ordering::Acquire);
        loop {
            // SAFETY: nobody else has seen it yet.
            unsafe { (*fresh).previous = old };
            match self
                .live
                .compare_exchange(old, fresh, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(()),
                Err(current) => old = current,
            }
        }
    }

    /// The file that the model was loaded from, wherever the process has gone since; `None` for bytes.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.path.clone()
    }

    /// Refuses a file that has changed since the model was loaded from it; `why` says who has to load it again.
    pub fn refuse_changed_file(&self, why: &str) -> Result<()> {
        if let Some(path) = &self.path
            && FileIdentity::of(path) != self.identity
        {
            let path = path.display();
            return Err(Error::new(
                ErrorKind::Fail,
                format!("{why} {path} again, which has changed since: make a new session"),
            ));
        }
        Ok(())
    }

    /// The execution providers, in the order in which the session prefers them.
    #[must_use]
    pub fn providers(&self) -> Vec<String> {
        self.live().settings.provider_names()
    }

    /// The graph that was loaded; `None` where it cannot be read as an ONNX model.
    #[must_use]
    pub fn model_file(&self) -> Option<ModelFile> {
        self.graph().ok()?.model_file()
    }

    /// What a session that is to be the same would be made of.
    ///
    /// # Errors
    /// [`ErrorKind::Fail`] if it was released.
    pub fn source(&self) -> Result<ModelSource> {
        // A child must not find the lock taken.
        let _no_fork_meanwhile = fork::hold();
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.clone().ok_or_else(|| {
            let message = "the session gave its model up, because it was made with `release_model=True`: leave the option \
                           out where sessions are pickled, forked, or given other providers";
            Error::new(ErrorKind::Fail, message)
        })
    }

    /// Whether the file is what it was when the session was made; true for bytes.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.path
            .as_deref()
            .is_none_or(|path| FileIdentity::of(path) == self.identity)
    }

    /// Gives up the bytes that the session was made from, which then cannot be made again.
    ///
    /// Where the settings have the session read these bytes for as long as it lives, nothing is given up.
    pub fn release_source(&self) {
        if self.live().settings.reads_the_models_bytes() {
            return;
        }
        let released = {
            let _no_fork_meanwhile = fork::hold();
            let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
            source.take_if(|source| matches!(source, ModelSource::Bytes(_)))
        };
        // Whoever has given them may want to know that they are gone.
        drop(released);
    }

    /// What the model file says about itself.
    pub fn metadata(&self) -> Result<ModelMetadata> {
        let mut metadata = metadata::read(self.runtime, self.session()?)?;
        if let Some(graph) = &self.live().graph {
            metadata.graph_name = graph.name.clone().unwrap_or_default();
        }
        Ok(metadata)
    }

    /// Ends profiling and names the file that it wrote; an empty name if profiling was off.
    pub fn end_profiling(&self) -> Result<String> {
        let session = self.session()?;
        let mut name = std::ptr::null_mut();
        call!(self.runtime.api, "the session is alive while its engine is", {
            SessionEndProfiling(session, self.runtime.allocator, &raw mut name)
        })?;
        Ok(take_string(self.runtime, name))
    }

    /// When profiling began, in nanoseconds of the monotonic clock; 0 if it is off.
    pub fn profiling_start_ns(&self) -> Result<u64> {
        let session = self.session()?;
        let mut start = 0;
        call!(self.runtime.api, "the session is alive while its engine is", {
            SessionGetProfilingStartTimeNs(session, &raw mut start)
        })?;
        Ok(start)
    }

    /// Runs the model without inputs and gives its first output, still the runtime's.
    pub(super) fn run_for_first_output(&self) -> Result<ValueHandle> {
        let mut fetched = Fetched(SmallVec::new());
        self.run_raw(
            &[],
            &[],
            &[self.signature.outputs[0].c_name.as_ptr()],
            None,
            &mut fetched,
        )?;
        let value = std::mem::replace(&mut fetched.0[0], std::ptr::null_mut());
        let value = NonNull::new(value).ok_or_else(|| Error::new(ErrorKind::Fail, "the model gave nothing"))?;
        Ok(Handle::from_raw(self.runtime.api.ReleaseValue, value))
    }

    /// The runtime's `Run`, with places in `fetched` for what it makes.
    #[inline]
    fn run_raw(
        &self,
        names: &[*const c_char],
        inputs: &[*const OrtValue],
        output_names: &[*const c_char],
        options: Option<&RunOptions>,
        fetched: &mut Fetched,
    ) -> Result<()> {
        debug_assert_eq!(names.len(), inputs.len());
        fetched.0.resize(output_names.len(), std::ptr::null_mut());
        self.run_into(names, inputs, output_names, options, &mut fetched.0)
    }

    /// The runtime's `Run`: makes the outputs whose place is null, and overwrites the others.
    #[inline]
    pub(super) fn run_into(
        &self,
        names: &[*const c_char],
        inputs: &[*const OrtValue],
        output_names: &[*const c_char],
        options: Option<&RunOptions>,
        outputs: &mut [*mut OrtValue],
    ) -> Result<()> {
        let session = self.session()?;
        let _turn = self.turn();
        call!(
            self.runtime.api,
            "the session is alive while its engine is; names and values are alive; the lengths are those of the slices",
            Run(
                session,
                options.unwrap_or(&self.default_options).as_ptr(),
                names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        )
    }

    /// The right to run, where a provider lets one thread run at a time.
    #[inline]
    pub(super) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let is_serial = self.live().is_serial;
        is_serial.then(|| self.serial.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether runs may write small outputs into places of the size that the last run has shown.
    #[inline]
    pub(super) fn reuses_outputs(&self) -> bool {
        self.reuses_outputs.load(Ordering::Relaxed)
    }

    /// Lets every run make its outputs from now on.
    #[cold]
    pub(super) fn stop_reusing_outputs(&self) {
        self.reuses_outputs.store(false, Ordering::Relaxed);
    }

    pub(super) fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    #[inline]
    fn run_in<'e>(&'e self, mut frame: Box<Frame>, call: &Call<'_>) -> Result<Outputs<'e>> {
        let mut names: SmallVec<[*const c_char; 8]> = SmallVec::new();
        let mut inputs: SmallVec<[*const OrtValue; 8]> = SmallVec::new();
        let mut made: SmallVec<[ValueHandle; 2]> = SmallVec::new();
        refuse_repeated(call.feeds)?;
        frame.begin();
        let feeds_what_is_required = call.feeds.len() == self.signature.required
            && call.feeds.iter().all(|feed| feed.index < self.signature.required);
        if !feeds_what_is_required {
            // An input that is left out, or an initializer that is overridden, has a shape that no place remembers.
            frame.bypass();
        }
        for feed in call.feeds {
            names.push(self.signature.inputs[feed.index].c_name.as_ptr());
            inputs.push(match &feed.value {
                Input::Tensor(view) if view.byte_len() <= COPIED_BYTES => {
                    frame.place(self.runtime, feed.index, view)?
                }
                Input::Tensor(view) => {
                    frame.bypass();
                    made.push(borrow_tensor(self.runtime, view)?);
                    made[made.len() - 1].as_ptr()
                }
                Input::Value(value) => {
                    frame.bypass();
                    made.push(to_runtime(self.runtime, value)?);
                    made[made.len() - 1].as_ptr()
                }
            });
        }
        let output_names: SmallVec<[*const c_char; 8]> = call
            .fetches
            .iter()
            .map(|&index| self.signature.outputs[index].c_name.as_ptr())
            .collect();

        // An output that is asked for twice has one place only.
        let reuses_outputs = self.reuses_outputs() && call.fetches.is_sorted_by(|a, b| a < b);
        let mut fetched = Fetched(SmallVec::new());
        if reuses_outputs && frame.expects(call.fetches) {
            let mut places: SmallVec<[*mut OrtValue; 8]> =
                call.fetches.iter().map(|&index| frame.output(index)).collect();
            match self.run_into(&names, &inputs, &output_names, call.options, &mut places) {
                Ok(()) => return Ok(lend(frame, call.fetches)),
                Err(error) if !refuses_places(&error) => return Err(error),
                Err(_) => self.stop_reusing_outputs(),
            }
            frame.forget_outputs();
            self.run_raw(&names, &inputs, &output_names, call.options, &mut fetched)?;
        } else {
            self.run_raw(&names, &inputs, &output_names, call.options, &mut fetched)?;
        }

        let is_borrowed = |view: &TensorView| frame.holds(view) || call.feeds.iter().any(|feed| shares(feed, view));
        let mut outputs = Outputs::default();
        for place in &mut fetched.0 {
            let value = NonNull::new(std::mem::replace(place, std::ptr::null_mut()));
            let value = match value {
                Some(value) => {
                    let value = Handle::from_raw(self.runtime.api.ReleaseValue, value);
                    from_runtime(self.runtime, value, is_borrowed)?
                }
                None => Value::Absent,
            };
            outputs.push(value);
        }
        if reuses_outputs {
            frame.expect_outputs(self.runtime, call.fetches, &outputs);
        }
        self.frames.give(frame);
        Ok(outputs)
    }
}

/// Whether sessions may be made of another graph: nobody is to see which nodes there are.
fn may_unzip(settings: &SessionSettings) -> bool {
    settings.enable_profiling != Some(true) && settings.optimized_model_filepath.is_none()
}

fn bytes(file: Vec<u8>) -> ModelSource {
    ModelSource::Bytes(Arc::new(file))
}

/// Whether a run that had places for its outputs failed because of them, and would go well without.
///
/// The runtime refuses memory that does not fit what the model declares, which may be wrong, before it runs any node.
/// Everything else about the call had been found right by the run before, with inputs of the same shapes.
pub(super) fn refuses_places(error: &Error) -> bool {
    let is_of_a_node = error.message().starts_with("Non-zero status code");
    let is_early = error.kind() == ErrorKind::InvalidArgument && !is_of_a_node;
    // A node that gives another shape than the last time: `is_settled_by_shapes` makes sure that there is none.
    is_early || (is_of_a_node && error.message().contains("OrtValue"))
}

/// Refuses a second value for an input: both would lie in the same place.
#[inline]
fn refuse_repeated(feeds: &[Feed]) -> Result<()> {
    if feeds.is_sorted_by(|a, b| a.index < b.index) {
        return Ok(());
    }
    let is_repeated =
        |(position, feed): (usize, &Feed)| feeds[..position].iter().any(|other| other.index == feed.index);
    if feeds.iter().enumerate().any(is_repeated) {
        return Err(Error::new(ErrorKind::InvalidArgument, "an input is fed twice"));
    }
    Ok(())
}

/// The outputs that the last run wrote into a frame, which comes back when they have been read.
#[inline]
fn lend<'e>(frame: Box<Frame>, fetches: &[usize]) -> Outputs<'e> {
    let mut outputs = Outputs::default();
    for &index in fetches {
        // SAFETY: the outputs hold the frame, whose places stay as they are for as long.
        outputs.lend(unsafe { frame.written(index).duplicate() });
    }
    outputs.hold(frame.into_owner());
    outputs
}

/// Whether an output lies in the memory of an input: the runtime hands an input through without a copy.
#[inline]
fn shares(feed: &Feed, view: &TensorView) -> bool {
    fn within(value: &Value, view: &TensorView) -> bool {
        match value {
            Value::Tensor(tensor) => tensor.view().overlaps(view),
            Value::Sequence { items, .. } => items.iter().any(|item| within(item, view)),
            Value::Strings(_) | Value::Map(_) | Value::Absent => false,
        }
    }
    match &feed.value {
        Input::Tensor(input) => input.overlaps(view),
        Input::Value(value) => within(value, view),
    }
}

impl Engine for Arc<OrtEngine> {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    #[inline]
    fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
        let frame = self
            .frames
            .take(self.signature.inputs.len(), self.signature.outputs.len());
        self.run_in(frame, call)
    }

    fn is_straight_line(&self) -> bool {
        self.is_straight_line.load(Ordering::Relaxed)
    }

    fn options_to_end(&self) -> Result<Option<RunOptions>> {
        RunOptions::new().map(Some)
    }

    fn name(&self) -> &'static str {
        "onnxruntime"
    }
}

impl Drop for OrtEngine {
    fn drop(&mut self) {
        let mut live = *self.live.get_mut();
        while !live.is_null() {
            // SAFETY: made from a box; nobody else has the engine any more.
            let gone = unsafe { Box::from_raw(live) };
            live = gone.previous;
            drop_live(self.runtime, *gone);
        }
    }
}
