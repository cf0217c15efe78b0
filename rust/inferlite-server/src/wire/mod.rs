//! The formats of requests and replies: bytes in, values or a [`Refusal`] out. Nothing here waits or speaks to anybody.
//!
//! [`request`] and [`response`] are the Open Inference Protocol with its binary tensors, [`plain`] is for clients that
//! have nothing but JSON, `change` for those who operate the server, and [`metadata`] describes models and servers.

mod binary;
pub(crate) mod change;
pub(crate) mod contradiction;
pub mod datatype;
#[cfg(test)]
mod fixtures;
pub mod metadata;
pub mod plain;
mod refusal;
pub mod request;
pub mod response;
mod target;

pub use refusal::Refusal;
