#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! Values on their way into the runtime and out of it.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use ort_sys::{ONNXType, OrtValue};

use super::api::{Handle, call};
use super::engine::OrtEngine;
use super::library::{Runtime, release_value};
use super::options::SessionSettings;
use super::source::ModelSource;
use super::type_info::kind;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{Dtype, Map, MapKeys, MapValues, Owner, Shape, Strings, Tensor, TensorView, Value, element_count};
use crate::{fork, graph};

pub(super) type ValueHandle = Handle<OrtValue>;

pub(super) fn onnx_type(dtype: Dtype) -> ort_sys::ONNXTensorElementDataType {
    const { assert!(size_of::<ort_sys::ONNXTensorElementDataType>() == 4) };
    // SAFETY: both are numbered from 0 to 26 without a gap (`Dtype` by its table's test).
    unsafe { std::mem::transmute(dtype as i32) }
}

/// A value over memory that stays the caller's.
///
/// The memory must outlive the value and every run that uses it.
pub(super) fn borrow_tensor(runtime: &'static Runtime, view: &TensorView) -> Result<ValueHandle> {
    Handle::make(runtime.api.ReleaseValue, |place| {
        call!(
            runtime.api,
            "the view describes memory that outlives the value; the runtime reads it only, in spite of the type",
            CreateTensorWithDataAsOrtValue(
                runtime.memory,
                view.data().cast_mut().cast::<c_void>(),
                view.byte_len(),
                view.shape().as_ptr(),
                view.shape().len(),
                onnx_type(view.dtype()),
                place,
            )
        )
    })
}

/// A value that holds, or borrows from, `value`, which must outlive it.
pub(super) fn to_runtime(runtime: &'static Runtime, value: &Value) -> Result<ValueHandle> {
    match value {
        Value::Tensor(tensor) => borrow_tensor(runtime, tensor.view()),
        Value::Strings(strings) => string_tensor(runtime, strings),
        Value::Sequence { element, items } if items.is_empty() => empty_sequence(*element),
        Value::Sequence { items, .. } => {
            let items = items
                .iter()
                .map(|item| to_runtime(runtime, item))
                .collect::<Result<Vec<_>>>()?;
            compose(runtime, &items, ONNXType::ONNX_TYPE_SEQUENCE)
        }
        Value::Map(map) => {
            let keys = match &map.keys {
                MapKeys::Int64(keys) => numbers(runtime, Dtype::Int64, keys)?,
                MapKeys::String(keys) => string_tensor(runtime, keys)?,
            };
            let values = match &map.values {
                MapValues::Float(values) => numbers(runtime, Dtype::Float32, values)?,
                MapValues::Double(values) => numbers(runtime, Dtype::Float64, values)?,
                MapValues::Int64(values) => numbers(runtime, Dtype::Int64, values)?,
                MapValues::String(values) => string_tensor(runtime, values)?,
            };
            compose(runtime, &[keys, values], ONNXType::ONNX_TYPE_MAP)
        }
        Value::Absent => Err(Error::new(
            ErrorKind::InvalidArgument,
            "an absent value cannot be an element",
        )),
    }
}

pub(super) fn compose(runtime: &'static Runtime, parts: &[ValueHandle], kind: ONNXType) -> Result<ValueHandle> {
    let pointers: Vec<*const OrtValue> = parts.iter().map(|part| part.as_ptr().cast_const()).collect();
    Handle::make(runtime.api.ReleaseValue, |place| {
        call!(runtime.api, "the parts are alive, and shared or copied by the whole", {
            CreateValue(pointers.as_ptr(), pointers.len(), kind, place)
        })
    })
}

fn numbers<T>(runtime: &'static Runtime, dtype: Dtype, numbers: &[T]) -> Result<ValueHandle> {
    let length = i64::try_from(numbers.len()).unwrap_or(i64::MAX);
    // SAFETY: a slice of the map, which outlives the value (`to_runtime`); its length is the shape.
    let view = unsafe {
        TensorView::new(
            dtype,
            Shape::from_slice(&[length]),
            numbers.as_ptr().cast(),
            size_of_val(numbers),
        )
    };
    borrow_tensor(runtime, &view)
}

pub(super) fn string_tensor(runtime: &'static Runtime, strings: &Strings) -> Result<ValueHandle> {
    if element_count(&strings.shape)? != strings.len() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{} strings do not fill shape {:?}", strings.len(), &strings.shape[..]),
        ));
    }
    let api = runtime.api;
    let value = Handle::make(api.ReleaseValue, |place| {
        call!(api, "the shape is ours", {
            CreateTensorAsOrtValue(
                runtime.allocator,
                strings.shape.as_ptr(),
                strings.shape.len(),
                onnx_type(Dtype::String),
                place,
            )
        })
    })?;
    for (i, string) in strings.iter().enumerate() {
        let mut buffer = std::ptr::null_mut();
        call!(api, "`i` is an element, since the shape has as many", {
            GetResizedStringTensorElementBuffer(value.as_ptr(), i, string.len(), &raw mut buffer)
        })?;
        if !string.is_empty() {
            // SAFETY: the runtime made room for exactly so many bytes, of which nobody else knows yet.
            unsafe { std::ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast::<u8>(), string.len()) };
        }
    }
    Ok(value)
}

/// Sessions of models that give an empty sequence, per type of its elements.
type EmptySequences = Vec<(Dtype, Arc<OrtEngine>)>;

fn with_empty_sequences<T>(work: impl FnOnce(&mut EmptySequences) -> T) -> T {
    static MADE: Mutex<EmptySequences> = Mutex::new(Vec::new());
    // A child that forked off while it is locked would find it locked for ever.
    let _no_fork_meanwhile = fork::hold();
    work(&mut MADE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// An empty sequence, which the C interface cannot make: the answer of a model that gives one, kept per type.
fn empty_sequence(element: Dtype) -> Result<ValueHandle> {
    let known = with_empty_sequences(|made| {
        let same = made.iter().find(|(dtype, _)| *dtype == element);
        same.map(|(_, engine)| engine.clone())
    });
    let engine = if let Some(engine) = known {
        engine
    } else {
        let settings = SessionSettings {
            intra_op_num_threads: Some(1),
            log_severity_level: Some(4),
            ..SessionSettings::default()
        };
        let model: Arc<[u8]> = graph::empty_sequence_model(element.proto()).into();
        let engine = Arc::new(OrtEngine::load(ModelSource::Bytes(Arc::new(model)), &settings)?);
        with_empty_sequences(|made| made.push((element, engine.clone())));
        engine
    };
    engine.run_for_first_output()
}

/// What a value of the runtime is, before it has become one of ours.
pub(super) enum Kind {
    Absent,
    Tensor,
    Sequence,
    Map,
    Other(i32),
}

/// Whether there is a value, which an optional may be without.
pub(super) fn is_given(runtime: &'static Runtime, value: *mut OrtValue) -> Result<bool> {
    let mut has_value = 0;
    call!(runtime.api, "alive", HasValue(value, &raw mut has_value))?;
    Ok(has_value != 0)
}

pub(super) fn kind_of(runtime: &'static Runtime, value: *mut OrtValue) -> Result<Kind> {
    // Asking an absent optional for its type is a crash inside the runtime.
    if !is_given(runtime, value)? {
        return Ok(Kind::Absent);
    }
    let api = runtime.api;
    let mut number = 0_i32;
    call!(
        api,
        "alive, and not absent",
        GetValueType(value, (&raw mut number).cast())
    )?;
    Ok(match number {
        kind::TENSOR => Kind::Tensor,
        kind::SEQUENCE => Kind::Sequence,
        kind::MAP => Kind::Map,
        other => Kind::Other(other),
    })
}

/// The type, shape and address of a tensor of fixed-size elements; `None` for anything else.
#[inline]
pub(super) fn peek(runtime: &'static Runtime, value: *mut OrtValue) -> Option<TensorView> {
    let api = runtime.api;
    let mut dtype = 0_i32;
    let mut extents: *const i64 = std::ptr::null();
    let mut rank = 0_usize;
    call!(api, "alive; an absent value answers with an error", {
        GetTensorElementTypeAndShapeDataReference(value, (&raw mut dtype).cast(), &raw mut extents, &raw mut rank)
    })
    .ok()?;
    let dtype = Dtype::from_runtime(dtype);
    if dtype.bits() == 0 {
        return None;
    }
    let shape = if rank == 0 {
        Shape::new()
    } else {
        // SAFETY: the runtime answered with `rank` numbers that live as long as the value.
        Shape::from_slice(unsafe { std::slice::from_raw_parts(extents, rank) })
    };
    let byte_len = dtype.byte_len(element_count(&shape).ok()?)?;
    let mut data = std::ptr::null_mut();
    call!(api, "alive, and a tensor", GetTensorMutableData(value, &raw mut data)).ok()?;
    // SAFETY: the memory is the value's, as long as its type and shape say.
    Some(unsafe { TensorView::new(dtype, shape, data.cast::<u8>().cast_const(), byte_len) })
}

/// Takes a value out of the runtime.
///
/// Tensors stay where they are and release the runtime's value when they go, unless `is_borrowed` says that their
/// memory is somebody else's; everything else is copied.
#[inline]
pub(super) fn from_runtime(
    runtime: &'static Runtime,
    value: ValueHandle,
    is_borrowed: impl Fn(&TensorView) -> bool,
) -> Result<Value> {
    match peek(runtime, value.as_ptr()) {
        Some(view) if is_borrowed(&view) => Ok(Value::Tensor(Tensor::copied(&view))),
        Some(view) => {
            // SAFETY: the handle has given the value up, so it is released here alone.
            let owner = unsafe { Owner::new(value.into_raw().cast(), release_value) };
            Ok(Value::Tensor(Tensor::new(view, owner)))
        }
        None => copy_out(runtime, &value),
    }
}

#[cold]
pub(super) fn copy_out(runtime: &'static Runtime, value: &ValueHandle) -> Result<Value> {
    match kind_of(runtime, value.as_ptr())? {
        Kind::Absent => Ok(Value::Absent),
        Kind::Tensor => match peek(runtime, value.as_ptr()) {
            Some(view) => Ok(Value::Tensor(Tensor::copied(&view))),
            None => copy_strings(runtime, value).map(Value::Strings),
        },
        Kind::Sequence => {
            let items = children(runtime, value)?
                .iter()
                .map(|child| copy_out(runtime, child))
                .collect::<Result<Vec<_>>>()?;
            Ok(Value::Sequence {
                element: Dtype::Undefined,
                items,
            })
        }
        Kind::Map => {
            let parts = children(runtime, value)?;
            let [keys, values] = parts.as_slice() else {
                return Err(Error::new(
                    ErrorKind::Fail,
                    "a map of the runtime has no keys and values",
                ));
            };
            let keys = match copy_out(runtime, keys)? {
                Value::Strings(keys) => MapKeys::String(keys),
                Value::Tensor(keys) if keys.view().dtype() == Dtype::Int64 => MapKeys::Int64(copy_numbers(&keys)),
                _ => return Err(unsupported("a map with such keys")),
            };
            let values = match copy_out(runtime, values)? {
                Value::Strings(values) => MapValues::String(values),
                Value::Tensor(values) => match values.view().dtype() {
                    Dtype::Float32 => MapValues::Float(copy_numbers(&values)),
                    Dtype::Float64 => MapValues::Double(copy_numbers(&values)),
                    Dtype::Int64 => MapValues::Int64(copy_numbers(&values)),
                    _ => return Err(unsupported("a map with such values")),
                },
                _ => return Err(unsupported("a map with such values")),
            };
            Ok(Value::Map(Box::new(Map { keys, values })))
        }
        Kind::Other(number) => Err(unsupported(match number {
            kind::SPARSE_TENSOR => "a sparse tensor",
            kind::OPTIONAL => "an optional of an optional",
            _ => "a value of an opaque type",
        })),
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(
        ErrorKind::NotImplemented,
        format!("the model gives {what}, which inferlite does not support"),
    )
}

pub(super) fn children(runtime: &'static Runtime, value: &ValueHandle) -> Result<Vec<ValueHandle>> {
    let api = runtime.api;
    let mut count = 0;
    call!(api, "alive", GetValueCount(value.as_ptr(), &raw mut count))?;
    (0..count)
        .map(|i| {
            let i = i32::try_from(i).map_err(|_| unsupported("a sequence of more than 2^31 elements"))?;
            Handle::make(api.ReleaseValue, |place| {
                call!(
                    api,
                    "alive; `i` is below the count",
                    GetValue(value.as_ptr(), i, runtime.allocator, place)
                )
            })
        })
        .collect()
}

/// Numbers of a type that any bytes are a value of.
trait Number: Copy {}
impl Number for i64 {}
impl Number for f32 {}
impl Number for f64 {}

fn copy_numbers<T: Number>(tensor: &Tensor) -> Vec<T> {
    let count = tensor.view().byte_len() / size_of::<T>();
    (0..count)
        .map(|i| {
            // SAFETY: `i` is inside the tensor, whose bytes are `count` elements.
            let place = unsafe { tensor.view().data().cast::<T>().add(i) };
            // SAFETY: as above; no alignment is asked for, and any bytes are a number.
            unsafe { place.read_unaligned() }
        })
        .collect()
}

fn copy_strings(runtime: &'static Runtime, value: &ValueHandle) -> Result<Strings> {
    let api = runtime.api;
    let mut dtype = 0_i32;
    let mut extents: *const i64 = std::ptr::null();
    let mut rank = 0_usize;
    call!(api, "alive, and a tensor", {
        GetTensorElementTypeAndShapeDataReference(
            value.as_ptr(),
            (&raw mut dtype).cast(),
            &raw mut extents,
            &raw mut rank,
        )
    })?;
    if Dtype::from_runtime(dtype) != Dtype::String {
        return Err(unsupported(&format!("a tensor of element type {dtype}")));
    }
    let shape = if rank == 0 {
        Shape::new()
    } else {
        // SAFETY: the runtime answered with `rank` numbers that live as long as the value.
        Shape::from_slice(unsafe { std::slice::from_raw_parts(extents, rank) })
    };
    let count = element_count(&shape)?;
    let mut strings = Strings::with_shape(shape);
    if count == 0 {
        return Ok(strings);
    }
    let mut length = 0;
    call!(api, "alive, and a tensor of strings", {
        GetStringTensorDataLength(value.as_ptr(), &raw mut length)
    })?;
    // One more byte, since the runtime wants a place even for nothing.
    let mut bytes = vec![0_u8; length + 1];
    let mut starts = vec![0_usize; count];
    call!(
        api,
        "the places are as long as they say, one for all bytes and one for the start of every string",
        {
            GetStringTensorContent(
                value.as_ptr(),
                bytes.as_mut_ptr().cast(),
                length,
                starts.as_mut_ptr(),
                count,
            )
        }
    )?;
    let ends = starts.iter().skip(1).copied().chain([length]);
    for (&start, end) in std::iter::zip(&starts, ends) {
        strings.push(bytes.get(start..end).unwrap_or_default());
    }
    Ok(strings)
}
