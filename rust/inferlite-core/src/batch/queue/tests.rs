use super::*;
use proptest::prelude::*;

const LIMIT: usize = 4;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn one(arrival: u64) -> Asked {
    Asked {
        rows: 1,
        priority: 0,
        arrival: ms(arrival),
        deadline: None,
        leave_by: None,
    }
}

fn queue(max_delay: u64) -> Queue<char, u32> {
    Queue::new(ms(max_delay), 100)
}

/// Who leaves now, and why.
fn form(queue: &mut Queue<char, u32>, now: u64) -> Option<(Vec<u32>, Why)> {
    let mut dropped = Vec::new();
    let formed = queue.form(ms(now), |_| LIMIT, |_| LIMIT, |_| false, &mut dropped);
    queue.validate();
    assert!(dropped.is_empty());
    formed.map(|forming| (items(&forming.members), forming.why))
}

fn fill(queue: &mut Queue<char, u32>, items: std::ops::Range<u32>, asked: Asked) {
    for item in items {
        queue.push('a', asked, item);
    }
}

fn items(members: &[Member<u32>]) -> Vec<u32> {
    members.iter().map(|member| member.item).collect()
}

#[test]
fn without_a_delay_whoever_waits_leaves_together() {
    let mut queue = queue(0);
    assert_eq!(queue.next(ms(0), |_| LIMIT), Next::Nothing);
    fill(&mut queue, 0..3, one(0));
    assert_eq!(queue.next(ms(0), |_| LIMIT), Next::Due);
    assert_eq!(form(&mut queue, 0), Some((vec![0, 1, 2], Why::Idle)));
    assert_eq!(form(&mut queue, 0), None);
}

#[test]
fn rows_count_and_nobody_overtakes() {
    let mut queue = queue(0);
    for (item, rows) in [(0, 3), (1, 2), (2, 1), (3, 9), (4, 1)] {
        queue.push('a', Asked { rows, ..one(0) }, item);
    }
    assert_eq!(form(&mut queue, 0), Some((vec![0], Why::Full)));
    assert_eq!(form(&mut queue, 0), Some((vec![1, 2], Why::Full)));
    // Larger than any batch: it leaves by itself.
    assert_eq!(form(&mut queue, 0), Some((vec![3], Why::Full)));
    assert_eq!(form(&mut queue, 0), Some((vec![4], Why::Idle)));
}

#[test]
fn kinds_leave_apart_the_first_in_line_first() {
    let mut queue = queue(0);
    for (item, kind) in ['b', 'a', 'b', 'a'].into_iter().enumerate() {
        queue.push(kind, one(0), u32::try_from(item).expect("it is small"));
    }
    assert_eq!(form(&mut queue, 0), Some((vec![0, 2], Why::Idle)));
    assert_eq!(form(&mut queue, 0), Some((vec![1, 3], Why::Idle)));
}

#[test]
fn a_window_opens_at_the_first_arrival() {
    let mut queue = queue(10);
    queue.push('a', one(5), 0);
    queue.push('a', one(12), 1);
    assert_eq!(queue.next(ms(14), |_| LIMIT), Next::At(ms(15)));
    assert_eq!(form(&mut queue, 14), None);
    assert_eq!(form(&mut queue, 15), Some((vec![0, 1], Why::Delay)));
}

#[test]
fn a_window_ends_when_the_batch_is_full() {
    let mut queue = queue(10);
    fill(&mut queue, 0..4, one(0));
    assert_eq!(form(&mut queue, 1), Some((vec![0, 1, 2, 3], Why::Full)));
}

#[test]
fn a_window_never_outlives_a_deadline() {
    let mut queue = queue(10);
    queue.push('a', one(0), 0);
    let hurried = Asked {
        deadline: Some(ms(6)),
        leave_by: Some(ms(4)),
        ..one(1)
    };
    queue.push('a', hurried, 1);
    assert_eq!(queue.next(ms(1), |_| LIMIT), Next::At(ms(4)));
    assert_eq!(form(&mut queue, 4), Some((vec![0, 1], Why::Deadline)));
}

#[test]
fn a_window_is_over_once_nobody_is_to_wait() {
    let mut queue = queue(10);
    queue.push('a', one(0), 0);
    queue.wait_no_longer();
    assert_eq!(form(&mut queue, 0), Some((vec![0], Why::Idle)));
}

#[test]
fn those_who_are_late_or_gone_leave_before_the_run() {
    let mut queue = queue(0);
    let late = Asked {
        deadline: Some(ms(5)),
        ..one(0)
    };
    for (item, asked) in [(0, late), (1, one(0)), (2, one(0))] {
        queue.push('a', asked, item);
    }
    let mut dropped = Vec::new();
    let forming = queue.form(ms(5), |_| LIMIT, |_| LIMIT, |item| *item == 1, &mut dropped);
    assert_eq!(forming.map(|forming| items(&forming.members)), Some(vec![2]));
    assert_eq!(items(&dropped), [0, 1]);
    queue.validate();
}

#[test]
fn a_batch_of_which_everybody_is_gone_is_none() {
    let mut queue = queue(0);
    queue.push('a', one(0), 0);
    queue.push('b', one(0), 1);
    let mut dropped = Vec::new();
    let forming = queue.form(ms(5), |_| LIMIT, |_| LIMIT, |item| *item == 0, &mut dropped);
    assert_eq!(forming.map(|forming| items(&forming.members)), Some(vec![1]));
    let swept = queue.sweep(ms(0), |_| true);
    assert!(swept.is_empty() && queue.is_empty());
}

#[test]
fn priorities_leave_first_and_a_batch_that_was_waited_for_counts_as_one() {
    let mut queue = queue(0);
    let with = |priority| Asked { priority, ..one(0) };
    fill(&mut queue, 0..5, with(0));
    queue.push('a', with(1), 10);
    assert_eq!(form(&mut queue, 0), Some((vec![10, 0, 1, 2], Why::Full)));
    // 3 and 4 have waited while a batch left: they are no worse than newcomers of priority 1 now, and came first.
    fill(&mut queue, 11..15, with(1));
    queue.push('a', with(2), 20);
    assert_eq!(form(&mut queue, 0), Some((vec![20, 3, 4, 11], Why::Full)));
}

#[test]
fn whoever_comes_before_the_leader_joins() {
    let mut queue = queue(0);
    queue.push('a', one(0), 0);
    let mut dropped = Vec::new();
    let mut forming = queue
        .form(ms(0), |_| LIMIT, |_| LIMIT, |_| false, &mut dropped)
        .expect("it is due");
    fill(&mut queue, 1..5, one(0));
    queue.push('b', one(0), 9);
    queue.fill(&mut forming, ms(0), |_| LIMIT, |_| false, &mut dropped);
    assert_eq!((items(&forming.members), forming.why), (vec![0, 1, 2, 3], Why::Full));
    queue.validate();
}

#[test]
fn rows_that_wait_for_nobody_else_take_along_whom_there_is_room_for() {
    let mut queue = queue(10);
    fill(&mut queue, 0..3, one(0));
    assert_eq!(queue.next(ms(0), |_| LIMIT), Next::At(ms(10)));
    fill(&mut queue, 3..5, one(0));
    assert_eq!(queue.next(ms(0), |_| LIMIT), Next::Due);
    let mut dropped = Vec::new();
    let forming = queue.form(ms(0), |_| LIMIT, |_| 7, |_| false, &mut dropped);
    assert_eq!(
        forming.map(|forming| items(&forming.members)),
        Some(vec![0, 1, 2, 3, 4])
    );
    queue.validate();
}

#[test]
fn room_is_counted_in_rows_and_an_empty_queue_takes_anybody() {
    let mut queue = queue(0);
    assert!(queue.has_room(1000));
    queue.push('a', Asked { rows: 99, ..one(0) }, 0);
    assert!(queue.has_room(1) && !queue.has_room(2));
    assert_eq!(queue.take_all().len(), 1);
    assert!(queue.is_empty());
}

/// What a queue does, written down without a thought for speed.
#[derive(Default)]
struct Naive {
    waiting: Vec<(i64, char, Asked, u32)>,
    cycle: i64,
}

impl Naive {
    fn form(&mut self, now: Duration, max_delay: Duration) -> Option<Vec<u32>> {
        self.waiting.sort_by_key(|(rank, _, _, item)| (*rank, *item));
        let is_due = |kind: char| {
            let group: Vec<&Asked> = self
                .waiting
                .iter()
                .filter(|call| call.1 == kind)
                .map(|call| &call.2)
                .collect();
            group.iter().map(|asked| asked.rows).sum::<usize>() >= LIMIT
                || group.iter().any(|asked| asked.arrival + max_delay <= now)
                || group
                    .iter()
                    .any(|asked| asked.leave_by.is_some_and(|leave_by| leave_by <= now))
        };
        let kind = self.waiting.iter().map(|call| call.1).find(|kind| is_due(*kind))?;
        let (mut rows, mut taken, mut is_full) = (0, Vec::new(), false);
        self.waiting.retain(|call| {
            is_full |= call.1 == kind && !taken.is_empty() && rows + call.2.rows > LIMIT;
            if call.1 != kind || is_full {
                return true;
            }
            rows += call.2.rows;
            taken.push(call.3);
            is_full = rows >= LIMIT;
            false
        });
        self.cycle += 1;
        Some(taken)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        kind: char,
        rows: usize,
        priority: i32,
        hurry: Option<u64>,
    },
    Form,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let push = (
        prop_oneof![Just('a'), Just('b'), Just('c')],
        1..6_usize,
        -2..3_i32,
        proptest::option::weighted(0.2, 0..20_u64),
    );
    prop_oneof![
        4 => push.prop_map(|(kind, rows, priority, hurry)| Step::Push { kind, rows, priority, hurry }),
        2 => Just(Step::Form),
        1 => (0..8_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn it_does_what_a_naive_one_does(
        max_delay in prop_oneof![Just(0_u64), Just(10)],
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let (mut queue, mut naive) = (queue(max_delay), Naive::default());
        let (mut now, mut items) = (0, 0);
        for step in steps {
            match step {
                Step::Push { kind, rows, priority, hurry } => {
                    let asked = Asked { rows, priority, leave_by: hurry.map(|by| ms(now + by)), ..one(now) };
                    items += 1;
                    queue.push(kind, asked, items);
                    naive.waiting.push((naive.cycle - i64::from(priority), kind, asked, items));
                }
                Step::Form => {
                    let is_due = queue.next(ms(now), |_| LIMIT) == Next::Due;
                    let formed = form(&mut queue, now).map(|(items, _)| items);
                    prop_assert_eq!(is_due, formed.is_some());
                    prop_assert_eq!(formed, naive.form(ms(now), ms(max_delay)));
                }
                Step::Pass(by) => now += by,
            }
            queue.validate();
        }
        // Everybody leaves in the end, whatever came in between.
        let mut left = 0;
        while let Some((batch, _)) = form(&mut queue, now + 1000) {
            left += batch.len();
        }
        prop_assert_eq!(left, naive.waiting.len());
    }
}
