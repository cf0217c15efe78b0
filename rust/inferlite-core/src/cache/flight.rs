//! One computation for concurrent identical questions.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;

use super::entry::Entry;
use super::key::Key;
use crate::error::Error;

/// The computations under way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashTable<Arc<Flight>>>);

/// A computation that somebody leads and others may wait for.
#[derive(Debug)]
pub(super) struct Flight {
    hash: u64,
    words: Box<[u128]>,
    ending: Mutex<Option<Ending>>,
    has_ended: Condvar,
}

/// How a computation ended, for those who waited.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    Answer(Arc<Entry>),
    Error(Error),
    /// The leader panicked, or what it computed is nobody else's answer.
    Abandoned,
}

/// What a caller has to do.
pub(super) enum Role<'f> {
    Lead(Leader<'f>),
    Wait(Arc<Flight>),
}

/// Whoever computes; dropped without a word, the others start anew.
pub(super) struct Leader<'f> {
    flights: &'f Flights,
    flight: Arc<Flight>,
    ending: Ending,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flights {
    /// Joins the computation of a key, or begins it.
    pub(super) fn join(&self, key: &Key) -> Role<'_> {
        let mut flights = locked(&self.0);
        if let Some(flight) = flights.find(key.hash, |flight| *flight.words == *key.words) {
            return Role::Wait(flight.clone());
        }
        let flight = Arc::new(Flight {
            hash: key.hash,
            words: key.words.as_slice().into(),
            ending: Mutex::new(None),
            has_ended: Condvar::new(),
        });
        flights.insert_unique(key.hash, flight.clone(), |flight| flight.hash);
        Role::Lead(Leader {
            flights: self,
            flight,
            ending: Ending::Abandoned,
        })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        locked(&self.0).len()
    }
}

impl Leader<'_> {
    /// Tells those who wait.
    pub(super) fn end(mut self, ending: Ending) {
        self.ending = ending;
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        // Off the list first: whoever comes now looks into the store, or leads.
        let mut flights = locked(&self.flights.0);
        if let Ok(found) = flights.find_entry(self.flight.hash, |other| Arc::ptr_eq(other, &self.flight)) {
            found.remove();
        }
        drop(flights);
        let ending = std::mem::replace(&mut self.ending, Ending::Abandoned);
        // Nobody can join any more. Waking costs a call into the system even where nobody waits, as for nearly every miss.
        if Arc::strong_count(&self.flight) > 1 {
            *locked(&self.flight.ending) = Some(ending);
            self.flight.has_ended.notify_all();
        }
    }
}

impl Flight {
    /// The ending, if it comes within this time.
    pub(super) fn wait(&self, at_most: Duration) -> Option<Ending> {
        let ending = locked(&self.ending);
        let (ending, _) = self
            .has_ended
            .wait_timeout_while(ending, at_most, |ending| ending.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        ending.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const LONG: Duration = Duration::from_secs(30);

    fn key(number: u128) -> Key {
        Key::of_words(7, &[number])
    }

    fn lead<'f>(flights: &'f Flights, key: &Key) -> Leader<'f> {
        match flights.join(key) {
            Role::Lead(leader) => leader,
            Role::Wait(_) => panic!("somebody leads already"),
        }
    }

    fn wait(flights: &Flights, key: &Key) -> Arc<Flight> {
        match flights.join(key) {
            Role::Wait(flight) => flight,
            Role::Lead(_) => panic!("nobody leads"),
        }
    }

    #[test]
    fn an_answer_reaches_those_who_wait() {
        let flights = Flights::default();
        let leader = lead(&flights, &key(1));
        let flight = wait(&flights, &key(1));
        assert!(flight.wait(Duration::ZERO).is_none());
        let entry = Arc::new(Entry::for_tests(&key(1), 1, None));
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| flight.wait(LONG))).collect();
            leader.end(Ending::Answer(entry.clone()));
            for thread in waiting {
                let ending = thread.join().expect("it does not panic");
                assert!(matches!(ending, Some(Ending::Answer(given)) if Arc::ptr_eq(&given, &entry)));
            }
        });
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn an_error_reaches_those_who_wait_and_nobody_later() {
        let flights = Flights::default();
        let leader = lead(&flights, &key(1));
        let flight = wait(&flights, &key(1));
        leader.end(Ending::Error(Error::new(ErrorKind::Fail, "as told")));
        assert!(matches!(flight.wait(LONG), Some(Ending::Error(error)) if error.message() == "as told"));
        drop(lead(&flights, &key(1)));
    }

    #[test]
    fn a_panic_of_the_leader_frees_those_who_wait() {
        let flights = Flights::default();
        let flight = std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let flights = &flights;
            let panicking = scope.spawn(move || {
                let _leader = lead(flights, &key(1));
                sender.send(()).expect("somebody listens");
                let _ = wait(flights, &key(1));
                panic!("as told");
            });
            receiver.recv().expect("it leads");
            assert!(panicking.join().is_err());
            match flights.join(&key(1)) {
                Role::Lead(leader) => drop(leader),
                Role::Wait(_) => panic!("the flight of a leader that panicked is still there"),
            }
            let leader = lead(flights, &key(2));
            let flight = wait(flights, &key(2));
            drop(leader);
            flight
        });
        assert!(matches!(flight.wait(LONG), Some(Ending::Abandoned)));
    }

    #[test]
    fn other_questions_do_not_wait() {
        let flights = Flights::default();
        let _first = lead(&flights, &key(1));
        let _second = lead(&flights, &key(2));
        assert_eq!(flights.len(), 2);
    }
}
