#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! Options of a single run.

use ort_sys::OrtRunOptions;

use super::api::{Handle, c_string, call};
use super::library::runtime;
use crate::error::Result;

/// Options of a run, which another thread may change, or use to end it, while the run is under way.
#[derive(Debug)]
pub struct RunOptions {
    handle: Handle<OrtRunOptions>,
}

impl RunOptions {
    /// The runtime's defaults.
    pub fn new() -> Result<Self> {
        let api = runtime()?.api;
        let handle = Handle::make(api.ReleaseRunOptions, |place| {
            call!(api, "`place` is a place for a pointer", CreateRunOptions(place))
        })?;
        Ok(Self { handle })
    }

    pub(super) fn as_ptr(&self) -> *const OrtRunOptions {
        self.handle.as_ptr()
    }

    /// Ends the runs that use these options, between two nodes, or lets later ones go on.
    pub fn set_terminate(&self, terminate: bool) -> Result<()> {
        let api = runtime()?.api;
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
    pub fn set_log_severity_level(&self, level: i32) -> Result<()> {
        call!(
            runtime()?.api,
            "alive; a number",
            RunOptionsSetRunLogSeverityLevel(self.handle.as_ptr(), level)
        )
    }

    /// How much to say at the most verbose severity.
    pub fn set_log_verbosity_level(&self, level: i32) -> Result<()> {
        call!(
            runtime()?.api,
            "alive; a number",
            RunOptionsSetRunLogVerbosityLevel(self.handle.as_ptr(), level)
        )
    }

    /// The name of the run in messages.
    pub fn set_logid(&self, id: &str) -> Result<()> {
        let id = c_string("`logid`", id)?;
        call!(
            runtime()?.api,
            "alive; a C string, which is copied",
            RunOptionsSetRunTag(self.handle.as_ptr(), id.as_ptr())
        )
    }

    /// Adds a setting that has no function of its own.
    pub fn add_config_entry(&self, key: &str, value: &str) -> Result<()> {
        let key = c_string("a config key", key)?;
        let value = c_string("a config value", value)?;
        call!(runtime()?.api, "alive; two C strings, which are copied", {
            AddRunConfigEntry(self.handle.as_ptr(), key.as_ptr(), value.as_ptr())
        })
    }
}
