#![expect(unsafe_code, reason = "the C interface of ONNX Runtime")]
//! Runs over values that live between runs: what an `IOBinding` of onnxruntime does.

use std::ffi::{CString, c_char};
use std::ptr::NonNull;
use std::sync::Arc;

use ort_sys::OrtValue;
use smallvec::SmallVec;

use super::api::Handle;
use super::engine::OrtEngine;
use super::held::HeldValue;
use super::run_options::RunOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::pace::Workload;
use crate::runtime::Signature;
use crate::tensor::TensorView;

/// What runs of one engine over values name and feed, and where their outputs go.
#[derive(Debug, Default)]
pub struct HeldRun {
    names: SmallVec<[CString; 4]>,
    inputs: SmallVec<[Arc<HeldValue>; 4]>,
    output_names: SmallVec<[CString; 4]>,
    /// Values to be written into, or what the last run has made.
    outputs: SmallVec<[Option<Arc<HeldValue>>; 4]>,
    /// What follows from the above; `None` whenever that has changed.
    prepared: Option<Prepared>,
}

/// What the runtime is given.
#[derive(Debug)]
struct Prepared {
    workload: Option<Workload>,
    names: SmallVec<[*const c_char; 4]>,
    inputs: SmallVec<[*const OrtValue; 4]>,
    output_names: SmallVec<[*const c_char; 4]>,
    places: SmallVec<[*mut OrtValue; 4]>,
    /// Whether an output is an input of the model: a run gives that input's value, and leaves a place as it is.
    hands_through: bool,
    /// Whether every output has its place, so that later runs need nothing but the above.
    is_settled: bool,
}

// SAFETY: the pointers are to names and values that the run owns, which does not change them while it is prepared.
unsafe impl Send for Prepared {}
// SAFETY: nothing can be done through `&self`.
unsafe impl Sync for Prepared {}

impl HeldRun {
    /// A run of these values, and of outputs that are written into a value, or made where there is none.
    pub fn new(
        inputs: impl Iterator<Item = (CString, Arc<HeldValue>)>,
        outputs: impl Iterator<Item = (CString, Option<Arc<HeldValue>>)>,
    ) -> Self {
        let (names, inputs) = inputs.unzip();
        let (output_names, outputs) = outputs.unzip();
        Self {
            names,
            inputs,
            output_names,
            outputs,
            prepared: None,
        }
    }

    /// Feeds a value, instead of the one before.
    pub fn bind_input(&mut self, name: CString, value: Arc<HeldValue>) {
        self.prepared = None;
        if let Some(position) = self.names.iter().position(|other| *other == name) {
            self.inputs[position] = value;
        } else {
            self.names.push(name);
            self.inputs.push(value);
        }
    }

    /// Asks for an output, to be written into a value or made.
    pub fn bind_output(&mut self, name: CString, value: Option<Arc<HeldValue>>) {
        self.prepared = None;
        if let Some(position) = self.output_names.iter().position(|other| *other == name) {
            self.outputs[position] = value;
        } else {
            self.output_names.push(name);
            self.outputs.push(value);
        }
    }

    /// Feeds nothing any more.
    pub fn clear_inputs(&mut self) {
        self.prepared = None;
        self.names.clear();
        self.inputs.clear();
    }

    /// Asks for nothing any more.
    pub fn clear_outputs(&mut self) {
        self.prepared = None;
        self.output_names.clear();
        self.outputs.clear();
    }

    /// Names of the inputs.
    #[must_use]
    pub fn names(&self) -> &[CString] {
        &self.names
    }

    /// Names of the outputs.
    #[must_use]
    pub fn output_names(&self) -> &[CString] {
        &self.output_names
    }

    /// The values of the outputs, in the order of their names.
    #[must_use]
    pub fn outputs(&self) -> &[Option<Arc<HeldValue>>] {
        &self.outputs
    }

    /// The same, to be kept.
    pub fn into_outputs(self) -> impl Iterator<Item = Arc<HeldValue>> {
        self.outputs.into_iter().flatten()
    }

    /// Whether nothing that matters to a run has changed since it was prepared.
    #[inline]
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }

    /// The shapes of what is fed; `None` before it is prepared, and where a value is no plain tensor or has no input.
    #[inline]
    #[must_use]
    pub fn workload(&self) -> Option<Workload> {
        self.prepared.as_ref()?.workload
    }

    /// Looks at what is bound, unless that has not changed.
    #[inline]
    pub fn prepare(&mut self, signature: &Signature) -> Result<()> {
        if self.prepared.is_none() {
            self.prepared = Some(self.look(signature)?);
        }
        Ok(())
    }

    fn look(&mut self, signature: &Signature) -> Result<Prepared> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        let mut names = SmallVec::new();
        let mut inputs = SmallVec::new();
        let mut shapes: SmallVec<[_; 4]> = SmallVec::new();
        for (name, input) in std::iter::zip(&self.names, &self.inputs) {
            let declared = name.to_str().ok().and_then(|name| signature.input(name));
            shapes.push(declared.zip(input.tensor().map(TensorView::shape)));
            if input.has_value() {
                names.push(name.as_ptr());
                inputs.push(input.as_ptr().cast_const());
                continue;
            }
            // The runtime crashes on such a value; an optional input that is left out means the same.
            if declared.is_none_or(|index| !signature.inputs[index].is_optional()) {
                return invalid(format!(
                    "input `{}` is an optional that holds nothing",
                    name.to_string_lossy()
                ));
            }
        }
        let workload = Workload::of(shapes.into_iter());
        let mut hands_through = false;
        for (name, output) in std::iter::zip(&self.output_names, &mut self.outputs) {
            let is_input = name.to_str().is_ok_and(|name| signature.input(name).is_some());
            hands_through |= is_input;
            // The runtime would leave the old value in place.
            if is_input || output.as_ref().is_some_and(|output| output.tensor().is_none()) {
                *output = None;
            }
        }
        if self.outputs.iter().flatten().any(|output| output.is_read_only()) {
            return invalid("an output cannot be written into read-only memory".into());
        }
        let is_given = |output: &Option<Arc<HeldValue>>| output.as_ref().map_or(std::ptr::null_mut(), |o| o.as_ptr());
        Ok(Prepared {
            workload,
            names,
            inputs,
            output_names: self.output_names.iter().map(|name| name.as_ptr()).collect(),
            places: self.outputs.iter().map(is_given).collect(),
            hands_through,
            is_settled: self.outputs.iter().all(Option::is_some),
        })
    }
}

impl OrtEngine {
    /// Runs values as they are: nothing is copied, and an output may share its memory with an input.
    ///
    /// Outputs that have a tensor of numbers are written into it, also while others look at it. Everything else is made
    /// anew: whoever reads strings while they are written reads memory that is gone. An output that is an input of the
    /// model is that input.
    pub fn run_held(&self, run: &mut HeldRun, options: Option<&RunOptions>) -> Result<()> {
        if let Some(whole) = self.whole()? {
            return whole.run_held(run, options);
        }
        let mut call = match run.prepared.take() {
            Some(call) => call,
            None => run.look(&self.signature)?,
        };
        let ended = self.run_into(&call.names, &call.inputs, &call.output_names, options, &mut call.places);
        if call.is_settled {
            run.prepared = Some(call);
            return ended;
        }
        let runtime = self.runtime();
        for (&place, output) in std::iter::zip(&call.places, &mut run.outputs) {
            if output.is_none()
                && let Some(value) = NonNull::new(place)
            {
                let handle = Handle::from_raw(runtime.api.ReleaseValue, value);
                *output = Some(Arc::new(HeldValue::new(runtime, handle)));
            }
        }
        ended?;
        if run.outputs.iter().any(Option::is_none) {
            return Err(Error::new(
                ErrorKind::Fail,
                "the runtime has made no value for an output",
            ));
        }
        call.is_settled = !call.hands_through && run.outputs.iter().flatten().all(|output| output.tensor().is_some());
        run.prepared = call.is_settled.then_some(call);
        Ok(())
    }
}
