//! Leading a batch: its inputs become those of one run, and its outputs those of its members.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::errands::Errands;
use super::gather::{Gathered, can_be_split, split};
use super::kind::Kind;
use super::queue::{Member, Place};
use super::{Batch, Batcher, Item, is_gone};
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Ending, wake};
use crate::model::Model;
use crate::question::Question;
use crate::runtime::{Call, Outputs};
use crate::sync::locked;

/// A run that is set aside for a batch; dropped, the queue is served.
struct Slot<'a>(&'a Batcher);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// How a run ended.
enum Ended<'m> {
    Outputs(Outputs<'m>),
    Failed(Error),
    Panicked(Error),
}

impl<'m> From<Ended<'m>> for Result<Outputs<'m>> {
    fn from(ended: Ended<'m>) -> Self {
        match ended {
            Ended::Outputs(outputs) => Ok(outputs),
            Ended::Failed(error) | Ended::Panicked(error) => Err(error),
        }
    }
}

/// Calls with what they have come to.
type Answered<'m> = Vec<(Member<Item>, Result<Outputs<'m>>)>;

pub(super) fn caught<'m>(run: impl FnOnce() -> Result<Outputs<'m>>) -> Result<Outputs<'m>> {
    ended(run).into()
}

fn ended<'m>(run: impl FnOnce() -> Result<Outputs<'m>>) -> Ended<'m> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(outputs)) => Ended::Outputs(outputs),
        Ok(Err(error)) => Ended::Failed(error),
        Err(_) => Ended::Panicked(Error::new(ErrorKind::RuntimeException, "the engine panicked")),
    }
}

impl Batcher {
    /// Leads the batch that somebody was called for, if it is still theirs.
    pub(super) fn lead_appointed(&self, model: &Model, place: Place) {
        let batch = locked(&self.state).appointed(place);
        if let Some(batch) = batch {
            self.lead(model, batch);
        }
    }

    /// Runs a batch for which a run is set aside, with whoever has come since it was formed, and tells its members.
    pub(super) fn lead(&self, model: &Model, mut batch: Batch) {
        let slot = Slot(self);
        let mut state = locked(&self.state);
        let now = self.clock.now();
        let mut errands = Errands::default();
        let (dropped, staying) = batch.members.into_iter().partition(|member| is_over(member, now));
        batch.members = staying;
        errands.dropped = dropped;
        if !batch.members.is_empty() {
            state.fill(&mut batch, now, &mut errands.dropped);
            state.count(&batch);
        }
        state.counts.dropped += errands.dropped.len() as u64;
        if state.queue.is_empty() {
            self.gate.set_queued(false);
        }
        drop(state);
        self.carry_out(errands);
        for member in &batch.members {
            self.queue_time.record(now.saturating_sub(member.asked.arrival));
            model.count_computed(&member.item.question);
        }
        let mut answered = Vec::with_capacity(batch.members.len());
        self.run_part(model, &batch.kind, batch.members, Some(slot), &mut answered);
        tell(model, answered);
    }

    /// Runs some calls of a kind together, or in parts where that fails.
    fn run_part<'m>(
        &self,
        model: &'m Model,
        kind: &Kind,
        mut members: Vec<Member<Item>>,
        slot: Option<Slot<'_>>,
        answered: &mut Answered<'m>,
    ) {
        if members.len() <= 1 {
            if let Some(member) = members.pop() {
                let outputs = self.run_one(model, kind, &member);
                drop(slot);
                answered.push((member, outputs));
            }
            return;
        }
        let rows: Vec<usize> = members.iter().map(|member| member.asked.rows).collect();
        let questions: Vec<&Question> = members.iter().map(|member| &*member.item.question).collect();
        let Some(gathered) = Gathered::of(&questions, &self.axes) else {
            return self.run_apart(model, kind, members, answered);
        };
        let call = gathered.call();
        match self.run_timed(kind, rows.iter().sum(), || model.run_together(&call, &rows)) {
            Ended::Outputs(outputs) if can_be_split(&outputs, call.fetches, &self.axes, rows.iter().sum()) => {
                // The next batch runs while this one is taken apart.
                drop(slot);
                let parts = split(&outputs, call.fetches, &self.axes, &rows);
                drop(gathered);
                let parts = parts.into_iter().map(|values| Ok(Outputs::of_values(values)));
                answered.extend(std::iter::zip(members, parts));
            }
            Ended::Outputs(outputs) => {
                drop((outputs, gathered));
                locked(&self.state).apart.insert(kind.hash());
                self.run_apart(model, kind, members, answered);
            }
            Ended::Panicked(error) => {
                drop(gathered);
                answered.extend(members.into_iter().map(|member| (member, Err(error.clone()))));
            }
            Ended::Failed(_) => {
                drop(gathered);
                let second = members.split_off(members.len() / 2);
                for half in [members, second] {
                    self.count_retry();
                    self.run_part(model, kind, half, None, answered);
                }
            }
        }
    }

    fn run_apart<'m>(&self, model: &'m Model, kind: &Kind, members: Vec<Member<Item>>, answered: &mut Answered<'m>) {
        for member in members {
            self.count_retry();
            self.run_part(model, kind, vec![member], None, answered);
        }
    }

    fn count_retry(&self) {
        locked(&self.state).counts.retried += 1;
    }

    /// Runs one call as it would run by itself; whoever asks may end the run by leaving.
    fn run_one<'m>(&self, model: &'m Model, kind: &Kind, member: &Member<Item>) -> Result<Outputs<'m>> {
        let options = match &member.item.away {
            Some(_) => model.engine().options_to_end()?.map(Arc::new),
            None => None,
        };
        if let Some(options) = &options {
            member.item.leader.may_be_ended_by(options.clone());
            // Whoever left before that had nothing to end the run by.
            if is_gone(&member.item) {
                return Err(Error::new(ErrorKind::Interrupted, "nobody waits for the answer"));
            }
        }
        let call = member.item.question.call(options.as_deref());
        self.run_timed(kind, member.asked.rows, || model.run_by_itself(&call))
            .into()
    }

    fn run_timed<'m>(&self, kind: &Kind, rows: usize, run: impl FnOnce() -> Result<Outputs<'m>>) -> Ended<'m> {
        let start = Instant::now();
        let ended = ended(run);
        if let Ended::Outputs(_) = &ended {
            let took = start.elapsed();
            self.compute_time.record(took);
            if !kind.is_alone() {
                locked(&self.state).tuning.record(kind.workload(), rows, took);
            }
        }
        ended
    }

    /// Takes note of how long a call by itself took, unless somebody else is at it.
    pub(super) fn learn_alone(&self, call: &Call<'_>, took: Duration) {
        if let Some((kind, rows)) = Kind::of(call, &self.axes)
            && let Ok(mut state) = self.state.try_lock()
        {
            state.tuning.record(kind.workload(), rows, took);
        }
    }
}

fn is_over(member: &Member<Item>, now: Duration) -> bool {
    is_gone(&member.item) || member.asked.deadline.is_some_and(|deadline| deadline <= now)
}

/// Gives everybody their answer, then wakes whoever is to be told, each once.
fn tell(model: &Model, answered: Answered<'_>) {
    let mut wakers = Vec::new();
    let mut computed = Vec::new();
    for (member, outputs) in answered {
        let Item { question, leader, .. } = member.item;
        let ending = model.ending(&leader, &question, outputs);
        if let Ending::Answer(entry) = &ending
            && question.key().is_some()
        {
            computed.push(entry.clone());
        }
        wakers.extend(leader.end_quietly(ending));
    }
    wake(wakers);
    for entry in &computed {
        model.share(entry);
    }
}
