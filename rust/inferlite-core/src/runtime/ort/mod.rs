//! ONNX Runtime, through its C interface.
//!
//! `ort-sys` declares the interface; the few hundred calls made of it are here, each with the fact that makes it
//! sound. Handles release themselves, pointers in statuses become [`Error`]s, and enumerations are read as numbers,
//! since a later runtime may return members that this build does not know.

mod api;
mod binding;
mod devices;
mod engine;
mod environment;
mod frame;
mod heap;
mod held;
mod held_run;
mod identity;
mod library;
mod log;
mod metadata;
mod optimized;
mod options;
mod run_options;
mod session;
mod source;
mod sparse;
mod type_info;
mod value;

pub use binding::{Binding, Fetch};
pub use devices::MemoryInfo;
pub use engine::OrtEngine;
pub use environment::{GlobalThreadPool, set_global_thread_pool, set_log_severity};
pub use held::HeldValue;
pub use held_run::HeldRun;
pub use identity::Fingerprint;
pub use library::{available_providers, load, set_telemetry, version};
pub use log::{Drained, LogRecord, drain as drain_log, has_records as has_log};
pub use metadata::ModelMetadata;
pub use options::{Provider, SessionSettings};
pub use run_options::RunOptions;
pub use source::ModelSource;
pub use sparse::{Indices, Places};
