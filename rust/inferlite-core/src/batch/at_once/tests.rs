//! Calls that come together, on an engine that does as it is told.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::Terms;
use super::super::scripted::{EXPLOSIVE, POISON, Scripted, doubled, predictable, settings, with_call};
use super::super::tests::{begin, plain};
use crate::cache::Missed;
use crate::error::{ErrorKind, Result};
use crate::model::Model;
use crate::ticket::Audience;

/// A model of which it is known that its runs are over soon.
fn brief() -> (Arc<Model>, Arc<Scripted>) {
    let (model, engine) = predictable(settings());
    for given in [&[1.0][..], &[1.0, 2.0, 3.0, 4.0]] {
        let begun = begin(&model, given, Terms::default()).expect("there is room");
        doubled(begun.wait(None, &|| Ok(()))).expect("there is no poison");
    }
    (model, engine)
}

/// What has ended of calls that come together, by the time that they have been begun.
fn together(model: &Arc<Model>, given: &[&[f32]]) -> Vec<Option<Result<Vec<f32>, String>>> {
    let asked = given
        .iter()
        .map(|given| with_call(given, |call| (model.ask(call, Missed::Skipped), Terms::default())));
    let begun = model.begin_all(asked, Duration::from_secs(60));
    let looked = begun.into_iter().map(|ticket| {
        let answer = ticket.expect("there is room").answer();
        answer.transpose().map(doubled)
    });
    looked.collect()
}

#[test]
fn calls_that_come_together_leave_at_once_on_the_thread_that_brings_them() {
    let (model, engine) = brief();
    let before = model.batch_summary().expect("it is batched");
    let ended = together(&model, &[&[1.0], &[2.0, 3.0], &[4.0]]);
    let wanted: [&[f32]; 3] = [&[2.0], &[4.0, 6.0], &[8.0]];
    assert_eq!(ended, wanted.map(|numbers| Some(Ok(numbers.to_vec()))));
    assert_eq!(together(&model, &[&[5.0]]), [Some(Ok(vec![10.0]))]);
    assert_eq!(engine.sizes(), [1, 4, 4, 1]);
    let after = model.batch_summary().expect("it is batched");
    assert_eq!((after.idle - before.idle, after.lone, after.running), (2, 0, 0));
    assert_eq!(after.sizes, [(1, 2), (4, 2)]);
    assert_eq!(after.queue_time.count - before.queue_time.count, 4);
    assert_eq!(after.compute_time.count - before.compute_time.count, 2);
}

#[test]
fn an_answer_that_is_there_from_the_start_is_had_once_and_announced_at_once() {
    #[derive(Default)]
    struct Loop(Mutex<Vec<u64>>);
    impl Audience for Loop {
        fn ended(&self, tokens: &[u64]) {
            self.0.lock().expect("no panic").extend(tokens);
        }
    }
    let (model, _) = brief();
    let ask = || {
        let asked = with_call(&[3.0], |call| model.ask(call, Missed::Skipped));
        let begun = model.begin_all([(asked, Terms::default())], Duration::from_secs(60));
        begun.into_iter().next().expect("one was begun").expect("there is room")
    };
    let audience = Arc::<Loop>::default();
    let mut ticket = ask();
    ticket.tell(audience.clone(), 7);
    assert_eq!(*audience.0.lock().expect("no panic"), [7]);
    let (rings, rung) = channel();
    ticket
        .bell()
        .when_ended(Box::new(move || rings.send(()).expect("the test goes on")));
    assert_eq!(rung.try_recv(), Ok(()));
    assert_eq!(ticket.answer().transpose().map(doubled), Some(Ok(vec![6.0])));
    assert_eq!(ticket.answer().expect_err("it is gone").kind(), ErrorKind::Closed);
    assert_eq!(doubled(ask().wait(None, &|| Ok(()))), Ok(vec![6.0]));
}

#[test]
fn the_culprit_among_those_that_come_together_alone_gets_its_error() {
    let (model, engine) = brief();
    let ended = together(&model, &[&[1.0], &[POISON], &[2.0]]);
    let poison = Err("poison among 1".to_owned());
    assert_eq!(ended, [Some(Ok(vec![2.0])), Some(poison.clone()), Some(Ok(vec![4.0]))]);
    assert_eq!(engine.sizes()[2..4], [3, 3], "at once, then in line");
    assert_eq!(together(&model, &[&[POISON]]), [Some(poison)]);
}

#[test]
fn a_panic_is_the_error_of_all_that_have_come_together() {
    let (model, _) = brief();
    let panicked = || Some(Err("the engine panicked".to_owned()));
    assert_eq!(together(&model, &[&[1.0], &[EXPLOSIVE]]), [panicked(), panicked()]);
    assert_eq!(together(&model, &[&[EXPLOSIVE]]), [panicked()]);
    assert_eq!(together(&model, &[&[1.0]]), [Some(Ok(vec![2.0]))]);
}

#[test]
fn calls_that_come_together_and_cannot_leave_at_once_stand_in_line() {
    let (model, engine) = brief();
    // They are more than a batch holds.
    let five = [1.0; 5];
    let asked = [&five; 2].map(|given| with_call(given, |call| (model.ask(call, Missed::Skipped), Terms::default())));
    for begun in model.begin_all(asked, Duration::from_secs(60)) {
        let begun = begun.expect("there is room");
        assert_eq!(doubled(begun.wait(None, &|| Ok(()))), Ok(vec![2.0; 5]));
    }
    assert_eq!(engine.sizes()[2..], [5, 5]);
    // Their outputs cannot be told apart.
    engine.excess.store(1, Ordering::Relaxed);
    let ended = together(&model, &[&[1.0], &[2.0]]);
    assert_eq!(ended, [Some(Ok(vec![2.0, 0.0])), Some(Ok(vec![4.0, 0.0]))]);
    engine.excess.store(0, Ordering::Relaxed);
    // A run is under way.
    let (model, engine) = brief();
    engine.hold();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| plain(&model, &[9.0]));
        engine.wait_for(3);
        assert_eq!(together(&model, &[&[1.0], &[2.0]]), [None, None]);
        engine.release();
        assert_eq!(busy.join().expect("no panic"), Ok(vec![18.0]));
    });
}
