//! Options of a single run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use inferlite_core::runtime::ort::RunOptions;
use pyo3::prelude::*;

use crate::boundary::{PyCoreError, incompatible_arguments, runtime_error};

/// The native half of `inferlite.RunOptions`.
#[pyclass(name = "RunOptions", module = "inferlite._core", frozen)]
#[derive(Debug)]
pub(crate) struct PyRunOptions(Mutex<Shared>);

/// Options that runs under way may be reading.
#[derive(Debug)]
struct Shared {
    current: Arc<RunOptions>,
    /// Those that runs began with before something was changed, and those of one run: `terminate` ends such runs, too.
    earlier: Vec<Weak<RunOptions>>,
    /// Whether they hold what only the onnxruntime package can use.
    need_package: bool,
}

impl Shared {
    /// Has `terminate` reach these as well.
    fn follow(&mut self, options: &Arc<RunOptions>) {
        self.earlier.retain(|options| options.strong_count() > 0);
        self.earlier.push(Arc::downgrade(options));
    }
}

impl PyRunOptions {
    // Locked for a few instructions, with the GIL held: nobody waits for it, and no fork happens meanwhile.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what later runs read; a run under way keeps what it began with.
    fn change(&self, change: impl FnOnce(&mut RunOptions) -> inferlite_core::Result<()>) -> Result<(), PyCoreError> {
        let shared = &mut *self.lock();
        if let Some(options) = Arc::get_mut(&mut shared.current) {
            return Ok(change(options)?);
        }
        let mut options = shared.current.try_clone()?;
        change(&mut options)?;
        let in_use = std::mem::replace(&mut shared.current, Arc::new(options));
        shared.follow(&in_use);
        Ok(())
    }

    /// Options of one run, which `terminate` reaches.
    fn copy_for_one(&self) -> Result<Arc<RunOptions>, PyCoreError> {
        let shared = &mut *self.lock();
        let copy = Arc::new(shared.current.try_clone()?);
        shared.follow(&copy);
        Ok(copy)
    }
}

#[pymethods]
impl PyRunOptions {
    #[new]
    fn new() -> Result<Self, PyCoreError> {
        Ok(Self(Mutex::new(Shared {
            current: Arc::new(RunOptions::new()?),
            earlier: Vec::new(),
            need_package: false,
        })))
    }

    /// Ends runs under way that use these options, between two nodes.
    fn set_terminate(&self, terminate: bool) -> Result<(), PyCoreError> {
        let shared = self.lock();
        for options in shared.earlier.iter().filter_map(Weak::upgrade) {
            options.set_terminate(terminate)?;
        }
        Ok(shared.current.set_terminate(terminate)?)
    }

    /// The least severe messages to log, from 0 to 4; -1 for the session's choice.
    fn set_log_severity_level(&self, level: i32) -> Result<(), PyCoreError> {
        self.change(|options| options.set_log_severity_level(level))
    }

    /// How much to say at the most verbose severity.
    fn set_log_verbosity_level(&self, level: i32) -> Result<(), PyCoreError> {
        self.change(|options| options.set_log_verbosity_level(level))
    }

    /// The name of the run in messages.
    fn set_logid(&self, id: &str) -> Result<(), PyCoreError> {
        self.change(|options| options.set_logid(id))
    }

    /// Leaves the runs that use these options to the onnxruntime package.
    fn set_need_package(&self) {
        self.lock().need_package = true;
    }

    /// Adds a setting that has no method of its own.
    fn add_config_entry(&self, key: &str, value: &str) -> Result<(), PyCoreError> {
        self.change(|options| options.add_config_entry(key, value))
    }
}

/// What the caller gave as run options.
#[derive(Debug)]
pub(crate) enum Given {
    /// Options that the runtime can be given.
    Native(Arc<RunOptions>),
    /// Options that hold what only the onnxruntime package can use.
    Package,
}

/// The options that a call gives, if any: ours have a native half, and onnxruntime's own get one made, as far as they can
/// be read; `session` is the Python object that is called.
pub(crate) fn read(session: &Bound<'_, PyAny>, given: Option<&Bound<'_, PyAny>>) -> Result<Option<Given>, PyCoreError> {
    let Some(handle) = native_half(session, given)? else {
        return Ok(None);
    };
    let shared = handle.get().lock();
    Ok(Some(if shared.need_package {
        Given::Package
    } else {
        Given::Native(shared.current.clone())
    }))
}

/// The same for a run that may be ended by itself: options that no other run has, which `terminate` of those that were
/// given sets as well.
pub(crate) fn read_for_one(
    session: &Bound<'_, PyAny>,
    given: Option<&Bound<'_, PyAny>>,
) -> Result<Option<Given>, PyCoreError> {
    let Some(handle) = native_half(session, given)? else {
        return Ok(None);
    };
    if handle.get().lock().need_package {
        return Ok(Some(Given::Package));
    }
    Ok(Some(Given::Native(handle.get().copy_for_one()?)))
}

fn native_half<'py>(
    session: &Bound<'py, PyAny>,
    given: Option<&Bound<'py, PyAny>>,
) -> Result<Option<Bound<'py, PyRunOptions>>, PyCoreError> {
    let Some(given) = given.filter(|given| !given.is_none()) else {
        return Ok(None);
    };
    let handle = match given.getattr_opt("_handle")? {
        Some(handle) if handle.is_instance_of::<PyRunOptions>() => handle,
        _ => {
            check_class(given)?;
            let foreign = given.py().import("inferlite.foreign")?;
            foreign.call_method1("native_run_options", (session, given))?
        }
    };
    Ok(Some(handle.cast_into::<PyRunOptions>().map_err(PyErr::from)?))
}

/// Refuses what is no `onnxruntime.RunOptions`, and ours without onnxruntime's half.
fn check_class(given: &Bound<'_, PyAny>) -> Result<(), PyCoreError> {
    let class = given.get_type();
    let is_foreign = class.mro().iter().any(|class| {
        class
            .getattr("__name__")
            .is_ok_and(|name| name.eq("RunOptions").unwrap_or(false))
    });
    if !is_foreign {
        return Err(incompatible_arguments("run").into());
    }
    let is_ours = class.mro().iter().any(|class| {
        class
            .getattr("__module__")
            .is_ok_and(|module| module.eq("inferlite.options").unwrap_or(false))
    });
    if is_ours && given.getattr_opt("_handle")?.is_none() {
        // onnxruntime's half has not been made either: its attributes are memory that nobody has written.
        return Err(runtime_error("the run options are empty: `__init__` has not run").into());
    }
    Ok(())
}
