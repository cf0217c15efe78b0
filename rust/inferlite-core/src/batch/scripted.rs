//! An engine that does as it is told, and a model that combines calls to it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use smallvec::smallvec;

use super::*;
use crate::clock::Hand;
use crate::error::Result;
use crate::rows::BatchAxes;
use crate::runtime::{Answer, Argument, Dim, Engine, Feed, Input, Output, Outputs, Signature, ValueType};
use crate::stats::CallStats;
use crate::tensor::{Dtype, Tensor, TensorView, Value};

pub(super) const POISON: f32 = -1.0;
pub(super) const EXPLOSIVE: f32 = -2.0;

/// Doubles its rows, a run at a time where the test holds the gate; fails on [`POISON`] and panics on [`EXPLOSIVE`].
#[derive(Debug, Default)]
pub(super) struct Scripted {
    signature: Option<Signature>,
    gate: Mutex<Gates>,
    has_changed: Condvar,
    sizes: Mutex<Vec<usize>>,
    /// Rows that outputs have too many.
    pub(super) excess: AtomicUsize,
    is_straight_line: bool,
}

#[derive(Debug, Default)]
struct Gates {
    is_held: bool,
    begun: usize,
    let_go: usize,
}

pub(super) fn signature() -> Signature {
    let of = |name: &str| {
        let value_type = ValueType::Tensor {
            dtype: Dtype::Float32,
            shape: Some(vec![Dim::Symbol("batch".into()), Dim::Unknown]),
        };
        Argument::new(name.into(), value_type).expect("there is no NUL in it")
    };
    Signature {
        inputs: vec![of("x")],
        required: 1,
        outputs: vec![of("y")],
    }
}

pub(super) fn numbers(view: &TensorView) -> Vec<f32> {
    let mut bytes = vec![0; view.byte_len()];
    view.copy_part(0, &mut bytes);
    let words = bytes
        .chunks_exact(4)
        .map(|word| f32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    words.collect()
}

fn tensor(shape: &[i64], numbers: &[f32]) -> Value {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    Value::Tensor(Tensor::from_bytes(Dtype::Float32, shape.into(), &bytes).expect("they are as many"))
}

impl Engine for Arc<Scripted> {
    fn signature(&self) -> &Signature {
        self.signature.as_ref().expect("it was made with one")
    }

    fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
        let Input::Tensor(view) = &call.feeds[0].value else {
            panic!("a tensor is fed")
        };
        let given = numbers(view);
        self.sizes.lock().expect("no panic").push(given.len());
        let mut gates = self.gate.lock().expect("no panic");
        gates.begun += 1;
        let turn = gates.begun;
        self.has_changed.notify_all();
        let is_shut = |gates: &mut Gates| gates.is_held && gates.let_go < turn;
        drop(self.has_changed.wait_while(gates, is_shut).expect("no panic"));
        assert!(!given.contains(&EXPLOSIVE), "as told");
        if given.contains(&POISON) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("poison among {}", given.len()),
            ));
        }
        let mut doubled: Vec<f32> = given.iter().map(|number| 2.0 * number).collect();
        doubled.resize(doubled.len() + self.excess.load(Ordering::Relaxed), 0.0);
        let rows = i64::try_from(doubled.len()).expect("they are few");
        Ok(Outputs::of_values(vec![tensor(&[rows, 1], &doubled)]))
    }

    fn is_straight_line(&self) -> bool {
        self.is_straight_line
    }

    fn name(&self) -> &'static str {
        "scripted"
    }
}

#[cfg_attr(feature = "shuttle", expect(dead_code, reason = "shuttle holds threads itself"))]
impl Scripted {
    pub(super) fn hold(&self) {
        self.gate.lock().expect("no panic").is_held = true;
    }

    pub(super) fn wait_for(&self, runs: usize) {
        let gates = self.gate.lock().expect("no panic");
        drop(
            self.has_changed
                .wait_while(gates, |gates| gates.begun < runs)
                .expect("no panic"),
        );
    }

    pub(super) fn let_go(&self, runs: usize) {
        self.gate.lock().expect("no panic").let_go = runs;
        self.has_changed.notify_all();
    }

    pub(super) fn release(&self) {
        self.let_go(usize::MAX);
    }

    pub(super) fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().expect("no panic").clone()
    }
}

pub(super) fn settings() -> BatchSettings {
    BatchSettings {
        max_rows: Some(8),
        max_delay: Duration::ZERO,
        max_queue: 100,
        instances: 1,
        target_latency: None,
    }
}

pub(super) fn batched(settings: BatchSettings) -> (Arc<Model>, Arc<Scripted>, Hand) {
    combining(settings, false)
}

/// The same for an engine whose runs take as long as their shapes say.
#[cfg_attr(feature = "shuttle", expect(dead_code, reason = "shuttle has no clock"))]
pub(super) fn predictable(settings: BatchSettings) -> (Arc<Model>, Arc<Scripted>) {
    let (model, engine, _) = combining(settings, true);
    (model, engine)
}

fn combining(settings: BatchSettings, is_straight_line: bool) -> (Arc<Model>, Arc<Scripted>, Hand) {
    let engine = Arc::new(Scripted {
        signature: Some(signature()),
        is_straight_line,
        ..Scripted::default()
    });
    let (clock, hand) = Clock::held();
    let model = Model::new(
        "scripted".into(),
        Box::new(engine.clone()),
        Some(Arc::<CallStats>::default()),
    );
    let model = Arc::new(model.with_clock(clock));
    let axes = BatchAxes::of(&signature(), &[]).expect("there are rows");
    model.batch_rows(&axes.into(), settings, &Measured::default());
    (model, engine, hand)
}

#[expect(unsafe_code, reason = "a view over numbers that outlive the call")]
pub(super) fn with_call<T>(given: &[f32], work: impl FnOnce(&Call<'_>) -> T) -> T {
    let rows = i64::try_from(given.len()).expect("they are few");
    // SAFETY: the numbers are borrowed until the work is done.
    let view = unsafe {
        TensorView::new(
            Dtype::Float32,
            smallvec![rows, 1],
            given.as_ptr().cast(),
            size_of_val(given),
        )
    };
    work(&Call {
        feeds: &[Feed {
            index: 0,
            value: Input::Tensor(view),
        }],
        fetches: &[0],
        options: None,
    })
}

pub(super) fn doubled(answer: Result<Answer<'_>>) -> Result<Vec<f32>, String> {
    let mut answer = answer.map_err(|error| error.message().to_owned())?;
    match answer.take(0) {
        Output::Owned(Value::Tensor(tensor)) => Ok(numbers(tensor.view())),
        other => Err(format!("{other:?}")),
    }
}
