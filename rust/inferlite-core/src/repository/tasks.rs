//! What is to be done about the models of a folder, one task for each, for whoever has threads to do it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::Repository;
use super::layout::{self, Found, FoundModel};
use super::loading::{closed, hold};
use super::served::Event;
use super::settling::Settled;
use crate::error::{Error, ErrorKind, Result};

/// One model to load or unload, by what lay in the folder when somebody looked.
///
/// Tasks of different models may be carried out at once, on any thread, and in any order.
#[derive(Debug)]
pub struct Task {
    name: String,
    settled: Settled,
    turn: Arc<Mutex<()>>,
    /// Whether it is one of those that are waited for at the start.
    is_first: bool,
}

impl Repository {
    /// Loads all that is in the folder, one model after the other, on this thread.
    ///
    /// Nothing is waited for: a file that is still being written is opened as it is, and loads later if that fails. An
    /// error where the folder cannot be read; what is wrong with a model is in the index.
    pub fn load_all(&self, progress: &dyn Fn(Event)) -> Result<()> {
        for task in self.begin(progress)? {
            self.perform(task, progress);
        }
        if self.state().is_closed {
            return Err(closed());
        }
        Ok(())
    }

    /// Looks at the folder once, and loads or unloads what has changed in it and has stayed like that for long enough.
    ///
    /// A model that somebody else is loading is left for the next time. Where the folder cannot be read, or there is no
    /// model left in it, all that serves goes on until its files are back, or somebody unloads it: a volume that is gone
    /// for a moment looks like that, and a copy that went wrong.
    pub fn scan(&self, progress: &dyn Fn(Event)) {
        for task in self.due(progress) {
            self.perform(task, progress);
        }
    }

    /// What [`Repository::load_all`] does, as tasks for the caller: the repository has started once all are over.
    pub fn begin(&self, progress: &dyn Fn(Event)) -> Result<Vec<Task>> {
        let found = self
            .look(progress)
            .map_err(|reason| Error::new(ErrorKind::InvalidArgument, reason))?;
        progress(Event::Found {
            models: found.models.len(),
        });
        for (name, model) in &found.models {
            self.settle_at_once(name, Some(model));
        }
        let mut state = self.state();
        if state.is_closed {
            return Err(closed());
        }
        state.awaited = found.models.keys().cloned().collect();
        state.has_started = state.awaited.is_empty();
        let mut tasks = Vec::new();
        for (name, model) in found.models {
            let record = state.records.entry(name.clone()).or_default();
            if record.acted_on.is_none() {
                // Those who ask for it before its turn has come hear of it.
                record.trouble = Some("it waits to be loaded".to_owned());
            }
            tasks.push(Task {
                name,
                settled: Settled::There(model),
                turn: record.turn.clone(),
                is_first: true,
            });
        }
        Ok(tasks)
    }

    /// What [`Repository::scan`] does, as tasks for the caller.
    pub fn due(&self, progress: &dyn Fn(Event)) -> Vec<Task> {
        let Ok(found) = self.look(progress) else {
            for record in self.state().records.values_mut() {
                record.is_lost = record.lineup.serves();
            }
            return Vec::new();
        };
        let now = self.clock.now();
        let mut state = self.state();
        if state.is_closed {
            return Vec::new();
        }
        for name in found.models.keys() {
            state.records.entry(name.clone()).or_default();
        }
        let mut tasks = Vec::new();
        for (name, record) in &mut state.records {
            let model = found.models.get(name);
            record.is_lost &= model.is_none_or(FoundModel::is_bare);
            if record.is_lost {
                continue;
            }
            let Some(settled) = record.watched.observe(model, now, self.settings.settle) else {
                continue;
            };
            let has_changed = match &record.acted_on {
                Some(acted_on) => *acted_on != settled,
                None => settled != Settled::Gone,
            };
            if has_changed {
                tasks.push(Task {
                    name: name.clone(),
                    settled,
                    turn: record.turn.clone(),
                    is_first: false,
                });
            }
        }
        // Those that have a task are still held by it.
        state
            .records
            .retain(|name, record| found.models.contains_key(name) || !record.is_over());
        tasks
    }

    /// Loads or unloads a model, which may take as long as the model likes; one that somebody else is loading is left
    /// for the next time, except at the start.
    pub fn perform(&self, task: Task, progress: &dyn Fn(Event)) {
        let Task {
            name,
            settled,
            turn,
            is_first,
        } = task;
        let held = match turn.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if is_first => hold(&turn),
            Err(TryLockError::WouldBlock) => return,
        };
        // Whoever had the turn in the meantime may have done this, or more.
        let is_to_do = {
            let state = self.state();
            let record = state.records.get(&name);
            !state.is_closed && record.is_some_and(|record| record.acted_on.as_ref() != Some(&settled))
        };
        if is_to_do {
            let found = match settled {
                Settled::There(found) => Some(found),
                Settled::Gone => None,
            };
            self.carry_out(&name, found, progress);
        }
        drop(held);
        drop(turn);
        let mut state = self.state();
        if is_first && state.awaited.remove(&name) && state.awaited.is_empty() {
            state.has_started = true;
        }
        if state.records.get(&name).is_some_and(super::Record::is_over) {
            state.records.remove(&name);
        }
    }

    /// Has the index say what is refused in the folder now, and whether the folder can be read; nothing is loaded.
    ///
    /// For a folder that nobody watches. Where somebody is looking already, which may never end, this is left to them.
    pub fn look_around(&self) {
        let held = match self.looking.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if !self.state().is_closed {
            // What it says is in the index.
            let _ = self.look_through(&|_| ());
        }
        drop(held);
    }

    /// What of the folder is being looked at, and for how long by now: more than a moment means that its file system does
    /// not answer.
    #[must_use]
    pub fn looked_at(&self) -> Option<(PathBuf, Duration)> {
        let (path, since) = self.place().clone()?;
        Some((path, self.clock.now().saturating_sub(since)))
    }

    fn place(&self) -> MutexGuard<'_, Option<(PathBuf, Duration)>> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, progress: &dyn Fn(Event)) -> Result<Found, String> {
        let _held = hold(&self.looking);
        self.look_through(progress)
    }

    /// Looks through the folder, and says what is new about its being readable and about what is refused in it.
    fn look_through(&self, progress: &dyn Fn(Event)) -> Result<Found, String> {
        let at = |path: &Path| *self.place() = Some((path.to_owned(), self.clock.now()));
        let found = layout::scan(&self.root, &at).map_err(|error| self.unreadable(&error));
        *self.place() = None;
        let mut state = self.state();
        let serves = state.records.values().any(|record| record.lineup.serves());
        let found = found.and_then(|found| {
            if serves && found.is_bare() {
                return Err(format!(
                    "the repository `{}` holds no model any more, so that what serves goes on: unload what is to go",
                    self.root.display()
                ));
            }
            Ok(found)
        });
        let mut events = Vec::new();
        match &found {
            Ok(found) => {
                state.unreadable = None;
                let fresh = found
                    .refused
                    .iter()
                    .filter(|refused| !state.refused.contains(refused))
                    .cloned();
                events.extend(fresh.map(|refused| Event::Refused {
                    path: refused.path,
                    reason: refused.reason,
                }));
                state.refused.clone_from(&found.refused);
            }
            Err(reason) => {
                if state.unreadable.as_ref() != Some(reason) {
                    events.push(Event::Unreadable { reason: reason.clone() });
                }
                state.unreadable = Some(reason.clone());
            }
        }
        drop(state);
        events.into_iter().for_each(progress);
        found
    }
}
