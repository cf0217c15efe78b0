//! Calls that come together, and leave together at once.

use std::time::Duration;

use super::gather::Gathered;
use super::kind::Kind;
use super::lead::{Ended, Slot};
use super::queue::Why;
use super::{Batcher, State};
use crate::error::Result;
use crate::model::Model;
use crate::question::Question;
use crate::runtime::Outputs;
use crate::sync::locked;

impl Batcher {
    /// Runs calls as one batch on this thread, if they can share one, nobody waits, a run is to be had and it is expected
    /// to be over within `patience`; gives what each has come to.
    ///
    /// `None` if they have to stand in line instead: so does a batch that fails, whose culprit is found there.
    pub(crate) fn run_all_at_once(
        &self,
        model: &Model,
        questions: &[&Question],
        patience: Duration,
    ) -> Option<Vec<Result<Outputs<'static>>>> {
        let (first, others) = questions.split_first()?;
        let (kind, rows_of_first) = Kind::of(&first.call(None), &self.layout)?;
        let mut rows = Vec::with_capacity(questions.len());
        rows.push(rows_of_first);
        for question in others {
            rows.push(kind.rows_of(&question.call(None), &self.layout)?);
        }
        let total = rows.iter().sum();
        if !self.gate.enter() {
            return None;
        }
        let slot = Slot(self);
        if !self.would_fit(&kind, questions.len(), total, patience) {
            return None;
        }
        let outputs = if questions.len() == 1 {
            let run = || model.run_by_itself(&first.call(None));
            let outputs = match self.run_timed(&kind, total, run) {
                Ended::Outputs(outputs) => Ok(Outputs::of_values(outputs.into_values())),
                Ended::Failed(error) | Ended::Panicked(error) => Err(error),
            };
            drop(slot);
            vec![outputs]
        } else {
            let gathered = Gathered::of(questions, &self.layout)?;
            let run = || model.run_together(&gathered.call(None), &rows);
            match self.run_timed(&kind, total, run) {
                Ended::Outputs(outputs) if gathered.can_be_split(&outputs, total) => {
                    // The next batch runs while this one is taken apart.
                    drop(slot);
                    gathered.split(&outputs, &rows).map(Ok).collect()
                }
                Ended::Outputs(_) | Ended::Failed(_) => return None,
                Ended::Panicked(error) => questions.iter().map(|_| Err(error.clone())).collect(),
            }
        };
        for _ in questions {
            self.queue_time.record(Duration::ZERO);
        }
        let mut state = locked(&self.state);
        state.count(Why::Idle, total);
        state.left_last = total;
        drop(state);
        Some(outputs)
    }

    /// Whether so many calls of a kind share a batch, of which it is known that it is over soon.
    fn would_fit(&self, kind: &Kind, calls: usize, rows: usize, patience: Duration) -> bool {
        let State { tuning, apart, .. } = &*locked(&self.state);
        let fits = calls == 1 || rows <= State::limit(tuning, apart, kind);
        fits && tuning.time(kind.workload(), rows).is_some_and(|time| time < patience)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
