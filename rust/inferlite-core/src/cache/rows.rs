//! Answers by the row: every row of a batch is looked up, those that are missing run together, and all go back in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::{SmallVec, smallvec};

use super::key::{DIGESTED_BYTES, Key};
use super::{Entry, Found, Missed, PredictionCache};
use crate::error::{Error, ErrorKind, Result};
use crate::rows::{BatchAxes, Piece, extent, join, row};
use crate::runtime::{Call, Feed, Input, Outputs, Signature};
use crate::tensor::{Dtype, Shape, Tensor, TensorView, Value};

/// The rows of one call of which some have no answer yet.
#[derive(Debug)]
pub struct MissingRows {
    /// Where the answer to each row of the batch is.
    slots: Vec<Slot>,
    /// The rows that are missing, each once.
    rows: Vec<Missing>,
    /// What all rows have in common, in memory of its own.
    shared: Vec<Feed>,
    /// Keeps what the feeds of the rows point into.
    _copies: Vec<Arc<Value>>,
}

#[derive(Debug)]
enum Slot {
    Kept(Arc<Entry>),
    /// The missing row of this index.
    Missing(usize),
}

#[derive(Debug)]
struct Missing {
    key: Key,
    /// What was keyed: the inputs that are the row's own, then what all rows have in common.
    asked: SmallVec<[Feed; 4]>,
}

impl Missing {
    /// The first inputs, which are the row's own: a small one from the key, a large one from memory of the batch.
    ///
    /// They point into the key, which must stay where it is for as long.
    fn feeds(&self, count: usize) -> SmallVec<[Feed; 1]> {
        let call = Call {
            feeds: &self.asked,
            fetches: &[],
            options: None,
        };
        let mut feeds = self.key.feeds(&call);
        feeds.truncate(count);
        feeds
    }
}

/// A call taken apart.
struct Batch<'a> {
    call: &'a Call<'a>,
    layout: &'a BatchAxes,
    rows: usize,
    /// Private copies of the inputs that have no rows: what is keyed with the first row runs with the last one.
    shared: Vec<Feed>,
    /// The same as they go into keys.
    keyed: Vec<Feed>,
    copies: Vec<Arc<Value>>,
}

impl<'a> Batch<'a> {
    /// `None` for a call without rows, whose inputs do not agree on their number, or of which nothing is known.
    fn of(cache: &PredictionCache, call: &'a Call<'a>, layout: &'a BatchAxes) -> Option<Self> {
        if !layout.hold_for(call.feeds) {
            return None;
        }
        let mut rows = None;
        let mut batch = Self {
            call,
            layout,
            rows: 0,
            shared: Vec::new(),
            keyed: Vec::new(),
            copies: Vec::new(),
        };
        for feed in call.feeds {
            match layout.inputs[feed.index] {
                Some(axis) => {
                    let here = extent(Piece::fed(&feed.value)?, axis)?;
                    if here == 0 || *rows.get_or_insert(here) != here {
                        return None;
                    }
                }
                None => batch.share(cache, feed),
            }
        }
        batch.rows = rows?;
        Some(batch)
    }

    fn share(&mut self, cache: &PredictionCache, feed: &Feed) {
        let index = feed.index;
        let value = match &feed.value {
            Input::Tensor(view) => Arc::new(Value::Tensor(Tensor::copied(view))),
            Input::Value(value) => value.clone(),
        };
        self.copies.push(value.clone());
        let mut copy = Feed {
            index,
            value: view_of(&value),
        };
        self.shared.push(Feed {
            index,
            value: view_of(&value),
        });
        if let Input::Tensor(view) = &copy.value
            && view.byte_len() > DIGESTED_BYTES
        {
            // A key of its own stands for it in those of the rows, so that it is digested once. No input has this type.
            let key = cache.keyer.key(
                &Call {
                    feeds: std::slice::from_ref(&copy),
                    fetches: &[],
                    options: None,
                },
                0,
            );
            let bytes: Vec<u8> = key.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let stand_in = Arc::new(Value::Tensor(Tensor::of_bytes(
                Dtype::Uint8,
                smallvec![i64::try_from(bytes.len()).unwrap_or(i64::MAX)],
                bytes.into(),
            )));
            copy.value = undefined(&stand_in);
            self.copies.push(stand_in);
        }
        self.keyed.push(copy);
    }

    /// The key of a row, and its own inputs.
    fn row(&mut self, cache: &PredictionCache, index: usize, generation: u64) -> Option<Missing> {
        let mut feeds: SmallVec<[Feed; 1]> = SmallVec::new();
        for feed in self.call.feeds {
            let Some(axis) = self.layout.inputs[feed.index] else {
                continue;
            };
            let value = if let Some(view) = small_row(&feed.value, axis, index) {
                Input::Tensor(view)
            } else {
                let copy = Arc::new(row(Piece::fed(&feed.value)?, axis, index));
                self.copies.push(copy.clone());
                view_of(&copy)
            };
            feeds.push(Feed {
                index: feed.index,
                value,
            });
        }
        let asked: SmallVec<[Feed; 4]> = feeds.into_iter().chain(self.keyed.iter().map(again)).collect();
        let call = Call {
            feeds: &asked,
            fetches: self.call.fetches,
            options: None,
        };
        let key = cache.keyer.key(&call, generation);
        Some(Missing { key, asked })
    }
}

#[expect(
    unsafe_code,
    reason = "describes parts of memory that the caller of the cache, or the batch, keeps alive"
)]
mod view {
    use super::{Arc, DIGESTED_BYTES, Dtype, Feed, Input, Shape, TensorView, Value};

    /// The same feed once more, for as long as the batch or its call.
    pub(super) fn again(feed: &Feed) -> Feed {
        let value = match &feed.value {
            // SAFETY: used no longer than the batch that holds the first one.
            Input::Tensor(view) => Input::Tensor(unsafe { view.duplicate() }),
            Input::Value(value) => Input::Value(value.clone()),
        };
        Feed {
            index: feed.index,
            value,
        }
    }

    /// What a value is as an input; a tensor in it is only described, so that the value must outlive the input.
    pub(super) fn view_of(value: &Arc<Value>) -> Input {
        match &**value {
            // SAFETY: whoever asks keeps the value for longer than the input.
            Value::Tensor(tensor) => Input::Tensor(unsafe { tensor.view().duplicate() }),
            _ => Input::Value(value.clone()),
        }
    }

    /// The bytes of a value under a type that no input has.
    pub(super) fn undefined(value: &Arc<Value>) -> Input {
        let Value::Tensor(tensor) = &**value else {
            return Input::Value(value.clone());
        };
        let view = tensor.view();
        // SAFETY: as in `view_of`; nobody runs this view, and a key reads no more than its bytes.
        Input::Tensor(unsafe { TensorView::new(Dtype::Undefined, view.shape().into(), view.data(), view.byte_len()) })
    }

    /// A row that lies in one piece, and is small enough for a key to copy it: nobody reads it after that.
    pub(super) fn small_row(input: &Input, axis: usize, index: usize) -> Option<TensorView> {
        let Input::Tensor(view) = input else { return None };
        let shape = view.shape();
        let rows = usize::try_from(shape[axis]).ok()?;
        let byte_len = view.byte_len() / rows;
        if shape[..axis].iter().any(|&extent| extent != 1) || byte_len > DIGESTED_BYTES {
            return None;
        }
        let mut own = Shape::from_slice(shape);
        own[axis] = 1;
        // SAFETY: the row of this index is inside the tensor, which is `rows` rows of equal size in a line.
        let data = unsafe { view.data().add(index * byte_len) };
        // SAFETY: as above; the view it is a part of lives as long as the call.
        Some(unsafe { TensorView::new(view.dtype(), own, data, byte_len) })
    }
}
use view::{again, small_row, undefined, view_of};

impl PredictionCache {
    /// Looks for the answers to the rows of a call; waits for nobody.
    pub fn look_up_rows(&self, call: &Call<'_>, layout: &BatchAxes) -> Result<Found, Missed> {
        if !self.sampling.is_due() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return Err(Missed::Skipped);
        }
        let start = self.start();
        let generation = self.generation.load(Ordering::Acquire);
        let Some(mut batch) = Batch::of(self, call, layout) else {
            return Err(Missed::Skipped);
        };
        let mut slots = Vec::with_capacity(batch.rows);
        let mut rows: Vec<Missing> = Vec::new();
        let mut by_hash: HashMap<u64, SmallVec<[usize; 1]>, foldhash::fast::RandomState> = HashMap::default();
        for index in 0..batch.rows {
            let Some(missing) = batch.row(self, index, generation) else {
                return Err(Missed::Skipped);
            };
            let alike = by_hash.entry(missing.key.hash).or_default();
            if let Some(&known) = alike.iter().find(|&&known| rows[known].key.words == missing.key.words) {
                slots.push(Slot::Missing(known));
                continue;
            }
            let found = self.get_at_once(&missing.key);
            self.sampling.record(found.is_some(), || self.store.hits());
            slots.push(if let Some(entry) = found {
                Slot::Kept(entry)
            } else {
                alike.push(rows.len());
                rows.push(missing);
                Slot::Missing(rows.len() - 1)
            });
        }
        if rows.is_empty() {
            let mut entries: Vec<Arc<Entry>> = slots
                .into_iter()
                .filter_map(|slot| {
                    if let Slot::Kept(entry) = slot {
                        Some(entry)
                    } else {
                        None
                    }
                })
                .collect();
            if batch.rows == 1
                && let Some(entry) = entries.pop()
            {
                self.finish(start);
                return Ok(Found::Entry(entry));
            }
            let outputs = assembled(&entries, call.fetches, layout).ok_or(Missed::Skipped)?;
            self.finish(start);
            return Ok(Found::Batch(Box::new(outputs)));
        }
        Err(Missed::Rows(Box::new(MissingRows {
            slots,
            rows,
            shared: batch.shared,
            _copies: batch.copies,
        })))
    }

    /// Computes the rows that a look-up has missed, in one run, keeps each, and gives the whole batch.
    pub fn compute_rows<'e>(
        &self,
        call: &Call<'_>,
        layout: &BatchAxes,
        signature: &Signature,
        missing: MissingRows,
        compute: impl Fn(&[Feed]) -> Result<Outputs<'e>>,
    ) -> Result<Outputs<'e>> {
        let MissingRows {
            slots,
            rows,
            shared,
            _copies,
        } = missing;
        let asked = slots.iter().filter(|slot| matches!(slot, Slot::Missing(_))).count();
        self.misses.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.coalesced.fetch_add((asked - rows.len()) as u64, Ordering::Relaxed);
        let count = rows[0].asked.len() - shared.len();
        let own: Vec<SmallVec<[Feed; 1]>> = rows.iter().map(|missing| missing.feeds(count)).collect();
        let joined: Option<Vec<(usize, Arc<Value>)>> =
            (0..count).map(|position| gathered(&own, position, layout)).collect();
        drop(own);
        let Some(joined) = joined else {
            return compute(call.feeds);
        };
        let own = joined.iter().map(|(index, value)| Feed {
            index: *index,
            value: view_of(value),
        });
        let mut feeds: Vec<Feed> = own.chain(shared).collect();
        feeds.sort_by_key(|feed| feed.index);
        // Whether a batch fails may depend on how many rows it has, and what an error says on which: what is run for the
        // call as it came is what counts then.
        let Ok(computed) = compute(&feeds) else {
            return compute(call.feeds);
        };
        let entries = self.keep_rows(call, layout, signature, rows, &computed)?;
        if asked == slots.len() && entries.len() == slots.len() {
            return Ok(computed);
        }
        let all: Vec<_> = slots
            .into_iter()
            .map(|slot| match slot {
                Slot::Kept(entry) => entry,
                Slot::Missing(index) => entries[index].clone(),
            })
            .collect();
        match assembled(&all, call.fetches, layout) {
            Some(outputs) => Ok(outputs),
            // The rows have outputs of different shapes, which only the model itself can put together.
            None => compute(call.feeds),
        }
    }

    /// Keeps the answer to each row by itself.
    fn keep_rows(
        &self,
        call: &Call<'_>,
        layout: &BatchAxes,
        signature: &Signature,
        rows: Vec<Missing>,
        computed: &Outputs<'_>,
    ) -> Result<Vec<Arc<Entry>>> {
        let mut pieces: SmallVec<[(Piece<'_>, usize); 4]> = SmallVec::new();
        for (&output, piece) in std::iter::zip(call.fetches, computed.pieces()) {
            let axis = layout.outputs[output].unwrap_or(0);
            let found = piece.and_then(|piece| extent(piece, axis));
            match piece {
                Some(piece) if found == Some(rows.len()) => pieces.push((piece, axis)),
                _ => {
                    let name = &signature.outputs[output].name;
                    let found = found.map_or_else(|| "none".to_owned(), |found| format!("{found}"));
                    let message = format!(
                        "output `{name}` was to have {} rows on axis {axis}, and there are {found}: declare its axis with \
                         `batch_axes`",
                        rows.len()
                    );
                    return Err(Error::new(ErrorKind::Fail, message));
                }
            }
        }
        let expires_at = self.ttl.map(|ttl| self.clock.now().saturating_add(ttl));
        let entries = rows.into_iter().enumerate().map(|(index, missing)| {
            let values = pieces.iter().map(|(piece, axis)| row(*piece, *axis, index)).collect();
            self.keep_values(&missing.key, values, expires_at)
        });
        Ok(entries.collect())
    }

    /// Drops the answers to the rows of a call; whether there was one.
    pub fn invalidate_rows(&self, call: &Call<'_>, layout: &BatchAxes) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        let Some(mut batch) = Batch::of(self, call, layout) else {
            return false;
        };
        let mut is_dropped = false;
        for index in 0..batch.rows {
            is_dropped |= batch
                .row(self, index, generation)
                .is_some_and(|missing| self.store.remove(&missing.key));
        }
        is_dropped
    }
}

/// One input of all missing rows, and which one.
fn gathered(rows: &[SmallVec<[Feed; 1]>], position: usize, layout: &BatchAxes) -> Option<(usize, Arc<Value>)> {
    let index = rows[0][position].index;
    let pieces: Option<Vec<Piece<'_>>> = rows.iter().map(|feeds| Piece::fed(&feeds[position].value)).collect();
    Some((index, Arc::new(join(&pieces?, layout.inputs[index]?)?)))
}

/// The answers to several rows as one; `None` where they do not fit together.
fn assembled(entries: &[Arc<Entry>], fetches: &[usize], layout: &BatchAxes) -> Option<Outputs<'static>> {
    let mut outputs = Outputs::default();
    for (position, &output) in fetches.iter().enumerate() {
        let pieces: Option<Vec<Piece<'_>>> = entries
            .iter()
            .map(|entry| Piece::of(entry.values().get(position)?))
            .collect();
        outputs.push(join(&pieces?, layout.outputs[output]?)?);
    }
    Some(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheSettings, Limits, Policy};
    use crate::clock::Clock;
    use crate::runtime::{Argument, Dim, ValueType};
    use crate::tensor::Strings;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::HashSet;

    /// Takes `x` [n, 2], `state` [2, n] and `k`, and gives `y` [n] and `z` [2, n], as wide as it is told to be.
    struct Bench {
        cache: PredictionCache,
        signature: Signature,
        layout: BatchAxes,
        /// The rows of every run, by what they are fed.
        runs: RefCell<Vec<Vec<[f32; 5]>>>,
        width: usize,
    }

    fn argument(name: &str, dims: &[Dim]) -> Argument {
        let shape = Some(dims.to_vec());
        let dtype = Dtype::Float32;
        Argument::new(name.into(), ValueType::Tensor { dtype, shape }).expect("there is no NUL in it")
    }

    fn floats(shape: &[usize], numbers: &[f32]) -> Value {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let shape = shape.iter().map(|&extent| i64::try_from(extent).unwrap_or(0)).collect();
        Value::Tensor(Tensor::of_bytes(Dtype::Float32, shape, bytes.into()))
    }

    fn numbers(piece: Piece<'_>) -> Vec<f32> {
        let Piece::Tensor(view) = piece else {
            panic!("it is no text")
        };
        let bytes = Tensor::copied(view).to_bytes();
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_ne_bytes(*bytes))
            .collect()
    }

    fn owned(found: Found) -> Outputs<'static> {
        match found {
            Found::Entry(entry) => Outputs::of_values(entry.values().iter().map(crate::cache::copied)),
            Found::Batch(outputs) => *outputs,
        }
    }

    /// What the model gives for a row.
    fn answer(row: [f32; 5]) -> [f32; 3] {
        let [left, right, first, second, shared] = row;
        [left * 2.0 + right + shared, first - second, second * shared]
    }

    impl Bench {
        fn new(max_entries: usize, width: usize) -> Self {
            let (rows, two) = (Dim::Unknown, Dim::Fixed(2));
            let signature = Signature {
                inputs: vec![
                    argument("x", &[rows.clone(), two.clone(), Dim::Unknown]),
                    argument("state", &[two.clone(), rows.clone()]),
                    argument("k", &[]),
                ],
                required: 3,
                outputs: vec![argument("y", std::slice::from_ref(&rows)), argument("z", &[two, rows])],
            };
            let declared = [("state".to_owned(), Some(1)), ("z".to_owned(), Some(1))];
            let limits = Limits {
                max_bytes: usize::MAX >> 1,
                max_entries,
            };
            Self {
                cache: PredictionCache::new(
                    CacheSettings {
                        limits,
                        ttl: None,
                        policy: Policy::default(),
                    },
                    Clock::default(),
                ),
                layout: BatchAxes::of(&signature, &declared).expect("there are rows"),
                signature,
                runs: RefCell::default(),
                width,
            }
        }

        fn run(&self, feeds: &[Feed], fetches: &[usize]) -> Outputs<'static> {
            let fed = |index| {
                let feed = feeds
                    .iter()
                    .find(|feed: &&Feed| feed.index == index)
                    .expect("it is fed");
                numbers(Piece::fed(&feed.value).expect("it is a tensor"))
            };
            let (x, state, k) = (fed(0), fed(1), fed(2)[0]);
            let count = state.len() / 2;
            let x = |row: usize, side: usize| x[(row * 2 + side) * self.width];
            let rows: Vec<[f32; 5]> = (0..count)
                .map(|row| [x(row, 0), x(row, 1), state[row], state[count + row], k])
                .collect();
            self.runs.borrow_mut().push(rows.clone());
            let answers: Vec<[f32; 3]> = rows.into_iter().map(answer).collect();
            let mut outputs = Outputs::default();
            for fetch in fetches {
                let of = |place: usize| answers.iter().map(move |answer| answer[place]);
                outputs.push(if *fetch == 0 {
                    floats(&[count], &of(0).collect::<Vec<_>>())
                } else {
                    floats(&[2, count], &of(1).chain(of(2)).collect::<Vec<_>>())
                });
            }
            outputs
        }

        fn with_call<T>(&self, rows: &[[f32; 5]], fetches: &[usize], work: impl FnOnce(&Call<'_>) -> T) -> T {
            let wide = |number: f32| std::iter::repeat_n(number, self.width);
            let x: Vec<f32> = rows.iter().flat_map(|row| wide(row[0]).chain(wide(row[1]))).collect();
            let state: Vec<f32> = rows
                .iter()
                .map(|row| row[2])
                .chain(rows.iter().map(|row| row[3]))
                .collect();
            let k = rows.first().map_or(0.0, |row| row[4]);
            let values = [
                floats(&[rows.len(), 2, self.width], &x),
                floats(&[2, rows.len()], &state),
                floats(&[], &[k]),
            ]
            .map(Arc::new);
            let feeds: Vec<Feed> = values
                .iter()
                .enumerate()
                .map(|(index, value)| Feed {
                    index,
                    value: view_of(value),
                })
                .collect();
            work(&Call {
                feeds: &feeds,
                fetches,
                options: None,
            })
        }

        /// The answers by row, of those outputs that are asked for.
        fn call(&self, rows: &[[f32; 5]], fetches: &[usize]) -> Vec<Vec<f32>> {
            self.with_call(rows, fetches, |call| {
                let outputs = match self.cache.look_up_rows(call, &self.layout) {
                    Ok(found) => owned(found),
                    Err(Missed::Rows(missing)) => self
                        .cache
                        .compute_rows(call, &self.layout, &self.signature, *missing, |feeds| {
                            Ok(self.run(feeds, fetches))
                        })
                        .expect("it answers"),
                    Err(_) => self.run(call.feeds, fetches),
                };
                let pieces: Vec<_> = outputs.pieces().map(|piece| piece.expect("it is a tensor")).collect();
                (0..rows.len())
                    .map(|index| {
                        let row = std::iter::zip(&pieces, fetches)
                            .map(|(piece, fetch)| numbers(Piece::of(&row(*piece, *fetch, index)).expect("as above")));
                        row.flatten().collect()
                    })
                    .collect()
            })
        }
    }

    fn wanted(rows: &[[f32; 5]], fetches: &[usize]) -> Vec<Vec<f32>> {
        let each = rows.iter().map(|row| {
            let [y, z, w] = answer(*row);
            fetches
                .iter()
                .flat_map(|fetch| if *fetch == 0 { vec![y] } else { vec![z, w] })
                .collect()
        });
        each.collect()
    }

    fn numbered(kinds: &[u8], k: u8) -> Vec<[f32; 5]> {
        let row = |kind: &u8| {
            [
                f32::from(kind / 3),
                f32::from(kind % 3),
                f32::from(*kind),
                1.0,
                f32::from(k),
            ]
        };
        kinds.iter().map(row).collect()
    }

    #[test]
    fn only_missing_rows_run_each_once_and_answers_are_in_order() {
        let bench = Bench::new(usize::MAX, 1);
        let first = numbered(&[1, 2, 1], 0);
        assert_eq!(bench.call(&first, &[0, 1]), wanted(&first, &[0, 1]));
        let second = numbered(&[3, 2, 3, 1, 4], 0);
        assert_eq!(bench.call(&second, &[0, 1]), wanted(&second, &[0, 1]));
        assert_eq!(*bench.runs.borrow(), [numbered(&[1, 2], 0), numbered(&[3, 4], 0)]);
        let summary = bench.cache.summary();
        assert_eq!(
            (summary.hits, summary.misses, summary.coalesced, summary.entries),
            (2, 4, 2, 4)
        );
    }

    #[test]
    fn other_outputs_and_other_shared_inputs_are_other_questions() {
        let bench = Bench::new(usize::MAX, 1);
        for (k, fetches) in [(0, &[0][..]), (0, &[1]), (0, &[1, 0]), (1, &[0])] {
            let rows = numbered(&[1, 2], k);
            assert_eq!(bench.call(&rows, fetches), wanted(&rows, fetches));
            assert_eq!(bench.call(&rows, fetches), wanted(&rows, fetches));
        }
        assert_eq!(bench.runs.borrow().len(), 4);
    }

    #[test]
    fn rows_whose_keys_are_small_run_from_their_own_bytes() {
        // So small that their keys are no allocation, and move with what holds them.
        let mut bench = Bench::new(usize::MAX, 1);
        bench.signature.inputs.truncate(1);
        bench.layout.inputs.truncate(1);
        let ask = |asked: &[f32]| {
            let value = Arc::new(floats(&[asked.len(), 1, 1], asked));
            let feeds = [Feed {
                index: 0,
                value: view_of(&value),
            }];
            let call = Call {
                feeds: &feeds,
                fetches: &[0],
                options: None,
            };
            let Err(Missed::Rows(missing)) = bench.cache.look_up_rows(&call, &bench.layout) else {
                panic!("some rows are missing")
            };
            let fed = RefCell::new(Vec::new());
            let run = |feeds: &[Feed]| {
                let given = numbers(Piece::fed(&feeds[0].value).expect("it is a tensor"));
                let mut outputs = Outputs::default();
                outputs.push(floats(&[given.len()], &given));
                fed.borrow_mut().extend(given);
                Ok(outputs)
            };
            let outputs = bench
                .cache
                .compute_rows(&call, &bench.layout, &bench.signature, *missing, run)
                .expect("it answers");
            let given = outputs.pieces().next().flatten().map(numbers);
            assert_eq!(given.as_deref(), Some(asked));
            fed.into_inner()
        };
        assert_eq!(ask(&[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
        assert_eq!(ask(&[4.0, 2.0, 5.0, 4.0]), [4.0, 5.0]);
    }

    #[test]
    fn a_row_does_not_keep_its_batch_alive() {
        let bench = Bench::new(usize::MAX, 1);
        bench.call(&numbered(&(0..200).collect::<Vec<_>>(), 0), &[0]);
        let of_all = bench.cache.summary().bytes;
        let alone = Bench::new(usize::MAX, 1);
        alone.call(&numbered(&[7], 0), &[0]);
        assert_eq!(of_all, 200 * alone.cache.summary().bytes);
    }

    #[test]
    fn what_is_cleared_during_a_run_is_not_kept() {
        let bench = Bench::new(usize::MAX, 1);
        let rows = numbered(&[1, 2], 0);
        bench.with_call(&rows, &[0], |call| {
            let Err(Missed::Rows(missing)) = bench.cache.look_up_rows(call, &bench.layout) else {
                panic!("nothing is kept yet")
            };
            let run = |feeds: &[Feed]| {
                bench.cache.clear();
                Ok(bench.run(feeds, &[0]))
            };
            let outputs = bench
                .cache
                .compute_rows(call, &bench.layout, &bench.signature, *missing, run);
            assert_eq!(outputs.expect("it answers").len(), 1);
        });
        assert_eq!(bench.cache.summary().entries, 0);
    }

    #[test]
    fn an_error_is_not_kept_and_spoils_no_other_row() {
        let bench = Bench::new(usize::MAX, 1);
        bench.call(&numbered(&[1], 0), &[0]);
        let rows = numbered(&[1, 2, 3], 0);
        bench.with_call(&rows, &[0], |call| {
            let Err(Missed::Rows(missing)) = bench.cache.look_up_rows(call, &bench.layout) else {
                panic!("two rows are missing")
            };
            let fail = |_: &[Feed]| Err(Error::new(ErrorKind::Fail, "as told"));
            let error = bench
                .cache
                .compute_rows(call, &bench.layout, &bench.signature, *missing, fail);
            assert_eq!(error.expect_err("as told").message(), "as told");
        });
        assert_eq!(bench.cache.summary().entries, 1);
        assert_eq!(bench.call(&rows, &[0]), wanted(&rows, &[0]));
    }

    #[test]
    fn a_batch_that_fails_only_without_its_known_rows_runs_as_it_came() {
        let bench = Bench::new(usize::MAX, 1);
        bench.call(&numbered(&[1], 0), &[0]);
        let rows = numbered(&[1, 2, 3], 0);
        bench.with_call(&rows, &[0], |call| {
            let Err(Missed::Rows(missing)) = bench.cache.look_up_rows(call, &bench.layout) else {
                panic!("two rows are missing")
            };
            let run = |feeds: &[Feed]| match &feeds[0].value {
                Input::Tensor(view) if view.shape()[0] == 3 => Ok(bench.run(feeds, &[0])),
                _ => Err(Error::new(ErrorKind::Fail, "too few")),
            };
            let outputs = bench
                .cache
                .compute_rows(call, &bench.layout, &bench.signature, *missing, run)
                .expect("the whole batch is accepted");
            let wanted: Vec<f32> = rows.iter().map(|row| answer(*row)[0]).collect();
            assert_eq!(outputs.pieces().next().flatten().map(numbers), Some(wanted));
        });
        assert_eq!(bench.cache.summary().entries, 1);
    }

    #[test]
    fn rows_are_dropped_one_by_one() {
        let bench = Bench::new(usize::MAX, 1);
        bench.call(&numbered(&[1, 2, 3], 0), &[0]);
        let drop_rows = |kinds: &[u8]| {
            bench.with_call(&numbered(kinds, 0), &[0], |call| {
                bench.cache.invalidate_rows(call, &bench.layout)
            })
        };
        assert!(drop_rows(&[2, 9]));
        assert!(!drop_rows(&[2, 9]));
        assert_eq!(bench.cache.summary().entries, 2);
    }

    #[test]
    fn inputs_that_disagree_or_have_no_rows_are_left_to_the_model() {
        let bench = Bench::new(usize::MAX, 1);
        let (x, state) = (
            Arc::new(floats(&[3, 2, 1], &[0.0; 6])),
            Arc::new(floats(&[2, 1], &[0.0; 2])),
        );
        let empty = Arc::new(floats(&[0, 2, 1], &[]));
        for (first, second) in [(&x, Some(&state)), (&empty, None)] {
            let values = std::iter::once(first).chain(second);
            let feeds: Vec<Feed> = values
                .enumerate()
                .map(|(index, value)| Feed {
                    index,
                    value: view_of(value),
                })
                .collect();
            let call = Call {
                feeds: &feeds,
                fetches: &[0],
                options: None,
            };
            let found = bench.cache.look_up_rows(&call, &bench.layout);
            assert!(matches!(found, Err(Missed::Skipped)));
        }
    }

    #[test]
    fn an_output_without_as_many_rows_is_named() {
        let bench = Bench::new(usize::MAX, 1);
        bench.with_call(&numbered(&[1, 2], 0), &[0], |call| {
            let Err(Missed::Rows(missing)) = bench.cache.look_up_rows(call, &bench.layout) else {
                panic!("nothing is kept yet")
            };
            let run = |_: &[Feed]| {
                let mut outputs = Outputs::default();
                outputs.push(floats(&[3], &[0.0; 3]));
                Ok(outputs)
            };
            let error = bench
                .cache
                .compute_rows(call, &bench.layout, &bench.signature, *missing, run);
            assert_eq!(
                error.expect_err("there are three").message(),
                "output `y` was to have 2 rows on axis 0, and there are 3: declare its axis with `batch_axes`"
            );
        });
    }

    #[test]
    fn rows_of_strings_are_kept_as_well() {
        let dims = Some(vec![Dim::Unknown]);
        let text = |name: &str| {
            let (dtype, shape) = (Dtype::String, dims.clone());
            Argument::new(name.into(), ValueType::Tensor { dtype, shape }).expect("there is no NUL in it")
        };
        let signature = Signature {
            inputs: vec![text("x")],
            required: 1,
            outputs: vec![text("y")],
        };
        let layout = BatchAxes::of(&signature, &[]).expect("there are rows");
        let bench = Bench::new(usize::MAX, 1);
        let runs = RefCell::new(Vec::new());
        let ask = |items: &[&str]| {
            let mut strings = Strings::with_shape(smallvec![i64::try_from(items.len()).unwrap_or(0)]);
            for item in items {
                strings.push(item.as_bytes());
            }
            let feeds = [Feed {
                index: 0,
                value: Input::Value(Arc::new(Value::Strings(strings))),
            }];
            let call = Call {
                feeds: &feeds,
                fetches: &[0],
                options: None,
            };
            let run = |feeds: &[Feed]| {
                let Input::Value(value) = &feeds[0].value else {
                    panic!("it is text")
                };
                let mut outputs = Outputs::default();
                outputs.push(crate::cache::copied(value));
                runs.borrow_mut().push(value.shape().map(<[i64]>::to_vec));
                Ok(outputs)
            };
            let outputs = match bench.cache.look_up_rows(&call, &layout) {
                Ok(found) => owned(found),
                Err(Missed::Rows(missing)) => bench
                    .cache
                    .compute_rows(&call, &layout, &signature, *missing, run)
                    .expect("it answers"),
                Err(other) => panic!("its rows were not looked up: {other:?}"),
            };
            let Some(Value::Strings(strings)) = outputs.into_values().pop() else {
                panic!("it is text")
            };
            strings
                .iter()
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(ask(&["a", "bc", "a"]), ["a", "bc", "a"]);
        assert_eq!(ask(&["bc", "ab", "c"]), ["bc", "ab", "c"]);
        assert_eq!(*runs.borrow(), [Some(vec![2]), Some(vec![2])]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_traffic_gets_the_answers_of_lone_rows(
            calls in proptest::collection::vec(
                (proptest::collection::vec(0..9_u8, 0..8), 0..2_u8, 0..4_u8, 0..10_u8),
                1..30,
            ),
            is_large in any::<bool>(),
            room in prop_oneof![Just(usize::MAX), 1..6_usize],
        ) {
            // Half a row of the large ones is more than a key copies.
            let bench = Bench::new(room, if is_large { DIGESTED_BYTES / 4 } else { 1 });
            let mut kept: HashSet<(u8, u8, Vec<usize>)> = HashSet::new();
            for (kinds, k, which, action) in calls {
                let fetches = [&[0][..], &[1], &[0, 1], &[1, 0]][usize::from(which)];
                let rows = numbered(&kinds, k);
                match action {
                    0 => {
                        bench.cache.clear();
                        kept.clear();
                    }
                    1 => {
                        let is_dropped =
                            bench.with_call(&rows, fetches, |call| bench.cache.invalidate_rows(call, &bench.layout));
                        let mut was_kept = false;
                        for kind in &kinds {
                            was_kept |= kept.remove(&(*kind, k, fetches.to_vec()));
                        }
                        prop_assert!(room < usize::MAX || is_dropped == was_kept);
                    }
                    _ => {}
                }
                let before = bench.runs.borrow().len();
                prop_assert_eq!(bench.call(&rows, fetches), wanted(&rows, fetches));
                let fresh: Vec<u8> =
                    kinds.iter().copied().filter(|kind| kept.insert((*kind, k, fetches.to_vec()))).collect();
                let runs = bench.runs.borrow();
                if room == usize::MAX && !kinds.is_empty() {
                    let run: Vec<_> = runs[before..].concat();
                    prop_assert_eq!(run, numbered(&fresh, k));
                }
                for run in &runs[before..] {
                    let each: HashSet<_> = run.iter().map(|row| row.map(f32::to_bits)).collect();
                    prop_assert_eq!(each.len(), run.len());
                }
                bench.cache.store.validate();
            }
        }
    }
}
