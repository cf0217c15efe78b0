#![expect(unsafe_code, reason = "reads numbers that an output keeps alive")]
//! Outputs of `ZipMap`: a tensor of numbers as dictionaries, one for each row, or as a dictionary of columns.

use std::sync::Arc;

use inferlite_core::graph::ZipMap;
use inferlite_core::runtime::Signature;
use inferlite_core::tensor::MapKeys;
use inferlite_core::{Dtype, TensorView};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyList, PyString};

use crate::boundary::PyCoreError;

/// The outputs of a model that are dictionaries, by index; empty where there is none.
#[derive(Default)]
pub(crate) struct ZipMaps(Vec<Option<Zipped>>);

/// One of them, with its keys as Python objects.
pub(crate) struct Zipped {
    map: Arc<ZipMap>,
    keys: Vec<Py<PyAny>>,
    /// A dictionary with these keys: copying it costs less than making another of them.
    pattern: Py<PyDict>,
}

/// How the outputs are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As onnxruntime does it: a list of dictionaries.
    Rows,
    /// A dictionary of arrays.
    Columns,
}

impl ZipMaps {
    pub(crate) fn of(py: Python<'_>, signature: &Signature) -> PyResult<Self> {
        if signature.outputs.iter().all(|output| output.zipped.is_none()) {
            return Ok(Self::default());
        }
        let zipped = signature.outputs.iter().map(|output| {
            let made = output.zipped.as_ref().map(|map| Zipped::new(py, map.clone()));
            made.transpose()
        });
        zipped.collect::<PyResult<_>>().map(Self)
    }

    /// Whether no output is one of dictionaries.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The output at a position of an answer to a call that wants these outputs, if it is one of dictionaries.
    #[inline]
    pub(crate) fn at(&self, wanted: Option<&[usize]>, position: usize) -> Option<&Zipped> {
        if self.is_empty() {
            return None;
        }
        self.0[wanted.map_or(position, |wanted| wanted[position])].as_ref()
    }
}

impl Zipped {
    fn new(py: Python<'_>, map: Arc<ZipMap>) -> PyResult<Self> {
        let keys: Vec<Py<PyAny>> = match &map.keys {
            MapKeys::Int64(keys) => keys.iter().map(|key| key.into_py_any(py)).collect::<PyResult<_>>()?,
            MapKeys::String(keys) => keys
                .iter()
                .map(|key| PyString::from_bytes(py, key).map(|key| key.into_any().unbind()))
                .collect::<PyResult<_>>()?,
        };
        let pattern = PyDict::new(py);
        for key in &keys {
            pattern.set_item(key, 0.0)?;
        }
        Ok(Self {
            map,
            keys,
            pattern: pattern.unbind(),
        })
    }

    /// A list of dictionaries, one for each row.
    pub(crate) fn rows<'py>(&self, py: Python<'py>, view: &TensorView) -> Result<Bound<'py, PyAny>, PyCoreError> {
        let count = self.map.rows(view.shape())?;
        debug_assert_eq!(view.dtype(), Dtype::Float32);
        let pattern = self.pattern.bind(py);
        let mut rows = Vec::with_capacity(count);
        for row in 0..count {
            let dict = pattern.copy()?;
            for (key, &column) in std::iter::zip(&self.keys, &self.map.columns) {
                let number = number_at(view, row * self.map.width + column);
                dict.set_item(key.bind(py), PyFloat::new(py, number.into()))?;
            }
            rows.push(dict);
        }
        Ok(PyList::new(py, rows)?.into_any())
    }

    /// The same dictionary of a list of dictionaries.
    pub(crate) fn columns_of<'py>(&self, rows: &Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>, PyCoreError> {
        let py = rows.py();
        let keys = PyList::new(py, &self.keys)?;
        Ok(py
            .import("inferlite._columns")?
            .call_method1("columns_of", (rows, keys))?)
    }

    /// A dictionary with an array for each key: the columns of the table, whose array this is.
    pub(crate) fn columns<'py>(
        &self,
        shape: &[i64],
        table: &Bound<'py, PyAny>,
    ) -> Result<Bound<'py, PyAny>, PyCoreError> {
        let py = table.py();
        let rows = self.map.rows(shape)?;
        let table = table
            .call_method1("reshape", (rows, self.map.width))?
            .getattr("T")?
            .call_method0("copy")?;
        let dict = PyDict::new(py);
        for (key, &column) in std::iter::zip(&self.keys, &self.map.columns) {
            dict.set_item(key.bind(py), table.get_item(column)?)?;
        }
        Ok(dict.into_any())
    }
}

/// A number of a tensor of single-precision numbers.
#[inline]
fn number_at(view: &TensorView, index: usize) -> f32 {
    debug_assert!((index + 1) * size_of::<f32>() <= view.byte_len());
    // SAFETY: the index is below the product of the shape (`ZipMap::rows` has held it against the width).
    let place = unsafe { view.data().add(index * size_of::<f32>()) };
    // SAFETY: as above; the view's memory is readable while it lives.
    f32::from_ne_bytes(unsafe { place.cast::<[u8; size_of::<f32>()]>().read() })
}
