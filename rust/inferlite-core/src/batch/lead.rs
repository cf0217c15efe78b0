//! Leading a batch: its inputs become those of one run, and its outputs those of its members.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::errands::Errands;
use super::gather::Gathered;
use super::kind::Kind;
use super::queue::{Member, Place};
use super::{Batch, Batcher, Item, is_gone};
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Claims, Ending, wake};
use crate::model::Model;
use crate::question::Question;
use crate::runtime::ort::RunOptions;
use crate::runtime::{Call, Outputs};
use crate::sync::locked;

/// Who leads a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leading {
    /// A thread that stays until the run is over: it waits for an answer of its own, or the run is a brief one.
    Member,
    /// A thread that wants no answer, so that all who do may leave while it runs.
    Worker,
}

/// How a batch runs, whole or in parts.
#[derive(Clone, Copy)]
struct Course<'m, 'k> {
    model: &'m Model,
    kind: &'k Kind,
    leading: Leading,
}

/// A run that is set aside for a batch; dropped, the queue is served.
pub(super) struct Slot<'a>(pub(super) &'a Batcher);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// How a run ended.
pub(super) enum Ended<'m> {
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
    pub(super) fn lead_appointed(&self, model: &Model, place: Place, leading: Leading) {
        let batch = locked(&self.state).appointed(place);
        if let Some(batch) = batch {
            self.lead(model, batch, leading);
        }
    }

    /// Runs a batch for which a run is set aside, with whoever has come since it was formed, and tells its members.
    pub(super) fn lead(&self, model: &Model, mut batch: Batch, leading: Leading) {
        let slot = Slot(self);
        let mut state = locked(&self.state);
        let now = self.clock.now();
        let mut errands = Errands::default();
        let (dropped, staying) = batch.members.into_iter().partition(|member| is_over(member, now));
        batch.members = staying;
        errands.dropped = dropped;
        if !batch.members.is_empty() {
            state.fill(&mut batch, now, &mut errands.dropped);
            state.count(batch.why, batch.rows());
            // A call that is larger is one caller all the same.
            state.left_last = batch.rows().min(state.tuning.most(batch.kind.workload()));
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
        let course = Course {
            model,
            kind: &batch.kind,
            leading,
        };
        self.run_part(course, batch.members, Some(slot), &mut answered);
        tell(model, answered);
    }

    /// Runs some calls of a kind together, or in parts where that fails.
    fn run_part<'m>(
        &self,
        course: Course<'m, '_>,
        mut members: Vec<Member<Item>>,
        slot: Option<Slot<'_>>,
        answered: &mut Answered<'m>,
    ) {
        if members.len() <= 1 {
            if let Some(member) = members.pop() {
                let outputs = self.run_one(course, &member);
                drop(slot);
                answered.push((member, outputs));
            }
            return;
        }
        let rows: Vec<usize> = members.iter().map(|member| member.asked.rows).collect();
        let questions: Vec<&Question> = members.iter().map(|member| &*member.item.question).collect();
        let Some(gathered) = Gathered::of(&questions, &self.layout) else {
            return self.run_apart(course, members, answered);
        };
        let options = course.options_to_end(&members);
        let call = gathered.call(options.as_deref());
        let run = || course.model.run_together(&call, &rows);
        match self.run_timed(course.kind, rows.iter().sum(), run) {
            Ended::Outputs(outputs) if gathered.can_be_split(&outputs, rows.iter().sum()) => {
                // The next batch runs while this one is taken apart.
                drop(slot);
                let parts: Vec<_> = gathered.split(&outputs, &rows).collect();
                drop(gathered);
                answered.extend(std::iter::zip(members, parts.into_iter().map(Ok)));
            }
            Ended::Outputs(outputs) => {
                drop((outputs, gathered));
                locked(&self.state).apart.insert(course.kind.hash());
                self.run_apart(course, members, answered);
            }
            Ended::Panicked(error) => {
                drop(gathered);
                answered.extend(members.into_iter().map(|member| (member, Err(error.clone()))));
            }
            Ended::Failed(_) => {
                drop(gathered);
                members = staying(members, answered);
                let second = members.split_off(members.len() / 2);
                for half in [members, second].into_iter().filter(|half| !half.is_empty()) {
                    self.count_retry();
                    self.run_part(course, half, None, answered);
                }
            }
        }
    }

    fn run_apart<'m>(&self, course: Course<'m, '_>, members: Vec<Member<Item>>, answered: &mut Answered<'m>) {
        for member in staying(members, answered) {
            self.count_retry();
            self.run_part(course, vec![member], None, answered);
        }
    }

    fn count_retry(&self) {
        locked(&self.state).counts.retried += 1;
    }

    /// Runs one call as it would run by itself; whoever asks may end the run by leaving.
    fn run_one<'m>(&self, course: Course<'m, '_>, member: &Member<Item>) -> Result<Outputs<'m>> {
        let may_leave = member.item.away.is_some() || course.leading == Leading::Worker;
        let options = if may_leave {
            course.model.engine().options_to_end()?.map(Arc::new)
        } else {
            None
        };
        if let Some(options) = &options {
            let claims = Claims::new(1, options.clone());
            member.item.leader.may_be_ended_by(&claims);
            if is_gone(&member.item) {
                return Err(deserted());
            }
        }
        let call = member.item.question.call(options.as_deref());
        let run = || course.model.run_by_itself(&call);
        self.run_timed(course.kind, member.asked.rows, run).into()
    }

    pub(super) fn run_timed<'m>(
        &self,
        kind: &Kind,
        rows: usize,
        run: impl FnOnce() -> Result<Outputs<'m>>,
    ) -> Ended<'m> {
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
        if let Some((kind, rows)) = Kind::of(call, &self.layout)
            && let Ok(mut state) = self.state.try_lock()
        {
            state.tuning.record(kind.workload(), rows, took);
        }
    }
}

impl Course<'_, '_> {
    /// Options by which the run of several calls ends once all of them are given up, if they may be.
    fn options_to_end(&self, members: &[Member<Item>]) -> Option<Arc<RunOptions>> {
        if self.leading == Leading::Member {
            return None;
        }
        // Without them the run takes as long as it takes.
        let options = self.model.engine().options_to_end().ok().flatten().map(Arc::new)?;
        let claims = Claims::new(members.len(), options.clone());
        for member in members {
            member.item.leader.may_be_ended_by(&claims);
        }
        Some(options)
    }
}

fn deserted() -> Error {
    Error::new(ErrorKind::Interrupted, "nobody waits for the answer")
}

/// Those who wait still after a run that has told nothing; the others need no run of their own.
fn staying(members: Vec<Member<Item>>, answered: &mut Answered<'_>) -> Vec<Member<Item>> {
    let (gone, staying): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| is_gone(&member.item));
    answered.extend(gone.into_iter().map(|member| (member, Err(deserted()))));
    staying
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
