#![expect(
    unsafe_code,
    reason = "loads a shared library and asks it for its table of functions"
)]
//! Loading the shared library, once per process.
//!
//! The library and its one environment are never released: threads of the process may be inside it when the process
//! ends.

use std::ffi::c_void;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use object::read::ReadCache;
use object::{Object, ObjectSegment};
use ort_sys::{OrtAllocator, OrtApi, OrtApiBase, OrtMemoryInfo, OrtValue};

use super::api::{call, string_of};
use super::environment::environment;
use super::heap;
use crate::error::{Error, ErrorKind, Result};
use crate::fork;

/// The oldest release that offers [`ort_sys::ORT_API_VERSION`].
const OLDEST: &str = "1.24";

/// The loaded library.
#[derive(Debug)]
pub(super) struct Runtime {
    pub(super) api: &'static OrtApi,
    /// Describes memory of the process, as opposed to that of a device.
    pub(super) memory: *mut OrtMemoryInfo,
    pub(super) allocator: *mut OrtAllocator,
    version: String,
    path: PathBuf,
}

// SAFETY: the pointers are the runtime's process-wide objects, made once, never released, and shared by contract.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Loads the library at `path`; does nothing if it is loaded already, and refuses a second one.
pub fn load(path: &Path) -> Result<()> {
    static LOADING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return if runtime.path == path {
            Ok(())
        } else {
            Err(unavailable(
                path,
                &format!(
                    "`{}` is loaded already, and a process holds one",
                    runtime.path.display()
                ),
            ))
        };
    }
    check_file(path)?;
    let runtime = open(path)?;
    heap::keep_blocks();
    fork::install();
    // The lock is held and the cell was empty.
    let _ = RUNTIME.set(runtime);
    Ok(())
}

/// The loaded library; an error before [`load`].
#[inline]
pub(super) fn runtime() -> Result<&'static Runtime> {
    RUNTIME
        .get()
        .ok_or_else(|| Error::new(ErrorKind::RuntimeUnavailable, "ONNX Runtime is not loaded"))
}

/// The version of the loaded library.
pub fn version() -> Result<&'static str> {
    Ok(&runtime()?.version)
}

/// Whether the runtime may say what it is used for, where it has a way to.
pub fn set_telemetry(is_on: bool) -> Result<()> {
    let runtime = runtime()?;
    let env = environment(runtime.api)?;
    if is_on {
        call!(
            runtime.api,
            "the environment lives as long as the process",
            EnableTelemetryEvents(env)
        )
    } else {
        call!(
            runtime.api,
            "the environment lives as long as the process",
            DisableTelemetryEvents(env)
        )
    }
}

/// The execution providers of the loaded library, in its order of preference.
pub fn available_providers() -> Result<Vec<String>> {
    let api = runtime()?.api;
    let mut names = std::ptr::null_mut();
    let mut count = 0;
    call!(
        api,
        "both are places of ours",
        GetAvailableProviders(&raw mut names, &raw mut count)
    )?;
    let providers = (0..usize::try_from(count).unwrap_or(0))
        .map(|i| {
            // SAFETY: the call above answered with an array of `count` strings.
            let name = unsafe { names.add(i) };
            // SAFETY: as above.
            string_of(unsafe { *name })
        })
        .collect();
    call!(
        api,
        "the array that the first call made, given back once",
        ReleaseAvailableProviders(names, count)
    )?;
    Ok(providers)
}

/// Releases a value that the runtime made; the form that [`crate::tensor::Owner`] wants.
///
/// # Safety
/// `value` must be an `OrtValue` that nobody uses any more, or releases again.
pub(super) unsafe fn release_value(value: *mut c_void) {
    if let Some(runtime) = RUNTIME.get() {
        // SAFETY: promised by the caller.
        unsafe { (runtime.api.ReleaseValue)(value.cast::<OrtValue>()) };
    }
}

fn unavailable(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::RuntimeUnavailable,
        format!(
            "cannot use ONNX Runtime at `{}`: {why}; install it with `pip install \"onnxruntime>={OLDEST}\"`, or point \
             INFERLITE_ORT_LIBRARY to its shared library",
            path.display()
        ),
    )
}

/// Refuses what the dynamic loader would crash on: it maps a truncated file and dies of a bus error on first touch.
fn check_file(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| unavailable(path, &error.to_string()))?;
    if !metadata.is_file() {
        return Err(unavailable(path, "it is not a file"));
    }
    let file = File::open(path).map_err(|error| unavailable(path, &error.to_string()))?;
    let cache = ReadCache::new(file);
    let library = object::File::parse(&cache)
        .map_err(|error| unavailable(path, &format!("it is damaged or no shared library ({error})")))?;
    for segment in library.segments() {
        let (start, length) = segment.file_range();
        if start.checked_add(length).is_none_or(|end| end > metadata.len()) {
            return Err(unavailable(path, "it is truncated"));
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<Runtime> {
    let library = map_in(path).map_err(|error| unavailable(path, &format!("the system cannot load it ({error})")))?;
    let base = {
        // SAFETY: the one symbol of this name in existence has this type.
        let get_base = unsafe { library.get::<unsafe extern "system" fn() -> *const OrtApiBase>(b"OrtGetApiBase\0") }
            .map_err(|_| unavailable(path, "it is not ONNX Runtime (it has no function `OrtGetApiBase`)"))?;
        // SAFETY: it takes nothing and answers with a pointer to a constant.
        let base = unsafe { get_base() };
        // SAFETY: the table lives as long as the library, which is leaked below or holds nothing we keep.
        unsafe { base.as_ref() }
    }
    .ok_or_else(|| unavailable(path, "`OrtGetApiBase` answers with nothing"))?;
    // SAFETY: the function is in the table of every release.
    let version = string_of(unsafe { (base.GetVersionString)() });
    if is_older(&version, OLDEST) {
        return Err(unavailable(
            path,
            &format!("it is release {version}, and inferlite needs {OLDEST} or newer"),
        ));
    }
    // SAFETY: as above; an unknown number is answered with null.
    let api = unsafe { (base.GetApi)(ort_sys::ORT_API_VERSION) };
    // SAFETY: null or a table that lives as long as the library.
    let api: &'static OrtApi = unsafe { api.as_ref() }.ok_or_else(|| {
        let wanted = ort_sys::ORT_API_VERSION;
        unavailable(
            path,
            &format!("release {version} does not offer version {wanted} of its interface"),
        )
    })?;
    // From here on the library has threads and exit handlers: unloading it would leave them without their code.
    let _never_unloaded = std::mem::ManuallyDrop::new(library);

    let mut memory = std::ptr::null_mut();
    call!(
        api,
        "`memory` is a place of ours",
        CreateCpuMemoryInfo(
            ort_sys::OrtAllocatorType::OrtArenaAllocator,
            ort_sys::OrtMemType::OrtMemTypeDefault,
            &raw mut memory,
        )
    )?;
    let mut allocator = std::ptr::null_mut();
    call!(
        api,
        "`allocator` is a place of ours",
        GetAllocatorWithDefaultOptions(&raw mut allocator)
    )?;
    Ok(Runtime {
        api,
        memory,
        allocator,
        version,
        path: path.to_owned(),
    })
}

/// Maps the library into the process, with all its symbols resolved: one that is missing must not end the process later.
#[cfg(unix)]
fn map_in(path: &Path) -> std::result::Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: running the library's initialisers is what loading it means; the file has been checked, and whoever
    // chose it trusts it as much as any module that Python imports.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

/// Maps the library into the process.
#[cfg(not(unix))]
#[expect(clippy::disallowed_methods, reason = "this is the one place that loads the runtime")]
fn map_in(path: &Path) -> std::result::Result<libloading::Library, libloading::Error> {
    // SAFETY: running the library's initialisers is what loading it means; the file has been checked, and whoever
    // chose it trusts it as much as any module that Python imports.
    unsafe { libloading::Library::new(path) }
}

/// Whether release `version` comes before `oldest`, by major and minor number; a version that cannot be read does not.
fn is_older(version: &str, oldest: &str) -> bool {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    match (numbers(version), numbers(oldest)) {
        (Some(version), Some(oldest)) => version < oldest,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert!(is_older("1.9.2", "1.24"));
        assert!(is_older("0.99.0", "1.24"));
        assert!(!is_older("1.24.0", "1.24"));
        assert!(!is_older("1.100.0", "1.24"));
        assert!(!is_older("2.0.0", "1.24"));
        assert!(!is_older("nightly", "1.24"));
    }

    #[test]
    fn a_file_that_is_no_library_is_refused_by_name() {
        let path = std::env::temp_dir().join(format!("inferlite-no-library-{}", std::process::id()));
        std::fs::write(&path, "text").expect("the folder for temporary files can be written to");
        let error = load(&path).expect_err("text is no library");
        std::fs::remove_file(&path).expect("it was just written");
        assert_eq!(error.kind(), ErrorKind::RuntimeUnavailable);
        assert!(error.message().contains(&path.display().to_string()), "{error}");
        assert!(error.message().contains("INFERLITE_ORT_LIBRARY"), "{error}");
    }

    #[test]
    fn nothing_works_before_a_library_is_loaded() {
        assert_eq!(
            version().expect_err("nothing is loaded").kind(),
            ErrorKind::RuntimeUnavailable
        );
    }
}
