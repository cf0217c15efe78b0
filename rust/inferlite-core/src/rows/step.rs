//! One node of a graph and what is known of its inputs, as the rules of the analysis ask for them.

use std::collections::HashSet;

use super::facts::{Content, Extent, Extents, Fact, Halt, UNFIT, axis_of};
use crate::graph::{Attribute, Function, ModelFile, Node, Weight};

/// A node about to be followed.
pub(super) struct Step<'a> {
    node: &'a Node,
    facts: Vec<Option<&'a Fact>>,
    /// What all nodes of a file have in common.
    setting: &'a Setting,
}

/// What the operators of a file mean.
#[derive(Debug, Default)]
pub(super) struct Setting {
    /// The version of ONNX's operators.
    pub(super) opset: i64,
    /// The domains and names of the model's own functions.
    pub(super) functions: HashSet<(String, String)>,
}

/// Whether a domain is that of ONNX's operators.
pub(super) fn is_onnx(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

impl Setting {
    pub(super) fn of(file: &ModelFile) -> Self {
        let own = |function: &Function| (function.domain.clone(), function.name.clone());
        let opset = file.opset_import.iter().find(|set| is_onnx(&set.domain));
        Self {
            opset: opset.map_or(1, |set| set.version),
            functions: file.functions.iter().map(own).collect(),
        }
    }

    fn is_function(&self, node: &Node) -> bool {
        !self.functions.is_empty()
            && self.functions.iter().any(|(domain, name)| {
                *name == node.op_type && (*domain == node.domain || is_onnx(domain) && is_onnx(&node.domain))
            })
    }

    /// ONNX's operator of a node; nothing for any other, whatever its name is.
    pub(super) fn operator<'n>(&self, node: &'n Node) -> &'n str {
        if is_onnx(&node.domain) && !self.is_function(node) {
            &node.op_type
        } else {
            ""
        }
    }
}

/// A reason, and the node that gives it.
pub(super) fn named(node: &Node, reason: &str) -> String {
    format!("node `{}` ({}) {reason}", node.name, node.operator())
}

/// A range of indices that a `Slice` takes.
pub(super) struct Range {
    pub(super) axis: usize,
    pub(super) start: Extent,
    pub(super) end: Extent,
    pub(super) step: i64,
}

impl<'a> Step<'a> {
    pub(super) fn new(node: &'a Node, mut facts: Vec<Option<&'a Fact>>, setting: &'a Setting) -> Self {
        if setting.operator(node) == "CastLike" {
            // The other input lends its type alone.
            facts.truncate(1);
        }
        Self { node, facts, setting }
    }

    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    /// ONNX's operator that this is; nothing for those of other domains.
    pub(super) fn operator(&self) -> &'a str {
        self.setting.operator(self.node)
    }

    /// The domain and the name of the operator, unless it is one of the model's own functions.
    pub(super) fn qualified(&self) -> Option<(&'a str, &'a str)> {
        let domain = if is_onnx(&self.node.domain) {
            ""
        } else {
            &self.node.domain
        };
        (!self.setting.is_function(self.node)).then_some((domain, &self.node.op_type))
    }

    /// A reason, and the node that gives it.
    pub(super) fn named(&self, reason: &str) -> String {
        named(self.node, reason)
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
        self.setting.opset >= opset
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

    /// The same as axes of a value of this rank, each once: an axis may be given from both ends.
    pub(super) fn axes(&self, name: &str, position: usize, rank: usize) -> Result<Option<Vec<usize>>, Halt> {
        let Some(given) = self.parameters(name, position)? else {
            return Ok(None);
        };
        let mut axes: Vec<usize> = given
            .into_iter()
            .map(|axis| axis_of(axis, rank))
            .collect::<Result<_, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        Ok(Some(axes))
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
            return Err(UNFIT);
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
