//! What a hit and a miss cost, and what a second thread gains, in paired rounds against inferlite's.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::demands::{Finding, key};
use crate::peers::{INFERLITE, Maker, Peer, Room};

const ROUNDS: usize = 31;
const GAIN_ROUNDS: usize = 151;
const KEPT: usize = 1_000;
const HITS: usize = 50_000;
const MISSES: usize = 4_000;

/// Nanoseconds of both, and the ratio of inferlite's to the crate's: medians.
pub struct Pair {
    pub ours: f64,
    pub theirs: f64,
    pub ratio: f64,
}

pub fn median(mut sample: Vec<f64>) -> f64 {
    sample.sort_by(f64::total_cmp);
    sample[sample.len() / 2]
}

fn paired(mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) -> Pair {
    let rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|round| {
            if round % 2 == 0 {
                let ours = ours();
                (ours, theirs())
            } else {
                let theirs = theirs();
                (ours(), theirs)
            }
        })
        .collect();
    Pair {
        ours: median(rounds.iter().map(|round| round.0).collect()),
        theirs: median(rounds.iter().map(|round| round.1).collect()),
        ratio: median(rounds.iter().map(|round| round.0 / round.1).collect()),
    }
}

fn keys(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| key(number, 64)).collect()
}

fn filled(maker: &Maker, keys: &[Vec<u8>]) -> Box<dyn Peer> {
    let peer = (maker.make)(Room::Entries(2 * KEPT));
    for key in &keys[..KEPT] {
        peer.put(key);
    }
    peer
}

/// Nanoseconds per hit of some threads together, each on keys of its own.
fn hits(peer: &dyn Peer, keys: &[Vec<u8>], threads: usize) -> f64 {
    let gate = Barrier::new(threads);
    let times: Vec<(Instant, Instant, usize)> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|thread| {
                let gate = &gate;
                let own = &keys[thread * KEPT / 2..(thread + 1) * KEPT / 2];
                scope.spawn(move || {
                    gate.wait();
                    let start = Instant::now();
                    let found = own
                        .iter()
                        .cycle()
                        .take(HITS)
                        .filter(|key| peer.get(black_box(key)))
                        .count();
                    (start, Instant::now(), found)
                })
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let found: usize = times.iter().map(|time| time.2).sum();
    // A crate that evicts early has a few misses among these, which are as quick.
    assert!(found * 10 > threads * HITS * 9, "what was put is there");
    let first = times.iter().map(|time| time.0).min().expect("a thread");
    let last = times.iter().map(|time| time.1).max().expect("a thread");
    (last - first).as_secs_f64() * 1e9 / (threads * HITS) as f64
}

pub fn hit(maker: &Maker) -> Pair {
    let keys = keys(KEPT);
    let (ours, theirs) = (filled(&INFERLITE, &keys), filled(maker, &keys));
    paired(|| hits(&*ours, &keys, 1), || hits(&*theirs, &keys, 1))
}

/// Whether two threads get at least 1.6 times the hits of one.
///
/// Judged by the quickest round of each: whatever else runs on the machine only makes rounds slower.
pub fn gain(maker: &Maker) -> Finding {
    let keys = keys(KEPT);
    let peer = filled(maker, &keys);
    let quickest = |threads| {
        let rounds = (0..GAIN_ROUNDS).map(|_| hits(&*peer, &keys, threads));
        rounds.fold(f64::INFINITY, f64::min)
    };
    let gain = quickest(1) / quickest(2);
    Finding {
        is_met: gain >= 1.6,
        words: format!("{gain:.2} times"),
    }
}

/// A look-up that finds nothing, and an answer that pushes out another one.
pub fn miss(maker: &Maker) -> Pair {
    let keys = keys(KEPT + ROUNDS * MISSES);
    let time = |maker: &Maker, round: usize| {
        let peer = (maker.make)(Room::Entries(KEPT));
        for key in &keys[..KEPT] {
            peer.put(key);
        }
        let start = Instant::now();
        for key in &keys[KEPT + round * MISSES..][..MISSES] {
            if !peer.get(key) {
                peer.put(key);
            }
        }
        start.elapsed().as_secs_f64() * 1e9 / MISSES as f64
    };
    let (mut our_round, mut their_round) = (0, 0);
    paired(
        || {
            our_round += 1;
            time(&INFERLITE, our_round - 1)
        },
        || {
            their_round += 1;
            time(maker, their_round - 1)
        },
    )
}
