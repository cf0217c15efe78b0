//! The verdicts on the graphs in `tests/models/rows`, which the Python tests run as well.

use std::path::{Path, PathBuf};

use prost::Message;

use super::{BatchAxes, Declared, Verdict, analyse};
use crate::graph::ModelFile;
use crate::runtime::{Argument, Dim, Signature, ValueType};
use crate::tensor::Dtype;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/rows")
}

/// The part of a file that engines read and the analysis does not: the shapes of inputs and outputs.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "11")]
    input: Vec<Info>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Info>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(message, optional, tag = "1")]
    tensor: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Axes>,
}

#[derive(Clone, PartialEq, Message)]
struct Axes {
    #[prost(message, repeated, tag = "1")]
    axes: Vec<Axis>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Axis {
    #[prost(int64, optional, tag = "1")]
    extent: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

fn argument(info: Info) -> Argument {
    let tensor = info
        .kind
        .and_then(|kind| kind.tensor)
        .expect("the fixtures take and give tensors");
    let dims = tensor
        .shape
        .expect("they declare shapes")
        .axes
        .into_iter()
        .map(|axis| match (axis.extent, axis.name) {
            (Some(extent), _) => Dim::Fixed(extent),
            (None, Some(name)) => Dim::Symbol(name),
            (None, None) => Dim::Unknown,
        });
    let value_type = ValueType::Tensor {
        dtype: Dtype::from_proto(tensor.dtype),
        shape: Some(dims.collect()),
    };
    Argument::new(info.name, value_type).expect("there is no NUL in it")
}

fn verdict(name: &str, declared: &[Declared]) -> Verdict {
    let bytes = std::fs::read(folder().join(format!("{name}.onnx"))).expect("the fixture is there");
    let graph = Model::decode(bytes.as_slice())
        .ok()
        .and_then(|model| model.graph)
        .expect("it has a graph");
    let signature = Signature {
        required: graph.input.len(),
        inputs: graph.input.into_iter().map(argument).collect(),
        outputs: graph.output.into_iter().map(argument).collect(),
    };
    let file = ModelFile::read(&bytes).expect("it is a model");
    let axes = BatchAxes::of(&signature, declared).expect("it has rows");
    analyse(&file, &signature, &axes)
}

#[test]
fn every_fixture_gets_its_verdict() {
    let table = std::fs::read_to_string(folder().join("verdicts.tsv")).expect("the table is there");
    let mut count = 0;
    let mut wrong = Vec::new();
    for line in table.lines() {
        let &[name, axes, wanted, text] = &line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("a line of the table has four columns: {line}")
        };
        let declared: Vec<Declared> = axes
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, axis)| (name.to_owned(), axis.parse().ok()))
            .collect();
        let given = match verdict(name, &declared) {
            Verdict::Independent => ("independent", String::new()),
            Verdict::Refused(reason) => ("refused", reason),
            Verdict::Unknown(reason) => ("unknown", reason),
            Verdict::Branches(reason) => ("branches", reason),
        };
        if (given.0, given.1.as_str()) != (wanted, text) {
            wrong.push(format!("{name}\t{axes}\t{}\t{}", given.0, given.1));
        }
        count += 1;
    }
    assert!(
        wrong.is_empty(),
        "other verdicts than the table's:\n{}",
        wrong.join("\n")
    );
    assert!(count >= 20);
}
