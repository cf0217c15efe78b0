#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! A session of the runtime: how it is made, what it says about its model, and how it goes.

use std::ffi::c_char;
use std::path::Path;

use ort_sys::{OrtAllocator, OrtSession, OrtStatusPtr, OrtTypeInfo};

use super::api::{Handle, call, check, os_path};
use super::environment::environment;
use super::library::Runtime;
use super::metadata::take_string;
use super::optimized::{Optimized, OptimizedGraph};
use super::options::SessionSettings;
use super::source::{ModelSource, is_settled_by_shapes};
use super::type_info::value_type;
use crate::error::{Error, ErrorKind, Result};
use crate::fork;
use crate::runtime::{Argument, Signature};

/// A session, and the process that it belongs to.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) session: *mut OrtSession,
    pub(super) generation: u64,
    /// What it was made with.
    pub(super) settings: SessionSettings,
    /// Whether one thread at a time may run it.
    pub(super) is_serial: bool,
    /// The session in whose place it came, which runs may still be in; null for none.
    pub(super) previous: *mut Live,
    /// The optimized graph that the session was made of, if it was.
    pub(super) graph: Option<OptimizedGraph>,
}

// SAFETY: the runtime lets any thread run a session; everything else is called from one at a time.
unsafe impl Send for Live {}
// SAFETY: as above.
unsafe impl Sync for Live {}

/// A session that goes again unless an engine keeps it.
pub(super) struct Loaded {
    runtime: &'static Runtime,
    live: Option<Box<Live>>,
    /// Whether shapes settle the work of the model, where its file has been read.
    is_settled: Option<bool>,
}

impl Loaded {
    /// Takes as long as the runtime needs to read and optimise the model.
    pub(super) fn make(runtime: &'static Runtime, source: &ModelSource, settings: &SessionSettings) -> Result<Self> {
        let optimized = Optimized::of(source, settings);
        let live = optimized
            .as_ref()
            .and_then(|optimized| optimized.session(runtime, source, settings));
        // What is wrong with the model is said here.
        let live = live.map_or_else(|| make_session(runtime, source, settings), Ok)?;
        Ok(Self {
            runtime,
            live: Some(live),
            is_settled: optimized.and_then(|optimized| optimized.file.as_deref().map(is_settled_by_shapes)),
        })
    }

    /// Whether shapes settle the work of the model; false without a look where knowing it would gain nothing.
    pub(super) fn is_settled_by_shapes(&self, source: &ModelSource) -> bool {
        self.is_settled.unwrap_or_else(|| source.is_settled_by_shapes())
    }

    pub(super) fn session(&self) -> *mut OrtSession {
        self.live.as_ref().map_or(std::ptr::null_mut(), |live| live.session)
    }

    /// What the model takes and gives.
    pub(super) fn signature(&self) -> Result<Signature> {
        read_signature(self.runtime, self.session())
    }

    pub(super) fn keep(mut self) -> Box<Live> {
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

/// Releases a session of this process; one that a parent left in a child is forgotten, since its threads are gone.
pub(super) fn drop_live(runtime: &'static Runtime, live: Live) {
    if live.generation == fork::generation() {
        let _no_fork_meanwhile = fork::hold();
        // SAFETY: made by the runtime, released once; no run is under way, since runs borrow the engine.
        unsafe { (runtime.api.ReleaseSession)(live.session) };
        drop(live.graph);
    } else {
        // The session that is left alone may read it.
        let _never_dropped = std::mem::ManuallyDrop::new(live.graph);
    }
}

pub(super) fn make_session(
    runtime: &'static Runtime,
    source: &ModelSource,
    settings: &SessionSettings,
) -> Result<Box<Live>> {
    let api = runtime.api;
    let options = settings.build(api)?;
    let env = environment(api)?;
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
                { CreateSession(env, c_path.as_ptr(), options.as_ptr(), &raw mut session) }
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
                        env,
                        bytes.as_ptr().cast(),
                        bytes.len(),
                        options.as_ptr(),
                        &raw mut session,
                    )
                }
            )?;
        }
    }
    Ok(Box::new(Live {
        session,
        generation,
        settings: settings.clone(),
        is_serial: settings.is_serial(),
        previous: std::ptr::null_mut(),
        graph: None,
    }))
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

pub(super) fn read_signature(runtime: &'static Runtime, session: *mut OrtSession) -> Result<Signature> {
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
