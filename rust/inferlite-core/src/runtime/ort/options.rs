#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! The settings of a session, and the execution providers it asks for.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::path::PathBuf;

use ort_sys::{ExecutionMode, GraphOptimizationLevel, OrtApi, OrtSessionOptions};

use super::api::{Handle, c_string, call, os_path};
use super::environment::lost_pool;
use crate::error::{Error, ErrorKind, Result};

/// The provider that every session has.
pub(super) const CPU: &str = "CPUExecutionProvider";
/// Providers whose `Run` must not be called by two threads at once.
const SERIAL: [&str; 1] = ["DmlExecutionProvider"];

/// An execution provider and its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The full name, such as `CUDAExecutionProvider`.
    pub name: String,
    /// Options as the provider names them.
    pub options: Vec<(String, String)>,
}

/// Everything about a session that the runtime lets a caller choose; what is `None` stays as the runtime has it.
#[derive(Debug, Clone, Default)]
#[expect(
    missing_docs,
    reason = "the names and meanings are those of onnxruntime.SessionOptions"
)]
pub struct SessionSettings {
    pub enable_cpu_mem_arena: Option<bool>,
    pub enable_mem_pattern: Option<bool>,
    pub enable_profiling: Option<bool>,
    pub profile_file_prefix: Option<String>,
    pub execution_mode: Option<i32>,
    pub graph_optimization_level: Option<i32>,
    pub inter_op_num_threads: Option<i32>,
    pub intra_op_num_threads: Option<i32>,
    pub log_severity_level: Option<i32>,
    pub log_verbosity_level: Option<i32>,
    pub logid: Option<String>,
    pub optimized_model_filepath: Option<PathBuf>,
    pub use_deterministic_compute: Option<bool>,
    pub use_per_session_threads: Option<bool>,
    pub config_entries: BTreeMap<String, String>,
    pub free_dimensions_by_name: BTreeMap<String, i64>,
    pub free_dimensions_by_denotation: BTreeMap<String, i64>,
    pub custom_op_libraries: Vec<PathBuf>,
    pub disabled_optimizers: Vec<String>,
    /// What the runtime's messages call the session where `logid` does not say; by default what the model is called.
    pub name: Option<String>,
    /// The folder where optimized graphs are kept, to make sessions of them again.
    pub optimized_cache: Option<PathBuf>,
    /// In order of preference; the CPU stands behind them, named or not.
    pub providers: Vec<Provider>,
}

type Options = Handle<OrtSessionOptions>;

impl SessionSettings {
    /// Whether a run stays on the calling thread and on the processor, as far as the settings decide it.
    pub(super) fn runs_on_the_calling_thread(&self) -> bool {
        const SEQUENTIAL: i32 = ExecutionMode::ORT_SEQUENTIAL as i32;
        self.intra_op_num_threads == Some(1)
            && self.execution_mode.is_none_or(|mode| mode == SEQUENTIAL)
            && self.use_per_session_threads != Some(false)
            && self.custom_op_libraries.is_empty()
            && self.providers.iter().all(|provider| provider.name == CPU)
    }

    /// The same without the files that a session writes beside its work: the first one has written them.
    pub(super) fn without_files(&self) -> Self {
        Self {
            optimized_model_filepath: None,
            enable_profiling: None,
            ..self.clone()
        }
    }

    /// Whether the session looks into the bytes that it was made from for as long as it lives.
    pub(super) fn reads_the_models_bytes(&self) -> bool {
        self.config_entries.contains_key("session.use_ort_model_bytes_directly")
    }

    /// Whether a run must not overlap with another of the same session.
    pub(super) fn is_serial(&self) -> bool {
        self.providers
            .iter()
            .any(|provider| SERIAL.contains(&provider.name.as_str()))
    }

    /// The names of the providers, the CPU behind the others where it is not named.
    pub(super) fn provider_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.providers.iter().map(|provider| provider.name.clone()).collect();
        if !names.iter().any(|name| name == CPU) {
            names.push(CPU.to_owned());
        }
        names
    }

    /// The runtime's form of these settings.
    pub(super) fn build(&self, api: &'static OrtApi) -> Result<Options> {
        let options = Handle::make(api.ReleaseSessionOptions, |place| {
            call!(api, "`place` is a place for a pointer", CreateSessionOptions(place))
        })?;
        self.apply_switches(api, &options)?;
        self.apply_logging(api, &options)?;
        self.apply_entries(api, &options)?;
        for library in &self.custom_op_libraries {
            let path = os_path(library)?;
            call!(api, "alive; a path that ends with a zero", {
                RegisterCustomOpsLibrary_V2(options.as_ptr(), path.as_ptr())
            })?;
        }
        for provider in &self.providers {
            provider.append_to(api, &options)?;
        }
        Ok(options)
    }

    fn apply_switches(&self, api: &'static OrtApi, options: &Options) -> Result<()> {
        let o = options.as_ptr();
        match self.enable_cpu_mem_arena {
            Some(true) => call!(api, "alive", EnableCpuMemArena(o))?,
            Some(false) => call!(api, "alive", DisableCpuMemArena(o))?,
            None => {}
        }
        match self.enable_mem_pattern {
            Some(true) => call!(api, "alive", EnableMemPattern(o))?,
            Some(false) => call!(api, "alive", DisableMemPattern(o))?,
            None => {}
        }
        if self.enable_profiling == Some(true) {
            let prefix = self.profile_file_prefix.as_deref().unwrap_or("onnxruntime_profile_");
            let prefix = os_path(prefix.as_ref())?;
            call!(
                api,
                "alive; a path that ends with a zero",
                EnableProfiling(o, prefix.as_ptr())
            )?;
        }
        if let Some(mode) = self.execution_mode {
            let mode = match mode {
                0 => ExecutionMode::ORT_SEQUENTIAL,
                1 => ExecutionMode::ORT_PARALLEL,
                other => return Err(invalid("execution_mode", other)),
            };
            call!(api, "alive", SetSessionExecutionMode(o, mode))?;
        }
        if let Some(level) = self.graph_optimization_level {
            let level = match level {
                0 => GraphOptimizationLevel::ORT_DISABLE_ALL,
                1 => GraphOptimizationLevel::ORT_ENABLE_BASIC,
                2 => GraphOptimizationLevel::ORT_ENABLE_EXTENDED,
                3 => GraphOptimizationLevel::ORT_ENABLE_LAYOUT,
                99 => GraphOptimizationLevel::ORT_ENABLE_ALL,
                other => return Err(invalid("graph_optimization_level", other)),
            };
            call!(api, "alive", SetSessionGraphOptimizationLevel(o, level))?;
        }
        if let Some(threads) = self.intra_op_num_threads {
            call!(api, "alive", SetIntraOpNumThreads(o, threads))?;
        }
        if let Some(threads) = self.inter_op_num_threads {
            call!(api, "alive", SetInterOpNumThreads(o, threads))?;
        }
        if let Some(path) = self
            .optimized_model_filepath
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
        {
            let path = os_path(path)?;
            call!(
                api,
                "alive; a path that ends with a zero",
                SetOptimizedModelFilePath(o, path.as_ptr())
            )?;
        }
        if let Some(deterministic) = self.use_deterministic_compute {
            call!(api, "alive", SetDeterministicCompute(o, deterministic))?;
        }
        if self.use_per_session_threads == Some(false) {
            match lost_pool() {
                None => call!(api, "alive", DisablePerSessionThreads(o))?,
                // As many threads of its own: sums depend on their number.
                Some(pool) => {
                    call!(api, "alive", SetIntraOpNumThreads(o, pool.intra_op_num_threads))?;
                    call!(api, "alive", SetInterOpNumThreads(o, pool.inter_op_num_threads))?;
                }
            }
        }
        Ok(())
    }

    fn apply_logging(&self, api: &'static OrtApi, options: &Options) -> Result<()> {
        let o = options.as_ptr();
        if let Some(level) = self.log_severity_level {
            call!(api, "alive", SetSessionLogSeverityLevel(o, level))?;
        }
        if let Some(level) = self.log_verbosity_level {
            call!(api, "alive", SetSessionLogVerbosityLevel(o, level))?;
        }
        let given = self.logid.as_deref().filter(|id| !id.is_empty());
        if let Some(id) = given.or(self.name.as_deref()) {
            let id = c_string("`logid`", id)?;
            call!(api, "alive; a C string", SetSessionLogId(o, id.as_ptr()))?;
        }
        Ok(())
    }

    fn apply_entries(&self, api: &'static OrtApi, options: &Options) -> Result<()> {
        const DISABLED: &str = "optimization.disable_specified_optimizers";
        let o = options.as_ptr();
        let mut entries = self.config_entries.clone();
        if !self.disabled_optimizers.is_empty() {
            entries.insert(DISABLED.to_owned(), self.disabled_optimizers.join(";"));
        }
        for (key, value) in &entries {
            let key = c_string("a config key", key)?;
            let value = c_string("a config value", value)?;
            call!(
                api,
                "alive; two C strings",
                AddSessionConfigEntry(o, key.as_ptr(), value.as_ptr())
            )?;
        }
        for (name, &extent) in &self.free_dimensions_by_name {
            let name = c_string("the name of a dimension", name)?;
            call!(
                api,
                "alive; a C string",
                AddFreeDimensionOverrideByName(o, name.as_ptr(), extent)
            )?;
        }
        for (denotation, &extent) in &self.free_dimensions_by_denotation {
            let denotation = c_string("the denotation of a dimension", denotation)?;
            call!(
                api,
                "alive; a C string",
                AddFreeDimensionOverride(o, denotation.as_ptr(), extent)
            )?;
        }
        Ok(())
    }
}

fn invalid(name: &str, value: i32) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("`{name}` has no member {value}"))
}

impl Provider {
    /// The name that the runtime's general function for adding a provider knows.
    fn short_name(&self) -> &str {
        match self.name.strip_suffix("ExecutionProvider").unwrap_or(&self.name) {
            "Azure" => "AZURE",
            "Dml" => "DML",
            "Xnnpack" => "XNNPACK",
            "Js" => "JS",
            "WebNN" => "WEBNN",
            other => other,
        }
    }

    fn append_to(&self, api: &'static OrtApi, options: &Options) -> Result<()> {
        if self.name == CPU {
            return Ok(());
        }
        let strings = |of: fn(&(String, String)) -> &str| -> Result<Vec<CString>> {
            self.options
                .iter()
                .map(|option| c_string("a provider option", of(option)))
                .collect()
        };
        let keys = strings(|(key, _)| key)?;
        let values = strings(|(_, value)| value)?;
        let keys: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr()).collect();
        let values: Vec<*const c_char> = values.iter().map(|value| value.as_ptr()).collect();
        let o = options.as_ptr();
        match self.name.as_str() {
            "CUDAExecutionProvider" => {
                let cuda = Handle::make(api.ReleaseCUDAProviderOptions, |place| {
                    call!(
                        api,
                        "`place` is a place for a pointer",
                        CreateCUDAProviderOptions(place)
                    )
                })?;
                call!(api, "alive; two arrays of as many C strings", {
                    UpdateCUDAProviderOptions(cuda.as_ptr(), keys.as_ptr(), values.as_ptr(), keys.len())
                })?;
                call!(
                    api,
                    "both alive",
                    SessionOptionsAppendExecutionProvider_CUDA_V2(o, cuda.as_ptr())
                )
            }
            "TensorrtExecutionProvider" => {
                let tensorrt = Handle::make(api.ReleaseTensorRTProviderOptions, |place| {
                    call!(
                        api,
                        "`place` is a place for a pointer",
                        CreateTensorRTProviderOptions(place)
                    )
                })?;
                call!(api, "alive; two arrays of as many C strings", {
                    UpdateTensorRTProviderOptions(tensorrt.as_ptr(), keys.as_ptr(), values.as_ptr(), keys.len())
                })?;
                call!(
                    api,
                    "both alive",
                    SessionOptionsAppendExecutionProvider_TensorRT_V2(o, tensorrt.as_ptr())
                )
            }
            _ => {
                let name = c_string("the name of a provider", self.short_name())?;
                call!(api, "alive; a C string and two arrays of as many C strings", {
                    SessionOptionsAppendExecutionProvider(o, name.as_ptr(), keys.as_ptr(), values.as_ptr(), keys.len())
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(name: &str) -> Provider {
        Provider {
            name: name.into(),
            options: Vec::new(),
        }
    }

    #[test]
    fn the_cpu_stands_behind_the_others() {
        let settings = SessionSettings {
            providers: vec![provider("AzureExecutionProvider")],
            ..Default::default()
        };
        assert_eq!(
            settings.provider_names(),
            ["AzureExecutionProvider", "CPUExecutionProvider"]
        );
    }

    #[test]
    fn only_one_sequential_thread_on_the_cpu_stays_on_the_calling_thread() {
        let one = SessionSettings {
            intra_op_num_threads: Some(1),
            ..Default::default()
        };
        assert!(one.runs_on_the_calling_thread());
        assert!(!SessionSettings::default().runs_on_the_calling_thread());
        assert!(
            !SessionSettings {
                execution_mode: Some(1),
                ..one.clone()
            }
            .runs_on_the_calling_thread()
        );
        assert!(
            !SessionSettings {
                custom_op_libraries: vec!["a".into()],
                ..one.clone()
            }
            .runs_on_the_calling_thread()
        );
        assert!(
            !SessionSettings {
                providers: vec![provider("CUDAExecutionProvider")],
                ..one
            }
            .runs_on_the_calling_thread()
        );
    }

    #[test]
    fn short_names_are_those_of_the_general_function() {
        assert_eq!(provider("XnnpackExecutionProvider").short_name(), "XNNPACK");
        assert_eq!(provider("QNNExecutionProvider").short_name(), "QNN");
    }
}
