//! Carrying out what the folder, or somebody, wants to be served.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::layout::{self, FoundModel, FoundVersion};
use super::lineup::{self, Failures, Lineup};
use super::record::Attempt;
use super::served::{Event, Served};
use super::settings::{ModelSettings, VersionPolicy};
use super::settling::Settled;
use super::{Repository, State, VersionFiles};
use crate::error::{Error, ErrorKind, Result};

/// A load that has taken that long is not waited for by others.
const LONG: Duration = Duration::from_secs(30);

const CHANGED: &str = "its files have changed while it was being loaded";

impl Repository {
    /// Loads what the folder holds of a model now, versions that were rolled back and those that failed included.
    ///
    /// What serves already and has not changed goes on as it is. An error where anything that should serve does not;
    /// what served before goes on then.
    pub fn load(&self, name: &str) -> Result<()> {
        self.look_at(name)?;
        let turn = self.turn(name);
        let _held = self.take(name, &turn)?;
        // To come to one's turn may have taken a while.
        let model = self.look_at(name)?;
        self.settle_at_once(name, Some(&model));
        {
            let mut state = self.state();
            if state.is_closed {
                return Err(closed());
            }
            if let Some(record) = state.records.get_mut(name) {
                record.withdrawn.clear();
                record.attempts.clear();
            }
        }
        self.carry_out(name, Some(model), &|_| ());
        let state = self.state();
        if state.is_closed {
            return Err(closed());
        }
        let Some(record) = state.records.get(name) else {
            return Ok(());
        };
        let trouble = record.trouble.as_ref();
        let own = record.failures.iter().filter(|(_, reason)| Some(*reason) != trouble);
        let versions = own.map(|(version, reason)| format!("version {version}: {reason}"));
        let reasons: Vec<String> = trouble.cloned().into_iter().chain(versions).collect();
        if reasons.is_empty() {
            return Ok(());
        }
        let message = format!("model `{name}` could not be loaded: {}", reasons.join("; "));
        Err(Error::new(ErrorKind::Fail, message))
    }

    /// Takes all versions of a model out of service, until its files change or somebody loads it.
    pub fn unload(&self, name: &str) -> Result<()> {
        let turn = self.turn_of_known(name)?;
        let _held = self.take(name, &turn)?;
        let found = layout::scan_model(&self.root, name).ok();
        if let Some(found) = &found {
            self.settle_at_once(name, found.as_ref());
        }
        let mut state = self.state();
        let Some(record) = state.records.get_mut(name) else {
            return Err(unknown(name));
        };
        record.is_unloaded = true;
        record.left = record.latest();
        record.failures.clear();
        record.trouble = None;
        if found == Some(None) {
            record.forget();
        }
        if let Some(found) = found {
            record.acted_on = Some(found.into());
        }
        let old = record.retire();
        let old_map = self.publish_model(&state, name);
        drop(state);
        drop((old, old_map));
        Ok(())
    }

    /// Has the version serve again that served by default before the present one, and takes that one out of service,
    /// until its files change or somebody loads the model; gives the version that serves now.
    ///
    /// Of a model that was unloaded, the present one is the one that served until then: whoever wants that one loads the
    /// model. What comes is opened if it does not serve, with the settings that count now, and not compared with the
    /// present one. What was replaced under its own number is not in the folder any more, and cannot be gone back to.
    pub fn rollback(&self, name: &str) -> Result<u64> {
        let turn = self.turn_of_known(name)?;
        let _held = self.take(name, &turn)?;
        let mut found = self.look_at(name)?;
        let (lineup, history, known, from) = {
            let state = self.state();
            let record = state.records.get(name).ok_or_else(|| unknown(name))?;
            let known = record.settings.clone().unwrap_or_default();
            (record.lineup.clone(), record.history.clone(), known, record.latest())
        };
        let (settings, trouble) = match settings_of(&found) {
            Ok(settings) => (Arc::new(settings), None),
            Err(reason) => (known, Some(reason)),
        };
        let Some(from) = from else {
            return Err(no_way_back(name, "no version of it has served by default: load it"));
        };
        let there = |version: &u64| {
            let found = found.versions.get(version)?.as_ref().ok()?;
            (*version != from).then_some((*version, found))
        };
        let Some((version, files)) = history.iter().rev().find_map(there) else {
            let reason = format!(
                "no version that served before version {from} is in the folder: put one there and load it, under a higher \
                 number"
            );
            return Err(no_way_back(name, &reason));
        };
        let to = self
            .bring(name, version, files, &settings, &lineup, &|_| ())
            .map_err(|reason| no_way_back(name, &format!("version {version}: {reason}")))?;
        self.settle_at_once(name, Some(&found));
        let mut state = self.state();
        if state.is_closed {
            return Err(closed());
        }
        let Some(record) = state.records.get_mut(name) else {
            return Err(unknown(name));
        };
        if let Some(Ok(on_disk)) = found.versions.get(&from) {
            record.withdrawn.insert(from, on_disk.stamp.clone());
        }
        record.failures.remove(&from);
        record.failures.remove(&version);
        // What lies between was not there to go back to, and is not later either.
        let keep = record
            .history
            .iter()
            .rposition(|&earlier| earlier == version)
            .unwrap_or(0);
        record.history.truncate(keep);
        let next = match lineup.by_default() {
            Some(_) => lineup.rolled_back(&to),
            None => Lineup::of_one(&to, from, &settings),
        };
        let was_unloaded = std::mem::take(&mut record.is_unloaded);
        record.left = None;
        record.settings = Some(settings);
        record.trouble = trouble;
        let again = was_unloaded.then(|| found.clone());
        // Other versions that serve have the settings of before: whoever watches sees that these have changed.
        if let Some(Settled::There(before)) = &record.acted_on {
            found.settings.clone_from(&before.settings);
        }
        record.acted_on = Some(Settled::There(found));
        let old = record.exchange(next);
        let old_map = self.publish_model(&state, name);
        drop(state);
        drop((old, old_map));
        if let Some(found) = again {
            // All else that served is to serve again as well.
            self.carry_out(name, Some(found), &|_| ());
        }
        Ok(version)
    }

    /// What the folder holds of one model.
    fn look_at(&self, name: &str) -> Result<FoundModel> {
        let found = layout::scan_model(&self.root, name)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, self.unreadable(&error)))?;
        let found = found.ok_or_else(|| unknown(name))?;
        let mut state = self.state();
        state.unreadable = None;
        if let Some(record) = state.records.get_mut(name) {
            record.is_lost = false;
        }
        Ok(found)
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> String {
        format!("the repository `{}` cannot be read: {error}", self.root.display())
    }

    /// Takes what is found for what is there for good.
    pub(super) fn settle_at_once(&self, name: &str, found: Option<&FoundModel>) {
        let mut state = self.state();
        let record = state.records.entry(name.to_owned()).or_default();
        let _ = record.watched.observe(found, self.clock.now(), Duration::ZERO);
    }

    fn turn(&self, name: &str) -> Arc<Mutex<()>> {
        self.state().records.entry(name.to_owned()).or_default().turn.clone()
    }

    /// Waits for the turn of a model, but not for a load that may never end: each who asked would leave a thread in it.
    fn take<'a>(&self, name: &str, turn: &'a Mutex<()>) -> Result<MutexGuard<'a, ()>> {
        match turn.try_lock() {
            Ok(held) => return Ok(held),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        let since = {
            let state = self.state();
            let record = state.records.get(name);
            record.and_then(|record| record.loading.values().min().copied())
        };
        let took = since.map(|since| self.clock.now().saturating_sub(since));
        match took.filter(|&took| took >= LONG) {
            None => Ok(hold(turn)),
            Some(took) => Err(Error::new(
                ErrorKind::Fail,
                format!(
                    "model `{name}` has been loading for {} s, and nothing else can be done with it before that is over: \
                     restart the server if it never is",
                    took.as_secs()
                ),
            )),
        }
    }

    fn turn_of_known(&self, name: &str) -> Result<Arc<Mutex<()>>> {
        let state = self.state();
        let record = state.records.get(name).filter(|record| !record.is_gone());
        record.map(|record| record.turn.clone()).ok_or_else(|| unknown(name))
    }

    /// Has a model serve as the folder has it, as far as that can be done; whoever calls this has its turn.
    pub(super) fn carry_out(&self, name: &str, found: Option<FoundModel>, progress: &dyn Fn(Event)) {
        let Some(found) = found else {
            return self.install(name, None, Lineup::default(), Failures::new(), None, progress);
        };
        let settings = match settings_of(&found) {
            Ok(settings) => Arc::new(settings),
            Err(reason) => return self.leave_alone(name, found, reason, progress),
        };
        let (lineup, withdrawn, mut attempts) = {
            let mut state = self.state();
            let record = state.records.entry(name.to_owned()).or_default();
            record.forgive(&found);
            let attempts = std::mem::take(&mut record.attempts);
            (record.lineup.clone(), record.withdrawn.clone(), attempts)
        };
        attempts.retain(|version, attempt| {
            let files = found.versions.get(version).and_then(|files| files.as_ref().ok());
            files.is_some_and(|files| attempt.still_holds(files, &found, &lineup))
        });
        let (wanted, mut failures) = lineup::wanted(&settings, &found, |version| withdrawn.contains_key(&version));
        let mut ready = BTreeMap::new();
        let bring = |version: u64, ready: &mut BTreeMap<u64, Arc<Served>>, failures: &mut Failures| {
            let brought = match (found.versions.get(&version), attempts.get(&version)) {
                (Some(Ok(_)), Some(attempt)) => Err(attempt.reason.clone()),
                (Some(Ok(files)), None) => self.bring(name, version, files, &settings, &lineup, progress),
                (Some(Err(reason)), _) => Err(reason.clone()),
                (None, _) => return,
            };
            match brought {
                Ok(served) => drop(ready.insert(version, served)),
                Err(reason) => drop(failures.insert(version, reason)),
            }
        };
        for &version in &wanted {
            bring(version, &mut ready, &mut failures);
        }
        // A process that starts while the newest version is no good serves what it would have gone on serving.
        if let VersionPolicy::Latest(_) = settings.versions {
            let lower = found.versions.keys().rev().copied();
            for version in lower.filter(|version| !wanted.contains(version) && !withdrawn.contains_key(version)) {
                if lineup.serves() || !ready.is_empty() {
                    break;
                }
                bring(version, &mut ready, &mut failures);
            }
        }
        let opened: BTreeSet<u64> = ready.keys().copied().collect();
        let next = lineup.next(ready, &mut failures, &settings, &found);
        for (version, reason) in &failures {
            let Some(Ok(files)) = found.versions.get(version) else {
                continue;
            };
            // What has changed while it was opened is something else to try.
            if !withdrawn.contains_key(version) && files.is_unchanged(&self.root) == Ok(true) {
                let beside = opened.contains(version).then_some(&*lineup);
                let attempt = || Attempt::new(files, &found, beside, reason);
                attempts.entry(*version).or_insert_with(attempt);
            }
        }
        if let Some(record) = self.state().records.get_mut(name) {
            record.attempts = attempts;
        }
        self.install(name, Some(found), next, failures, Some(settings), progress);
    }

    /// Leaves a model as it serves, whose settings or folder cannot be read.
    fn leave_alone(&self, name: &str, found: FoundModel, reason: String, progress: &dyn Fn(Event)) {
        let mut state = self.state();
        let record = state.records.entry(name.to_owned()).or_default();
        record.trouble = Some(reason.clone());
        // Why versions failed under settings that are no more would be no help. Those that are there still fail.
        record
            .failures
            .retain(|version, _| found.versions.contains_key(version));
        record.failures.values_mut().for_each(|own| own.clone_from(&reason));
        record.acted_on = Some(Settled::There(found));
        drop(state);
        progress(Event::Failed {
            name: name.to_owned(),
            version: None,
            reason,
        });
    }

    /// The version as it serves already, if nothing about it has changed, or else opened anew.
    fn bring(
        &self,
        name: &str,
        version: u64,
        files: &FoundVersion,
        settings: &Arc<ModelSettings>,
        lineup: &Lineup,
        progress: &dyn Fn(Event),
    ) -> Result<Arc<Served>, String> {
        let is_current = |served: &&Arc<Served>| served.stamp == files.stamp && served.settings.open_alike(settings);
        match lineup.version(version).filter(is_current) {
            Some(served) => Ok(served.clone()),
            None => self.open(name, version, files, settings, progress),
        }
    }

    fn open(
        &self,
        name: &str,
        version: u64,
        files: &FoundVersion,
        settings: &Arc<ModelSettings>,
        progress: &dyn Fn(Event),
    ) -> Result<Arc<Served>, String> {
        let _loading = Loading::new(self, name, version);
        progress(Event::Loading {
            name: name.to_owned(),
            version,
        });
        let is_unchanged = || match files.is_unchanged(&self.root) {
            Ok(true) => Ok(()),
            Ok(false) => Err(CHANGED.to_owned()),
            Err(reason) => Err(format!("{CHANGED}: {reason}")),
        };
        is_unchanged()?;
        let version_files = VersionFiles {
            name: name.to_owned(),
            version,
            path: files.path.clone(),
        };
        let begun = self.clock.now();
        let opened = catch_unwind(AssertUnwindSafe(|| self.opener.open(&version_files, settings)));
        // What was read of files that change is no good, whether it could be read or not.
        is_unchanged()?;
        let model = opened
            .map_err(|panic| format!("it panicked while it was being loaded: {}", text_of(&*panic)))?
            .map_err(|error| error.message().to_owned())?;
        let now = self.clock.now();
        Ok(Arc::new(Served {
            name: Arc::from(name),
            version,
            version_text: version.to_string().into(),
            model,
            settings: settings.clone(),
            instance: self.instances.fetch_add(1, Ordering::Relaxed),
            opened_at: now,
            opened_in: now.saturating_sub(begun),
            stamp: files.stamp.clone(),
        }))
    }

    /// Exchanges who serves, all at once; what is replaced ends with the last request that has it.
    fn install(
        &self,
        name: &str,
        found: Option<FoundModel>,
        next: Lineup,
        failures: Failures,
        settings: Option<Arc<ModelSettings>>,
        progress: &dyn Fn(Event),
    ) {
        let mut state = self.state();
        if state.is_closed {
            // The models that were opened end here, which may take a while.
            drop(state);
            return;
        }
        let record = state.records.entry(name.to_owned()).or_default();
        let events = events(name, &record.lineup, &next, &failures);
        let is_there = |version: &u64| found.as_ref().is_some_and(|found| found.versions.contains_key(version));
        let before = record.latest().filter(is_there);
        record.succeed(before, next.by_default().map(|served| served.version));
        let is_empty = found.as_ref().is_some_and(|found| found.versions.is_empty());
        record.trouble = is_empty.then(|| "it has no version in the folder, such as `1/model.onnx`".to_owned());
        record.failures = failures;
        record.is_unloaded = false;
        record.left = None;
        record.settings = settings;
        if found.is_none() {
            record.forget();
        }
        record.acted_on = Some(found.into());
        let old = record.exchange(next);
        let old_map = self.publish_model(&state, name);
        drop(state);
        drop((old, old_map));
        events.into_iter().for_each(progress);
    }

    /// Has requests find what the record of a model says; the old map is for the caller to drop, outside of all locks.
    fn publish_model(&self, state: &State, name: &str) -> Arc<super::Serving> {
        let mut map = super::Serving::clone(&self.serving());
        match state.records.get(name).filter(|record| record.lineup.serves()) {
            Some(record) => drop(map.insert(Arc::from(name), record.lineup.clone())),
            None => drop(map.remove(name)),
        }
        self.publish(Arc::new(map))
    }
}

/// Shows a version as being loaded, until it is dropped.
struct Loading<'a> {
    repository: &'a Repository,
    name: &'a str,
    version: u64,
}

impl<'a> Loading<'a> {
    fn new(repository: &'a Repository, name: &'a str, version: u64) -> Self {
        let mut state = repository.state();
        let record = state.records.entry(name.to_owned()).or_default();
        record.loading.insert(version, repository.clock.now());
        drop(state);
        Self {
            repository,
            name,
            version,
        }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.repository.state().records.get_mut(self.name) {
            record.loading.remove(&self.version);
        }
    }
}

/// What the exchange of one lineup for another looks like from outside.
fn events(name: &str, old: &Lineup, next: &Lineup, failures: &Failures) -> Vec<Event> {
    let name = || name.to_owned();
    let is_new = |served: &&Arc<Served>| {
        let before = old.version(served.version);
        !before.is_some_and(|before| Arc::ptr_eq(before, served))
    };
    let loaded = next.versions().iter().filter(is_new).map(|served| Event::Loaded {
        name: name(),
        version: served.version,
        took: served.opened_in,
    });
    let failed = failures.iter().map(|(version, reason)| Event::Failed {
        name: name(),
        version: Some(*version),
        reason: reason.clone(),
    });
    let has_gone = |served: &&Arc<Served>| next.version(served.version).is_none();
    let unloaded = old.versions().iter().filter(has_gone).map(|served| Event::Unloaded {
        name: name(),
        version: served.version,
    });
    loaded.chain(failed).chain(unloaded).collect()
}

/// The settings that a model has in the folder, unless they or the folder cannot be read.
fn settings_of(found: &FoundModel) -> Result<ModelSettings, String> {
    if let Some(reason) = &found.unreadable {
        return Err(reason.clone());
    }
    let Some((path, stamp)) = &found.settings else {
        return Ok(ModelSettings::default());
    };
    let settings = ModelSettings::read(path).map_err(|error| error.message().to_owned())?;
    match (settings, layout::file_stamp(path)) {
        (Some(settings), Ok(now)) if now == *stamp => Ok(settings),
        _ => Err(format!("{}: it has changed while it was being read", path.display())),
    }
}

/// What a panic says.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it does not say why")
}

pub(super) fn hold(turn: &Mutex<()>) -> MutexGuard<'_, ()> {
    turn.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no model `{name}`"))
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the repository is closed")
}

fn no_way_back(name: &str, reason: &str) -> Error {
    Error::new(
        ErrorKind::Fail,
        format!("model `{name}` cannot be rolled back: {reason}"),
    )
}
