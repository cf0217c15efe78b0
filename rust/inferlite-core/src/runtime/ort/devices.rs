#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! Where the inputs and outputs of a session lie, and what a session tells its execution providers while it lives.

use std::ffi::{CString, c_char};

use ort_sys::{OrtMemoryInfo, OrtSession, OrtStatusPtr};

use super::api::{c_string, call, check, string_of};
use super::engine::OrtEngine;
use crate::error::Result;

/// A kind of memory, in the numbers of onnxruntime's enumerations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What the runtime calls it, such as `Cpu`.
    pub name: String,
    /// A member of `OrtAllocatorType`.
    pub allocator_type: i32,
    /// Which device of several.
    pub device_id: i32,
    /// A member of `OrtMemType`.
    pub mem_type: i32,
}

type Infos = unsafe extern "system" fn(*const OrtSession, *mut *const OrtMemoryInfo, usize) -> OrtStatusPtr;

impl OrtEngine {
    /// Where the runtime wants each input that a call passes.
    pub fn input_memory(&self) -> Result<Vec<MemoryInfo>> {
        let api = self.runtime().api;
        self.memory(api.SessionGetMemoryInfoForInputs, self.signature.required)
    }

    /// Where the runtime puts each output.
    pub fn output_memory(&self) -> Result<Vec<MemoryInfo>> {
        let api = self.runtime().api;
        self.memory(api.SessionGetMemoryInfoForOutputs, self.signature.outputs.len())
    }

    fn memory(&self, ask: Infos, count: usize) -> Result<Vec<MemoryInfo>> {
        let api = self.runtime().api;
        let session = self.session()?;
        let mut infos = vec![std::ptr::null(); count];
        // SAFETY: the session is alive while its engine is, and there are `count` places.
        check(api, unsafe { ask(session, infos.as_mut_ptr(), count) })?;
        infos
            .into_iter()
            .map(|info: *const OrtMemoryInfo| {
                let mut name = std::ptr::null();
                let (mut allocator_type, mut device_id, mut mem_type) = (0_i32, 0_i32, 0_i32);
                call!(api, "the session's, which is alive; a place of ours", {
                    MemoryInfoGetName(info, &raw mut name)
                })?;
                // Enumerations are C integers; a later runtime may know members that their Rust forms do not.
                call!(api, "the session's, which is alive; a place for an integer", {
                    MemoryInfoGetType(info, (&raw mut allocator_type).cast())
                })?;
                call!(api, "the session's, which is alive; a place of ours", {
                    MemoryInfoGetId(info, &raw mut device_id)
                })?;
                call!(api, "the session's, which is alive; a place for an integer", {
                    MemoryInfoGetMemType(info, (&raw mut mem_type).cast())
                })?;
                Ok(MemoryInfo {
                    name: string_of(name),
                    allocator_type,
                    device_id,
                    mem_type,
                })
            })
            .collect()
    }

    /// Tells the execution providers of the session something that they may heed from now on.
    pub fn set_dynamic_options(&self, options: &[(String, String)]) -> Result<()> {
        let strings = |of: fn(&(String, String)) -> &str| -> Result<Vec<CString>> {
            options
                .iter()
                .map(|option| c_string("a dynamic option", of(option)))
                .collect()
        };
        let keys = strings(|(key, _)| key)?;
        let values = strings(|(_, value)| value)?;
        let keys: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr()).collect();
        let values: Vec<*const c_char> = values.iter().map(|value| value.as_ptr()).collect();
        let session = self.session()?;
        let _turn = self.turn();
        call!(
            self.runtime().api,
            "the session is alive while its engine is; two arrays of as many C strings",
            SetEpDynamicOptions(session, keys.as_ptr(), values.as_ptr(), keys.len())
        )
    }
}
