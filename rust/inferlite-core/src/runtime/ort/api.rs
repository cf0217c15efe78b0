#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! The smallest vocabulary for the C interface: a call, a status, a handle.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr::NonNull;

use ort_sys::{OrtApi, OrtStatusPtr, os_char};

use crate::error::{Error, ErrorKind, Result};

/// One call of the C interface that answers with a status: `call!(api, "why it is sound", Name(arguments))?`.
///
/// The reason names the fact that makes the pointers among the arguments valid; it stands in for a `SAFETY` comment.
macro_rules! call {
    ($api:expr, $why:literal, { $name:ident($($argument:expr),* $(,)?) }) => {
        $crate::runtime::ort::api::call!($api, $why, $name($($argument),*))
    };
    ($api:expr, $why:literal, $name:ident($($argument:expr),* $(,)?)) => {{
        let api: &'static ort_sys::OrtApi = $api;
        // SAFETY: stated at the place of use; the function comes from the table that the library itself filled in.
        let status = unsafe { (api.$name)($($argument),*) };
        $crate::runtime::ort::api::check(api, status)
    }};
}
pub(super) use call;

/// Turns a status into a result, and releases it.
#[inline]
pub(super) fn check(api: &'static OrtApi, status: OrtStatusPtr) -> Result<()> {
    if status.0.is_null() {
        Ok(())
    } else {
        Err(error_of(api, status))
    }
}

#[cold]
fn error_of(api: &'static OrtApi, status: OrtStatusPtr) -> Error {
    // Read as a number: a later runtime may know codes that the enumeration does not.
    let get_code: unsafe extern "system" fn(*const ort_sys::OrtStatus) -> ort_sys::OrtErrorCode = api.GetErrorCode;
    // SAFETY: both are C functions that return a 32-bit integer; only the name of the type differs.
    let get_code: unsafe extern "system" fn(*const ort_sys::OrtStatus) -> i32 =
        unsafe { std::mem::transmute(get_code) };
    // SAFETY: the status is not null and has not been released.
    let code = unsafe { get_code(status.0) };
    // SAFETY: as above.
    let message = unsafe { (api.GetErrorMessage)(status.0) };
    let message = string_of(message);
    // SAFETY: as above; this is its last use, and the message has been copied.
    unsafe { (api.ReleaseStatus)(status.0) };
    Error::new(ErrorKind::from_runtime_code(code), message)
}

/// Copies a C string, replacing what is not UTF-8.
pub(super) fn string_of(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and every string of the C interface ends with a NUL and is alive when it is copied.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// A C string of `text`; an error that names `what` if there is a NUL in it.
pub(super) fn c_string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("{what} must not contain a NUL character"),
        )
    })
}

/// A path as the C interface wants it, ending with a zero.
#[cfg(not(windows))]
pub(super) fn os_path(path: &Path) -> Result<Vec<os_char>> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, "a path must not contain a NUL character"))?;
    Ok(bytes
        .as_bytes_with_nul()
        .iter()
        .map(|&byte| byte.cast_signed() as os_char)
        .collect())
}

/// A path as the C interface wants it, ending with a zero.
#[cfg(windows)]
pub(super) fn os_path(path: &Path) -> Result<Vec<os_char>> {
    use std::os::windows::ffi::OsStrExt;
    let mut units: Vec<os_char> = path.as_os_str().encode_wide().collect();
    if units.contains(&0) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "a path must not contain a NUL character",
        ));
    }
    units.push(0);
    Ok(units)
}

/// Something that the runtime made and that is given back to it on drop.
#[derive(Debug)]
pub(super) struct Handle<T> {
    pointer: NonNull<T>,
    release: unsafe extern "system" fn(*mut T),
}

// SAFETY: the runtime's objects are tied to no thread, and a handle gives out a pointer only.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above; what is called through the pointer is each caller's affair.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Handle<T> {
    /// Lets `make` write a pointer, and takes it over.
    ///
    /// `release` must be the runtime's own function for what `make` makes.
    pub(super) fn make(
        release: unsafe extern "system" fn(*mut T),
        make: impl FnOnce(*mut *mut T) -> Result<()>,
    ) -> Result<Self> {
        let mut pointer = std::ptr::null_mut();
        make(&raw mut pointer)?;
        let pointer =
            NonNull::new(pointer).ok_or_else(|| Error::new(ErrorKind::Fail, "the runtime answered with nothing"))?;
        Ok(Self { pointer, release })
    }

    /// Takes over a pointer that is not null.
    pub(super) fn from_raw(release: unsafe extern "system" fn(*mut T), pointer: NonNull<T>) -> Self {
        Self { pointer, release }
    }

    /// The pointer, which stays ours.
    #[inline]
    pub(super) fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }

    /// The pointer, which is the caller's to release from now on.
    pub(super) fn into_raw(self) -> *mut T {
        std::mem::ManuallyDrop::new(self).pointer.as_ptr()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: made by the runtime, released by its own function, once.
        unsafe { (self.release)(self.pointer.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(windows))]
    fn a_path_keeps_bytes_that_are_not_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff"));
        let units: Vec<u8> = os_path(path)
            .expect("no NUL in it")
            .iter()
            .map(|&unit| unit.to_ne_bytes()[0])
            .collect();
        assert_eq!(units, b"a\xff\0");
    }

    #[test]
    fn a_nul_is_refused_by_name() {
        let error = c_string("a config key", "a\0b").expect_err("there is a NUL");
        assert_eq!(error.message(), "a config key must not contain a NUL character");
    }
}
