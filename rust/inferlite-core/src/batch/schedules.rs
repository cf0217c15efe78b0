//! The batcher and its tickets under schedules that shuttle makes up: nobody waits for ever, nothing is lost, and no run
//! stays taken. A deadlock, which a wake-up that is lost would be, fails the test; so does a thread that is left.

use shuttle::{check_pct, check_random, thread};

use super::scripted::{EXPLOSIVE, POISON, batched, doubled, settings, with_call};
use super::*;
use crate::cache::Missed;
use crate::error::Result;

const SCHEDULES: usize = 500;
/// How many times a schedule departs from running one thread to its end; a race rarely needs more.
const DEPTH: usize = 3;

fn explore(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    check_random(scenario.clone(), SCHEDULES);
    check_pct(scenario, SCHEDULES, DEPTH);
}

fn ask(model: &Model, given: f32, terms: Terms, check: &dyn Fn() -> Result<()>) -> Result<f32, String> {
    let answer = with_call(&[given], |call| {
        doubled(model.compute(call, Missed::Skipped, &terms, check))
    });
    answer.map(|rows| rows[0])
}

fn plain(model: &Model, given: f32) -> Result<f32, String> {
    ask(model, given, Terms::default(), &|| Ok(()))
}

fn join_all(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("it does not panic");
    }
}

fn begin(model: &Arc<Model>, given: f32) -> crate::ticket::Ticket {
    let begun = with_call(&[given], |call| model.begin(call, Missed::Skipped, Terms::default()));
    begun.expect("there is room")
}

/// Nobody waits, no run is taken, and the batcher takes a call.
fn is_at_rest(model: &Model) {
    let summary = model.batch_summary().expect("it is batched");
    assert_eq!((summary.queued_calls, summary.queued_rows), (0, 0));
    assert_eq!(plain(model, 7.0), Ok(14.0));
}

fn instances(instances: usize) -> BatchSettings {
    BatchSettings {
        instances,
        max_rows: Some(2),
        ..settings()
    }
}

fn threads_that_call(count: u8, settings: BatchSettings) {
    let (model, _engine, _hand) = batched(settings);
    let calls = (0..count).map(f32::from).map(|given| {
        let model = model.clone();
        thread::spawn(move || {
            for _ in 0..2 {
                assert_eq!(plain(&model, given), Ok(2.0 * given));
            }
        })
    });
    let calls: Vec<_> = calls.collect();
    join_all(calls);
    assert_eq!(model.batch_summary().expect("it is batched").running, 0);
    is_at_rest(&model);
}

#[test]
fn threads_that_call_are_all_answered() {
    explore(|| threads_that_call(3, instances(1)));
}

#[test]
fn threads_that_call_several_instances_are_all_answered() {
    explore(|| threads_that_call(4, instances(2)));
}

#[test]
fn tickets_and_threads_are_all_answered() {
    explore(|| {
        let (model, _engine, _hand) = batched(instances(1));
        let calling = model.clone();
        let call = thread::spawn(move || assert_eq!(plain(&calling, 1.0), Ok(2.0)));
        let begun = model.clone();
        let other = thread::spawn(move || doubled(begin(&begun, 2.0).wait(None, &|| Ok(()))));
        let ticket = begin(&model, 3.0);
        drop(begin(&model, 4.0));
        assert_eq!(doubled(ticket.wait(None, &|| Ok(()))), Ok(vec![6.0]));
        assert_eq!(other.join().expect("it does not panic"), Ok(vec![4.0]));
        call.join().expect("it does not panic");
        is_at_rest(&model);
    });
}

#[test]
fn whoever_leaves_while_called_to_lead_takes_nobody_along() {
    explore(|| {
        let (model, _engine, _hand) = batched(instances(1));
        let terms = Terms {
            // A wait that may be over at any moment.
            deadline: Some(Duration::from_millis(1)),
            ..Terms::default()
        };
        let leaving = (0..2).map(|_| {
            let model = model.clone();
            thread::spawn(move || {
                let interrupted = || Err(Error::new(ErrorKind::Interrupted, "as told"));
                let answer = ask(&model, 1.0, terms, &interrupted);
                assert!(answer == Ok(2.0) || answer == Err("as told".to_owned()), "{answer:?}");
            })
        });
        let leaving: Vec<_> = leaving.collect();
        let staying = model.clone();
        let staying = thread::spawn(move || assert_eq!(plain(&staying, 3.0), Ok(6.0)));
        assert_eq!(plain(&model, 4.0), Ok(8.0));
        staying.join().expect("it does not panic");
        join_all(leaving);
        is_at_rest(&model);
    });
}

#[test]
fn errors_and_panics_leave_no_run_taken() {
    explore(|| {
        let (model, _engine, _hand) = batched(instances(1));
        let calls = [POISON, EXPLOSIVE, 3.0].map(|given| {
            let model = model.clone();
            thread::spawn(move || plain(&model, given))
        });
        let [poisoned, exploded, third] = calls.map(|call| call.join().expect("the panic was caught"));
        assert!(poisoned.is_err() && exploded.is_err());
        let panicked = Err("the engine panicked".to_owned());
        assert!(third == Ok(6.0) || third == panicked, "{third:?}");
        is_at_rest(&model);
    });
}

#[test]
fn closing_serves_or_refuses_everybody() {
    for cancels in [false, true] {
        explore(move || {
            let (model, _engine, _hand) = batched(instances(1));
            let calls = [1.0, 2.0].map(|given| {
                let model = model.clone();
                thread::spawn(move || {
                    let answer = plain(&model, given);
                    assert!(
                        answer == Ok(2.0 * given) || answer == Err("the model is closed".to_owned()),
                        "{answer:?}"
                    );
                })
            });
            model.close(cancels);
            join_all(calls);
            let summary = model.batch_summary().expect("it is batched");
            assert_eq!((summary.queued_calls, summary.running), (0, 0));
        });
    }
}
