//! Whatever is done to a folder and in whatever order: what serves is what a naive reference says.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::scripted::Stage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Good,
    Narrow,
    Bad,
    Panic,
}

impl Content {
    fn loads(self) -> bool {
        matches!(self, Self::Good | Self::Narrow)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Narrow => "narrow",
            Self::Bad => "bad",
            Self::Panic => "panic",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Put(u64, Content),
    Delete(u64),
    Settle,
    Glimpse,
    Load,
    Unload,
    Rollback,
    /// The folder is gone for a while, and comes back as it was.
    Hide,
    Restart,
}

/// What one file is, with a number that no other one has.
type Written = (Content, u64);

/// One model with one version served at a time, by the rules as one would tell them.
#[derive(Debug, Default)]
struct Naive {
    disk: BTreeMap<u64, Written>,
    acted_on: BTreeMap<u64, Written>,
    serving: Option<(u64, Written)>,
    /// What served when it was unloaded.
    left: Option<(u64, Written)>,
    history: Vec<u64>,
    withdrawn: BTreeMap<u64, Written>,
}

impl Naive {
    fn act(&mut self) {
        self.acted_on = self.disk.clone();
        let disk = &self.disk;
        self.withdrawn
            .retain(|version, written| disk.get(version) == Some(written));
        let there: Vec<(u64, Written)> = disk
            .iter()
            .filter(|(version, _)| !self.withdrawn.contains_key(version))
            .map(|(version, written)| (*version, *written))
            .collect();
        let before = self.serving;
        let may_follow = |new: &(u64, Written)| match before {
            Some((version, (Content::Good, _))) if new.1.0 == Content::Narrow => new.0 < version,
            _ => true,
        };
        self.serving = match (there.last(), before) {
            (None, _) => None,
            (Some(highest), Some(old)) if *highest == old => Some(old),
            (Some(highest), Some(_)) if highest.1.0.loads() && may_follow(highest) => Some(*highest),
            (Some(_), Some(old)) => Some(old),
            (Some(_), None) => there.iter().rev().find(|(_, written)| written.0.loads()).copied(),
        };
        let before = before.or(self.left.take());
        let (old, new) = (before.map(|old| old.0), self.serving.map(|new| new.0));
        if old != new {
            let left = old.filter(|old| self.disk.contains_key(old));
            self.history
                .retain(|&version| Some(version) != new && Some(version) != left);
            self.history.extend(left);
        }
        if self.disk.is_empty() {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.history.clear();
        self.withdrawn.clear();
        self.left = None;
    }

    fn rollback(&mut self) -> bool {
        let Some((from, written)) = self.serving.or(self.left) else {
            return false;
        };
        let place = self
            .history
            .iter()
            .rposition(|version| *version != from && self.disk.contains_key(version));
        let Some(place) = place else { return false };
        let to = self.history[place];
        if !self.disk[&to].0.loads() {
            return false;
        }
        self.withdrawn
            .insert(from, self.disk.get(&from).copied().unwrap_or(written));
        self.history.truncate(place);
        let was_unloaded = self.serving.is_none();
        self.serving = Some((to, self.disk[&to]));
        self.left = None;
        self.acted_on = self.disk.clone();
        if was_unloaded {
            self.act();
        }
        true
    }
}

fn step() -> impl Strategy<Value = Step> {
    let content = prop_oneof![
        10 => Just(Content::Good),
        1 => Just(Content::Narrow),
        2 => Just(Content::Bad),
        1 => Just(Content::Panic),
    ];
    prop_oneof![
        8 => (1_u64..4, content).prop_map(|(version, content)| Step::Put(version, content)),
        1 => (1_u64..4).prop_map(Step::Delete),
        8 => Just(Step::Settle),
        2 => Just(Step::Glimpse),
        2 => Just(Step::Load),
        1 => Just(Step::Unload),
        4 => Just(Step::Rollback),
        1 => Just(Step::Hide),
        1 => Just(Step::Restart),
    ]
}

fn take(step: Step, stage: &mut Stage, naive: &mut Naive, count: u64) -> Result<(), TestCaseError> {
    match step {
        Step::Put(version, content) => {
            stage.put(
                &format!("m/{version}/model.onnx"),
                &format!("{} {count}", content.word()),
            );
            naive.disk.insert(version, (content, count));
        }
        Step::Delete(version) => {
            if naive.disk.remove(&version).is_some() {
                stage.remove(&format!("m/{version}"));
            }
        }
        Step::Glimpse => stage.scan(),
        Step::Settle => {
            stage.settle();
            let is_lost = naive.disk.is_empty() && naive.serving.is_some();
            if naive.acted_on != naive.disk && !is_lost {
                naive.act();
            }
        }
        Step::Load => {
            let loaded = stage.repository.load("m").is_ok();
            prop_assert!(!loaded || !naive.disk.is_empty());
            if !naive.disk.is_empty() {
                naive.withdrawn.clear();
                naive.act();
                let highest = naive
                    .disk
                    .last_key_value()
                    .map(|(version, written)| (*version, *written));
                prop_assert_eq!(loaded, naive.serving == highest);
            }
        }
        Step::Unload => {
            if stage.repository.unload("m").is_ok() {
                naive.left = naive.serving.take().or(naive.left);
                naive.acted_on = naive.disk.clone();
                if naive.disk.is_empty() {
                    naive.forget();
                }
            }
        }
        Step::Rollback => {
            let has_gone_back = stage.repository.rollback("m").is_ok();
            prop_assert_eq!(has_gone_back, naive.rollback());
        }
        Step::Hide => {
            // Time that passes while nothing can be seen counts for what is the same afterwards; the rules here know no
            // time, so that there must not be anything which has only been glimpsed.
            take(Step::Settle, stage, naive, count)?;
            let away = stage.folder.path().with_extension("away");
            fs::rename(stage.folder.path(), &away).expect("it is ours");
            stage.settle();
            prop_assert_eq!(serving(stage), expected(naive));
            fs::rename(&away, stage.folder.path()).expect("it is ours");
            return take(Step::Settle, stage, naive, count);
        }
        Step::Restart => {
            stage.restart();
            let disk = std::mem::take(&mut naive.disk);
            *naive = Naive {
                disk,
                ..Naive::default()
            };
            naive.act();
        }
    }
    Ok(())
}

fn serving(stage: &Stage) -> Option<(u64, String)> {
    let served = stage.repository.find("m", None).ok()?;
    Some((served.version, served.model.name().to_owned()))
}

fn expected(naive: &Naive) -> Option<(u64, String)> {
    let (version, (content, count)) = naive.serving?;
    Some((version, format!("{} {count}", content.word())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_serves_is_what_the_rules_say(steps in prop::collection::vec(step(), 1..100)) {
        let mut stage = Stage::with(&[]);
        let mut naive = Naive::default();
        for (count, step) in (0..).zip(steps) {
            take(step, &mut stage, &mut naive, count)?;
            prop_assert_eq!(serving(&stage), expected(&naive), "after step {}: {:?}", count, step);
            for served in stage.repository.models().iter().flat_map(|model| &model.versions) {
                let content = served.model.name();
                prop_assert!(content.starts_with("good") || content.starts_with("narrow"), "{}", content);
            }
        }
    }
}
