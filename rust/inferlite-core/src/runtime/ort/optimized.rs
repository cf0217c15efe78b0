//! Optimized graphs on disk: a session of one is made without optimizing its model again.
//!
//! An entry is what the runtime saves, and behind it a seal: which model, settings, runtime and processor it is of, and
//! a checksum of its bytes. Whatever is not sealed right is made anew. Nothing here ever keeps a session from being made.

use std::fs::{self, File};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use foldhash::quality::FixedState;

use super::identity::Fingerprint;
use super::library::Runtime;
use super::log;
use super::options::{CPU, SessionSettings};
use super::session::{Live, drop_live, make_session, read_signature};
use super::source::ModelSource;
use crate::graph::graph_name;

const MAGIC: &[u8; 8] = b"inferopt";
const SEAL: usize = 8 + 32 + 8;

/// The digits of a file's name.
const NAME: usize = 32;

/// Configuration entries that say nothing about how a model is loaded, or that the runtime applies to an optimized graph
/// as well, by how their keys begin. With any other one, models are optimized each time.
const HARMLESS: [&str; 12] = [
    "optimization.",
    "mlas.",
    "session.intra_op",
    "session.inter_op",
    "session.set_denormal_as_zero",
    "session.disable_prepacking",
    "session.dynamic_block_base",
    "session.force_spinning_stop",
    "session.use_device_allocator_for_initializers",
    "session.use_env_allocators",
    "session.disable_quant_qdq",
    "session.enable_quant_qdq_cleanup",
];

/// The place of one optimized graph.
pub(super) struct Optimized {
    folder: PathBuf,
    name: String,
    key: [u8; 32],
    fingerprint: Fingerprint,
    /// What the model's file holds, if it is one.
    pub(super) file: Option<Vec<u8>>,
}

/// An optimized graph that a session is made of.
#[derive(Debug)]
pub(super) struct OptimizedGraph {
    /// Where the session reads its weights for as long as it lives.
    _bytes: Arc<Vec<u8>>,
    /// What the model calls its graph, which the runtime's format does not say.
    pub(super) name: Option<String>,
}

impl Optimized {
    /// Where the optimized graph of a model is kept; `None` where it is not kept at all.
    pub(super) fn of(source: &ModelSource, settings: &SessionSettings) -> Option<Self> {
        let folder = settings.optimized_cache.clone()?;
        if !may_be_kept(source, settings) {
            return None;
        }
        // No threads count here.
        let decisive = SessionSettings {
            intra_op_num_threads: Some(1),
            inter_op_num_threads: Some(1),
            ..settings.clone()
        };
        let (fingerprint, file) = Fingerprint::take_with_file(source, &decisive).ok()?;
        let mut hasher = blake3::Hasher::new_derive_key("inferlite 2026 optimized graph");
        hasher.update(&fingerprint.check().ok()?);
        hasher.update(processor().as_bytes());
        let key = *hasher.finalize().as_bytes();
        let name = blake3::Hash::from_bytes(key).to_hex()[..NAME].to_owned();
        Some(Self {
            folder,
            name,
            key,
            fingerprint,
            file,
        })
    }

    /// A session of the model: of its optimized graph if that is kept, else of itself, and the graph is kept from now on.
    ///
    /// `None` where the model has to be loaded as if there were no folder.
    pub(super) fn session(
        &self,
        runtime: &'static Runtime,
        source: &ModelSource,
        settings: &SessionSettings,
    ) -> Option<Box<Live>> {
        let mut live = match self.kept() {
            Some(graph) if graph.is_empty() => None,
            Some(graph) => {
                let live = self.load(runtime, source, settings, graph);
                live.or_else(|| self.make(runtime, source, settings))
            }
            None => self.make(runtime, source, settings),
        }?;
        // One that comes in its place, after a fork or on other providers, is of the model again.
        live.settings = settings.clone();
        Some(live)
    }

    /// The bytes of the graph that is kept; none where there is a note that it is of no use.
    fn kept(&self) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path()).ok()?;
        let length = bytes.len().checked_sub(SEAL)?;
        let is_sealed = bytes[length..] == self.seal(checksum(&bytes[..length]));
        bytes.truncate(length);
        Some(bytes).filter(|_| is_sealed)
    }

    fn load(
        &self,
        runtime: &'static Runtime,
        source: &ModelSource,
        settings: &SessionSettings,
        bytes: Vec<u8>,
    ) -> Option<Box<Live>> {
        let mut plain = SessionSettings {
            graph_optimization_level: Some(0),
            disabled_optimizers: Vec::new(),
            ..settings.clone()
        };
        // The weights stay where they are in these bytes, which the session keeps.
        for key in [
            "session.use_ort_model_bytes_directly",
            "session.use_ort_model_bytes_for_initializers",
        ] {
            plain.config_entries.insert(key.into(), "1".into());
        }
        let bytes = Arc::new(bytes);
        let graph = ModelSource::Bytes(bytes.clone());
        let mut live = log::attempt(|| make_session(runtime, &graph, &plain).ok())?;
        let name = match (source, &self.file) {
            (ModelSource::Bytes(bytes), _) => graph_name(bytes.as_ref().as_ref()),
            (ModelSource::Path(_), file) => file.as_deref().and_then(graph_name),
        };
        live.graph = Some(OptimizedGraph { _bytes: bytes, name });
        Some(live)
    }

    /// A session of the model, whose optimized graph is kept if that can be done.
    fn make(&self, runtime: &'static Runtime, source: &ModelSource, settings: &SessionSettings) -> Option<Box<Live>> {
        fs::create_dir_all(&self.folder).ok()?;
        let draft = Draft::new(&self.folder, &self.name)?;
        let mut saving = SessionSettings {
            optimized_model_filepath: Some(draft.path.clone()),
            ..settings.clone()
        };
        saving
            .config_entries
            .insert("session.save_model_format".into(), "ORT".into());
        // Where it cannot be saved, this fails as a whole.
        let live = log::attempt(|| make_session(runtime, source, &saving).ok())?;
        // A full disk is no reason to have no session.
        let _ = self.keep(&draft, |graph| {
            let kept = self.load(runtime, source, settings, graph);
            // Inputs that have a value are left behind without it where the optimizer has used it up.
            let is_equal = kept.as_ref().is_some_and(|kept| {
                let signatures = [&live, kept].map(|live| read_signature(runtime, live.session).ok());
                signatures[0].is_some() && signatures[0] == signatures[1]
            });
            if let Some(kept) = kept {
                drop_live(runtime, *kept);
            }
            is_equal
        });
        Some(live)
    }

    /// Keeps what the runtime has saved, or a note that it is of no use.
    fn keep(&self, draft: &Draft, is_of_use: impl FnOnce(Vec<u8>) -> bool) -> std::io::Result<()> {
        let mut bytes = fs::read(&draft.path)?;
        let seal = self.seal(checksum(&bytes));
        if is_of_use(bytes.clone()) {
            bytes.extend_from_slice(&seal);
        } else {
            bytes = self.seal(checksum(&[])).to_vec();
        }
        if self.fingerprint.check().is_err() {
            return Ok(());
        }
        fs::write(&draft.path, bytes)?;
        // Whoever reads meanwhile has the old file or the new one.
        fs::rename(&draft.path, self.path())
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn seal(&self, checksum: u64) -> [u8; SEAL] {
        let mut seal = [0; SEAL];
        seal[..8].copy_from_slice(MAGIC);
        seal[8..40].copy_from_slice(&self.key);
        seal[40..].copy_from_slice(&checksum.to_le_bytes());
        seal
    }
}

/// Tells what is damaged: whoever can write on purpose can seal it as well.
fn checksum(bytes: &[u8]) -> u64 {
    FixedState::with_seed(SEAL as u64).hash_one(bytes)
}

/// A file that nobody else writes to, which goes unless it has got another name.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn new(folder: &Path, name: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{name}.{}.{number}", std::process::id()));
        // What a process of the same number left behind is of no use to anyone.
        let _ = fs::remove_file(&path);
        remove_left_behind(folder);
        File::create_new(&path).ok()?;
        Some(Self { path })
    }
}

/// Removes the drafts of processes that were killed: those that have not been written to for a long time.
fn remove_left_behind(folder: &Path) {
    const LONG: Duration = Duration::from_secs(60 * 60);
    let is_draft = |name: &str| {
        let mut parts = name.split('.');
        let is_number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u32>().is_ok());
        parts.next() == Some("")
            && parts
                .next()
                .is_some_and(|name| name.len() == NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
            && is_number(parts.next())
            && is_number(parts.next())
            && parts.next().is_none()
    };
    let Ok(files) = fs::read_dir(folder) else { return };
    for file in files.flatten() {
        let is_old = || {
            let written = file.metadata().and_then(|about| about.modified()).ok()?;
            Some(written.elapsed().ok()? > LONG)
        };
        if file.file_name().to_str().is_some_and(is_draft) && is_old() == Some(true) {
            let _ = fs::remove_file(file.path());
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether an optimized graph of this model, saved and loaded again, behaves as the model does under these settings.
fn may_be_kept(source: &ModelSource, settings: &SessionSettings) -> bool {
    // What a provider has compiled cannot be saved, the user wants the files for himself, and there may be nothing to gain.
    settings.providers.iter().all(|provider| provider.name == CPU)
        && settings.enable_profiling != Some(true)
        && settings
            .optimized_model_filepath
            .as_deref()
            .is_none_or(|path| path.as_os_str().is_empty())
        && settings.graph_optimization_level != Some(0)
        && settings.custom_op_libraries.is_empty()
        && std::env::var_os("ORT_LOAD_CONFIG_FROM_MODEL").is_none_or(|value| value != "1")
        && settings
            .config_entries
            .keys()
            .all(|key| HARMLESS.iter().any(|start| key.starts_with(start)))
        && !source.is_of_the_runtime()
}

/// What the runtime chooses its kernels and layouts by.
fn processor() -> String {
    let mut features = vec![std::env::consts::ARCH];
    macro_rules! note {
        ($detected:ident: $($name:tt),+) => {
            $(if std::arch::$detected!($name) {
                features.push($name);
            })+
        };
    }
    #[cfg(target_arch = "x86_64")]
    note!(
        is_x86_feature_detected: "sse4.1", "avx", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512dq",
        "avx512vl", "avx512vnni", "avx512bf16", "avx512fp16"
    );
    #[cfg(target_arch = "aarch64")]
    note!(is_aarch64_feature_detected: "dotprod", "fp16", "i8mm", "bf16", "sve");
    features.join(" ")
}
