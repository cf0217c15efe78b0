//! What a model file says, without running it.

use std::collections::BTreeMap;

use inferlite_core::graph::ModelFile;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::boundary::{detach, inferlite_exception};

/// Reads a model file: its format, operator sets, producer, metadata and operators.
///
/// Raises:
///     ModelLoadError: the file cannot be read, or is no ONNX model.
#[pyfunction]
pub(crate) fn model_info<'py>(py: Python<'py>, model: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let read = if let Ok(bytes) = model.cast::<PyBytes>() {
        ModelFile::read(bytes.as_bytes()).map_err(|error| error.to_string())
    } else {
        let path: std::path::PathBuf = model.extract()?;
        detach(py, || {
            let bytes = std::fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
            ModelFile::read(&bytes).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
        })
    };
    let file = match read {
        Ok(file) => file,
        Err(message) => return Err(inferlite_exception(py, "ModelLoadError", message)?),
    };
    let operators = file.operators();
    let random_node = file.random_node();
    let opsets: BTreeMap<_, _> = file
        .opset_import
        .iter()
        .map(|set| (set.domain.clone(), set.version))
        .collect();
    let info = PyDict::new(py);
    let metadata: BTreeMap<_, _> = file
        .metadata_props
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect();
    info.set_item("metadata", metadata)?;
    info.set_item("random_node", random_node)?;
    info.set_item("ir_version", file.ir_version)?;
    info.set_item("opsets", opsets)?;
    info.set_item("producer_name", file.producer_name)?;
    info.set_item("producer_version", file.producer_version)?;
    info.set_item("graph_name", file.graph.map(|graph| graph.name).unwrap_or_default())?;
    info.set_item("nodes", operators.values().sum::<usize>())?;
    info.set_item("operators", operators)?;
    Ok(info)
}
