//! What a repository hands out: models that serve, what it knows of them, and why there is none.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::layout::Stamp;
use super::settings::ModelSettings;
use crate::model::Model;

/// A version of a model that serves, or has served: whoever holds it can run it to the end.
#[derive(Debug)]
pub struct Served {
    /// The name of the model.
    pub name: Arc<str>,
    /// The number of the version.
    pub version: u64,
    /// The same number as text.
    pub version_text: Box<str>,
    /// What runs.
    pub model: Arc<Model>,
    /// The settings that it was opened with. Labels may have moved since: [`Listed::labels`] has those that count.
    pub settings: Arc<ModelSettings>,
    /// Counts what the repository has opened, so that one version opened twice can be told apart.
    pub instance: u64,
    /// The time of the repository's clock when it was opened.
    pub opened_at: Duration,
    /// How long that took, warm-up included.
    pub opened_in: Duration,
    /// The files that it was opened from.
    pub(super) stamp: Stamp,
}

/// What a version of a model is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionState {
    /// It does not serve.
    Unavailable,
    /// It is being opened, and does not serve yet.
    Loading,
    /// It serves.
    Ready,
    /// It serves no new request, and has some left that came before.
    Unloading,
}

/// Displays as the Open Inference Protocol writes states.
impl fmt::Display for VersionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "UNAVAILABLE",
            Self::Loading => "LOADING",
            Self::Ready => "READY",
            Self::Unloading => "UNLOADING",
        })
    }
}

/// One line of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The name of the model, or of the file or folder that cannot be one.
    pub name: String,
    /// The number of the version, or the name of what cannot be one; `None` where the line is about the model as a
    /// whole, of which no version is known.
    pub version: Option<String>,
    /// What it is at.
    pub state: VersionState,
    /// Why it does not serve, or why what serves is not what the folder holds; empty where all is well.
    pub reason: String,
}

/// A model of which at least one version serves.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The name.
    pub name: Arc<str>,
    /// The versions that serve, in ascending order.
    pub versions: Vec<Arc<Served>>,
    /// What requests get that name no version; `None` while the version labelled `stable` has never loaded.
    pub default: Option<Arc<Served>>,
    /// The labels, and the versions that requests get for them, which serve.
    pub labels: Vec<(String, u64)>,
}

/// Why a request gets no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// Nothing in the folder has this name.
    #[error("there is no model `{name}`")]
    UnknownModel {
        /// The name.
        name: String,
    },
    /// The model has no such version or label that could be served.
    #[error("model `{name}` has no version `{version}`")]
    UnknownVersion {
        /// The name of the model.
        name: String,
        /// The number or label that was asked for.
        version: String,
    },
    /// It is there and does not serve.
    #[error("{} is not ready: {reason}", described(.name, .version.as_deref()))]
    NotReady {
        /// The name of the model.
        name: String,
        /// The number or label that was asked for, if any.
        version: Option<String>,
        /// Why.
        reason: String,
    },
    /// No name was given, and not exactly one model serves.
    #[error("{}", unnamed(.served))]
    Unnamed {
        /// The names of those that serve.
        served: Vec<String>,
    },
}

fn described(name: &str, version: Option<&str>) -> String {
    match version {
        Some(version) => format!("version `{version}` of model `{name}`"),
        None => format!("model `{name}`"),
    }
}

fn unnamed(served: &[String]) -> String {
    if served.is_empty() {
        return "no model is served".to_owned();
    }
    format!(
        "name one of the {} models that are served: `{}`",
        served.len(),
        served.join("`, `")
    )
}

/// What happens while models are loaded, for whoever shows or logs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// So many models are in the folder and will be loaded.
    Found {
        /// How many.
        models: usize,
    },
    /// A file or folder is no model, or none that may be served.
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A version is being opened.
    Loading {
        /// The name of the model.
        name: String,
        /// The version.
        version: u64,
    },
    /// A version serves from now on.
    Loaded {
        /// The name of the model.
        name: String,
        /// The version.
        version: u64,
        /// How long opening it took, warm-up included.
        took: Duration,
    },
    /// A version, or the model as a whole, could not be loaded; what served before goes on.
    Failed {
        /// The name of the model.
        name: String,
        /// The version, unless it is about the model as a whole.
        version: Option<u64>,
        /// Why.
        reason: String,
    },
    /// A version serves no more.
    Unloaded {
        /// The name of the model.
        name: String,
        /// The version.
        version: u64,
    },
    /// The folder itself cannot be read, or holds no model any more; what serves goes on.
    Unreadable {
        /// Why.
        reason: String,
    },
}
