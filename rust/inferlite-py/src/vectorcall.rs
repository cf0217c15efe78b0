#![expect(unsafe_code, reason = "a class made by way of Python's C interface")]
//! `inferlite.Model` as Python has it: a class that adds nothing to [`PyModel`] but the vectorcall protocol (PEP 590).
//!
//! PyO3 gives a class `tp_call`, for which the interpreter packs the arguments of every call into a tuple: measured, a
//! tenth of a call that the cache answers. Everything used here is in the stable interface from CPython 3.12 on, and
//! CPython 3.11 has the same.

use std::any::Any;
use std::ffi::{CStr, c_int, c_uint, c_ulong, c_void};
use std::mem::transmute;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use inferlite_core::batch::Terms;
use inferlite_core::cache::Looked;
use pyo3::exceptions::PyTypeError;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};
use pyo3::{Borrowed, ffi};

use crate::model::PyModel;

type New = unsafe extern "C" fn(*mut ffi::PyTypeObject, *mut ffi::PyObject, *mut ffi::PyObject) -> *mut ffi::PyObject;
type Call = unsafe extern "C" fn(*mut ffi::PyObject, *mut ffi::PyObject, *mut ffi::PyObject) -> *mut ffi::PyObject;
type Vectorcall = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    usize,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Set in the number of arguments where the caller lends the place before the first one.
const ARGUMENTS_OFFSET: usize = 1 << (usize::BITS - 1);

/// Of a class whose instances say how they are called; PyO3 has it for CPython 3.12 on alone.
const HAVE_VECTORCALL: c_ulong = 1 << 11;

const NAME: &CStr = c"inferlite.Model";
const OFFSET_MEMBER: &CStr = c"__vectorcalloffset__";

/// What the class takes from its base, and what its instances keep where, to be called by.
#[derive(Clone, Copy)]
struct Base {
    new: New,
    call: Call,
    vectorcall: Vectorcall,
    offset: usize,
}

static BASE: OnceLock<Base> = OnceLock::new();

/// The class; made once per process.
pub(crate) fn model_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let base = py.get_type::<PyModel>();
    let size: usize = base.getattr("__basicsize__")?.extract()?;
    let offset = size.next_multiple_of(align_of::<Vectorcall>());
    let (new, call) = (slot(&base, ffi::Py_tp_new)?, slot(&base, ffi::Py_tp_call)?);
    let _ = BASE.set(Base {
        // SAFETY: what is in this slot of a class has this signature.
        new: unsafe { transmute::<*mut c_void, New>(new) },
        // SAFETY: as above.
        call: unsafe { transmute::<*mut c_void, Call>(call) },
        vectorcall: if py.version_info() < (3, 12) {
            vectorcall_unless_overridden
        } else {
            vectorcall
        },
        offset,
    });
    let members = [
        ffi::PyMemberDef {
            name: OFFSET_MEMBER.as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: ffi::Py_ssize_t::try_from(offset)?,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        },
        ffi::PyMemberDef::default(),
    ];
    // CPython copies neither members nor documentation in every release: they stay.
    let members = Box::leak(Box::new(members));
    let documentation: String = base.getattr("__doc__")?.extract()?;
    let documentation = Box::leak(Box::new(std::ffi::CString::new(documentation)?));
    let mut slots = [
        (ffi::Py_tp_new, new_model as New as *mut c_void),
        (ffi::Py_tp_call, call),
        (ffi::Py_tp_members, members.as_mut_ptr().cast()),
        (ffi::Py_tp_doc, documentation.as_ptr().cast_mut().cast()),
        (0, std::ptr::null_mut()),
    ]
    .map(|(slot, pfunc)| ffi::PyType_Slot { slot, pfunc });
    let mut spec = ffi::PyType_Spec {
        name: NAME.as_ptr(),
        basicsize: c_int::try_from(offset + size_of::<Vectorcall>())?,
        itemsize: 0,
        flags: c_uint::try_from(ffi::Py_TPFLAGS_DEFAULT | HAVE_VECTORCALL)?,
        slots: slots.as_mut_ptr(),
    };
    let bases = PyTuple::new(py, [base])?;
    // SAFETY: a whole description, whose slots end with a null; the functions have the signatures of their slots, and the
    // member says where an instance, which is larger than its base's by just that, has its place for the function.
    let class = unsafe { ffi::PyType_FromSpecWithBases(&raw mut spec, bases.as_ptr()) };
    // SAFETY: a new reference, or null with an exception set.
    let class = unsafe { Bound::from_owned_ptr_or_err(py, class) }?;
    Ok(class.cast_into::<PyType>()?)
}

fn slot(class: &Bound<'_, PyType>, number: c_int) -> PyResult<*mut c_void> {
    // SAFETY: a class on the heap, as all of PyO3's are.
    let function = unsafe { ffi::PyType_GetSlot(class.as_type_ptr(), number) };
    if function.is_null() {
        return Err(PyTypeError::new_err(
            "the base of `Model` can be neither made nor called",
        ));
    }
    Ok(function)
}

/// Makes an instance, and notes in it how it is called.
///
/// # Safety
/// As the interpreter calls the slot: for this class, with a tuple, and a dictionary or null.
unsafe extern "C" fn new_model(
    class: *mut ffi::PyTypeObject,
    args: *mut ffi::PyObject,
    named: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let Some(base) = BASE.get() else {
        return std::ptr::null_mut();
    };
    // SAFETY: the arguments are passed on; the base's function catches its own panics.
    let model = unsafe { (base.new)(class, args, named) };
    if !model.is_null() {
        // SAFETY: an instance of this class, since the base allocates what it is told to: it has room there.
        let place = unsafe { model.cast::<u8>().add(base.offset) };
        #[expect(
            clippy::cast_ptr_alignment,
            reason = "the offset is a multiple of the alignment, as allocations are"
        )]
        // SAFETY: as above; nobody else has seen the instance.
        unsafe {
            place.cast::<Vectorcall>().write(base.vectorcall);
        };
    }
    model
}

/// Calls a model.
///
/// # Safety
/// As the interpreter calls it: with the lock, an instance of the class, as many arguments as it says, those that are named
/// last, and a tuple of their names or null.
unsafe extern "C" fn vectorcall(
    model: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller has the interpreter's lock.
    let py = unsafe { Python::assume_attached() };
    let count = count & !ARGUMENTS_OFFSET;
    give(py, || {
        // SAFETY: a live object, which the caller keeps alive.
        let model = unsafe { Borrowed::from_ptr(py, model) };
        if count != 1 || !names.is_null() {
            // SAFETY: as the caller says.
            return unsafe { call_packed(&model, args, count, names) };
        }
        // SAFETY: an instance of a class whose base this is.
        let model = &*unsafe { model.cast_unchecked::<PyModel>() };
        // SAFETY: there is one argument.
        let input = unsafe { args.read() };
        // SAFETY: a live object, which the caller keeps alive.
        let input = &*unsafe { Borrowed::from_ptr(py, input) };
        if PyModel::timeout(model, None).is_some() {
            return attached(py, || {
                PyModel::predict(model, Some(input), None, None, None, None, None)
            });
        }
        match PyModel::look_up(model, input) {
            Looked::Found(entry) => model.get().kept(py, entry),
            looked => {
                let terms = Terms::default();
                attached(py, || {
                    PyModel::predict_missed(model, Some(input), None, &terms, None, looked.missed())
                })
            }
        }
    })
}

/// Calls a model whose class may have been given another `__call__`, which CPython says to instances from 3.12 on alone.
///
/// # Safety
/// As for [`vectorcall`].
unsafe extern "C" fn vectorcall_unless_overridden(
    model: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a live object.
    let class = unsafe { ffi::Py_TYPE(model) };
    // SAFETY: a class on the heap.
    let call = unsafe { ffi::PyType_GetSlot(class, ffi::Py_tp_call) };
    if BASE.get().is_some_and(|base| base.call as *mut c_void == call) {
        // SAFETY: as the caller says.
        return unsafe { vectorcall(model, args, count, names) };
    }
    // SAFETY: the caller has the interpreter's lock.
    let py = unsafe { Python::assume_attached() };
    give(py, || {
        // SAFETY: a live object, which the caller keeps alive.
        let model = unsafe { Borrowed::from_ptr(py, model) };
        // SAFETY: as the caller says.
        unsafe { call_packed(&model, args, count & !ARGUMENTS_OFFSET, names) }
    })
}

/// What a call gives to the interpreter: a new reference, or null with an exception set.
#[inline]
fn give<'py>(py: Python<'py>, call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>) -> *mut ffi::PyObject {
    let given = catch_unwind(AssertUnwindSafe(|| match call() {
        Ok(answer) => answer.into_ptr(),
        Err(error) => raise(py, error),
    }));
    given.unwrap_or_else(|payload| raise(py, panic_error(&*payload)))
}

/// Does what PyO3 is to know of: a reference that is dropped elsewhere stays until PyO3 is called the next time, and the
/// traceback of an exception may hold whatever the caller has.
#[inline]
fn attached<T>(_py: Python<'_>, work: impl FnOnce() -> T) -> T {
    // SAFETY: the token proves that this thread is one of the interpreter's.
    unsafe { Python::attach_unchecked(|_| work()) }
}

#[cold]
fn raise(py: Python<'_>, error: PyErr) -> *mut ffi::PyObject {
    attached(py, || error.restore(py));
    std::ptr::null_mut()
}

/// Packs the arguments of any other call, which the class takes apart or refuses.
///
/// # Safety
/// As for [`vectorcall`].
#[cold]
unsafe fn call_packed<'py>(
    model: &Bound<'py, PyAny>,
    args: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let py = model.py();
    let argument = |index| {
        // SAFETY: no index is beyond what there is.
        let place = unsafe { args.add(index) };
        // SAFETY: as above.
        let object = unsafe { place.read() };
        // SAFETY: a live object, which the caller keeps alive.
        unsafe { Bound::from_borrowed_ptr(py, object) }
    };
    let packed = PyTuple::new(py, (0..count).map(argument).collect::<Vec<_>>())?;
    // SAFETY: a live tuple, or null.
    let names = unsafe { Bound::from_borrowed_ptr_or_opt(py, names) };
    let keywords = PyDict::new(py);
    if let Some(names) = names {
        for (index, name) in names.cast_into::<PyTuple>()?.iter().enumerate() {
            keywords.set_item(name.cast_into::<PyString>()?, argument(count + index))?;
        }
    }
    let call = slot(&model.get_type(), ffi::Py_tp_call)?;
    // SAFETY: what is in this slot of a class has this signature.
    let call = unsafe { transmute::<*mut c_void, Call>(call) };
    // SAFETY: a tuple and a dictionary, as the slot wants them.
    let answer = unsafe { call(model.as_ptr(), packed.as_ptr(), keywords.as_ptr()) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, answer) }
}

#[cold]
fn panic_error(payload: &(dyn Any + Send)) -> PyErr {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    PanicException::new_err(text.unwrap_or_else(|| "a panic".to_owned()))
}
