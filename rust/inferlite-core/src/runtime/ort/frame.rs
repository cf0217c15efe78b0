#![expect(unsafe_code, reason = "memory that the runtime reads")]
//! Places for small inputs and outputs, kept between runs.
//!
//! Making a value over the caller's memory, and releasing it, costs the runtime more than copying a few hundred bytes:
//! a frame keeps, for every input, a value over memory of its own, and copies into it. The copy also settles who may
//! write to the input while it runs. Where equal input shapes mean equal output shapes, a frame keeps places for small
//! outputs, too: of the size that a run has shown, never of the size that a model declares. A frame serves one run at a
//! time; a pool without locks lends them out.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use ort_sys::OrtValue;

use super::library::Runtime;
use super::value::{ValueHandle, borrow_tensor};
use crate::error::Result;
use crate::runtime::Outputs;
use crate::tensor::{Owner, TensorView};

/// Inputs up to this many bytes are copied.
///
/// Measured: at 16 KiB a copy that misses the first cache level costs what making and releasing a value does.
pub(super) const COPIED_BYTES: usize = 16 * 1024;
const POOL: usize = 4;

/// Memory as aligned as the runtime's own.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A value over memory of its own.
#[derive(Debug)]
pub(super) struct Slot {
    /// Describes `lines`, and lives no longer.
    value: ValueHandle,
    view: TensorView,
    _lines: Vec<Line>,
}

impl Slot {
    /// Memory for a tensor of this type and shape; holds no numbers yet.
    pub(super) fn for_view(runtime: &'static Runtime, view: &TensorView) -> Result<Self> {
        // A vector, not a box: moving a box would end what pointers into it may do.
        let mut lines = vec![Line([0; 64]); view.byte_len().div_ceil(64).max(1)];
        let data = lines.as_mut_ptr().cast::<u8>().cast_const();
        // SAFETY: the lines have room for the bytes, stay where they are, and go after the value.
        let view = unsafe { TensorView::new(view.dtype(), view.shape().into(), data, view.byte_len()) };
        Ok(Self {
            value: borrow_tensor(runtime, &view)?,
            view,
            _lines: lines,
        })
    }

    /// The value, which stays the slot's.
    #[inline]
    pub(super) fn value(&self) -> *mut OrtValue {
        self.value.as_ptr()
    }

    /// What is in the memory.
    #[inline]
    pub(super) fn view(&self) -> &TensorView {
        &self.view
    }

    #[inline]
    fn fits(&self, view: &TensorView) -> bool {
        self.view.dtype() == view.dtype() && self.view.shape() == view.shape()
    }

    #[inline]
    fn fill(&mut self, from: &TensorView) {
        let to = self.view.data().cast_mut();
        // SAFETY: both hold as many bytes (equal type and shape); the slot's are its own, and no run reads them now.
        unsafe { std::ptr::copy_nonoverlapping(from.data(), to, from.byte_len()) };
    }
}

/// One place for every input of a model, and for every small output.
#[derive(Debug)]
pub(super) struct Frame {
    inputs: Vec<Option<Slot>>,
    /// Outputs as the last run with these inputs' shapes gave them.
    outputs: Vec<Option<Slot>>,
    /// Whether every input since the last reset went into its place, unchanged in type and shape.
    is_steady: bool,
    home: NonNull<Pool>,
}

// SAFETY: whoever has the frame has it alone, and the pool outlives the frames that it lends (`Outputs`).
unsafe impl Send for Frame {}

impl Frame {
    fn new(inputs: usize, outputs: usize, home: &Pool) -> Self {
        let places = |count| (0..count).map(|_| None).collect();
        Self {
            inputs: places(inputs),
            outputs: places(outputs),
            is_steady: false,
            home: home.into(),
        }
    }

    /// Begins a call.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.is_steady = true;
    }

    /// Notes that an input of this call lies elsewhere.
    #[inline]
    pub(super) fn bypass(&mut self) {
        self.is_steady = false;
    }

    /// Copies an input into its place; the value is valid until the frame's next use.
    #[inline]
    pub(super) fn place(
        &mut self,
        runtime: &'static Runtime,
        index: usize,
        view: &TensorView,
    ) -> Result<*const OrtValue> {
        let place = &mut self.inputs[index];
        let slot = match place {
            Some(slot) if slot.fits(view) => slot,
            _ => {
                self.outputs.fill_with(|| None);
                self.is_steady = false;
                place.insert(Slot::for_view(runtime, view)?)
            }
        };
        slot.fill(view);
        Ok(slot.value.as_ptr())
    }

    /// Whether earlier runs with the same shapes have shown how large each of these outputs is, and that it is small.
    #[inline]
    pub(super) fn expects(&self, outputs: &[usize]) -> bool {
        self.is_steady && outputs.iter().all(|&index| self.outputs[index].is_some())
    }

    /// The place for an output; null unless the frame expects it.
    #[inline]
    pub(super) fn output(&self, index: usize) -> *mut OrtValue {
        self.outputs[index].as_ref().map_or(std::ptr::null_mut(), Slot::value)
    }

    /// What the last run wrote into the place of an output, which the frame expects.
    #[inline]
    pub(super) fn written(&self, index: usize) -> &TensorView {
        let slot = self.outputs[index].as_ref();
        &slot.expect("the outputs of this run were all expected").view
    }

    /// Makes places for the outputs of the next run with the same shapes, if they are all small tensors.
    #[cold]
    pub(super) fn expect_outputs(&mut self, runtime: &'static Runtime, indices: &[usize], outputs: &Outputs<'_>) {
        // Shapes that change with every run are not worth places that the next run throws away.
        if !self.is_steady {
            return;
        }
        for (&index, view) in std::iter::zip(indices, outputs.tensors()) {
            if let Some(view) = view.filter(|view| view.byte_len() <= COPIED_BYTES) {
                // A place that cannot be made is one that is not used.
                self.outputs[index] = Slot::for_view(runtime, view).ok();
            }
        }
    }

    /// Forgets the places of the outputs.
    #[cold]
    pub(super) fn forget_outputs(&mut self) {
        self.outputs.fill_with(|| None);
    }

    /// Whether a tensor lies in the memory of this frame.
    #[inline]
    pub(super) fn holds(&self, view: &TensorView) -> bool {
        self.inputs.iter().flatten().any(|slot| slot.view.overlaps(view))
    }

    /// Something that gives the frame back to its pool when it is dropped; the pool must outlive it.
    #[inline]
    pub(super) fn into_owner(self: Box<Self>) -> Owner {
        unsafe fn give_back(frame: *mut c_void) {
            // SAFETY: `into_owner` made the pointer from a box, and an owner releases once.
            let frame = unsafe { Box::from_raw(frame.cast::<Frame>()) };
            // SAFETY: the pool outlives its leases (the engine is borrowed for as long).
            let home = unsafe { frame.home.as_ref() };
            home.give(frame);
        }
        // SAFETY: `give_back` undoes `into_raw`; a pool takes frames from any thread.
        unsafe { Owner::new(Box::into_raw(self).cast(), give_back) }
    }
}

/// Frames that no run uses now.
#[derive(Debug, Default)]
pub(super) struct Pool {
    frames: [AtomicPtr<Frame>; POOL],
}

impl Pool {
    /// A frame, kept from an earlier run or new.
    #[inline]
    #[expect(
        clippy::unnecessary_box_returns,
        reason = "the pool stores boxes, and a frame must not be made anew per run"
    )]
    pub(super) fn take(&self, inputs: usize, outputs: usize) -> Box<Frame> {
        for place in &self.frames {
            if let Some(frame) = NonNull::new(place.swap(std::ptr::null_mut(), Ordering::Acquire)) {
                // SAFETY: `give` made it from a box, and the swap let nobody else have it.
                return unsafe { Box::from_raw(frame.as_ptr()) };
            }
        }
        Box::new(Frame::new(inputs, outputs, self))
    }

    /// Keeps a frame for later runs, or drops it where enough are kept.
    #[inline]
    pub(super) fn give(&self, frame: Box<Frame>) {
        let mut frame = Box::into_raw(frame);
        for place in &self.frames {
            frame = place.swap(frame, Ordering::AcqRel);
            if frame.is_null() {
                return;
            }
        }
        // SAFETY: made from a box, here or by an earlier `give`, and the swap let nobody else have it.
        drop(unsafe { Box::from_raw(frame) });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for place in &self.frames {
            if let Some(frame) = NonNull::new(place.swap(std::ptr::null_mut(), Ordering::Acquire)) {
                // SAFETY: as in `take`.
                drop(unsafe { Box::from_raw(frame.as_ptr()) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;
    use smallvec::smallvec;

    #[test]
    fn a_frame_comes_back_to_whoever_asks_next() {
        let pool = Pool::default();
        let frame = pool.take(1, 1);
        let address = &raw const *frame;
        pool.give(frame);
        let again = pool.take(1, 1);
        assert_eq!(address, &raw const *again);
        assert_ne!(address, &raw const *pool.take(1, 1));
    }

    #[test]
    fn a_pool_keeps_no_more_than_it_has_room_for() {
        let pool = Pool::default();
        let frames: Vec<_> = (0..POOL + 3).map(|_| pool.take(1, 1)).collect();
        for frame in frames {
            pool.give(frame);
        }
        assert!(pool.frames.iter().all(|place| !place.load(Ordering::Relaxed).is_null()));
    }

    #[test]
    fn threads_never_share_a_frame() {
        let pool = Pool::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut frame = pool.take(0, 0);
                        assert!(frame.inputs.is_empty(), "another thread is using this frame");
                        frame.inputs.push(None);
                        std::hint::black_box(&frame);
                        frame.inputs.clear();
                        pool.give(frame);
                    }
                });
            }
        });
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let bytes = [0_u8; 8];
        let part = |from: usize, length: usize| {
            // SAFETY: inside the array, which outlives the view.
            unsafe {
                TensorView::new(
                    Dtype::Uint8,
                    smallvec![i64::try_from(length).unwrap_or(0)],
                    &raw const bytes[from],
                    length,
                )
            }
        };
        assert!(!part(0, 4).overlaps(&part(4, 4)));
        assert!(part(0, 5).overlaps(&part(4, 4)));
        assert!(!part(2, 0).overlaps(&part(2, 0)));
    }
}
