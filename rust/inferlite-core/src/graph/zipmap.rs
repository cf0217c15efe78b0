//! `ZipMap` at the end of a graph: dictionaries of a row's numbers, which cost more to take out of the runtime than the
//! model costs to run.
//!
//! A copy of the file has `Identity` in its place, so that the numbers come as the tensor that they were, and whoever
//! hands them out makes dictionaries of them. Everything else of the file stays as it is, byte by byte.

use std::sync::Arc;

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};

use super::{Graph, ModelFile, Node, TensorType, Type, ValueInfo, each_message};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{Dtype, MapKeys, Shape, Strings};

const DOMAIN: &str = "ai.onnx.ml";
const OPERATOR: &str = "ZipMap";

// Of a model.
const GRAPH: u32 = 7;
const OPSET_IMPORT: u32 = 8;
// Of a graph.
const NODE: u32 = 1;
const OUTPUT: u32 = 12;

/// What an output of `ZipMap` is made of: the keys of its dictionaries, and where their numbers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZipMap {
    /// The name of the node.
    pub node: String,
    /// How many numbers a row has.
    pub width: usize,
    /// The keys, in the order of the runtime's maps: ascending, each once.
    pub keys: MapKeys,
    /// The column of each key: of equal labels the last one counts.
    pub columns: Vec<usize>,
}

impl ZipMap {
    /// The number of rows in a tensor of this shape; what the runtime says of one that does not fit.
    pub fn rows(&self, shape: &[i64]) -> Result<usize> {
        let refuse = |why: &str| {
            let node = &self.node;
            let text =
                format!("Non-zero status code returned while running ZipMap node. Name:'{node}' Status Message: {why}");
            Err(Error::new(ErrorKind::InvalidArgument, text))
        };
        let extent = |extent: i64| usize::try_from(extent).unwrap_or(0);
        let (rows, width) = match *shape {
            [] => return refuse("Zipmap does not support empty dim count"),
            [width] => (1, width),
            [rows, width] => (extent(rows), width),
            _ => return refuse("Zipmap only supports 1D or 2D input tensors"),
        };
        if extent(width) != self.width {
            let labels = self.width;
            return refuse(&format!(
                "Input features_per_batch[{width}] != number of classlabels[{labels}]"
            ));
        }
        Ok(rows)
    }

    /// The type of the keys.
    #[must_use]
    pub fn key_type(&self) -> Dtype {
        match self.keys {
            MapKeys::Int64(_) => Dtype::Int64,
            MapKeys::String(_) => Dtype::String,
        }
    }
}

/// A file without `ZipMap`, and the outputs that came from it.
#[derive(Debug)]
pub struct Unzipped {
    /// The file; `None` where it must be read from its path, since it has data in others.
    pub file: Option<Vec<u8>>,
    /// The outputs by name.
    pub maps: Vec<(String, Arc<ZipMap>)>,
}

/// The labels of a node, which the graph's own decoder leaves out.
#[derive(Clone, PartialEq, Message)]
struct Labelled {
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Labels>,
}

#[derive(Clone, PartialEq, Message)]
struct Labels {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    strings: Vec<Vec<u8>>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

const INTS: i32 = 7;
const STRINGS: i32 = 8;

/// The declaration of an output that is a sequence of maps, as far as it says of what.
#[derive(Clone, PartialEq, Message)]
struct Declared {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<DeclaredType>,
}

#[derive(Clone, PartialEq, Message)]
struct DeclaredType {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
    #[prost(message, optional, boxed, tag = "4")]
    sequence: Option<Box<SequenceOf>>,
    #[prost(message, optional, boxed, tag = "5")]
    map: Option<Box<MapOf>>,
}

#[derive(Clone, PartialEq, Message)]
struct SequenceOf {
    #[prost(message, optional, boxed, tag = "1")]
    element: Option<Box<DeclaredType>>,
}

#[derive(Clone, PartialEq, Message)]
struct MapOf {
    #[prost(int32, tag = "1")]
    key: i32,
    #[prost(message, optional, boxed, tag = "2")]
    value: Option<Box<DeclaredType>>,
}

impl Declared {
    /// The types of the maps' keys and values; `None` where something else is declared, or nothing.
    fn maps(&self) -> Option<(i32, i32)> {
        let map = self
            .r#type
            .as_ref()?
            .sequence
            .as_ref()?
            .element
            .as_ref()?
            .map
            .as_ref()?;
        Some((map.key, map.value.as_ref()?.tensor.as_ref()?.elem_type))
    }
}

/// The file with its `ZipMap` nodes exchanged; `None` where there is none whose output leaves the graph and nothing else
/// uses.
#[must_use]
pub fn unzip(file: &[u8]) -> Option<Unzipped> {
    let mut is_imported = false;
    each_message(file, &mut |field, import| {
        is_imported |= field == OPSET_IMPORT && contains(import, DOMAIN.as_bytes());
        Some(())
    })?;
    if !is_imported || !contains(file, OPERATOR.as_bytes()) {
        return None;
    }
    // The name of an entry that says where data is.
    let has_data_elsewhere = contains(file, b"location");
    let model = ModelFile::read(file).ok()?;
    // The runtime refuses the first such version that there is not, and `Identity` would keep it from looking.
    let mut imports = model.opset_import.iter().filter(|import| import.domain == DOMAIN);
    if !imports.all(|import| import.version >= 1) {
        return None;
    }
    let graph = model.graph.as_ref()?;
    let mut maps = Vec::new();
    let mut graphs = 0;
    let file = rewritten(file, &mut |field, content| {
        if field != GRAPH {
            return None;
        }
        graphs += 1;
        rewritten(content, &mut |field, content| match field {
            NODE => without_zipmap(graph, content, &mut maps),
            _ => None,
        })
    })?;
    let are_declared = || {
        let mut declared = Vec::new();
        each_message(&file, &mut |field, graph| {
            if field != GRAPH {
                return Some(());
            }
            each_message(graph, &mut |field, output| {
                if field == OUTPUT {
                    declared.push(Declared::decode(output).ok()?);
                }
                Some(())
            })
        })?;
        // The runtime refuses a file in which this does not fit.
        let is_declared = |(name, map): &(String, Arc<ZipMap>)| {
            let types = Some((map.key_type() as i32, Dtype::Float32 as i32));
            declared
                .iter()
                .any(|output| output.name == *name && output.maps() == types)
        };
        Some(maps.iter().all(is_declared))
    };
    if graphs != 1 || maps.is_empty() || are_declared() != Some(true) {
        return None;
    }
    let file = rewritten(&file, &mut |field, content| {
        let retyped = |field, content: &[u8]| {
            let output = ValueInfo::decode(content).ok().filter(|_| field == OUTPUT)?;
            let is_zipped = maps.iter().any(|(name, _)| *name == output.name);
            is_zipped.then(|| tensor_named(&output.name).encode_to_vec())
        };
        (field == GRAPH)
            .then(|| rewritten(content, &mut |field, content| retyped(field, content)))
            .flatten()
    })?;
    Some(Unzipped {
        file: (!has_data_elsewhere).then_some(file),
        maps,
    })
}

/// The node that stands in for this one, if it is a `ZipMap` at the end of the graph.
fn without_zipmap(graph: &Graph, content: &[u8], maps: &mut Vec<(String, Arc<ZipMap>)>) -> Option<Vec<u8>> {
    // Most nodes need not be decoded once more.
    if !contains(content, OPERATOR.as_bytes()) {
        return None;
    }
    let node = Node::decode(content).ok()?;
    let ([_], [output]) = (node.input.as_slice(), node.output.as_slice()) else {
        return None;
    };
    let is_zipmap = node.op_type == OPERATOR && node.domain == DOMAIN;
    let times_given = graph.output.iter().filter(|given| given.name == *output).count();
    if !is_zipmap || times_given != 1 || is_used(graph, output) {
        return None;
    }
    let (keys, columns, width) = keys_of(&Labelled::decode(content).ok()?)?;
    let map = ZipMap {
        node: node.name.clone(),
        width,
        keys,
        columns,
    };
    maps.push((output.clone(), Arc::new(map)));
    let identity = Node {
        op_type: "Identity".into(),
        domain: String::new(),
        attribute: Vec::new(),
        ..node
    };
    Some(identity.encode_to_vec())
}

/// Whether a node takes this value, in the graph or in a graph of one of its nodes.
fn is_used(graph: &Graph, name: &str) -> bool {
    graph.node.iter().any(|node| {
        let bodies = node
            .attribute
            .iter()
            .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        node.input.iter().any(|input| input == name)
            || bodies
                .into_iter()
                .any(|body| is_used(body, name) || body.output.iter().any(|output| output.name == name))
    })
}

/// Keys in the order of the runtime's maps, the column of each, and how many labels there are.
fn keys_of(node: &Labelled) -> Option<(MapKeys, Vec<usize>, usize)> {
    let (mut texts, mut numbers) = (&[][..], &[][..]);
    for labels in &node.attribute {
        match (labels.name.as_str(), labels.r#type) {
            ("classlabels_strings", STRINGS) if texts.is_empty() => texts = &labels.strings,
            ("classlabels_int64s", INTS) if numbers.is_empty() => numbers = &labels.ints,
            _ => return None,
        }
    }
    match (texts, numbers) {
        ([], [_, ..]) => {
            let columns = in_order(numbers);
            let keys = columns.iter().map(|&column| numbers[column]).collect();
            Some((MapKeys::Int64(keys), columns, numbers.len()))
        }
        ([_, ..], []) => {
            let columns = in_order(texts);
            let count = i64::try_from(columns.len()).ok()?;
            let mut keys = Strings::with_shape(Shape::from_slice(&[count]));
            for &column in &columns {
                std::str::from_utf8(&texts[column]).ok()?;
                keys.push(&texts[column]);
            }
            Some((MapKeys::String(keys), columns, texts.len()))
        }
        _ => None,
    }
}

/// The position of each label that differs, by the order of the labels; of equal ones the last.
fn in_order<T: Ord>(labels: &[T]) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..labels.len()).rev().collect();
    positions.sort_by(|&a, &b| labels[a].cmp(&labels[b]));
    positions.dedup_by(|a, b| labels[*a] == labels[*b]);
    positions
}

fn tensor_named(name: &str) -> ValueInfo {
    ValueInfo {
        name: name.into(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type: Dtype::Float32 as i32,
            }),
            sequence_type: None,
        }),
    }
}

/// Another content for a field of this number and content; `None` to leave it.
type Rewriting<'a> = dyn FnMut(u32, &[u8]) -> Option<Vec<u8>> + 'a;

/// A message in which fields that have a length may have another content; `None` where it cannot be read.
fn rewritten(mut bytes: &[u8], other: &mut Rewriting<'_>) -> Option<Vec<u8>> {
    let mut written = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let start = bytes;
        let (field, wire_type) = decode_key(&mut bytes).ok()?;
        if wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            let (content, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            if let Some(content) = other(field, content) {
                encode_key(field, wire_type, &mut written);
                encode_varint(content.len() as u64, &mut written);
                written.extend_from_slice(&content);
                continue;
            }
        } else {
            skip_field(wire_type, field, &mut bytes, DecodeContext::default()).ok()?;
        }
        written.extend_from_slice(&start[..start.len() - bytes.len()]);
    }
    Some(written)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose last node is a `ZipMap` with these labels; `uses` are further nodes.
    fn file(labels: &[i64], uses: Vec<Node>) -> Vec<u8> {
        file_with_keys(Dtype::Int64, labels, uses)
    }

    /// The output, with keys of this type.
    fn declared(key: Dtype) -> Declared {
        let of = |tensor, sequence, map| DeclaredType { tensor, sequence, map };
        let float = TensorType {
            elem_type: Dtype::Float32 as i32,
        };
        let map = MapOf {
            key: key as i32,
            value: Some(Box::new(of(Some(float), None, None))),
        };
        let sequence = SequenceOf {
            element: Some(Box::new(of(None, None, Some(Box::new(map))))),
        };
        Declared {
            name: "z".into(),
            r#type: Some(of(None, Some(Box::new(sequence)), None)),
        }
    }

    fn file_with_keys(key: Dtype, labels: &[i64], uses: Vec<Node>) -> Vec<u8> {
        let labels = Labels {
            name: "classlabels_int64s".into(),
            ints: labels.into(),
            strings: Vec::new(),
            r#type: INTS,
        };
        let zipmap = Node {
            input: vec!["scores".into()],
            output: vec!["z".into()],
            op_type: OPERATOR.into(),
            domain: DOMAIN.into(),
            ..Node::default()
        };
        let mut content = zipmap.encode_to_vec();
        content.extend(
            Labelled {
                attribute: vec![labels],
            }
            .encode_to_vec(),
        );
        let mut graph = Vec::new();
        let mut write = |field, content: &[u8]| {
            encode_key(field, WireType::LengthDelimited, &mut graph);
            encode_varint(content.len() as u64, &mut graph);
            graph.extend_from_slice(content);
        };
        write(NODE, &content);
        for node in uses {
            write(NODE, &node.encode_to_vec());
        }
        // A field that no decoder here knows stays as it is.
        write(99, b"unknown");
        write(OUTPUT, &declared(key).encode_to_vec());
        let mut file = Vec::new();
        for (field, content) in [(GRAPH, graph.as_slice()), (OPSET_IMPORT, b"\x0a\x0aai.onnx.ml\x10\x03")] {
            encode_key(field, WireType::LengthDelimited, &mut file);
            encode_varint(content.len() as u64, &mut file);
            file.extend_from_slice(content);
        }
        file
    }

    fn user(name: &str) -> Node {
        Node {
            input: vec![name.into()],
            op_type: "Neg".into(),
            ..Node::default()
        }
    }

    #[test]
    fn a_zipmap_at_the_end_becomes_an_identity_and_the_rest_stays() {
        let unzipped = unzip(&file(&[3, 1, 3], vec![user("scores")])).expect("there is one");
        let [(name, map)] = unzipped.maps.as_slice() else {
            panic!("one output")
        };
        assert_eq!(name, "z");
        assert_eq!(map.width, 3);
        assert_eq!(map.keys, MapKeys::Int64(vec![1, 3]));
        assert_eq!(map.columns, [1, 2]);
        let content = unzipped.file.expect("nothing lies elsewhere");
        let graph = ModelFile::read(&content).expect("a model").graph.expect("a graph");
        assert_eq!(graph.node[0].operator(), "Identity");
        assert_eq!(graph.node[1], user("scores"));
        assert!(contains(&content, b"unknown"));
    }

    #[test]
    fn one_that_is_declared_to_give_something_else_stays() {
        assert!(unzip(&file_with_keys(Dtype::Int64, &[1, 2], Vec::new())).is_some());
        for key in [Dtype::String, Dtype::Float32] {
            assert!(unzip(&file_with_keys(key, &[1, 2], Vec::new())).is_none());
        }
    }

    #[test]
    fn one_that_a_node_uses_stays() {
        assert!(unzip(&file(&[1, 2], vec![user("z")])).is_none());
        let body = Graph {
            node: vec![user("z")],
            ..Graph::default()
        };
        let branch = Node {
            attribute: vec![super::super::Attribute {
                g: Some(body),
                ..Default::default()
            }],
            ..Node::default()
        };
        assert!(unzip(&file(&[1, 2], vec![branch])).is_none());
    }

    #[test]
    fn a_file_with_data_elsewhere_is_not_rewritten() {
        let node = Node {
            name: "location".into(),
            ..user("scores")
        };
        let unzipped = unzip(&file(&[1, 2], vec![node])).expect("there is one");
        assert!(unzipped.file.is_none());
        assert_eq!(unzipped.maps.len(), 1);
    }

    #[test]
    fn whatever_is_cut_off_is_no_file() {
        let whole = file(&[1, 2], Vec::new());
        assert!(unzip(&whole).is_some());
        for end in 0..whole.len() {
            assert!(unzip(&whole[..end]).is_none(), "{end}");
        }
    }
}
