//! Every ending of a call in a batch, on an engine that does as it is told.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Condvar, Mutex};
use std::thread::Scope;

use super::scripted::{EXPLOSIVE, POISON, Scripted, batched, doubled, settings, signature, with_call};
use super::*;
use crate::cache::Missed;
use crate::error::Result;
use crate::rows::BatchAxes;
use crate::ticket::{Audience, Ticket};

fn ask(model: &Model, given: &[f32], terms: Terms, check: &dyn Fn() -> Result<()>) -> Result<Vec<f32>, String> {
    with_call(given, |call| {
        doubled(model.compute(call, Missed::Skipped, &terms, check))
    })
}

pub(super) fn plain(model: &Model, given: &[f32]) -> Result<Vec<f32>, String> {
    ask(model, given, Terms::default(), &|| Ok(()))
}

pub(super) fn begin(model: &Arc<Model>, given: &[f32], terms: Terms) -> Result<Ticket> {
    with_call(given, |call| model.begin(call, Missed::Skipped, terms))
}

fn queued(model: &Model) -> usize {
    model.batch_summary().expect("it is batched").queued_calls
}

/// Waits until so many calls stand in line.
fn wait_for_line(model: &Model, calls: usize) {
    while queued(model) < calls {
        std::thread::yield_now();
    }
}

/// Has a call made on another thread, and waits until it stands in line as the one with this number.
fn stand<'s>(
    scope: &'s Scope<'s, '_>,
    model: &'s Model,
    given: &'static [f32],
    number: usize,
) -> Receiver<Result<Vec<f32>, String>> {
    let (sender, receiver) = channel();
    scope.spawn(move || sender.send(plain(model, given)).expect("somebody listens"));
    wait_for_line(model, number);
    receiver
}

/// A model with a run under way that the test has let nobody finish yet.
fn busy<'s>(scope: &'s Scope<'s, '_>, model: &'s Model, engine: &Scripted) -> Receiver<Result<Vec<f32>, String>> {
    engine.hold();
    let (sender, receiver) = channel();
    // Not every test waits for its answer.
    scope.spawn(move || drop(sender.send(plain(model, &[0.0]))));
    engine.wait_for(1);
    receiver
}

fn wait_for_threads(model: &Arc<Model>) {
    while Arc::strong_count(model) > 1 {
        std::thread::yield_now();
    }
}

#[test]
fn a_lone_call_runs_at_once_on_its_own_thread() {
    let (model, engine, _hand) = batched(settings());
    assert_eq!(plain(&model, &[1.0, 2.0]), Ok(vec![2.0, 4.0]));
    let summary = model.batch_summary().expect("it is batched");
    assert_eq!((summary.lone, summary.sizes), (1, Vec::new()));
    assert_eq!(engine.sizes(), [2]);
}

#[test]
fn calls_that_come_while_a_run_is_under_way_leave_together() {
    let (model, engine, _hand) = batched(settings());
    std::thread::scope(|scope| {
        let first = busy(scope, &model, &engine);
        let others = [
            stand(scope, &model, &[1.0], 1),
            stand(scope, &model, &[2.0, 3.0], 2),
            stand(scope, &model, &[4.0], 3),
        ];
        engine.release();
        assert_eq!(first.recv(), Ok(Ok(vec![0.0])));
        let answers: Vec<_> = others
            .into_iter()
            .map(|other| other.recv().expect("it answers"))
            .collect();
        assert_eq!(answers, [Ok(vec![2.0]), Ok(vec![4.0, 6.0]), Ok(vec![8.0])]);
    });
    assert_eq!(engine.sizes(), [1, 4]);
    let summary = model.batch_summary().expect("it is batched");
    assert_eq!((summary.lone, summary.idle, summary.sizes), (1, 1, vec![(4, 1)]));
    assert_eq!((summary.queue_time.count, summary.running), (4, 0));
}

#[test]
fn the_culprit_alone_gets_its_error_the_one_that_it_gets_by_itself() {
    let (model, engine, _hand) = batched(settings());
    std::thread::scope(|scope| {
        let _first = busy(scope, &model, &engine);
        let others = [
            stand(scope, &model, &[1.0], 1),
            stand(scope, &model, &[POISON], 2),
            stand(scope, &model, &[4.0], 3),
            stand(scope, &model, &[5.0], 4),
        ];
        engine.release();
        let answers: Vec<_> = others
            .into_iter()
            .map(|other| other.recv().expect("it answers"))
            .collect();
        let alone = plain(&model, &[POISON]);
        assert_eq!(alone, Err("poison among 1".to_owned()));
        assert_eq!(answers, [Ok(vec![2.0]), alone, Ok(vec![8.0]), Ok(vec![10.0])]);
    });
    assert_eq!(model.batch_summary().expect("it is batched").retried, 4);
}

#[test]
fn a_panic_is_everybodys_error_and_leaves_the_batcher_usable() {
    let (model, engine, _hand) = batched(settings());
    std::thread::scope(|scope| {
        let _first = busy(scope, &model, &engine);
        let others = [stand(scope, &model, &[1.0], 1), stand(scope, &model, &[EXPLOSIVE], 2)];
        engine.release();
        for other in others {
            assert_eq!(other.recv(), Ok(Err("the engine panicked".to_owned())));
        }
    });
    assert_eq!(plain(&model, &[EXPLOSIVE]), Err("the engine panicked".to_owned()));
    assert_eq!(plain(&model, &[1.0]), Ok(vec![2.0]));
    assert_eq!(model.batch_summary().expect("it is batched").running, 0);
}

#[test]
fn outputs_that_cannot_be_split_are_had_one_by_one_from_then_on() {
    let (model, engine, _hand) = batched(settings());
    engine.excess.store(1, Ordering::Relaxed);
    for _ in 0..2 {
        let begun = engine.sizes().len();
        std::thread::scope(|scope| {
            engine.hold();
            engine.let_go(begun);
            let (sender, _first) = channel();
            let busy = &model;
            scope.spawn(move || drop(sender.send(plain(busy, &[0.0]))));
            engine.wait_for(begun + 1);
            let others = [stand(scope, &model, &[1.0], 1), stand(scope, &model, &[2.0], 2)];
            engine.release();
            let answers: Vec<_> = others
                .into_iter()
                .map(|other| other.recv().expect("it answers"))
                .collect();
            assert_eq!(answers, [Ok(vec![2.0, 0.0]), Ok(vec![4.0, 0.0])]);
        });
    }
    assert_eq!(engine.sizes(), [1, 2, 1, 1, 1, 1, 1]);
}

#[test]
fn a_call_that_cannot_be_put_together_runs_by_itself() {
    let (model, engine, _hand) = batched(settings());
    std::thread::scope(|scope| {
        let _first = busy(scope, &model, &engine);
        let others = [stand(scope, &model, &[], 1), stand(scope, &model, &[2.0], 2)];
        engine.release();
        let answers: Vec<_> = others
            .into_iter()
            .map(|other| other.recv().expect("it answers"))
            .collect();
        assert_eq!(answers, [Ok(vec![]), Ok(vec![4.0])]);
    });
    assert_eq!(engine.sizes(), [1, 0, 1]);
}

#[test]
fn a_call_of_more_rows_than_a_batch_holds_runs_by_itself_and_in_its_turn() {
    let (model, engine, _hand) = batched(BatchSettings {
        max_rows: Some(3),
        ..settings()
    });
    // Nobody waits: at once, whatever its size.
    assert_eq!(plain(&model, &[1.0; 5]), Ok(vec![2.0; 5]));
    engine.hold();
    engine.let_go(1);
    let first = begin(&model, &[0.0], Terms::default()).expect("there is room");
    engine.wait_for(2);
    let others: Vec<_> = [&[1.0, 2.0][..], &[3.0, 4.0, 5.0, 6.0], &[7.0], &[8.0, 9.0]]
        .into_iter()
        .map(|given| (given, begin(&model, given, Terms::default()).expect("there is room")))
        .collect();
    engine.release();
    assert_eq!(doubled(first.wait(None, &|| Ok(()))), Ok(vec![0.0]));
    for (given, ticket) in others {
        let wanted: Vec<f32> = given.iter().map(|number| 2.0 * number).collect();
        assert_eq!(doubled(ticket.wait(None, &|| Ok(()))), Ok(wanted));
    }
    // Neither cut, nor topped up, nor overtaken.
    assert_eq!(engine.sizes(), [5, 1, 2, 4, 3]);
    assert_eq!(model.batch_summary().expect("it is batched").retried, 0);
}

#[test]
fn a_large_call_that_fails_fails_alone() {
    let (model, engine, _hand) = batched(BatchSettings {
        max_rows: Some(2),
        ..settings()
    });
    std::thread::scope(|scope| {
        let _first = busy(scope, &model, &engine);
        let large = stand(scope, &model, &[1.0, POISON, 3.0], 1);
        let small = stand(scope, &model, &[4.0], 2);
        engine.release();
        assert_eq!(large.recv(), Ok(Err("poison among 3".to_owned())));
        assert_eq!(small.recv(), Ok(Ok(vec![8.0])));
    });
    assert_eq!(engine.sizes(), [1, 3, 1]);
}

#[test]
fn a_call_larger_than_the_queue_waits_in_it_alone() {
    let (model, engine, _hand) = batched(BatchSettings {
        max_queue: 3,
        ..settings()
    });
    engine.hold();
    let first = begin(&model, &[0.0], Terms::default()).expect("there is room");
    engine.wait_for(1);
    let large = begin(&model, &[1.0; 5], Terms::default()).expect("the queue is empty");
    let refused = begin(&model, &[2.0], Terms::default()).expect_err("there is no room");
    assert_eq!(
        (refused.kind(), refused.message()),
        (ErrorKind::QueueFull, "5 rows are waiting for a batch already")
    );
    engine.release();
    assert_eq!(doubled(first.wait(None, &|| Ok(()))), Ok(vec![0.0]));
    assert_eq!(doubled(large.wait(None, &|| Ok(()))), Ok(vec![2.0; 5]));
}

#[test]
fn those_who_leave_while_their_batch_runs_are_not_run_again_where_it_fails() {
    let (model, engine, _hand) = batched(settings());
    engine.hold();
    let first = begin(&model, &[0.0], Terms::default()).expect("there is room");
    engine.wait_for(1);
    let leaving = [&[1.0][..], &[2.0], &[POISON]].map(|given| begin(&model, given, Terms::default()));
    let staying = begin(&model, &[4.0], Terms::default()).expect("there is room");
    engine.let_go(1);
    engine.wait_for(2);
    drop(leaving);
    engine.release();
    assert_eq!(doubled(first.wait(None, &|| Ok(()))), Ok(vec![0.0]));
    assert_eq!(doubled(staying.wait(None, &|| Ok(()))), Ok(vec![8.0]));
    assert_eq!(engine.sizes(), [1, 4, 1]);
    assert_eq!(model.batch_summary().expect("it is batched").retried, 1);
    wait_for_threads(&model);
}

#[test]
fn whoever_is_late_or_interrupted_leaves_before_the_run_and_takes_nobody_along() {
    let (model, engine, hand) = batched(settings());
    std::thread::scope(|scope| {
        let _first = busy(scope, &model, &engine);
        let (sender, interrupted) = channel();
        let waiting = &model;
        let told = Error::new(ErrorKind::Interrupted, "as told");
        scope.spawn(move || {
            let answer = ask(waiting, &[1.0], Terms::default(), &|| Err(told.clone()));
            sender.send(answer).expect("somebody listens");
        });
        assert_eq!(interrupted.recv(), Ok(Err("as told".to_owned())));
        let terms = Terms {
            deadline: Some(Duration::from_secs(1)),
            ..Terms::default()
        };
        let (sender, late) = channel();
        scope.spawn(move || {
            sender
                .send(ask(waiting, &[2.0], terms, &|| Ok(())))
                .expect("somebody listens");
        });
        wait_for_line(&model, 2);
        let other = stand(scope, &model, &[3.0], 3);
        hand.advance(Duration::from_secs(1));
        assert_eq!(late.recv(), Ok(Err("the answer did not come in time".to_owned())));
        engine.release();
        assert_eq!(other.recv(), Ok(Ok(vec![6.0])));
    });
    assert_eq!(engine.sizes(), [1, 1]);
    assert_eq!(model.batch_summary().expect("it is batched").dropped, 2);
}

#[test]
fn whoever_is_interrupted_when_its_window_is_over_keeps_no_run_for_itself() {
    let (model, engine, hand) = batched(BatchSettings {
        max_delay: Duration::from_secs(1),
        max_rows: Some(2),
        ..settings()
    });
    let looks = std::cell::Cell::new(0);
    let check = || {
        looks.set(looks.get() + 1);
        hand.advance(Duration::from_secs(1));
        if looks.get() == 1 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Interrupted, "as told"))
    };
    let answer = ask(&model, &[1.0], Terms::default(), &check);
    assert_eq!(answer, Err("as told".to_owned()));
    let summary = model.batch_summary().expect("it is batched");
    assert_eq!((summary.running, summary.queued_calls, summary.dropped), (0, 0, 1));
    assert_eq!(plain(&model, &[2.0, 3.0]), Ok(vec![4.0, 6.0]));
    assert_eq!(engine.sizes(), [2]);
}

#[test]
fn tickets_and_threads_share_a_batch() {
    let (model, engine, _hand) = batched(settings());
    std::thread::scope(|scope| {
        let _first = busy(scope, &model, &engine);
        let ticket = begin(&model, &[1.0], Terms::default()).expect("there is room");
        let other = stand(scope, &model, &[2.0], 2);
        engine.release();
        assert_eq!(doubled(ticket.wait(None, &|| Ok(()))), Ok(vec![2.0]));
        assert_eq!(other.recv(), Ok(Ok(vec![4.0])));
    });
    assert_eq!(engine.sizes(), [1, 2]);
}

#[test]
fn where_nobody_waits_in_a_thread_a_worker_leads() {
    let (model, engine, _hand) = batched(settings());
    let ticket = begin(&model, &[1.0, 2.0], Terms::default()).expect("there is room");
    assert_eq!(doubled(ticket.wait(None, &|| Ok(()))), Ok(vec![2.0, 4.0]));
    assert_eq!(engine.sizes(), [2]);
    wait_for_threads(&model);
}

#[test]
fn a_ticket_that_is_dropped_leaves_before_the_run() {
    let (model, engine, _hand) = batched(settings());
    engine.hold();
    let first = begin(&model, &[1.0], Terms::default()).expect("there is room");
    engine.wait_for(1);
    drop(begin(&model, &[2.0], Terms::default()).expect("there is room"));
    let last = begin(&model, &[3.0], Terms::default()).expect("there is room");
    engine.release();
    assert_eq!(doubled(first.wait(None, &|| Ok(()))), Ok(vec![2.0]));
    assert_eq!(doubled(last.wait(None, &|| Ok(()))), Ok(vec![6.0]));
    assert_eq!(engine.sizes(), [1, 1]);
}

#[test]
fn a_full_queue_refuses_at_once_and_those_who_have_left_make_room() {
    let (model, engine, _hand) = batched(BatchSettings {
        max_queue: 3,
        ..settings()
    });
    engine.hold();
    let first = begin(&model, &[1.0], Terms::default()).expect("there is room");
    engine.wait_for(1);
    let second = begin(&model, &[1.0, 2.0], Terms::default()).expect("there is room");
    let refused = begin(&model, &[3.0, 4.0], Terms::default()).expect_err("there is none");
    assert_eq!(
        (refused.kind(), refused.message()),
        (ErrorKind::QueueFull, "2 rows are waiting for a batch already")
    );
    drop(second);
    let third = begin(&model, &[3.0, 4.0], Terms::default()).expect("there is room again");
    engine.release();
    assert_eq!(doubled(first.wait(None, &|| Ok(()))), Ok(vec![2.0]));
    assert_eq!(doubled(third.wait(None, &|| Ok(()))), Ok(vec![6.0, 8.0]));
    assert_eq!(model.batch_summary().expect("it is batched").refused, 1);
}

#[test]
fn many_are_begun_at_once_and_their_audience_is_told_once() {
    #[derive(Default)]
    struct Loop(Mutex<Vec<Vec<u64>>>, Condvar);
    impl Audience for Loop {
        fn ended(&self, tokens: &[u64]) {
            self.0.lock().expect("no panic").push(tokens.to_vec());
            self.1.notify_all();
        }
    }
    let (model, engine, _hand) = batched(settings());
    engine.hold();
    let audience = Arc::<Loop>::default();
    let begun = with_call(&[1.0], |one| {
        with_call(&[2.0], |two| {
            let asked = [one, two, one].map(|call| (model.ask(call, Missed::Skipped), Terms::default()));
            model.begin_all(asked, Duration::ZERO)
        })
    });
    let tickets: Vec<_> = begun.into_iter().map(|ticket| ticket.expect("there is room")).collect();
    for (token, ticket) in tickets.iter().enumerate() {
        ticket.tell(audience.clone(), token as u64);
    }
    engine.release();
    let told = audience.0.lock().expect("no panic");
    let told = audience.1.wait_while(told, |told| told.is_empty()).expect("no panic");
    assert_eq!(*told, [vec![0, 1, 2]]);
    assert_eq!(engine.sizes(), [3]);
}

#[test]
fn a_window_waits_for_company_and_ends_with_a_full_batch() {
    let windows = BatchSettings {
        max_delay: Duration::from_secs(1),
        max_rows: Some(3),
        ..settings()
    };
    let (model, engine, hand) = batched(windows);
    std::thread::scope(|scope| {
        let first = stand(scope, &model, &[1.0], 1);
        let second = stand(scope, &model, &[2.0], 2);
        assert!(engine.sizes().is_empty());
        hand.advance(Duration::from_secs(1));
        assert_eq!(first.recv(), Ok(Ok(vec![2.0])));
        assert_eq!(second.recv(), Ok(Ok(vec![4.0])));
        let third = begin(&model, &[1.0, 2.0], Terms::default()).expect("there is room");
        assert_eq!(plain(&model, &[3.0]), Ok(vec![6.0]));
        assert_eq!(doubled(third.wait(None, &|| Ok(()))), Ok(vec![2.0, 4.0]));
    });
    assert_eq!(engine.sizes(), [2, 3]);
    let summary = model.batch_summary().expect("it is batched");
    assert_eq!((summary.delay, summary.full, summary.lone), (1, 1, 0));
}

#[test]
fn a_window_of_those_who_wait_elsewhere_ends_by_itself() {
    let (model, engine, hand) = batched(BatchSettings {
        max_delay: Duration::from_secs(1),
        ..settings()
    });
    let tickets = [
        begin(&model, &[1.0], Terms::default()).expect("there is room"),
        begin(&model, &[2.0], Terms::default()).expect("there is room"),
    ];
    hand.advance(Duration::from_secs(1));
    for (ticket, wanted) in tickets.into_iter().zip([2.0, 4.0]) {
        assert_eq!(doubled(ticket.wait(None, &|| Ok(()))), Ok(vec![wanted]));
    }
    assert_eq!(engine.sizes(), [2]);
    wait_for_threads(&model);
}

#[test]
fn instances_run_at_once() {
    let (model, engine, _hand) = batched(BatchSettings {
        instances: 2,
        ..settings()
    });
    engine.hold();
    let first = begin(&model, &[1.0], Terms::default()).expect("there is room");
    engine.wait_for(1);
    let second = begin(&model, &[2.0], Terms::default()).expect("there is room");
    engine.wait_for(2);
    let third = begin(&model, &[3.0], Terms::default()).expect("there is room");
    assert_eq!(
        (queued(&model), model.batch_summary().expect("it is batched").running),
        (1, 2)
    );
    engine.release();
    for (ticket, wanted) in [first, second, third].into_iter().zip([2.0, 4.0, 6.0]) {
        assert_eq!(doubled(ticket.wait(None, &|| Ok(()))), Ok(vec![wanted]));
    }
}

#[test]
fn closing_serves_those_who_wait_and_those_on_their_way() {
    let (model, engine, _hand) = batched(settings());
    engine.hold();
    let first = begin(&model, &[1.0], Terms::default()).expect("there is room");
    engine.wait_for(1);
    let second = begin(&model, &[2.0], Terms::default()).expect("there is room");
    model.close(false);
    let third = begin(&model, &[3.0], Terms::default()).expect("it is served");
    engine.release();
    for (ticket, wanted) in [first, second, third].into_iter().zip([2.0, 4.0, 6.0]) {
        assert_eq!(doubled(ticket.wait(None, &|| Ok(()))), Ok(vec![wanted]));
    }
    wait_for_threads(&model);
}

#[test]
fn closing_may_cancel_those_who_wait() {
    let (model, engine, _hand) = batched(settings());
    std::thread::scope(|scope| {
        let first = busy(scope, &model, &engine);
        let second = stand(scope, &model, &[1.0], 1);
        let third = begin(&model, &[2.0], Terms::default()).expect("there is room");
        model.close(true);
        let refused = begin(&model, &[3.0], Terms::default()).expect_err("it is closed");
        assert_eq!(refused.kind(), ErrorKind::Closed);
        assert_eq!(plain(&model, &[3.0]), Err("the model is closed".to_owned()));
        assert_eq!(second.recv(), Ok(Err("the model is closed".to_owned())));
        assert_eq!(
            doubled(third.wait(None, &|| Ok(()))),
            Err("the model is closed".to_owned())
        );
        engine.release();
        assert_eq!(first.recv(), Ok(Ok(vec![0.0])));
    });
    wait_for_threads(&model);
}

#[test]
fn a_model_that_gains_nothing_runs_all_calls_at_once() {
    let (model, engine, _hand) = batched(settings());
    let by_size = [[0.0; 1].as_slice(), &[0.0; 4], &[0.0; 16]];
    let time = |rows: usize| Duration::from_micros(100 * rows as u64);
    let axes = Layout::from(BatchAxes::of(&signature(), &[]).expect("there are rows"));
    let times: Vec<_> = by_size
        .iter()
        .filter_map(|given| with_call(given, |call| Batcher::time(&axes, call, time(given.len()))))
        .collect();
    let times = Times {
        times,
        rounding: Some(0.5),
    };
    let chosen = BatchSettings {
        max_rows: None,
        ..settings()
    };
    let off = Batcher::new(axes.clone(), chosen, &times, Clock::default());
    assert!(off.summary().is_off);
    assert_eq!(off.summary().rounding, Some(0.5));
    assert!(
        !Batcher::new(axes, settings(), &times, Clock::default())
            .summary()
            .is_off
    );
    engine.hold();
    let held = std::thread::scope(|scope| {
        let (model, off) = (&*model, &off);
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| with_call(&[1.0], |call| off.run_at_once(model, call).is_some())))
            .collect();
        engine.wait_for(3);
        engine.release();
        runs.into_iter().all(|run| run.join().expect("no panic"))
    });
    assert!(held);
    assert_eq!(off.summary().lone, 3);
}
