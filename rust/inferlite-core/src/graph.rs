//! Reading an ONNX file: who made it, which operators it uses, and what the shapes of its inputs settle.
//!
//! Only the fields below are decoded; everything else, the numbers of weights above all, is skipped in place. The field
//! numbers are those of `onnx.proto3`.

use std::collections::{BTreeMap, HashSet};

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

pub use weight::Weight;
pub use zipmap::{Unzipped, ZipMap, unzip};

use crate::error::{Error, ErrorKind, Result};

mod weight;
mod zipmap;

/// A model file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelFile {
    /// The version of the file format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The tool that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// That tool's version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The graph; absent in a file that is no model.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// The operator sets that the graph is written in.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    /// What the producer has noted down.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<Entry>,
    /// Functions that stand for operators.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<Function>,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Entry {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// An operator set and its version.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct OperatorSet {
    /// The domain; empty for ONNX's own.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// The version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A graph, or the body of an operator such as `If`.
#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    /// The nodes.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    /// The graph's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The weights.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Weight>,
    /// The inputs; an initializer among them may be overridden by a call.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    /// The outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// A node: one use of an operator.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// The names of what it takes; empty for an optional input that is left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// The names of what it gives.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// The node's name; may be empty.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator's name.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// The attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    /// The operator's domain; empty for ONNX's own.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// An attribute: integers, text, a tensor, or the graphs that a node may run.
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    /// The attribute's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// An integer.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// Text.
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<Weight>,
    /// One graph.
    #[prost(message, optional, tag = "6")]
    pub g: Option<Graph>,
    /// Integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Several graphs.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<Graph>,
    /// Which of the fields is meant: 2 is the integer.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

/// A function: an operator written as nodes.
#[derive(Clone, PartialEq, Message)]
pub struct Function {
    /// The operator's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The names of what it takes.
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    /// The nodes.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<Node>,
    /// The operator's domain.
    #[prost(string, tag = "10")]
    pub domain: String,
}

/// A named value of a graph.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfo {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// A type; only sequences of tensors are told apart.
#[derive(Clone, PartialEq, Message)]
pub struct Type {
    /// Set for a tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
    /// Set for a sequence.
    #[prost(message, optional, boxed, tag = "4")]
    pub sequence_type: Option<Box<SequenceType>>,
}

/// A tensor's type.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TensorType {
    /// The number of the element type.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
}

/// A sequence's type.
#[derive(Clone, PartialEq, Message)]
pub struct SequenceType {
    /// The type of an element.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<Type>>,
}

/// Operators of ONNX whose outputs get their shapes from the shapes of the inputs and from attributes, never from
/// values, and that give the same answer every time.
const SHAPED_BY_SHAPES: [&str; 90] = [
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "ArrayFeatureExtractor",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "Binarizer",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Cos",
    "Cosh",
    "Div",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "FeatureVectorizer",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "Imputer",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "LinearClassifier",
    "LinearRegressor",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mul",
    "Neg",
    "Normalizer",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "Reciprocal",
    "Relu",
    "Round",
    "SVMClassifier",
    "SVMRegressor",
    "Scaler",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Size",
    "Softmax",
    "Softplus",
    "Sqrt",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "Where",
    "Xor",
];

/// Operators of which the same holds as long as every input but the first is known before the run: axes, sizes, a shape.
const SHAPED_BY_PARAMETERS: [&str; 20] = [
    "ConstantOfShape",
    "Expand",
    "Pad",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Unsqueeze",
];

/// How many nodes the graph of a file has, found without decoding any; `None` for what is no ONNX model.
#[must_use]
pub fn count_nodes(file: &[u8]) -> Option<usize> {
    const GRAPH: u32 = 7;
    const NODE: u32 = 1;
    let mut nodes = None;
    each_message(file, &mut |field, message| {
        if field == GRAPH {
            let mut count = 0;
            each_message(message, &mut |field, _| {
                count += usize::from(field == NODE);
                Some(())
            })?;
            nodes = Some(count);
        }
        Some(())
    })?;
    nodes
}

/// The name of the graph in a model file, found without decoding it; `None` if it has none.
#[must_use]
pub fn graph_name(file: &[u8]) -> Option<String> {
    const GRAPH: u32 = 7;
    const NAME: u32 = 2;
    let mut name = None;
    each_message(file, &mut |field, message| {
        if field == GRAPH {
            each_message(message, &mut |field, text| {
                if field == NAME {
                    name = std::str::from_utf8(text).ok().map(str::to_owned);
                }
                Some(())
            })?;
        }
        Some(())
    })?;
    name
}

/// Shows the number and content of every field that has a length.
fn each_message(mut bytes: &[u8], see: &mut dyn FnMut(u32, &[u8]) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let (field, wire_type) = decode_key(&mut bytes).ok()?;
        if wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            let (message, rest) = bytes.split_at_checked(length)?;
            see(field, message)?;
            bytes = rest;
        } else {
            skip_field(wire_type, field, &mut bytes, DecodeContext::default()).ok()?;
        }
    }
    Some(())
}

impl ModelFile {
    /// Decodes a file; an error if it is no ONNX model.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let model = Self::decode(bytes)
            .map_err(|error| Error::new(ErrorKind::InvalidProtobuf, format!("not an ONNX model: {error}")))?;
        if model.graph.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidProtobuf,
                "not an ONNX model: there is no graph in it",
            ));
        }
        Ok(model)
    }

    /// How often each operator is used, in graphs, their bodies and functions.
    #[must_use]
    pub fn operators(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.visit(&mut |node| *counts.entry(node.operator()).or_default() += 1);
        counts
    }

    /// Whether the shapes of the inputs settle everything but the numbers: the shapes of all values, and with them how
    /// long a run takes.
    ///
    /// False for every model of which that is not plain to see: loops, branches, functions, operators that are not
    /// ONNX's own, random numbers, shapes that are computed from values.
    #[must_use]
    pub fn is_settled_by_shapes(&self) -> bool {
        let Some(graph) = &self.graph else { return false };
        if !self.functions.is_empty() {
            return false;
        }
        // What is known as soon as the shapes of the inputs are.
        let mut known: HashSet<&str> = graph.initializer.iter().map(|weight| weight.name.as_str()).collect();
        for input in &graph.input {
            known.remove(input.name.as_str());
        }
        known.insert("");
        // Nodes come in the order in which they run.
        graph.node.iter().all(|node| {
            let operator = node.op_type.as_str();
            let is_known = |name: &String| known.contains(name.as_str());
            let is_onnx = matches!(node.domain.as_str(), "" | "ai.onnx" | "ai.onnx.ml");
            // The only input of this one is a shape.
            let first = usize::from(operator != "ConstantOfShape");
            let is_settled = SHAPED_BY_SHAPES.binary_search(&operator).is_ok()
                || (SHAPED_BY_PARAMETERS.binary_search(&operator).is_ok()
                    && node.input.iter().skip(first).all(is_known));
            if matches!(operator, "Shape" | "Size") || node.input.iter().all(is_known) {
                known.extend(node.output.iter().map(String::as_str));
            }
            is_onnx && is_settled
        })
    }

    /// The first node, in graphs, their bodies and functions, that may answer the same question in another way; as text.
    ///
    /// An operator of a domain that is neither ONNX's nor onnxruntime's own may, unless the model itself says what it
    /// does; so may a Dropout that can be told to train.
    #[must_use]
    pub fn random_node(&self) -> Option<String> {
        let mut found = None;
        let mut falsehoods = None;
        self.visit(&mut |node| {
            let mut trains = |input: &str| !falsehoods.get_or_insert_with(|| self.falsehoods()).contains(input);
            if found.is_none() && self.may_be_random(node, &mut trains) {
                found = Some(format!("node `{}` ({})", node.name, node.operator()));
            }
        });
        found
    }

    fn may_be_random(&self, node: &Node, trains: &mut dyn FnMut(&str) -> bool) -> bool {
        let operator = node.op_type.as_str();
        let is_function = |function: &Function| function.name == operator && function.domain == node.domain;
        if self.functions.iter().any(is_function) {
            // Its nodes are looked at by themselves.
            return false;
        }
        let mut can_train = || {
            let training_mode = node.input.get(2).filter(|input| !input.is_empty());
            operator == "Dropout" && training_mode.is_some_and(|input| trains(input))
        };
        !KNOWN_DOMAINS.contains(&node.domain.as_str()) || RANDOM.contains(&operator) || can_train()
    }

    /// The names that are a constant false, and nothing else in any graph or function.
    fn falsehoods(&self) -> HashSet<String> {
        let (mut constant, mut other) = (HashSet::new(), HashSet::new());
        let mut define = |name: &str, is_false: bool| {
            let names = if is_false { &mut constant } else { &mut other };
            names.insert(name.to_owned());
        };
        let graphs = self.graph.iter();
        graphs.for_each(|graph| graph.define_names(&mut define));
        for function in &self.functions {
            function.input.iter().for_each(|name| define(name, false));
            define_outputs(&function.node, &mut define);
        }
        &constant - &other
    }

    fn visit(&self, see: &mut dyn FnMut(&Node)) {
        if let Some(graph) = &self.graph {
            visit_nodes(&graph.node, see);
        }
        for function in &self.functions {
            visit_nodes(&function.node, see);
        }
    }
}

impl Node {
    /// The operator, with its domain if it is not ONNX's own.
    pub(crate) fn operator(&self) -> String {
        if self.domain.is_empty() {
            self.op_type.clone()
        } else {
            format!("{}::{}", self.domain, self.op_type)
        }
    }
}

/// The domains of ONNX and onnxruntime, whose random operators are known.
const KNOWN_DOMAINS: [&str; 7] = [
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
    "ai.onnx.preview",
];

/// Operators that draw random numbers.
const RANDOM: [&str; 10] = [
    "Bernoulli",
    "BiasDropout",
    "BitmaskBiasDropout",
    "BitmaskDropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Sampling",
];

// prost refuses messages nested deeper than 100, so this recursion is bounded.
fn visit_nodes(nodes: &[Node], see: &mut dyn FnMut(&Node)) {
    for node in nodes {
        see(node);
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                visit_nodes(&graph.node, see);
            }
        }
    }
}

impl Graph {
    /// Says of every name in it and its bodies whether it is a constant false there.
    fn define_names(&self, define: &mut dyn FnMut(&str, bool)) {
        for input in &self.input {
            define(&input.name, false);
        }
        for weight in &self.initializer {
            define(&weight.name, weight.is_false());
        }
        define_outputs(&self.node, define);
    }
}

// Bounded as `visit_nodes` is.
fn define_outputs(nodes: &[Node], define: &mut dyn FnMut(&str, bool)) {
    for node in nodes {
        let is_value = |attribute: &Attribute| attribute.name == "value";
        let value = node.attribute.iter().find(|attribute| is_value(attribute));
        let is_false =
            node.operator() == "Constant" && value.and_then(|value| value.t.as_ref()).is_some_and(Weight::is_false);
        node.output.iter().for_each(|name| define(name, is_false));
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                graph.define_names(define);
            }
        }
    }
}

/// A model of one node that gives an empty sequence of tensors of this element type.
///
/// The runtime's C interface cannot make an empty sequence; running this model does.
#[must_use]
pub fn empty_sequence_model(elem_type: i32) -> Vec<u8> {
    const INTEGER: i32 = 2;
    let tensor = Type {
        tensor_type: Some(TensorType { elem_type }),
        sequence_type: None,
    };
    let sequence = Type {
        tensor_type: None,
        sequence_type: Some(Box::new(SequenceType {
            elem_type: Some(Box::new(tensor)),
        })),
    };
    let dtype = Attribute {
        name: "dtype".into(),
        i: i64::from(elem_type),
        r#type: INTEGER,
        ..Attribute::default()
    };
    let node = Node {
        op_type: "SequenceEmpty".into(),
        output: vec!["empty".into()],
        attribute: vec![dtype],
        ..Node::default()
    };
    let graph = Graph {
        name: "empty".into(),
        node: vec![node],
        output: vec![ValueInfo {
            name: "empty".into(),
            r#type: Some(sequence),
        }],
        ..Graph::default()
    };
    let opset = OperatorSet {
        domain: String::new(),
        version: 11,
    };
    ModelFile {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![opset],
        ..ModelFile::default()
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(op_type: &str) -> Node {
        Node {
            op_type: op_type.into(),
            ..Node::default()
        }
    }

    fn model(nodes: Vec<Node>) -> ModelFile {
        ModelFile {
            graph: Some(Graph {
                node: nodes,
                ..Graph::default()
            }),
            ..ModelFile::default()
        }
    }

    fn step(op_type: &str, input: &[&str], output: &str) -> Node {
        let names = input.iter().map(|&name| name.to_owned()).collect();
        Node {
            input: names,
            output: vec![output.into()],
            ..node(op_type)
        }
    }

    fn settled(nodes: Vec<Node>) -> bool {
        let mut file = model(nodes);
        let graph = file.graph.as_mut().expect("it was just made");
        graph.initializer = ["w", "overridable"].map(Weight::named).into();
        graph.input = ["x", "overridable"]
            .map(|name| ValueInfo {
                name: name.into(),
                r#type: None,
            })
            .into();
        file.is_settled_by_shapes()
    }

    #[test]
    fn the_lists_of_operators_are_sorted_for_the_search() {
        assert!(SHAPED_BY_SHAPES.is_sorted());
        assert!(SHAPED_BY_PARAMETERS.is_sorted());
    }

    #[test]
    fn shapes_settle_a_chain_of_plain_operators() {
        assert!(settled(vec![step("Gemm", &["x", "w"], "h"), step("Relu", &["h"], "y")]));
    }

    #[test]
    fn random_nodes_are_found_wherever_they_are() {
        let model = |nodes| ModelFile {
            graph: Some(Graph {
                node: nodes,
                ..Graph::default()
            }),
            ..ModelFile::default()
        };
        let named = |operator: &str, domain: &str| Node {
            name: "n".into(),
            op_type: operator.into(),
            domain: domain.into(),
            ..Node::default()
        };
        assert_eq!(
            model(vec![named("Add", ""), named("Gelu", "com.microsoft")]).random_node(),
            None
        );
        let found = model(vec![named("Add", ""), named("RandomNormal", "")]).random_node();
        assert_eq!(found.as_deref(), Some("node `n` (RandomNormal)"));
        let found = model(vec![named("Add", "my.domain")]).random_node();
        assert_eq!(found.as_deref(), Some("node `n` (my.domain::Add)"));
        let body = Attribute {
            g: model(vec![named("Bernoulli", "")]).graph,
            ..Attribute::default()
        };
        let branch = Node {
            attribute: vec![body],
            ..named("If", "")
        };
        assert_eq!(
            model(vec![branch]).random_node().as_deref(),
            Some("node `n` (Bernoulli)")
        );
        let function = |nodes| Function {
            name: "Own".into(),
            domain: "my.domain".into(),
            node: nodes,
            ..Function::default()
        };
        let calling = |nodes| ModelFile {
            functions: vec![function(nodes)],
            ..model(vec![named("Own", "my.domain")])
        };
        assert_eq!(calling(vec![named("Add", "")]).random_node(), None);
        assert!(calling(vec![named("Multinomial", "")]).random_node().is_some());
        let dropout = |inputs: &[&str]| Node {
            input: inputs.iter().map(|&input| input.into()).collect(),
            ..named("Dropout", "")
        };
        assert_eq!(
            model(vec![dropout(&["x", "ratio"]), dropout(&["x", "", ""])]).random_node(),
            None
        );
        assert!(model(vec![dropout(&["x", "", "training"])]).random_node().is_some());
    }

    #[test]
    fn a_dropout_that_a_constant_keeps_from_training_is_not_random() {
        let dropout = Node {
            op_type: "Dropout".into(),
            input: ["x", "", "training"].map(String::from).to_vec(),
            ..Node::default()
        };
        let says = |truth| Weight::of_truth("training", truth);
        let constant = |truth| Node {
            op_type: "Constant".into(),
            output: vec!["training".into()],
            attribute: vec![Attribute {
                name: "value".into(),
                t: Some(says(truth)),
                ..Attribute::default()
            }],
            ..Node::default()
        };
        let named = ValueInfo {
            name: "training".into(),
            r#type: None,
        };
        let is_random = |node: Vec<Node>, initializer: Vec<Weight>, input: Vec<ValueInfo>| {
            let graph = Some(Graph {
                node,
                initializer,
                input,
                ..Graph::default()
            });
            let file = ModelFile {
                graph,
                ..ModelFile::default()
            };
            file.random_node().is_some()
        };
        assert!(!is_random(vec![constant(false), dropout.clone()], vec![], vec![]));
        assert!(is_random(vec![constant(true), dropout.clone()], vec![], vec![]));
        assert!(!is_random(vec![dropout.clone()], vec![says(false)], vec![]));
        assert!(is_random(vec![dropout.clone()], vec![says(true)], vec![]));
        // A caller may override it, and a body may call something else by its name.
        assert!(is_random(vec![dropout.clone()], vec![says(false)], vec![named]));
        let mut branch = constant(true);
        branch.op_type = "If".into();
        branch.output.clear();
        branch.attribute[0] = Attribute {
            g: Some(Graph {
                node: vec![constant(true)],
                ..Graph::default()
            }),
            ..Attribute::default()
        };
        assert!(is_random(vec![dropout, branch], vec![says(false)], vec![]));
    }

    #[test]
    fn shapes_do_not_settle_loops_functions_foreign_operators_and_random_numbers() {
        assert!(!settled(vec![step("Loop", &["x"], "y")]));
        assert!(!settled(vec![step("RandomNormalLike", &["x"], "y")]));
        assert!(!settled(vec![Node {
            domain: "mine".into(),
            ..step("Relu", &["x"], "y")
        }]));
        let function = Function {
            name: "Relu".into(),
            ..Function::default()
        };
        let file = ModelFile {
            functions: vec![function],
            ..model(vec![node("Relu")])
        };
        assert!(!file.is_settled_by_shapes());
    }

    #[test]
    fn a_shape_may_come_from_a_weight_or_from_shapes_but_not_from_values() {
        let reshape = |shape| step("Reshape", &["x", shape], "y");
        assert!(settled(vec![reshape("w")]));
        assert!(!settled(vec![reshape("x")]));
        assert!(!settled(vec![reshape("overridable")]));
        assert!(settled(vec![step("Constant", &[], "c"), reshape("c")]));
        assert!(settled(vec![
            step("Shape", &["x"], "s"),
            step("Gather", &["s", "w"], "t"),
            reshape("t")
        ]));
        assert!(!settled(vec![
            step("Shape", &["x"], "s"),
            step("Add", &["s", "x"], "t"),
            reshape("t")
        ]));
        assert!(!settled(vec![step("ConstantOfShape", &["x"], "y")]));
        assert!(settled(vec![step("ConstantOfShape", &["w"], "y")]));
    }

    #[test]
    fn operators_are_counted_with_their_domain() {
        let foreign = Node {
            domain: "mine".into(),
            ..node("Op")
        };
        let counts = model(vec![node("Relu"), node("Relu"), foreign]).operators();
        assert_eq!(
            counts,
            BTreeMap::from([("Relu".to_owned(), 2), ("mine::Op".to_owned(), 1)])
        );
    }

    #[test]
    fn what_is_no_model_is_refused() {
        assert!(ModelFile::read(b"").is_err());
        assert!(ModelFile::read(b"not a model at all").is_err());
    }

    #[test]
    fn the_empty_sequence_model_can_be_read_back() {
        let file = ModelFile::read(&empty_sequence_model(1)).expect("it was just written");
        assert_eq!(file.operators(), BTreeMap::from([("SequenceEmpty".to_owned(), 1)]));
    }

    #[test]
    fn nodes_are_counted_without_being_decoded() {
        assert_eq!(
            count_nodes(&model(vec![node("Relu"), node("Relu")]).encode_to_vec()),
            Some(2)
        );
        assert_eq!(count_nodes(&empty_sequence_model(1)), Some(1));
        assert_eq!(count_nodes(b""), None);
        assert_eq!(count_nodes(b"not a model at all"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = count_nodes(&bytes);
            let _ = ModelFile::read(&bytes).map(|file| (file.operators(), file.is_settled_by_shapes()));
        }
    }
}
