//! The core of inferlite: one path from a caller's arrays to an engine and back.
//!
//! Nothing here names Python, an HTTP server or an async runtime. A caller builds [`Feed`]s over memory it keeps
//! alive, hands them to a [`Model`], and receives [`Value`]s that own what they point to.

pub mod batch;
pub mod cache;
pub mod clock;
pub mod error;
mod flight;
pub mod fork;
pub mod graph;
pub mod model;
pub mod pace;
mod question;
pub mod repository;
pub mod rows;
pub mod runtime;
pub mod stats;
mod sync;
pub mod tensor;
pub mod threads;
pub mod ticket;
mod workers;

pub use error::{Error, ErrorKind, Result};
pub use model::Model;
pub use runtime::{Answer, Call, Engine, Feed, Input, Outputs};
pub use tensor::{Dtype, Tensor, TensorView, Value};
