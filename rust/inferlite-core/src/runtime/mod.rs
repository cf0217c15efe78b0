//! Engines: what runs a model. A seam of one trait; the cache, the batcher and the servers see nothing else.

pub mod ort;
mod signature;

use std::fmt;
use std::marker::PhantomData;

use smallvec::SmallVec;

pub use signature::{Argument, Dim, Signature, ValueType};

use crate::error::Result;
use crate::tensor::{Owner, Tensor, TensorView, Value};
use ort::RunOptions;

/// What an engine takes for one input.
#[derive(Debug)]
pub enum Input {
    /// A tensor of fixed-size elements in the caller's memory.
    Tensor(TensorView),
    /// Anything else.
    Value(Box<Value>),
}

/// A value for the input with this index in [`Signature::inputs`].
#[derive(Debug)]
pub struct Feed {
    /// Which input.
    pub index: usize,
    /// Its value.
    pub value: Input,
}

/// What one call feeds and asks for.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The inputs; each index at most once.
    pub feeds: &'a [Feed],
    /// Indices into [`Signature::outputs`], in the order wanted.
    pub fetches: &'a [usize],
    /// Options for this run alone.
    pub options: Option<&'a RunOptions>,
}

impl Call<'_> {
    /// The elements of all tensors fed; `usize::MAX` where a value is no plain tensor, since its size says little.
    #[inline]
    #[must_use]
    pub fn elements(&self) -> usize {
        self.feeds.iter().fold(0, |total: usize, feed| match &feed.value {
            Input::Tensor(view) => total.saturating_add(view.elements()),
            Input::Value(_) => usize::MAX,
        })
    }
}

/// One output of a call.
#[derive(Debug)]
pub enum Output {
    /// A value that owns its memory.
    Owned(Value),
    /// A small tensor in memory of the engine, which lends it for as long as the [`Lease`] lives.
    Lent(TensorView),
}

/// Keeps what an engine has lent from being overwritten by its next run.
#[derive(Debug, Default)]
pub struct Lease<'e> {
    held: Option<Owner>,
    engine: PhantomData<&'e ()>,
}

/// The outputs of one call, in the order asked for.
#[derive(Debug, Default)]
pub struct Outputs<'e> {
    values: SmallVec<[Output; 2]>,
    lease: Lease<'e>,
}

impl<'e> Outputs<'e> {
    /// Adds the next output.
    #[inline]
    pub(crate) fn push(&mut self, output: Output) {
        self.values.push(output);
    }

    /// Keeps the memory of the lent outputs as it is until the lease is dropped.
    #[inline]
    pub(crate) fn hold(&mut self, owner: Owner) {
        self.lease.held = Some(owner);
    }

    /// The tensors among the outputs, `None` for anything else.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = Option<&TensorView>> {
        self.values.iter().map(|output| match output {
            Output::Owned(Value::Tensor(tensor)) => Some(tensor.view()),
            Output::Lent(view) => Some(view),
            Output::Owned(_) => None,
        })
    }

    /// How many there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The outputs, and what keeps the lent ones as they are.
    #[inline]
    #[must_use]
    pub fn into_parts(self) -> (SmallVec<[Output; 2]>, Lease<'e>) {
        (self.values, self.lease)
    }

    /// The outputs as values that own their memory.
    #[must_use]
    pub fn into_values(self) -> Vec<Value> {
        let (values, _lease) = self.into_parts();
        let owned = |output| match output {
            Output::Owned(value) => value,
            Output::Lent(view) => Value::Tensor(Tensor::copied(&view)),
        };
        values.into_iter().map(owned).collect()
    }
}

/// Something that runs a model, from many threads at once.
pub trait Engine: Send + Sync + fmt::Debug {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// Runs the model and gives the outputs, none of which shares memory with an input.
    fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>>;

    /// Whether a run is a straight line of known operators on the calling thread, so that its time depends on the
    /// input's size alone and nobody can be waited for.
    fn is_straight_line(&self) -> bool;

    /// The name that `engine=` uses.
    fn name(&self) -> &'static str;
}
