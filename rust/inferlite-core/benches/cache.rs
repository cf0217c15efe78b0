//! What look-ups and misses of the prediction cache cost in the core, on one thread and on two.
//!
//! Ends with the ratio that is promised: two threads get at least 1.6 times the hits of one.
#![expect(unsafe_code, reason = "makes views over arrays of the benchmark")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use inferlite_core::cache::{CacheSettings, Limits, Missed, Policy, PredictionCache};
use inferlite_core::clock::Clock;
use inferlite_core::{Call, Dtype, Feed, Input, Outputs, TensorView};

const POLICIES: [(Policy, &str); 2] = [(Policy::Lru, "lru"), (Policy::S3Fifo, "s3-fifo")];
/// Different questions in a cache: of 1x16 float32.
const QUESTIONS: usize = 1_000;
const FLOATS: usize = 16;
/// Looks of one thread in a round.
const LOOKS: usize = 50_000;
/// Of one and of two threads, in turn.
const ROUNDS: usize = 151;

struct Questions(Vec<[f32; FLOATS]>);

impl Questions {
    fn new(count: usize) -> Self {
        Self(
            (0..u16::try_from(count).expect("few"))
                .map(|number| [f32::from(number); FLOATS])
                .collect(),
        )
    }

    fn feeds(&self) -> Vec<[Feed; 1]> {
        let extents = [1, i64::try_from(FLOATS).expect("few")];
        self.0
            .iter()
            .map(|numbers| {
                let (data, len) = (numbers.as_ptr().cast(), size_of_val(numbers));
                // SAFETY: whoever asks holds the questions for as long as the feeds, and nobody writes to them.
                let view = unsafe { TensorView::new(Dtype::Float32, extents.as_slice().into(), data, len) };
                [Feed {
                    index: 0,
                    value: Input::Tensor(view),
                }]
            })
            .collect()
    }
}

fn call(feeds: &[Feed]) -> Call<'_> {
    Call {
        feeds,
        fetches: &[0],
        options: None,
    }
}

fn empty(policy: Policy, max_entries: usize) -> PredictionCache {
    let limits = Limits {
        max_bytes: 1 << 30,
        max_entries,
    };
    PredictionCache::new(
        CacheSettings {
            limits,
            ttl: None,
            policy,
        },
        Clock::default(),
    )
}

/// Asks; a miss is computed by nothing and kept.
fn ask(cache: &PredictionCache, feeds: &[Feed]) -> bool {
    let asked = call(feeds);
    match cache.look_up(&asked) {
        Ok(entry) => {
            black_box(entry);
            true
        }
        Err(Missed::Call(key)) => {
            let computed = cache.compute(&asked, key, &|| Ok(()), |_| Ok(Outputs::default()));
            assert!(computed.is_ok());
            false
        }
        Err(Missed::Rows(_) | Missed::Skipped) => panic!("the cache has turned itself down"),
    }
}

fn filled(policy: Policy, questions: &Questions) -> PredictionCache {
    let cache = empty(policy, usize::MAX);
    for feeds in questions.feeds() {
        assert!(!ask(&cache, &feeds));
    }
    cache
}

/// Wall time of so many hits on each of some threads: thread `i` looks into cache `i`, or all into the only one.
///
/// Each has questions of its own.
fn hits(caches: &[PredictionCache], questions: &Questions, threads: usize, looks: usize) -> Duration {
    let gate = Barrier::new(threads);
    let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|thread| {
                let (gate, cache) = (&gate, &caches[thread % caches.len()]);
                scope.spawn(move || {
                    let feeds = questions.feeds();
                    let own = feeds.iter().skip(thread * QUESTIONS / 2).take(QUESTIONS / 2);
                    gate.wait();
                    let start = Instant::now();
                    for feeds in own.cycle().take(looks) {
                        assert!(ask(cache, feeds), "every question is kept");
                    }
                    (start, Instant::now())
                })
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let first = times.iter().map(|(start, _)| *start).min().expect("a thread");
    let last = times.iter().map(|(_, end)| *end).max().expect("a thread");
    last - first
}

fn bench_hits(criterion: &mut Criterion) {
    let questions = Questions::new(QUESTIONS);
    for (policy, name) in POLICIES {
        let caches = [filled(policy, &questions)];
        let mut group = criterion.benchmark_group(format!("hits, 1x16, {name}"));
        for threads in [1, 2] {
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{threads} threads")), |bencher| {
                bencher
                    .iter_custom(|looks| hits(&caches, &questions, threads, usize::try_from(looks).expect("64 bits")));
            });
        }
        group.finish();
    }
}

fn bench_misses(criterion: &mut Criterion) {
    let questions = Questions::new(20 * QUESTIONS);
    let feeds = questions.feeds();
    for (policy, name) in POLICIES {
        // Every look-up misses, and a cache that sees 10,000 of those turns itself down: it is made anew before.
        let mut position = 0;
        let mut cache = empty(policy, QUESTIONS);
        criterion.bench_function(&format!("misses that evict, 1x16, {name}"), |bencher| {
            bencher.iter_custom(|calls| {
                let mut spent = Duration::ZERO;
                let mut left = usize::try_from(calls).expect("64 bits");
                while left > 0 {
                    let start = Instant::now();
                    let part = left.min(5_000);
                    for _ in 0..part {
                        position = (position + 1) % feeds.len();
                        assert!(!ask(&cache, &feeds[position]));
                    }
                    spent += start.elapsed();
                    left -= part;
                    cache = empty(policy, QUESTIONS);
                    for _ in 0..QUESTIONS {
                        position = (position + 1) % feeds.len();
                        assert!(!ask(&cache, &feeds[position]));
                    }
                }
                spent
            });
        });
    }
}

/// How many times the hits of one thread two of them get, by the quickest round of each.
///
/// Whatever else runs on the machine only makes rounds slower, and the second thread first.
fn gain(caches: &[PredictionCache], questions: &Questions) -> f64 {
    let mut quickest = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for threads in [1, 2] {
            let time = hits(caches, questions, threads, LOOKS);
            quickest[threads - 1] = quickest[threads - 1].min(time);
        }
    }
    2.0 * quickest[0].as_secs_f64() / quickest[1].as_secs_f64()
}

fn scaling(_: &mut Criterion) {
    let questions = Questions::new(QUESTIONS);
    for (policy, name) in POLICIES {
        let shared = gain(&[filled(policy, &questions)], &questions);
        let own = vec![filled(policy, &questions), filled(policy, &questions)];
        let bound = gain(&own, &questions);
        let verdict = if shared >= 1.6 { "kept" } else { "missed" };
        println!(
            "two threads get {shared:.2} times the hits of one, {name} (at least 1.6: {verdict}; {bound:.2} with a cache for each)"
        );
    }
}

criterion_group!(benches, bench_hits, bench_misses, scaling);
criterion_main!(benches);
