//! A call that is answered later: threads wait for it, event loops are woken by it.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Ending, Leader, Role, Seat};
use crate::model::Model;
use crate::question::Question;
use crate::runtime::Answer;

/// How long a caller waits before it looks whether it should go on.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// The claim to the answer of one call. Dropping it gives the claim up: the run ends early if nobody else has one.
#[derive(Debug)]
pub struct Ticket {
    model: Arc<Model>,
    question: Arc<Question>,
    seat: Seat,
    /// Whether another caller's computation answers.
    has_joined: bool,
}

impl Ticket {
    /// Joins the computation of a question, or has it begin on another thread.
    pub(crate) fn new(model: Arc<Model>, question: Question) -> Result<Self> {
        let question = Arc::new(question);
        let (seat, has_joined) = begin(&model, &question)?;
        Ok(Self {
            model,
            question,
            seat,
            has_joined,
        })
    }

    /// The answer, if it is there; `None` while it is not, or if it must be asked for anew, which this does.
    pub fn answer(&mut self) -> Result<Option<Answer<'static>>> {
        match self.seat.ending() {
            None => Ok(None),
            Some(ending) => self.settle(ending),
        }
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
                (self.seat, self.has_joined) = begin(&self.model, &self.question)?;
                Ok(None)
            }
        }
    }

    /// Waits for the answer until the model's clock shows `deadline`; asks `check` at least every 50 ms whether to go on.
    ///
    /// # Errors
    /// [`ErrorKind::DeadlineExceeded`], that of `check`, or that of the run.
    pub fn wait(mut self, deadline: Option<Duration>, check: &dyn Fn() -> Result<()>) -> Result<Answer<'static>> {
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

    /// The time by which its deadline goes.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.model.clock().now()
    }

    /// Calls `wake` once [`Ticket::answer`] has something to say: from whichever thread computes it, or at once.
    pub fn when_ended(&self, wake: Box<dyn FnOnce() + Send>) {
        self.seat.when_ended(wake);
    }
}

/// A place in the computation of a question, and whether another caller's answers it.
fn begin(model: &Arc<Model>, question: &Arc<Question>) -> Result<(Seat, bool)> {
    let (leader, seat) = match (model.cache(), question.key()) {
        (Some(cache), Some(key)) => match cache.join(key) {
            Role::Wait(seat) => return Ok((seat, true)),
            Role::Lead(leader, seat) => {
                // Its computation may have ended between the look-up and now.
                if let Some(entry) = cache.find(key) {
                    leader.end(Ending::Answer(entry));
                    return Ok((seat, true));
                }
                (leader, seat)
            }
        },
        _ => Leader::alone(),
    };
    let (model_there, question_there) = (model.clone(), question.clone());
    model
        .workers()
        .spawn(move || model_there.lead(leader, &question_there))?;
    Ok((seat, false))
}
