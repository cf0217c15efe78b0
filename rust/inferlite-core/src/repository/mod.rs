//! A folder of models: which versions serve, and how they change while requests run.
//!
//! ```text
//!   the folder --layout--> what is there --settling--> what is there for good --lineup--> who serves
//!                                                          |                                |
//!                                                  Opener: opens, warms up          one map, exchanged at once
//! ```
//!
//! Requests read one map of what serves and hold an `Arc` of what they found: a version that is replaced ends with its
//! last request. A new version is opened while the old one serves; what fails leaves the old one where it is, and shows
//! in the index. Nothing is ever written to the folder, so that a process that is killed leaves nothing behind.
//!
//! Nobody here waits or sleeps: whoever has a thread for it calls [`Repository::scan`] from time to time, or, with more
//! than one, [`Repository::due`] and [`Repository::perform`], so that a load which does not end holds up no other model.

pub mod compatibility;
pub mod layout;
pub mod settings;

mod lineup;
mod loading;
mod onnx;
#[cfg(test)]
mod property;
mod record;
#[cfg(test)]
mod scripted;
mod served;
mod settling;
mod tasks;
#[cfg(test)]
mod tests;
mod warmup;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustc_hash::FxHashMap;

pub use onnx::OnnxOpener;
pub use served::{Event, IndexEntry, Listed, NotFound, Served, VersionState};
pub use settings::ModelSettings;
pub use tasks::Task;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use lineup::Lineup;
use record::Record;

/// One version of a model in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionFiles {
    /// The name of the model.
    pub name: String,
    /// The number of the version.
    pub version: u64,
    /// Its ONNX file.
    pub path: PathBuf,
}

/// Makes a model of a file.
pub trait Opener: Send + Sync {
    /// Loads a version, finds out about its rows and warms it up: what it gives serves at once.
    ///
    /// Called on the thread that loads, for one version of a model at a time and for several models at once. A panic
    /// counts as an error.
    fn open(&self, files: &VersionFiles, settings: &ModelSettings) -> Result<Arc<Model>>;
}

/// How a repository is watched.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// How long what is found must have stayed as it is before [`Repository::scan`] acts on it.
    pub settle: Duration,
}

impl Default for RepositorySettings {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(1),
        }
    }
}

/// The models of a folder.
pub struct Repository {
    root: PathBuf,
    opener: Box<dyn Opener>,
    settings: RepositorySettings,
    clock: Clock,
    /// What requests find. Written for as long as it takes to exchange a pointer, under the lock of `state`.
    serving: RwLock<Arc<Serving>>,
    /// What is known; never locked while a model is opened, or a lock of a model is waited for.
    state: Mutex<State>,
    /// Held by whoever looks through the folder.
    looking: Mutex<()>,
    /// What of the folder is being touched now, and since when.
    looked_at: Mutex<Option<(PathBuf, Duration)>>,
    instances: AtomicU64,
}

/// The models that serve, by name.
type Serving = FxHashMap<Arc<str>, Arc<Lineup>>;

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<String, Record>,
    refused: Vec<layout::Refused>,
    /// Why the folder could not be read when it was last looked at.
    unreadable: Option<String>,
    /// Models that were there at the start, and have neither loaded nor failed.
    awaited: BTreeSet<String>,
    has_started: bool,
    is_closed: bool,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// The repository in a folder, which must be readable; nothing is loaded yet.
    pub fn new(
        root: PathBuf,
        opener: Box<dyn Opener>,
        settings: RepositorySettings,
        clock: Clock,
    ) -> Result<Arc<Self>> {
        std::fs::read_dir(&root).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::InvalidArgument,
            };
            Error::new(
                kind,
                format!("the repository `{}` cannot be read: {error}", root.display()),
            )
        })?;
        Ok(Arc::new(Self {
            root,
            opener,
            settings,
            clock,
            serving: RwLock::default(),
            state: Mutex::default(),
            looking: Mutex::default(),
            looked_at: Mutex::default(),
            instances: AtomicU64::new(0),
        }))
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The version that a request gets: of this number or label, or the one that serves those who name none.
    ///
    /// Takes a read lock for one look-up, which no load ever holds, and allocates nothing unless it fails.
    #[inline]
    pub fn find(&self, name: &str, version_or_label: Option<&str>) -> Result<Arc<Served>, NotFound> {
        let found = {
            let serving = self.serving.read().unwrap_or_else(PoisonError::into_inner);
            serving
                .get(name)
                .and_then(|lineup| lineup.find(version_or_label))
                .cloned()
        };
        found.ok_or_else(|| self.why_not(name, version_or_label))
    }

    /// The same for requests that name no model, where just one model is served.
    pub fn only(&self, version_or_label: Option<&str>) -> Result<Arc<Served>, NotFound> {
        let serving = self.serving();
        let mut names = serving.keys();
        if let (Some(name), None) = (names.next(), names.next()) {
            return self.find(name, version_or_label);
        }
        let mut served: Vec<String> = serving.keys().map(ToString::to_string).collect();
        served.sort_unstable();
        Err(NotFound::Unnamed { served })
    }

    /// The models that serve, by name.
    #[must_use]
    pub fn models(&self) -> Vec<Listed> {
        let serving = self.serving();
        let mut models: Vec<Listed> = serving.iter().map(|(name, lineup)| lineup.listed(name)).collect();
        models.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// One of the models that serve.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<Listed> {
        let serving = self.serving();
        let (name, lineup) = serving.get_key_value(name)?;
        Some(lineup.listed(name))
    }

    /// Every version that serves, was to serve or still has requests, and of models without one the model itself; and
    /// what cannot be served for what it is called or where it lies.
    #[must_use]
    pub fn index(&self) -> Vec<IndexEntry> {
        let state = self.state();
        let closed = state.is_closed.then_some(record::CLOSED);
        let unreadable = closed.or(state.unreadable.as_deref());
        let now = self.clock.now();
        let of_model = |(name, record): (&String, &Record)| record.index(name, unreadable, now);
        let mut entries: Vec<_> = state.records.iter().flat_map(of_model).collect();
        entries.extend(state.refused.iter().map(|refused| {
            let (name, version) = refused.names(&self.root);
            IndexEntry {
                name,
                version,
                state: VersionState::Unavailable,
                reason: format!("{}: {}", refused.path.display(), refused.reason),
            }
        }));
        // Versions stay in the order of their numbers.
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Whether all that was in the folder when [`Repository::load_all`] looked has loaded or failed.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.state().has_started
    }

    /// Whether requests may be sent here: all that was in the folder when [`Repository::load_all`] looked has loaded or
    /// failed, and not all of it has failed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = self.state();
        let serves = state.records.values().any(|record| record.lineup.serves());
        let fails = state.records.values().any(Record::fails);
        state.has_started && !state.is_closed && (serves || !fails)
    }

    /// Serves nothing from now on; requests that hold a model run to their end.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let lineups: Vec<_> = state.records.values_mut().map(Record::retire).collect();
        let old = self.publish(Arc::default());
        drop(state);
        // Models end here, which may take a while.
        drop((lineups, old));
    }

    fn why_not(&self, name: &str, version: Option<&str>) -> NotFound {
        let state = self.state();
        match state.records.get(name) {
            Some(record) if !record.is_gone() => record.why_not(name, version, state.is_closed),
            _ => NotFound::UnknownModel { name: name.to_owned() },
        }
    }

    fn serving(&self) -> Arc<Serving> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Exchanges what requests find; the old map is for the caller to drop, outside of all locks.
    fn publish(&self, serving: Arc<Serving>) -> Arc<Serving> {
        let mut place = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, serving)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
