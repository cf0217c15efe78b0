//! What inferlite asks of its store, tried on each.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::peers::{Ending, MEAN_BYTES, Maker, Room};

/// Counts the allocations of each thread.
pub struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; what is counted beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as promised to this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised to this function.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The outcome of a trial, in words, and whether the demand is met; `None` where the crate has no such method.
pub struct Finding {
    pub words: String,
    pub is_met: bool,
}

fn finding(is_met: bool, words: impl Into<String>) -> Finding {
    Finding {
        words: words.into(),
        is_met,
    }
}

/// Numbers that repeat from run to run.
pub struct Numbers(u64);

impl Numbers {
    pub fn new() -> Self {
        Self(1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}

pub fn key(number: usize, bytes: usize) -> Vec<u8> {
    let mut key = vec![0; bytes];
    key[..8].copy_from_slice(&(number as u64).to_ne_bytes());
    key
}

const BUDGET: usize = 1_000_000;

/// How far a cache goes over its budget, and how full it stays, while answers of 16 to 3,984 bytes come.
pub fn budget(maker: &Maker) -> Finding {
    let peer = (maker.make)(Room::Bytes(BUDGET));
    let mut numbers = Numbers::new();
    let (mut most, mut least) = (0, usize::MAX);
    for number in 0..9_000 {
        peer.put(&key(number, 16 + numbers.below(2 * MEAN_BYTES - 32)));
        let alive = peer.alive();
        most = most.max(alive);
        if number > 3_000 {
            least = least.min(alive);
        }
    }
    let large = (maker.make)(Room::Bytes(BUDGET / 100));
    large.put(&key(0, BUDGET / 100 * 9 / 10));
    let takes_large = large.get(&key(0, BUDGET / 100 * 9 / 10));
    let over = most.saturating_sub(BUDGET);
    let what = if takes_large { "kept" } else { "not kept" };
    finding(
        over == 0 && takes_large && BUDGET - least < 2 * MEAN_BYTES + 1_000,
        format!(
            "{over} bytes over; {:.1} % full at least; an answer of 90 % of the budget {what}",
            least as f64 / BUDGET as f64 * 100.0
        ),
    )
}

/// Whether hits are those of a list in order of use, on a stream in which small numbers are common.
pub fn order(maker: &Maker) -> Finding {
    const ROOM: usize = 100;
    let peer = (maker.make)(Room::Entries(ROOM));
    let mut numbers = Numbers::new();
    let mut naive: VecDeque<usize> = VecDeque::new();
    let mut others = 0;
    let calls = 9_000;
    for _ in 0..calls {
        let most = numbers.below(30).pow(2);
        let number = numbers.below(1 + most);
        let key = key(number, 64);
        let is_hit = peer.get(&key);
        if !is_hit {
            peer.put(&key);
        }
        let place = naive.iter().position(|other| *other == number);
        if let Some(place) = place {
            naive.remove(place);
        } else if naive.len() == ROOM {
            naive.pop_front();
        }
        naive.push_back(number);
        others += usize::from(is_hit != place.is_some());
    }
    finding(others == 0, format!("{others} of {calls} look-ups end otherwise"))
}

/// Whether a smaller budget holds at once.
pub fn resize(maker: &Maker) -> Finding {
    let peer = (maker.make)(Room::Bytes(BUDGET));
    let mut numbers = Numbers::new();
    for number in 0..3_000 {
        peer.put(&key(number, 16 + numbers.below(2 * MEAN_BYTES - 32)));
    }
    if !peer.resize(BUDGET / 2) {
        return finding(false, "no such method");
    }
    let over = peer.alive().saturating_sub(BUDGET / 2);
    finding(over == 0, format!("{over} bytes over the new budget"))
}

/// Allocations of look-ups by borrowed bytes that find something.
pub fn borrowed(maker: &Maker) -> Finding {
    let peer = (maker.make)(Room::Entries(1_000));
    let keys: Vec<_> = (0..100).map(|number| key(number, 64)).collect();
    for key in &keys {
        peer.put(key);
        assert!(peer.get(key), "{} has lost an answer", maker.name);
    }
    let before = ALLOCATIONS.get();
    for _ in 0..20 {
        for key in &keys {
            assert!(peer.get(key), "{} has lost an answer", maker.name);
        }
    }
    let allocations = ALLOCATIONS.get() - before;
    finding(allocations == 0, format!("{allocations} allocations in 2,000 hits"))
}

/// How often eight callers of one key compute, if the first computation ends in this way.
fn runs(maker: &Maker, ending: Ending) -> Option<usize> {
    const CALLERS: usize = 8;
    let peer = (maker.make)(Room::Entries(1_000));
    let (gate, runs, is_there) = (Barrier::new(CALLERS), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                gate.wait();
                let key = key(1, 64);
                let compute = || {
                    let run = runs.fetch_add(1, Ordering::Relaxed);
                    // Time for the others to come.
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_millis(30) {
                        std::thread::yield_now();
                    }
                    // Whoever computes after a panic succeeds.
                    if ending == Ending::Panic && run > 0 {
                        Ending::Value
                    } else {
                        ending
                    }
                };
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peer.compute(&key, &compute)));
                is_there.fetch_add(usize::from(!matches!(ended, Ok(None))), Ordering::Relaxed);
            });
        }
    });
    (is_there.into_inner() == CALLERS).then(|| runs.into_inner())
}

/// Whether concurrent callers share one computation, however it ends.
pub fn single_flight(maker: &Maker) -> Finding {
    let [value, error, panic] = [Ending::Value, Ending::Error, Ending::Panic].map(|ending| runs(maker, ending));
    let (Some(value), Some(error), Some(panic)) = (value, error, panic) else {
        return finding(false, "none without an async runtime");
    };
    finding(
        (value, error, panic) == (1, 1, 2),
        format!("runs for eight callers: {value} with a value, {error} with an error, {panic} with a panic first"),
    )
}
