#![expect(unsafe_code, reason = "memory that Python and other libraries keep alive")]
//! Values that live between runs: the native half of `inferlite.OrtValue`.

use std::sync::Arc;

use inferlite_core::runtime::ValueType;
use inferlite_core::runtime::ort::HeldValue;
use inferlite_core::tensor::{Owner, Shape, Tensor};
use inferlite_core::{Dtype, TensorView, Value};
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::array::{Array, Pins, copied_array, shared_array_of};
use crate::boundary::{PyCoreError, runtime_error};
use crate::dlpack;
use crate::exchange::Casting;
use crate::feed::{self, Converted};
use crate::value::{Handing, value_object};

/// A value of the runtime.
#[pyclass(name = "OrtValue", module = "inferlite._core", frozen, weakref, from_py_object)]
#[derive(Debug, Clone)]
pub(crate) struct PyOrtValue(pub(crate) Arc<HeldValue>);

impl PyOrtValue {
    pub(crate) fn new(value: HeldValue) -> Self {
        Self(Arc::new(value))
    }

    /// What `run` gives for such a value, in memory of its own.
    pub(crate) fn copy<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, PyCoreError> {
        Ok(match self.0.tensor() {
            Some(view) => copied_array(py, view)?,
            None => value_object(py, self.0.to_value()?, Handing::Private)?,
        })
    }

    fn tensor(&self, otherwise: &str) -> PyResult<&TensorView> {
        self.0.tensor().ok_or_else(|| runtime_error(otherwise))
    }

    /// One more owner of the value's memory.
    fn owner(&self) -> Owner {
        Owner::of_shared(self.0.clone())
    }

    fn value_type(&self) -> Result<ValueType, PyCoreError> {
        let value_type = self.0.value_type()?;
        Ok(
            value_type
                .ok_or_else(|| runtime_error("the OrtValue is an optional that holds nothing: it has no type"))?,
        )
    }
}

/// A value of what `run` takes; the memory of an array that runs as it is stays the array's.
pub(crate) fn held(
    name: &str,
    declared: Option<&ValueType>,
    value: Bound<'_, PyAny>,
) -> Result<HeldValue, PyCoreError> {
    match feed::convert(name, declared, value, Casting::No)? {
        Converted::Value(value) => Ok(HeldValue::of(value)?),
        Converted::Array(array) => over_array(array),
    }
}

/// A tensor over the memory of an array that runs as it is.
fn over_array(array: Bound<'_, PyAny>) -> Result<HeldValue, PyCoreError> {
    let (view, is_writable) = {
        let array = Array::new(&array);
        let array = array.ok_or_else(|| runtime_error("not an array"))?;
        let view = array.direct_view();
        let view = view.ok_or_else(|| runtime_error("an array changed its layout while it was read"))?;
        (view, array.is_writable())
    };
    let mut pins = Pins::default();
    pins.keep(array);
    pins.forbid_resizing()?;
    let owner = Owner::of_shared(Arc::new(pins.unbind()));
    // SAFETY: the owner keeps the array alive, and numpy from moving its memory.
    Ok(unsafe { HeldValue::over(&view, owner, !is_writable) }?)
}

/// A tensor of another type over the bytes of an array.
fn reinterpreted(array: Bound<'_, PyAny>, dtype: Dtype) -> Result<HeldValue, PyCoreError> {
    let (view, is_writable) = {
        let array = Array::new(&array).ok_or_else(|| runtime_error("not an array"))?;
        let Some(view) = array.direct_view() else {
            return Err(runtime_error("the array is not in C order, aligned and of numbers").into());
        };
        (view, array.is_writable())
    };
    if dtype.bits() == 0 || view.dtype().bits() != dtype.bits().max(8) {
        return Err(runtime_error(format!(
            "Items size in the incoming array: {} specified by onnxtype: {}",
            view.dtype().bits() / 8,
            dtype.bits().max(8) / 8
        ))
        .into());
    }
    let mut pins = Pins::default();
    pins.keep(array);
    pins.forbid_resizing()?;
    let owner = Owner::of_shared(Arc::new(pins.unbind()));
    let byte_len = dtype.byte_len(view.elements()).unwrap_or(0);
    // SAFETY: the array has so many bytes, or more where elements share them; the owner keeps it alive and in place.
    let view = unsafe { TensorView::new(dtype, Shape::from_slice(view.shape()), view.data(), byte_len) };
    // SAFETY: as above.
    Ok(unsafe { HeldValue::over(&view, owner, !is_writable) }?)
}

/// The type of this number in an ONNX file.
pub(crate) fn known_type(number: i32) -> PyResult<Dtype> {
    match Dtype::from_proto(number) {
        Dtype::Undefined | Dtype::Complex64 | Dtype::Complex128 => {
            Err(runtime_error(format!("tensor type {number} is not supported")))
        }
        dtype => Ok(dtype),
    }
}

const NO_TENSOR: &str = "Only OrtValues that are Tensors are currently supported";

#[pymethods]
impl PyOrtValue {
    /// A value of anything that `run` takes; `declared` is the ONNX number of the element type where the value does not
    /// tell it, as in an empty list.
    #[staticmethod]
    #[pyo3(signature = (value, declared = None))]
    fn of(value: Bound<'_, PyAny>, declared: Option<i32>) -> Result<Self, PyCoreError> {
        let declared = declared.map(known_type).transpose()?;
        let is_list = value.is_instance_of::<PyList>();
        let declared = is_list.then(|| {
            ValueType::Sequence(Box::new(ValueType::Tensor {
                dtype: declared.unwrap_or(Dtype::Undefined),
                shape: None,
            }))
        });
        held("value", declared.as_ref(), value).map(Self::new)
    }

    /// A tensor of the ONNX type of this number over the bytes of an array in C order.
    #[staticmethod]
    fn of_type(array: Bound<'_, PyAny>, number: i32) -> Result<Self, PyCoreError> {
        let dtype = known_type(number)?;
        let same = Array::new(&array).and_then(|array| array.dtype()) == Some(dtype);
        if same {
            return held("value", None, array).map(Self::new);
        }
        reinterpreted(array, dtype).map(Self::new)
    }

    /// A tensor of zeros, or of empty strings, of the ONNX type of this number.
    #[staticmethod]
    #[expect(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn zeros(shape: Vec<i64>, number: i32) -> Result<Self, PyCoreError> {
        let made = HeldValue::zeros(known_type(number)?, &shape).map_err(|error| {
            if error.message().contains("bad_alloc") {
                return PyMemoryError::new_err(error.message().to_owned());
            }
            runtime_error(error.message())
        });
        Ok(Self::new(made?))
    }

    /// A tensor at an address that `owner` keeps valid.
    #[staticmethod]
    #[expect(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn at_address(address: usize, shape: Vec<i64>, number: i32, owner: Py<PyAny>) -> Result<Self, PyCoreError> {
        let dtype = known_type(number)?;
        let count = inferlite_core::tensor::element_count(&shape).map_err(|error| runtime_error(error.message()))?;
        let Some(byte_len) = dtype.byte_len(count).filter(|_| dtype.bits() > 0) else {
            return Err(runtime_error(format!("a tensor of {dtype} of shape {shape:?} has no address")).into());
        };
        if address == 0 && byte_len > 0 {
            return Err(runtime_error("a tensor cannot lie at the address 0").into());
        }
        if !address.is_multiple_of((dtype.bits() / 8).max(1)) {
            return Err(runtime_error(format!("a tensor of {dtype} cannot lie at the address {address:#x}")).into());
        }
        let data = std::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: whoever gives an address answers for what lies there, as to onnxruntime.
        let view = unsafe { TensorView::new(dtype, Shape::from_slice(&shape), data, byte_len) };
        // SAFETY: as above.
        let value = unsafe { HeldValue::over(&view, Owner::of_shared(Arc::new(owner)), false) }?;
        Ok(Self::new(value))
    }

    /// A tensor that another library lends by DLPack.
    #[staticmethod]
    fn from_dlpack(data: &Bound<'_, PyAny>) -> Result<Self, PyCoreError> {
        let imported = dlpack::import(data)?;
        if !imported.is_direct() {
            return Err(runtime_error(
                "ORT only supports contiguous tensor for now: pass one in C order whose elements are aligned",
            )
            .into());
        }
        // SAFETY: the producer promises the memory for as long as the owner lives.
        let value = unsafe { HeldValue::over(&imported.view, imported.owner, imported.is_read_only) }?;
        Ok(Self::new(value))
    }

    /// What `run` gives for such a value: an array, a list, a dictionary or None.
    fn value<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, PyCoreError> {
        self.copy(py)
    }

    /// An array over the memory of a tensor; strings and elements that share bytes are copied.
    fn numpy<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, PyCoreError> {
        if let Some(view) = self.0.tensor() {
            // SAFETY: the owner keeps the memory of the view, which is the value's.
            return Ok(unsafe { shared_array_of(py, view, self.owner(), self.0.is_read_only()) }?);
        }
        if !self.0.is_tensor() {
            return Err(runtime_error("Only OrtValues that are Tensors are convertible to Numpy objects").into());
        }
        self.value(py)
    }

    /// The values in a sequence.
    fn elements(&self) -> Result<Vec<Self>, PyCoreError> {
        Ok(self.0.elements()?.into_iter().map(Self::new).collect())
    }

    fn shape(&self) -> Result<Vec<i64>, PyCoreError> {
        if let Some(view) = self.0.tensor() {
            return Ok(view.shape().to_vec());
        }
        if self.0.is_sparse() {
            return Ok(self.0.dense_shape()?.to_vec());
        }
        match self.0.is_tensor().then(|| self.0.to_value()).transpose()? {
            Some(value) => Ok(value.shape().unwrap_or_default().to_vec()),
            None => Err(runtime_error("Only OrtValues that are Tensors/SpareTensors are currently supported").into()),
        }
    }

    /// The type as onnxruntime writes it, such as `tensor(float)`.
    fn data_type(&self) -> Result<String, PyCoreError> {
        Ok(self.value_type()?.to_string())
    }

    /// The ONNX number of the element type.
    fn element_type(&self) -> Result<i32, PyCoreError> {
        match self.value_type()? {
            ValueType::Tensor { dtype, .. } | ValueType::SparseTensor { dtype, .. } => Ok(dtype.proto()),
            ValueType::Sequence(element) => match *element {
                ValueType::Tensor { dtype, .. } => Ok(dtype.proto()),
                _ => Err(runtime_error("Tensor proto_type is unavailable for this value.").into()),
            },
            _ => Err(runtime_error("Tensor proto_type is unavailable for this value.").into()),
        }
    }

    fn tensor_size_in_bytes(&self) -> Result<usize, PyCoreError> {
        if !self.0.is_tensor() {
            return Err(runtime_error(NO_TENSOR).into());
        }
        Ok(self.0.byte_len()?)
    }

    /// The address of the first element.
    fn data_ptr(&self) -> Result<usize, PyCoreError> {
        if !self.0.is_tensor() {
            return Err(runtime_error(NO_TENSOR).into());
        }
        Ok(self.0.address()?)
    }

    fn device_name(&self) -> PyResult<&'static str> {
        if self.0.is_tensor() || self.0.is_sparse() {
            return Ok("cpu");
        }
        Err(runtime_error(
            "Only OrtValues that are Tensors/SparseTensors are currently supported",
        ))
    }

    fn has_value(&self) -> bool {
        self.0.has_value()
    }

    fn is_tensor(&self) -> bool {
        self.0.is_tensor()
    }

    fn is_sparse_tensor(&self) -> bool {
        self.0.is_sparse()
    }

    fn is_tensor_sequence(&self) -> bool {
        self.0.is_sequence() && self.element_type().is_ok()
    }

    /// Overwrites the elements with those of an array or another value.
    fn update_inplace(&self, data: &Bound<'_, PyAny>) -> Result<(), PyCoreError> {
        if let Ok(other) = data.cast::<Self>() {
            let Some(from) = other.get().0.tensor() else {
                return Err(runtime_error(NO_TENSOR).into());
            };
            let own = self.tensor(NO_TENSOR)?;
            if own.dtype() != from.dtype() {
                return Err(runtime_error("The source and destination OrtValues must have the same data type").into());
            }
            if own.elements() != from.elements() {
                return Err(runtime_error("The source and destination OrtValues must have the same size").into());
            }
            return Ok(self.0.overwrite(from)?);
        }
        let converted = feed::convert("data", None, data.clone(), Casting::No)?;
        let Some(own) = self.0.tensor() else {
            return Err(strings_stay().into());
        };
        let count = |view: &TensorView| {
            if view.elements() == own.elements() {
                return Ok(());
            }
            Err(runtime_error(
                "The input size of numpy arrays does not match the size of the OrtValue.",
            ))
        };
        match &converted {
            Converted::Array(array) => {
                let view = Array::new(array).and_then(|array| array.direct_view());
                let view = view.ok_or_else(|| runtime_error("an array changed its layout while it was read"))?;
                count(&view)?;
                Ok(self.0.overwrite(&view)?)
            }
            Converted::Value(Value::Tensor(tensor)) => {
                count(tensor.view())?;
                Ok(self.0.overwrite(tensor.view())?)
            }
            Converted::Value(_) => Err(strings_stay().into()),
        }
    }

    /// Lends the memory as a DLPack capsule.
    #[pyo3(signature = (*, max_version = None, copy = None))]
    fn dlpack<'py>(
        &self,
        py: Python<'py>,
        max_version: Option<(u32, u32)>,
        copy: Option<bool>,
    ) -> Result<Bound<'py, PyAny>, PyCoreError> {
        let Some(view) = self.0.tensor() else {
            return Err(runtime_error(if self.0.is_tensor() {
                "Unsupported ORT data type for DLPack: 8"
            } else {
                "Only tensor type OrtValues are supported"
            })
            .into());
        };
        if copy == Some(true) {
            let copy = Tensor::copied(view);
            // SAFETY: the owner goes along.
            let view = unsafe { copy.view().duplicate() };
            // SAFETY: as above.
            return Ok(unsafe { dlpack::export(py, &view, copy.into_owner(), false, true, max_version) }?);
        }
        let is_read_only = self.0.is_read_only();
        // SAFETY: the owner keeps the memory of the view, which is the value's.
        Ok(unsafe { dlpack::export(py, view, self.owner(), is_read_only, false, max_version) }?)
    }

    fn dlpack_device(&self) -> PyResult<(i32, i32)> {
        if self.0.is_tensor() {
            return Ok((dlpack::CPU, 0));
        }
        Err(runtime_error("Only tensor type OrtValues are supported"))
    }

    /// Whether two are the same value, and not only equal ones.
    fn is_same(&self, other: &Bound<'_, Self>) -> bool {
        Arc::ptr_eq(&self.0, &other.get().0)
    }
}

fn strings_stay() -> PyErr {
    runtime_error("Inplace update of OrtValues is currently only supported from non-string numpy arrays")
}

/// Values in order, as the Python layer hands them over.
pub(crate) fn values_of(list: &Bound<'_, PyAny>) -> PyResult<Vec<Arc<HeldValue>>> {
    let values = list.try_iter()?.map(|item| {
        let item = item?;
        let item = item
            .cast::<PyOrtValue>()
            .map_err(|_| PyTypeError::new_err("not an OrtValue"))?;
        Ok(item.get().0.clone())
    });
    values.collect()
}

/// Whether somebody may write into a value; the reason why not.
pub(crate) fn refuse_as_output(name: &str, value: &HeldValue) -> PyResult<()> {
    if value.is_read_only() {
        return Err(PyBufferError::new_err(format!(
            "output `{name}` cannot be written into read-only memory"
        )));
    }
    if value.tensor().is_none() {
        return Err(runtime_error(format!(
            "output `{name}` cannot be written into this OrtValue: only tensors of numbers keep their memory; let the \
             run make it"
        )));
    }
    Ok(())
}
