//! Engines: what runs a model. A seam of one trait; the cache, the batcher and the servers see nothing else.

pub mod ort;
mod owned;
mod signature;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use smallvec::SmallVec;

pub use owned::OwnedFeeds;
pub use signature::{Argument, Dim, Signature, ValueType};

use crate::cache::{self, Entry, Found};
use crate::error::Result;
use crate::pace::Workload;
use crate::rows::Piece;
use crate::tensor::{Frozen, Owner, Tensor, TensorView, Value};
use ort::RunOptions;

/// What an engine takes for one input.
#[derive(Debug)]
pub enum Input {
    /// A tensor of fixed-size elements in the caller's memory.
    Tensor(TensorView),
    /// Anything else.
    Value(Arc<Value>),
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
    /// The bytes of all tensors fed.
    #[inline]
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let byte_len = |feed: &Feed| match &feed.value {
            Input::Tensor(view) => view.byte_len(),
            Input::Value(_) => 0,
        };
        self.feeds.iter().map(byte_len).sum()
    }

    /// The shapes of all inputs; `None` where a value is no plain tensor, since its shape says little.
    #[inline]
    #[must_use]
    pub fn workload(&self) -> Option<Workload> {
        let shapes = self.feeds.iter().map(|feed| match &feed.value {
            Input::Tensor(view) => Some((feed.index, view.shape())),
            Input::Value(_) => None,
        });
        Workload::of(shapes)
    }
}

/// One output of a call.
#[derive(Debug)]
pub enum Output<'o> {
    /// A value that owns its memory.
    Owned(Value),
    /// A small tensor in memory of the engine, which the next run overwrites once the [`Outputs`] are gone.
    Lent(&'o TensorView),
}

/// One output, to look at.
#[derive(Debug)]
pub enum Kept<'o> {
    /// A tensor of fixed-size elements.
    Tensor(&'o TensorView),
    /// Anything else.
    Other(&'o Value),
}

#[derive(Debug)]
enum Held {
    Owned(Value),
    Lent(TensorView),
}

/// The outputs of one call, in the order asked for, as values that own their memory.
pub type Values = SmallVec<[Value; 1]>;

/// The outputs of one call, in the order asked for.
#[derive(Debug, Default)]
pub struct Outputs<'e> {
    values: SmallVec<[Held; 1]>,
    /// Keeps what the engine has lent from being overwritten by its next run.
    lease: Option<Owner>,
    engine: PhantomData<&'e ()>,
}

impl Outputs<'_> {
    /// Adds a value as the next output.
    #[inline]
    pub(crate) fn push(&mut self, value: Value) {
        self.values.push(Held::Owned(value));
    }

    /// Adds a tensor that the engine lends as the next output; its memory must stay as it is while these outputs live.
    #[inline]
    pub(crate) fn lend(&mut self, view: TensorView) {
        self.values.push(Held::Lent(view));
    }

    /// Keeps the memory of the lent outputs as it is until these outputs are dropped.
    #[inline]
    pub(crate) fn hold(&mut self, owner: Owner) {
        self.lease = Some(owner);
    }

    /// The tensors among the outputs, `None` for anything else.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = Option<&TensorView>> {
        self.values.iter().map(|value| match value {
            Held::Owned(Value::Tensor(tensor)) => Some(tensor.view()),
            Held::Lent(view) => Some(view),
            Held::Owned(_) => None,
        })
    }

    /// The outputs that can be taken apart into rows, `None` for anything else.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Option<Piece<'_>>> {
        self.values.iter().map(|value| match value {
            Held::Owned(value) => Piece::of(value),
            Held::Lent(view) => Some(Piece::Tensor(view)),
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

    /// Takes the output at a position, which must be one, once; [`Value::Absent`] is left behind.
    #[inline]
    pub fn take(&mut self, position: usize) -> Output<'_> {
        match &mut self.values[position] {
            Held::Owned(value) => Output::Owned(std::mem::replace(value, Value::Absent)),
            Held::Lent(view) => Output::Lent(view),
        }
    }

    /// Outputs that own their memory.
    #[must_use]
    pub fn of_values(values: impl IntoIterator<Item = Value>) -> Self {
        Self {
            values: values.into_iter().map(Held::Owned).collect(),
            ..Self::default()
        }
    }

    /// The outputs in order, to look at.
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> + Clone {
        self.values.iter().map(|value| match value {
            Held::Owned(Value::Tensor(tensor)) => Kept::Tensor(tensor.view()),
            Held::Owned(other) => Kept::Other(other),
            Held::Lent(view) => Kept::Tensor(view),
        })
    }

    /// Copies of the outputs, each in memory of its own.
    pub(crate) fn copied(&self) -> Values {
        self.values
            .iter()
            .map(|value| match value {
                Held::Owned(value) => cache::copied(value),
                Held::Lent(view) => Value::Tensor(Tensor::copied(view)),
            })
            .collect()
    }

    /// The outputs as values that own their memory.
    #[must_use]
    pub fn into_values(self) -> Values {
        let owned = |held| match held {
            Held::Owned(value) => value,
            Held::Lent(view) => Value::Tensor(Tensor::copied(&view)),
        };
        self.values.into_iter().map(owned).collect()
    }
}

/// What a call is answered with.
#[derive(Debug)]
pub enum Answer<'e> {
    /// What the cache keeps, which callers copy.
    Kept(Arc<Entry>),
    /// What was computed for the call.
    Computed(Outputs<'e>),
}

impl From<Found> for Answer<'static> {
    fn from(found: Found) -> Self {
        match found {
            Found::Entry(entry) => Self::Kept(entry),
            Found::Batch(outputs) => Self::Computed(*outputs),
        }
    }
}

impl Answer<'_> {
    /// The answer in an entry, which is taken out of it if nobody else has it.
    pub(crate) fn of(entry: Arc<Entry>) -> Self {
        match Arc::try_unwrap(entry) {
            Ok(entry) => Self::Computed(Outputs::of_values(entry.into_values())),
            Err(entry) => Self::Kept(entry),
        }
    }

    /// How many outputs there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Kept(entry) => entry.values().len(),
            Self::Computed(outputs) => outputs.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The output at a position, to look at; `None` behind the last.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<Kept<'_>> {
        match self {
            Self::Kept(entry) => match entry.values().get(position)? {
                Value::Tensor(tensor) => Some(Kept::Tensor(tensor.view())),
                other => Some(Kept::Other(other)),
            },
            Self::Computed(outputs) => outputs.kept().nth(position),
        }
    }

    /// Takes the output at a position, which must be one, once.
    #[inline]
    pub fn take(&mut self, position: usize) -> Output<'_> {
        match self {
            Self::Kept(entry) => match &entry.values()[position] {
                Value::Tensor(tensor) => Output::Lent(tensor.view()),
                other => Output::Owned(cache::copied(other)),
            },
            Self::Computed(outputs) => outputs.take(position),
        }
    }
}

/// One output of a call that its caller may only read.
#[derive(Debug)]
pub enum ReadOnly {
    /// A tensor, perhaps in the very memory of the cache.
    Tensor(Frozen),
    /// Anything else, which is the caller's own.
    Other(Value),
}

impl Answer<'_> {
    /// Takes the output at a position, which must be one, once, for a caller who only reads it: nothing kept is copied.
    #[expect(unsafe_code, reason = "shares the memory of an entry")]
    pub fn take_read_only(&mut self, position: usize) -> ReadOnly {
        if let Self::Kept(entry) = &*self
            && let Value::Tensor(tensor) = &entry.values()[position]
        {
            // SAFETY: used through `Frozen` alone, whose owner keeps the entry, and nobody writes to an entry.
            let view = unsafe { tensor.view().duplicate() };
            return ReadOnly::Tensor(Frozen::over(view, Owner::of_shared(entry.clone())));
        }
        match self.take(position) {
            Output::Owned(Value::Tensor(tensor)) => ReadOnly::Tensor(Frozen::new(tensor)),
            Output::Lent(view) => ReadOnly::Tensor(Frozen::new(Tensor::copied(view))),
            Output::Owned(other) => ReadOnly::Other(other),
        }
    }
}

/// Something that runs a model, from many threads at once.
pub trait Engine: Send + Sync + fmt::Debug {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// Runs the model and gives the outputs, none of which shares memory with an input.
    fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>>;

    /// Whether a run is a straight line of known operators on the calling thread, so that its time depends on the
    /// shapes of the inputs alone and nobody can be waited for.
    fn is_straight_line(&self) -> bool;

    /// Options by which one run can be told to end early; `None` where it cannot.
    fn options_to_end(&self) -> Result<Option<RunOptions>> {
        Ok(None)
    }

    /// The name that `engine=` uses.
    fn name(&self) -> &'static str;
}
