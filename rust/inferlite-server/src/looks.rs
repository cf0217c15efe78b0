//! Looks at the repository's folder that do not end.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a file system may take to answer before somebody is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether somebody was told that the folder cannot be looked at.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<bool>);

impl Looks {
    /// What is new since somebody asked last, where this path has been looked at for so long now.
    pub(crate) fn news(&self, looked_at: Option<(PathBuf, Duration)>) -> Option<String> {
        let mut is_told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = looked_at.filter(|(_, took)| *took >= PATIENCE);
        let was_told = std::mem::replace(&mut *is_told, stuck.is_some());
        match (stuck, was_told) {
            (Some((path, took)), false) => Some(format!(
                "`{}` has not answered for {} s, and no other change in the folder is seen before it does: what serves goes \
                 on, and `load` looks at its own model alone",
                path.display(),
                took.as_secs()
            )),
            (None, true) => Some("the folder is looked at again".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_does_not_end_is_told_once_and_its_end_too() {
        let looks = Looks::default();
        let at = |seconds| looks.news(Some(("models/far".into(), Duration::from_secs(seconds))));
        assert_eq!(looks.news(None), None);
        assert_eq!(at(9), None);
        assert_eq!(
            at(10).as_deref(),
            Some(
                "`models/far` has not answered for 10 s, and no other change in the folder is seen before it does: what \
                 serves goes on, and `load` looks at its own model alone"
            )
        );
        assert_eq!(at(11), None);
        assert_eq!(looks.news(None).as_deref(), Some("the folder is looked at again"));
        assert_eq!(looks.news(None), None);
    }
}
