//! Trial runs: the rows around one that is watched are replaced, and its own answer must not change.

use std::ops::Range;
use std::time::Duration;

use super::Demand;
use super::axes::BatchAxes;
use super::batch::{extent, row};
use super::company::{Change, Company, OTHER_OWN, OWN, ROWS, Surroundings};
use super::nearness::{bits, is_near};
use super::pace::Pace;
use super::watch::{self, Failure, Terminate};
use crate::clock::Clock;
use crate::error;
use crate::runtime::{Call, Engine, Feed};
use crate::tensor::Value;

/// Extents that are tried for axes of which nothing is known; first one that fits nothing by chance.
pub(super) const EXTENTS: [i64; 6] = [7, 16, 1, 3, 128, 512];

/// The trials. The most telling ones come first, since time may not be enough for all: rows that others influence, or
/// their place does, nearly always show in the first.
const TRIALS: [Surroundings; 5] = [
    Surroundings {
        change: Change::Scaled,
        own: OWN,
        place: ROWS - 1,
        count: ROWS,
    },
    Surroundings {
        change: Change::NotANumber,
        own: OWN,
        place: OWN,
        count: ROWS,
    },
    FEWER,
    Surroundings {
        change: Change::Other,
        own: OTHER_OWN,
        place: 0,
        count: ROWS,
    },
    Surroundings {
        change: Change::Scaled,
        own: OWN,
        place: OWN,
        count: ROWS,
    },
];
const FEWER: Surroundings = Surroundings {
    change: Change::Kept,
    own: OWN,
    place: OWN,
    count: OWN + 1,
};

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

/// Runs a model on batches in which a row stays the same; `check` says whether anybody still waits for that.
pub(super) fn run(
    engine: &dyn Engine,
    layout: &BatchAxes,
    demand: &Demand<'_>,
    clock: &Clock,
    check: &dyn Fn() -> error::Result<()>,
) -> Trial {
    let bench = Bench {
        engine,
        layout,
        demand,
        ends: demand.options.map(|options| options as &dyn Terminate),
        clock,
        check,
    };
    bench.trial()
}

struct Bench<'a> {
    engine: &'a dyn Engine,
    layout: &'a BatchAxes,
    demand: &'a Demand<'a>,
    /// Ends a run; without it, runs take as long as they take.
    ends: Option<&'a dyn Terminate>,
    clock: &'a Clock,
    check: &'a dyn Fn() -> error::Result<()>,
}

/// What the model gave for each row first.
struct Seen {
    company: Company,
    rows: Vec<Vec<Value>>,
    took: Duration,
}

impl Bench<'_> {
    fn trial(&self) -> Trial {
        self.trials().unwrap_or_else(|failure| match failure {
            Failure::Refused(problem) | Failure::Interrupted(problem) => Trial::Impossible(problem),
        })
    }

    fn trials(&self) -> Result<Trial, Failure> {
        let mut effort = Pace::new(self.clock);
        let seen = self.first()?;
        effort.count();
        let limit = watch::later_limit(seen.took);
        let mut has_others = false;
        for around in TRIALS {
            if has_others && effort.is_over(TRIALS.len() + 1) {
                break;
            }
            let feeds = seen.company.batch(around);
            if seen.company.is_first(&feeds) {
                continue;
            }
            let place = around.place..around.place + 1;
            let rows = match self.rows_of(&feeds, place, around.count, Some(limit)) {
                Ok(rows) => rows,
                // Other rows that a model refuses tell nothing, but it has to accept fewer of the same.
                Err(Failure::Refused(_)) if around != FEWER => continue,
                Err(failure) => return Err(failure),
            };
            effort.count();
            has_others |= around != FEWER;
            if let Some(changed) = self.changed(&seen.rows[around.own], &rows[0], around) {
                return Ok(changed);
            }
        }
        Ok(if has_others {
            Trial::Unchanged
        } else {
            Trial::Impossible("there are no other rows that it accepts".to_owned())
        })
    }

    /// The first run that the model accepts.
    fn first(&self) -> Result<Seen, Failure> {
        let signature = self.engine.signature();
        let seen = |company: Result<Company, String>, limit| {
            let company = company.map_err(Failure::Refused)?;
            let start = self.clock.now();
            let rows = self.rows_of(&company.batch(Surroundings::FIRST), 0..ROWS, ROWS, limit)?;
            let took = self.clock.now().saturating_sub(start);
            Ok(Seen { company, rows, took })
        };
        if let Some(feeds) = self.demand.example {
            // A model may take its time for what it is known to accept.
            return seen(Company::of_example(feeds, signature, self.layout), None);
        }
        let mut effort = Pace::new(self.clock);
        let mut found = Err(Failure::Refused("there is no input".to_owned()));
        for unknown in EXTENTS {
            let company = Company::invented(signature, self.layout, unknown);
            found = seen(company, Some(watch::FIRST_LIMIT));
            effort.count();
            if effort.is_over(EXTENTS.len()) || !matches!(found, Err(Failure::Refused(_))) {
                break;
            }
        }
        found
    }

    fn changed(&self, before: &[Value], after: &[Value], around: Surroundings) -> Option<Trial> {
        let is_same = |before: &Value, after: &Value| {
            if around.is_exact() {
                bits(before) == bits(after)
            } else {
                is_near(before, after)
            }
        };
        let position = std::iter::zip(before, after).position(|(before, after)| !is_same(before, after))?;
        let how = match around {
            FEWER => "with fewer other rows",
            _ if around.is_exact() => "when the other rows did",
            _ => "when the other rows and its place did",
        };
        let name = &self.engine.signature().outputs[position].name;
        Some(Trial::Changed(format!(
            "output `{name}` of a row changed in a trial run {how}"
        )))
    }

    /// Every output of the rows at these places in a batch of `count`.
    fn rows_of(
        &self,
        feeds: &[Feed],
        places: Range<usize>,
        count: usize,
        limit: Option<Duration>,
    ) -> Result<Vec<Vec<Value>>, Failure> {
        let (engine, layout, options) = (self.engine, self.layout, self.demand.options);
        let work = move || {
            let signature = engine.signature();
            let fetches: Vec<usize> = (0..signature.outputs.len()).collect();
            let call = Call {
                feeds,
                fetches: &fetches,
                options,
            };
            let outputs = engine.run(&call).map_err(|error| error.message().to_owned())?;
            let mut rows: Vec<Vec<Value>> = places.clone().map(|_| Vec::new()).collect();
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
                for (place, values) in std::iter::zip(places.clone(), &mut rows) {
                    values.push(row(piece, axis, place));
                }
            }
            Ok(rows)
        };
        match self.ends {
            Some(ends) => watch::run(ends, limit, self.clock, self.check, work),
            None => work().map_err(Failure::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Hand;
    use crate::error::{Error, ErrorKind};
    use crate::rows::batch::Piece;
    use crate::runtime::{Argument, Dim, Input, Outputs, Signature, ValueType};
    use crate::tensor::{Dtype, Tensor};
    use smallvec::smallvec;
    use std::sync::{Arc, Condvar, Mutex};

    type Script = fn(&[f32]) -> Result<Vec<f32>, &'static str>;

    /// A model of one number a row, that takes some time.
    #[derive(Debug)]
    struct Scripted {
        signature: Signature,
        script: Script,
        hand: Hand,
        takes: Duration,
        /// How long the second run waits for a processor.
        waits: Duration,
        seen: Mutex<Vec<Vec<f32>>>,
    }

    impl Engine for Scripted {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&self, call: &Call<'_>) -> crate::error::Result<Outputs<'_>> {
            self.hand.advance(self.takes);
            let numbers = numbers(&call.feeds[0].value);
            let mut seen = self.seen.lock().expect("no test panics here");
            seen.push(numbers.clone());
            if seen.len() == 2 {
                self.hand.advance(self.waits);
            }
            drop(seen);
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

    fn scripted(script: Script, takes: Duration) -> (Scripted, BatchAxes, Clock) {
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
            waits: Duration::ZERO,
            seen: Mutex::default(),
        };
        (engine, layout, clock)
    }

    fn fed(example: Option<&[f32]>) -> Option<Vec<Feed>> {
        example.map(|numbers| {
            let value = Input::Value(Arc::new(tensor(numbers)));
            vec![Feed { index: 0, value }]
        })
    }

    fn trial(script: Script, takes: Duration, example: Option<&[f32]>) -> (Trial, Vec<Vec<f32>>) {
        let (engine, layout, clock) = scripted(script, takes);
        let feeds = fed(example);
        let demand = Demand {
            example: feeds.as_deref(),
            ..Demand::default()
        };
        let trial = run(&engine, &layout, &demand, &clock, &|| Ok(()));
        (trial, engine.seen.into_inner().expect("no test panics here"))
    }

    /// What a run is told, and how often its watcher has asked whether anybody still waits.
    #[derive(Debug, Default)]
    struct Watched {
        state: Mutex<(Vec<bool>, u32)>,
        has_changed: Condvar,
    }

    impl Watched {
        fn change(&self, change: impl FnOnce(&mut (Vec<bool>, u32))) {
            change(&mut self.state.lock().expect("no test panics here"));
            self.has_changed.notify_all();
        }

        /// Waits until the run is told to end, or until its watcher has looked at it three times; whether it was told.
        fn wait(&self) -> bool {
            let state = self.state.lock().expect("no test panics here");
            let enough = state.1 + 3;
            let goes_on = |(told, looks): &mut (Vec<bool>, u32)| told.last() != Some(&true) && *looks < enough;
            let state = self.has_changed.wait_while(state, goes_on);
            state.expect("no test panics here").0.last() == Some(&true)
        }
    }

    impl Terminate for Watched {
        fn set_terminate(&self, terminate: bool) -> crate::error::Result<()> {
            self.change(|(told, _)| told.push(terminate));
            Ok(())
        }
    }

    /// A model that gives its answer once it was looked at long enough, or is told to give none.
    #[derive(Debug)]
    struct Slow {
        scripted: Scripted,
        watched: Watched,
    }

    impl Engine for Slow {
        fn signature(&self) -> &Signature {
            self.scripted.signature()
        }

        fn run(&self, call: &Call<'_>) -> crate::error::Result<Outputs<'_>> {
            let outputs = self.scripted.run(call)?;
            if self.watched.wait() {
                return Err(Error::new(ErrorKind::Fail, "it was told to end"));
            }
            Ok(outputs)
        }

        fn is_straight_line(&self) -> bool {
            true
        }

        fn name(&self) -> &'static str {
            "slow"
        }
    }

    /// The trial of a model whose first run takes so long, and what its runs were told.
    fn watched(takes: Duration, example: Option<&[f32]>) -> (Trial, Vec<bool>) {
        let (scripted, layout, clock) = scripted(|x| Ok(x.to_vec()), takes);
        let watched = Watched::default();
        let engine = Slow { scripted, watched };
        let feeds = fed(example);
        let demand = Demand {
            example: feeds.as_deref(),
            ..Demand::default()
        };
        let bench = Bench {
            engine: &engine,
            layout: &layout,
            demand: &demand,
            ends: Some(&engine.watched),
            clock: &clock,
            check: &|| {
                engine.watched.change(|(_, looks)| *looks += 1);
                Ok(())
            },
        };
        let trial = bench.trial();
        let state = engine.watched.state.into_inner();
        (trial, state.expect("no test panics here").0)
    }

    const QUICK: Duration = Duration::from_millis(1);

    #[test]
    fn rows_that_leave_each_other_alone_pass() {
        let (trial, seen) = trial(|x| Ok(x.iter().map(|x| x * 2.0).collect()), QUICK, None);
        assert_eq!(trial, Trial::Unchanged);
        let sizes: Vec<usize> = seen.iter().map(Vec::len).collect();
        assert_eq!(sizes, [ROWS, ROWS, ROWS, OWN + 1, ROWS, ROWS]);
        let own = seen[0][OWN].to_bits();
        let places = [OWN, ROWS - 1, OWN, OWN, OWN];
        let others = [0, 1, 2, 3, 5].map(|at| &seen[at]);
        assert!(std::iter::zip(others, places).all(|(batch, place)| batch[place].to_bits() == own));
        assert_eq!(seen[4][0].to_bits(), seen[0][OTHER_OWN].to_bits());
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
        let how = "output `y` of a row changed in a trial run when the other rows and its place did";
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
            let Trial::Changed(how) = trial(script, QUICK, None).0 else {
                panic!("it passes")
            };
            assert!(
                how.starts_with("output `y` of a row changed in a trial run when the other rows"),
                "{how}"
            );
        }
    }

    #[test]
    fn time_is_up_after_100_ms_or_two_runs() {
        let double: Script = |x| Ok(x.to_vec());
        for (milliseconds, runs) in [(1, 6), (25, 4), (40, 2), (30_000, 2)] {
            let (trial, seen) = trial(double, Duration::from_millis(milliseconds), None);
            assert_eq!((trial, seen.len()), (Trial::Unchanged, runs), "{milliseconds} ms a run");
        }
    }

    #[test]
    fn a_run_that_waits_for_a_processor_costs_no_other_trial() {
        let (mut engine, layout, clock) = scripted(|x| Ok(x.to_vec()), Duration::from_millis(1));
        engine.waits = Duration::from_secs(3);
        let trial = run(&engine, &layout, &Demand::default(), &clock, &|| Ok(()));
        let seen = engine.seen.into_inner().expect("no test panics here");
        assert_eq!((trial, seen.len()), (Trial::Unchanged, 6));
    }

    #[test]
    fn a_first_run_of_made_up_inputs_is_ended_after_5_seconds() {
        let (trial, told) = watched(Duration::from_secs(5), None);
        assert_eq!(trial, Trial::Impossible("it took longer than 5 s".into()));
        assert_eq!(told, [true, false]);
        let (trial, told) = watched(Duration::from_millis(4_999), None);
        assert_eq!((trial, told), (Trial::Unchanged, vec![]));
    }

    #[test]
    fn a_first_run_of_an_example_takes_as_long_as_it_takes() {
        let (trial, told) = watched(Duration::from_secs(3_600), Some(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!((trial, told), (Trial::Unchanged, vec![]));
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
}
