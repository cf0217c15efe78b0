//! JSON without a tree: a [`Reader`] that hands out one value after the other, numbers straight into the memory of tensors
//! ([`grid`]), and what it takes to write replies.

#[cfg(target_arch = "x86_64")]
mod decimals;
pub(crate) mod grid;
mod number;
mod reader;
pub(crate) mod writer;

pub(crate) use reader::{Fault, Kind, Reader};
