//! From the caller's dictionary to the core's feeds.

use std::sync::Arc;

use inferlite_core::runtime::{Signature, ValueType};
use inferlite_core::tensor::{Map, MapKeys, MapValues, Shape, Strings, element_count};
use inferlite_core::{Dtype, Error, ErrorKind, Feed, Input, Tensor, Value};
use numpy::npyffi::NPY_TYPES;
use pyo3::exceptions::{PyUnicodeDecodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyIterator, PyList, PyMapping, PySet, PyString,
};
use smallvec::SmallVec;

use crate::array::{Array, Pins, array_from_list, is_array};
use crate::boundary::{PyCoreError, conversion_failure, incompatible_arguments, runtime_error, type_text, until_nul};
use crate::exchange::{self, Casting};

/// The inputs of one call, and the arrays that they point into.
#[derive(Default)]
pub(crate) struct Fed<'py> {
    pub(crate) feeds: SmallVec<[Feed; 2]>,
    pub(crate) pins: Pins<'py>,
}

/// The names of a signature as Python strings, interned and hashed once.
pub(crate) struct Names(Vec<Py<PyString>>);

impl Names {
    pub(crate) fn of(py: Python<'_>, signature: &Signature) -> Self {
        Self(
            signature
                .inputs
                .iter()
                .map(|input| PyString::intern(py, &input.name).unbind())
                .collect(),
        )
    }

    /// The name of the first input.
    #[inline]
    pub(crate) fn first<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        self.0.first().map(|name| name.bind(py))
    }
}

impl<'py> Fed<'py> {
    /// Reads a dictionary of arrays that all run as they are; false where anything at all is out of the ordinary, and
    /// what was read so far is of no use then.
    ///
    /// In place: moving what a call feeds takes as long as looking it up.
    #[inline]
    pub(crate) fn read_directly(
        &mut self,
        names: &Names,
        required: usize,
        given: &Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        let Ok(given) = given.cast_exact::<PyDict>() else {
            return Ok(false);
        };
        if given.len() != required {
            return Ok(false);
        }
        // All look-ups come first: comparing keys may run Python code, which may move the memory of an array.
        for name in &names.0[..required] {
            let Some(value) = given.get_item(name.bind(given.py()))? else {
                return Ok(false);
            };
            self.pins.keep(value);
        }
        for (index, value) in self.pins.arrays().iter().enumerate() {
            let Some(view) = Array::new(value).and_then(|array| array.direct_view()) else {
                return Ok(false);
            };
            self.feeds.push(Feed {
                index,
                value: Input::Tensor(view),
            });
        }
        Ok(true)
    }

    /// Feeds an array that runs as it is; false where it cannot.
    #[inline]
    pub(crate) fn push_array(&mut self, index: usize, array: &Array<'_, 'py>) -> bool {
        let Some(view) = array.direct_view() else {
            return false;
        };
        self.pins.keep(array.object().clone());
        self.feeds.push(Feed {
            index,
            value: Input::Tensor(view),
        });
        true
    }

    /// Whether every tensor that was read has the dtype of its input.
    pub(crate) fn has_declared_dtypes(&self, signature: &Signature) -> bool {
        self.feeds.iter().all(|feed| match &feed.value {
            Input::Tensor(view) => signature.inputs[feed.index].dtype() == Some(view.dtype()),
            Input::Value(_) => true,
        })
    }

    /// Reads anything that onnxruntime reads, and raises what it raises for the rest.
    #[cold]
    pub(crate) fn from_mapping(
        signature: &Signature,
        given: &Bound<'py, PyAny>,
        casting: Casting,
    ) -> Result<Self, PyCoreError> {
        let names = given.call_method0("keys")?.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        refuse_missing(given.py(), signature, &names)?;
        // onnxruntime looks through the values first, and says so where there are none.
        given.call_method0("values")?;
        let Ok(mapping) = given.cast::<PyMapping>() else {
            return Err(incompatible_arguments("run").into());
        };
        let mut values = Vec::new();
        for item in mapping.items()? {
            let (name, value): (Bound<'py, PyAny>, Bound<'py, PyAny>) = item.extract()?;
            let Some(name) = text_of(&name) else {
                return Err(incompatible_arguments("run").into());
            };
            // What is not fed is what a model sees as an absent optional.
            if !value.is_none() {
                values.push((name, value));
            }
        }
        Self::from_values(signature, values, casting)
    }

    /// Reads values by name.
    ///
    /// Converting a value may run Python code, which may move the memory of an array: no array is looked into before
    /// all are converted. Of two values for an input, named once as text and once as bytes, the first counts.
    pub(crate) fn from_values(
        signature: &Signature,
        values: Vec<(String, Bound<'py, PyAny>)>,
        casting: Casting,
    ) -> Result<Self, PyCoreError> {
        let mut converted = Vec::new();
        for (name, value) in values {
            let index = signature.input(&name);
            let declared = index.map(|index| &signature.inputs[index].value_type);
            let value = convert(&name, declared, value, casting)?;
            let index = index.ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!("Invalid input name: {}", until_nul(&name)),
                )
            })?;
            if !converted.iter().any(|(other, _)| *other == index) {
                converted.push((index, value));
            }
        }
        let mut fed = Self::default();
        for (index, value) in converted {
            let value = match value {
                Converted::Value(value) => Input::Value(Arc::new(value)),
                Converted::Array(array) => {
                    let view = Array::new(&array).and_then(|array| array.direct_view());
                    let view = view.ok_or_else(|| runtime_error("an array changed its layout while it was read"))?;
                    fed.pins.keep(array);
                    Input::Tensor(view)
                }
            };
            fed.feeds.push(Feed { index, value });
        }
        Ok(fed)
    }
}

/// A value that needs no more Python code to be fed.
pub(crate) enum Converted<'py> {
    /// An array that can run as it is.
    Array(Bound<'py, PyAny>),
    Value(Value),
}

/// Reads a value for an input of this name and type as onnxruntime does.
pub(crate) fn convert<'py>(
    name: &str,
    declared: Option<&ValueType>,
    value: Bound<'py, PyAny>,
    casting: Casting,
) -> Result<Converted<'py>, PyCoreError> {
    if is_array(&value) {
        return match unwrapped(declared) {
            Some(ValueType::Tensor { dtype, .. }) if casting != Casting::No => {
                convert_array(exchange::cast(*dtype, casting, &value)?)
            }
            _ => convert_array(value),
        };
    }
    if let Ok(list) = value.cast::<PyList>() {
        return match unwrapped(declared) {
            Some(ValueType::Sequence(element)) => sequence(name, list, element).map(Converted::Value),
            Some(ValueType::Tensor { dtype, .. }) => {
                let array = array_from_list(&value, *dtype)
                    .ok_or_else(|| runtime_error("Could not create tensor from given input list"))?;
                convert_array(array)
            }
            Some(_) => {
                Err(runtime_error("The graph is missing type information needed to construct the ORT tensor").into())
            }
            None => Err(runtime_error(format!(
                "Failed to find input with name: {name} in the model input def list"
            ))
            .into()),
        };
    }
    if let Ok(map) = value.cast::<PyDict>() {
        return Ok(Converted::Value(map_of(name, map)?));
    }
    let class = value.get_type();
    if class.name()? == "OrtValue"
        && ["inferlite.values", "onnxruntime.capi.onnxruntime_inference_collection"]
            .contains(&class.module()?.to_str()?)
    {
        return convert_array(value.call_method0("numpy")?);
    }
    // onnxruntime makes no tensor of any other value.
    if let Some(ValueType::Tensor { dtype, shape }) = unwrapped(declared)
        && let Some(array) = exchange::tensor(name, *dtype, shape.as_deref(), casting, &value)?
    {
        return convert_array(array);
    }
    let Ok(items) = value.try_iter() else {
        let class = type_text(&class);
        return Err(runtime_error(format!("Unable to handle object of type {class}")).into());
    };
    Ok(Converted::Value(sequence_of_maps(name, &items)?))
}

fn convert_array(array: Bound<'_, PyAny>) -> Result<Converted<'_>, PyCoreError> {
    let value = Array::new(&array).ok_or_else(|| runtime_error("not an array"))?;
    if value.direct_view().is_some() {
        return Ok(Converted::Array(array));
    }
    if let Some(tensor) = value.packed()? {
        return Ok(Converted::Value(Value::Tensor(tensor)));
    }
    if value.dtype().is_some() {
        return Ok(Converted::Array(value.to_direct()?));
    }
    let (number, _) = value.type_number();
    Ok(Converted::Value(Value::Strings(strings_of(
        &array,
        number,
        value.shape(),
    )?)))
}

fn refuse_missing(py: Python<'_>, signature: &Signature, names: &[Bound<'_, PyAny>]) -> PyResult<()> {
    let is_given = |wanted: &str| {
        names
            .iter()
            .any(|name| name.extract::<&str>().is_ok_and(|name| name == wanted))
    };
    let missing: Vec<&str> = signature
        .proper_inputs()
        .iter()
        .filter(|input| !input.is_optional() && !is_given(&input.name))
        .map(|input| input.name.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = PyList::new(py, missing)?.repr()?;
    let names = PyList::new(py, names)?.repr()?;
    Err(PyValueError::new_err(format!(
        "Required inputs ({missing}) are missing from input feed ({names})."
    )))
}

/// Whether items can be had by position, which is all that pybind11 asks of a sequence.
#[expect(
    unsafe_code,
    reason = "PyO3 has only the stricter question for a registered `Sequence`"
)]
fn is_indexed(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object; the call looks at its class only.
    unsafe { pyo3::ffi::PySequence_Check(object.as_ptr()) == 1 }
}

/// A name, which pybind11 also takes as bytes.
fn text_of(name: &Bound<'_, PyAny>) -> Option<String> {
    if let Ok(bytes) = name.cast::<PyBytes>() {
        return String::from_utf8(bytes.as_bytes().to_vec()).ok();
    }
    name.extract().ok()
}

/// The type inside an optional.
fn unwrapped(declared: Option<&ValueType>) -> Option<&ValueType> {
    match declared {
        Some(ValueType::Optional(inner)) => Some(inner),
        other => other,
    }
}

/// The strings of an array of text, bytes, raw memory or objects.
fn strings_of(array: &Bound<'_, PyAny>, number: i32, shape: Shape) -> PyResult<Strings> {
    const TEXT: i32 = NPY_TYPES::NPY_UNICODE as i32;
    const BYTES: i32 = NPY_TYPES::NPY_STRING as i32;
    const RAW: i32 = NPY_TYPES::NPY_VOID as i32;
    const OBJECT: i32 = NPY_TYPES::NPY_OBJECT as i32;

    let mut strings = Strings::with_shape(shape);
    if number == RAW {
        // A subclass may answer as it likes: the shape is numpy's own, and the width follows from what came.
        let bytes = array.call_method0("tobytes")?.cast_into::<PyBytes>()?;
        let bytes = bytes.as_bytes();
        let count = element_count(&strings.shape).map_err(|error| runtime_error(error.message()))?;
        let width = bytes.len() / count.max(1);
        for i in 0..count {
            strings.push(&bytes[i * width..(i + 1) * width]);
        }
        return Ok(strings);
    }
    if ![TEXT, BYTES, OBJECT].contains(&number) {
        return Err(runtime_error(format!(
            "Numpy_type {number} can't be converted to MLDataType."
        )));
    }
    let items = array
        .call_method1("reshape", (-1,))?
        .call_method0("tolist")?
        .cast_into::<PyList>()?;
    for item in items {
        match number {
            BYTES => {
                let bytes = item.cast::<PyBytes>()?.as_bytes();
                if let Err(error) = std::str::from_utf8(bytes) {
                    return Err(PyUnicodeDecodeError::new_utf8(array.py(), bytes, error)?.into());
                }
                strings.push(bytes);
            }
            TEXT => {
                let text = item.cast::<PyString>()?;
                let text = text.to_str().map_err(|error| conversion_failure(array.py(), &error))?;
                // onnxruntime reads text up to its first NUL.
                strings.push(text.split('\0').next().unwrap_or_default().as_bytes());
            }
            _ => {
                let text = item.str()?;
                strings.push(text.to_str()?.as_bytes());
            }
        }
    }
    Ok(strings)
}

/// A sequence of tensors from a list of arrays.
fn sequence(name: &str, list: &Bound<'_, PyList>, element: &ValueType) -> Result<Value, PyCoreError> {
    let dtype = match element {
        ValueType::Tensor { dtype, .. } => *dtype,
        _ => Dtype::Undefined,
    };
    let mut items = Vec::with_capacity(list.len());
    for item in list {
        let item = if is_array(&item) {
            item
        } else {
            exchange::item(name, &item)?
                .ok_or_else(|| runtime_error("CreateSequenceOfTensors: Input is not a tensor"))?
        };
        let item = tensor_of(item)?;
        let given = match &item {
            Value::Tensor(tensor) => tensor.view().dtype(),
            _ => Dtype::String,
        };
        if given != dtype {
            return Err(runtime_error(format!(
                "input `{name}` is a sequence of {dtype}, and a tensor of {given} is in it"
            ))
            .into());
        }
        items.push(item);
    }
    Ok(Value::Sequence { element: dtype, items })
}

/// An element of a sequence: a copy, since sequences hand their elements on without one.
fn tensor_of(array: Bound<'_, PyAny>) -> Result<Value, PyCoreError> {
    match convert_array(array)? {
        Converted::Value(value) => Ok(value),
        Converted::Array(array) => {
            let view = Array::new(&array).and_then(|array| array.direct_view());
            let view = view.ok_or_else(|| runtime_error("an array changed its layout while it was read"))?;
            Ok(Value::Tensor(Tensor::copied(&view)))
        }
    }
}

fn sequence_of_maps(name: &str, items: &Bound<'_, PyIterator>) -> PyResult<Value> {
    let mut maps = Vec::new();
    for item in items {
        let item = item?;
        if maps.is_empty() && is_array(&item) {
            let class = type_text(&item.get_type());
            return Err(runtime_error(format!(
                "Iterable of {class} should be given as array for input '{name}'."
            )));
        }
        let Ok(map) = item.cast::<PyDict>() else {
            return Err(runtime_error(format!(
                "Input must be a list of dictionaries or a single numpy array for input '{name}'."
            )));
        };
        maps.push(map_of(name, map)?);
    }
    if maps.is_empty() {
        return Err(runtime_error(format!("Input '{name}' must not be empty.")));
    }
    Ok(Value::Sequence {
        element: Dtype::Undefined,
        items: maps,
    })
}

/// A map of the runtime: keys of the type of the first one, values as single-precision numbers.
fn map_of(name: &str, map: &Bound<'_, PyDict>) -> PyResult<Value> {
    let Some(first) = map.keys().iter().next() else {
        return Err(runtime_error(
            "Size of dictionary is empty, unable to run the prediction.",
        ));
    };
    let is_number = first.is_instance_of::<PyInt>() || first.hasattr("__index__")? || first.hasattr("__float__")?;
    let is_text = first.is_instance_of::<PyString>();
    if !is_number && !is_text {
        let class = type_text(&first.get_type());
        return Err(runtime_error(format!(
            "Key type must be int or string (not {class}) for input '{name}'."
        )));
    }
    let key_type = if is_text { "string" } else { "int64_t" };
    // A list of its own: the `str()` of a key may change the map.
    let items = map.items();
    let count = items.len();
    let mut values = Vec::with_capacity(count);
    let mut numbers = Vec::new();
    let mut texts = Strings::with_shape(Shape::from_slice(&[i64::try_from(count).unwrap_or(i64::MAX)]));
    for item in items {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        if is_text {
            texts.push(key.str()?.to_str()?.as_bytes());
        } else {
            numbers.push(
                key.extract::<i64>()
                    .map_err(|_| unexpected("key", &key, key_type, name))?,
            );
        }
        values.push(float_of(&value, key_type, name)?);
    }
    let keys = if is_text {
        MapKeys::String(texts)
    } else {
        MapKeys::Int64(numbers)
    };
    Ok(Value::Map(Box::new(Map {
        keys,
        values: MapValues::Float(values),
    })))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a map holds single-precision numbers, and Python only doubles"
)]
fn float_of(value: &Bound<'_, PyAny>, key_type: &str, name: &str) -> PyResult<f32> {
    if let Ok(number) = value.cast::<PyFloat>() {
        return Ok(number.value() as f32);
    }
    if !(value.hasattr("__index__")? || value.hasattr("__float__")? || value.is_instance_of::<PyComplex>()) {
        return Err(unexpected("value", value, key_type, name));
    }
    value
        .extract::<f64>()
        .map(|number| number as f32)
        .map_err(|error| conversion_failure(value.py(), &error))
}

fn unexpected(what: &str, given: &Bound<'_, PyAny>, key_type: &str, name: &str) -> PyErr {
    let class = type_text(&given.get_type());
    runtime_error(format!(
        "Unexpected {what} type  {class}, it cannot be linked to C type {key_type} for input '{name}'."
    ))
}

/// The outputs that a caller asks for, as indices; all of them for `None` and anything empty.
pub(crate) fn fetches(
    signature: &Signature,
    wanted: Option<&Bound<'_, PyAny>>,
    refusal: impl Fn(&Bound<'_, PyAny>) -> PyErr,
) -> Result<Option<SmallVec<[usize; 8]>>, PyCoreError> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_none()) else {
        return Ok(None);
    };
    if !wanted.is_truthy()? {
        return Ok(None);
    }
    let is_text = wanted.is_instance_of::<PyString>() || wanted.is_instance_of::<PyBytes>();
    // Sets and the keys of dictionaries count as sequences for pybind11, dictionaries and iterators do not.
    let is_listed = is_indexed(wanted)
        || wanted.is_instance_of::<PySet>()
        || wanted.is_instance_of::<PyFrozenSet>()
        || (wanted.hasattr("isdisjoint")? && wanted.hasattr("mapping")?);
    if is_text || !is_listed {
        return Err(refusal(wanted).into());
    }
    let Ok(names) = wanted.try_iter() else {
        return Err(refusal(wanted).into());
    };
    let mut fetches = SmallVec::new();
    for name in names {
        let name = name?;
        let Some(name) = text_of(&name) else {
            return Err(refusal(wanted).into());
        };
        let index = signature.output(&name).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("Invalid output name:{}", until_nul(&name)),
            )
        })?;
        fetches.push(index);
    }
    Ok(Some(fetches))
}
