//! One node of a graph and what is known of its inputs, as the rules of the analysis ask for them.

use super::facts::{Content, Extent, Extents, Fact, Halt, axis_of};
use crate::graph::{Attribute, Node, Weight};

/// A node about to be followed.
pub(super) struct Step<'a> {
    node: &'a Node,
    facts: Vec<Option<&'a Fact>>,
    /// The version of ONNX's operators.
    opset: i64,
}

/// A range of indices that a `Slice` takes.
pub(super) struct Range {
    pub(super) axis: usize,
    pub(super) start: Extent,
    pub(super) end: Extent,
    pub(super) step: i64,
}

impl<'a> Step<'a> {
    pub(super) fn new(node: &'a Node, facts: Vec<Option<&'a Fact>>, opset: i64) -> Self {
        Self { node, facts, opset }
    }

    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    pub(super) fn operator(&self) -> &'a str {
        &self.node.op_type
    }

    pub(super) fn outputs(&self) -> usize {
        self.node.output.len()
    }

    /// The inputs that are fed.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &'a Fact> {
        self.facts.iter().copied().flatten()
    }

    pub(super) fn input(&self, position: usize) -> Option<&'a Fact> {
        self.facts.get(position).copied().flatten()
    }

    pub(super) fn content(&self, position: usize) -> Option<&'a Content> {
        self.input(position)?.content.as_ref()
    }

    pub(super) fn shape(&self, position: usize) -> Option<&'a Extents> {
        self.input(position)?.shape.as_ref()
    }

    pub(super) fn rank(&self, position: usize) -> Option<usize> {
        self.shape(position).map(smallvec::SmallVec::len)
    }

    /// Whether the operators are of this version of ONNX or a later one.
    pub(super) fn is_since(&self, opset: i64) -> bool {
        self.opset >= opset
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        self.node.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn integer(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    pub(super) fn integers(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|attribute| attribute.ints.clone())
    }

    pub(super) fn text(&self, name: &str) -> &'a [u8] {
        self.attribute(name).map_or(&[], |attribute| attribute.s.as_slice())
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a Weight> {
        self.attribute(name)?.t.as_ref()
    }

    /// Integers that are an attribute in early versions of an operator and an input in later ones; `None` where they are
    /// given and not known.
    pub(super) fn parameters(&self, name: &str, position: usize) -> Result<Option<Vec<i64>>, Halt> {
        match (self.integers(name), self.input(position)) {
            (Some(numbers), _) => Ok(Some(numbers)),
            (None, None) => Ok(None),
            (None, Some(fact)) => match fact.numbers() {
                Some(numbers) => Ok(Some(numbers)),
                None => Err(Halt::Unclear("takes axes or sizes that are not known before the run")),
            },
        }
    }

    /// The same as axes of a value of this rank.
    pub(super) fn axes(&self, name: &str, position: usize, rank: usize) -> Result<Option<Vec<usize>>, Halt> {
        let given = self.parameters(name, position)?;
        given
            .map(|axes| axes.into_iter().map(|axis| axis_of(axis, rank)).collect())
            .transpose()
    }

    /// The axis of an attribute.
    pub(super) fn axis(&self, default: i64, rank: usize) -> Result<usize, Halt> {
        axis_of(self.integer("axis", default), rank)
    }

    /// What a `Slice` takes; `None` where that is not known.
    pub(super) fn slices(&self, rank: usize) -> Result<Option<Vec<Range>>, Halt> {
        let list = |name: &str, position: usize| {
            self.integers(name)
                .map(|numbers| numbers.into_iter().map(Extent::Number).collect::<Extents>())
                .or_else(|| self.content(position).map(|content| content.items.clone()))
        };
        let (Some(starts), Some(ends)) = (list("starts", 1), list("ends", 2)) else {
            return Ok(None);
        };
        let is_given = |position| self.input(position).is_some();
        let counted = || (0..starts.len()).map(|axis| i64::try_from(axis).map_or(Extent::Other, Extent::Number));
        let chosen: Option<Extents> = match list("axes", 3) {
            None if !is_given(3) => Some(counted().collect()),
            axes => axes,
        };
        let steps: Option<Extents> = match list("steps", 4) {
            None if !is_given(4) => Some(Extents::from_elem(Extent::Number(1), starts.len())),
            steps => steps,
        };
        let (Some(chosen), Some(steps)) = (chosen, steps) else {
            return Ok(None);
        };
        if [ends.len(), chosen.len(), steps.len()]
            .iter()
            .any(|&length| length != starts.len())
        {
            return Err(Halt::Impossible);
        }
        let mut ranges = Vec::new();
        for position in 0..starts.len() {
            let (Some(axis), Some(step)) = (chosen[position].number(), steps[position].number()) else {
                return Ok(None);
            };
            ranges.push(Range {
                axis: axis_of(axis, rank)?,
                start: starts[position],
                end: ends[position],
                step,
            });
        }
        Ok(Some(ranges))
    }
}
