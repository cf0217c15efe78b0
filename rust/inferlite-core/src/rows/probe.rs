//! Trial runs: a row stays in its place while the others are replaced, and its own bits must not change.

use std::sync::Arc;
use std::time::Duration;

use super::Demand;
use super::axes::BatchAxes;
use super::batch::{Piece, extent, join, row};
use crate::clock::Clock;
use crate::runtime::ort::RunOptions;
use crate::runtime::{Argument, Call, Dim, Engine, Feed, Input, Signature, ValueType};
use crate::tensor::{Dtype, Shape, Strings, Tensor, Value, element_count};

/// How many rows a trial has. Not one that a kernel would treat in a way of its own, and few, since time is short.
const ROWS: usize = 4;
/// Which of them is watched: it has others before and after it.
const OWN: usize = 1;
/// Trial runs take no longer than this, unless two of them do.
const BUDGET: Duration = Duration::from_millis(100);
/// Extents that are tried for axes of which nothing is known; first one that fits nothing by chance.
const EXTENTS: [i64; 6] = [7, 16, 1, 3, 128, 512];
/// Inputs that would be larger are not tried.
const MOST_BYTES: usize = 1 << 20;

/// What trial runs have shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trial {
    /// The row was the same in all of them.
    Unchanged,
    /// It was not: how.
    Changed(String),
    /// There is no run to watch: why.
    Impossible(String),
}

/// How the other rows are replaced; the most telling ways come first, since time may not be enough for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// By numbers a thousand times as large, and by other integers.
    Scaled,
    /// By numbers that are none, and by the smallest integers.
    NotANumber,
    /// By other numbers of the same size, and by the largest integers.
    Other,
}

/// Runs a model on batches in which a row stays the same.
pub(super) fn run(engine: &dyn Engine, layout: &BatchAxes, demand: &Demand<'_>, clock: &Clock) -> Trial {
    let start = clock.now();
    let own_rows = |feeds: &[Feed]| rows_of(engine, layout, feeds, demand.options, (OWN, ROWS));
    let with_own = |base: Vec<Feed>| own_rows(&base).map(|own| (own, base));
    let found = if let Some(feeds) = demand.example {
        batch_of(feeds, layout).and_then(with_own)
    } else {
        let mut found = Err("there is no input".to_owned());
        for unknown in EXTENTS {
            found = invented(engine.signature(), layout, unknown).and_then(with_own);
            if found.is_ok() || clock.now().saturating_sub(start) > BUDGET {
                break;
            }
        }
        found
    };
    let (first, base) = match found {
        Ok(found) => found,
        Err(problem) => return Trial::Impossible(problem),
    };
    let mut runs: u32 = 1;
    for change in [Change::Scaled, Change::NotANumber, Change::Other] {
        let spent = clock.now().saturating_sub(start);
        if runs >= 2 && spent + spent / runs > BUDGET {
            break;
        }
        let changed: Vec<Feed> = base.iter().map(|feed| changed(feed, layout, change)).collect();
        let is_same = |(before, after): (&Feed, &Feed)| fed_bits(before) == fed_bits(after);
        if std::iter::zip(&base, &changed).all(is_same) {
            continue;
        }
        // What a model refuses tells nothing of its rows.
        let Ok(rows) = own_rows(&changed) else { continue };
        runs += 1;
        for (argument, (before, after)) in std::iter::zip(&engine.signature().outputs, std::iter::zip(&first, &rows)) {
            if bits(before) != bits(after) {
                return Trial::Changed(format!(
                    "output `{}` of a row changed in a trial run when the other rows did",
                    argument.name
                ));
            }
        }
    }
    let spent = clock.now().saturating_sub(start);
    if runs < 2 || spent + spent / runs <= BUDGET {
        let fewer: Vec<Feed> = base.iter().map(|feed| fewer(feed, layout)).collect();
        let few = match rows_of(engine, layout, &fewer, demand.options, (OWN, OWN + 1)) {
            Ok(few) => few,
            Err(problem) => return Trial::Impossible(problem),
        };
        for (argument, (before, after)) in std::iter::zip(&engine.signature().outputs, std::iter::zip(&first, &few)) {
            if !is_near(before, after) {
                return Trial::Changed(format!(
                    "output `{}` of a row changed in a trial run with fewer other rows",
                    argument.name
                ));
            }
        }
    }
    for place in [0, ROWS - 1] {
        let spent = clock.now().saturating_sub(start);
        if spent + spent / runs > BUDGET {
            break;
        }
        let moved: Vec<Feed> = base.iter().map(|feed| moved(feed, layout, place)).collect();
        let Ok(rows) = rows_of(engine, layout, &moved, demand.options, (place, ROWS)) else {
            continue;
        };
        for (argument, (before, after)) in std::iter::zip(&engine.signature().outputs, std::iter::zip(&first, &rows)) {
            if !is_near(before, after) {
                return Trial::Changed(format!(
                    "output `{}` of a row changed in a trial run when the row had another place",
                    argument.name
                ));
            }
        }
    }
    if runs < 2 {
        return Trial::Impossible("there are no other rows that it accepts".to_owned());
    }
    Trial::Unchanged
}

/// The row at a place of every output, of a batch of so many rows.
fn rows_of(
    engine: &dyn Engine,
    layout: &BatchAxes,
    feeds: &[Feed],
    options: Option<&RunOptions>,
    (place, count): (usize, usize),
) -> Result<Vec<Value>, String> {
    let signature = engine.signature();
    let fetches: Vec<usize> = (0..signature.outputs.len()).collect();
    let call = Call {
        feeds,
        fetches: &fetches,
        options,
    };
    let outputs = engine.run(&call).map_err(|error| error.message().to_owned())?;
    let mut rows = Vec::new();
    for (index, piece) in outputs.pieces().enumerate() {
        let name = &signature.outputs[index].name;
        let axis = layout.outputs[index].ok_or_else(|| format!("output `{name}` has no batch axis"))?;
        let piece = piece.ok_or_else(|| format!("output `{name}` is no tensor"))?;
        if extent(piece, axis) != Some(count) {
            let shape = piece.shape();
            return Err(format!(
                "output `{name}` has shape {shape:?} for {count} rows on axis {axis}"
            ));
        }
        rows.push(row(piece, axis, place));
    }
    Ok(rows)
}

fn bits(value: &Value) -> (Option<&[i64]>, Vec<u8>) {
    let bytes = match value {
        Value::Tensor(tensor) => tensor.to_bytes(),
        Value::Strings(strings) => strings.iter().flat_map(|text| [text, b"\0"].concat()).collect(),
        Value::Sequence { .. } | Value::Map(_) | Value::Absent => Vec::new(),
    };
    (value.shape(), bytes)
}

fn fed_bits(feed: &Feed) -> (Option<&[i64]>, Vec<u8>) {
    match &feed.value {
        Input::Value(value) => bits(value),
        Input::Tensor(view) => (Some(view.shape()), Tensor::copied(view).to_bytes()),
    }
}

fn fed(index: usize, value: Value) -> Feed {
    let value = Input::Value(Arc::new(value));
    Feed { index, value }
}

/// A batch of the first rows of an example, as often as it takes.
fn batch_of(feeds: &[Feed], layout: &BatchAxes) -> Result<Vec<Feed>, String> {
    feeds
        .iter()
        .map(|feed| {
            let Some(axis) = layout.inputs[feed.index] else {
                return Ok(Feed {
                    index: feed.index,
                    value: shared(&feed.value),
                });
            };
            let piece = Piece::fed(&feed.value).ok_or("an input with a batch axis is no tensor")?;
            let rows = extent(piece, axis)
                .filter(|&rows| rows > 0)
                .ok_or("the example has no rows")?;
            let rows: Vec<Value> = (0..ROWS).map(|index| row(piece, axis, index % rows)).collect();
            Ok(fed(feed.index, batched(&rows, axis)))
        })
        .collect()
}

fn batched(rows: &[Value], axis: usize) -> Value {
    let pieces: Vec<Piece<'_>> = rows.iter().filter_map(Piece::of).collect();
    join(&pieces, axis).unwrap_or(Value::Absent)
}

fn shared(input: &Input) -> Input {
    match input {
        Input::Tensor(view) => Input::Value(Arc::new(Value::Tensor(Tensor::copied(view)))),
        Input::Value(value) => Input::Value(value.clone()),
    }
}

/// Inputs of the declared types and shapes, with this extent wherever none is declared.
fn invented(signature: &Signature, layout: &BatchAxes, unknown: i64) -> Result<Vec<Feed>, String> {
    let inputs = signature.proper_inputs().iter().enumerate();
    inputs
        .filter(|(_, argument)| !argument.is_optional())
        .map(|(index, argument)| Ok(fed(index, invented_value(argument, layout.inputs[index], unknown)?)))
        .collect()
}

fn invented_value(argument: &Argument, axis: Option<usize>, unknown: i64) -> Result<Value, String> {
    let ValueType::Tensor { dtype, .. } = argument.value_type else {
        return Err(format!("input `{}` is no tensor", argument.name));
    };
    let dims = argument
        .shape()
        .ok_or_else(|| format!("input `{}` declares no shape", argument.name))?;
    let shape: Shape = dims
        .iter()
        .enumerate()
        .map(|(position, dim)| match dim {
            _ if axis == Some(position) => i64::try_from(ROWS).unwrap_or(1),
            Dim::Fixed(extent) => *extent,
            Dim::Symbol(_) | Dim::Unknown => unknown,
        })
        .collect();
    let count = element_count(&shape).map_err(|error| error.message().to_owned())?;
    if count > MOST_BYTES {
        return Err(format!("input `{}` would be too large to invent", argument.name));
    }
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    if dtype == Dtype::String {
        let mut strings = Strings::with_shape(shape);
        (0..count).for_each(|_| strings.push(if numbers.next() & 1 == 0 { b"a" } else { b"b" }));
        return Ok(Value::Strings(strings));
    }
    let bytes = (0..count).flat_map(|_| {
        let number = numbers.next();
        // Indices and masks are often integers: 0 and 1 are likely to be accepted.
        encoded(
            dtype,
            if is_float(dtype) {
                numbers.fraction()
            } else {
                f64::from(u8::from(number & 1 == 0))
            },
        )
    });
    Ok(Value::Tensor(Tensor::of_bytes(dtype, shape, bytes.collect())))
}

/// The same numbers in every process, so that a verdict can be had again.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from -1 to 1.
    fn fraction(&mut self) -> f64 {
        let number = u32::try_from(self.next() >> 32).unwrap_or(0);
        f64::from(number) / f64::from(u32::MAX) * 2.0 - 1.0
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Float32 | Dtype::Float64 | Dtype::Float16 | Dtype::Bfloat16
    )
}

/// The bytes of a number in a type; zeros where the type is none of the usual ones.
#[expect(clippy::cast_possible_truncation, reason = "a trial may round")]
fn encoded(dtype: Dtype, number: f64) -> Vec<u8> {
    let single = (number as f32).to_bits();
    match dtype {
        Dtype::Float32 => single.to_ne_bytes().to_vec(),
        Dtype::Float64 => number.to_ne_bytes().to_vec(),
        Dtype::Bfloat16 => ((single >> 16) as u16).to_ne_bytes().to_vec(),
        Dtype::Float16 => half(single).to_ne_bytes().to_vec(),
        other => {
            let mut bytes = (number as i64).to_ne_bytes().to_vec();
            if cfg!(target_endian = "big") {
                bytes.reverse();
            }
            bytes.truncate(other.bits() / 8);
            bytes
        }
    }
}

/// A half of what a single-precision number is, rounded towards zero.
fn half(single: u32) -> u16 {
    let sign = u16::try_from(single >> 16 & 0x8000).unwrap_or(0);
    let exponent = i64::from(single >> 23 & 0xFF) - 127 + 15;
    let fraction = u16::try_from(single >> 13 & 0x3FF).unwrap_or(0);
    match exponent {
        ..=0 => sign,
        1..=30 => sign | u16::try_from(exponent << 10).unwrap_or(0) | fraction,
        _ if single << 1 > 0xFF00_0000 => sign | 0x7E00,
        _ => sign | 0x7BFF,
    }
}

/// The same feed with other rows around the watched one.
fn changed(feed: &Feed, layout: &BatchAxes, change: Change) -> Feed {
    let found = layout.inputs[feed.index].zip(Piece::fed(&feed.value));
    let Some((axis, piece)) = found else {
        return Feed {
            index: feed.index,
            value: shared(&feed.value),
        };
    };
    let all = (0..ROWS).map(|index| row(piece, axis, index));
    let rows: Vec<Value> = all
        .enumerate()
        .map(|(index, row)| if index == OWN { row } else { replaced(&row, change) })
        .collect();
    fed(feed.index, batched(&rows, axis))
}

/// The same feed with the rows up to the watched one.
fn fewer(feed: &Feed, layout: &BatchAxes) -> Feed {
    let found = layout.inputs[feed.index].zip(Piece::fed(&feed.value));
    let Some((axis, piece)) = found else {
        return Feed {
            index: feed.index,
            value: shared(&feed.value),
        };
    };
    let rows: Vec<Value> = (0..=OWN).map(|index| row(piece, axis, index)).collect();
    fed(feed.index, batched(&rows, axis))
}

/// The same feed with the watched row at this place, in exchange for the one there.
fn moved(feed: &Feed, layout: &BatchAxes, place: usize) -> Feed {
    let found = layout.inputs[feed.index].zip(Piece::fed(&feed.value));
    let Some((axis, piece)) = found else {
        return Feed {
            index: feed.index,
            value: shared(&feed.value),
        };
    };
    let mut rows: Vec<Value> = (0..ROWS).map(|index| row(piece, axis, index)).collect();
    rows.swap(OWN, place);
    fed(feed.index, batched(&rows, axis))
}

/// Whether two answers are the same but for rounding, which may be another one in a batch of another size.
fn is_near(before: &Value, after: &Value) -> bool {
    let numbers = |value: &Value| -> Option<Vec<f64>> {
        let Value::Tensor(tensor) = value else { return None };
        let bytes = tensor.to_bytes();
        Some(match tensor.view().dtype() {
            Dtype::Float32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f64::from(f32::from_ne_bytes(*bytes)))
                .collect(),
            Dtype::Float64 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f64::from_ne_bytes(*bytes))
                .collect(),
            _ => return None,
        })
    };
    if before.shape() != after.shape() {
        return false;
    }
    let (Some(before), Some(after)) = (numbers(before), numbers(after)) else {
        // Halves round too coarsely to tell; everything else does not round.
        let is_half = |value: &Value| matches!(value, Value::Tensor(tensor) if matches!(tensor.view().dtype(), Dtype::Float16 | Dtype::Bfloat16));
        return is_half(before) || bits(before) == bits(after);
    };
    let finite = before
        .iter()
        .map(|number| number.abs())
        .filter(|number| number.is_finite());
    let most = finite.fold(1e-6, f64::max) * 1e-4;
    std::iter::zip(before, after).all(|(before, after)| {
        before.to_bits() == after.to_bits() || (before - after).abs() <= most || (before.is_nan() && after.is_nan())
    })
}

fn replaced(row: &Value, change: Change) -> Value {
    match row {
        Value::Strings(strings) => {
            let mut other = Strings::with_shape(strings.shape.clone());
            let items: Vec<&[u8]> = strings.iter().collect();
            for position in 0..items.len() {
                other.push(match change {
                    Change::Scaled => items[items.len() - 1 - position],
                    Change::NotANumber => items.iter().min().copied().unwrap_or_default(),
                    Change::Other => items.iter().max().copied().unwrap_or_default(),
                });
            }
            Value::Strings(other)
        }
        Value::Tensor(tensor) => {
            let (dtype, shape) = (tensor.view().dtype(), tensor.view().shape());
            let bytes = tensor.to_bytes();
            let bytes = if is_float(dtype) {
                floats_replaced(dtype, &bytes, change)
            } else {
                items_replaced(dtype, &bytes, change)
            };
            Value::Tensor(Tensor::of_bytes(dtype, shape.into(), bytes.into()))
        }
        Value::Sequence { .. } | Value::Map(_) | Value::Absent => Value::Absent,
    }
}

fn floats_replaced(dtype: Dtype, bytes: &[u8], change: Change) -> Vec<u8> {
    let mut numbers = Numbers(0xD1B5_4A32_D192_ED03);
    let size = dtype.bits() / 8;
    bytes
        .chunks(size)
        .flat_map(|_| {
            let number = match change {
                Change::Scaled => numbers.fraction() * 1e3,
                Change::NotANumber => f64::NAN,
                Change::Other => numbers.fraction(),
            };
            encoded(dtype, number)
        })
        .collect()
}

/// Integers are taken from those that are there, which the model is known to accept.
fn items_replaced(dtype: Dtype, bytes: &[u8], change: Change) -> Vec<u8> {
    let size = (dtype.bits() / 8).max(1);
    let items: Vec<&[u8]> = bytes.chunks(size).collect();
    let in_order = |a: &&&[u8], b: &&&[u8]| a.iter().rev().cmp(b.iter().rev());
    let chosen = |position: usize| match change {
        Change::Scaled => items[items.len() - 1 - position],
        Change::NotANumber => items.iter().min_by(|a, b| in_order(a, b)).copied().unwrap_or_default(),
        Change::Other => items.iter().max_by(|a, b| in_order(a, b)).copied().unwrap_or_default(),
    };
    (0..items.len())
        .flat_map(|position| chosen(position).to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Hand;
    use crate::error::{Error, ErrorKind};
    use crate::runtime::Outputs;
    use smallvec::smallvec;
    use std::sync::Mutex;

    type Script = fn(&[f32]) -> Result<Vec<f32>, &'static str>;

    /// A model of one number a row, that takes some time.
    #[derive(Debug)]
    struct Scripted {
        signature: Signature,
        script: Script,
        hand: Hand,
        takes: Duration,
        seen: Mutex<Vec<Vec<f32>>>,
    }

    impl Engine for Scripted {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&self, call: &Call<'_>) -> crate::error::Result<Outputs<'_>> {
            self.hand.advance(self.takes);
            let numbers = numbers(&call.feeds[0].value);
            self.seen.lock().expect("no test panics here").push(numbers.clone());
            let given = (self.script)(&numbers).map_err(|text| Error::new(ErrorKind::Fail, text))?;
            let mut outputs = Outputs::default();
            outputs.push(tensor(&given));
            Ok(outputs)
        }

        fn is_straight_line(&self) -> bool {
            true
        }

        fn name(&self) -> &'static str {
            "scripted"
        }
    }

    fn numbers(input: &Input) -> Vec<f32> {
        let Some(Piece::Tensor(view)) = Piece::fed(input) else {
            panic!("it is a tensor")
        };
        let bytes = Tensor::copied(view).to_bytes();
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_ne_bytes(*bytes))
            .collect()
    }

    fn tensor(numbers: &[f32]) -> Value {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let shape = smallvec![i64::try_from(numbers.len()).unwrap_or(0)];
        Value::Tensor(Tensor::of_bytes(Dtype::Float32, shape, bytes.into()))
    }

    fn trial(script: Script, takes: Duration, example: Option<&[f32]>) -> (Trial, Vec<Vec<f32>>) {
        let argument = |name: &str| {
            let shape = Some(vec![Dim::Unknown]);
            let dtype = Dtype::Float32;
            Argument::new(name.into(), ValueType::Tensor { dtype, shape }).expect("there is no NUL in it")
        };
        let signature = Signature {
            inputs: vec![argument("x")],
            required: 1,
            outputs: vec![argument("y")],
        };
        let layout = BatchAxes::of(&signature, &[]).expect("there are rows");
        let (clock, hand) = Clock::held();
        let engine = Scripted {
            signature,
            script,
            hand,
            takes,
            seen: Mutex::default(),
        };
        let feeds = example.map(|numbers| vec![fed(0, tensor(numbers))]);
        let demand = Demand {
            example: feeds.as_deref(),
            ..Demand::default()
        };
        let trial = run(&engine, &layout, &demand, &clock);
        (trial, engine.seen.into_inner().expect("no test panics here"))
    }

    const QUICK: Duration = Duration::from_millis(1);

    fn changed() -> Trial {
        Trial::Changed("output `y` of a row changed in a trial run when the other rows did".into())
    }

    #[test]
    fn rows_that_leave_each_other_alone_pass() {
        let (trial, seen) = trial(|x| Ok(x.iter().map(|x| x * 2.0).collect()), QUICK, None);
        assert_eq!(trial, Trial::Unchanged);
        let sizes: Vec<usize> = seen.iter().map(Vec::len).collect();
        assert_eq!(sizes, [ROWS, ROWS, ROWS, ROWS, OWN + 1, ROWS, ROWS]);
        assert!(
            seen[..5]
                .iter()
                .all(|batch| batch[OWN].to_bits() == seen[0][OWN].to_bits())
        );
        assert!(
            seen[5][0].to_bits() == seen[0][OWN].to_bits() && seen[6][ROWS - 1].to_bits() == seen[0][OWN].to_bits()
        );
        assert!(seen[1][0].abs() > 10.0);
        assert!(seen[2][0].is_nan());
    }

    #[test]
    fn rows_that_depend_on_their_place_are_noticed() {
        let (trial, _) = trial(
            |x| {
                Ok(x.iter()
                    .enumerate()
                    .map(|(place, y)| if place == 3 { y * 2.0 } else { *y })
                    .collect())
            },
            QUICK,
            None,
        );
        let how = "output `y` of a row changed in a trial run when the row had another place";
        assert_eq!(trial, Trial::Changed(how.into()));
    }

    #[test]
    fn rows_that_depend_on_how_many_there_are_are_noticed() {
        let (trial, _) = trial(
            |x| Ok(x.iter().map(|y| if x.len() == ROWS { *y } else { y * 2.0 }).collect()),
            QUICK,
            None,
        );
        let how = "output `y` of a row changed in a trial run with fewer other rows";
        assert_eq!(trial, Trial::Changed(how.into()));
    }

    #[test]
    fn every_kind_of_influence_is_noticed() {
        let scripts: [Script; 4] = [
            |x| Ok(x.iter().map(|y| y + x[0]).collect()),
            |x| Ok(x.iter().map(|y| y + x[x.len() - 1]).collect()),
            // Seen only where numbers are large: a whole batch is scaled by its largest.
            |x| {
                Ok(x.iter()
                    .map(|y| if x.iter().any(|x| x.abs() > 2.0) { y / 2.0 } else { *y })
                    .collect())
            },
            // Seen only where numbers are none.
            |x| {
                Ok(x.iter()
                    .map(|y| if x.iter().any(|x| x.is_nan()) { 0.0 } else { *y })
                    .collect())
            },
        ];
        for script in scripts {
            assert_eq!(trial(script, QUICK, None).0, changed());
        }
    }

    #[test]
    fn time_is_up_after_100_ms_or_two_runs() {
        let double: Script = |x| Ok(x.to_vec());
        for (milliseconds, runs) in [(1, 7), (25, 4), (40, 2), (30_000, 2)] {
            let (trial, seen) = trial(double, Duration::from_millis(milliseconds), None);
            assert_eq!((trial, seen.len()), (Trial::Unchanged, runs), "{milliseconds} ms a run");
        }
    }

    #[test]
    fn an_example_is_used_and_one_that_is_refused_says_why() {
        let strict: Script = |x| if x[OWN] > 5.0 { Ok(x.to_vec()) } else { Err("too small") };
        assert_eq!(trial(strict, QUICK, Some(&[7.0])).0, Trial::Unchanged);
        assert_eq!(
            trial(strict, QUICK, Some(&[1.0])).0,
            Trial::Impossible("too small".into())
        );
        assert_eq!(trial(strict, QUICK, None).0, Trial::Impossible("too small".into()));
        let empty = Trial::Impossible("the example has no rows".into());
        assert_eq!(trial(strict, QUICK, Some(&[])).0, empty);
    }

    #[test]
    fn a_model_that_takes_no_other_rows_is_not_vouched_for() {
        let stubborn: Script = |x| {
            if x.iter().all(|y| y.to_bits() == x[0].to_bits()) {
                Ok(x.to_vec())
            } else {
                Err("no")
            }
        };
        let (trial, _) = trial(stubborn, QUICK, Some(&[1.0]));
        assert_eq!(
            trial,
            Trial::Impossible("there are no other rows that it accepts".into())
        );
    }

    #[test]
    fn a_row_that_multiplies_is_refused() {
        let (trial, _) = trial(|x| Ok([x, x].concat()), QUICK, None);
        assert_eq!(
            trial,
            Trial::Impossible("output `y` has shape [8] for 4 rows on axis 0".into())
        );
    }

    #[test]
    fn halves_are_what_the_numbers_are() {
        for (number, wanted) in [
            (1.0_f32, 0x3C00),
            (-2.0, 0xC000),
            (0.0, 0),
            (1e6, 0x7BFF),
            (0.333, 0x3553),
            (1e-9, 0),
        ] {
            assert_eq!(half(number.to_bits()), wanted, "{number}");
        }
        assert_eq!(half(f32::NAN.to_bits()) & 0x7E00, 0x7E00);
    }

    #[test]
    fn integers_are_replaced_by_others_of_the_row() {
        let row = Value::Tensor(Tensor::of_bytes(
            Dtype::Int16,
            smallvec![1, 3],
            [1, 0, 2, 1, 3, 0].into(),
        ));
        let given = |change| bits(&replaced(&row, change)).1;
        assert_eq!(given(Change::Scaled), [3, 0, 2, 1, 1, 0]);
        assert_eq!(given(Change::NotANumber), [1, 0, 1, 0, 1, 0]);
        assert_eq!(given(Change::Other), [2, 1, 2, 1, 2, 1]);
    }
}
