//! The identity of a session: what decides about its answers beside their inputs, as one digest.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use prost::Message;

use super::library::version;
use super::options::SessionSettings;
use super::source::{FileIdentity, ModelSource};
use crate::cache::{FORMAT, Identity};
use crate::error::{Error, ErrorKind, Result};

/// Where a session's settings say that a model's data lies, if not beside the model.
const DATA_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// Reads everything that decides about the answers of a session that is made of this source.
///
/// To be taken before the session is made and looked at with [`Fingerprint::check`] afterwards: what changes in between
/// is noticed.
#[derive(Debug)]
pub struct Fingerprint {
    identity: Identity,
    files: Vec<(PathBuf, Option<FileIdentity>)>,
}

impl Fingerprint {
    /// Reads the model, the data beside it, and libraries of custom operators, once each.
    pub fn take(source: &ModelSource, settings: &SessionSettings) -> Result<Self> {
        Self::take_with_file(source, settings).map(|(fingerprint, _)| fingerprint)
    }

    /// The same, with what the model's file holds if it is one.
    pub(super) fn take_with_file(source: &ModelSource, settings: &SessionSettings) -> Result<(Self, Option<Vec<u8>>)> {
        let mut file = None;
        let mut files = Vec::new();
        let mut hasher = blake3::Hasher::new_derive_key("inferlite 2026 identity of a session");
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&FORMAT.to_le_bytes());
        add(env!("CARGO_PKG_VERSION").as_bytes());
        add(version()?.as_bytes());
        add(std::env::consts::ARCH.as_bytes());
        add(&[
            u8::from(cfg!(target_endian = "big")),
            size_of::<usize>().to_le_bytes()[0],
        ]);
        // Set, this makes the runtime read options from the model.
        add(&[u8::from(
            std::env::var_os("ORT_LOAD_CONFIG_FROM_MODEL").is_some_and(|value| value == "1"),
        )]);
        add(description(settings).as_bytes());
        match source {
            ModelSource::Bytes(bytes) => {
                let bytes = bytes.as_ref().as_ref();
                add(bytes);
                let folder = settings.config_entries.get(DATA_FOLDER).map_or("", String::as_str);
                for path in data_files(bytes, Path::new(folder))? {
                    add(&digest(path, &mut files)?);
                }
            }
            ModelSource::Path(path) => {
                files.push((path.clone(), FileIdentity::of(path)));
                let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
                add(&bytes);
                for path in data_files(&bytes, path.parent().unwrap_or(Path::new("")))? {
                    add(&digest(path, &mut files)?);
                }
                file = Some(bytes);
            }
        }
        for library in &settings.custom_op_libraries {
            add(&digest(library.clone(), &mut files)?);
        }
        let identity = hasher.finalize().into();
        Ok((Self { identity, files }, file))
    }

    /// The identity, if the files still are what was read.
    pub fn check(&self) -> Result<Identity> {
        for (path, identity) in &self.files {
            if identity.is_none() || FileIdentity::of(path) != *identity {
                return Err(Error::new(
                    ErrorKind::Fail,
                    format!("{} changed while it was loaded: load the model again", path.display()),
                ));
            }
        }
        Ok(self.identity)
    }
}

/// The settings that decide about answers, in an order of their own; what belongs to one process alone is left out.
fn description(settings: &SessionSettings) -> String {
    let is_counted = matches!(settings.intra_op_num_threads, None | Some(0))
        || matches!(settings.inter_op_num_threads, None | Some(0));
    // The runtime then takes as many threads as there are processors, and sums depend on that.
    let processors = is_counted.then(|| std::thread::available_parallelism().map_or(0, usize::from));
    let decisive = SessionSettings {
        enable_profiling: None,
        profile_file_prefix: None,
        log_severity_level: None,
        log_verbosity_level: None,
        logid: None,
        optimized_model_filepath: None,
        optimized_cache: None,
        name: None,
        // Their content counts instead.
        custom_op_libraries: Vec::new(),
        ..settings.clone()
    };
    format!("onnxruntime {processors:?} {decisive:?}")
}

fn digest(path: PathBuf, files: &mut Vec<(PathBuf, Option<FileIdentity>)>) -> Result<[u8; 32]> {
    let identity = FileIdentity::of(&path);
    let mut hasher = blake3::Hasher::new();
    let read = File::open(&path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_err(|error| unreadable(&path, &error))?;
    files.push((path, identity));
    Ok(hasher.finalize().into())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let message = format!(
        "its answers cannot be known beyond this process: {} cannot be read: {error}",
        path.display()
    );
    Error::new(ErrorKind::Fail, message)
}

/// The files that hold data of a model, each once, in order.
fn data_files(model: &[u8], folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let unknown = |why: &str| {
        Error::new(
            ErrorKind::Fail,
            format!("its answers cannot be known beyond this process: {why}"),
        )
    };
    let model =
        Model::decode(model).map_err(|_| unknown("the data that belongs to it cannot be read from its file"))?;
    let mut locations = BTreeSet::new();
    if let Some(graph) = &model.graph {
        graph.gather(&mut locations);
    }
    for function in &model.functions {
        function.node.iter().for_each(|node| node.gather(&mut locations));
    }
    if locations.contains(EP_CONTEXT) {
        return Err(unknown("an `EPContext` node stands for what a provider has compiled"));
    }
    Ok(locations.into_iter().map(|location| folder.join(location)).collect())
}

/// Takes the place of a location, which never ends with a slash.
const EP_CONTEXT: &str = "EPContext/";

// The part of onnx.proto3 that names files; everything else is skipped.

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    t: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    g: Option<Graph>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
    #[prost(message, optional, tag = "22")]
    sparse_tensor: Option<SparseTensor>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    indices: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<crate::graph::Entry>,
}

impl Graph {
    fn gather(&self, locations: &mut BTreeSet<String>) {
        self.node.iter().for_each(|node| node.gather(locations));
        self.initializer.iter().for_each(|tensor| tensor.gather(locations));
        self.sparse_initializer
            .iter()
            .for_each(|tensor| tensor.gather(locations));
    }
}

impl Node {
    fn gather(&self, locations: &mut BTreeSet<String>) {
        if self.op_type == "EPContext" {
            locations.insert(EP_CONTEXT.to_owned());
        }
        for attribute in &self.attribute {
            attribute
                .t
                .iter()
                .chain(&attribute.tensors)
                .for_each(|tensor| tensor.gather(locations));
            attribute
                .g
                .iter()
                .chain(&attribute.graphs)
                .for_each(|graph| graph.gather(locations));
            let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
            sparse.for_each(|tensor| tensor.gather(locations));
        }
    }
}

impl SparseTensor {
    fn gather(&self, locations: &mut BTreeSet<String>) {
        let parts = self.values.iter().chain(&self.indices);
        parts.for_each(|tensor| tensor.gather(locations));
    }
}

impl Tensor {
    fn gather(&self, locations: &mut BTreeSet<String>) {
        let named = self.external_data.iter().filter(|entry| entry.key == "location");
        locations.extend(named.map(|entry| entry.value.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(location: &str) -> Tensor {
        let entry = |key: &str, value: &str| crate::graph::Entry {
            key: key.into(),
            value: value.into(),
        };
        Tensor {
            external_data: vec![entry("location", location), entry("offset", "4096")],
        }
    }

    #[test]
    fn data_files_are_found_wherever_a_tensor_may_be() {
        let inner = Graph {
            initializer: vec![external("inner")],
            ..Default::default()
        };
        let node = Node {
            op_type: "If".into(),
            attribute: vec![Attribute {
                t: Some(external("constant")),
                g: Some(inner),
                ..Default::default()
            }],
        };
        let model = Model {
            graph: Some(Graph {
                node: vec![node.clone()],
                initializer: vec![external("weights"), external("weights")],
                sparse_initializer: vec![SparseTensor {
                    values: Some(external("sparse")),
                    indices: None,
                }],
            }),
            functions: vec![Function {
                node: vec![Node {
                    attribute: vec![Attribute {
                        tensors: vec![external("function")],
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
            }],
        };
        let found = data_files(&model.encode_to_vec(), Path::new("folder")).expect("it is a model");
        let wanted = ["constant", "function", "inner", "sparse", "weights"];
        assert!(
            found
                .iter()
                .eq(wanted.map(|name| Path::new("folder").join(name)).iter())
        );
    }

    #[test]
    fn what_a_provider_has_compiled_is_refused() {
        let node = Node {
            op_type: "EPContext".into(),
            attribute: Vec::new(),
        };
        let graph = Some(Graph {
            node: vec![node],
            ..Default::default()
        });
        let model = Model {
            graph,
            functions: Vec::new(),
        };
        assert!(data_files(&model.encode_to_vec(), Path::new("")).is_err());
    }

    #[test]
    fn settings_that_change_answers_count_and_those_that_do_not_do_not() {
        let plain = SessionSettings::default();
        let counted = SessionSettings {
            intra_op_num_threads: Some(3),
            ..plain.clone()
        };
        let logged = SessionSettings {
            logid: Some("a".into()),
            log_severity_level: Some(1),
            ..plain.clone()
        };
        assert_ne!(description(&plain), description(&counted));
        assert_eq!(description(&plain), description(&logged));
    }
}
