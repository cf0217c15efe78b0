#![expect(unsafe_code, reason = "describes tensors that the batch owns")]
//! From the inputs of several calls to those of one run, and from its outputs to theirs.

use std::sync::Arc;

use crate::question::Question;
use crate::rows::{Layout, Lengths, Piece, Sizes, extent, join, part};
use crate::runtime::ort::RunOptions;
use crate::runtime::{Call, Feed, Input, Outputs};
use crate::tensor::Value;

/// The inputs of one run for several calls of one kind.
#[derive(Debug)]
pub(super) struct Gathered<'q> {
    feeds: Vec<Feed>,
    fetches: &'q [usize],
    /// What the feeds look at.
    values: Vec<Arc<Value>>,
    /// The lengths of every call, and what they have become.
    lengths: Vec<Lengths>,
    sizes: Sizes,
    layout: &'q Layout,
}

impl<'q> Gathered<'q> {
    /// Puts the rows of calls one after the other; `None` if they are of different kinds after all.
    ///
    /// The result looks at inputs of the first question, which has to outlive its run.
    pub(super) fn of(questions: &[&'q Question], layout: &'q Layout) -> Option<Self> {
        let first = questions.first()?.call(None);
        let lengths = questions
            .iter()
            .map(|asked| layout.padding.of_call(asked.call(None).feeds))
            .collect::<Option<Vec<_>>>()?;
        let sizes = layout.padding.sizes(&lengths);
        let mut gathered = Self {
            feeds: Vec::with_capacity(first.feeds.len()),
            fetches: first.fetches,
            values: Vec::with_capacity(first.feeds.len()),
            lengths,
            sizes,
            layout,
        };
        for feed in first.feeds {
            let value = match layout.axes.inputs[feed.index] {
                // Equal in all calls of the kind.
                None => match &feed.value {
                    // SAFETY: the question keeps what it feeds, and is borrowed for as long as this lives.
                    Input::Tensor(view) => Input::Tensor(unsafe { view.duplicate() }),
                    Input::Value(value) => Input::Value(value.clone()),
                },
                Some(axis) => {
                    let pieces: Option<Vec<Piece<'_>>> = questions.iter().map(|asked| fed(asked, feed.index)).collect();
                    let joined = Arc::new(gathered.joined(feed.index, &pieces?, axis)?);
                    let input = match &*joined {
                        // SAFETY: the bytes are on the heap, nobody writes to them, and they are kept beside the feeds.
                        Value::Tensor(tensor) => Input::Tensor(unsafe { tensor.view().duplicate() }),
                        _ => Input::Value(joined.clone()),
                    };
                    gathered.values.push(joined);
                    input
                }
            };
            let index = feed.index;
            gathered.feeds.push(Feed { index, value });
        }
        Some(gathered)
    }

    /// The rows of all calls for one input, filled up where they differ in a length.
    fn joined(&self, index: usize, pieces: &[Piece<'_>], axis: usize) -> Option<Value> {
        if !self.layout.padding.fills(index, &self.sizes) {
            return join(pieces, axis);
        }
        let filled = pieces
            .iter()
            .map(|piece| self.layout.padding.fill(index, *piece, &self.sizes));
        let filled = filled.collect::<Option<Vec<Value>>>()?;
        let pieces: Vec<Piece<'_>> = filled.iter().filter_map(Piece::of).collect();
        join(&pieces, axis)
    }

    pub(super) fn call<'a>(&'a self, options: Option<&'a RunOptions>) -> Call<'a> {
        Call {
            feeds: &self.feeds,
            fetches: self.fetches,
            options,
        }
    }

    /// Whether every output has as many rows as were asked for, and follows the lengths that it is said to follow.
    pub(super) fn can_be_split(&self, outputs: &Outputs<'_>, rows: usize) -> bool {
        let Layout { axes, padding } = self.layout;
        outputs.len() == self.fetches.len()
            && std::iter::zip(outputs.pieces(), self.fetches).all(|(piece, &fetch)| {
                let placed = piece.zip(axes.outputs[fetch]);
                placed.is_some_and(|(piece, axis)| {
                    extent(piece, axis) == Some(rows) && padding.fits(fetch, piece, &self.sizes)
                })
            })
    }

    /// The outputs of each call, of which this many rows are its own; for outputs that can be split.
    pub(super) fn split(&self, outputs: &Outputs<'_>, rows: &[usize]) -> impl Iterator<Item = Outputs<'static>> {
        let Layout { axes, padding } = self.layout;
        let mut start = 0;
        let of_call = move |(&count, lengths): (&usize, &Lengths)| {
            let values = std::iter::zip(outputs.pieces(), self.fetches).filter_map(|(piece, &fetch)| {
                let (piece, axis) = piece.zip(axes.outputs[fetch])?;
                let own = part(piece, axis, start..start + count);
                Some(padding.cut(fetch, own, lengths, &self.sizes))
            });
            let values = Outputs::of_values(values);
            start += count;
            values
        };
        std::iter::zip(rows, &self.lengths).map(of_call)
    }
}

fn fed(question: &Question, index: usize) -> Option<Piece<'_>> {
    let call = question.call(None);
    let feed = call.feeds.iter().find(|feed| feed.index == index)?;
    Piece::fed(&feed.value)
}
