//! What `batch_axes=`, `example=` and `rows_independent=` say of a model's rows.

use std::sync::{Mutex, PoisonError};

use inferlite_core::batch::BatchSettings;
use inferlite_core::clock::Clock;
use inferlite_core::rows::{self, Declared, DeclaredLength, Demand, Layout};
use inferlite_core::runtime::ort::RunOptions;
use inferlite_core::{Error, Result};
use pyo3::prelude::*;

use crate::boundary::{check_signals, detach, inferlite_exception};
use crate::feed::Fed;
use crate::logging;
use crate::session::Opened;

/// The runtime's most severe level.
const FATAL: i32 = 4;

/// What somebody says of a model's rows.
#[derive(Default)]
pub(crate) struct Said<'a, 'py> {
    pub(crate) declared: Vec<Declared>,
    /// Inputs that the model accepts.
    pub(crate) example: Option<&'a mut Fed<'py>>,
    pub(crate) is_independent: Option<bool>,
    /// Lengths that calls of a batch may differ in.
    pub(crate) lengths: Vec<DeclaredLength>,
}

/// What independent rows are wanted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    /// Answers are kept by the row.
    pub(crate) are_kept: bool,
    /// Calls are combined.
    pub(crate) batching: Option<BatchSettings>,
}

/// Uses the rows of a model from now on, if they are independent.
pub(crate) fn establish(py: Python<'_>, name: &str, opened: &Opened, said: Said<'_, '_>, used: Use) -> PyResult<()> {
    let feeds = match said.example {
        Some(fed) => {
            fed.pins.forbid_resizing()?;
            Some(fed.feeds.as_slice())
        }
        None => None,
    };
    let interrupt = Mutex::new(None);
    let established: Result<()> = detach(py, || {
        let mut options = RunOptions::new()?;
        // A trial may fail, which is no news to anyone.
        options.set_log_severity_level(FATAL)?;
        let demand = Demand {
            declared: &said.declared,
            example: feeds,
            is_independent: said.is_independent,
            options: Some(&options),
        };
        let file = opened.engine.model_file();
        let (clock, check) = (Clock::default(), || check_signals(&interrupt));
        let axes = rows::establish(&opened.engine, file.as_ref(), &demand, &clock, &check)?;
        if let Some(settings) = used.batching {
            let layout = Layout::padded(&opened.engine, axes.clone(), &said.lengths, &demand, &clock, &check)?;
            let measured = rows::measure(&opened.engine, &axes, &demand, &clock, &check);
            check()?;
            opened.model.batch_rows(&layout, settings, &measured);
        }
        if used.are_kept {
            opened.model.keep_rows(axes);
        }
        Ok(())
    });
    if let Some(interrupt) = interrupt.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(interrupt);
    }
    logging::forward(py)?;
    let wanted = if used.are_kept { "cached by row" } else { "batched" };
    established.map_err(|error| refusal(py, name, wanted, &error))
}

fn refusal(py: Python<'_>, name: &str, wanted: &str, error: &Error) -> PyErr {
    let message = format!("model `{name}` cannot be {wanted}: {}", error.message());
    inferlite_exception(py, "ModelLoadError", message).unwrap_or_else(|problem| problem)
}
