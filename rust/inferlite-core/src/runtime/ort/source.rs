//! Where a model comes from: a file or bytes, and what they say before the runtime has read them.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::graph::{ModelFile, Unzipped, count_nodes, graph_name, unzip};

/// A graph of more nodes takes longer than what can be saved is worth mentioning: a node costs at least 50 ns.
const QUICK_NODES: usize = 256;
/// Files up to this many bytes are read a second time, for their graph, in about a millisecond; a larger model gains
/// nothing from what the graph tells.
const QUICKLY_READ: u64 = 8 << 20;

/// Where a model comes from, and comes from again in a process that forked off.
#[derive(Clone)]
pub enum ModelSource {
    /// A file; relative paths are resolved when a session is made.
    Path(PathBuf),
    /// Bytes that somebody keeps.
    Bytes(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.as_ref().as_ref().len()),
        }
    }
}

impl ModelSource {
    /// The same source wherever the process goes: a child that forked off may have changed its folder.
    pub(super) fn anchored(self) -> Self {
        match self {
            Self::Path(path) => Self::Path(std::path::absolute(&path).unwrap_or(path)),
            bytes @ Self::Bytes(_) => bytes,
        }
    }

    /// What tells a file from one that takes its place; `None` for bytes, and where the system does not say.
    pub(super) fn identity(&self) -> Option<FileIdentity> {
        match self {
            Self::Path(path) => FileIdentity::of(path),
            Self::Bytes(_) => None,
        }
    }

    /// Whether it is in the runtime's own format, which holds an optimized graph already.
    pub(super) fn is_of_the_runtime(&self) -> bool {
        let is_of_it = |start: &[u8]| start.get(4..8).is_some_and(|mark| mark == b"ORTM");
        match self {
            Self::Path(path) => {
                let mut start = [0; 8];
                let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
                read.is_ok() && is_of_it(&start)
            }
            Self::Bytes(bytes) => is_of_it(bytes.as_ref().as_ref()),
        }
    }

    /// What the model is called: by its file, else by its graph.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let name = match self {
            Self::Path(path) => path.file_stem()?.to_string_lossy().into_owned(),
            Self::Bytes(bytes) => graph_name(bytes.as_ref().as_ref())?,
        };
        // C strings end at the first NUL.
        Some(name).filter(|name| !name.is_empty() && !name.contains('\0'))
    }

    /// What the file says; `None` where it cannot be read as an ONNX model.
    pub(super) fn model_file(&self) -> Option<ModelFile> {
        match self {
            Self::Path(path) => ModelFile::read(&std::fs::read(path).ok()?).ok(),
            Self::Bytes(bytes) => ModelFile::read(bytes.as_ref().as_ref()).ok(),
        }
    }

    /// The file without `ZipMap`, if it ends with some.
    ///
    /// A large file is read a second time only if it uses the operators of classical models.
    pub(super) fn unzipped(&self) -> Option<Unzipped> {
        match self {
            Self::Path(path) => {
                let length = std::fs::metadata(path).ok()?.len();
                let may_have_some = length <= QUICKLY_READ || imports_classical_operators(path).unwrap_or(false);
                may_have_some.then(|| unzip(&std::fs::read(path).ok()?)).flatten()
            }
            Self::Bytes(bytes) => unzip(bytes.as_ref().as_ref()),
        }
    }

    /// Whether shapes settle the work of this model; false without a look where knowing it would gain nothing.
    pub(super) fn is_settled_by_shapes(&self) -> bool {
        match self {
            Self::Path(path) => {
                let is_small = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= QUICKLY_READ);
                is_small && std::fs::read(path).is_ok_and(|bytes| is_settled_by_shapes(&bytes))
            }
            Self::Bytes(bytes) => is_settled_by_shapes(bytes.as_ref().as_ref()),
        }
    }
}

/// Whether shapes settle the work of the model in this file; false without a look where knowing it would gain nothing.
pub(super) fn is_settled_by_shapes(file: &[u8]) -> bool {
    count_nodes(file).is_some_and(|nodes| nodes <= QUICK_NODES)
        && ModelFile::read(file).is_ok_and(|file| file.is_settled_by_shapes())
}

/// Whether a file imports ONNX's operators for classical models: a look at its outermost fields.
fn imports_classical_operators(path: &Path) -> Option<bool> {
    const OPSET_IMPORT: u64 = 8;
    const LENGTH_DELIMITED: u64 = 2;
    // A version and a domain.
    const LONGEST_IMPORT: u64 = 256;
    let mut file = BufReader::new(File::open(path).ok()?);
    loop {
        let Some(key) = read_varint(&mut file) else {
            return Some(false);
        };
        if key & 7 != LENGTH_DELIMITED {
            // The others of a model are numbers.
            read_varint(&mut file)?;
            continue;
        }
        let length = read_varint(&mut file)?;
        if key >> 3 == OPSET_IMPORT && length <= LONGEST_IMPORT {
            let mut import = vec![0; usize::try_from(length).ok()?];
            file.read_exact(&mut import).ok()?;
            if import.windows(10).any(|part| part == b"ai.onnx.ml") {
                return Some(true);
            }
        } else {
            file.seek_relative(i64::try_from(length).ok()?).ok()?;
        }
    }
}

/// A number as protobuf writes it; `None` at the end of the file, and where there is none.
fn read_varint(file: &mut impl Read) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte).ok()?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Which content a path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    length: u64,
    modified: SystemTime,
    #[cfg(unix)]
    inode: (u64, u64),
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            length: metadata.len(),
            modified: metadata.modified().ok()?,
            #[cfg(unix)]
            inode: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino())
            },
        })
    }
}
