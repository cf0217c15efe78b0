//! Values of other libraries and of other dtypes, which `inferlite._exchange` turns into arrays.

use inferlite_core::Dtype;
use inferlite_core::runtime::Dim;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::array::is_array;
use crate::session::dim_object;

/// Which arrays of another dtype a session casts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Casting {
    /// None.
    #[default]
    No,
    /// Those that lose nothing.
    Safe,
    /// Those that stay of their kind.
    SameKind,
}

impl Casting {
    /// The casting of this name, which `inferlite._exchange.read_casting` has checked.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "safe" => Self::Safe,
            "same_kind" => Self::SameKind,
            _ => Self::No,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Safe => "safe",
            Self::SameKind => "same_kind",
        }
    }
}

/// The tensor in a value that follows a protocol for arrays, without a copy where that can be; `None` for other values.
#[cold]
pub(crate) fn tensor<'py>(
    name: &str,
    dtype: Dtype,
    shape: Option<&[Dim]>,
    casting: Casting,
    value: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = value.py();
    let axes = shape.unwrap_or_default().iter().map(|dim| dim_object(py, dim));
    let axes = PyList::new(py, axes.collect::<PyResult<Vec<_>>>()?)?;
    let arguments = (name, dtype.to_string(), axes, casting.name(), value);
    let read = py
        .import("inferlite._exchange")?
        .call_method1("session_tensor", arguments)?;
    Ok((!read.is_none()).then_some(read))
}

/// The same for an item of a sequence, whose shape is its own.
#[cold]
pub(crate) fn item<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = value.py();
    let arguments = (format!("input `{name}`"), value, py.get_type::<PyRuntimeError>());
    let read = py.import("inferlite._exchange")?.call_method1("array_of", arguments)?;
    if read.is_none() {
        return Ok(None);
    }
    read.getattr("array").map(Some)
}

/// An array in the dtype of its input where `casting` allows it, else as it is.
#[cold]
pub(crate) fn cast<'py>(dtype: Dtype, casting: Casting, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let arguments = (dtype.to_string(), casting.name(), array);
    array
        .py()
        .import("inferlite._exchange")?
        .call_method1("cast", arguments)
}

/// The array over the very memory of a value, for calls that are bound to it; the value itself where it is an array, or
/// follows no protocol.
pub(crate) fn memory<'py>(role: &str, name: &str, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if is_array(&value) {
        return Ok(value);
    }
    let exchange = value.py().import("inferlite._exchange")?;
    let array = exchange.call_method1("memory_of", (role, name, &value))?;
    Ok(if array.is_none() { value } else { array })
}
