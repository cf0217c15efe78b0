#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! Options of a single run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use ort_sys::OrtRunOptions;

use super::api::{Handle, c_string, call};
use super::library::runtime;
use crate::error::Result;

/// Options of a run. Any thread may use them to end the run; everything else is set before it starts, since the runtime
/// reads it without a lock.
#[derive(Debug)]
pub struct RunOptions {
    handle: Handle<OrtRunOptions>,
    is_terminated: AtomicBool,
    settings: Settings,
}

/// What was set, to be set again in a copy: the runtime gives none of it back.
#[derive(Debug, Clone, Default)]
struct Settings {
    log_severity_level: Option<i32>,
    log_verbosity_level: Option<i32>,
    logid: Option<String>,
    config_entries: BTreeMap<String, String>,
}

impl RunOptions {
    /// The runtime's defaults.
    pub fn new() -> Result<Self> {
        let api = runtime()?.api;
        let handle = Handle::make(api.ReleaseRunOptions, |place| {
            call!(api, "`place` is a place for a pointer", CreateRunOptions(place))
        })?;
        Ok(Self {
            handle,
            is_terminated: AtomicBool::new(false),
            settings: Settings::default(),
        })
    }

    /// Options of their own that say the same.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = Self::new()?;
        let settings = self.settings.clone();
        if let Some(level) = settings.log_severity_level {
            copy.set_log_severity_level(level)?;
        }
        if let Some(level) = settings.log_verbosity_level {
            copy.set_log_verbosity_level(level)?;
        }
        if let Some(id) = settings.logid {
            copy.set_logid(&id)?;
        }
        for (key, value) in &settings.config_entries {
            copy.add_config_entry(key, value)?;
        }
        copy.set_terminate(self.is_terminated.load(Ordering::Relaxed))?;
        Ok(copy)
    }

    /// Whether they change nothing about the answer, and let it come.
    #[must_use]
    pub fn are_neutral(&self) -> bool {
        self.settings.config_entries.is_empty() && !self.is_terminated.load(Ordering::Relaxed)
    }

    pub(super) fn as_ptr(&self) -> *const OrtRunOptions {
        self.handle.as_ptr()
    }

    /// Ends the runs that use these options, between two nodes, or lets later ones go on.
    pub fn set_terminate(&self, terminate: bool) -> Result<()> {
        let api = runtime()?.api;
        self.is_terminated.store(terminate, Ordering::Relaxed);
        if terminate {
            call!(
                api,
                "alive; made to be set while a run reads it",
                RunOptionsSetTerminate(self.handle.as_ptr())
            )
        } else {
            call!(
                api,
                "alive; made to be set while a run reads it",
                RunOptionsUnsetTerminate(self.handle.as_ptr())
            )
        }
    }

    /// The least severe messages to log, from 0 to 4; -1 for the session's choice.
    pub fn set_log_severity_level(&mut self, level: i32) -> Result<()> {
        call!(
            runtime()?.api,
            "alive, and nobody else's now; a number",
            RunOptionsSetRunLogSeverityLevel(self.handle.as_ptr(), level)
        )?;
        self.settings.log_severity_level = Some(level);
        Ok(())
    }

    /// How much to say at the most verbose severity.
    pub fn set_log_verbosity_level(&mut self, level: i32) -> Result<()> {
        call!(
            runtime()?.api,
            "alive, and nobody else's now; a number",
            RunOptionsSetRunLogVerbosityLevel(self.handle.as_ptr(), level)
        )?;
        self.settings.log_verbosity_level = Some(level);
        Ok(())
    }

    /// The name of the run in messages.
    pub fn set_logid(&mut self, id: &str) -> Result<()> {
        let c_id = c_string("`logid`", id)?;
        call!(
            runtime()?.api,
            "alive, and nobody else's now; a C string, which is copied",
            RunOptionsSetRunTag(self.handle.as_ptr(), c_id.as_ptr())
        )?;
        self.settings.logid = Some(id.to_owned());
        Ok(())
    }

    /// Adds a setting that has no function of its own.
    pub fn add_config_entry(&mut self, key: &str, value: &str) -> Result<()> {
        let c_key = c_string("a config key", key)?;
        let c_value = c_string("a config value", value)?;
        call!(
            runtime()?.api,
            "alive, and nobody else's now; two C strings, which are copied",
            { AddRunConfigEntry(self.handle.as_ptr(), c_key.as_ptr(), c_value.as_ptr()) }
        )?;
        self.settings.config_entries.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}
