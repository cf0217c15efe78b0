//! Who serves, of one model: pure decisions about versions that are already open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compatibility;
use super::layout::{FoundModel, version_of};
use super::served::{Listed, Served};
use super::settings::{ModelSettings, VersionPolicy};

/// The label of the version that requests get which name none.
pub(super) const STABLE: &str = "stable";

/// The versions of a model that serve, and under which names.
#[derive(Debug, Clone, Default)]
pub(super) struct Lineup {
    /// In ascending order.
    versions: Vec<Arc<Served>>,
    default: Option<Arc<Served>>,
    labels: Vec<(String, Arc<Served>)>,
}

/// Why versions that were to serve do not.
pub(super) type Failures = BTreeMap<u64, String>;

impl Lineup {
    /// The version of a number or a label, or the one for those who say neither.
    #[inline]
    pub(super) fn find(&self, version_or_label: Option<&str>) -> Option<&Arc<Served>> {
        let Some(text) = version_or_label else {
            return self.default.as_ref();
        };
        match version_of(text) {
            Some(version) => self.version(version),
            None => self.label(text),
        }
    }

    pub(super) fn version(&self, version: u64) -> Option<&Arc<Served>> {
        let place = self
            .versions
            .binary_search_by_key(&version, |served| served.version)
            .ok()?;
        self.versions.get(place)
    }

    pub(super) fn versions(&self) -> &[Arc<Served>] {
        &self.versions
    }

    pub(super) fn by_default(&self) -> Option<&Arc<Served>> {
        self.default.as_ref()
    }

    /// What tells one lineup from another that has other models, or one of them in the first place.
    pub(super) fn instances(&self) -> Vec<u64> {
        let all = self.default.iter().chain(&self.versions);
        all.map(|served| served.instance).collect()
    }

    pub(super) fn serves(&self) -> bool {
        !self.versions.is_empty()
    }

    pub(super) fn listed(&self, name: &Arc<str>) -> Listed {
        Listed {
            name: name.clone(),
            versions: self.versions.clone(),
            default: self.default.clone(),
            labels: self
                .labels
                .iter()
                .map(|(label, served)| (label.clone(), served.version))
                .collect(),
        }
    }

    fn label(&self, label: &str) -> Option<&Arc<Served>> {
        self.labels
            .iter()
            .find(|(name, _)| name == label)
            .map(|(_, served)| served)
    }

    /// The lineup after versions were opened, or were left as they are: these are `ready`, of all that should serve.
    ///
    /// Where one has failed, those that served go on, except those whose files have gone and that nobody needs. A
    /// version that those who call its predecessor could not call fails here.
    pub(super) fn next(
        &self,
        mut ready: BTreeMap<u64, Arc<Served>>,
        failures: &mut Failures,
        settings: &ModelSettings,
        found: &FoundModel,
    ) -> Self {
        loop {
            let next = self.with(&ready, failures, settings, found);
            let refused = if settings.breaking { None } else { next.breaks(self) };
            let Some((version, reason)) = refused else {
                return next;
            };
            // Each turn takes one from those that are ready, so that there is an end.
            if ready.remove(&version).is_none() {
                return next;
            }
            failures.insert(version, reason);
        }
    }

    fn with(
        &self,
        ready: &BTreeMap<u64, Arc<Served>>,
        failures: &Failures,
        settings: &ModelSettings,
        found: &FoundModel,
    ) -> Self {
        let mut versions = ready.clone();
        if !failures.is_empty() {
            let stays = |served: &&Arc<Served>| found.versions.contains_key(&served.version);
            for served in self.versions.iter().filter(stays) {
                versions.entry(served.version).or_insert_with(|| served.clone());
            }
            // Its files have gone, and what was to come instead has failed: better this one than none.
            if versions.is_empty()
                && let Some(served) = &self.default
            {
                versions.insert(served.version, served.clone());
            }
        }
        let old = |served: Option<&Arc<Served>>| served.and_then(|served| versions.get(&served.version)).cloned();
        let labelled = |label: &str, version: u64| ready.get(&version).cloned().or_else(|| old(self.label(label)));
        let before = old(self.default.as_ref());
        let default = if let Some(version) = settings.labels.get(STABLE) {
            ready.get(version).cloned().or(before)
        } else {
            let highest = ready.values().next_back().cloned();
            let before = before.filter(|_| !failures.is_empty());
            let chosen = highest.into_iter().chain(before).max_by_key(|served| served.version);
            chosen.or_else(|| versions.values().next_back().cloned())
        };
        let labels = settings.labels.iter();
        let labels = labels
            .filter_map(|(label, &version)| Some((label.clone(), labelled(label, version)?)))
            .collect();
        Self {
            default,
            labels,
            versions: versions.into_values().collect(),
        }
    }

    /// A version that takes over from one in the old lineup whose callers could not call it, and why.
    ///
    /// To go back to a lower number is always possible: it is what one does when the higher one is no good.
    fn breaks(&self, old: &Self) -> Option<(u64, String)> {
        let default = (self.default.as_ref(), old.default.as_ref());
        let labels = self
            .labels
            .iter()
            .map(|(label, served)| (Some(served), old.label(label)));
        let versions = self
            .versions
            .iter()
            .map(|served| (Some(served), old.version(served.version)));
        let mut successions = std::iter::once(default).chain(labels).chain(versions);
        successions.find_map(|(new, old)| {
            let (new, old) = (new?, old?);
            if Arc::ptr_eq(new, old) || new.version < old.version {
                return None;
            }
            let difference = compatibility::check(old.model.signature(), new.model.signature()).err()?;
            let reason = format!(
                "it cannot take over from version {}, which serves: {difference}; `breaking = true` in `model.toml` lets it",
                old.version
            );
            Some((new.version, reason))
        })
    }

    /// The lineup of one version, which takes the labels that the settings give to another one as well.
    pub(super) fn of_one(served: &Arc<Served>, other: u64, settings: &ModelSettings) -> Self {
        let of_both = |(_, version): &(&String, &u64)| [served.version, other].contains(version);
        let labels = settings.labels.iter().filter(of_both);
        Self {
            versions: vec![served.clone()],
            default: Some(served.clone()),
            labels: labels.map(|(label, _)| (label.clone(), served.clone())).collect(),
        }
    }

    /// The lineup in which an earlier version serves in the place of the one that serves by default.
    pub(super) fn rolled_back(&self, to: &Arc<Served>) -> Self {
        let Some(from) = &self.default else {
            return self.clone();
        };
        let mut versions: BTreeMap<u64, Arc<Served>> = self
            .versions
            .iter()
            .map(|served| (served.version, served.clone()))
            .collect();
        versions.remove(&from.version);
        versions.insert(to.version, to.clone());
        let moved = |served: &Arc<Served>| {
            let target = if served.version == from.version { to } else { served };
            target.clone()
        };
        Self {
            versions: versions.into_values().collect(),
            default: Some(to.clone()),
            labels: self
                .labels
                .iter()
                .map(|(label, served)| (label.clone(), moved(served)))
                .collect(),
        }
    }
}

/// The versions that should serve, of those that are there and have not been taken back; and those that should and cannot.
pub(super) fn wanted(
    settings: &ModelSettings,
    found: &FoundModel,
    is_withdrawn: impl Fn(u64) -> bool,
) -> (BTreeSet<u64>, Failures) {
    let mut named: BTreeMap<u64, String> = BTreeMap::new();
    let there = found.versions.keys().copied().filter(|&version| !is_withdrawn(version));
    let mut wanted: BTreeSet<u64> = match &settings.versions {
        VersionPolicy::All => there.collect(),
        VersionPolicy::Latest(count) => there.rev().take(*count).collect(),
        VersionPolicy::Listed(listed) => {
            named.extend(
                listed
                    .iter()
                    .map(|&version| (version, "`versions` names it".to_owned())),
            );
            BTreeSet::new()
        }
    };
    for (label, &version) in &settings.labels {
        named.insert(version, format!("label `{label}` names it"));
    }
    let mut failures = Failures::new();
    for (version, by) in named {
        if !found.versions.contains_key(&version) {
            failures.insert(version, format!("{by}, and it is not in the folder"));
        } else if is_withdrawn(version) {
            failures.insert(
                version,
                format!("{by}, and it was rolled back: load the model to have it serve again"),
            );
        } else {
            wanted.insert(version);
        }
    }
    (wanted, failures)
}
