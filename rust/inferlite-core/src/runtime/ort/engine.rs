#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! A session of ONNX Runtime, run from many threads at once.

use std::ffi::c_char;
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ort_sys::{OrtAllocator, OrtSession, OrtStatusPtr, OrtTypeInfo, OrtValue};
use smallvec::SmallVec;

use super::api::{Handle, call, check, os_path};
use super::frame::{COPIED_BYTES, Frame, Pool};
use super::library::{Runtime, runtime};
use super::metadata::{self, ModelMetadata, take_string};
use super::options::SessionSettings;
use super::run_options::RunOptions;
use super::type_info::value_type;
use super::value::{ValueHandle, borrow_tensor, from_runtime, to_runtime};
use crate::error::{Error, ErrorKind, Result};
use crate::fork;
use crate::graph::{ModelFile, count_nodes};
use crate::runtime::{Argument, Call, Engine, Feed, Input, Outputs, Signature};
use crate::tensor::{TensorView, Value};

/// Where a model comes from, and comes from again in a process that forked off.
#[derive(Clone)]
pub enum ModelSource {
    /// A file; relative paths are resolved when a session is made.
    Path(PathBuf),
    /// Bytes that somebody keeps.
    Bytes(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.as_ref().as_ref().len()),
        }
    }
}

impl ModelSource {
    /// The same source wherever the process goes: a child that forked off may have changed its folder.
    fn anchored(self) -> Self {
        match self {
            Self::Path(path) => Self::Path(std::path::absolute(&path).unwrap_or(path)),
            bytes @ Self::Bytes(_) => bytes,
        }
    }

    /// What tells a file from one that takes its place; `None` for bytes, and where the system does not say.
    fn identity(&self) -> Option<FileIdentity> {
        match self {
            Self::Path(path) => FileIdentity::of(path),
            Self::Bytes(_) => None,
        }
    }

    /// What the file says; `None` where it cannot be read as an ONNX model.
    fn model_file(&self) -> Option<ModelFile> {
        match self {
            Self::Path(path) => ModelFile::read(&std::fs::read(path).ok()?).ok(),
            Self::Bytes(bytes) => ModelFile::read(bytes.as_ref().as_ref()).ok(),
        }
    }

    /// Whether shapes settle the work of this model; false without a look where knowing it would gain nothing.
    fn is_settled_by_shapes(&self) -> bool {
        let is_settled = |bytes: &[u8]| {
            count_nodes(bytes).is_some_and(|nodes| nodes <= QUICK_NODES)
                && ModelFile::read(bytes).is_ok_and(|file| file.is_settled_by_shapes())
        };
        match self {
            Self::Path(path) => {
                let is_small = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= QUICKLY_READ);
                is_small && std::fs::read(path).is_ok_and(|bytes| is_settled(&bytes))
            }
            Self::Bytes(bytes) => is_settled(bytes.as_ref().as_ref()),
        }
    }
}

/// Which content a path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    length: u64,
    modified: SystemTime,
    #[cfg(unix)]
    inode: (u64, u64),
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            length: metadata.len(),
            modified: metadata.modified().ok()?,
            #[cfg(unix)]
            inode: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino())
            },
        })
    }
}

/// A graph of more nodes takes longer than what can be saved is worth mentioning: a node costs at least 50 ns.
const QUICK_NODES: usize = 256;
/// Files up to this many bytes are read a second time, for their graph, in about a millisecond; a larger model gains
/// nothing from what the graph tells.
const QUICKLY_READ: u64 = 8 << 20;

/// A session, and the process that it belongs to.
#[derive(Debug)]
struct Live {
    session: *mut OrtSession,
    generation: u64,
}

// SAFETY: the runtime lets any thread run a session; everything else is called from one at a time.
unsafe impl Send for Live {}
// SAFETY: as above.
unsafe impl Sync for Live {}

/// A model in ONNX Runtime.
#[derive(Debug)]
pub struct OrtEngine {
    runtime: &'static Runtime,
    live: AtomicPtr<Live>,
    source: ModelSource,
    identity: Option<FileIdentity>,
    settings: SessionSettings,
    signature: Signature,
    frames: Pool,
    /// The runtime's defaults, made once: without options, the runtime makes and destroys some for every run.
    default_options: RunOptions,
    /// Held during a run where a provider demands it.
    serial: Option<Mutex<()>>,
    is_straight_line: bool,
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

/// A session that goes again unless an engine keeps it.
struct Loaded {
    runtime: &'static Runtime,
    live: Option<Box<Live>>,
}

impl Loaded {
    fn session(&self) -> *mut OrtSession {
        self.live.as_ref().map_or(std::ptr::null_mut(), |live| live.session)
    }

    #[expect(clippy::unnecessary_box_returns, reason = "the engine keeps the address")]
    fn keep(mut self) -> Box<Live> {
        self.live.take().expect("it is taken once, here, by value")
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            drop_live(self.runtime, *live);
        }
    }
}

impl OrtEngine {
    /// Makes a session; takes as long as the runtime needs to read and optimise the model.
    pub fn load(source: ModelSource, settings: SessionSettings) -> Result<Self> {
        let runtime = runtime()?;
        let identity = source.identity();
        let live = make_session(runtime, &source, &settings)?;
        let source = source.anchored();
        let live = Loaded {
            runtime,
            live: Some(live),
        };
        let signature = read_signature(runtime, live.session())?;
        let default_options = RunOptions::new()?;
        let stays_here = settings.runs_on_the_calling_thread();
        let is_settled = source.is_settled_by_shapes();
        let serial = settings.is_serial().then(Mutex::default);
        Ok(Self {
            runtime,
            reuses_outputs: AtomicBool::new(
                is_settled && settings.custom_op_libraries.is_empty() && signature.is_reusable(),
            ),
            live: AtomicPtr::new(Box::into_raw(live.keep())),
            source,
            identity,
            settings,
            signature,
            frames: Pool::default(),
            default_options,
            serial,
            is_straight_line: stays_here && is_settled,
        })
    }

    /// The session of this process.
    #[inline]
    pub(super) fn session(&self) -> Result<*mut OrtSession> {
        let live = self.live.load(Ordering::Acquire);
        // SAFETY: set when the engine was made; what is replaced after a fork is leaked, so it stays readable.
        let live = unsafe { &*live };
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
        let settings = SessionSettings {
            optimized_model_filepath: None,
            enable_profiling: None,
            ..self.settings.clone()
        };
        let fresh = make_session(self.runtime, &self.source, &settings)?;
        let session = fresh.session;
        // Looked at last: a file exchanged any earlier is noticed, too.
        if let ModelSource::Path(path) = &self.source
            && self.source.identity() != self.identity
        {
            drop_live(self.runtime, *fresh);
            return Err(Error::new(
                ErrorKind::Fail,
                format!(
                    "the session was made before this process forked, and has to load {} again, which has changed since: \
                     make a new session",
                    path.display()
                ),
            ));
        }
        let fresh = Box::into_raw(fresh);
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

    /// The execution providers, in the order in which the session prefers them.
    #[must_use]
    pub fn providers(&self) -> Vec<String> {
        self.settings.provider_names()
    }

    /// The graph that was loaded; `None` where it cannot be read as an ONNX model.
    #[must_use]
    pub fn model_file(&self) -> Option<ModelFile> {
        self.source.model_file()
    }

    /// What the model file says about itself.
    pub fn metadata(&self) -> Result<ModelMetadata> {
        metadata::read(self.runtime, self.session()?)
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
        let serial = self.serial.as_ref();
        serial.map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner))
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
        self.is_straight_line
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
        // SAFETY: made from a box; nobody else has the engine any more.
        let live = unsafe { Box::from_raw(*self.live.get_mut()) };
        drop_live(self.runtime, *live);
    }
}

/// Releases a session of this process; one that a parent left in a child is forgotten, since its threads are gone.
#[expect(clippy::needless_pass_by_value, reason = "nobody may use the session afterwards")]
fn drop_live(runtime: &'static Runtime, live: Live) {
    if live.generation == fork::generation() {
        let _no_fork_meanwhile = fork::hold();
        // SAFETY: made by the runtime, released once; no run is under way, since runs borrow the engine.
        unsafe { (runtime.api.ReleaseSession)(live.session) };
    }
}

fn make_session(runtime: &'static Runtime, source: &ModelSource, settings: &SessionSettings) -> Result<Box<Live>> {
    let api = runtime.api;
    let options = settings.build(api)?;
    let mut session = std::ptr::null_mut();
    // A session takes locks of the runtime that all sessions share: a child must not find them taken.
    let _no_fork_meanwhile = fork::hold();
    let generation = fork::generation();
    match source {
        ModelSource::Path(path) => {
            let c_path = os_path(path).map_err(|_| cut_short(path))?;
            call!(
                api,
                "the environment and the options are alive; a path that ends with a zero",
                { CreateSession(runtime.env, c_path.as_ptr(), options.as_ptr(), &raw mut session) }
            )
            .map_err(|error| {
                // The C interface takes a folder for a package of models, which onnxruntime's Python session does not.
                if path.is_dir() {
                    unreadable(ErrorKind::InvalidProtobuf, path, "Protobuf parsing failed.")
                } else {
                    error
                }
            })?;
        }
        ModelSource::Bytes(bytes) => {
            let bytes = bytes.as_ref().as_ref();
            call!(
                api,
                "the environment, the options and the bytes are alive, and the source keeps the bytes",
                {
                    CreateSessionFromArray(
                        runtime.env,
                        bytes.as_ptr().cast(),
                        bytes.len(),
                        options.as_ptr(),
                        &raw mut session,
                    )
                }
            )?;
        }
    }
    Ok(Box::new(Live { session, generation }))
}

/// A path with a NUL in it: C reads it, and the message about it, up to there.
fn cut_short(path: &Path) -> Error {
    let path = path.to_string_lossy();
    let start = path.split('\0').next().unwrap_or_default();
    Error::new(ErrorKind::NoSuchFile, format!("Load model from {start}"))
}

fn unreadable(kind: ErrorKind, path: &Path, why: &str) -> Error {
    Error::new(kind, format!("Load model from {} failed:{why}", path.display()))
}

type Count = unsafe extern "system" fn(*const OrtSession, *mut usize) -> OrtStatusPtr;
type Name = unsafe extern "system" fn(*const OrtSession, usize, *mut OrtAllocator, *mut *mut c_char) -> OrtStatusPtr;
type Type = unsafe extern "system" fn(*const OrtSession, usize, *mut *mut OrtTypeInfo) -> OrtStatusPtr;

fn read_signature(runtime: &'static Runtime, session: *mut OrtSession) -> Result<Signature> {
    let api = runtime.api;
    let read = |count: Count, name: Name, kind: Type| -> Result<Vec<Argument>> {
        let mut n = 0;
        // SAFETY: the session is alive, and `n` is a place of ours.
        check(api, unsafe { count(session, &raw mut n) })?;
        (0..n)
            .map(|i| {
                let mut text = std::ptr::null_mut();
                // SAFETY: the session is alive, `i` is below its count, and `text` is a place of ours.
                check(api, unsafe { name(session, i, runtime.allocator, &raw mut text) })?;
                let text = take_string(runtime, text);
                let info = Handle::make(api.ReleaseTypeInfo, |place| {
                    // SAFETY: as above.
                    check(api, unsafe { kind(session, i, place) })
                })?;
                Argument::new(text, value_type(api, &info)?)
                    .ok_or_else(|| Error::new(ErrorKind::InvalidGraph, "a name in the model contains a NUL character"))
            })
            .collect()
    };
    let mut inputs = read(
        api.SessionGetInputCount,
        api.SessionGetInputName,
        api.SessionGetInputTypeInfo,
    )?;
    let required = inputs.len();
    inputs.extend(read(
        api.SessionGetOverridableInitializerCount,
        api.SessionGetOverridableInitializerName,
        api.SessionGetOverridableInitializerTypeInfo,
    )?);
    let outputs = read(
        api.SessionGetOutputCount,
        api.SessionGetOutputName,
        api.SessionGetOutputTypeInfo,
    )?;
    Ok(Signature {
        inputs,
        required,
        outputs,
    })
}
