//! When what lies in the folder counts: once it has stayed as it is for long enough.

use std::collections::BTreeMap;
use std::time::Duration;

use super::layout::{FoundModel, FoundVersion};

/// What there is of a model for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settled {
    There(FoundModel),
    Gone,
}

impl From<Option<FoundModel>> for Settled {
    fn from(found: Option<FoundModel>) -> Self {
        found.map_or(Self::Gone, Self::There)
    }
}

type Version = Result<FoundVersion, String>;

/// Something that is looked at again and again.
#[derive(Debug)]
struct Settling<T> {
    seen: T,
    since: Duration,
    settled: Option<T>,
}

impl<T: PartialEq + Clone> Settling<T> {
    fn new(seen: T, now: Duration) -> Self {
        Self {
            seen,
            since: now,
            settled: None,
        }
    }

    fn observe(&mut self, seen: T, now: Duration, settle: Duration) {
        if self.seen != seen {
            self.seen = seen;
            self.since = now;
        }
        if now.saturating_sub(self.since) >= settle {
            self.settled = Some(self.seen.clone());
        }
    }
}

/// One model as it is looked at.
///
/// Versions settle each by itself, so that one which is being copied for minutes holds nobody up. All else settles
/// together, and nothing counts before it: a version is not opened with settings that are being written.
#[derive(Debug, Default)]
pub(super) struct Watched {
    versions: BTreeMap<u64, Settling<Option<Version>>>,
    /// The model without its versions; `None` where it is not there.
    rest: Option<Settling<Option<FoundModel>>>,
}

impl Watched {
    /// Takes note of what is there now, and gives what is there for good; `None` as long as that is not known.
    pub(super) fn observe(&mut self, found: Option<&FoundModel>, now: Duration, settle: Duration) -> Option<Settled> {
        let rest = found.map(without_versions);
        let place = self.rest.get_or_insert_with(|| Settling::new(rest.clone(), now));
        place.observe(rest, now, settle);
        let empty = BTreeMap::new();
        let versions = found.map_or(&empty, |found| &found.versions);
        for (version, seen) in versions {
            let fresh = || Settling::new(Some(seen.clone()), now);
            self.versions.entry(*version).or_insert_with(fresh);
        }
        for (version, place) in &mut self.versions {
            place.observe(versions.get(version).cloned(), now, settle);
        }
        // A version that has gone for good, and one that went before it had ever settled, are forgotten.
        self.versions
            .retain(|_, place| place.seen.is_some() || !matches!(place.settled, None | Some(None)));
        self.settled()
    }

    fn settled(&self) -> Option<Settled> {
        let rest = self
            .rest
            .as_ref()
            .filter(|rest| rest.settled.as_ref() == Some(&rest.seen))?;
        let Some(rest) = &rest.seen else {
            return Some(Settled::Gone);
        };
        let settled =
            |(version, place): (&u64, &Settling<Option<Version>>)| Some((*version, place.settled.clone().flatten()?));
        let mut model = rest.clone();
        model.versions = self.versions.iter().filter_map(settled).collect();
        // As long as all that there is of it is being written, it is too early to say that it has no version.
        let is_coming = model.versions.is_empty() && !self.versions.is_empty();
        (!is_coming).then_some(Settled::There(model))
    }
}

fn without_versions(found: &FoundModel) -> FoundModel {
    FoundModel {
        versions: BTreeMap::new(),
        settings: found.settings.clone(),
        unreadable: found.unreadable.clone(),
        refused: found.refused.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);

    fn model(versions: &[(u64, &str)]) -> FoundModel {
        let version = |&(version, state): &(u64, &str)| (version, Err(state.to_owned()));
        FoundModel {
            versions: versions.iter().map(version).collect(),
            ..FoundModel::default()
        }
    }

    fn at(watched: &mut Watched, seconds: u64, found: Option<&FoundModel>) -> Option<Settled> {
        watched.observe(found, Duration::from_secs(seconds), SETTLE)
    }

    #[test]
    fn what_is_new_counts_once_it_has_stayed_as_it_is() {
        let mut watched = Watched::default();
        let found = model(&[(1, "a")]);
        assert_eq!(at(&mut watched, 0, Some(&found)), None);
        assert_eq!(at(&mut watched, 1, Some(&found)), None);
        assert_eq!(at(&mut watched, 2, Some(&found)), Some(Settled::There(found)));
    }

    #[test]
    fn every_change_begins_the_time_anew() {
        let mut watched = Watched::default();
        let (half, whole) = (model(&[(1, "half")]), model(&[(1, "whole")]));
        at(&mut watched, 0, Some(&half));
        assert_eq!(at(&mut watched, 1, Some(&whole)), None);
        assert_eq!(at(&mut watched, 2, Some(&whole)), None);
        assert_eq!(at(&mut watched, 3, Some(&whole)), Some(Settled::There(whole)));
    }

    #[test]
    fn a_version_that_is_being_written_leaves_the_others_and_its_own_past_alone() {
        let mut watched = Watched::default();
        let before = model(&[(1, "a"), (2, "b")]);
        at(&mut watched, 0, Some(&before));
        at(&mut watched, 2, Some(&before));
        let during = model(&[(1, "a"), (2, "half"), (3, "half")]);
        assert_eq!(at(&mut watched, 3, Some(&during)), Some(Settled::There(before.clone())));
        let other = model(&[(1, "c"), (2, "more"), (3, "more")]);
        assert_eq!(at(&mut watched, 4, Some(&other)), Some(Settled::There(before)));
        let later = model(&[(1, "c"), (2, "most"), (3, "more")]);
        let settled = model(&[(1, "c"), (2, "b"), (3, "more")]);
        assert_eq!(at(&mut watched, 6, Some(&later)), Some(Settled::There(settled)));
    }

    #[test]
    fn nothing_counts_while_the_settings_are_being_written() {
        let mut watched = Watched::default();
        let found = model(&[(1, "a")]);
        at(&mut watched, 0, Some(&found));
        at(&mut watched, 2, Some(&found));
        let mut changed = found.clone();
        changed.unreadable = Some("its settings have changed".to_owned());
        assert_eq!(at(&mut watched, 3, Some(&changed)), None);
        assert_eq!(at(&mut watched, 5, Some(&changed)), Some(Settled::There(changed)));
    }

    #[test]
    fn what_has_gone_counts_once_it_has_stayed_away() {
        let mut watched = Watched::default();
        let found = model(&[(1, "a"), (2, "b")]);
        at(&mut watched, 0, Some(&found));
        at(&mut watched, 2, Some(&found));
        let less = model(&[(1, "a")]);
        assert_eq!(at(&mut watched, 3, Some(&less)), Some(Settled::There(found.clone())));
        assert_eq!(at(&mut watched, 4, Some(&found)), Some(Settled::There(found.clone())));
        assert_eq!(at(&mut watched, 5, None), None);
        assert_eq!(at(&mut watched, 7, None), Some(Settled::Gone));
        assert!(watched.versions.is_empty());
    }

    #[test]
    fn a_model_that_was_away_and_comes_back_the_same_is_the_same() {
        let mut watched = Watched::default();
        let found = model(&[(1, "a")]);
        at(&mut watched, 0, Some(&found));
        at(&mut watched, 2, Some(&found));
        assert_eq!(at(&mut watched, 3, None), None);
        assert_eq!(at(&mut watched, 4, Some(&found)), Some(Settled::There(found)));
    }
}
