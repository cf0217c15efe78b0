//! Element types that numpy has from the package ml_dtypes: bfloat16, and floats and integers of 8, 4 and 2 bits.
//!
//! The package is imported when the first array or tensor of such a type comes along.

use std::ffi::c_int;

use inferlite_core::Dtype;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::boundary::runtime_error;

/// From here on numpy numbers the types that packages have registered.
const FIRST_REGISTERED: c_int = 256;

const TYPES: [Dtype; 11] = [
    Dtype::Bfloat16,
    Dtype::Float8e4m3fn,
    Dtype::Float8e4m3fnuz,
    Dtype::Float8e5m2,
    Dtype::Float8e5m2fnuz,
    Dtype::Float8e8m0,
    Dtype::Float4e2m1,
    Dtype::Int4,
    Dtype::Uint4,
    Dtype::Int2,
    Dtype::Uint2,
];

/// A type as ml_dtypes has registered it.
struct Registered {
    dtype: Dtype,
    number: c_int,
    descriptor: Py<PyAny>,
}

/// The types that the installed ml_dtypes has.
fn registered(py: Python<'_>) -> PyResult<&[Registered]> {
    static TABLE: PyOnceLock<Vec<Registered>> = PyOnceLock::new();
    let table = TABLE.get_or_try_init(py, || {
        let package = py.import("ml_dtypes")?;
        let describe = py.import("numpy")?.getattr("dtype")?;
        let mut table = Vec::new();
        for dtype in TYPES {
            let Some(class) = package.getattr_opt(dtype.numpy_name())? else {
                continue;
            };
            let descriptor = describe.call1((class,))?;
            table.push(Registered {
                dtype,
                number: descriptor.getattr("num")?.extract()?,
                descriptor: descriptor.unbind(),
            });
        }
        Ok::<_, PyErr>(table)
    })?;
    Ok(table)
}

/// The core's type for a number that numpy has given to a registered type.
#[cold]
pub(crate) fn dtype_of(py: Python<'_>, number: c_int) -> Option<Dtype> {
    if number < FIRST_REGISTERED {
        return None;
    }
    // An array of such a type exists, so that ml_dtypes, if it is its package, has been imported.
    let table = registered(py).ok()?;
    table.iter().find(|row| row.number == number).map(|row| row.dtype)
}

/// numpy's description of a type that numpy itself does not have.
#[cold]
pub(crate) fn descriptor_of(py: Python<'_>, dtype: Dtype) -> PyResult<Bound<'_, PyAny>> {
    let unknown = |why: &str| {
        let name = dtype.message_name();
        runtime_error(format!("No corresponding Numpy type for Tensor Type. {name}{why}"))
    };
    if !TYPES.contains(&dtype) {
        return Err(unknown(""));
    }
    let table = registered(py).map_err(|error| {
        let made = unknown(": pip install ml_dtypes");
        made.set_cause(py, Some(error));
        made
    })?;
    let row = table.iter().find(|row| row.dtype == dtype);
    let row = row.ok_or_else(|| unknown(": the installed ml_dtypes is too old"))?;
    Ok(row.descriptor.bind(py).clone())
}
