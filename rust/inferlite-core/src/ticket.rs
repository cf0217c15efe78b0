//! A call that is answered later: threads wait for it, event loops are woken by it.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::batch::{Request, Terms};
use crate::cache::Missed;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Ending, Leader, Role, Seat, Waker};
use crate::model::Model;
use crate::question::Question;
use crate::runtime::{Answer, Call, Feed, OwnedFeeds};

pub use crate::flight::{Audience, Bell};

/// How long a caller waits before it looks whether it should go on.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// A call in memory of its own, which has not begun: see [`Model::ask`].
#[derive(Debug, Clone)]
pub struct Asked(Arc<Question>);

impl Asked {
    /// A call whose inputs are its own: they are not copied.
    #[must_use]
    pub fn owned(feeds: OwnedFeeds, fetches: &[usize], missed: Missed) -> Self {
        Self(Arc::new(Question::owned(feeds, fetches, missed)))
    }

    /// What is fed.
    #[must_use]
    pub fn feeds(&self) -> &[Feed] {
        self.0.call(None).feeds
    }
}

impl Model {
    /// Copies a call that is not kept, for [`Model::begin_all`].
    pub fn ask(&self, call: &Call<'_>, missed: Missed) -> Asked {
        Asked(Arc::new(self.question(call, missed)))
    }

    /// Begins a call as [`Model::begin`] does.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) if too many calls wait already.
    pub fn begin_asked(self: &Arc<Self>, asked: Asked, terms: Terms) -> Result<Ticket> {
        Ticket::new(self.clone(), asked.0, terms)
    }

    /// Begins many calls at once, so that those which may share a batch do; says of each what [`Model::begin`] says.
    ///
    /// This thread runs a batch itself that is expected to be over within `patience`.
    pub fn begin_all(
        self: &Arc<Self>,
        asked: impl IntoIterator<Item = (Asked, Terms)>,
        patience: Duration,
    ) -> Vec<Result<Ticket>> {
        let asked = asked.into_iter().map(|(asked, terms)| (asked.0, terms)).collect();
        Ticket::all(self, asked, patience)
    }

    /// The answers to calls on this thread, in one batch, if they are to be had at once and within `patience`; `None` if
    /// they have to be begun.
    fn answer_all_at_once(
        &self,
        asked: &[(Arc<Question>, Terms)],
        patience: Duration,
    ) -> Option<Vec<Result<Answer<'static>>>> {
        // Answers that are kept may be under way, and where values decide about the time, earlier runs say nothing of it.
        let batcher = self
            .batcher()
            .filter(|_| self.cache().is_none() && self.is_straight_line())?;
        let questions: SmallVec<[&Question; 16]> = asked.iter().map(|(question, _)| &**question).collect();
        if questions.iter().any(|question| question.options().is_some()) {
            return None;
        }
        let outputs = batcher.run_all_at_once(self, &questions, patience)?;
        Some(
            outputs
                .into_iter()
                .map(|outputs| outputs.map(Answer::Computed))
                .collect(),
        )
    }
}

/// The claim to the answer of one call. Dropping it gives the claim up: the run ends early if nobody else has one.
#[derive(Debug)]
pub struct Ticket(Claim);

#[derive(Debug)]
enum Claim {
    Begun(Begun),
    /// What it has come to, once, and the model.
    Ended(Option<Result<Answer<'static>>>, Arc<Model>),
}

/// A call under way.
#[derive(Debug)]
struct Begun {
    model: Arc<Model>,
    question: Arc<Question>,
    terms: Terms,
    seat: Seat,
    /// Whether another caller's computation answers.
    has_joined: bool,
}

impl Ticket {
    /// Joins the computation of a question, or has it begin on another thread.
    pub(crate) fn new(model: Arc<Model>, question: Arc<Question>, terms: Terms) -> Result<Self> {
        let (mut begun, leader) = Begun::join(model, question, terms);
        begun.send(leader)?;
        Ok(Self(Claim::Begun(begun)))
    }

    /// The same for many questions at once, which may share batches.
    pub(crate) fn all(model: &Arc<Model>, asked: Vec<(Arc<Question>, Terms)>, patience: Duration) -> Vec<Result<Self>> {
        if let Some(answers) = model.answer_all_at_once(&asked, patience) {
            let ended = |answer| Ok(Self(Claim::Ended(Some(answer), model.clone())));
            return answers.into_iter().map(ended).collect();
        }
        let mut requests = Vec::with_capacity(asked.len());
        let begun = asked.into_iter().map(|(question, terms)| {
            let (mut begun, leader) = Begun::join(model.clone(), question, terms);
            let requested = match leader {
                Some(leader) if begun.is_batched() => {
                    requests.push(begun.request(leader));
                    Ok(true)
                }
                leader => begun.send(leader).map(|()| false),
            };
            requested.map(|is_requested| (begun, is_requested))
        });
        let begun: Vec<_> = begun.collect();
        let submitted = match model.batcher() {
            Some(batcher) => batcher.submit(model, requests, patience),
            None => Vec::new(),
        };
        let mut submitted = submitted.into_iter();
        let mut settle = |(begun, is_requested): (Begun, bool)| {
            let result = if is_requested { submitted.next() } else { None };
            result.unwrap_or(Ok(())).map(|()| Self(Claim::Begun(begun)))
        };
        begun.into_iter().map(|begun| begun.and_then(&mut settle)).collect()
    }

    /// The answer, if it is there, once; `None` while it is not, or if it must be asked for anew, which this does.
    pub fn answer(&mut self) -> Result<Option<Answer<'static>>> {
        match &mut self.0 {
            Claim::Begun(begun) => match begun.seat.ending() {
                None => Ok(None),
                Some(ending) => begun.settle(ending),
            },
            Claim::Ended(ended, _) => ended.take().unwrap_or_else(|| Err(taken())).map(Some),
        }
    }

    /// Waits for the answer until the model's clock shows `deadline`; asks `check` at least every 50 ms whether to go on.
    ///
    /// # Errors
    /// [`ErrorKind::DeadlineExceeded`], that of `check`, or that of the run.
    pub fn wait(self, deadline: Option<Duration>, check: &dyn Fn() -> Result<()>) -> Result<Answer<'static>> {
        match self.0 {
            Claim::Begun(begun) => begun.wait(deadline, check),
            Claim::Ended(ended, _) => ended.unwrap_or_else(|| Err(taken())),
        }
    }

    /// The time by which its deadline goes.
    #[must_use]
    pub fn now(&self) -> Duration {
        match &self.0 {
            Claim::Begun(Begun { model, .. }) | Claim::Ended(_, model) => model.clock().now(),
        }
    }

    /// Where to be woken once [`Ticket::answer`] has something to say, for whoever must not hold the ticket meanwhile.
    #[must_use]
    pub fn bell(&self) -> Bell {
        match &self.0 {
            Claim::Begun(begun) => begun.seat.bell(),
            Claim::Ended(..) => Bell::of_ended(),
        }
    }

    /// Tells an audience once [`Ticket::answer`] has something to say, together with all else that ends then.
    pub fn tell(&self, audience: Arc<dyn Audience>, token: u64) {
        match &self.0 {
            Claim::Begun(begun) => begun.seat.when_ended(Waker::Audience(audience, token)),
            Claim::Ended(..) => audience.ended(&[token]),
        }
    }
}

#[cold]
fn taken() -> Error {
    Error::new(ErrorKind::Closed, "the answer has been taken already")
}

impl Begun {
    /// A place in the computation of a question, which is led by whoever is given a leader.
    fn join(model: Arc<Model>, question: Arc<Question>, terms: Terms) -> (Self, Option<Leader>) {
        let (leader, seat) = take_seat(&model, &question);
        let begun = Self {
            model,
            question,
            terms,
            seat,
            has_joined: leader.is_none(),
        };
        (begun, leader)
    }

    /// Whether the question goes to the batcher as it is.
    ///
    /// What is kept by the row, or may be had from another process, takes a thread that can wait; a run under options of
    /// its own keeps no company.
    fn is_batched(&self) -> bool {
        let question = &self.question;
        let may_be = !question.has_rows() && question.options().is_none() && !self.model.asks_others();
        may_be && self.model.batcher().is_some()
    }

    fn request(&self, leader: Leader) -> Request {
        Request {
            question: self.question.clone(),
            leader,
            terms: self.terms,
        }
    }

    /// Has the computation of a leader begin.
    fn send(&mut self, leader: Option<Leader>) -> Result<()> {
        let Some(leader) = leader else { return Ok(()) };
        if self.is_batched()
            && let Some(batcher) = self.model.batcher()
        {
            let submitted = batcher.submit(&self.model, [self.request(leader)], Duration::ZERO);
            return submitted.into_iter().collect();
        }
        let (model, question, terms) = (self.model.clone(), self.question.clone(), self.terms);
        self.model
            .workers()
            .spawn(move || model.lead(leader, &question, &terms))
    }

    fn settle(&mut self, ending: Ending) -> Result<Option<Answer<'static>>> {
        if self.has_joined && !matches!(ending, Ending::Abandoned) {
            self.model.count_joined(&self.question.call(None));
            self.has_joined = false;
        }
        match ending {
            Ending::Answer(entry) => Ok(Some(Answer::of(entry))),
            Ending::Error(error) => Err(error),
            Ending::Abandoned => {
                let (leader, seat) = take_seat(&self.model, &self.question);
                self.seat = seat;
                self.has_joined = leader.is_none();
                self.send(leader)?;
                Ok(None)
            }
        }
    }

    fn wait(mut self, deadline: Option<Duration>, check: &dyn Fn() -> Result<()>) -> Result<Answer<'static>> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_sub(self.model.clock().now()));
            let ending = self.seat.wait(left.map_or(PATIENCE, |left| left.min(PATIENCE)));
            if let Some(ending) = ending {
                if let Some(answer) = self.settle(ending)? {
                    return Ok(answer);
                }
            } else if left.is_some_and(|left| left.is_zero()) {
                return Err(Error::new(
                    ErrorKind::DeadlineExceeded,
                    "the answer did not come in time",
                ));
            }
            check()?;
        }
    }
}

/// A seat in the computation of a question, and its leader if nobody leads it yet.
fn take_seat(model: &Arc<Model>, question: &Arc<Question>) -> (Option<Leader>, Seat) {
    let (leader, seat) = match (model.cache(), question.key()) {
        (Some(cache), Some(key)) => match cache.join(key) {
            Role::Wait(seat) => return (None, seat),
            Role::Lead(leader, seat) => {
                // Its computation may have ended between the look-up and now.
                if let Some(entry) = cache.find(key) {
                    leader.end(Ending::Answer(entry));
                    return (None, seat);
                }
                (leader, seat)
            }
        },
        _ => Leader::alone(),
    };
    (Some(leader), seat)
}
