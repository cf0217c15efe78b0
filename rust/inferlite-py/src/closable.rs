#![expect(unsafe_code, reason = "what the interpreter's lock keeps to one thread at a time")]
//! What a model has open: calls use it, and `close` takes it away from those that come later.

use std::cell::UnsafeCell;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;

use crate::boundary;
use crate::session::Opened;

/// Holds an [`Opened`] for its owner, a Python object.
///
/// A reference to a Python object is counted under the interpreter's lock, which costs a tenth of an atomic count: one
/// that changed for every call took 4 % of a call that the cache answers.
pub(crate) struct Closable(UnsafeCell<Option<Py<Handle>>>);

/// One reference to what is open, in whatever thread.
#[pyclass(module = "inferlite._core", frozen)]
pub(crate) struct Handle(Option<Arc<Opened>>);

impl Handle {
    #[inline]
    pub(crate) fn opened(&self) -> &Arc<Opened> {
        self.0.as_ref().expect("only dropping it takes it away")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        boundary::free(self.0.take());
    }
}

// SAFETY: the cell is only looked into by `take`, `get` and `with`, inside a critical section of the owner: under the
// interpreter's lock, or under the owner's own where there is no such lock. None of them runs any Python in there, which
// could give the lock to another thread.
unsafe impl Sync for Closable {}

impl Closable {
    pub(crate) fn new(py: Python<'_>, opened: Opened) -> PyResult<Self> {
        Ok(Self(UnsafeCell::new(Some(Py::new(
            py,
            Handle(Some(Arc::new(opened))),
        )?))))
    }

    /// Looks at what is open, without a reference of one's own: `look` runs no Python, and waits for no call.
    ///
    /// Where there is no lock of the interpreter's, those who look at one model take turns.
    #[inline]
    pub(crate) fn with<T, R>(&self, owner: &Bound<'_, T>, look: impl FnOnce(&Opened) -> R) -> Option<R> {
        with_critical_section(owner.as_any(), || {
            // SAFETY: nobody changes the cell meanwhile: see above.
            let handle = unsafe { &*self.0.get() };
            handle.as_ref().map(|handle| look(handle.get().opened()))
        })
    }

    /// What is open, for as long as the caller holds it.
    #[inline]
    pub(crate) fn get<'py, T>(&self, owner: &Bound<'py, T>) -> Option<Bound<'py, Handle>> {
        with_critical_section(owner.as_any(), || {
            // SAFETY: nobody changes the cell meanwhile: see above.
            let handle = unsafe { &*self.0.get() };
            handle.as_ref().map(|handle| handle.bind(owner.py()).clone())
        })
    }

    /// Takes away what is open, which lives on while calls under way use it.
    pub(crate) fn take<T>(&self, owner: &Bound<'_, T>) -> Option<Arc<Opened>> {
        let handle = with_critical_section(owner.as_any(), || {
            // SAFETY: nobody looks into the cell meanwhile: see above.
            unsafe { &mut *self.0.get() }.take()
        });
        handle.map(|handle| handle.get().opened().clone())
    }
}
