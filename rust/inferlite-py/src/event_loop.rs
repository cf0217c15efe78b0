//! What an event loop has begun: the calls of its turn, which leave together, and those it waits for.
//!
//! ```text
//!   apredict ---> turn (calls of this turn) --flush, by `call_soon`--> Model::begin_all
//!                                                                          |
//!   tasks <--settle, on the loop-- done (tokens) <--Listener, one signal---+ a worker, or the loop itself
//! ```
//!
//! A worker that has ended a batch never takes the interpreter's lock: it notes which calls have ended and pulls
//! a wire that the loop watches. With the lock it would wait for the loop to give it away, with the next batch behind
//! it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inferlite_core::batch::Terms;
use inferlite_core::pace::BRIEF;
use inferlite_core::runtime::ort::RunOptions;
use inferlite_core::ticket::{Asked, Audience};
use inferlite_core::{Answer, Model};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::boundary::{self, PyCoreError, detach, gate};
use crate::feed::Fed;
use crate::logging;
use crate::prediction::{Claim, PyPrediction};
use crate::session::Opened;
use crate::wire::{self, Bell, Pull};

/// So many calls in a row may run at once, by themselves, before one looks whether others come in its turn.
const ALONE: u32 = 8;

/// An event loop that has called a model.
#[pyclass(name = "EventLoop", module = "inferlite._core", frozen, weakref)]
pub(crate) struct PyEventLoop {
    /// Whose this is; the loop outlives this only in the registry's view.
    of: Py<PyWeakrefReference>,
    turn: Mutex<Turn>,
    /// Whether the last turn brought one call.
    is_quiet: AtomicBool,
    at_once: AtomicU32,
    waiting: Mutex<Waiting>,
    listener: Arc<Listener>,
    bell: Option<Bell>,
}

#[derive(Default)]
struct Turn {
    claims: Vec<(Arc<Model>, Arc<Claim>)>,
    is_scheduled: bool,
}

#[derive(Default)]
struct Waiting {
    predictions: HashMap<u64, Py<PyPrediction>, foldhash::fast::RandomState>,
    last: u64,
}

/// Hears of what has ended, on any thread.
pub(crate) struct Listener {
    done: Mutex<Vec<u64>>,
    /// Whether the loop is about to look.
    is_told: AtomicBool,
    signal: Signal,
}

/// How to make a loop look.
enum Signal {
    /// It watches the other end.
    Wire(Pull),
    /// It watches nothing, so that it is called.
    Call(Mutex<Option<(Py<PyWeakrefReference>, Py<PyWeakrefReference>)>>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listener {
    /// Notes what has ended; the loop looks, once for all that it has not looked at yet.
    pub(crate) fn note(&self, tokens: impl IntoIterator<Item = u64>) {
        locked(&self.done).extend(tokens);
        if self.is_told.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.signal {
            Signal::Wire(wire) => wire.pull(),
            Signal::Call(whom) => gate::attach(|py| {
                let whom = locked(whom);
                let Some((of, this)) = &*whom else { return };
                let (of, this) = (of.bind(py).upgrade(), this.bind(py).upgrade());
                drop(whom);
                // The loop may be closed by now, which is its own affair.
                let _ = of.zip(this).map(|(of, this)| {
                    let settle = this.getattr(intern!(py, "settle"))?;
                    of.call_method1(intern!(py, "call_soon_threadsafe"), (settle,))
                });
            }),
        }
    }

    /// What has ended since the last look.
    fn look(&self) -> Vec<u64> {
        // In this order: what is noted after the look is told anew.
        self.is_told.store(false, Ordering::Release);
        std::mem::take(&mut *locked(&self.done))
    }
}

impl Audience for Listener {
    fn ended(&self, tokens: &[u64]) {
        self.note(tokens.iter().copied());
    }
}

/// The event loop that runs in this thread, if one does.
pub(crate) fn running(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = FUNCTION.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("asyncio")?.getattr("_get_running_loop")?.unbind())
    })?;
    let running = function.bind(py).call0()?;
    Ok(Some(running).filter(|running| !running.is_none()))
}

thread_local! {
    /// The loop that was asked for last in this thread.
    static LAST: std::cell::RefCell<Option<Py<PyEventLoop>>> = const { std::cell::RefCell::new(None) };
}

impl PyEventLoop {
    /// What belongs to a loop.
    pub(crate) fn of<'py>(running: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let py = running.py();
        let last = LAST.with_borrow(|last| last.as_ref().map(|last| last.clone_ref(py)));
        if let Some(last) = last
            && last.get().of.bind(py).upgrade().is_some_and(|of| of.is(running))
        {
            return Ok(last.into_bound(py));
        }
        let found = Self::registered(running)?;
        let before = LAST.replace(Some(found.clone().unbind()));
        drop(before);
        Ok(found)
    }

    #[cold]
    fn registered<'py>(running: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        static REGISTRY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = running.py();
        let registry = REGISTRY.get_or_try_init(py, || {
            let class = py.import("weakref")?.getattr("WeakKeyDictionary")?;
            Ok::<_, PyErr>(class.call0()?.unbind())
        })?;
        let registry = registry.bind(py);
        if let Ok(found) = registry.get_item(running) {
            return Ok(found.cast_into::<Self>()?);
        }
        // What a closed loop waited for would keep the loop, and with it its place, for ever. Its items cannot be gone
        // through, because other loops may begin meanwhile, each in its own thread; this is a list made in one step.
        for reference in registry.call_method0("keyrefs")?.try_iter()? {
            let other = reference?.call0()?;
            if other.is_none() || !other.call_method0("is_closed")?.is_truthy()? {
                continue;
            }
            let theirs = registry.call_method1("pop", (other, py.None()))?;
            if let Ok(theirs) = theirs.cast::<Self>() {
                theirs.get().give_up(py);
            }
        }
        let made = Self::new(running)?;
        registry.set_item(running, &made)?;
        Ok(made)
    }

    fn new<'py>(running: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let py = running.py();
        let of = PyWeakrefReference::new(running)?;
        let with = |signal, bell| {
            let event_loop = Self {
                of: of.clone().unbind(),
                turn: Mutex::default(),
                is_quiet: AtomicBool::new(false),
                at_once: AtomicU32::new(0),
                waiting: Mutex::default(),
                listener: Arc::new(Listener {
                    done: Mutex::default(),
                    is_told: AtomicBool::new(false),
                    signal,
                }),
                bell,
            };
            Bound::new(py, event_loop)
        };
        // There is none on Windows, nor where a process has too many files open.
        if let Ok((pull, bell)) = wire::stretch() {
            let number = bell.file_number();
            let made = with(Signal::Wire(pull), Some(bell))?;
            // In a context of its own: the loop would keep that of whoever happens to call first.
            let context = py.import("contextvars")?.getattr("Context")?.call0()?;
            let watch = (running.getattr("add_reader")?, number, made.getattr("settle")?);
            if context.call_method1("run", watch).is_ok() {
                return Ok(made);
            }
        }
        let made = with(Signal::Call(Mutex::default()), None)?;
        if let Signal::Call(whom) = &made.get().listener.signal {
            let this = PyWeakrefReference::new(&made)?;
            *locked(whom) = Some((of.unbind(), this.unbind()));
        }
        Ok(made)
    }

    /// Whether a call that is over soon may run at once: nobody else has called in the turns before.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Relaxed) && self.at_once.fetch_add(1, Ordering::Relaxed) < ALONE
    }

    /// Adds a call to those of this turn.
    pub(crate) fn join(
        slf: &Bound<'_, Self>,
        running: &Bound<'_, PyAny>,
        model: &Arc<Model>,
        claim: &Arc<Claim>,
    ) -> PyResult<()> {
        let py = slf.py();
        let is_first = {
            let mut turn = locked(&slf.get().turn);
            turn.claims.push((model.clone(), claim.clone()));
            !std::mem::replace(&mut turn.is_scheduled, true)
        };
        if is_first {
            let flush = slf.getattr(intern!(py, "flush"))?;
            if let Err(error) = running.call_method1(intern!(py, "call_soon"), (flush,)) {
                locked(&slf.get().turn).is_scheduled = false;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits for a call from now on; the token is what the listener hears of it.
    pub(crate) fn wait_for(&self, prediction: Py<PyPrediction>) -> (Arc<Listener>, u64) {
        let mut waiting = locked(&self.waiting);
        waiting.last += 1;
        let token = waiting.last;
        waiting.predictions.insert(token, prediction);
        (self.listener.clone(), token)
    }

    /// Waits for it no longer.
    pub(crate) fn leave(&self, token: u64) {
        let left = locked(&self.waiting).predictions.remove(&token);
        drop(left);
    }

    /// Gives up what a closed loop waits for, at once: no task of its can go on, and they may be garbage for long before
    /// somebody collects it.
    fn give_up(&self, py: Python<'_>) {
        let claims = std::mem::take(&mut locked(&self.turn).claims);
        for (_, claim) in &claims {
            claim.give_up();
        }
        let waiting = std::mem::take(&mut locked(&self.waiting).predictions);
        for prediction in waiting.values() {
            prediction.get().give_up(py);
        }
    }

    fn forget(&self) {
        let claims = std::mem::take(&mut locked(&self.turn).claims);
        let waiting = std::mem::take(&mut locked(&self.waiting).predictions);
        drop((claims, waiting));
    }
}

/// What a call on an event loop has come to.
pub(crate) enum Begun<'m> {
    Answered(Answer<'m>),
    /// The loop with whose turn it leaves, if it does.
    Waiting(Arc<Claim>, Option<Py<PyEventLoop>>),
}

/// Answers what was fed if that takes no time, else has it begin: at once, or with all others of the loop's turn.
pub(crate) fn begin<'m>(
    py: Python<'_>,
    opened: &'m Opened,
    fed: &mut Fed<'_>,
    wanted: Option<&[usize]>,
    options: Option<Arc<RunOptions>>,
    terms: Terms,
) -> Result<Begun<'m>, PyCoreError> {
    // A run under options of its own keeps no company.
    if !opened.model.is_batched() || options.is_some() {
        return Ok(match opened.begin(py, fed, wanted, options, terms, true)? {
            boundary::Begun::Answered(answer) => Begun::Answered(answer),
            boundary::Begun::Waiting(ticket) => Begun::Waiting(Arc::new(Claim::begun(ticket)), None),
        });
    }
    let home = match running(py)? {
        Some(running) => Some((PyEventLoop::of(&running)?, running)),
        None => None,
    };
    let is_quiet = || home.as_ref().is_some_and(|(event_loop, _)| event_loop.get().is_quiet());
    Ok(match opened.ask(py, fed, wanted, terms, is_quiet)? {
        boundary::Said::Answered(answer) => Begun::Answered(answer),
        boundary::Said::Asked(asked) => {
            let claim = Arc::new(Claim::new(asked, terms));
            if let Some((event_loop, running)) = &home {
                PyEventLoop::join(event_loop, running, &opened.model, &claim)?;
            }
            Begun::Waiting(claim, home.map(|(event_loop, _)| event_loop.unbind()))
        }
    })
}

type Group = (Arc<Model>, Vec<Arc<Claim>>, Vec<(Asked, Terms)>);

#[pymethods]
impl PyEventLoop {
    /// Begins the calls of the turn that has ended.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let claims = {
            let mut turn = locked(&this.turn);
            turn.is_scheduled = false;
            std::mem::take(&mut turn.claims)
        };
        let mut groups: Vec<Group> = Vec::new();
        let mut calls = 0;
        for (model, claim) in claims {
            let Some(asked) = claim.take() else { continue };
            calls += 1;
            let known = groups.iter_mut().find(|(known, ..)| Arc::ptr_eq(known, &model));
            let group = if let Some(group) = known {
                group
            } else {
                groups.push((model, Vec::new(), Vec::new()));
                groups.last_mut().expect("one was pushed")
            };
            group.1.push(claim);
            group.2.push(asked);
        }
        this.is_quiet.store(calls <= 1, Ordering::Relaxed);
        this.at_once.store(0, Ordering::Relaxed);
        // What ends meanwhile is looked at below.
        this.listener.is_told.store(true, Ordering::Release);
        for (model, claims, asked) in groups {
            let begun = detach(py, || model.begin_all(asked, BRIEF));
            for (claim, ticket) in std::iter::zip(claims, begun) {
                claim.begin(ticket);
            }
        }
        // Ctrl-C in a handler of messages must not keep those waiting whose calls have ended.
        let forwarded = logging::forward(py);
        Self::settle(slf)?;
        forwarded
    }

    /// Has the tasks go on whose calls have ended.
    fn settle(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if let Some(bell) = &this.bell {
            bell.hush();
        }
        let done = this.listener.look();
        for (position, token) in done.iter().enumerate() {
            let prediction = locked(&this.waiting).predictions.remove(token);
            let Some(prediction) = prediction else { continue };
            if let Err(error) = PyPrediction::wake(prediction.bind(py)) {
                // Ctrl-C in one task: the others go on all the same.
                this.listener.note(done[position + 1..].iter().copied());
                return Err(error);
            }
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(waiting) = self.waiting.try_lock() {
            for prediction in waiting.predictions.values() {
                visit.call(prediction)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.forget();
    }
}
