//! What a repository knows of one model, whether it serves or not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::layout::{FileStamp, FoundModel, FoundVersion, Stamp, version_of};
use super::lineup::{Failures, Lineup, STABLE};
use super::served::{IndexEntry, NotFound, Served, VersionState};
use super::settings::ModelSettings;
use super::settling::{Settled, Watched};

/// So many earlier versions can be gone back to, one after the other.
const MOST_HISTORY: usize = 16;

const UNLOADED: &str = "it was unloaded";
const ROLLED_BACK: &str = "it was rolled back";
const LOST: &str = "its files went away together with all others, so that it goes on serving: unload it if it is to go";
pub(super) const CLOSED: &str = "the repository is closed";

/// A version that was opened, and why it does not serve.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    files: Stamp,
    settings: Option<(PathBuf, FileStamp)>,
    /// What it would have taken over from, where that is why.
    beside: Option<Vec<u64>>,
    pub(super) reason: String,
}

impl Attempt {
    pub(super) fn new(files: &FoundVersion, model: &FoundModel, beside: Option<&Lineup>, reason: &str) -> Self {
        Self {
            files: files.stamp.clone(),
            settings: model.settings.clone(),
            beside: beside.map(Lineup::instances),
            reason: reason.to_owned(),
        }
    }

    /// Whether another attempt could only end like this one.
    pub(super) fn still_holds(&self, files: &FoundVersion, model: &FoundModel, lineup: &Lineup) -> bool {
        let holds_beside = |beside: &Vec<u64>| *beside == lineup.instances();
        self.files == files.stamp && self.settings == model.settings && self.beside.as_ref().is_none_or(holds_beside)
    }
}

#[derive(Debug, Default)]
pub(super) struct Record {
    /// Held by whoever loads or unloads the model.
    pub(super) turn: Arc<Mutex<()>>,
    pub(super) watched: Watched,
    /// What was in the folder when the model was last loaded, or was to be.
    pub(super) acted_on: Option<Settled>,
    /// The settings that count, which are the last ones that could be read.
    pub(super) settings: Option<Arc<ModelSettings>>,
    pub(super) lineup: Arc<Lineup>,
    /// Versions that served by default before the present one, the last of them at the end.
    pub(super) history: Vec<u64>,
    /// Versions that were rolled back, and the files that they had: as long as these stay, they do not serve.
    pub(super) withdrawn: BTreeMap<u64, Stamp>,
    pub(super) failures: Failures,
    /// Versions that need not be opened again, since nothing has changed about why they failed.
    pub(super) attempts: BTreeMap<u64, Attempt>,
    /// Why the model as a whole is not as the folder has it.
    pub(super) trouble: Option<String>,
    /// Versions that are being opened, and since when.
    pub(super) loading: BTreeMap<u64, Duration>,
    /// Versions that serve no more, and may have requests left.
    leaving: Vec<(u64, Weak<Served>)>,
    pub(super) is_unloaded: bool,
    /// Whether the files of all models went away at once while it served, and its own have not come back.
    pub(super) is_lost: bool,
    /// What served by default when the model was unloaded.
    pub(super) left: Option<u64>,
}

impl Record {
    /// Whether there is nothing to say about the model.
    pub(super) fn is_gone(&self) -> bool {
        self.acted_on.as_ref().is_none_or(|found| *found == Settled::Gone)
            && !self.lineup.serves()
            && self.loading.is_empty()
            && self.trouble.is_none()
    }

    /// Whether the model is gone and nobody has anything to do with it, so that it can be forgotten.
    pub(super) fn is_over(&self) -> bool {
        self.is_gone() && self.is_left() && Arc::strong_count(&self.turn) == 1
    }

    fn is_left(&self) -> bool {
        self.leaving.iter().all(|(_, served)| served.strong_count() == 0)
    }

    /// Whether something that should serve does not, and nothing does in its place.
    pub(super) fn fails(&self) -> bool {
        !self.lineup.serves() && (self.trouble.is_some() || !self.failures.is_empty())
    }

    /// Exchanges the lineup; the old one is for the caller to drop, outside of all locks.
    pub(super) fn exchange(&mut self, lineup: Lineup) -> Arc<Lineup> {
        let old = std::mem::replace(&mut self.lineup, Arc::new(lineup));
        self.leaving.retain(|(_, served)| served.strong_count() > 0);
        for served in old.versions() {
            if !self
                .lineup
                .version(served.version)
                .is_some_and(|now| Arc::ptr_eq(now, served))
            {
                self.leaving.push((served.version, Arc::downgrade(served)));
            }
        }
        old
    }

    /// Takes everything out of service.
    pub(super) fn retire(&mut self) -> Arc<Lineup> {
        self.is_lost = false;
        self.exchange(Lineup::default())
    }

    /// Forgets what was before: the model has gone.
    pub(super) fn forget(&mut self) {
        self.history.clear();
        self.withdrawn.clear();
        self.attempts.clear();
        self.left = None;
    }

    /// The version that serves by default, or did so before the model was unloaded.
    pub(super) fn latest(&self) -> Option<u64> {
        self.lineup.by_default().map(|served| served.version).or(self.left)
    }

    /// Writes down that another version serves by default, after one that can be gone back to.
    pub(super) fn succeed(&mut self, before: Option<u64>, now: Option<u64>) {
        if before == now {
            return;
        }
        self.history
            .retain(|&version| Some(version) != now && Some(version) != before);
        self.history.extend(before);
        if self.history.len() > MOST_HISTORY {
            self.history.remove(0);
        }
    }

    /// Lets versions serve again whose files are no longer those that were rolled back.
    pub(super) fn forgive(&mut self, found: &FoundModel) {
        self.withdrawn.retain(|version, stamp| {
            let found = found.versions.get(version).and_then(|found| found.as_ref().ok());
            found.is_some_and(|found| found.stamp == *stamp)
        });
    }

    /// The lines of the index that are about this model.
    pub(super) fn index(&self, name: &str, unreadable: Option<&str>, now: Duration) -> Vec<IndexEntry> {
        let entry = |version: Option<u64>, state, reason: Option<&str>| IndexEntry {
            name: name.to_owned(),
            version: version.map(|version| version.to_string()),
            state,
            reason: reason.unwrap_or_default().to_owned(),
        };
        let mut entries = BTreeMap::new();
        for (version, served) in &self.leaving {
            if served.strong_count() > 0 {
                entries.insert(*version, entry(Some(*version), VersionState::Unloading, None));
            }
        }
        for (&version, reason) in &self.failures {
            entries.insert(version, entry(Some(version), VersionState::Unavailable, Some(reason)));
        }
        for &version in self.withdrawn.keys() {
            let withdrawn = || entry(Some(version), VersionState::Unavailable, Some(ROLLED_BACK));
            entries.entry(version).or_insert_with(withdrawn);
        }
        for (&version, &since) in &self.loading {
            let seconds = now.saturating_sub(since).as_secs();
            let reason = (seconds > 0).then(|| format!("it has been loading for {seconds} s"));
            entries.insert(version, entry(Some(version), VersionState::Loading, reason.as_deref()));
        }
        let trouble = unreadable.or(self.is_lost.then_some(LOST)).or(self.trouble.as_deref());
        for served in self.lineup.versions() {
            let loading = entries
                .remove(&served.version)
                .filter(|entry| entry.state == VersionState::Loading);
            let loading = loading.map(|entry| entry.reason).filter(|reason| !reason.is_empty());
            let failure = self.failures.get(&served.version).map(String::as_str);
            let reason = loading.as_deref().or(failure).or(trouble);
            entries.insert(served.version, entry(Some(served.version), VersionState::Ready, reason));
        }
        if entries.is_empty() && !self.is_gone() {
            let reason = trouble.or(self.is_unloaded.then_some(UNLOADED));
            return vec![entry(None, VersionState::Unavailable, reason)];
        }
        entries.into_values().collect()
    }

    /// Why a request gets no version of this model.
    pub(super) fn why_not(&self, name: &str, version_or_label: Option<&str>, is_closed: bool) -> NotFound {
        let name = name.to_owned();
        let asked = version_or_label.map(str::to_owned);
        let labelled = |label: &str| {
            self.settings
                .as_ref()
                .and_then(|settings| settings.labels.get(label))
                .copied()
        };
        let version = match version_or_label {
            Some(text) => version_of(text).or_else(|| labelled(text)),
            None => labelled(STABLE),
        };
        let about_version = version.and_then(|version| {
            let is_loading = self
                .loading
                .contains_key(&version)
                .then(|| "it is being loaded".to_owned());
            is_loading.or_else(|| self.failures.get(&version).cloned())
        });
        let about_model = || {
            if is_closed {
                return Some(CLOSED.to_owned());
            }
            if self.lineup.serves() {
                return None;
            }
            if !self.loading.is_empty() {
                return Some("it is being loaded".to_owned());
            }
            let unloaded = self.is_unloaded.then(|| UNLOADED.to_owned());
            self.trouble.clone().or(unloaded).or_else(|| {
                // Nothing serves: the reasons of all versions together are the reason.
                let reasons = self
                    .failures
                    .iter()
                    .map(|(version, reason)| format!("version {version}: {reason}"));
                (!self.failures.is_empty()).then(|| reasons.collect::<Vec<_>>().join("; "))
            })
        };
        let is_withdrawn = version.is_some_and(|version| self.withdrawn.contains_key(&version));
        let rolled_back = || is_withdrawn.then(|| ROLLED_BACK.to_owned());
        match (about_version.or_else(rolled_back).or_else(about_model), asked) {
            (Some(reason), version) => NotFound::NotReady { name, version, reason },
            (None, Some(version)) => NotFound::UnknownVersion { name, version },
            (None, None) => NotFound::NotReady {
                name,
                version: None,
                reason: "none of its versions serves".to_owned(),
            },
        }
    }
}
