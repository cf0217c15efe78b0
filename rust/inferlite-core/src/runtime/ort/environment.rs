#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! The runtime's one environment: made with the first session, since its pool of threads must be known by then.

use std::sync::{Mutex, OnceLock, PoisonError};

use ort_sys::{OrtApi, OrtEnv, OrtLoggingLevel, OrtThreadingOptions};

use super::api::{Handle, call};
use super::library::runtime;
use super::log;
use crate::error::{Error, ErrorKind, Result};
use crate::fork;

/// One pool of threads for all sessions that ask for it; 0 is as many threads as there are processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalThreadPool {
    /// Threads inside one operator.
    pub intra_op_num_threads: i32,
    /// Threads for operators beside each other, where a session runs in parallel.
    pub inter_op_num_threads: i32,
    /// Whether threads without work look for some instead of sleeping.
    pub allow_spinning: bool,
}

#[derive(Debug)]
struct Environment {
    env: *mut OrtEnv,
    pool: Option<GlobalThreadPool>,
    generation: u64,
}

// SAFETY: the runtime's process-wide object, made once, never released, and shared by contract.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
/// Settings for the environment to come.
static WANTED: Mutex<Wanted> = Mutex::new(Wanted {
    severity: OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING as i32,
    pool: None,
});

struct Wanted {
    severity: i32,
    pool: Option<GlobalThreadPool>,
}

/// The environment, which the first call makes.
pub(super) fn environment(api: &'static OrtApi) -> Result<*mut OrtEnv> {
    if let Some(made) = ENVIRONMENT.get() {
        return Ok(made.env);
    }
    // A child must neither find the lock taken, nor an environment half made.
    let _no_fork_meanwhile = fork::hold();
    // Whoever comes second waits for the first to end.
    let wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = ENVIRONMENT.get() {
        return Ok(made.env);
    }
    let made = make(api, &wanted)?;
    Ok(ENVIRONMENT.get_or_init(|| made).env)
}

fn make(api: &'static OrtApi, wanted: &Wanted) -> Result<Environment> {
    let severity = level(wanted.severity)?;
    let mut env = std::ptr::null_mut();
    match wanted.pool {
        None => call!(
            api,
            "the callback is a static function that needs no parameter; the name is a literal; `env` is a place of ours",
            CreateEnvWithCustomLogger(
                log::callback(),
                std::ptr::null_mut(),
                severity,
                c"".as_ptr(),
                &raw mut env
            )
        )?,
        Some(pool) => {
            let options = pool.build(api)?;
            call!(
                api,
                "as above, and the options are alive",
                CreateEnvWithCustomLoggerAndGlobalThreadPools(
                    log::callback(),
                    std::ptr::null_mut(),
                    severity,
                    c"".as_ptr(),
                    options.as_ptr(),
                    &raw mut env,
                )
            )?;
        }
    }
    Ok(Environment {
        env,
        pool: wanted.pool,
        generation: fork::generation(),
    })
}

impl GlobalThreadPool {
    fn build(self, api: &'static OrtApi) -> Result<Handle<OrtThreadingOptions>> {
        let options = Handle::make(api.ReleaseThreadingOptions, |place| {
            call!(api, "`place` is a place for a pointer", CreateThreadingOptions(place))
        })?;
        let o = options.as_ptr();
        call!(
            api,
            "alive; a number",
            SetGlobalIntraOpNumThreads(o, self.intra_op_num_threads)
        )?;
        call!(
            api,
            "alive; a number",
            SetGlobalInterOpNumThreads(o, self.inter_op_num_threads)
        )?;
        call!(
            api,
            "alive; a number",
            SetGlobalSpinControl(o, i32::from(self.allow_spinning))
        )?;
        Ok(options)
    }
}

/// Has the sessions that ask for it share one pool of threads.
///
/// # Errors
/// [`ErrorKind::Fail`] once there is a session: the runtime makes the pool with its environment.
pub fn set_global_thread_pool(pool: GlobalThreadPool) -> Result<()> {
    let _no_fork_meanwhile = fork::hold();
    let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
    if ENVIRONMENT.get().is_some() {
        return Err(Error::new(
            ErrorKind::Fail,
            "the global thread pool must be set before the first session of the process is made",
        ));
    }
    wanted.pool = Some(pool);
    Ok(())
}

/// The pool whose threads stayed behind when this process forked off, if the environment has one.
pub(super) fn lost_pool() -> Option<GlobalThreadPool> {
    let made = ENVIRONMENT.get()?;
    made.pool.filter(|_| made.generation != fork::generation())
}

/// What is logged by sessions that do not say, from 0, everything, to 4, fatal errors alone; those that exist keep theirs.
pub fn set_log_severity(severity: i32) -> Result<()> {
    let checked = level(severity)?;
    let _no_fork_meanwhile = fork::hold();
    let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = ENVIRONMENT.get() {
        call!(
            runtime()?.api,
            "the environment is never released",
            UpdateEnvWithCustomLogLevel(made.env, checked)
        )?;
    }
    wanted.severity = severity;
    Ok(())
}

fn level(severity: i32) -> Result<OrtLoggingLevel> {
    Ok(match severity {
        0 => OrtLoggingLevel::ORT_LOGGING_LEVEL_VERBOSE,
        1 => OrtLoggingLevel::ORT_LOGGING_LEVEL_INFO,
        2 => OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING,
        3 => OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR,
        4 => OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL,
        other => {
            let message = format!("the severity must be from 0 to 4, not {other}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    })
}
