//! From the core's values to Python's.

use inferlite_core::Answer;
use inferlite_core::Value;
use inferlite_core::runtime::{Output, ReadOnly};
use inferlite_core::tensor::{Frozen, Map, MapKeys, MapValues, Shape};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use smallvec::SmallVec;

use crate::array::{array_of, array_of_strings, copied_array, read_only, read_only_array_of};
use crate::boundary::PyCoreError;
use crate::zipped::{Form, ZipMaps, Zipped};

/// Whose the arrays are that a call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handing {
    /// The caller's, to write to.
    Private,
    /// Everybody's, to read: what is kept is not copied.
    ReadOnly,
}

/// The output at a position of an answer, once.
#[inline]
pub(crate) fn output_of<'py>(
    py: Python<'py>,
    answer: &mut Answer<'_>,
    position: usize,
    handing: Handing,
    zipped: Option<&Zipped>,
    form: Form,
) -> Result<Bound<'py, PyAny>, PyCoreError> {
    if let Some(zipped) = zipped {
        return zipped_object(py, answer.take(position), handing, zipped, form);
    }
    Ok(plain_output_of(py, answer, position, handing)?)
}

#[inline]
fn plain_output_of<'py>(
    py: Python<'py>,
    answer: &mut Answer<'_>,
    position: usize,
    handing: Handing,
) -> PyResult<Bound<'py, PyAny>> {
    match handing {
        Handing::Private => object_of(py, answer.take(position)),
        Handing::ReadOnly => match answer.take_read_only(position) {
            ReadOnly::Tensor(tensor) => read_only_array_of(py, tensor),
            ReadOnly::Other(value) => value_object(py, value, handing),
        },
    }
}

/// The outputs of a call, as `run` returns them.
#[inline]
pub(crate) fn list_of<'py>(
    py: Python<'py>,
    answer: &mut Answer<'_>,
    handing: Handing,
    maps: &ZipMaps,
    wanted: Option<&[usize]>,
) -> Result<Bound<'py, PyList>, PyCoreError> {
    if answer.len() == 1 {
        let output = output_of(py, answer, 0, handing, maps.at(wanted, 0), Form::Rows)?;
        return Ok(PyList::new(py, [output])?);
    }
    let objects = (0..answer.len())
        .map(|position| output_of(py, answer, position, handing, maps.at(wanted, position), Form::Rows))
        .collect::<Result<SmallVec<[_; 8]>, PyCoreError>>()?;
    Ok(PyList::new(py, objects)?)
}

/// An output of dictionaries, which the core has as a tensor.
#[cold]
fn zipped_object<'py>(
    py: Python<'py>,
    output: Output<'_>,
    handing: Handing,
    zipped: &Zipped,
    form: Form,
) -> Result<Bound<'py, PyAny>, PyCoreError> {
    match (output, form) {
        (Output::Lent(view), Form::Rows) => zipped.rows(py, view),
        (Output::Lent(view), Form::Columns) => zipped.columns(view.shape(), &copied_array(py, view)?),
        (Output::Owned(Value::Tensor(tensor)), Form::Rows) => zipped.rows(py, tensor.view()),
        (Output::Owned(Value::Tensor(tensor)), Form::Columns) => {
            let shape = Shape::from_slice(tensor.view().shape());
            zipped.columns(&shape, &array_of(py, tensor)?)
        }
        // The graph was not to be changed.
        (Output::Owned(value), Form::Rows) => Ok(value_object(py, value, handing)?),
        (Output::Owned(value), Form::Columns) => zipped.columns_of(&value_object(py, value, handing)?),
    }
}

/// An output as onnxruntime gives it; one that is lent is copied.
#[inline]
pub(crate) fn object_of<'py>(py: Python<'py>, output: Output<'_>) -> PyResult<Bound<'py, PyAny>> {
    match output {
        Output::Lent(view) => copied_array(py, view),
        Output::Owned(value) => value_object(py, value, Handing::Private),
    }
}

/// A value as onnxruntime gives it: arrays, lists, dictionaries, and `None` for what is absent.
#[inline]
pub(crate) fn value_object(py: Python<'_>, value: Value, handing: Handing) -> PyResult<Bound<'_, PyAny>> {
    match value {
        Value::Tensor(tensor) if handing == Handing::ReadOnly => read_only_array_of(py, Frozen::new(tensor)),
        Value::Tensor(tensor) => array_of(py, tensor),
        Value::Strings(strings) => {
            let array = array_of_strings(py, &strings)?;
            if handing == Handing::ReadOnly {
                read_only(&array)
            } else {
                Ok(array)
            }
        }
        Value::Sequence { items, .. } => {
            let items = items
                .into_iter()
                .map(|item| value_object(py, item, handing))
                .collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, items)?.into_any())
        }
        Value::Map(map) => Ok(dict_of(py, &map)?.into_any()),
        Value::Absent => Ok(py.None().into_bound(py)),
    }
}

fn dict_of<'py>(py: Python<'py>, map: &Map) -> PyResult<Bound<'py, PyDict>> {
    let keys: Vec<Bound<'py, PyAny>> = match &map.keys {
        MapKeys::Int64(keys) => keys
            .iter()
            .map(|key| key.into_bound_py_any(py))
            .collect::<PyResult<_>>()?,
        MapKeys::String(keys) => keys
            .iter()
            .map(|key| PyString::from_bytes(py, key).map(Bound::into_any))
            .collect::<PyResult<_>>()?,
    };
    let values: Vec<Bound<'py, PyAny>> = match &map.values {
        MapValues::Float(values) => values
            .iter()
            .map(|value| value.into_bound_py_any(py))
            .collect::<PyResult<_>>()?,
        MapValues::Double(values) => values
            .iter()
            .map(|value| value.into_bound_py_any(py))
            .collect::<PyResult<_>>()?,
        MapValues::Int64(values) => values
            .iter()
            .map(|value| value.into_bound_py_any(py))
            .collect::<PyResult<_>>()?,
        MapValues::String(values) => values
            .iter()
            .map(|value| PyString::from_bytes(py, value).map(Bound::into_any))
            .collect::<PyResult<_>>()?,
    };
    let dict = PyDict::new(py);
    for (key, value) in std::iter::zip(keys, values) {
        dict.set_item(key, value)?;
    }
    Ok(dict)
}
