//! A session of ONNX Runtime for one model of one input, float rows, and one output, over the C interface alone.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr;

use ort_sys::{OrtApi, OrtApiBase, OrtMemoryInfo, OrtSession, OrtStatusPtr, OrtValue};

const INPUT: &CStr = c"x";
const OUTPUT: &CStr = c"y";

/// A model, ready to run.
pub struct Session {
    api: &'static OrtApi,
    session: *mut OrtSession,
    memory: *mut OrtMemoryInfo,
}

// SAFETY: the runtime lets any thread run a session, and neither pointer changes.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

/// One call that answers with a status.
macro_rules! call {
    ($api:expr, $name:ident($($argument:expr),* $(,)?)) => {{
        let api: &'static OrtApi = $api;
        // SAFETY: the table is the library's own, and every pointer among the arguments is one that it has made or a
        // place of ours that outlives the call.
        let status = unsafe { (api.$name)($($argument),*) };
        check(api, status)
    }};
}

fn check(api: &'static OrtApi, status: OrtStatusPtr) -> Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: the status is not null, and its message ends with a NUL.
    let message = unsafe { CStr::from_ptr((api.GetErrorMessage)(status.0)) }.to_string_lossy().into_owned();
    // SAFETY: its last use; the message has been copied.
    unsafe { (api.ReleaseStatus)(status.0) };
    Err(message)
}

impl Session {
    /// Loads the library and the model, on one intra-op thread.
    pub fn open(library: &Path, model: &str) -> Result<Self, String> {
        // SAFETY: whoever starts this program names a library of ONNX Runtime.
        let library = unsafe { libloading::Library::new(library) }.map_err(|error| error.to_string())?;
        // SAFETY: the one symbol of this name in existence has this type.
        let base = unsafe { library.get::<unsafe extern "system" fn() -> *const OrtApiBase>(b"OrtGetApiBase\0") }
            .map_err(|error| error.to_string())?;
        // SAFETY: it takes nothing, and answers with a pointer to a constant.
        let api = unsafe { ((*base()).GetApi)(ort_sys::ORT_API_VERSION) };
        // SAFETY: null, or a table that lives as long as the library, which is never unloaded.
        let api: &'static OrtApi = unsafe { api.as_ref() }.ok_or("the library is too old")?;
        std::mem::forget(library);

        let path = CString::new(model).map_err(|error| error.to_string())?;
        let (mut env, mut options) = (ptr::null_mut(), ptr::null_mut());
        let (mut session, mut memory) = (ptr::null_mut(), ptr::null_mut());
        call!(
            api,
            CreateEnv(ort_sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING, c"bare".as_ptr(), &raw mut env)
        )?;
        call!(api, CreateSessionOptions(&raw mut options))?;
        call!(api, SetIntraOpNumThreads(options, 1))?;
        call!(api, CreateSession(env, path.as_ptr(), options, &raw mut session))?;
        call!(
            api,
            CreateCpuMemoryInfo(
                ort_sys::OrtAllocatorType::OrtArenaAllocator,
                ort_sys::OrtMemType::OrtMemTypeDefault,
                &raw mut memory,
            )
        )?;
        Ok(Self { api, session, memory })
    }

    /// Runs `count` rows, and hands the outputs and the width of a row of them to `read`.
    pub fn run<T>(
        &self,
        rows: &mut [f32],
        count: usize,
        read: impl FnOnce(&[f32], usize) -> T,
    ) -> Result<T, String> {
        if count == 0 || rows.is_empty() || rows.len() % count != 0 {
            return Err("rows of one length are wanted".to_owned());
        }
        let shape = [count as i64, (rows.len() / count) as i64];
        let mut input = Value { api: self.api, value: ptr::null_mut() };
        call!(
            self.api,
            CreateTensorWithDataAsOrtValue(
                self.memory,
                rows.as_mut_ptr().cast(),
                size_of_val(rows),
                shape.as_ptr(),
                shape.len(),
                ort_sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                &raw mut input.value,
            )
        )?;
        let mut output = Value { api: self.api, value: ptr::null_mut() };
        let inputs: [*const OrtValue; 1] = [input.value];
        let (input_names, output_names) = ([INPUT.as_ptr()], [OUTPUT.as_ptr()]);
        call!(
            self.api,
            Run(
                self.session,
                ptr::null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                1,
                output_names.as_ptr(),
                1,
                &raw mut output.value,
            )
        )?;
        let (mut data, mut shape, mut rank) = (ptr::null_mut(), ptr::null(), 0);
        let mut kind = ort_sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        call!(
            self.api,
            GetTensorElementTypeAndShapeDataReference(output.value, &raw mut kind, &raw mut shape, &raw mut rank)
        )?;
        call!(self.api, GetTensorMutableData(output.value, &raw mut data))?;
        if kind != ort_sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || rank != 2 {
            return Err("the model gives something else than rows of floats".to_owned());
        }
        // SAFETY: the shape has two sizes, and lives as long as the value.
        let [given, width] = unsafe { *shape.cast::<[i64; 2]>() }.map(|size| size as usize);
        // SAFETY: the value is a float tensor of this shape, and lives until the end of this function.
        let outputs = unsafe { std::slice::from_raw_parts(data.cast::<f32>(), given * width) };
        Ok(read(outputs, width))
    }
}

/// A value of the runtime's, which is released when it goes.
struct Value {
    api: &'static OrtApi,
    value: *mut OrtValue,
}

impl Drop for Value {
    fn drop(&mut self) {
        if !self.value.is_null() {
            // SAFETY: made by the runtime, and released once.
            unsafe { (self.api.ReleaseValue)(self.value) };
        }
    }
}
