#![expect(unsafe_code, reason = "describes tensors that the batch owns")]
//! From the inputs of several calls to those of one run, and from its outputs to theirs.

use std::sync::Arc;

use crate::question::Question;
use crate::rows::{BatchAxes, Piece, extent, join, part};
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
}

impl<'q> Gathered<'q> {
    /// Puts the rows of calls one after the other; `None` if they are of different kinds after all.
    ///
    /// The result looks at inputs of the first question, which has to outlive its run.
    pub(super) fn of(questions: &[&'q Question], layout: &BatchAxes) -> Option<Self> {
        let first = questions.first()?.call(None);
        let mut gathered = Self {
            feeds: Vec::with_capacity(first.feeds.len()),
            fetches: first.fetches,
            values: Vec::with_capacity(first.feeds.len()),
        };
        for feed in first.feeds {
            let value = match layout.inputs[feed.index] {
                // Equal in all calls of the kind.
                None => match &feed.value {
                    // SAFETY: the question keeps what it feeds, and is borrowed for as long as this lives.
                    Input::Tensor(view) => Input::Tensor(unsafe { view.duplicate() }),
                    Input::Value(value) => Input::Value(value.clone()),
                },
                Some(axis) => {
                    let pieces: Option<Vec<Piece<'_>>> = questions.iter().map(|asked| fed(asked, feed.index)).collect();
                    let joined = Arc::new(join(&pieces?, axis)?);
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

    pub(super) fn call<'a>(&'a self, options: Option<&'a RunOptions>) -> Call<'a> {
        Call {
            feeds: &self.feeds,
            fetches: self.fetches,
            options,
        }
    }
}

fn fed(question: &Question, index: usize) -> Option<Piece<'_>> {
    let call = question.call(None);
    let feed = call.feeds.iter().find(|feed| feed.index == index)?;
    Piece::fed(&feed.value)
}

/// Whether every output has as many rows as were asked for.
pub(super) fn can_be_split(outputs: &Outputs<'_>, fetches: &[usize], layout: &BatchAxes, rows: usize) -> bool {
    outputs.len() == fetches.len()
        && std::iter::zip(outputs.pieces(), fetches).all(|(piece, &fetch)| {
            let axis = layout.outputs[fetch];
            piece.zip(axis).and_then(|(piece, axis)| extent(piece, axis)) == Some(rows)
        })
}

/// The outputs of each call, of which this many rows are its own; for outputs that can be split.
pub(super) fn split(outputs: &Outputs<'_>, fetches: &[usize], layout: &BatchAxes, rows: &[usize]) -> Vec<Vec<Value>> {
    let mut start = 0;
    let of_call = |count: usize| {
        let values = std::iter::zip(outputs.pieces(), fetches).filter_map(|(piece, &fetch)| {
            let taken = piece.zip(layout.outputs[fetch]);
            taken.map(|(piece, axis)| part(piece, axis, start..start + count))
        });
        let values = values.collect();
        start += count;
        values
    };
    rows.iter().copied().map(of_call).collect()
}
