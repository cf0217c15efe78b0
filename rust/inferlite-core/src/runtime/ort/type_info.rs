#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! What a session says about the types of its inputs and outputs.

use ort_sys::{OrtApi, OrtTensorTypeAndShapeInfo, OrtTypeInfo};

use super::api::{Handle, call, string_of};
use crate::error::Result;
use crate::runtime::{Dim, ValueType};
use crate::tensor::Dtype;

pub(super) mod kind {
    //! `ONNXType`, as numbers.
    pub(crate) const TENSOR: i32 = 1;
    pub(crate) const SEQUENCE: i32 = 2;
    pub(crate) const MAP: i32 = 3;
    pub(crate) const SPARSE_TENSOR: i32 = 5;
    pub(crate) const OPTIONAL: i32 = 6;
}

type TypeHandle = Handle<OrtTypeInfo>;

/// Reads a type, and releases what the runtime made to describe it.
pub(super) fn value_type(api: &'static OrtApi, info: &TypeHandle) -> Result<ValueType> {
    let mut kind = 0_i32;
    call!(
        api,
        "the handle is alive; the place is as large as the enumeration",
        GetOnnxTypeFromTypeInfo(info.as_ptr(), (&raw mut kind).cast())
    )?;
    match kind {
        kind::TENSOR => {
            let (dtype, shape) = tensor_info(api, info)?;
            Ok(ValueType::Tensor { dtype, shape })
        }
        kind::SPARSE_TENSOR => {
            let (dtype, shape) = tensor_info(api, info)?;
            Ok(ValueType::SparseTensor { dtype, shape })
        }
        kind::SEQUENCE => {
            let mut sequence = std::ptr::null();
            call!(
                api,
                "the handle is alive",
                CastTypeInfoToSequenceTypeInfo(info.as_ptr(), &raw mut sequence)
            )?;
            let element = Handle::make(api.ReleaseTypeInfo, |place| {
                call!(
                    api,
                    "a view into `info`, which is alive",
                    GetSequenceElementType(sequence, place)
                )
            })?;
            Ok(ValueType::Sequence(Box::new(value_type(api, &element)?)))
        }
        kind::MAP => {
            let mut map = std::ptr::null();
            call!(
                api,
                "the handle is alive",
                CastTypeInfoToMapTypeInfo(info.as_ptr(), &raw mut map)
            )?;
            let mut key = 0_i32;
            call!(
                api,
                "a view into `info`, which is alive",
                GetMapKeyType(map, (&raw mut key).cast())
            )?;
            let value = Handle::make(api.ReleaseTypeInfo, |place| {
                call!(api, "a view into `info`, which is alive", GetMapValueType(map, place))
            })?;
            Ok(ValueType::Map(
                Dtype::from_runtime(key),
                Box::new(value_type(api, &value)?),
            ))
        }
        kind::OPTIONAL => {
            let mut optional = std::ptr::null();
            call!(
                api,
                "the handle is alive",
                CastTypeInfoToOptionalTypeInfo(info.as_ptr(), &raw mut optional)
            )?;
            let inner = Handle::make(api.ReleaseTypeInfo, |place| {
                call!(
                    api,
                    "a view into `info`, which is alive",
                    GetOptionalContainedTypeInfo(optional, place)
                )
            })?;
            Ok(ValueType::Optional(Box::new(value_type(api, &inner)?)))
        }
        _ => Ok(ValueType::Opaque),
    }
}

fn tensor_info(api: &'static OrtApi, info: &TypeHandle) -> Result<(Dtype, Option<Vec<Dim>>)> {
    let mut tensor: *const OrtTensorTypeAndShapeInfo = std::ptr::null();
    call!(
        api,
        "the handle is alive",
        CastTypeInfoToTensorInfo(info.as_ptr(), &raw mut tensor)
    )?;
    if tensor.is_null() {
        return Ok((Dtype::Undefined, None));
    }
    let mut dtype = 0_i32;
    call!(
        api,
        "a view into `info`, which is alive",
        GetTensorElementType(tensor, (&raw mut dtype).cast())
    )?;
    // SAFETY: a view into `info`, which is alive.
    let has_shape = unsafe { (api.TensorTypeAndShape_HasShape)(tensor) };
    let shape = if has_shape { Some(dims(api, tensor)?) } else { None };
    Ok((Dtype::from_runtime(dtype), shape))
}

fn dims(api: &'static OrtApi, tensor: *const OrtTensorTypeAndShapeInfo) -> Result<Vec<Dim>> {
    let mut rank = 0;
    call!(
        api,
        "a view into a type that is alive",
        GetDimensionsCount(tensor, &raw mut rank)
    )?;
    let mut extents = vec![0_i64; rank];
    call!(
        api,
        "the place holds `rank` numbers",
        GetDimensions(tensor, extents.as_mut_ptr(), rank)
    )?;
    let mut names = vec![std::ptr::null(); rank];
    call!(
        api,
        "the place holds `rank` pointers",
        GetSymbolicDimensions(tensor, names.as_mut_ptr(), rank)
    )?;
    Ok(std::iter::zip(extents, names)
        .map(|(extent, name)| match string_of(name) {
            name if !name.is_empty() => Dim::Symbol(name),
            _ if extent < 0 => Dim::Unknown,
            _ => Dim::Fixed(extent),
        })
        .collect())
}
