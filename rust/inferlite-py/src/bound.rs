#![expect(unsafe_code, reason = "binds memory that Python keeps alive")]
//! A call whose arrays are bound once.

use std::ffi::c_int;
use std::sync::Arc;

use inferlite_core::pace::Workload;
use inferlite_core::runtime::Argument;
use inferlite_core::runtime::ort::{Binding, Fetch};
use inferlite_core::{Answer, Error, ErrorKind, Model, TensorView};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMapping};
use smallvec::SmallVec;

use crate::array::{Array, Pins};
use crate::boundary::{self, PyCoreError, type_text};
use crate::exchange;
use crate::feed;
use crate::logging;
use crate::session::Opened;
use crate::turn::{Guard, Turn};
use crate::value::{Handing, list_of, object_of};
use crate::zipped::ZipMaps;

/// A call without arguments: reads the bound inputs again, and returns the outputs as a list.
///
/// Arrays bound as outputs are overwritten and returned themselves; all others are new with every call. One thread at
/// a time may call it: bind once per thread.
///
/// Raises:
///     RuntimeError: another thread is inside this call.
///     InvalidArgument: a bound array does not have the shape that the model wants.
#[pyclass(name = "BoundCall", module = "inferlite._core", frozen, weakref)]
pub(crate) struct PyBoundCall {
    // Before the arrays: what points into them goes first.
    binding: Turn<Binding>,
    model: Arc<Model>,
    workload: Option<Workload>,
    may_hold_gil: bool,
    /// The arrays to overwrite, `None` for the outputs that are new every time.
    given: Vec<Option<Py<PyAny>>>,
    makes_everything: bool,
    maps: Arc<ZipMaps>,
    /// The outputs that a call computes.
    fetched: SmallVec<[usize; 8]>,
    overwrites_everything: bool,
    places: Vec<Place>,
    pinned: Vec<Py<PyAny>>,
}

/// A bound array, or one whose memory it looks into, and where that memory was when it was bound.
struct Place {
    array: Py<PyAny>,
    was: (usize, usize, c_int),
    is_overwritten: bool,
}

impl Place {
    fn new(array: &Bound<'_, PyAny>, is_overwritten: bool) -> Option<Self> {
        Some(Self {
            array: array.clone().unbind(),
            was: Array::new(array)?.place(),
            is_overwritten,
        })
    }

    /// The places of an array, and of the one whose memory it looks into.
    fn of(array: &Bound<'_, PyAny>, is_overwritten: bool) -> impl Iterator<Item = Self> {
        let owner = Array::new(array)
            .map(|array| array.owner())
            .filter(|owner| !owner.is(array));
        let owner = owner.and_then(|owner| Self::new(&owner, false));
        Self::new(array, is_overwritten).into_iter().chain(owner)
    }

    #[inline]
    fn with_array<T>(&self, py: Python<'_>, look: impl FnOnce(&Array<'_, '_>) -> T) -> T {
        // SAFETY: a place is made of an array.
        look(&unsafe { Array::known(self.array.bind(py)) })
    }

    /// Whether the call may still read the memory, and write to it where it has to.
    #[inline]
    fn is_usable(&self, py: Python<'_>) -> bool {
        self.with_array(py, |array| {
            array.place() == self.was && (!self.is_overwritten || array.is_writable())
        })
    }

    #[cold]
    fn refusal(&self, py: Python<'_>) -> PyErr {
        let is_there = self.with_array(py, |array| array.place() == self.was);
        PyValueError::new_err(if is_there {
            "the array of a bound output has become read-only: bind it anew"
        } else {
            "the memory of a bound array has been exchanged: bind it anew"
        })
    }
}

impl PyBoundCall {
    pub(crate) fn new(
        opened: &Opened,
        inputs: &Bound<'_, PyAny>,
        outputs: Option<&Bound<'_, PyAny>>,
    ) -> Result<Self, PyCoreError> {
        let signature = opened.signature();
        let Ok(inputs) = inputs.cast::<PyMapping>() else {
            return Err(not_a_mapping(inputs).into());
        };
        let mut pins = Pins::default();
        let mut feeds: Vec<(usize, TensorView)> = Vec::new();
        let mut places = Vec::new();
        for item in inputs.items()? {
            let (name, array): (String, Bound<'_, PyAny>) = item.extract()?;
            let index = signature
                .input(&name)
                .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("Invalid input name: {name}")))?;
            if feeds.iter().any(|(other, _)| *other == index) {
                return Err(PyValueError::new_err(format!("input `{name}` is bound twice")).into());
            }
            let array = exchange::memory("input", &name, array)?;
            let view = bindable("input", &signature.inputs[index], &array)?;
            places.extend(Place::of(&array, false));
            feeds.push((index, view));
            pins.keep(array);
        }
        for (index, argument) in signature.proper_inputs().iter().enumerate() {
            if !argument.is_optional() && !feeds.iter().any(|(fed, _)| *fed == index) {
                let message = format!("input `{}` is missing: bind an array to it", argument.name);
                return Err(PyValueError::new_err(message).into());
            }
        }

        let mut fetches = Vec::new();
        let mut given = Vec::new();
        if let Some(outputs) = outputs.and_then(|outputs| outputs.cast::<PyMapping>().ok()) {
            for item in outputs.items()? {
                let (name, array): (String, Bound<'_, PyAny>) = item.extract()?;
                let index = signature
                    .output(&name)
                    .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("Invalid output name:{name}")))?;
                let argument = &signature.outputs[index];
                if signature.is_handed_through(argument) {
                    return Err(PyValueError::new_err(format!(
                        "output `{name}` cannot be overwritten: the model hands its input of that name through; ask for \
                         it by name"
                    ))
                    .into());
                }
                if fetches.iter().any(|fetch: &Fetch| fetch.index == index) {
                    return Err(PyValueError::new_err(format!("output `{name}` is bound twice")).into());
                }
                given.push(Some(array.clone().unbind()));
                let array = exchange::memory("output", &name, array)?;
                let view = bindable("output", argument, &array)?;
                let is_shared = |other: &TensorView| view.overlaps(other);
                let mut bound = feeds
                    .iter()
                    .map(|(_, input)| input)
                    .chain(fetches.iter().filter_map(|fetch| fetch.into.as_ref()));
                if bound.any(is_shared) {
                    return Err(PyValueError::new_err(format!(
                        "output `{name}` cannot be overwritten: its array shares memory with another bound array; pass \
                         one of its own"
                    ))
                    .into());
                }
                places.extend(Place::of(&array, true));
                fetches.push(Fetch {
                    index,
                    into: Some(view),
                });
                pins.keep(array);
            }
        } else {
            let wanted = feed::fetches(signature, outputs, not_names)?;
            let wanted = wanted.unwrap_or_else(|| (0..signature.outputs.len()).collect());
            fetches.extend(wanted.into_iter().map(|index| Fetch { index, into: None }));
            given.resize_with(fetches.len(), || None);
        }

        pins.forbid_resizing()?;
        // SAFETY: the arrays live as long as the call below, the weak references to them keep numpy from resizing them,
        // and a call refuses arrays whose memory has been exchanged by other means; those given as outputs are
        // writable.
        let binding = unsafe { Binding::new(opened.engine.clone(), feeds, &fetches) }?;
        Ok(Self {
            workload: binding.workload(),
            binding: Turn::new(binding),
            model: opened.model.clone(),
            may_hold_gil: opened.may_hold_gil,
            overwrites_everything: given.iter().all(Option::is_some),
            maps: opened.maps.clone(),
            fetched: fetches.iter().map(|fetch| fetch.index).collect(),
            makes_everything: given.iter().all(Option::is_none),
            given,
            places,
            pinned: pins.unbind(),
        })
    }

    /// Runs the binding, keeping the GIL where handing it over would cost more than the run.
    #[inline]
    fn launch<'b, T: Send>(
        &self,
        py: Python<'_>,
        binding: &'b mut Binding,
        run: impl FnOnce(&'b mut Binding) -> inferlite_core::Result<T> + Send,
    ) -> Result<T, PyCoreError> {
        boundary::launch(py, &self.model, self.may_hold_gil, self.workload, || run(binding))
    }

    #[inline]
    fn enter(&self) -> PyResult<Guard<'_, Binding>> {
        self.binding
            .take()
            .ok_or_else(|| PyRuntimeError::new_err("a bound call runs once at a time; bind once per thread"))
    }
}

#[pymethods]
impl PyBoundCall {
    fn __call__<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyList>, PyCoreError> {
        let result = self.call(py);
        // A handler may call this again, so it comes after the turn.
        logging::forward(py)?;
        result
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let places = self.places.iter().map(|place| &place.array);
        let given = self.given.iter().flatten();
        places
            .chain(given)
            .chain(&self.pinned)
            .try_for_each(|array| visit.call(array))
    }

    /// Seconds for so many bare runs of the runtime with the same things bound: what benchmarks compare a call with.
    fn _time_runtime(&self, iterations: usize) -> Result<f64, PyCoreError> {
        Ok(self.enter()?.time_runtime(iterations)?.as_secs_f64())
    }
}

impl PyBoundCall {
    #[inline]
    fn call<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyList>, PyCoreError> {
        let mut binding = self.enter()?;
        if let Some(unusable) = self.places.iter().find(|place| !place.is_usable(py)) {
            return Err(unusable.refusal(py).into());
        }
        if self.overwrites_everything {
            self.launch(py, &mut binding, Binding::overwrite)?;
            return Ok(PyList::new(py, self.given.iter().map(Option::as_ref))?);
        }
        let mut outputs = self.launch(py, &mut binding, Binding::run)?;
        if self.makes_everything {
            return list_of(
                py,
                &mut Answer::Computed(outputs),
                Handing::Private,
                &self.maps,
                Some(&self.fetched),
            );
        }
        let mut made = 0..outputs.len();
        let mut objects = SmallVec::<[_; 8]>::new();
        for given in &self.given {
            objects.push(match given {
                Some(array) => array.bind(py).clone(),
                None => made.next().map_or_else(
                    || Ok(py.None().into_bound(py)),
                    |position| object_of(py, outputs.take(position)),
                )?,
            });
        }
        Ok(PyList::new(py, objects)?)
    }
}

/// The memory of an array that can be bound as it is.
fn bindable(role: &str, argument: &Argument, array: &Bound<'_, PyAny>) -> PyResult<TensorView> {
    let name = &argument.name;
    let refuse = |message: String| Err(PyValueError::new_err(message));
    let dtype = argument.dtype().filter(|_| argument.zipped.is_none());
    let Some(declared) = dtype.filter(|dtype| dtype.bits() >= 8) else {
        let class = argument.declared_type();
        return refuse(format!(
            "{role} `{name}` cannot be bound: it is a {class}, and only tensors of numbers can; use `run`"
        ));
    };
    let Some(fields) = Array::new(array) else {
        let class = type_text(&array.get_type());
        return refuse(format!("{role} `{name}` cannot be bound: it is {class}, not an array"));
    };
    if fields.dtype() != Some(declared) {
        let given = array.getattr("dtype")?.str()?;
        return refuse(format!(
            "{role} `{name}` cannot be bound: its dtype is {given}, but the model expects {declared}; pass an array of \
             that dtype"
        ));
    }
    let Some(view) = fields.direct_view() else {
        return refuse(format!(
            "{role} `{name}` cannot be bound: its array is not in C order, aligned and in native byte order; pass \
             `numpy.ascontiguousarray(...)` of it in native byte order"
        ));
    };
    if role == "output" && !fields.is_writable() {
        return refuse(format!(
            "{role} `{name}` cannot be overwritten: its array is read-only; pass a writable one"
        ));
    }
    Ok(view)
}

fn not_names(given: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!(
        "`outputs` must be a sequence of names or a mapping of names to arrays, not {}",
        type_text(&given.get_type())
    ))
}

fn not_a_mapping(given: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!(
        "`inputs` must map names to arrays, not be a {}",
        type_text(&given.get_type())
    ))
}
