//! Coming in: at once where a run is to be had, else by standing in line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::errands::{Errands, Own};
use super::kind::Kind;
use super::lead::{Leading, caught};
use super::queue::{Asked, Member, Place};
use super::{Batcher, Item, State, Terms, closed, is_gone, late};
use crate::cache::copied;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Ending, Leader, Seat, Woken};
use crate::model::Model;
use crate::question::Question;
use crate::runtime::{Answer, Call, Outputs};
use crate::sync::locked;
use crate::ticket::PATIENCE;

/// Of calls that run at once, one in so many is timed for the line.
const LEARNED: u64 = 64;

/// A call leaves when this part of its time is left beside that of its run: threads take a while to wake up.
const HASTE: u32 = 8;

/// A run of a call by itself.
struct Alone<'a>(&'a Batcher);

impl Drop for Alone<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.gate.leave_alone() {
            self.0.serve_those_who_wait();
        }
    }
}

/// A place in line that is given up when it is dropped.
struct InLine<'a> {
    batcher: &'a Batcher,
    seat: Option<Seat>,
    place: Place,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        if seat.leave() {
            self.batcher.pass_on(self.place);
        } else {
            self.batcher.clear_out();
        }
    }
}

/// A call for somebody who does not wait in this thread.
pub(crate) struct Request {
    pub(crate) question: Arc<Question>,
    pub(crate) leader: Leader,
    pub(crate) terms: Terms,
}

impl Batcher {
    /// Runs a call at once on this thread, if nobody waits and a run is to be had.
    #[inline]
    pub(crate) fn run_at_once<'m>(&self, model: &'m Model, call: &Call<'_>) -> Option<Result<Outputs<'m>>> {
        if !self.gate.enter() {
            return None;
        }
        let alone = Alone(self);
        if !self.gate.lone().is_multiple_of(LEARNED) {
            return Some(caught(|| model.run_by_itself(call)));
        }
        let start = Instant::now();
        let outputs = caught(|| model.run_by_itself(call));
        let took = start.elapsed();
        drop(alone);
        if outputs.is_ok() {
            self.learn_alone(call, took);
        }
        Some(outputs)
    }

    #[cold]
    fn serve_those_who_wait(&self) {
        let mut state = locked(&self.state);
        let errands = self.serve(&mut state, Own::None);
        drop(state);
        self.carry_out(errands);
    }

    /// Runs a call: at once, or in a batch, which this thread may have to lead. Asks `check` every 50 ms meanwhile
    /// whether to go on waiting.
    pub(crate) fn run<'m>(
        &self,
        model: &'m Model,
        call: &Call<'_>,
        terms: &Terms,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Outputs<'m>> {
        // Options that change the answer belong to one caller; those that end a run are of no use in a batch.
        if call.options.is_some_and(|options| !options.are_neutral()) {
            return model.run_by_itself(call);
        }
        match self.run_at_once(model, call) {
            Some(outputs) => outputs,
            None => self.stand_in_line(model, call, terms, check),
        }
    }

    /// Runs a call for those who wait for what this thread computes, and who may all leave: a batch of such calls alone
    /// ends with the last of them.
    ///
    /// This thread leads no batch, since it could not leave one that it leads. It asks `check` as above.
    pub(crate) fn run_for_others<'m>(
        &self,
        model: &'m Arc<Model>,
        call: &Call<'_>,
        terms: Terms,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Outputs<'m>> {
        if call.options.is_some_and(|options| !options.are_neutral()) {
            return model.run_by_itself(call);
        }
        if let Some(outputs) = self.run_at_once(model, call) {
            return outputs;
        }
        let (leader, seat) = Leader::alone();
        let question = Arc::new(Question::copied(call));
        let request = Request {
            question,
            leader,
            terms,
        };
        self.submit(model, [request], Duration::ZERO)
            .into_iter()
            .collect::<Result<()>>()?;
        loop {
            if let Some(ending) = seat.wait(PATIENCE) {
                return answered(ending);
            }
            check()?;
        }
    }

    #[cold]
    fn stand_in_line(
        &self,
        model: &Model,
        call: &Call<'_>,
        terms: &Terms,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Outputs<'static>> {
        let (leader, seat) = Leader::alone();
        let item = Item {
            question: Arc::new(Question::copied(call)),
            leader,
            away: None,
        };
        let (kind, rows) = self.kind_of(&item.question);
        let mut gone = Vec::new();
        let mut state = locked(&self.state);
        let pushed = self.push(&mut state, kind, rows, *terms, item, &mut gone);
        let mut errands = match &pushed {
            Ok((_, place)) => self.serve(&mut state, Own::Place(*place)),
            Err(_) => Errands::default(),
        };
        drop(state);
        errands.dropped.extend(gone);
        let (asked, place) = match pushed {
            Ok(pushed) => pushed,
            Err(error) => {
                self.carry_out(errands);
                return Err(error);
            }
        };
        let mut in_line = InLine {
            batcher: self,
            seat: None,
            place,
        };
        let seat = in_line.seat.insert(seat);
        // When this call has to leave, whoever else has come; from then on others see to it.
        let window = self.max_delay.map(|delay| asked.arrival.saturating_add(delay));
        let mut due = window.map(|window| asked.leave_by.map_or(window, |leave_by| leave_by.min(window)));
        loop {
            if let Some(batch) = self.carry_out(std::mem::take(&mut errands)) {
                self.lead(model, batch, Leading::Member);
            }
            let now = self.clock.now();
            let until = |time: Option<Duration>| time.map_or(PATIENCE, |time| time.saturating_sub(now));
            let woken = seat.stand(PATIENCE.min(until(terms.deadline)).min(until(due)));
            match woken {
                Some(Woken::Ended(ending)) => {
                    drop(in_line.seat.take());
                    return answered(ending);
                }
                Some(Woken::Called) => {
                    self.lead_appointed(model, place, Leading::Member);
                    continue;
                }
                None => {}
            }
            let now = self.clock.now();
            if terms.deadline.is_some_and(|deadline| deadline <= now) {
                return Err(late());
            }
            // Before anything is decided that this thread would have to do.
            check()?;
            if due.is_some_and(|due| due <= now) {
                due = None;
                errands = self.serve(&mut locked(&self.state), Own::Place(place));
            }
        }
    }

    /// Has calls computed whose callers do not wait in this thread; says of each whether it may.
    ///
    /// This thread runs a batch itself that is expected to be over within `patience`.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`], or [`ErrorKind::Closed`].
    pub(crate) fn submit(
        &self,
        model: &Arc<Model>,
        requests: impl IntoIterator<Item = Request>,
        patience: Duration,
    ) -> Vec<Result<()>> {
        let items = requests.into_iter().map(|request| {
            let item = Item {
                question: request.question,
                leader: request.leader,
                away: Some(model.clone()),
            };
            (self.kind_of(&item.question), item, request.terms)
        });
        let items: Vec<_> = items.collect();
        // Where values decide about the time, earlier runs say nothing of the next.
        let own = if model.is_straight_line() {
            Own::Within(patience)
        } else {
            Own::None
        };
        let mut state = locked(&self.state);
        let mut gone = Vec::new();
        let pushed = items.into_iter().map(|((kind, rows), item, terms)| {
            let pushed = self.push(&mut state, kind, rows, terms, item, &mut gone);
            pushed.map(drop)
        });
        let pushed = pushed.collect();
        let mut errands = self.serve(&mut state, own);
        errands.dropped.extend(gone);
        self.have_windows_watched(state, model);
        if let Some(batch) = self.carry_out(errands) {
            self.lead(model, batch, Leading::Member);
        }
        pushed
    }

    fn kind_of(&self, question: &Arc<Question>) -> (Kind, usize) {
        // The address of what waits is nobody else's while it waits.
        let number = Arc::as_ptr(question) as u64;
        Kind::of(&question.call(None), &self.layout).unwrap_or_else(|| (Kind::alone(number), 1))
    }

    /// Adds a call to the queue; where that is full, those who are gone make room first.
    fn push(
        &self,
        state: &mut State,
        kind: Kind,
        rows: usize,
        terms: Terms,
        item: Item,
        gone: &mut Vec<Member<Item>>,
    ) -> Result<(Asked, Place)> {
        if state.is_closed {
            return Err(closed());
        }
        let now = self.clock.now();
        if !state.queue.has_room(rows) {
            let swept = state.queue.sweep(now, is_gone);
            state.counts.dropped += swept.len() as u64;
            gone.extend(swept);
        }
        if !state.queue.has_room(rows) {
            state.counts.refused += 1;
            let waiting = state.queue.rows();
            return Err(Error::new(
                ErrorKind::QueueFull,
                format!("{waiting} rows are waiting for a batch already"),
            ));
        }
        let room = State::room(&state.tuning, &state.apart, &kind, state.company);
        let run = state.tuning.time(kind.workload(), room.max(rows)).unwrap_or_default();
        let asked = Asked {
            rows,
            priority: terms.priority,
            arrival: now,
            // Others may wait for the same answer for longer: whoever is late leaves by itself, and the last one ends it.
            deadline: terms.deadline.filter(|_| item.away.is_none()),
            leave_by: terms.deadline.map(|deadline| {
                let left = deadline.saturating_sub(now);
                now.saturating_add(left.saturating_sub(run + left / HASTE))
            }),
        };
        let place = state.queue.push(kind, asked, item);
        Ok((asked, place))
    }
}

/// What a member of a batch is given.
fn answered(ending: Ending) -> Result<Outputs<'static>> {
    match ending {
        Ending::Answer(entry) => Ok(match Answer::of(entry) {
            Answer::Computed(outputs) => outputs,
            Answer::Kept(entry) => Outputs::of_values(entry.values().iter().map(copied)),
        }),
        Ending::Error(error) => Err(error),
        Ending::Abandoned => Err(Error::new(
            ErrorKind::RuntimeException,
            "whoever led the batch panicked",
        )),
    }
}
