//! One computation that one caller leads and others may wait for.
//!
//! Everybody who wants the answer has a [`Seat`]. Whoever leaves early, the one who began it included, takes nobody with
//! it; when the last one leaves, the run is told to end, if it is one that can be told.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;

use crate::cache::{Entry, Key};
use crate::error::Error;
use crate::runtime::ort::RunOptions;

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
    options: Option<Arc<RunOptions>>,
    wakers: Vec<Box<dyn FnOnce() + Send>>,
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

/// Whoever computes; dropped without a word, the others start anew.
#[derive(Debug)]
pub(crate) struct Leader {
    flights: Option<Arc<Flights>>,
    flight: Arc<Flight>,
    ending: Ending,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[cfg(test)]
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
        };
        (leader, Seat(flight))
    }

    /// Leads a computation that nobody can join.
    pub(crate) fn alone() -> (Self, Seat) {
        Self::new(None, None)
    }

    /// From now on, the last one who leaves ends the run by these options.
    pub(crate) fn may_be_ended_by(&self, options: Arc<RunOptions>) {
        locked(&self.flight.state).options = Some(options);
    }

    /// Whether nobody wants the answer any more.
    pub(crate) fn is_deserted(&self) -> bool {
        locked(&self.flight.state).is_deserted
    }

    /// Tells those who wait.
    pub(crate) fn end(mut self, ending: Ending) {
        self.ending = ending;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // Off the list first: whoever comes now looks into the store, or leads.
        if let (Some(flights), Some(key)) = (&self.flights, &self.flight.key) {
            let mut flights = locked(&flights.0);
            if let Ok(found) = flights.find_entry(key.hash(), |other| Arc::ptr_eq(other, &self.flight)) {
                found.remove();
            }
        }
        let mut state = locked(&self.flight.state);
        state.ending = Some(std::mem::replace(&mut self.ending, Ending::Abandoned));
        state.options = None;
        let (wakers, sleepers) = (std::mem::take(&mut state.wakers), state.sleepers);
        drop(state);
        if sleepers > 0 {
            self.flight.has_ended.notify_all();
        }
        for wake in wakers {
            wake();
        }
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
        let (mut state, _) = self
            .0
            .has_ended
            .wait_timeout_while(state, at_most, |state| state.ending.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.sleepers -= 1;
        Self::take(&mut state)
    }

    /// Calls `wake` once it has ended: from the thread that leads, or at once.
    pub(crate) fn when_ended(&self, wake: Box<dyn FnOnce() + Send>) {
        let mut state = locked(&self.0.state);
        if state.ending.is_none() {
            state.wakers.push(wake);
        } else {
            drop(state);
            wake();
        }
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
        let (options, wakers) = (state.options.take(), std::mem::take(&mut state.wakers));
        drop(state);
        if let Some(options) = options {
            // The runtime refuses only what is no set of options.
            let _ = options.set_terminate(true);
        }
        drop(wakers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
            seat.when_ended(Box::new(move || {
                woken.fetch_add(1, Ordering::Relaxed);
            }));
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
        seats[0].when_ended(Box::new(move || {
            late.fetch_add(1, Ordering::Relaxed);
        }));
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
    fn leaving_after_the_end_changes_nothing() {
        let flights = Arc::<Flights>::default();
        let (leader, own) = lead(&flights, &key(1));
        let other = wait(&flights, &key(1));
        leader.end(Ending::Error(Error::new(ErrorKind::Fail, "as told")));
        drop(own);
        assert!(matches!(other.ending(), Some(Ending::Error(_))));
    }
}
