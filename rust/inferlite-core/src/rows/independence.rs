//! Follows the rows through a graph, and says whether they stay apart.

use std::collections::{HashMap, HashSet};

use super::axes::BatchAxes;
use super::facts::{Content, Extent, Extents, Fact, Halt, Spread, UNFIT};
use super::step::{Setting, Step, is_onnx, named};
use super::{operators, settled};
use crate::graph::{Attribute, Graph, ModelFile, Node};
use crate::runtime::{Argument, Dim, Signature};

/// Branches that are chosen by something unknown are followed both ways, along so many paths.
const MOST_PATHS: usize = 64;

/// What a graph says of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No row has any influence on another one's outputs.
    Independent,
    /// Rows influence each other: where, and how.
    Refused(String),
    /// That cannot be told from the graph: from where on, and why.
    Unknown(String),
    /// Nor from trial runs of inputs that are made up: they take one branch of several.
    Branches(String),
}

/// Follows the rows on these axes through the graph of a file.
#[must_use]
pub fn analyse(file: &ModelFile, signature: &Signature, axes: &BatchAxes) -> Verdict {
    let Some(graph) = &file.graph else {
        return Verdict::Unknown("there is no graph in its file".to_owned());
    };
    let mut versions = file.opset_import.iter().filter(|set| is_onnx(&set.domain));
    if let Some(first) = versions.next()
        && versions.any(|set| set.version != first.version)
    {
        return Verdict::Unknown("its file names two versions of ONNX's operators".to_owned());
    }
    let mut walk = Walk {
        facts: HashMap::new(),
        setting: Setting::of(file),
        choices: Vec::new(),
        taken: 0,
    };
    let mut unknown = None;
    let mut is_possible = false;
    let mut is_branching = false;
    for _ in 0..MOST_PATHS {
        match walk.path(graph, signature, axes) {
            None => {}
            Some(Verdict::Independent) => is_possible = true,
            Some(refused @ Verdict::Refused(_)) => return refused,
            Some(Verdict::Unknown(reason) | Verdict::Branches(reason)) => unknown = unknown.or(Some(reason)),
        }
        is_branching |= !walk.choices.is_empty();
        if !walk.turns() {
            return match (unknown, is_possible) {
                (Some(reason), _) if is_branching => Verdict::Branches(reason),
                (Some(reason), _) => Verdict::Unknown(reason),
                (None, true) => Verdict::Independent,
                (None, false) => Verdict::Unknown("the shapes in its graph contradict each other".to_owned()),
            };
        }
    }
    Verdict::Branches("its graph has too many branches to follow".to_owned())
}

struct Walk<'g> {
    /// What is known of each value. Names are unique, bodies included.
    facts: HashMap<&'g str, Fact>,
    setting: Setting,
    /// Which way each branch was taken that could go both ways: the first one is `false`.
    choices: Vec<bool>,
    /// How many of them this path has come by.
    taken: usize,
}

impl<'g> Walk<'g> {
    /// Goes from the inputs to the outputs; `None` for a path that no run can take.
    fn path(&mut self, graph: &'g Graph, signature: &Signature, axes: &BatchAxes) -> Option<Verdict> {
        self.facts.clear();
        self.taken = 0;
        self.enter(graph);
        for input in &graph.input {
            let Some(index) = signature.input(&input.name) else {
                continue;
            };
            let fact = input_fact(&signature.inputs[index], axes.inputs[index]);
            self.facts.insert(&input.name, fact);
        }
        self.follow(graph)?;
        let mut verdict = Verdict::Independent;
        for (argument, axis) in std::iter::zip(&signature.outputs, &axes.outputs) {
            match judged(argument, *axis, self.facts.get(argument.name.as_str())) {
                Verdict::Independent => {}
                refused @ Verdict::Refused(_) => return Some(refused),
                unknown => verdict = unknown,
            }
        }
        Some(verdict)
    }

    /// Prepares the next path; false if there is none.
    fn turns(&mut self) -> bool {
        while self.choices.last() == Some(&true) {
            self.choices.pop();
        }
        match self.choices.last_mut() {
            Some(choice) => {
                *choice = true;
                true
            }
            None => false,
        }
    }

    fn enter(&mut self, graph: &'g Graph) {
        for weight in &graph.initializer {
            let shape = weight.dims.iter().copied().map(Extent::Number).collect();
            let fact = Content::of_weight(weight).map_or_else(|| Fact::free(Some(shape), false), Fact::known);
            self.facts.insert(&weight.name, fact);
        }
    }

    fn follow(&mut self, graph: &'g Graph) -> Option<()> {
        for node in needed(graph) {
            let facts = if self.setting.operator(node) == "If" {
                self.branch(node)?
            } else {
                match self.outcome(node) {
                    Ok(facts) => facts,
                    Err(Halt::Impossible) => return None,
                    Err(halt) => blamed(node, &halt),
                }
            };
            // An output without a name is one that nobody wants, and an input without one is left out.
            let named = std::iter::zip(&node.output, facts).filter(|(name, _)| !name.is_empty());
            self.facts.extend(named.map(|(name, fact)| (name.as_str(), fact)));
        }
        Some(())
    }

    fn outcome(&self, node: &Node) -> Result<Vec<Fact>, Halt> {
        let mut facts = Vec::with_capacity(node.input.len());
        for name in &node.input {
            facts.push(match self.facts.get(name.as_str()) {
                None if name.is_empty() => None,
                None => return Err(Halt::Unclear("takes a value that the analysis does not know")),
                Some(fact) => Some(fact),
            });
        }
        let step = Step::new(node, facts, &self.setting);
        let is_measured = matches!(step.operator(), "Shape" | "Size");
        let holds_rows = |fact: &&Fact| !matches!(fact.spread, Spread::Free);
        if node
            .attribute
            .iter()
            .any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
        {
            let drives = |is_driven: fn(&Fact) -> bool| {
                step.operator() == "Loop" && [0, 1].iter().any(|&at| step.input(at).is_some_and(is_driven))
            };
            return Err(
                if drives(|fact| matches!(fact.spread, Spread::Rows { .. } | Spread::Mixed(_))) {
                    Halt::Mixes("runs as often as the rows say")
                } else if drives(|fact| fact.spread == Spread::Free && fact.counts) {
                    Halt::Mixes("runs as often as there are rows")
                } else {
                    Halt::Unclear("has a body, which the analysis does not follow")
                },
            );
        }
        if is_measured && step.shape(0).is_some() || !step.inputs().any(|fact| holds_rows(&fact)) {
            return settled::outcome(&step);
        }
        for is_mixed in [true, false] {
            let spoilt = step.inputs().find(|fact| match fact.spread {
                Spread::Mixed(_) => is_mixed,
                Spread::Unclear(_) => !is_mixed,
                Spread::Free | Spread::Rows { .. } => false,
            });
            if let Some(fact) = spoilt {
                // Whatever the rows are here, they meet a number that is another one in another batch.
                let is_counted = |position: usize| {
                    let fact = step.input(position);
                    let counts = fact.is_some_and(|fact| fact.spread == Spread::Free && fact.counts);
                    counts && !operators::is_parameter(&step, position)
                };
                if !is_mixed && operators::kind(&step).is_some() && (0..node.input.len()).any(is_counted) {
                    return Err(operators::COUNTS);
                }
                return Ok(vec![Fact::spread_only(fact.spread.clone()); node.output.len()]);
            }
        }
        operators::outcome(&step)
    }

    /// Goes on in the body of an `If`: in the one that is chosen for certain, or in both, one path each.
    fn branch(&mut self, node: &'g Node) -> Option<Vec<Fact>> {
        let condition = node.input.first().and_then(|name| self.facts.get(name.as_str()));
        let is_chosen = match condition {
            None => {
                return Some(blamed(
                    node,
                    &Halt::Unclear("takes a value that the analysis does not know"),
                ));
            }
            Some(fact) => match &fact.spread {
                Spread::Rows { .. } => return Some(blamed(node, &Halt::Mixes("chooses a branch by the rows"))),
                spread @ (Spread::Mixed(_) | Spread::Unclear(_)) => {
                    return Some(vec![Fact::spread_only(spread.clone()); node.output.len()]);
                }
                Spread::Free => {
                    let numbers = fact.numbers();
                    let is_chosen = numbers.and_then(|numbers| numbers.first().map(|&number| number != 0));
                    if is_chosen.is_none() && fact.counts {
                        return Some(blamed(node, &Halt::Mixes("chooses a branch by the number of rows")));
                    }
                    is_chosen
                }
            },
        };
        let is_chosen = is_chosen.unwrap_or_else(|| {
            if self.taken == self.choices.len() {
                self.choices.push(false);
            }
            self.taken += 1;
            self.choices[self.taken - 1]
        });
        let name = if is_chosen { "then_branch" } else { "else_branch" };
        let is_it = |attribute: &&Attribute| attribute.name == name;
        let Some(body) = node.attribute.iter().find(is_it).and_then(|branch| branch.g.as_ref()) else {
            return Some(blamed(node, &UNFIT));
        };
        self.enter(body);
        self.follow(body)?;
        let facts = body.output.iter().map(|output| {
            let fact = self.facts.get(output.name.as_str()).cloned();
            fact.unwrap_or_else(|| Fact::spread_only(Spread::Unclear(named(node, "gives a value that is not there"))))
        });
        Some(facts.collect())
    }
}

/// The nodes that the outputs of a graph depend on: what the others do is nobody's concern.
fn needed(graph: &Graph) -> Vec<&Node> {
    let mut wanted: HashSet<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let mut nodes: Vec<&Node> = Vec::new();
    for node in graph.node.iter().rev() {
        if node
            .output
            .iter()
            .any(|name| !name.is_empty() && wanted.contains(name.as_str()))
        {
            nodes.push(node);
            want_inputs(node, &mut wanted);
        }
    }
    nodes.reverse();
    nodes
}

/// What a node takes, and what its bodies take from outside: too much does no harm.
fn want_inputs<'g>(node: &'g Node, wanted: &mut HashSet<&'g str>) {
    wanted.extend(node.input.iter().map(String::as_str));
    for attribute in &node.attribute {
        for body in attribute.g.iter().chain(&attribute.graphs) {
            wanted.extend(body.output.iter().map(|output| output.name.as_str()));
            for inner in &body.node {
                want_inputs(inner, wanted);
            }
        }
    }
}

fn blamed(node: &Node, halt: &Halt) -> Vec<Fact> {
    let spread = match halt {
        Halt::Mixes(reason) => Spread::Mixed(named(node, reason)),
        Halt::Unclear(reason) => Spread::Unclear(named(node, reason)),
        Halt::Impossible => Spread::Unclear(named(node, "combines extents that do not fit together")),
    };
    vec![Fact::spread_only(spread); node.output.len()]
}

/// The runtime does not compare extents of one name, so that a name that is the batch's says nothing of another axis.
fn input_fact(argument: &Argument, axis: Option<usize>) -> Fact {
    let shape: Option<Extents> = argument.shape().map(|dims| {
        let extents = dims.iter().enumerate().map(|(position, dim)| match dim {
            _ if axis == Some(position) => Extent::Rows(1),
            Dim::Fixed(extent) => Extent::Number(*extent),
            Dim::Symbol(_) | Dim::Unknown => Extent::Settled,
        });
        extents.collect()
    });
    match (axis, shape) {
        (Some(axis), Some(shape)) => Fact::rows(axis, Some(1), shape),
        (Some(_), None) => Fact::spread_only(Spread::Unclear(format!(
            "input `{}` does not say how many axes it has",
            argument.name
        ))),
        // The runtime takes any shape where a scalar is declared: calls that feed one are not looked up.
        (None, shape) => Fact::free(shape, false),
    }
}

fn judged(argument: &Argument, wanted: Option<usize>, fact: Option<&Fact>) -> Verdict {
    let name = &argument.name;
    let (Some(wanted), Some(fact)) = (wanted, fact) else {
        return Verdict::Unknown(format!("output `{name}` comes from nowhere"));
    };
    match &fact.spread {
        Spread::Mixed(reason) => Verdict::Refused(reason.clone()),
        Spread::Unclear(reason) => Verdict::Unknown(reason.clone()),
        Spread::Free => Verdict::Refused(format!("output `{name}` has nothing to do with the rows")),
        Spread::Rows { axis, .. } if *axis != wanted => Verdict::Refused(format!(
            "output `{name}` has its rows on axis {axis} and not on {wanted}, which `batch_axes` can say"
        )),
        Spread::Rows { block: Some(1), .. } => Verdict::Independent,
        Spread::Rows { block: Some(block), .. } => Verdict::Refused(format!(
            "output `{name}` has {block} elements on its batch axis for each row"
        )),
        Spread::Rows { block: None, .. } => Verdict::Unknown(format!(
            "output `{name}` may have several elements on its batch axis for each row"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{OperatorSet, ValueInfo, Weight};
    use crate::runtime::ValueType;
    use crate::tensor::Dtype;
    use proptest::prelude::*;

    const OPERATORS: [&str; 44] = [
        "Add",
        "ArgMax",
        "BatchNormalization",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Conv",
        "CumSum",
        "DequantizeLinear",
        "Div",
        "Equal",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "Gemm",
        "If",
        "LayerNormalization",
        "Loop",
        "LSTM",
        "MatMul",
        "MatMulInteger",
        "MaxPool",
        "Mul",
        "Neg",
        "NonZero",
        "OneHot",
        "Pad",
        "Range",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Softmax",
        "Split",
        "Squeeze",
        "Sub",
        "Tile",
        "TopK",
        "Transpose",
        "Where",
    ];
    const NAMES: [&str; 8] = ["x", "z", "w", "c", "a", "b", "y", ""];
    const ATTRIBUTES: [&str; 14] = [
        "axis",
        "axes",
        "perm",
        "keepdims",
        "to",
        "pads",
        "kernel_shape",
        "strides",
        "dilations",
        "split",
        "transA",
        "layout",
        "value_ints",
        "allowzero",
    ];

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![8 => -3..5_i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN), 1 => Just(1_000_000_000)]
    }

    fn node() -> impl Strategy<Value = Node> {
        let name = || proptest::sample::select(&NAMES[..]).prop_map(str::to_owned);
        let attribute = (
            proptest::sample::select(&ATTRIBUTES[..]),
            number(),
            proptest::collection::vec(number(), 0..5),
        )
            .prop_map(|(name, i, ints)| Attribute {
                name: name.into(),
                i,
                ints,
                ..Attribute::default()
            });
        (
            proptest::sample::select(&OPERATORS[..]),
            proptest::collection::vec(name(), 0..5),
            proptest::collection::vec(name(), 0..3),
            proptest::collection::vec(attribute, 0..4),
        )
            .prop_map(|(operator, input, output, attribute)| Node {
                op_type: operator.into(),
                input,
                output,
                attribute,
                ..Node::default()
            })
    }

    fn tensor(name: &str, shape: Vec<Dim>) -> Argument {
        let value_type = ValueType::Tensor {
            dtype: Dtype::Float32,
            shape: Some(shape),
        };
        Argument::new(name.into(), value_type).expect("there is no NUL in it")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_graph_makes_it_panic(
            node in proptest::collection::vec(node(), 0..8),
            numbers in proptest::collection::vec(number(), 0..6),
            extents in proptest::collection::vec(number(), 0..4),
            version in 8..22_i64,
        ) {
            let rows = || Dim::Symbol("n".into());
            let fixed = extents.iter().map(|extent| Dim::Fixed(*extent));
            let signature = Signature {
                inputs: vec![
                    tensor("x", std::iter::once(rows()).chain(fixed).collect()),
                    tensor("z", vec![rows(), Dim::Unknown, Dim::Fixed(3)]),
                ],
                required: 2,
                outputs: vec![tensor("y", vec![rows()])],
            };
            let info = |name: &str| ValueInfo { name: name.into(), r#type: None };
            let count = i64::try_from(numbers.len()).unwrap_or(0);
            let graph = Graph {
                node,
                input: vec![info("x"), info("z")],
                output: vec![info("y")],
                initializer: vec![
                    Weight::of_integers("c", &[count], &numbers),
                    Weight::of_integers("w", &extents, &[]),
                ],
                ..Graph::default()
            };
            let file = ModelFile {
                graph: Some(graph),
                opset_import: vec![OperatorSet { domain: String::new(), version }],
                ..ModelFile::default()
            };
            let axes = BatchAxes::of(&signature, &[]).expect("there are rows");
            let _ = analyse(&file, &signature, &axes);
        }
    }
}
