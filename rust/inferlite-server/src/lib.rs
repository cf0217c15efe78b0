//! A server of models: the Open Inference Protocol over HTTP, on the same [`Model`](inferlite_core::Model) that Python calls.
//!
//! ```text
//!   connection ---> service: path, key, limits, body ---> wire: bytes to tensors ---> infer: cache, batch, engine
//!                      |                                                                 |
//!                      |  admin, prometheus: what is asked about models                  v
//!                      <------------------------------------------------------ wire: tensors to bytes
//! ```
//!
//! Each worker is a thread with an event loop, which reads, parses, computes what is over soon, and writes. What takes
//! longer runs on threads of the model's own.

mod access_log;
mod admin;
mod apart;
mod coding;
mod counts;
mod figures;
#[cfg(test)]
mod folder;
mod infer;
mod json;
mod keys;
mod limits;
mod looks;
mod openapi;
mod overdue;
mod pauses;
mod prometheus;
mod routes;
mod server;
mod service;
mod state;
mod status;
mod turn;
mod watch;
pub mod wire;

pub use access_log::{AccessLogSettings, Form};
pub use keys::Keys;
pub use limits::Limits;
pub use server::{Server, ServerSettings};
