//! What `model.toml` says about one model.

mod hidden;
mod pad;
mod read;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::batch::BatchSettings;
use crate::cache::CacheSettings;
use crate::error::Result;
use crate::rows::{Declared, DeclaredLength};

pub use hidden::Hidden;
pub use shared::SharedPlace;

/// The name of the file, in the folder of its model.
pub const FILE_NAME: &str = "model.toml";

/// Settings of one model, all versions alike; everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// What runs the model.
    pub engine: EngineChoice,
    /// Whether answers are kept, and how.
    #[serde(deserialize_with = "read::cache")]
    pub cache: Option<CacheOptions>,
    /// Whether calls are combined, and how.
    pub batching: Batching,
    /// The axes of rows of inputs and outputs, by name; `None` where there are none.
    #[serde(deserialize_with = "read::batch_axes")]
    pub batch_axes: BTreeMap<String, Option<usize>>,
    /// Whether no row of a batch has any influence on another; `None` to find out.
    pub rows_independent: Option<bool>,
    /// How many threads one operator may use.
    #[serde(deserialize_with = "read::threads")]
    pub threads: Option<usize>,
    /// How many runs may be under way at once; see [`ModelSettings::instances`].
    #[serde(deserialize_with = "read::instances")]
    instances: Option<usize>,
    /// Which versions are served, besides those with a label.
    pub versions: VersionPolicy,
    /// Names for versions, which are served whatever `versions` says; calls without a version get `stable`.
    #[serde(deserialize_with = "read::labels")]
    pub labels: BTreeMap<String, u64>,
    /// What is run before a version serves.
    pub warmup: Vec<Warmup>,
    /// Whether a version may serve that those who call the present one could not call.
    pub breaking: bool,
}

/// What runs a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// Whatever suits the model.
    #[default]
    Auto,
    /// ONNX Runtime.
    Onnxruntime,
}

/// How answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// How the cache is made.
    pub settings: CacheSettings,
    /// What is looked up.
    pub by: CacheBy,
    /// Where answers are shared with other processes, if they are.
    pub shared: Option<SharedOptions>,
}

/// A server that keeps answers for several processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedOptions {
    /// Where it is, and how to enter.
    pub place: SharedPlace,
    /// What seals the answers, so that nobody without it can make one up.
    pub secret: Hidden,
    /// How long one question may take.
    pub timeout: Duration,
}

/// What is looked up in a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheBy {
    /// A call as a whole.
    #[default]
    Request,
    /// Each row of a call, for which the rows must be independent.
    Row,
}

/// Whether calls are combined.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Batching {
    /// Never.
    Off,
    /// Where the rows are found to be independent; a model of which that is not known runs its calls one by one.
    #[default]
    WherePossible,
    /// Always; a model that cannot be batched does not load.
    Required(BatchOptions),
}

/// How calls are combined.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchOptions {
    /// The most rows of a batch; `None` to choose by the times of runs.
    #[serde(deserialize_with = "read::count")]
    pub max_rows: Option<usize>,
    /// How long a call waits for company.
    #[serde(deserialize_with = "read::delay")]
    pub max_delay: Duration,
    /// How many rows may wait.
    #[serde(deserialize_with = "read::queue")]
    pub max_queue: usize,
    #[serde(deserialize_with = "read::instances")]
    instances: Option<usize>,
    /// How long a call should take at most, as far as the size of batches decides about that.
    #[serde(deserialize_with = "read::short_time")]
    pub target_latency: Option<Duration>,
    /// How long calls wait that do not say; `None` for as long as it takes.
    #[serde(deserialize_with = "read::long_time")]
    pub timeout: Option<Duration>,
    /// Lengths that calls of one batch may differ in.
    #[serde(deserialize_with = "pad::lengths")]
    pub pad: Vec<DeclaredLength>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_rows: None,
            max_delay: Duration::ZERO,
            max_queue: 10_000,
            instances: None,
            target_latency: None,
            timeout: None,
            pad: Vec::new(),
        }
    }
}

/// Which versions of a model are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// Every one that is there.
    All,
    /// So many with the highest numbers.
    Latest(usize),
    /// These; one that is not there counts as one that failed.
    Listed(BTreeSet<u64>),
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest(1)
    }
}

/// Calls that are made before a version serves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// What is fed, by the names of inputs.
    pub inputs: BTreeMap<String, WarmupInput>,
    /// How many such calls.
    #[serde(default = "read::once", deserialize_with = "read::warmup_count")]
    pub count: usize,
}

/// An input of a warm-up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupInput {
    /// The extent of every axis; none is negative, and the number of elements is checked.
    #[serde(deserialize_with = "read::shape")]
    pub shape: Vec<i64>,
    /// What its elements are.
    #[serde(default)]
    pub value: WarmupValue,
}

/// The elements of an input of a warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WarmupValue {
    /// All zero; empty strings.
    #[default]
    Zeros,
    /// All one.
    Ones,
    /// Numbers that look like none in particular.
    Random,
}

impl ModelSettings {
    /// The settings in a file; `None` where there is none.
    ///
    /// Messages begin with the file, the line and the key.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        read::file(path)
    }

    /// The settings in a text, of which messages say that it is `origin`'s.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        read::text(text, origin)
    }

    /// How many runs may be under way at once, from either place that says so; `None` to choose by the processors.
    #[must_use]
    pub fn instances(&self) -> Option<usize> {
        match &self.batching {
            Batching::Required(options) => options.instances.or(self.instances),
            Batching::Off | Batching::WherePossible => self.instances,
        }
    }

    /// The axes as [`BatchAxes::of`](crate::rows::BatchAxes::of) takes them.
    #[must_use]
    pub fn declared_axes(&self) -> Vec<Declared> {
        self.batch_axes.clone().into_iter().collect()
    }

    /// How calls are combined, with so many runs at once where the file leaves that open; `None` for not at all.
    #[must_use]
    pub fn batch_settings(&self, instances: usize) -> Option<BatchSettings> {
        let options = match &self.batching {
            Batching::Off => return None,
            Batching::WherePossible => &BatchOptions::default(),
            Batching::Required(options) => options,
        };
        Some(BatchSettings {
            max_rows: options.max_rows,
            max_delay: options.max_delay,
            max_queue: options.max_queue,
            instances: self.instances().unwrap_or(instances),
            target_latency: options.target_latency,
        })
    }

    /// Lengths that calls of one batch may differ in.
    #[must_use]
    pub fn lengths(&self) -> &[DeclaredLength] {
        match &self.batching {
            Batching::Required(options) => &options.pad,
            Batching::Off | Batching::WherePossible => &[],
        }
    }

    /// How long calls wait that do not say; `None` for as long as it takes.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        match &self.batching {
            Batching::Required(options) => options.timeout,
            Batching::Off | Batching::WherePossible => None,
        }
    }

    /// Whether a model that was opened with these settings is as the other ones would have it: they differ at most in
    /// which versions are served, and as what.
    pub(super) fn open_alike(&self, other: &Self) -> bool {
        let rest = |settings: &Self| Self {
            versions: VersionPolicy::default(),
            labels: BTreeMap::new(),
            breaking: false,
            ..settings.clone()
        };
        rest(self) == rest(other)
    }
}

#[cfg(test)]
mod tests;
