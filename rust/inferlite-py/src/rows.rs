//! What `batch_axes=`, `example=` and `rows_independent=` say of a model's rows.

use std::sync::{Mutex, PoisonError};

use inferlite_core::clock::Clock;
use inferlite_core::rows::{self, Declared, Demand};
use inferlite_core::runtime::ort::RunOptions;
use inferlite_core::{Error, Result};
use pyo3::prelude::*;

use crate::boundary::{check_signals, detach, inferlite_exception};
use crate::feed::Fed;
use crate::logging;
use crate::session::Opened;

/// The runtime's most severe level.
const FATAL: i32 = 4;

/// Keeps the answers of a model by the row from now on, if its rows are independent.
pub(crate) fn keep(
    py: Python<'_>,
    name: &str,
    opened: &Opened,
    declared: &[Declared],
    example: Option<&mut Fed<'_>>,
    is_independent: Option<bool>,
) -> PyResult<()> {
    let feeds = match example {
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
            declared,
            example: feeds,
            is_independent,
            options: Some(&options),
        };
        let file = opened.engine.model_file();
        let axes = rows::establish(&opened.engine, file.as_ref(), &demand, &Clock::default(), &|| {
            check_signals(&interrupt)
        })?;
        opened.model.keep_rows(axes);
        Ok(())
    });
    if let Some(interrupt) = interrupt.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(interrupt);
    }
    logging::forward(py)?;
    established.map_err(|error| refusal(py, name, &error))
}

fn refusal(py: Python<'_>, name: &str, error: &Error) -> PyErr {
    let message = format!("model `{name}` cannot be cached by row: {}", error.message());
    inferlite_exception(py, "ModelLoadError", message).unwrap_or_else(|problem| problem)
}
