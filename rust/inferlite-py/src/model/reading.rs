//! Reading the calls of a model.

use inferlite_core::runtime::{Argument, Dim, Signature};
use inferlite_core::{Feed, Input, TensorView};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use smallvec::SmallVec;

use super::errors::refusal;
use super::{PyModel, Wanted};
use crate::array::Array;
use crate::exchange::Casting;
use crate::feed::Fed;
use crate::session::describe;

impl PyModel {
    /// Reads a call whose caller does not wait: its inputs, and which outputs it wants.
    pub(super) fn read_call<'py>(
        &self,
        py: Python<'py>,
        signature: &Signature,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<(Fed<'py>, Wanted)> {
        // Reading the names may run the caller's code, so it comes before anything looks into an array.
        let wanted = match outputs {
            Some(outputs) if !outputs.is_none() => Some(self.wanted(py, signature, outputs)),
            _ => None,
        };
        let mut fed = Fed::default();
        if !self.read_directly(signature, inputs, named, &mut fed)? {
            fed = self.read(py, signature, inputs, named)?;
        }
        Ok((fed, wanted.transpose()?))
    }

    /// Reads a call whose arrays all run as they are and fit; false where anything is out of the ordinary.
    #[inline]
    pub(super) fn read_directly<'py>(
        &self,
        signature: &Signature,
        inputs: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
        fed: &mut Fed<'py>,
    ) -> PyResult<bool> {
        let is_read = match (inputs, named) {
            (Some(value), None) => match Array::new(value) {
                Some(array) if signature.required == 1 => fed.push_array(0, &array),
                Some(_) => false,
                None => fed.read_directly(&self.names, signature.required, value)?,
            },
            (None, Some(named)) => fed.read_directly(&self.names, signature.required, named.as_any())?,
            _ => false,
        };
        let fits = |feed: &Feed| match &feed.value {
            Input::Tensor(view) => fits(&signature.inputs[feed.index], view),
            Input::Value(_) => false,
        };
        Ok(is_read && fed.feeds.iter().all(fits))
    }

    /// Reads any other call, or says what is wrong with it.
    #[cold]
    pub(super) fn read<'py>(
        &self,
        py: Python<'py>,
        signature: &Signature,
        inputs: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Fed<'py>> {
        let named = named.cloned().unwrap_or_else(|| PyDict::new(py));
        let values = self
            .reader(py)?
            .call_method1("feed", (inputs, named))?
            .cast_into::<PyDict>()?;
        let values = values
            .iter()
            .map(|(name, value)| Ok((name.extract::<String>()?, value)))
            .collect::<PyResult<Vec<_>>>()?;
        // As in a session, what is `None` is not fed.
        let values = values.into_iter().filter(|(_, value)| !value.is_none()).collect();
        // The reader has cast what is to be cast.
        Fed::from_values(signature, values, Casting::No).map_err(|error| refusal(py, &self.name, error))
    }

    pub(super) fn wanted(
        &self,
        py: Python<'_>,
        signature: &Signature,
        outputs: &Bound<'_, PyAny>,
    ) -> PyResult<SmallVec<[usize; 8]>> {
        let names: Vec<String> = self.reader(py)?.call_method1("wanted", (outputs,))?.extract()?;
        Ok(names.iter().filter_map(|name| signature.output(name)).collect())
    }

    pub(super) fn reader<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        let make = || {
            let class = py.import("inferlite._calls")?.getattr("Reader")?;
            let reader = class.call1((
                &self.name,
                describe(py, self.declared.proper_inputs())?,
                describe(py, &self.declared.outputs)?,
                describe(py, self.declared.overridable_initializers())?,
                self.casting.name(),
            ))?;
            Ok::<_, PyErr>(reader.unbind())
        };
        Ok(self.reader.get_or_try_init(py, make)?.bind(py))
    }
}

/// Whether a tensor is what an input declares; a declared scalar says nothing about the shape, as in onnxruntime.
#[inline]
fn fits(argument: &Argument, view: &TensorView) -> bool {
    argument.dtype() == Some(view.dtype())
        && argument.shape().filter(|axes| !axes.is_empty()).is_none_or(|axes| {
            axes.len() == view.shape().len()
                && std::iter::zip(axes, view.shape()).all(|(axis, extent)| match axis {
                    Dim::Fixed(wanted) => wanted == extent,
                    Dim::Symbol(_) | Dim::Unknown => true,
                })
        })
}
