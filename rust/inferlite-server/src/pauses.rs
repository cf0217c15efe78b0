//! Servers of shared caches that are left alone since they fail, and what has been said of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use inferlite_core::repository::Served;

/// The versions whose shared cache was said to be of no use, by what the repository counts.
#[derive(Debug, Default)]
pub(crate) struct Pauses(Mutex<BTreeSet<u64>>);

/// The shared cache of one version, as somebody has just found it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    instance: u64,
    /// Which version of which model, and where its shared cache is.
    name: String,
    /// How the server failed, if that is why it is left alone.
    failure: Option<String>,
}

impl Seen {
    /// `None` where answers are not shared.
    pub(crate) fn of(served: &Served) -> Option<Self> {
        let shared = served.settings.cache.as_ref()?.shared.as_ref()?;
        let (version, model) = (&served.version_text, &served.name);
        Some(Self {
            instance: served.instance,
            name: format!(
                "the shared cache at `{}` of version {version} of model `{model}`",
                shared.place
            ),
            failure: served.model.cache()?.pause_of_shared(),
        })
    }
}

impl Pauses {
    /// What is new since somebody asked last, of all versions that serve.
    pub(crate) fn news(&self, seen: &[Seen]) -> Vec<String> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present: BTreeSet<u64> = seen.iter().map(|seen| seen.instance).collect();
        told.retain(|instance| present.contains(instance));
        let news = seen.iter().filter_map(|seen| match &seen.failure {
            Some(failure) => told.insert(seen.instance).then(|| {
                format!(
                    "{} cannot be used, and answers are computed here until it can: {failure}",
                    seen.name
                )
            }),
            None => told
                .remove(&seen.instance)
                .then(|| format!("{} can be used again", seen.name)),
        });
        news.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(instance: u64, failure: Option<&str>) -> Seen {
        Seen {
            instance,
            name: format!("cache {instance}"),
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn a_pause_and_its_end_are_told_once_each() {
        let pauses = Pauses::default();
        assert!(pauses.news(&[seen(1, None), seen(2, None)]).is_empty());
        let told = "cache 2 cannot be used, and answers are computed here until it can: gone";
        assert_eq!(pauses.news(&[seen(1, None), seen(2, Some("gone"))]), [told]);
        assert!(pauses.news(&[seen(1, None), seen(2, Some("slow"))]).is_empty());
        assert_eq!(
            pauses.news(&[seen(1, None), seen(2, None)]),
            ["cache 2 can be used again"]
        );
        assert!(pauses.news(&[seen(1, None), seen(2, None)]).is_empty());
        assert_eq!(pauses.news(&[seen(2, Some("gone"))]), [told]);
    }

    #[test]
    fn a_version_that_serves_no_more_is_not_said_to_be_mended() {
        let pauses = Pauses::default();
        assert_eq!(pauses.news(&[seen(1, Some("gone"))]).len(), 1);
        assert!(pauses.news(&[seen(2, None)]).is_empty());
        assert!(pauses.0.lock().unwrap().is_empty());
    }
}
