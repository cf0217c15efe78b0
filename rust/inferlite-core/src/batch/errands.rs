//! Serving the queue: what is decided under its lock, and what is done about it afterwards.

use std::sync::Arc;
use std::time::Duration;

use super::lead::Leading;
use super::queue::{Member, Next, Place};
use super::{Batch, Batcher, Item, State, closed, is_gone, late};
use crate::error::Error;
use crate::flight::{Called, Ending, wake};
use crate::model::Model;
use crate::sync::{MutexGuard, locked};
use crate::ticket::PATIENCE;

/// Which batch the thread that serves may lead itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    /// None.
    None,
    /// The one with the call that stands at this place: its own.
    Place(Place),
    /// One that is expected to be over within this time.
    Within(Duration),
}

/// What is left to do once the queue is unlocked.
#[derive(Debug, Default)]
pub(super) struct Errands {
    /// The batch that the thread leads itself.
    pub(super) own: Option<Batch>,
    calls: Vec<Called>,
    jobs: Vec<(Place, Arc<Model>)>,
    pub(super) dropped: Vec<Member<Item>>,
}

impl Errands {
    fn is_empty(&self) -> bool {
        self.own.is_none() && self.calls.is_empty() && self.jobs.is_empty() && self.dropped.is_empty()
    }
}

impl Batcher {
    /// Forms as many batches as are due and may run, and appoints who leads them.
    pub(super) fn serve(&self, state: &mut State, own: Own) -> Errands {
        let mut errands = Errands::default();
        if !state.queue.is_empty() {
            // Before any look for room: whoever goes out after that look finds this.
            self.gate.set_queued(true);
        }
        while !state.queue.is_empty() && self.gate.enter_for_queue() {
            let Some(batch) = state.form(self.clock.now(), &mut errands.dropped) else {
                self.gate.leave();
                break;
            };
            self.appoint(state, batch, own, &mut errands);
        }
        if state.queue.is_empty() {
            self.gate.set_queued(false);
        }
        state.counts.dropped += errands.dropped.len() as u64;
        errands
    }

    /// Finds who leads a batch for which a run is set aside.
    pub(super) fn appoint(&self, state: &mut State, batch: Batch, own: Own, errands: &mut Errands) {
        let is_own = match own {
            Own::None => false,
            Own::Place(place) => batch.members.iter().any(|member| member.place == place),
            Own::Within(patience) => {
                let time = state.tuning.time(batch.kind.workload(), batch.rows());
                time.is_some_and(|time| time < patience)
            }
        };
        if is_own && errands.own.is_none() {
            errands.own = Some(batch);
            return;
        }
        let mut waiting = batch.members.iter().filter(|member| member.item.away.is_none());
        let called = waiting.find_map(|member| Some((member.place, member.item.leader.call()?)));
        let model = || {
            batch
                .members
                .iter()
                .find_map(|member| Some((member.place, member.item.away.clone()?)))
        };
        if let Some((place, called)) = called {
            errands.calls.push(called);
            state.appointed.push((place, batch));
        } else if let Some((place, model)) = model() {
            errands.jobs.push((place, model));
            state.appointed.push((place, batch));
        } else {
            // All of them are gone.
            self.gate.leave();
            errands.dropped.extend(batch.members);
        }
    }

    /// Does what was decided, and gives back the batch that the thread leads itself.
    pub(super) fn carry_out(&self, errands: Errands) -> Option<Batch> {
        let mut own = errands.own;
        let (mut calls, mut jobs, mut dropped) = (errands.calls, errands.jobs, errands.dropped);
        loop {
            calls.drain(..).for_each(Called::wake);
            wake(
                dropped
                    .drain(..)
                    .flat_map(|member| member.item.leader.end_quietly(Ending::Error(late()))),
            );
            let Some((place, model)) = jobs.pop() else { return own };
            let job = move || {
                if let Some(batcher) = model.batcher() {
                    batcher.lead_appointed(&model, place, Leading::Worker);
                }
            };
            let Err(error) = self.workers.spawn(job) else { continue };
            // There is no thread to be had: those who would have waited for it are told, and the next ones served.
            let more = self.give_up(place, &error);
            own = own.or(more.own);
            calls.extend(more.calls);
            jobs.extend(more.jobs);
            dropped.extend(more.dropped);
        }
    }

    fn give_up(&self, place: Place, error: &Error) -> Errands {
        let mut state = locked(&self.state);
        let Some(batch) = state.appointed(place) else {
            return Errands::default();
        };
        self.gate.leave();
        let errands = self.serve(&mut state, Own::None);
        drop(state);
        end_all(batch.members, error);
        errands
    }

    /// Gives back a run that was set aside, and serves whoever waits.
    pub(super) fn release(&self) {
        let mut state = locked(&self.state);
        self.gate.leave();
        state.returning = state.left_last;
        let errands = self.serve(&mut state, Own::None);
        state.returning = 0;
        drop(state);
        self.carry_out(errands);
    }

    /// Finds somebody else for a batch whose leader has been called and does not come.
    pub(super) fn pass_on(&self, place: Place) {
        let mut state = locked(&self.state);
        let Some(mut batch) = state.appointed(place) else {
            return;
        };
        let mut errands = Errands::default();
        let (gone, staying) = batch.members.into_iter().partition(|member| member.place == place);
        errands.dropped = gone;
        batch.members = staying;
        self.appoint(&mut state, batch, Own::None, &mut errands);
        let more = self.serve(&mut state, Own::None);
        drop(state);
        self.carry_out(errands);
        self.carry_out(more);
    }

    /// Takes those out of the line who are gone, where nobody else would until the next call comes.
    pub(super) fn clear_out(&self) {
        if self.max_delay.is_none() {
            // Whoever ends the run that is under way does.
            return;
        }
        let mut state = locked(&self.state);
        let gone = state.queue.sweep(self.clock.now(), is_gone);
        state.counts.dropped += gone.len() as u64;
        let mut errands = self.serve(&mut state, Own::None);
        errands.dropped.extend(gone);
        drop(state);
        self.carry_out(errands);
    }

    /// Serves those who wait at once, and whoever is on the way still, such as the rows of a call that a worker looks up;
    /// or takes no more calls, and tells those who wait that it is over.
    pub(crate) fn close(&self, cancels: bool) {
        let mut state = locked(&self.state);
        if cancels {
            state.is_closed = true;
            self.gate.hold();
        }
        state.queue.wait_no_longer();
        let cancelled = if cancels { state.queue.take_all() } else { Vec::new() };
        let errands = self.serve(&mut state, Own::None);
        drop(state);
        self.windows.notify_all();
        end_all(cancelled, &closed());
        self.carry_out(errands);
    }

    /// Has somebody watch the windows of calls whose callers do not, if there are windows and nobody does yet.
    pub(super) fn have_windows_watched(&self, mut state: MutexGuard<'_, State>, model: &Arc<Model>) {
        if self.max_delay.is_none() || state.queue.is_empty() {
            return;
        }
        if state.has_watchman {
            drop(state);
            self.windows.notify_all();
            return;
        }
        state.has_watchman = true;
        drop(state);
        let watched = model.clone();
        let watch = move || {
            if let Some(batcher) = watched.batcher() {
                batcher.watch_windows();
            }
        };
        if self.workers.spawn(watch).is_err() {
            // Without a thread to wait there is no waiting.
            let mut state = locked(&self.state);
            state.has_watchman = false;
            state.queue.wait_no_longer();
            let errands = self.serve(&mut state, Own::None);
            drop(state);
            self.carry_out(errands);
        }
    }

    /// Serves the queue whenever a window is over, until it is empty.
    fn watch_windows(&self) {
        let mut state = locked(&self.state);
        loop {
            let errands = self.serve(&mut state, Own::None);
            if !errands.is_empty() {
                drop(state);
                self.carry_out(errands);
                state = locked(&self.state);
                continue;
            }
            let now = self.clock.now();
            let State {
                queue, tuning, apart, ..
            } = &*state;
            let pause = match queue.next(now, |kind| State::limit(tuning, apart, kind)) {
                Next::Nothing => {
                    state.has_watchman = false;
                    return;
                }
                // Whoever ends a run serves them.
                Next::Due => PATIENCE,
                Next::At(due) => due.saturating_sub(now).min(PATIENCE),
            };
            let waited = self.windows.wait_timeout(state, pause.max(Duration::from_micros(50)));
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

pub(super) fn end_all(members: Vec<Member<Item>>, error: &Error) {
    let end = |member: Member<Item>| member.item.leader.end_quietly(Ending::Error(error.clone()));
    wake(members.into_iter().flat_map(end));
}
