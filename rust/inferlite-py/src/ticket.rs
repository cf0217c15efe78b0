//! A call whose answer comes later to whoever is no event loop.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inferlite_core::ticket::Ticket;
use pyo3::prelude::*;
use smallvec::SmallVec;

use crate::boundary::gate;
use crate::model::PyModel;

/// The claim to the answer of one call; `inferlite._futures` waits for it.
#[pyclass(name = "Ticket", module = "inferlite._core", frozen)]
pub(crate) struct PyTicket {
    model: Py<PyModel>,
    /// Empty once it is answered or left.
    ticket: Mutex<Option<Ticket>>,
    wanted: Option<SmallVec<[usize; 8]>>,
    /// By the model's clock.
    deadline: Option<Duration>,
}

impl PyTicket {
    pub(crate) fn new(
        model: Py<PyModel>,
        ticket: Ticket,
        wanted: Option<SmallVec<[usize; 8]>>,
        deadline: Option<Duration>,
    ) -> Self {
        Self {
            model,
            ticket: Mutex::new(Some(ticket)),
            wanted,
            deadline,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Ticket>> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyTicket {
    /// The answer in a tuple, once it is there; None before.
    fn answer<'py>(&self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyAny>,)>> {
        let mut place = self.locked();
        let Some(ticket) = place.as_mut() else { return Ok(None) };
        let model = self.model.get();
        let answered = match ticket.answer() {
            Ok(None) => return Ok(None),
            Ok(Some(answer)) => Ok(answer),
            Err(error) => Err(model.failure(py, error.into())),
        };
        *place = None;
        drop(place);
        Ok(Some((model.object(py, &mut answered?, self.wanted.as_deref())?,)))
    }

    /// Has `callback` called once there is an answer, from any thread, or at once.
    fn when_ended(&self, callback: Py<PyAny>) {
        let wake = move || {
            gate::attach(|py| {
                // The loop that wanted to know may be closed by now, which is its own affair.
                let _ = callback.call0(py);
            });
        };
        // The callback may be called right here, and ask for the answer.
        let bell = self.locked().as_ref().map(Ticket::bell);
        if let Some(bell) = bell {
            bell.when_ended(Box::new(wake));
        }
    }

    /// Seconds until the deadline; None without one.
    fn remaining(&self) -> Option<f64> {
        let place = self.locked();
        let (ticket, deadline) = (place.as_ref()?, self.deadline?);
        Some(deadline.saturating_sub(ticket.now()).as_secs_f64())
    }

    /// Gives the answer up: the run ends if nobody else waits for it.
    fn leave(&self) {
        let ticket = self.locked().take();
        drop(ticket);
    }
}
