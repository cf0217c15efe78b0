#![expect(unsafe_code, reason = "memory that other libraries describe and release")]
//! DLPack, versions 0 and 1: tensors that other libraries lend, and tensors that they borrow.
//!
//! A capsule is used once: whoever takes the tensor out renames it, and owes the producer a call of the deleter.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use inferlite_core::tensor::{Owner, Tensor, element_count};
use inferlite_core::{Dtype, TensorView};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use smallvec::SmallVec;

use crate::boundary::runtime_error;

const LEGACY: &CStr = c"dltensor";
const LEGACY_USED: &CStr = c"used_dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
const VERSIONED_USED: &CStr = c"used_dltensor_versioned";

/// The version of the layout below.
const MAJOR: u32 = 1;
/// The first one with codes for floats of 8 and 4 bits.
const MINOR: u32 = 1;

const READ_ONLY: u64 = 1;
const IS_COPIED: u64 = 1 << 1;
/// Elements that could share bytes have one each.
const IS_PADDED: u64 = 1 << 2;

/// More axes than numpy has, or any library.
const MOST_AXES: i32 = 64;

/// Devices whose memory the processor reads: its own, and what CUDA and ROCm have pinned.
const READABLE_DEVICES: [i32; 3] = [CPU, 3, 11];
pub(crate) const CPU: i32 = 1;

#[derive(Clone, Copy)]
#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Described {
    data: *mut c_void,
    device: Device,
    rank: i32,
    dtype: DataType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: Described,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: Described,
}

/// ONNX's types in DLPack: kind of number, and bits.
const TYPES: [(Dtype, u8, u8); 23] = [
    (Dtype::Int8, 0, 8),
    (Dtype::Int16, 0, 16),
    (Dtype::Int32, 0, 32),
    (Dtype::Int64, 0, 64),
    (Dtype::Int4, 0, 4),
    (Dtype::Int2, 0, 2),
    (Dtype::Uint8, 1, 8),
    (Dtype::Uint16, 1, 16),
    (Dtype::Uint32, 1, 32),
    (Dtype::Uint64, 1, 64),
    (Dtype::Uint4, 1, 4),
    (Dtype::Uint2, 1, 2),
    (Dtype::Float16, 2, 16),
    (Dtype::Float32, 2, 32),
    (Dtype::Float64, 2, 64),
    (Dtype::Bfloat16, 4, 16),
    (Dtype::Bool, 6, 8),
    (Dtype::Float8e4m3fn, 10, 8),
    (Dtype::Float8e4m3fnuz, 11, 8),
    (Dtype::Float8e5m2, 12, 8),
    (Dtype::Float8e5m2fnuz, 13, 8),
    (Dtype::Float8e8m0, 14, 8),
    (Dtype::Float4e2m1, 17, 4),
];

fn data_type(dtype: Dtype) -> Option<DataType> {
    let row = TYPES.iter().find(|row| row.0 == dtype)?;
    Some(DataType {
        code: row.1,
        bits: row.2,
        lanes: 1,
    })
}

/// A tensor that another library has lent.
pub(crate) struct Imported {
    /// What it looks like, if it is in C order.
    pub(crate) view: TensorView,
    /// Gives it back; on any thread, as DLPack demands of a deleter.
    pub(crate) owner: Owner,
    pub(crate) is_read_only: bool,
    is_in_c_order: bool,
}

impl Imported {
    /// Whether the runtime can read it where it is: in C order, and aligned.
    pub(crate) fn is_direct(&self) -> bool {
        let size = (self.view.dtype().bits() / 8).max(1);
        self.is_in_c_order && (self.view.byte_len() == 0 || self.view.data().addr().is_multiple_of(size))
    }
}

fn is_capsule(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object.
    unsafe { ffi::PyCapsule_CheckExact(object.as_ptr()) != 0 }
}

/// Takes a tensor over from an object with `__dlpack__`, or from a capsule, which cannot be used again.
///
/// Raises TypeError for what is no such object or capsule, BufferError or RuntimeError for a tensor that cannot be
/// had, and what the producer raises.
pub(crate) fn import(object: &Bound<'_, PyAny>) -> PyResult<Imported> {
    let py = object.py();
    let capsule = if is_capsule(object) {
        object.clone()
    } else if object.hasattr("__dlpack__")? {
        if let Some(ask) = object.getattr_opt("__dlpack_device__")? {
            let (kind, id): (i32, i32) = ask.call0()?.extract()?;
            refuse_device(Device { kind, id })?;
        }
        let keywords = PyDict::new(py);
        keywords.set_item("max_version", (MAJOR, MINOR))?;
        let lend = object.getattr("__dlpack__")?;
        match lend.call((), Some(&keywords)) {
            // A producer from before version 1.
            Err(error) if error.is_instance_of::<PyTypeError>(py) => lend.call0()?,
            answer => answer?,
        }
    } else {
        return Err(not_a_capsule());
    };
    take(&capsule)
}

fn not_a_capsule() -> PyErr {
    PyTypeError::new_err("from_dlpack expected a valid DLPack capsule named 'dltensor'")
}

fn refuse_device(device: Device) -> PyResult<()> {
    if READABLE_DEVICES.contains(&device.kind) {
        return Ok(());
    }
    Err(runtime_error(format!(
        "a tensor on the device ({}, {}) cannot be read: pass one in the memory of the CPU, which is (1, 0)",
        device.kind, device.id
    )))
}

/// What a capsule of this name holds, which is ours from now on; `None` for any other.
fn rename<T>(capsule: &Bound<'_, PyAny>, name: &'static CStr, used: &'static CStr) -> PyResult<Option<NonNull<T>>> {
    // SAFETY: a live object; the name ends with a NUL.
    if unsafe { ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) } == 0 {
        return Ok(None);
    }
    // SAFETY: a capsule of this name.
    let pointer = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr()) };
    // SAFETY: as above; the new name lives as long as the program.
    if unsafe { ffi::PyCapsule_SetName(capsule.as_ptr(), used.as_ptr()) } != 0 {
        return Err(PyErr::fetch(capsule.py()));
    }
    Ok(NonNull::new(pointer.cast()))
}

fn take(capsule: &Bound<'_, PyAny>) -> PyResult<Imported> {
    if let Some(managed) = rename::<ManagedVersioned>(capsule, VERSIONED, VERSIONED_USED)? {
        // SAFETY: the producer made it, and lets it live until the deleter is called; the version comes first in all
        // versions, and nothing after the deleter is looked at before the version is known.
        let major = unsafe { (*managed.as_ptr()).major };
        let owner = loan_versioned(managed);
        if major != MAJOR {
            return Err(PyBufferError::new_err(format!(
                "a tensor of DLPack {major} cannot be read: ask for `max_version=({MAJOR}, {MINOR})`"
            )));
        }
        // SAFETY: as above.
        let managed = unsafe { managed.as_ref() };
        return describe(&managed.tensor, owner, managed.flags);
    }
    if let Some(managed) = rename::<Managed>(capsule, LEGACY, LEGACY_USED)? {
        let owner = loan(managed);
        // SAFETY: the producer made it, and lets it live until the deleter is called.
        let managed = unsafe { managed.as_ref() };
        return describe(&managed.tensor, owner, 0);
    }
    Err(not_a_capsule())
}

fn loan(managed: NonNull<Managed>) -> Owner {
    unsafe fn give_back(managed: *mut c_void) {
        let managed = managed.cast::<Managed>();
        // SAFETY: alive until its deleter is called, which is here alone.
        if let Some(delete) = unsafe { (*managed).deleter } {
            // SAFETY: as above; DLPack lets any thread call it.
            unsafe { delete(managed) };
        }
    }
    // SAFETY: the capsule gave the tensor up, so that it is given back once.
    unsafe { Owner::new(managed.as_ptr().cast(), give_back) }
}

fn loan_versioned(managed: NonNull<ManagedVersioned>) -> Owner {
    unsafe fn give_back(managed: *mut c_void) {
        let managed = managed.cast::<ManagedVersioned>();
        // SAFETY: alive until its deleter is called, which is here alone.
        if let Some(delete) = unsafe { (*managed).deleter } {
            // SAFETY: as above; DLPack lets any thread call it.
            unsafe { delete(managed) };
        }
    }
    // SAFETY: the capsule gave the tensor up, so that it is given back once.
    unsafe { Owner::new(managed.as_ptr().cast(), give_back) }
}

/// The numbers of an array that a producer describes.
fn numbers(start: *const i64, rank: usize) -> Option<SmallVec<[i64; 4]>> {
    if rank == 0 {
        return Some(SmallVec::new());
    }
    if start.is_null() {
        return None;
    }
    // SAFETY: the producer says that there is a number for every axis.
    Some(SmallVec::from_slice(unsafe { std::slice::from_raw_parts(start, rank) }))
}

/// What a producer describes, as far as it makes sense.
fn describe(tensor: &Described, owner: Owner, flags: u64) -> PyResult<Imported> {
    refuse_device(tensor.device)?;
    let unusable = |why: String| Err(PyBufferError::new_err(format!("the tensor cannot be read: {why}")));
    let DataType { code, bits, lanes } = tensor.dtype;
    let row = TYPES.iter().find(|row| (row.1, row.2) == (code, bits) && lanes == 1);
    let Some(&(dtype, ..)) = row else {
        return Err(runtime_error(format!(
            "Unsupported DLPack data type: code {code}, bits {bits}, lanes {lanes}"
        )));
    };
    let rank = match usize::try_from(tensor.rank) {
        Ok(rank) if tensor.rank <= MOST_AXES => rank,
        _ => return unusable(format!("it has {} axes", tensor.rank)),
    };
    let Some(shape) = numbers(tensor.shape, rank) else {
        return unusable("it has no shape".into());
    };
    let is_padded = dtype.is_packed() && flags & IS_PADDED != 0;
    let count = element_count(&shape).map_err(|error| PyBufferError::new_err(error.message().to_owned()))?;
    let byte_len = if is_padded { Some(count) } else { dtype.byte_len(count) };
    let byte_len = byte_len.filter(|&length| isize::try_from(length).is_ok());
    let (Some(byte_len), Ok(offset)) = (byte_len, usize::try_from(tensor.byte_offset)) else {
        return unusable(format!("shape {:?} overflows", &shape[..]));
    };
    if tensor.data.is_null() && byte_len > 0 {
        return unusable("it has no memory".into());
    }
    let is_in_c_order = tensor.strides.is_null()
        || count == 0
        || numbers(tensor.strides, rank).is_some_and(|strides| is_in_c_order(&shape, &strides));
    let data = tensor.data.cast::<u8>().cast_const().wrapping_add(offset);
    let is_read_only = flags & READ_ONLY != 0;
    if is_padded {
        if !is_in_c_order {
            return unusable("elements that are to share bytes must be in C order".into());
        }
        let elements = if count == 0 {
            &[]
        } else {
            // SAFETY: the producer says that there is a byte for every element.
            unsafe { std::slice::from_raw_parts(data, count) }
        };
        let packed = Tensor::from_bytes(dtype, shape, &dtype.pack(elements));
        let Some(packed) = packed else {
            return unusable("its elements are not as many as its shape says".into());
        };
        // SAFETY: the owner goes along, and is dropped after every use of the view.
        let view = unsafe { packed.view().duplicate() };
        return Ok(Imported {
            view,
            owner: packed.into_owner(),
            is_read_only: false,
            is_in_c_order,
        });
    }
    // SAFETY: the producer says that the memory is there while the owner lives; the product was checked above.
    let view = unsafe { TensorView::new(dtype, shape, data, byte_len) };
    Ok(Imported {
        view,
        owner,
        is_read_only,
        is_in_c_order,
    })
}

fn is_in_c_order(shape: &[i64], strides: &[i64]) -> bool {
    let mut wanted = 1_i64;
    std::iter::zip(shape, strides).rev().all(|(&extent, &stride)| {
        let fits = extent == 1 || stride == wanted;
        wanted = wanted.saturating_mul(extent);
        fits
    })
}

/// A tensor on loan: what the consumer sees, and what it points to.
struct Lent<M> {
    managed: M,
    numbers: Vec<i64>,
    _owner: Owner,
}

/// Lends a tensor out as a capsule, which keeps `owner` until the consumer gives it back.
///
/// `max_version` is what the consumer understands; without one it gets a tensor from before version 1, which cannot
/// say that it is read-only.
///
/// # Safety
/// The memory of `view` must stay valid while `owner` lives.
pub(crate) unsafe fn export<'py>(
    py: Python<'py>,
    view: &TensorView,
    owner: Owner,
    is_read_only: bool,
    is_copied: bool,
    max_version: Option<(u32, u32)>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(dtype) = data_type(view.dtype()) else {
        return Err(runtime_error(format!(
            "Unsupported ORT data type for DLPack: {}",
            view.dtype().proto()
        )));
    };
    let version = max_version.filter(|(major, _)| *major >= MAJOR);
    if is_read_only && version.is_none() {
        return Err(PyBufferError::new_err(
            "a read-only tensor can be lent to consumers of DLPack 1.0 and later alone: pass `max_version=(1, 0)`",
        ));
    }
    let shape = view.shape();
    let mut strides: Vec<i64> = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    let numbers: Vec<i64> = shape.iter().copied().chain(strides).collect();
    // The vector's memory stays where it is when the vector moves.
    let start = numbers.as_ptr();
    let described = Described {
        data: view.data().cast_mut().cast(),
        device: Device { kind: CPU, id: 0 },
        rank: i32::try_from(shape.len()).unwrap_or(0),
        dtype,
        shape: start,
        strides: start.wrapping_add(shape.len()),
        byte_offset: 0,
    };
    let Some((major, minor)) = version else {
        let managed = Managed {
            tensor: described,
            context: std::ptr::null_mut(),
            deleter: Some(delete),
        };
        return capsule(py, Lent::new(managed, numbers, owner), LEGACY, drop_unused);
    };
    let mut flags = 0;
    if is_read_only {
        flags |= READ_ONLY;
    }
    if is_copied {
        flags |= IS_COPIED;
    }
    let managed = ManagedVersioned {
        major: MAJOR,
        minor: if major == MAJOR { minor.min(MINOR) } else { MINOR },
        context: std::ptr::null_mut(),
        deleter: Some(delete_versioned),
        flags,
        tensor: described,
    };
    capsule(py, Lent::new(managed, numbers, owner), VERSIONED, drop_unused_versioned)
}

impl<M> Lent<M> {
    fn new(managed: M, numbers: Vec<i64>, owner: Owner) -> Self {
        Self {
            managed,
            numbers,
            _owner: owner,
        }
    }
}

/// The context of a tensor is the box that it lies in.
trait HasContext {
    fn context(&mut self) -> &mut *mut c_void;
}

impl HasContext for Managed {
    fn context(&mut self) -> &mut *mut c_void {
        &mut self.context
    }
}

impl HasContext for ManagedVersioned {
    fn context(&mut self) -> &mut *mut c_void {
        &mut self.context
    }
}

fn capsule<'py, M: HasContext>(
    py: Python<'py>,
    lent: Lent<M>,
    name: &'static CStr,
    drop_unused: unsafe extern "C" fn(*mut ffi::PyObject),
) -> PyResult<Bound<'py, PyAny>> {
    debug_assert!(lent.numbers.len().is_multiple_of(2), "an extent and a stride per axis");
    let lent = Box::into_raw(Box::new(lent));
    // SAFETY: just made from a box; nobody else knows it.
    let managed = unsafe { &raw mut (*lent).managed };
    // SAFETY: as above.
    unsafe { *(*managed).context() = lent.cast() };
    // SAFETY: the name lives as long as the program; the destructor takes a capsule of this name.
    let made = unsafe { ffi::PyCapsule_New(managed.cast(), name.as_ptr(), Some(drop_unused)) };
    if made.is_null() {
        // SAFETY: made from a box above, and nobody has seen it.
        drop(unsafe { Box::from_raw(lent) });
    }
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }
}

unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: the consumer gives back what `export` has lent, once.
    let context = unsafe { (*managed).context };
    // SAFETY: `capsule` made the context from a box of this type.
    drop(unsafe { Box::from_raw(context.cast::<Lent<Managed>>()) });
}

unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: the consumer gives back what `export` has lent, once.
    let context = unsafe { (*managed).context };
    // SAFETY: `capsule` made the context from a box of this type.
    drop(unsafe { Box::from_raw(context.cast::<Lent<ManagedVersioned>>()) });
}

/// What a capsule that nobody has used still holds.
unsafe fn unused<T>(capsule: *mut ffi::PyObject, name: &'static CStr) -> Option<NonNull<T>> {
    // SAFETY: the interpreter is destroying the capsule, which is alive until then.
    if unsafe { ffi::PyCapsule_IsValid(capsule, name.as_ptr()) } == 0 {
        return None;
    }
    // SAFETY: as above; it has this name.
    NonNull::new(unsafe { ffi::PyCapsule_GetPointer(capsule, name.as_ptr()) }.cast())
}

unsafe extern "C" fn drop_unused(capsule: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter, as a destructor.
    if let Some(managed) = unsafe { unused::<Managed>(capsule, LEGACY) } {
        // SAFETY: nobody has taken it, so that it is given back here.
        unsafe { delete(managed.as_ptr()) };
    }
}

unsafe extern "C" fn drop_unused_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter, as a destructor.
    if let Some(managed) = unsafe { unused::<ManagedVersioned>(capsule, VERSIONED) } {
        // SAFETY: nobody has taken it, so that it is given back here.
        unsafe { delete_versioned(managed.as_ptr()) };
    }
}
