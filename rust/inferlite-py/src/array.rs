#![expect(unsafe_code, reason = "numpy's C interface")]
//! numpy arrays: reading one without a copy, and making one of what the core gives.

use std::ffi::{c_char, c_int, c_long};
use std::mem::ManuallyDrop;

use inferlite_core::cache::SmallTensor;
use inferlite_core::tensor::{Frozen, Owner, Shape, Strings, element_count};
use inferlite_core::{Dtype, Tensor, TensorView, fork};
use numpy::npyffi::flags::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_CARRAY, NPY_ARRAY_CARRAY_RO, NPY_ARRAY_ENSUREARRAY,
    NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE,
};
use numpy::npyffi::{NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArrayObject, get_type_object, npy_intp};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use smallvec::SmallVec;

use crate::boundary::{detach, runtime_error};
use crate::extended;

// There is no ONNX Runtime for machines of 32 bits.
const _: () = assert!(size_of::<npy_intp>() == size_of::<i64>());

/// Outputs up to this many bytes are copied into an array of numpy's own; larger ones stay where they are.
///
/// Measured: an array over foreign memory costs an object more than a copy of so many bytes.
const COPIED_BYTES: usize = 4096;

/// Copies of so many bytes take longer than it takes to give the GIL to another thread and back.
const LONG_COPY_BYTES: usize = 1 << 20;

#[cfg(target_endian = "little")]
const SWAPPED: u8 = b'>';
#[cfg(target_endian = "big")]
const SWAPPED: u8 = b'<';

/// Whether `object` is an array, of numpy's class or a subclass.
#[inline]
pub(crate) fn is_array(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the token proves that the interpreter is attached; numpy hands out its own class.
    let class = unsafe { get_type_object(object.py(), NpyTypes::PyArray_Type) };
    // SAFETY: both are live objects.
    unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class) != 0 }
}

/// An array whose fields can be read.
pub(crate) struct Array<'a, 'py>(&'a Bound<'py, PyAny>);

impl<'a, 'py> Array<'a, 'py> {
    /// The object as an array, if it is one.
    #[inline]
    pub(crate) fn new(object: &'a Bound<'py, PyAny>) -> Option<Self> {
        is_array(object).then_some(Self(object))
    }

    /// The object as an array, which it must be.
    ///
    /// # Safety
    /// [`Array::new`] has accepted the object before: an array may change its class, but only to another one of arrays.
    #[inline]
    pub(crate) unsafe fn known(object: &'a Bound<'py, PyAny>) -> Self {
        debug_assert!(is_array(object));
        Self(object)
    }

    /// The array itself.
    #[inline]
    pub(crate) fn object(&self) -> &'a Bound<'py, PyAny> {
        self.0
    }

    #[inline]
    fn fields(&self) -> &numpy::npyffi::objects::PyArrayObject_fields {
        // SAFETY: an instance of numpy's class, which starts with these fields and lives as long as the reference.
        let array = unsafe { &*self.0.as_ptr().cast::<PyArrayObject>() };
        &array.fields
    }

    /// numpy's number for the element type, and whether its bytes are in the other order.
    #[inline]
    pub(crate) fn type_number(&self) -> (c_int, bool) {
        // SAFETY: an array has a descriptor as long as it lives; its first fields are the same in all releases.
        let descriptor = unsafe { &*self.fields().descr };
        (
            descriptor.fields.type_num,
            descriptor.fields.byteorder.cast_unsigned() == SWAPPED,
        )
    }

    #[inline]
    fn has_flags(&self, flags: c_int) -> bool {
        self.fields().flags & flags == flags
    }

    /// Whether the array may be written to.
    pub(crate) fn is_writable(&self) -> bool {
        self.has_flags(NPY_ARRAY_WRITEABLE)
    }

    #[inline]
    fn extents(&self) -> &[i64] {
        let fields = self.fields();
        let rank = usize::try_from(fields.nd).unwrap_or(0);
        if rank == 0 {
            return &[];
        }
        // SAFETY: numpy keeps as many extents as there are axes, each of the size of a pointer, which is 64 bits here.
        unsafe { std::slice::from_raw_parts(fields.dimensions.cast::<i64>(), rank) }
    }

    /// The extent of every axis.
    #[inline]
    pub(crate) fn shape(&self) -> Shape {
        Shape::from_slice(self.extents())
    }

    /// The element type.
    #[inline]
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        dtype_of(self.0.py(), self.type_number().0)
    }

    /// The element type if the memory can run as it is.
    ///
    /// Elements that share bytes in the runtime have one each in an array.
    #[inline]
    fn direct_dtype(&self) -> Option<Dtype> {
        let (number, is_swapped) = self.type_number();
        let dtype = dtype_of(self.0.py(), number)?;
        let is_direct = !is_swapped && self.has_flags(NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED) && !dtype.is_packed();
        is_direct.then_some(dtype)
    }

    /// The memory of the array if it can run as it is: numbers in C order, aligned, in this machine's byte order.
    #[inline]
    pub(crate) fn direct_view(&self) -> Option<TensorView> {
        let dtype = self.direct_dtype()?;
        let shape = self.shape();
        let byte_len = byte_len(&shape, dtype);
        // SAFETY: a C-contiguous array has so many bytes at this address; the caller keeps it alive and pins it.
        Some(unsafe { TensorView::new(dtype, shape, self.fields().data.cast::<u8>().cast_const(), byte_len) })
    }

    /// The same of an array that is small, for as long as nobody can change it.
    #[inline]
    pub(crate) fn small_tensor(&self) -> Option<SmallTensor<'_>> {
        let dtype = self.direct_dtype()?;
        let shape = self.extents();
        let byte_len = byte_len(shape, dtype);
        // SAFETY: a C-contiguous array has so many bytes at this address, and lives as long as the borrow.
        unsafe { SmallTensor::new(dtype, shape, self.fields().data.cast::<u8>().cast_const(), byte_len) }
    }

    /// A copy of an array of elements that share bytes in the runtime, as they lie there; `None` for any other.
    pub(crate) fn packed(&self) -> PyResult<Option<Tensor>> {
        let Some(dtype) = self.dtype().filter(|dtype| dtype.is_packed()) else {
            return Ok(None);
        };
        let copy = self.to_direct()?;
        let copy = Array(&copy);
        let shape = copy.shape();
        let count = element_count(&shape).map_err(|error| runtime_error(error.message()))?;
        let items = if count == 0 {
            &[]
        } else {
            // SAFETY: numpy has just made the array, in C order with one byte per element, and nobody else knows it.
            unsafe { std::slice::from_raw_parts(copy.fields().data.cast::<u8>().cast_const(), count) }
        };
        Ok(Tensor::from_bytes(dtype, shape, &dtype.pack(items)))
    }

    /// A copy that [`Array::direct_view`] accepts, unless its elements share bytes in the runtime; only for element
    /// types that are numbers.
    pub(crate) fn to_direct(&self) -> PyResult<Bound<'py, PyAny>> {
        let py = self.0.py();
        let (number, _) = self.type_number();
        // SAFETY: a number that numpy itself gave; the answer is a new reference or null.
        let native = unsafe { PY_ARRAY_API.PyArray_DescrFromType(py, number) };
        let flags = NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSUREARRAY;
        // SAFETY: an array, and a descriptor whose reference numpy takes over.
        let copy = unsafe { PY_ARRAY_API.PyArray_FromArray(py, self.0.as_ptr().cast(), native, flags) };
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(py, copy) }
    }

    /// What the memory belongs to, if not to the array itself.
    fn base(&self) -> Option<Bound<'py, PyAny>> {
        // SAFETY: null or a live object, which the array holds.
        unsafe { Bound::from_borrowed_ptr_or_opt(self.0.py(), self.fields().base) }
    }

    /// Where the memory is, and what it holds: address, number of elements, numpy's number for their type.
    #[inline]
    pub(crate) fn place(&self) -> (usize, usize, c_int) {
        let count = self
            .extents()
            .iter()
            .fold(1, |count, &extent| count * usize::try_from(extent).unwrap_or(0));
        let (number, is_swapped) = self.type_number();
        (
            self.fields().data.addr(),
            count,
            if is_swapped { !number } else { number },
        )
    }

    /// The array whose memory this one looks into, itself if there is none.
    pub(crate) fn owner(&self) -> Bound<'py, PyAny> {
        let mut owner = self.0.clone();
        while !Array(&owner).owns_data() {
            match Array(&owner).base().filter(is_array) {
                Some(base) => owner = base,
                None => break,
            }
        }
        owner
    }

    /// Whether somebody could move or free the memory while the array lives.
    fn owns_data(&self) -> bool {
        self.has_flags(NPY_ARRAY_OWNDATA)
    }
}

/// The arrays of one call, alive until it is over.
#[derive(Default)]
pub(crate) struct Pins<'py> {
    arrays: SmallVec<[Bound<'py, PyAny>; 2]>,
    references: SmallVec<[Bound<'py, PyAny>; 2]>,
}

impl<'py> Pins<'py> {
    /// Keeps an array alive.
    #[inline]
    pub(crate) fn keep(&mut self, array: Bound<'py, PyAny>) {
        self.arrays.push(array);
    }

    /// The arrays, in the order in which they came.
    #[inline]
    pub(crate) fn arrays(&self) -> &[Bound<'py, PyAny>] {
        &self.arrays
    }

    /// Keeps other threads from moving the memory of the arrays, which they could once the GIL is given away.
    ///
    /// `ndarray.resize` reallocates, even with `refcheck=False`, unless a weak reference to the array exists.
    #[inline]
    pub(crate) fn forbid_resizing(&mut self) -> PyResult<()> {
        for array in &self.arrays {
            // A view can move when the array that it looks into does.
            let owner = Array(array).owner();
            if Array(&owner).owns_data() {
                // SAFETY: a live array, whose class supports weak references; no callback.
                let reference = unsafe { ffi::PyWeakref_NewRef(owner.as_ptr(), std::ptr::null_mut()) };
                // SAFETY: a new reference, or null with an exception set.
                self.references
                    .push(unsafe { Bound::from_owned_ptr_or_err(array.py(), reference) }?);
            }
        }
        Ok(())
    }

    /// The arrays and references without their interpreter, for a call that is bound to them for longer.
    pub(crate) fn unbind(self) -> Vec<Py<PyAny>> {
        self.arrays
            .into_iter()
            .chain(self.references)
            .map(Bound::unbind)
            .collect()
    }
}

/// The bytes of an array of this shape, whose elements have bytes of their own.
#[inline]
fn byte_len(shape: &[i64], dtype: Dtype) -> usize {
    let elements = shape
        .iter()
        .fold(1, |count, &extent| count * usize::try_from(extent).unwrap_or(0));
    elements * (dtype.bits() / 8)
}

/// The core's type for a numpy type of fixed-size numbers.
#[inline]
pub(crate) fn dtype_of(py: Python<'_>, number: c_int) -> Option<Dtype> {
    const LONG_IS_64_BITS: bool = size_of::<c_long>() == 8;
    // The order is numpy's: bool, then C's integer types from signed char to unsigned long long, then the floats.
    const TABLE: [Dtype; 13] = [
        Dtype::Bool,
        Dtype::Int8,
        Dtype::Uint8,
        Dtype::Int16,
        Dtype::Uint16,
        Dtype::Int32,
        Dtype::Uint32,
        if LONG_IS_64_BITS { Dtype::Int64 } else { Dtype::Int32 },
        if LONG_IS_64_BITS { Dtype::Uint64 } else { Dtype::Uint32 },
        Dtype::Int64,
        Dtype::Uint64,
        Dtype::Float32,
        Dtype::Float64,
    ];
    const HALF: c_int = NPY_TYPES::NPY_HALF as c_int;
    match usize::try_from(number) {
        Ok(index) if index < TABLE.len() => Some(TABLE[index]),
        _ if number == HALF => Some(Dtype::Float16),
        _ => extended::dtype_of(py, number),
    }
}

/// numpy's number for one of the core's types; `None` where numpy itself has no such type.
#[inline]
fn type_number_of(dtype: Dtype) -> Option<NPY_TYPES> {
    Some(match dtype {
        Dtype::Bool => NPY_TYPES::NPY_BOOL,
        Dtype::Int8 => NPY_TYPES::NPY_BYTE,
        Dtype::Uint8 => NPY_TYPES::NPY_UBYTE,
        Dtype::Int16 => NPY_TYPES::NPY_SHORT,
        Dtype::Uint16 => NPY_TYPES::NPY_USHORT,
        Dtype::Int32 => NPY_TYPES::NPY_INT,
        Dtype::Uint32 => NPY_TYPES::NPY_UINT,
        // Where `long` has 64 bits, too, numpy has two types for them: this is onnxruntime's choice.
        Dtype::Int64 => NPY_TYPES::NPY_LONGLONG,
        Dtype::Uint64 => NPY_TYPES::NPY_ULONGLONG,
        Dtype::Float16 => NPY_TYPES::NPY_HALF,
        Dtype::Float32 => NPY_TYPES::NPY_FLOAT,
        Dtype::Float64 => NPY_TYPES::NPY_DOUBLE,
        Dtype::String => NPY_TYPES::NPY_OBJECT,
        Dtype::Undefined
        | Dtype::Complex64
        | Dtype::Complex128
        | Dtype::Bfloat16
        | Dtype::Float8e4m3fn
        | Dtype::Float8e4m3fnuz
        | Dtype::Float8e5m2
        | Dtype::Float8e5m2fnuz
        | Dtype::Float4e2m1
        | Dtype::Uint4
        | Dtype::Int4
        | Dtype::Uint2
        | Dtype::Int2
        | Dtype::Float8e8m0 => return None,
    })
}

/// numpy's description of one of the core's types.
#[inline]
fn descriptor_of(py: Python<'_>, dtype: Dtype) -> PyResult<Bound<'_, PyAny>> {
    let Some(number) = type_number_of(dtype) else {
        return extended::descriptor_of(py, dtype);
    };
    // SAFETY: one of numpy's own numbers, of a type whose size is fixed.
    let descriptor = unsafe { PY_ARRAY_API.PyArray_DescrFromType(py, number as c_int) };
    // SAFETY: a new reference.
    unsafe { Bound::from_owned_ptr_or_err(py, descriptor.cast()) }
}

/// Memory of the core under an array; released with the last array that looks at it.
#[pyclass(module = "inferlite._core", frozen)]
struct OutputMemory {
    owner: ManuallyDrop<Owner>,
    made_in: u64,
}

impl OutputMemory {
    fn new(owner: Owner) -> Self {
        Self {
            owner: ManuallyDrop::new(owner),
            made_in: fork::generation(),
        }
    }
}

impl Drop for OutputMemory {
    fn drop(&mut self) {
        // In a child, what the parent's runtime made stays: another thread may have held its allocator at the fork.
        if self.made_in == fork::generation() {
            // SAFETY: dropped here alone, once.
            unsafe { ManuallyDrop::drop(&mut self.owner) };
        }
    }
}

/// An array of numpy's own with the numbers of a tensor.
#[inline]
pub(crate) fn copied_array<'py>(py: Python<'py>, view: &TensorView) -> PyResult<Bound<'py, PyAny>> {
    let array = new_array(py, view.shape(), view.dtype(), std::ptr::null_mut(), 0)?;
    if view.byte_len() >= LONG_COPY_BYTES || view.dtype().is_packed() {
        fill(&array, view);
    } else if view.byte_len() > 0 {
        // SAFETY: the new array has as many bytes (same shape, same elements), and nobody else has seen it; the view is
        // read while what it looks at is alive.
        unsafe { std::ptr::copy_nonoverlapping(view.data(), data_of(&array).cast::<u8>(), view.byte_len()) };
    }
    Ok(array)
}

/// Fills a new array with the elements of a tensor, of which there are many or which share bytes.
#[cold]
fn fill(array: &Bound<'_, PyAny>, view: &TensorView) {
    if view.dtype().is_packed() {
        return unpack_into(array, view);
    }
    let (from, to, byte_len) = (
        view.data().expose_provenance(),
        data_of(array).expose_provenance(),
        view.byte_len(),
    );
    detach(array.py(), || {
        let from = std::ptr::with_exposed_provenance::<u8>(from);
        // SAFETY: as in `copied_array`.
        unsafe { std::ptr::copy_nonoverlapping(from, std::ptr::with_exposed_provenance_mut::<u8>(to), byte_len) };
    });
}

/// Fills a new array, which has one byte per element, with the elements of a tensor that share bytes.
fn unpack_into(array: &Bound<'_, PyAny>, view: &TensorView) {
    let mut packed = vec![0; view.byte_len()];
    view.copy_part(0, &mut packed);
    let data = data_of(array).cast::<u8>();
    for (i, element) in view.dtype().unpack(&packed).take(view.elements()).enumerate() {
        // SAFETY: the array has so many elements.
        let place = unsafe { data.add(i) };
        // SAFETY: as above; nobody else has seen the array.
        unsafe { place.write(element) };
    }
}

/// An array of a tensor: writable, private, in C order.
#[inline]
pub(crate) fn array_of(py: Python<'_>, mut tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    if tensor.view().byte_len() <= COPIED_BYTES || tensor.view().dtype().is_packed() {
        return copied_array(py, tensor.view());
    }
    let data = tensor.data_mut().cast::<c_char>();
    let view = tensor.view();
    let array = new_array(py, view.shape(), view.dtype(), data, NPY_ARRAY_CARRAY)?;
    give_owner(&array, tensor.into_owner())?;
    Ok(array)
}

/// An array of a tensor that others may look at as well: read-only for good, in C order, without a copy.
pub(crate) fn read_only_array_of(py: Python<'_>, tensor: Frozen) -> PyResult<Bound<'_, PyAny>> {
    let view = tensor.view();
    if view.byte_len() == 0 || view.dtype().is_packed() {
        return read_only(&copied_array(py, view)?);
    }
    let data = view.data().cast_mut().cast::<c_char>();
    // numpy asks the base whether the flag may be set again, and ours offers no memory to write to.
    let array = new_array(py, view.shape(), view.dtype(), data, NPY_ARRAY_CARRAY_RO)?;
    give_owner(&array, tensor.into_owner())?;
    Ok(array)
}

/// An array over the memory of a tensor, which stays somebody else's as well; elements that share bytes are copied.
///
/// # Safety
/// The memory of `view` must stay valid while `owner` lives, and be writable unless `is_read_only`.
pub(crate) unsafe fn shared_array_of<'py>(
    py: Python<'py>,
    view: &TensorView,
    owner: Owner,
    is_read_only: bool,
) -> PyResult<Bound<'py, PyAny>> {
    if view.byte_len() == 0 || view.dtype().is_packed() {
        return copied_array(py, view);
    }
    let flags = if is_read_only {
        NPY_ARRAY_CARRAY_RO
    } else {
        NPY_ARRAY_CARRAY
    };
    let data = view.data().cast_mut().cast::<c_char>();
    let array = new_array(py, view.shape(), view.dtype(), data, flags)?;
    give_owner(&array, owner)?;
    Ok(array)
}

/// A view of an array of numpy's own that is read-only, as the array is from now on.
pub(crate) fn read_only<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    array.call_method1("setflags", (false,))?;
    array.call_method0("view")
}

/// Has `owner` released with the last array that looks at its memory, which `array` is a new one of.
fn give_owner(array: &Bound<'_, PyAny>, owner: Owner) -> PyResult<()> {
    let py = array.py();
    let memory = Bound::new(py, OutputMemory::new(owner))?.into_any();
    // SAFETY: a new array over the owner's memory; numpy takes over the reference to the owner.
    let failed = unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), memory.into_ptr()) };
    if failed == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
}

fn data_of(array: &Bound<'_, PyAny>) -> *mut c_char {
    Array(array).fields().data
}

/// A new array; over `data` with these flags, or over memory of numpy's own where that is null.
#[inline]
fn new_array<'py>(
    py: Python<'py>,
    shape: &[i64],
    dtype: Dtype,
    data: *mut c_char,
    flags: c_int,
) -> PyResult<Bound<'py, PyAny>> {
    let rank = c_int::try_from(shape.len()).unwrap_or(c_int::MAX);
    let descriptor = descriptor_of(py, dtype)?.into_ptr();
    // SAFETY: numpy hands out its own class.
    let class = unsafe { get_type_object(py, NpyTypes::PyArray_Type) };
    // SAFETY: as many extents as axes, of the same size and only read; numpy takes over the reference to the descriptor;
    // `data` is null or as long as shape and type say, and is given an owner next.
    let array = unsafe {
        PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            class,
            descriptor.cast(),
            rank,
            shape.as_ptr().cast_mut().cast::<npy_intp>(),
            std::ptr::null_mut(),
            data.cast(),
            flags,
            std::ptr::null_mut(),
        )
    };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, array) }
}

/// An array of objects that holds the strings of a tensor.
#[expect(
    clippy::cast_ptr_alignment,
    reason = "numpy aligns its own memory for the type that it holds"
)]
pub(crate) fn array_of_strings<'py>(py: Python<'py>, strings: &Strings) -> PyResult<Bound<'py, PyAny>> {
    let array = new_array(py, &strings.shape, Dtype::String, std::ptr::null_mut(), 0)?;
    let places = data_of(&array).cast::<*mut ffi::PyObject>();
    for (i, string) in strings.iter().enumerate() {
        let string = PyString::from_bytes(py, string)?;
        // SAFETY: the array has one place for every string of its shape.
        let place = unsafe { places.add(i) };
        // SAFETY: as above; numpy's new places hold null or a reference, which is exchanged for one to the string.
        let old = unsafe { place.replace(string.into_ptr()) };
        // SAFETY: null, or the reference that the place gave up.
        unsafe { ffi::Py_XDECREF(old) };
    }
    Ok(array)
}

/// An array of `list`, of the type that a model declares.
pub(crate) fn array_from_list<'py>(list: &Bound<'py, PyAny>, dtype: Dtype) -> Option<Bound<'py, PyAny>> {
    let py = list.py();
    let descriptor = descriptor_of(py, dtype).ok()?.into_ptr();
    // SAFETY: a live object, and a descriptor whose reference numpy takes over.
    let array = unsafe {
        PY_ARRAY_API.PyArray_FromAny(
            py,
            list.as_ptr(),
            descriptor.cast(),
            0,
            0,
            NPY_ARRAY_CARRAY_RO,
            std::ptr::null_mut(),
        )
    };
    // SAFETY: a new reference, or null with an exception set, which `ok` clears.
    unsafe { Bound::from_owned_ptr_or_err(py, array) }.ok()
}
