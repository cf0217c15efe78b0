#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! A call whose arrays are named once and read again by every run.

use std::ffi::c_char;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ort_sys::OrtValue;

use super::api::{Handle, call};
use super::engine::{OrtEngine, refuses_places};
use super::frame::{COPIED_BYTES, Slot};
use super::library::release_value;
use super::value::{ValueHandle, borrow_tensor, from_runtime};
use crate::error::Result;
use crate::pace::Workload;
use crate::runtime::Outputs;
use crate::tensor::{TensorView, Value};

/// An output that a binding asks for.
#[derive(Debug)]
pub struct Fetch {
    /// Its index in [`crate::runtime::Signature::outputs`].
    pub index: usize,
    /// The memory that every run overwrites; without it, every run makes new memory.
    pub into: Option<TensorView>,
}

/// Inputs, and perhaps outputs, that stay where they are from run to run.
#[derive(Debug)]
pub struct Binding {
    engine: Arc<OrtEngine>,
    names: Vec<*const c_char>,
    views: Vec<TensorView>,
    workload: Option<Workload>,
    inputs: Vec<*const OrtValue>,
    output_names: Vec<*const c_char>,
    /// The values over the caller's memory, null where a run makes them.
    given: Vec<*mut OrtValue>,
    places: Vec<*mut OrtValue>,
    /// Whether no output is asked for twice, which would have one place only.
    is_distinct: bool,
    /// Places for the outputs that were not given any, once a run has shown how large they are; empty before.
    expected: Vec<Option<Slot>>,
    _values: Vec<ValueHandle>,
}

// SAFETY: the pointers are to the engine's names and to values that the binding owns; a run takes `&mut self`.
unsafe impl Send for Binding {}
// SAFETY: nothing can be done through `&self`.
unsafe impl Sync for Binding {}

impl Binding {
    /// Binds inputs, by their index in the signature, and outputs.
    ///
    /// # Safety
    /// The memory of every view must stay valid for as long as the binding lives, and that of the outputs writable.
    pub unsafe fn new(engine: Arc<OrtEngine>, feeds: Vec<(usize, TensorView)>, fetches: &[Fetch]) -> Result<Self> {
        use crate::runtime::Engine;
        let runtime = engine.runtime();
        let signature = engine.signature();
        let names = feeds
            .iter()
            .map(|(index, _)| signature.inputs[*index].c_name.as_ptr())
            .collect();
        let output_names = fetches
            .iter()
            .map(|fetch| signature.outputs[fetch.index].c_name.as_ptr())
            .collect();
        let mut values = Vec::new();
        let mut inputs = Vec::new();
        for (_, view) in &feeds {
            values.push(borrow_tensor(runtime, view)?);
            inputs.push(values[values.len() - 1].as_ptr().cast_const());
        }
        let mut given = Vec::new();
        for fetch in fetches {
            given.push(match &fetch.into {
                None => std::ptr::null_mut(),
                Some(view) => {
                    values.push(borrow_tensor(runtime, view)?);
                    values[values.len() - 1].as_ptr()
                }
            });
        }
        let workload = Workload::of(feeds.iter().map(|(index, view)| Some((*index, view.shape()))));
        let views = feeds.into_iter().map(|(_, view)| view).collect();
        let places = vec![std::ptr::null_mut(); given.len()];
        Ok(Self {
            engine,
            names,
            views,
            workload,
            inputs,
            output_names,
            given,
            places,
            is_distinct: (1..fetches.len()).all(|i| fetches[..i].iter().all(|other| other.index != fetches[i].index)),
            expected: Vec::new(),
            _values: values,
        })
    }

    /// The shapes of all inputs.
    #[must_use]
    pub fn workload(&self) -> Option<Workload> {
        self.workload
    }

    /// Runs once, where every output was given memory.
    #[inline]
    pub fn overwrite(&mut self) -> Result<()> {
        // The runtime replaces null places only, and there is none.
        self.engine
            .run_into(&self.names, &self.inputs, &self.output_names, None, &mut self.given)
    }

    /// Runs once; gives the outputs that were not given memory, in order.
    #[inline]
    pub fn run(&mut self) -> Result<Outputs<'_>> {
        if self.expected.is_empty() {
            return self.run_anew();
        }
        for (place, (given, slot)) in std::iter::zip(&mut self.places, std::iter::zip(&self.given, &self.expected)) {
            *place = slot.as_ref().map_or(*given, Slot::value);
        }
        let run = self
            .engine
            .run_into(&self.names, &self.inputs, &self.output_names, None, &mut self.places);
        self.places.fill(std::ptr::null_mut());
        match run {
            Err(error) if refuses_places(&error) => {
                self.engine.stop_reusing_outputs();
                self.expected.clear();
                return self.make();
            }
            run => run?,
        }
        let mut outputs = Outputs::default();
        for slot in self.expected.iter().flatten() {
            // SAFETY: the outputs borrow the binding mutably, so that no run writes to the place while they live.
            outputs.lend(unsafe { slot.view().duplicate() });
        }
        Ok(outputs)
    }

    fn run_anew(&mut self) -> Result<Outputs<'_>> {
        let outputs = self.make()?;
        if self.engine.reuses_outputs() && self.is_distinct {
            self.expect_outputs(&outputs);
        }
        Ok(outputs)
    }

    /// Runs once, and lets the runtime make what was not given memory.
    fn make(&mut self) -> Result<Outputs<'static>> {
        self.places.copy_from_slice(&self.given);
        let run = self
            .engine
            .run_into(&self.names, &self.inputs, &self.output_names, None, &mut self.places);
        let outputs = run.and_then(|()| self.take_made());
        self.release_made();
        outputs
    }

    /// The values that a run has made.
    fn take_made(&mut self) -> Result<Outputs<'static>> {
        let runtime = self.engine.runtime();
        let mut outputs = Outputs::default();
        for (place, given) in std::iter::zip(&mut self.places, &self.given) {
            if !given.is_null() {
                continue;
            }
            let value = match NonNull::new(std::mem::replace(place, std::ptr::null_mut())) {
                None => Value::Absent,
                Some(value) => {
                    let value = Handle::from_raw(runtime.api.ReleaseValue, value);
                    let is_borrowed = |view: &TensorView| self.views.iter().any(|input| input.overlaps(view));
                    from_runtime(runtime, value, is_borrowed)?
                }
            };
            outputs.push(value);
        }
        Ok(outputs)
    }

    /// Makes places for the outputs of the next run, if they are all small tensors.
    fn expect_outputs(&mut self, outputs: &Outputs<'_>) {
        let runtime = self.engine.runtime();
        let mut tensors = outputs.tensors();
        let places = self.given.iter().map(|given| {
            if !given.is_null() {
                return Some(None);
            }
            let view = tensors.next()?.filter(|view| view.byte_len() <= COPIED_BYTES)?;
            Slot::for_view(runtime, view).ok().map(Some)
        });
        self.expected = places.collect::<Option<Vec<_>>>().unwrap_or_default();
    }

    /// How long so many bare runs of the runtime take with what is bound: the floor that [`Binding::run`] is held to.
    pub fn time_runtime(&mut self, iterations: usize) -> Result<Duration> {
        let session = self.engine.session()?;
        let engine = self.engine.clone();
        let _turn = engine.turn();
        let start = Instant::now();
        for _ in 0..iterations {
            self.places.copy_from_slice(&self.given);
            let run = call!(
                self.engine.runtime().api,
                "the session is alive while its engine is; the binding owns names and values; the lengths are theirs",
                Run(
                    session,
                    std::ptr::null(),
                    self.names.as_ptr(),
                    self.inputs.as_ptr(),
                    self.inputs.len(),
                    self.output_names.as_ptr(),
                    self.output_names.len(),
                    self.places.as_mut_ptr(),
                )
            );
            self.release_made();
            run?;
        }
        Ok(start.elapsed())
    }

    fn release_made(&mut self) {
        for (place, given) in std::iter::zip(&mut self.places, &self.given) {
            let value = std::mem::replace(place, std::ptr::null_mut());
            if given.is_null() && !value.is_null() {
                // SAFETY: made by a run that is over, and taken by nobody.
                unsafe { release_value(value.cast()) };
            }
        }
    }
}
