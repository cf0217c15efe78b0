//! One computation that one caller leads and others may wait for.
//!
//! Everybody who wants the answer has a [`Seat`]. Whoever leaves early, the one who began it included, takes nobody with
//! it; when the last one leaves, the run is told to end, if it is one that can be told. Where several computations share
//! a run, as in a batch, that is when nobody is left who wants any of them ([`Claims`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashTable;

use crate::cache::{Entry, Key};
use crate::error::Error;
use crate::runtime::ort::RunOptions;
use crate::sync::{Condvar, Mutex, locked, wait_for};

/// The computations under way that can be joined.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashTable<Arc<Flight>>>);

/// A computation under way, or over.
#[derive(Debug)]
pub(crate) struct Flight {
    /// What is asked, where others may ask the same.
    key: Option<Arc<Key>>,
    state: Mutex<State>,
    has_ended: Condvar,
}

#[derive(Default)]
struct State {
    ending: Option<Ending>,
    seats: usize,
    /// Threads that wait: to wake nobody is a system call all the same.
    sleepers: usize,
    /// Set when the last seat was left before the end: nobody may join any more.
    is_deserted: bool,
    /// What ends the run, where it is one that can be ended.
    claims: Option<Arc<Claims>>,
    wakers: Vec<Waker>,
    /// Whether the thread in the first seat is to lead the batch that it waits for.
    is_called: bool,
}

/// Something that can be told to end early.
pub(crate) trait Terminate: fmt::Debug + Send + Sync {
    /// Has it end soon; nothing happens where it has ended.
    fn terminate(&self);
}

impl Terminate for RunOptions {
    fn terminate(&self) {
        // The runtime refuses only what is no set of options.
        let _ = self.set_terminate(true);
    }
}

/// The claims of several computations to one run, which is told to end when all have been given up.
#[derive(Debug)]
pub(crate) struct Claims {
    left: AtomicUsize,
    run: Arc<dyn Terminate>,
}

impl Claims {
    /// Claims of so many computations, of which there must be one.
    pub(crate) fn new(count: usize, run: Arc<dyn Terminate>) -> Arc<Self> {
        let left = AtomicUsize::new(count);
        Arc::new(Self { left, run })
    }

    /// Gives one of them up, once for each computation.
    fn give_up(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.run.terminate();
        }
    }
}

/// Whoever is told of the ends of many computations, once for all those that end together.
pub trait Audience: Send + Sync {
    /// These have ended; called from the thread that has computed them.
    fn ended(&self, tokens: &[u64]);
}

/// What happens when a computation has ended.
pub(crate) enum Waker {
    /// This is called.
    Once(Box<dyn FnOnce() + Send>),
    /// Somebody is told, with what they call the computation.
    Audience(Arc<dyn Audience>, u64),
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once(_) => f.write_str("Once"),
            Self::Audience(_, token) => f.debug_tuple("Audience").field(token).finish(),
        }
    }
}

/// Wakes whoever waits for what has ended, an audience once for all of it.
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    let mut audiences: Vec<(Arc<dyn Audience>, Vec<u64>)> = Vec::new();
    for waker in wakers {
        match waker {
            Waker::Once(wake) => wake(),
            Waker::Audience(audience, token) => {
                let known = audiences.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &audience));
                match known {
                    Some((_, tokens)) => tokens.push(token),
                    None => audiences.push((audience, vec![token])),
                }
            }
        }
    }
    for (audience, tokens) in audiences {
        audience.ended(&tokens);
    }
}

/// How a computation ended, for those who waited.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Answer(Arc<Entry>),
    Error(Error),
    /// The leader panicked, or nobody was left: whoever still wants the answer asks anew.
    Abandoned,
}

/// What a caller has to do.
pub(crate) enum Role {
    /// Compute, for oneself first of all.
    Lead(Leader, Seat),
    Wait(Seat),
}

/// The place of one who wants the answer; dropped, it is left.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Flight>);

/// Where to be woken at the end of a computation, without a claim to its answer.
#[derive(Debug)]
pub struct Bell(Option<Arc<Flight>>);

/// What a thread that stands in line is woken for.
#[derive(Debug)]
pub(crate) enum Woken {
    /// It has ended.
    Ended(Ending),
    /// The thread is to lead the batch of which its computation is a part.
    Called,
}

/// A thread that is called, to be woken.
#[derive(Debug)]
pub(crate) struct Called(Arc<Flight>);

impl Called {
    /// Wakes it.
    pub(crate) fn wake(self) {
        self.0.has_ended.notify_all();
    }
}

/// Whoever computes; dropped without a word, the others start anew.
#[derive(Debug)]
pub(crate) struct Leader {
    flights: Option<Arc<Flights>>,
    flight: Arc<Flight>,
    ending: Ending,
    has_ended: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("ending", &self.ending)
            .field("seats", &self.seats)
            .field("is_deserted", &self.is_deserted)
            .finish_non_exhaustive()
    }
}

impl Flights {
    /// Joins the computation of a key, or begins it.
    pub(crate) fn join(self: &Arc<Self>, key: &Arc<Key>) -> Role {
        let is_same = |flight: &Arc<Flight>| flight.key.as_ref().is_some_and(|other| other.is_same(key));
        let hash = |flight: &Arc<Flight>| flight.key.as_ref().map_or(0, |key| key.hash());
        let mut flights = locked(&self.0);
        if let Ok(found) = flights.find_entry(key.hash(), is_same) {
            if let Some(seat) = found.get().seat() {
                return Role::Wait(seat);
            }
            // It was told to end: this caller begins anew beside it.
            found.remove();
        }
        let (leader, seat) = Leader::new(Some(self.clone()), Some(key.clone()));
        flights.insert_unique(key.hash(), leader.flight.clone(), hash);
        Role::Lead(leader, seat)
    }

    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn len(&self) -> usize {
        locked(&self.0).len()
    }
}

impl Flight {
    /// A place among those who want the answer; `None` if all have left already.
    fn seat(self: &Arc<Self>) -> Option<Seat> {
        let mut state = locked(&self.state);
        if state.is_deserted {
            return None;
        }
        state.seats += 1;
        Some(Seat(self.clone()))
    }
}

impl Flight {
    fn when_ended(&self, waker: Waker) {
        let mut state = locked(&self.state);
        if state.ending.is_none() {
            state.wakers.push(waker);
        } else {
            drop(state);
            wake([waker]);
        }
    }
}

impl Bell {
    /// Calls `wake` once the computation has ended: from the thread that leads, or at once.
    pub fn when_ended(self, wake: Box<dyn FnOnce() + Send>) {
        match self.0 {
            Some(flight) => flight.when_ended(Waker::Once(wake)),
            None => wake(),
        }
    }

    /// One for what has ended.
    pub(crate) fn of_ended() -> Self {
        Self(None)
    }
}

impl Leader {
    fn new(flights: Option<Arc<Flights>>, key: Option<Arc<Key>>) -> (Self, Seat) {
        let flight = Arc::new(Flight {
            key,
            state: Mutex::new(State {
                seats: 1,
                ..State::default()
            }),
            has_ended: Condvar::new(),
        });
        let leader = Self {
            flights,
            flight: flight.clone(),
            ending: Ending::Abandoned,
            has_ended: false,
        };
        (leader, Seat(flight))
    }

    /// Leads a computation that nobody can join.
    pub(crate) fn alone() -> (Self, Seat) {
        Self::new(None, None)
    }

    /// From now on, the last one who leaves gives up the claim of this computation; at once, if nobody is there.
    pub(crate) fn may_be_ended_by(&self, claims: &Arc<Claims>) {
        let mut state = locked(&self.flight.state);
        if state.is_deserted {
            drop(state);
            claims.give_up();
        } else {
            state.claims = Some(claims.clone());
        }
    }

    /// Whether nobody wants the answer any more.
    pub(crate) fn is_deserted(&self) -> bool {
        locked(&self.flight.state).is_deserted
    }

    /// Calls the one who waits to lead the batch, if it is still there.
    ///
    /// Only for a computation that nobody else can join.
    pub(crate) fn call(&self) -> Option<Called> {
        let mut state = locked(&self.flight.state);
        if state.is_deserted {
            return None;
        }
        state.is_called = true;
        Some(Called(self.flight.clone()))
    }

    /// Tells those who wait.
    pub(crate) fn end(mut self, ending: Ending) {
        self.ending = ending;
    }

    /// Tells those who wait, and gives back whom else to wake.
    pub(crate) fn end_quietly(mut self, ending: Ending) -> Vec<Waker> {
        self.ending = ending;
        self.finish()
    }

    /// Does all that is to be done at the end, once; what is left to do is to wake these.
    fn finish(&mut self) -> Vec<Waker> {
        if self.has_ended {
            return Vec::new();
        }
        self.has_ended = true;
        // Off the list first: whoever comes now looks into the store, or leads.
        if let (Some(flights), Some(key)) = (&self.flights, &self.flight.key) {
            let mut flights = locked(&flights.0);
            if let Ok(found) = flights.find_entry(key.hash(), |other| Arc::ptr_eq(other, &self.flight)) {
                found.remove();
            }
        }
        let mut state = locked(&self.flight.state);
        state.ending = Some(std::mem::replace(&mut self.ending, Ending::Abandoned));
        state.claims = None;
        let (wakers, sleepers) = (std::mem::take(&mut state.wakers), state.sleepers);
        drop(state);
        if sleepers > 0 {
            self.flight.has_ended.notify_all();
        }
        wakers
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        wake(self.finish());
    }
}

impl Seat {
    /// How it ended, if it has; to be asked once.
    pub(crate) fn ending(&self) -> Option<Ending> {
        Self::take(&mut locked(&self.0.state))
    }

    fn take(state: &mut State) -> Option<Ending> {
        match &mut state.ending {
            // Nobody else asks: whoever has the last seat gets the answer for itself.
            Some(ending) if state.seats == 1 => Some(std::mem::replace(ending, Ending::Abandoned)),
            ending => ending.clone(),
        }
    }

    /// How it ended, if it does within this time; to be asked until it has.
    pub(crate) fn wait(&self, at_most: Duration) -> Option<Ending> {
        let mut state = locked(&self.0.state);
        state.sleepers += 1;
        let mut state = wait_for(&self.0.has_ended, state, at_most, |state| state.ending.is_none());
        state.sleepers -= 1;
        Self::take(&mut state)
    }

    /// The same for a thread that may be called to lead meanwhile, which comes first.
    pub(crate) fn stand(&self, at_most: Duration) -> Option<Woken> {
        let mut state = locked(&self.0.state);
        state.sleepers += 1;
        let mut state = wait_for(&self.0.has_ended, state, at_most, |state| {
            state.ending.is_none() && !state.is_called
        });
        state.sleepers -= 1;
        if std::mem::take(&mut state.is_called) {
            return Some(Woken::Called);
        }
        Self::take(&mut state).map(Woken::Ended)
    }

    /// Leaves; whether the thread has been called to lead, so that somebody else has to.
    pub(crate) fn leave(self) -> bool {
        let flight = self.0.clone();
        drop(self);
        // Nobody calls a thread that has left.
        std::mem::take(&mut locked(&flight.state).is_called)
    }

    /// Wakes somebody once it has ended: from the thread that leads, or at once.
    pub(crate) fn when_ended(&self, waker: Waker) {
        self.0.when_ended(waker);
    }

    /// The same for later, without the seat.
    pub(crate) fn bell(&self) -> Bell {
        Bell(Some(self.0.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = locked(&self.0.state);
        state.seats -= 1;
        if state.seats > 0 || state.ending.is_some() {
            return;
        }
        state.is_deserted = true;
        let claims = state.claims.take();
        // Those who only wanted to know when it ends still do.
        let is_bell = |waker: &Waker| matches!(waker, Waker::Once(_));
        let (bells, audiences) = std::mem::take(&mut state.wakers).into_iter().partition(is_bell);
        state.wakers = bells;
        drop(state);
        if let Some(claims) = claims {
            claims.give_up();
        }
        drop::<Vec<Waker>>(audiences);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const LONG: Duration = Duration::from_secs(30);

    fn key(number: u64) -> Arc<Key> {
        Arc::new(Key::of_words(7, &[number]))
    }

    fn lead(flights: &Arc<Flights>, key: &Arc<Key>) -> (Leader, Seat) {
        match flights.join(key) {
            Role::Lead(leader, seat) => (leader, seat),
            Role::Wait(_) => panic!("somebody leads already"),
        }
    }

    fn wait(flights: &Arc<Flights>, key: &Arc<Key>) -> Seat {
        match flights.join(key) {
            Role::Wait(seat) => seat,
            Role::Lead(..) => panic!("nobody leads"),
        }
    }

    #[test]
    fn an_answer_reaches_those_who_wait() {
        let flights = Arc::<Flights>::default();
        let (leader, _own) = lead(&flights, &key(1));
        let seats: Vec<Seat> = (0..4).map(|_| wait(&flights, &key(1))).collect();
        assert!(seats[0].wait(Duration::ZERO).is_none());
        let entry = Arc::new(Entry::for_tests(&key(1), 1, None));
        let woken = Arc::<AtomicUsize>::default();
        for seat in &seats {
            let woken = woken.clone();
            seat.when_ended(Waker::Once(Box::new(move || {
                woken.fetch_add(1, Ordering::Relaxed);
            })));
        }
        std::thread::scope(|scope| {
            let waiting: Vec<_> = seats.iter().map(|seat| scope.spawn(|| seat.wait(LONG))).collect();
            leader.end(Ending::Answer(entry.clone()));
            for thread in waiting {
                let ending = thread.join().expect("it does not panic");
                assert!(matches!(ending, Some(Ending::Answer(given)) if Arc::ptr_eq(&given, &entry)));
            }
        });
        assert_eq!((flights.len(), woken.load(Ordering::Relaxed)), (0, 4));
        let late = woken.clone();
        seats[0].when_ended(Waker::Once(Box::new(move || {
            late.fetch_add(1, Ordering::Relaxed);
        })));
        assert_eq!(woken.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn an_error_reaches_those_who_wait_and_nobody_later() {
        let flights = Arc::<Flights>::default();
        let (leader, _own) = lead(&flights, &key(1));
        let seat = wait(&flights, &key(1));
        leader.end(Ending::Error(Error::new(ErrorKind::Fail, "as told")));
        assert!(matches!(seat.wait(LONG), Some(Ending::Error(error)) if error.message() == "as told"));
        drop(lead(&flights, &key(1)));
    }

    #[test]
    fn a_panic_of_the_leader_frees_those_who_wait() {
        let flights = Arc::<Flights>::default();
        let (leader, _own) = lead(&flights, &key(1));
        let seat = wait(&flights, &key(1));
        let panicking = std::thread::spawn(move || {
            let _leader = leader;
            panic!("as told");
        });
        assert!(matches!(seat.wait(LONG), Some(Ending::Abandoned)));
        assert!(panicking.join().is_err());
        drop(lead(&flights, &key(1)));
    }

    #[test]
    fn other_questions_do_not_wait() {
        let flights = Arc::<Flights>::default();
        let _first = lead(&flights, &key(1));
        let _second = lead(&flights, &key(2));
        assert_eq!(flights.len(), 2);
    }

    #[test]
    fn only_the_last_one_who_leaves_ends_the_run() {
        let flights = Arc::<Flights>::default();
        let (leader, own) = lead(&flights, &key(1));
        let other = wait(&flights, &key(1));
        drop(own);
        assert!(!leader.is_deserted());
        drop(other);
        assert!(leader.is_deserted());
        // Whoever comes now asks anew, and what is left of the first does not get in its way.
        let (second, _own) = lead(&flights, &key(1));
        drop(leader);
        assert_eq!(flights.len(), 1);
        let seat = wait(&flights, &key(1));
        second.end(Ending::Error(Error::new(ErrorKind::Fail, "as told")));
        assert!(matches!(seat.wait(LONG), Some(Ending::Error(_))));
    }

    #[test]
    fn a_run_of_several_ends_when_nobody_wants_any_of_them() {
        #[derive(Debug, Default)]
        struct Run(AtomicUsize);
        impl Terminate for Run {
            fn terminate(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let run = Arc::<Run>::default();
        let claims = Claims::new(3, run.clone());
        let ends = || run.0.load(Ordering::Relaxed);
        let flights = Arc::<Flights>::default();
        let (early, seat) = Leader::alone();
        drop(seat);
        early.may_be_ended_by(&claims);
        let (alone, only) = Leader::alone();
        alone.may_be_ended_by(&claims);
        let (leader, own) = lead(&flights, &key(1));
        leader.may_be_ended_by(&claims);
        let joined = wait(&flights, &key(1));
        drop((own, only));
        assert_eq!(ends(), 0);
        drop(joined);
        assert_eq!(ends(), 1);
        drop((early, alone, leader));
        assert_eq!(ends(), 1);
    }

    #[test]
    fn an_answer_is_no_reason_to_end_the_run_of_others() {
        #[derive(Debug)]
        struct Run;
        impl Terminate for Run {
            fn terminate(&self) {
                panic!("somebody is left");
            }
        }
        let claims = Claims::new(1, Arc::new(Run));
        let (leader, seat) = Leader::alone();
        leader.may_be_ended_by(&claims);
        leader.end(Ending::Error(Error::new(ErrorKind::Fail, "as told")));
        drop(seat);
    }

    #[test]
    fn an_audience_is_told_once_of_what_ends_together() {
        #[derive(Default)]
        struct Listener(std::sync::Mutex<Vec<Vec<u64>>>);
        impl Audience for Listener {
            fn ended(&self, tokens: &[u64]) {
                self.0.lock().expect("no panic").push(tokens.to_vec());
            }
        }
        let listener = Arc::<Listener>::default();
        let (leaders, _seats): (Vec<Leader>, Vec<Seat>) = (0..3)
            .map(|token| {
                let (leader, seat) = Leader::alone();
                seat.when_ended(Waker::Audience(listener.clone(), token));
                (leader, seat)
            })
            .unzip();
        let error = Ending::Error(Error::new(ErrorKind::Fail, "as told"));
        wake(leaders.into_iter().flat_map(|leader| leader.end_quietly(error.clone())));
        assert_eq!(*listener.0.lock().expect("no panic"), [vec![0, 1, 2]]);
    }

    #[test]
    fn whoever_is_called_and_leaves_says_so_and_nobody_calls_one_who_has_left() {
        let (leader, seat) = Leader::alone();
        leader.call().expect("it is there").wake();
        assert!(matches!(seat.stand(LONG), Some(Woken::Called)));
        assert!(seat.stand(Duration::ZERO).is_none());
        leader.call().expect("it is there").wake();
        assert!(seat.leave());
        assert!(leader.call().is_none());
    }

    #[test]
    fn leaving_after_the_end_changes_nothing() {
        let flights = Arc::<Flights>::default();
        let (leader, own) = lead(&flights, &key(1));
        let other = wait(&flights, &key(1));
        leader.end(Ending::Error(Error::new(ErrorKind::Fail, "as told")));
        drop(own);
        assert!(matches!(other.ending(), Some(Ending::Error(_))));
    }
}
