#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! What a model file says about itself.

use std::collections::BTreeMap;
use std::ffi::c_char;

use ort_sys::{OrtModelMetadata, OrtSession, OrtStatusPtr};

use super::api::{Handle, call, check, string_of};
use super::library::Runtime;
use crate::error::Result;

/// What a model file says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the names and meanings are those of onnxruntime.ModelMetadata"
)]
pub struct ModelMetadata {
    pub custom_metadata_map: BTreeMap<String, String>,
    pub description: String,
    pub domain: String,
    pub graph_description: String,
    pub graph_name: String,
    pub producer_name: String,
    pub version: i64,
}

type Getter =
    unsafe extern "system" fn(*const OrtModelMetadata, *mut ort_sys::OrtAllocator, *mut *mut c_char) -> OrtStatusPtr;

/// Copies a string that the runtime allocated, and frees it.
pub(super) fn take_string(runtime: &'static Runtime, string: *mut c_char) -> String {
    let copy = string_of(string);
    if !string.is_null() {
        // The only failure is an allocator of null.
        let _ = call!(
            runtime.api,
            "allocated by this allocator, freed once",
            AllocatorFree(runtime.allocator, string.cast())
        );
    }
    copy
}

pub(super) fn read(runtime: &'static Runtime, session: *const OrtSession) -> Result<ModelMetadata> {
    let api = runtime.api;
    let metadata = Handle::make(api.ReleaseModelMetadata, |place| {
        call!(
            api,
            "the session is alive while its engine is",
            SessionGetModelMetadata(session, place)
        )
    })?;
    let text = |getter: Getter| -> Result<String> {
        let mut string = std::ptr::null_mut();
        // SAFETY: the metadata is alive, and the string is a place of ours.
        check(api, unsafe {
            getter(metadata.as_ptr(), runtime.allocator, &raw mut string)
        })?;
        Ok(take_string(runtime, string))
    };
    let mut version = 0;
    call!(
        api,
        "alive",
        ModelMetadataGetVersion(metadata.as_ptr(), &raw mut version)
    )?;
    Ok(ModelMetadata {
        custom_metadata_map: custom_map(runtime, &metadata)?,
        description: text(api.ModelMetadataGetDescription)?,
        domain: text(api.ModelMetadataGetDomain)?,
        graph_description: text(api.ModelMetadataGetGraphDescription)?,
        graph_name: text(api.ModelMetadataGetGraphName)?,
        producer_name: text(api.ModelMetadataGetProducerName)?,
        version,
    })
}

fn custom_map(runtime: &'static Runtime, metadata: &Handle<OrtModelMetadata>) -> Result<BTreeMap<String, String>> {
    let api = runtime.api;
    let mut keys: *mut *mut c_char = std::ptr::null_mut();
    let mut count = 0_i64;
    call!(api, "alive; places of ours", {
        ModelMetadataGetCustomMetadataMapKeys(metadata.as_ptr(), runtime.allocator, &raw mut keys, &raw mut count)
    })?;
    let mut map = BTreeMap::new();
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the call above answered with an array of `count` strings.
        let place = unsafe { keys.add(i) };
        // SAFETY: as above.
        let key = unsafe { *place };
        let mut value = std::ptr::null_mut();
        let found = call!(api, "alive; the key is a C string of the same metadata", {
            ModelMetadataLookupCustomMetadataMap(metadata.as_ptr(), runtime.allocator, key, &raw mut value)
        });
        let key = take_string(runtime, key);
        if found.is_ok() {
            map.insert(key, take_string(runtime, value));
        }
    }
    if !keys.is_null() {
        call!(
            api,
            "allocated by this allocator, freed once",
            AllocatorFree(runtime.allocator, keys.cast())
        )?;
    }
    Ok(map)
}
