#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! Sparse tensors.

use std::ffi::{CString, c_char};

use super::api::{Handle, call};
use super::held::HeldValue;
use super::library::runtime;
use super::value::onnx_type;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{Dtype, Shape, Strings, Tensor, TensorView, Value};

/// Where the values of a sparse tensor are; the numbers must lie inside it, which the runtime takes for granted.
#[derive(Debug, Clone, Copy)]
pub enum Places<'a> {
    /// An index into the tensor in C order for each value, or two: row and column.
    Coo(&'a [i64]),
    /// The column of each value, and where each row begins and the last one ends.
    Csr(&'a [i64], &'a [i64]),
}

/// Indices that a sparse tensor has, as the runtime numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Indices {
    /// Those of the format COO.
    Coo = 0,
    /// Columns of the format CSR.
    CsrInner = 1,
    /// Bounds of rows of the format CSR.
    CsrOuter = 2,
    /// Those of blocks.
    Block = 3,
}

impl HeldValue {
    /// A sparse tensor of copies of these values.
    pub fn sparse(dense_shape: &[i64], values: &Value, places: Places<'_>) -> Result<Self> {
        let runtime = runtime()?;
        let api = runtime.api;
        let texts: Vec<CString>;
        let pointers: Vec<*const c_char>;
        let (dtype, count, data) = match values {
            Value::Tensor(tensor) => (tensor.view().dtype(), tensor.view().elements(), tensor.view().data()),
            Value::Strings(strings) => {
                texts = strings
                    .iter()
                    .map(CString::new)
                    .collect::<std::result::Result<_, _>>()
                    .map_err(|_| Error::new(ErrorKind::InvalidArgument, "strings in a sparse tensor end at a NUL"))?;
                pointers = texts.iter().map(|text| text.as_ptr()).collect();
                (Dtype::String, texts.len(), pointers.as_ptr().cast())
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "a sparse tensor is made of a tensor",
                ));
            }
        };
        let handle = Handle::make(api.ReleaseValue, |place| {
            call!(
                api,
                "the shape is as long as is said; the allocator is the process's",
                {
                    CreateSparseTensorAsOrtValue(
                        runtime.allocator,
                        dense_shape.as_ptr(),
                        dense_shape.len(),
                        onnx_type(dtype),
                        place,
                    )
                }
            )
        })?;
        let shape = [i64::try_from(count).unwrap_or(i64::MAX)];
        match places {
            Places::Coo(indices) => call!(
                api,
                "the value is new; the values are as many as the shape says, and copied like the indices",
                FillSparseTensorCoo(
                    handle.as_ptr(),
                    runtime.memory,
                    shape.as_ptr(),
                    1,
                    data.cast(),
                    indices.as_ptr(),
                    indices.len(),
                )
            )?,
            Places::Csr(inner, outer) => call!(
                api,
                "the value is new; the values are as many as the shape says, and copied like the indices",
                FillSparseTensorCsr(
                    handle.as_ptr(),
                    runtime.memory,
                    shape.as_ptr(),
                    1,
                    data.cast(),
                    inner.as_ptr(),
                    inner.len(),
                    outer.as_ptr(),
                    outer.len(),
                )
            )?,
        }
        Ok(Self::new(runtime, handle))
    }

    /// The format of a sparse tensor, as the runtime numbers them: 1 for COO, 2 for CSR, 4 for blocks.
    pub fn sparse_format(&self) -> Result<i32> {
        let mut format = 0_i32;
        call!(
            self.runtime().api,
            "alive; an error for what is not sparse; the place is as large as the enumeration",
            GetSparseTensorFormat(self.as_ptr(), (&raw mut format).cast())
        )?;
        Ok(format)
    }

    /// The values of a sparse tensor: a copy.
    pub fn sparse_values(&self) -> Result<Value> {
        let api = self.runtime().api;
        let info = Handle::make(api.ReleaseTensorTypeAndShapeInfo, |place| {
            call!(
                api,
                "alive; an error for what is not sparse",
                GetSparseTensorValuesTypeAndShape(self.as_ptr(), place)
            )
        })?;
        let (dtype, shape) = self.described(&info)?;
        if dtype == Dtype::String {
            return self.strings(shape).map(Value::Strings);
        }
        let mut data = std::ptr::null();
        call!(
            api,
            "alive, and sparse",
            GetSparseTensorValues(self.as_ptr(), &raw mut data)
        )?;
        self.copied(dtype, shape, data.cast())
    }

    /// Indices of a sparse tensor: a copy.
    pub fn sparse_indices(&self, which: Indices) -> Result<Value> {
        const { assert!(size_of::<ort_sys::OrtSparseIndicesFormat>() == 4) };
        let api = self.runtime().api;
        // SAFETY: `Indices` has the numbers of the C interface.
        let kind = || unsafe { std::mem::transmute::<i32, ort_sys::OrtSparseIndicesFormat>(which as i32) };
        let info = Handle::make(api.ReleaseTensorTypeAndShapeInfo, |place| {
            call!(
                api,
                "alive; an error for what has no such indices",
                GetSparseTensorIndicesTypeShape(self.as_ptr(), kind(), place)
            )
        })?;
        let (dtype, shape) = self.described(&info)?;
        let (mut count, mut data) = (0, std::ptr::null());
        call!(
            api,
            "alive, and with such indices",
            GetSparseTensorIndices(self.as_ptr(), kind(), &raw mut count, &raw mut data)
        )?;
        self.copied(dtype, shape, data.cast())
    }

    fn copied(&self, dtype: Dtype, shape: Shape, data: *const u8) -> Result<Value> {
        let byte_len = crate::tensor::element_count(&shape)
            .ok()
            .and_then(|count| dtype.byte_len(count));
        let Some(byte_len) = byte_len else {
            return Err(Error::new(
                ErrorKind::Fail,
                "a sparse tensor of the runtime has no size",
            ));
        };
        debug_assert!(self.is_sparse());
        // SAFETY: the runtime says that so many elements of this type lie there, as long as this value lives.
        let view = unsafe { TensorView::new(dtype, shape, data, byte_len) };
        Ok(Value::Tensor(Tensor::copied(&view)))
    }

    fn strings(&self, shape: Shape) -> Result<Strings> {
        let api = self.runtime().api;
        let count = crate::tensor::element_count(&shape)?;
        let mut strings = Strings::with_shape(shape);
        for i in 0..count {
            let mut length = 0;
            call!(
                api,
                "`i` is an element",
                GetStringTensorElementLength(self.as_ptr(), i, &raw mut length)
            )?;
            let mut buffer = vec![0_u8; length];
            if length > 0 {
                call!(api, "`i` is an element, and the buffer has room for it", {
                    GetStringTensorElement(self.as_ptr(), length, i, buffer.as_mut_ptr().cast())
                })?;
            }
            strings.push(&buffer);
        }
        Ok(strings)
    }
}
