#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! Values that live between runs: what `OrtValue` of onnxruntime is.

use std::ffi::c_void;
use std::mem::ManuallyDrop;

use ort_sys::{OrtAllocator, OrtMemoryInfo, OrtTensorTypeAndShapeInfo, OrtValue};

use super::api::{Handle, call};
use super::library::{Runtime, runtime};
use super::type_info::value_type;
use super::value::{
    Kind, ValueHandle, children, compose, copy_out, is_given, kind_of, onnx_type, peek, string_tensor, to_runtime,
};
use crate::error::{Error, ErrorKind, Result};
use crate::fork;
use crate::runtime::ValueType;
use crate::tensor::{Dtype, Owner, Shape, TensorView, Value, element_count};

/// A value of the runtime, which several may look at and run at once.
///
/// Its memory is written to by whoever has it, also while a run reads it, so that it is reached by pointers alone.
#[derive(Debug)]
pub struct HeldValue {
    runtime: &'static Runtime,
    handle: ManuallyDrop<ValueHandle>,
    made_in: u64,
    /// A tensor of fixed-size elements, which keeps its place and shape for life; `None` for anything else.
    tensor: Option<TensorView>,
    /// Whether the memory must not be written to.
    is_read_only: bool,
}

impl HeldValue {
    pub(super) fn new(runtime: &'static Runtime, handle: ValueHandle) -> Self {
        let is_sparse = is_sparse(runtime, handle.as_ptr());
        Self {
            tensor: (!is_sparse).then(|| peek(runtime, handle.as_ptr())).flatten(),
            runtime,
            handle: ManuallyDrop::new(handle),
            made_in: fork::generation(),
            is_read_only: false,
        }
    }

    /// A tensor over memory that `owner` releases once the runtime has forgotten it, on any thread.
    ///
    /// # Safety
    /// The memory must stay as `view` says until the owner is dropped, and be writable unless `is_read_only`.
    pub unsafe fn over(view: &TensorView, owner: Owner, is_read_only: bool) -> Result<Self> {
        let runtime = runtime()?;
        let mut value = Self::new(runtime, owned_tensor(runtime, view, owner)?);
        value.is_read_only = is_read_only;
        Ok(value)
    }

    /// A tensor of zeros, or of empty strings.
    pub fn zeros(dtype: Dtype, shape: &[i64]) -> Result<Self> {
        let runtime = runtime()?;
        let is_counted = element_count(shape).is_ok_and(|count| dtype.byte_len(count).is_some());
        if !is_counted {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a tensor cannot have shape {shape:?}"),
            ));
        }
        let handle = Handle::make(runtime.api.ReleaseValue, |place| {
            call!(
                runtime.api,
                "the shape is as long as is said; the allocator is the process's",
                { CreateTensorAsOrtValue(runtime.allocator, shape.as_ptr(), shape.len(), onnx_type(dtype), place,) }
            )
        })?;
        if let Some(view) = peek(runtime, handle.as_ptr()).filter(|view| view.byte_len() > 0) {
            // SAFETY: the value is new, and its memory as long as the view says.
            unsafe { std::ptr::write_bytes(view.data().cast_mut(), 0, view.byte_len()) };
        }
        Ok(Self::new(runtime, handle))
    }

    /// Any value, in memory of its own.
    pub fn of(value: Value) -> Result<Self> {
        let runtime = runtime()?;
        Ok(Self::new(runtime, keep(runtime, value)?))
    }

    pub(super) fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    /// The pointer, which stays the value's.
    pub(super) fn as_ptr(&self) -> *mut OrtValue {
        self.handle.as_ptr()
    }

    /// Whether the memory must not be written to.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// A tensor of fixed-size elements; `None` for anything else.
    #[inline]
    #[must_use]
    pub fn tensor(&self) -> Option<&TensorView> {
        self.tensor.as_ref()
    }

    /// Whether there is a value: an optional may hold nothing.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.tensor.is_some() || is_given(self.runtime, self.as_ptr()).unwrap_or(false)
    }

    /// Whether this is a tensor, of strings included.
    #[must_use]
    pub fn is_tensor(&self) -> bool {
        self.tensor.is_some() || matches!(self.kind(), Ok(Kind::Tensor))
    }

    /// Whether this is a sparse tensor.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.tensor.is_none() && is_sparse(self.runtime, self.as_ptr())
    }

    /// Whether this is a sequence.
    #[must_use]
    pub fn is_sequence(&self) -> bool {
        matches!(self.kind(), Ok(Kind::Sequence))
    }

    fn kind(&self) -> Result<Kind> {
        kind_of(self.runtime, self.as_ptr())
    }

    /// The type; `None` for an optional that holds nothing, of which the runtime does not tell.
    pub fn value_type(&self) -> Result<Option<ValueType>> {
        if !self.has_value() {
            return Ok(None);
        }
        let api = self.runtime.api;
        let info = Handle::make(api.ReleaseTypeInfo, |place| {
            call!(api, "alive, and not absent", GetTypeInfo(self.as_ptr(), place))
        })?;
        value_type(api, &info).map(Some)
    }

    /// The bytes of a tensor, as the runtime counts them.
    pub fn byte_len(&self) -> Result<usize> {
        let mut size = 0;
        call!(
            self.runtime.api,
            "alive; an error for what is no tensor",
            GetTensorSizeInBytes(self.as_ptr(), &raw mut size)
        )?;
        Ok(size)
    }

    /// The address of the first element of a tensor, strings included.
    pub fn address(&self) -> Result<usize> {
        let mut data = std::ptr::null_mut();
        call!(
            self.runtime.api,
            "alive; an error for what is no tensor",
            GetTensorMutableData(self.as_ptr(), &raw mut data)
        )?;
        Ok(data.addr())
    }

    /// The extent of every axis of a sparse tensor.
    pub fn dense_shape(&self) -> Result<Shape> {
        let api = self.runtime.api;
        let info = Handle::make(api.ReleaseTensorTypeAndShapeInfo, |place| {
            call!(
                api,
                "alive; an error for what is no tensor",
                GetTensorTypeAndShape(self.as_ptr(), place)
            )
        })?;
        self.described(&info).map(|(_, shape)| shape)
    }

    /// The element type and the axes that the runtime describes.
    pub(super) fn described(&self, info: &Handle<OrtTensorTypeAndShapeInfo>) -> Result<(Dtype, Shape)> {
        let api = self.runtime.api;
        let (mut dtype, mut rank) = (0_i32, 0);
        call!(
            api,
            "the handle is alive; the place is as large as the enumeration",
            GetTensorElementType(info.as_ptr(), (&raw mut dtype).cast())
        )?;
        call!(
            api,
            "the handle is alive",
            GetDimensionsCount(info.as_ptr(), &raw mut rank)
        )?;
        let mut extents = Shape::from_elem(0, rank);
        call!(api, "the place holds `rank` numbers", {
            GetDimensions(info.as_ptr(), extents.as_mut_ptr(), rank)
        })?;
        Ok((Dtype::from_runtime(dtype), extents))
    }

    /// A copy of what it holds.
    pub fn to_value(&self) -> Result<Value> {
        copy_out(self.runtime, &self.handle)
    }

    /// What a sequence holds, in order.
    pub fn elements(&self) -> Result<Vec<Self>> {
        if !self.is_sequence() {
            return Err(Error::new(ErrorKind::InvalidArgument, "only a sequence has elements"));
        }
        let children = children(self.runtime, &self.handle)?;
        Ok(children
            .into_iter()
            .map(|child| Self::new(self.runtime, child))
            .collect())
    }

    /// Overwrites the elements of a tensor with those of another: same type, same number.
    pub fn overwrite(&self, from: &TensorView) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        if self.is_read_only {
            return refuse("the memory of this value is read-only".into());
        }
        let Some(to) = self.tensor() else {
            return refuse("only a tensor of numbers can be updated in place".into());
        };
        if to.dtype() != from.dtype() {
            return refuse(format!(
                "Unexpected input data type. Actual: (tensor({})) , expected: (tensor({}))",
                from.dtype().onnx_name(),
                to.dtype().onnx_name()
            ));
        }
        if to.byte_len() != from.byte_len() || to.elements() != from.elements() {
            return refuse(format!("{} elements cannot replace {}", from.elements(), to.elements()));
        }
        if from.byte_len() > 0 {
            // SAFETY: both have so many bytes, which may be the same ones.
            unsafe { std::ptr::copy(from.data(), to.data().cast_mut(), from.byte_len()) };
        }
        Ok(())
    }
}

fn is_sparse(runtime: &'static Runtime, value: *mut OrtValue) -> bool {
    let mut answer = 0;
    let asked = call!(runtime.api, "alive", IsSparseTensor(value, &raw mut answer));
    asked.is_ok() && answer != 0
}

impl Drop for HeldValue {
    fn drop(&mut self) {
        // What the parent's runtime made stays in a child: another thread may have held its allocator at the fork.
        if self.made_in == fork::generation() {
            // SAFETY: dropped here alone, once.
            unsafe { ManuallyDrop::drop(&mut self.handle) };
        }
    }
}

/// The allocator that one tensor was told to come from: all it can do is let go of the memory's owner.
#[repr(C)]
struct Keeper {
    /// First, since the runtime knows the keeper by its address.
    allocator: OrtAllocator,
    _owner: Owner,
}

unsafe extern "system" fn refuse_alloc(_: *mut OrtAllocator, _: usize) -> *mut c_void {
    std::ptr::null_mut()
}

unsafe extern "system" fn refuse_reserve(_: *const OrtAllocator, _: usize) -> *mut c_void {
    std::ptr::null_mut()
}

unsafe extern "system" fn describe(_: *const OrtAllocator) -> *const OrtMemoryInfo {
    runtime().map_or(std::ptr::null(), |runtime| runtime.memory.cast_const())
}

unsafe extern "system" fn let_go(keeper: *mut OrtAllocator, _: *mut c_void) {
    // SAFETY: `owned_tensor` made it from a box, and a tensor releases its memory once.
    drop(unsafe { Box::from_raw(keeper.cast::<Keeper>()) });
}

/// A tensor over memory that `owner` releases when the runtime forgets the last value that shares it.
fn owned_tensor(runtime: &'static Runtime, view: &TensorView, owner: Owner) -> Result<ValueHandle> {
    // SAFETY: the default of the C interface: its version, and no functions.
    let mut allocator = unsafe { OrtAllocator::default() };
    allocator.Alloc = Some(refuse_alloc);
    allocator.Free = Some(let_go);
    allocator.Info = Some(describe);
    allocator.Reserve = Some(refuse_reserve);
    let keeper = Box::into_raw(Box::new(Keeper {
        allocator,
        _owner: owner,
    }));
    // What fails is leaked: the runtime does not say whether it has let go already.
    Handle::make(runtime.api.ReleaseValue, |place| {
        call!(
            runtime.api,
            "the keeper lives until the runtime frees the memory through it; the memory lives as long as the keeper",
            CreateTensorWithDataAndDeleterAsOrtValue(
                keeper.cast(),
                view.data().cast_mut().cast(),
                view.byte_len(),
                view.shape().as_ptr(),
                view.shape().len(),
                onnx_type(view.dtype()),
                place,
            )
        )
    })
}

/// A value that holds all its memory itself.
fn keep(runtime: &'static Runtime, value: Value) -> Result<ValueHandle> {
    match value {
        Value::Tensor(tensor) => {
            // SAFETY: the owner is given to the value, which keeps the memory as long as it needs it.
            let view = unsafe { tensor.view().duplicate() };
            owned_tensor(runtime, &view, tensor.into_owner())
        }
        Value::Sequence { items, .. } if !items.is_empty() => {
            let items = items
                .into_iter()
                .map(|item| keep(runtime, item))
                .collect::<Result<Vec<_>>>()?;
            compose(runtime, &items, ort_sys::ONNXType::ONNX_TYPE_SEQUENCE)
        }
        Value::Strings(strings) => string_tensor(runtime, &strings),
        // Maps are copied, and an empty sequence has nothing to keep.
        other => to_runtime(runtime, &other),
    }
}
