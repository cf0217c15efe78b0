//! What `Model.apredict` and `InferenceSession.arun` return: a coroutine, and while a task waits for it, the future that the task waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inferlite_core::batch::Terms;
use inferlite_core::ticket::{Asked, Ticket};
use inferlite_core::{Error, Model, Result as CoreResult};
use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyTraverseError, PyVisit, intern};
use smallvec::SmallVec;

use crate::asker::Asker;
use crate::event_loop::{self, Listener, PyEventLoop};

/// The claim to an answer, which the call's event loop makes good at the end of its turn.
pub(crate) struct Claim(Mutex<Held>);

struct Held {
    stage: Stage,
    /// Who hears of the end, once somebody waits.
    listener: Option<(Arc<Listener>, u64)>,
}

enum Stage {
    Asked(Asked, Terms),
    /// Between the end of the turn and the line.
    Leaving,
    Begun(Ticket),
    Refused(Error),
    GivenUp,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claim {
    pub(crate) fn new(asked: Asked, terms: Terms) -> Self {
        Self::at(Stage::Asked(asked, terms))
    }

    pub(crate) fn begun(ticket: Ticket) -> Self {
        Self::at(Stage::Begun(ticket))
    }

    fn at(stage: Stage) -> Self {
        Self(Mutex::new(Held { stage, listener: None }))
    }

    /// The call, if it has not left and is not given up.
    pub(crate) fn take(&self) -> Option<(Asked, Terms)> {
        let mut held = locked(&self.0);
        match std::mem::replace(&mut held.stage, Stage::Leaving) {
            Stage::Asked(asked, terms) => Some((asked, terms)),
            stage => {
                held.stage = stage;
                None
            }
        }
    }

    /// What came of beginning it.
    pub(crate) fn begin(&self, ticket: CoreResult<Ticket>) {
        let mut held = locked(&self.0);
        if let Stage::GivenUp = held.stage {
            return;
        }
        let listener = held.listener.clone();
        held.stage = match ticket {
            Ok(ticket) => {
                if let Some((listener, token)) = listener {
                    ticket.tell(listener, token);
                }
                Stage::Begun(ticket)
            }
            Err(error) => {
                if let Some((listener, token)) = listener {
                    listener.note([token]);
                }
                Stage::Refused(error)
            }
        };
    }

    /// The answer, if it is there.
    fn answer(&self) -> CoreResult<Option<inferlite_core::Answer<'static>>> {
        let mut held = locked(&self.0);
        match &mut held.stage {
            Stage::Begun(ticket) => ticket.answer(),
            Stage::Refused(error) => Err(error.clone()),
            Stage::Asked(..) | Stage::Leaving | Stage::GivenUp => Ok(None),
        }
    }

    /// Has a listener hear of the end; whether the call still has to leave.
    fn tell(&self, listener: Arc<Listener>, token: u64) -> bool {
        let mut held = locked(&self.0);
        match &held.stage {
            Stage::Begun(ticket) => ticket.tell(listener, token),
            Stage::Refused(_) => listener.note([token]),
            Stage::Asked(..) => {
                held.listener = Some((listener, token));
                return true;
            }
            Stage::Leaving => held.listener = Some((listener, token)),
            Stage::GivenUp => {}
        }
        false
    }

    /// Gives the answer up: the call leaves, or its run ends, unless others wait for it.
    pub(crate) fn give_up(&self) {
        let stage = std::mem::replace(&mut locked(&self.0).stage, Stage::GivenUp);
        drop(stage);
    }
}

/// A call that somebody awaits, or is going to: what `apredict` and `arun` return.
///
/// It is a coroutine in all but its class: tasks, `gather`, `wait_for`, `timeout` and task groups take it.
#[pyclass(name = "Prediction", module = "inferlite._core", frozen, weakref)]
pub(crate) struct PyPrediction {
    asker: Asker,
    wanted: Option<SmallVec<[usize; 8]>>,
    timeout: Option<Py<PyAny>>,
    /// By the model's clock.
    deadline: Option<Duration>,
    state: Mutex<State>,
}

struct State {
    course: Course,
    has_started: bool,
    /// What a task looks at to tell a future that is awaited from one that is yielded.
    is_awaited: bool,
    wait: Option<Wait>,
    /// The task that goes on, and its context.
    waker: Option<(Py<PyAny>, Py<PyAny>)>,
    timer: Option<Py<PyAny>>,
    /// The loop whose turn the call left with, or will.
    home: Option<Py<PyEventLoop>>,
}

/// Where it is waited for.
struct Wait {
    running: Py<PyAny>,
    event_loop: Py<PyEventLoop>,
    token: u64,
}

pub(crate) enum Course {
    /// There already.
    Answered(Py<PyAny>),
    Failed(PyErr),
    Waiting(Arc<Model>, Arc<Claim>),
    /// The task was cancelled, with a message or without.
    Cancelled(Py<PyAny>),
    Late,
    Over,
}

impl PyPrediction {
    pub(crate) fn new(
        asker: Asker,
        course: Course,
        wanted: Option<SmallVec<[usize; 8]>>,
        timeout: Option<Py<PyAny>>,
        deadline: Option<Duration>,
        home: Option<Py<PyEventLoop>>,
    ) -> Self {
        Self {
            asker,
            wanted,
            timeout,
            deadline,
            state: Mutex::new(State {
                course,
                has_started: false,
                is_awaited: false,
                wait: None,
                waker: None,
                timer: None,
                home,
            }),
        }
    }

    /// Has the task go on that waits, if one does: in its context, as its loop would.
    ///
    /// Only from a callback of the loop, where no task runs.
    pub(crate) fn wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let waker = locked(&slf.get().state).waker.take();
        let Some((callback, context)) = waker else {
            return Ok(());
        };
        context
            .bind(py)
            .call_method1(intern!(py, "run"), (callback, slf))
            .map(drop)
    }

    /// Goes on as far as is possible: the answer, or nothing while it is not there.
    fn advance<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (this, py) = (slf.get(), slf.py());
        let claim = {
            let mut state = locked(&this.state);
            state.has_started = true;
            match std::mem::replace(&mut state.course, Course::Over) {
                Course::Answered(answer) => return Ok(Some(answer.into_bound(py))),
                Course::Failed(error) => return Err(error),
                Course::Late => {
                    drop(state);
                    this.end(py, None);
                    return Err(this.late(py));
                }
                Course::Over => return Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
                Course::Cancelled(message) => {
                    drop(state);
                    return Err(cancelled(py, &message));
                }
                Course::Waiting(model, claim) => {
                    state.course = Course::Waiting(model, claim.clone());
                    claim
                }
            }
        };
        match claim.answer() {
            Ok(None) => Ok(None),
            Ok(Some(mut answer)) => {
                this.end(py, Some(Course::Over));
                this.asker.object(py, &mut answer, this.wanted.as_deref()).map(Some)
            }
            Err(error) => {
                this.end(py, Some(Course::Over));
                Err(this.asker.failure(py, error.into()))
            }
        }
    }

    /// Waits from now on.
    fn suspend(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let running = event_loop::running(py)?.ok_or_else(|| PyRuntimeError::new_err("no running event loop"))?;
        let event_loop = PyEventLoop::of(&running)?;
        let (listener, token) = event_loop.get().wait_for(slf.clone().unbind());
        let (before, begins, needs_timer) = {
            let mut state = locked(&this.state);
            state.is_awaited = true;
            let before = state.wait.replace(Wait {
                running: running.clone().unbind(),
                event_loop: event_loop.clone().unbind(),
                token,
            });
            let needs_timer = state.timer.is_none() && this.deadline.is_some();
            let is_home = state.home.as_ref().is_some_and(|home| home.is(&event_loop));
            let begins = match &state.course {
                Course::Waiting(model, claim) if claim.tell(listener, token) && !is_home => {
                    Some((model.clone(), claim.clone()))
                }
                _ => None,
            };
            if begins.is_some() {
                state.home = Some(event_loop.clone().unbind());
            }
            (before, begins, needs_timer)
        };
        if let Some(before) = before {
            before.event_loop.get().leave(before.token);
        }
        if let Some((model, claim)) = begins {
            PyEventLoop::join(&event_loop, &running, &model, &claim)?;
        }
        if needs_timer && let Some(deadline) = this.deadline {
            let seconds = this.remaining(py, deadline);
            let expire = slf.getattr(intern!(py, "_expire"))?;
            let timer = running.call_method1(intern!(py, "call_later"), (seconds, expire))?;
            locked(&this.state).timer = Some(timer.unbind());
        }
        Ok(())
    }

    fn remaining(&self, _py: Python<'_>, deadline: Duration) -> f64 {
        let state = locked(&self.state);
        let Course::Waiting(model, _) = &state.course else {
            return 0.0;
        };
        deadline.saturating_sub(model.clock().now()).as_secs_f64()
    }

    /// Gives everything up that is held for the call, on a new course if one is said.
    fn end(&self, py: Python<'_>, course: Option<Course>) {
        let (course, wait, waker, timer, home) = {
            let mut state = locked(&self.state);
            let course = course.map(|course| std::mem::replace(&mut state.course, course));
            (
                course,
                state.wait.take(),
                state.waker.take(),
                state.timer.take(),
                state.home.take(),
            )
        };
        if let Some(Course::Waiting(_, claim)) = &course {
            claim.give_up();
        }
        if let Some(wait) = &wait {
            wait.event_loop.get().leave(wait.token);
        }
        if let Some(timer) = &timer {
            let _ = timer.call_method0(py, intern!(py, "cancel"));
        }
        drop((course, wait, waker, timer, home));
    }

    /// Gives the answer up, for a task that cannot go on.
    pub(crate) fn give_up(&self, py: Python<'_>) {
        self.end(py, Some(Course::Over));
    }

    fn late(&self, py: Python<'_>) -> PyErr {
        let timeout = self
            .timeout
            .as_ref()
            .map_or_else(|| py.None(), |timeout| timeout.clone_ref(py));
        self.asker.late(py, timeout.bind(py))
    }
}

fn cancelled(py: Python<'_>, message: &Py<PyAny>) -> PyErr {
    let made = py.import("asyncio").and_then(|asyncio| {
        let class = asyncio.getattr("CancelledError")?;
        if message.is_none(py) {
            class.call0()
        } else {
            class.call1((message,))
        }
    });
    made.map_or_else(|problem| problem, PyErr::from_value)
}

#[pymethods]
impl PyPrediction {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if let Some(answer) = Self::advance(&slf)? {
            // Made here: CPython would make it of its class and the answer, in more steps.
            let end = slf.py().get_type::<PyStopIteration>().call1((answer,))?;
            return Err(PyErr::from_value(end));
        }
        Self::suspend(&slf)?;
        Ok(slf)
    }

    /// Goes on; the value is of no use to it.
    fn send<'py>(slf: Bound<'py, Self>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        Self::__next__(slf)
    }

    /// Gives the answer up, and raises what is thrown.
    #[pyo3(signature = (kind, value = None, traceback = None, /))]
    fn throw<'py>(
        slf: &Bound<'py, Self>,
        kind: Bound<'py, PyAny>,
        value: Option<Bound<'py, PyAny>>,
        traceback: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let (this, py) = (slf.get(), slf.py());
        locked(&this.state).has_started = true;
        this.end(py, Some(Course::Over));
        let raised = match value {
            Some(value) if !value.is_none() && !value.is_instance(&kind)? => kind.call1((value,))?,
            Some(value) if !value.is_none() => value,
            _ if kind.is_instance_of::<PyType>() => kind.call0()?,
            _ => kind,
        };
        let raised = match traceback {
            Some(traceback) if !traceback.is_none() => raised.call_method1("with_traceback", (traceback,))?,
            _ => raised,
        };
        Err(PyErr::from_value(raised))
    }

    /// Gives the answer up.
    fn close(&self, py: Python<'_>) {
        locked(&self.state).has_started = true;
        self.end(py, Some(Course::Over));
    }

    /// What asyncio's tasks look at: None before anybody waits, so that this is no future to whoever looks then.
    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> Option<bool> {
        let state = locked(&self.state);
        state.has_started.then_some(state.is_awaited)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, is_blocking: bool) {
        locked(&self.state).is_awaited = is_blocking;
    }

    /// The loop of the task that waits.
    #[getter(_loop)]
    fn waiting_loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        locked(&self.state).wait.as_ref().map(|wait| wait.running.clone_ref(py))
    }

    /// Has a task go on once there is something to say.
    #[pyo3(signature = (callback, *, context = None))]
    fn add_done_callback(&self, py: Python<'_>, callback: Py<PyAny>, context: Option<Py<PyAny>>) -> PyResult<()> {
        let context = match context {
            Some(context) => context,
            None => py.import("contextvars")?.call_method0("copy_context")?.unbind(),
        };
        let before = locked(&self.state).waker.replace((callback, context));
        drop(before);
        Ok(())
    }

    /// What a task asks that goes on; the answer itself comes by way of `__next__`.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        let state = locked(&self.state);
        match &state.course {
            Course::Cancelled(message) => {
                let message = message.clone_ref(py);
                drop(state);
                Err(cancelled(py, &message))
            }
            _ => Ok(()),
        }
    }

    /// Gives the answer up; the task that waits, if one does, goes on with `CancelledError`.
    #[pyo3(signature = (msg = None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let (waker, running) = {
            let mut state = locked(&this.state);
            let running = state.wait.as_ref().map(|wait| wait.running.clone_ref(py));
            (state.waker.take(), running)
        };
        let Some(((callback, context), running)) = waker.zip(running) else {
            return Ok(false);
        };
        this.end(py, Some(Course::Cancelled(msg.unwrap_or_else(|| py.None()))));
        let arguments = pyo3::types::PyDict::new(py);
        arguments.set_item("context", context)?;
        running
            .bind(py)
            .call_method("call_soon", (callback, slf), Some(&arguments))?;
        Ok(true)
    }

    /// The time is over.
    fn _expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let left = {
            let mut state = locked(&this.state);
            if state.waker.is_none() || !matches!(state.course, Course::Waiting(..)) {
                return Ok(());
            }
            std::mem::replace(&mut state.course, Course::Late)
        };
        if let Course::Waiting(_, claim) = &left {
            claim.give_up();
        }
        drop(left);
        Self::wake(slf)
    }

    fn __repr__(&self) -> String {
        format!("<{}>", self.asker.call_text())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.asker.traverse(&visit)?;
        let Ok(state) = self.state.try_lock() else {
            return Ok(());
        };
        if let Course::Answered(object) | Course::Cancelled(object) = &state.course {
            visit.call(object)?;
        }
        if let Some((callback, context)) = &state.waker {
            visit.call(callback)?;
            visit.call(context)?;
        }
        if let Some(wait) = &state.wait {
            visit.call(&wait.running)?;
            visit.call(&wait.event_loop)?;
        }
        if let Some(home) = &state.home {
            visit.call(home)?;
        }
        match &state.timer {
            Some(timer) => visit.call(timer),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        let mut state = locked(&self.state);
        let left = (
            state.waker.take(),
            state.wait.take(),
            state.timer.take(),
            state.home.take(),
        );
        drop(state);
        drop(left);
    }
}

impl Drop for PyPrediction {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Course::Waiting(_, claim) = &state.course {
            claim.give_up();
        }
        if state.has_started {
            return;
        }
        Python::try_attach(|py| {
            // Whatever is being raised goes on.
            let raised = PyErr::take(py);
            let text = self.asker.neglect_text();
            if let Err(error) = PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), text, 1) {
                error.write_unraisable(py, None);
            }
            if let Some(raised) = raised {
                raised.restore(py);
            }
        });
    }
}
