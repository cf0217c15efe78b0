//! The settings of a session, as the Python layer hands them over.

use std::collections::BTreeMap;
use std::sync::Arc;

use inferlite_core::runtime::ort::{ModelSource, Provider, SessionSettings};
use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyString};

/// Providers with their options, in order of preference.
pub(crate) type Providers = Vec<(String, BTreeMap<String, String>)>;

/// The core's form of a dictionary of settings; what is absent stays as the runtime has it.
pub(crate) fn session_settings(given: &Bound<'_, PyDict>, providers: Providers) -> PyResult<SessionSettings> {
    Ok(SessionSettings {
        enable_cpu_mem_arena: setting(given, "enable_cpu_mem_arena")?,
        enable_mem_pattern: setting(given, "enable_mem_pattern")?,
        enable_profiling: setting(given, "enable_profiling")?,
        profile_file_prefix: setting(given, "profile_file_prefix")?,
        execution_mode: setting(given, "execution_mode")?,
        graph_optimization_level: setting(given, "graph_optimization_level")?,
        inter_op_num_threads: setting(given, "inter_op_num_threads")?,
        intra_op_num_threads: setting(given, "intra_op_num_threads")?,
        log_severity_level: setting(given, "log_severity_level")?,
        log_verbosity_level: setting(given, "log_verbosity_level")?,
        logid: setting(given, "logid")?,
        optimized_model_filepath: setting(given, "optimized_model_filepath")?,
        use_deterministic_compute: setting(given, "use_deterministic_compute")?,
        use_per_session_threads: setting(given, "use_per_session_threads")?,
        config_entries: setting(given, "config_entries")?.unwrap_or_default(),
        free_dimensions_by_name: setting(given, "free_dimensions_by_name")?.unwrap_or_default(),
        free_dimensions_by_denotation: setting(given, "free_dimensions_by_denotation")?.unwrap_or_default(),
        custom_op_libraries: setting(given, "custom_op_libraries")?.unwrap_or_default(),
        disabled_optimizers: setting(given, "disabled_optimizers")?.unwrap_or_default(),
        name: None,
        optimized_cache: setting(given, "optimized_cache")?,
        providers: self::providers(providers),
    })
}

/// The core's form of providers.
pub(crate) fn providers(given: Providers) -> Vec<Provider> {
    let provider = |(name, options): (String, BTreeMap<String, String>)| Provider {
        name,
        options: options.into_iter().collect(),
    };
    given.into_iter().map(provider).collect()
}

fn setting<'py, T: FromPyObjectOwned<'py>>(given: &Bound<'py, PyDict>, name: &str) -> PyResult<Option<T>> {
    given
        .get_item(name)?
        .map(|value| value.extract::<T>().map_err(Into::into))
        .transpose()
}

/// A path, or bytes that the source keeps a reference to.
pub(crate) fn source(model: &Bound<'_, PyAny>) -> PyResult<ModelSource> {
    if let Ok(bytes) = model.cast::<PyBytes>() {
        return Ok(ModelSource::Bytes(Arc::new(PyBackedBytes::from(bytes.clone()))));
    }
    if model.is_instance_of::<PyString>() {
        return Ok(ModelSource::Path(model.extract()?));
    }
    Err(PyTypeError::new_err(format!(
        "Unable to load from type '{}'",
        model.get_type().str()?
    )))
}
