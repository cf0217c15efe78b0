//! Sparse tensors: the native half of `inferlite.SparseTensor`.

use inferlite_core::Value;
use inferlite_core::runtime::ort::{HeldValue, Indices, Places};
use inferlite_core::tensor::{Frozen, Tensor};
use pyo3::prelude::*;

use crate::array::{Array, array_of_strings, read_only, read_only_array_of};
use crate::boundary::{PyCoreError, runtime_error};
use crate::exchange::Casting;
use crate::feed::{self, Converted};
use crate::ortvalue::PyOrtValue;

/// A copy of an array.
fn copied(array: Bound<'_, PyAny>) -> Result<Value, PyCoreError> {
    match feed::convert("values", None, array, Casting::No)? {
        Converted::Value(value) => Ok(value),
        Converted::Array(array) => {
            let view = Array::new(&array).and_then(|array| array.direct_view());
            let view = view.ok_or_else(|| runtime_error("an array changed its layout while it was read"))?;
            Ok(Value::Tensor(Tensor::copied(&view)))
        }
    }
}

/// A sparse tensor in the format COO; `inferlite._sparse_checks` has checked the indices.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
pub(crate) fn sparse_coo(
    dense_shape: Vec<i64>,
    values: Bound<'_, PyAny>,
    indices: Vec<i64>,
) -> Result<PyOrtValue, PyCoreError> {
    let values = copied(values)?;
    let made = HeldValue::sparse(&dense_shape, &values, Places::Coo(&indices))?;
    Ok(PyOrtValue::new(made))
}

/// A sparse tensor in the format CSR; `inferlite._sparse_checks` has checked the indices.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
pub(crate) fn sparse_csr(
    dense_shape: Vec<i64>,
    values: Bound<'_, PyAny>,
    inner: Vec<i64>,
    outer: Vec<i64>,
) -> Result<PyOrtValue, PyCoreError> {
    let values = copied(values)?;
    let made = HeldValue::sparse(&dense_shape, &values, Places::Csr(&inner, &outer))?;
    Ok(PyOrtValue::new(made))
}

/// The format of a sparse tensor, as onnxruntime numbers them.
#[pyfunction]
pub(crate) fn sparse_format(value: &PyOrtValue) -> Result<i32, PyCoreError> {
    Ok(value.0.sparse_format()?)
}

/// The values of a sparse tensor, read-only.
#[pyfunction]
pub(crate) fn sparse_values<'py>(py: Python<'py>, value: &PyOrtValue) -> Result<Bound<'py, PyAny>, PyCoreError> {
    frozen(py, value.0.sparse_values()?)
}

/// Indices of a sparse tensor, read-only: `coo`, `inner`, `outer` or `block`.
#[pyfunction]
pub(crate) fn sparse_indices<'py>(
    py: Python<'py>,
    value: &PyOrtValue,
    which: &str,
) -> Result<Bound<'py, PyAny>, PyCoreError> {
    let which = match which {
        "coo" => Indices::Coo,
        "inner" => Indices::CsrInner,
        "outer" => Indices::CsrOuter,
        _ => Indices::Block,
    };
    frozen(py, value.0.sparse_indices(which)?)
}

fn frozen(py: Python<'_>, value: Value) -> Result<Bound<'_, PyAny>, PyCoreError> {
    match value {
        Value::Tensor(tensor) => Ok(read_only_array_of(py, Frozen::new(tensor))?),
        Value::Strings(strings) => Ok(read_only(&array_of_strings(py, &strings)?)?),
        _ => Err(runtime_error("a sparse tensor has no such part").into()),
    }
}
