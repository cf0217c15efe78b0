//! Whether the rows of a batch leave each other alone, so that they may be computed apart or in other company.
//!
//! The graph is followed first ([`analyse`]); where that ends in the unknown, trial runs decide. Nothing here knows
//! what the answer is wanted for.

mod axes;
mod batch;
mod company;
mod facts;
#[cfg(test)]
mod fixtures;
mod independence;
mod invented;
mod moves;
mod nearness;
mod operators;
mod pace;
mod padding;
mod probe;
mod settled;
mod shapes;
mod step;
mod timing;
mod watch;

pub use axes::{BatchAxes, Declared};
pub(crate) use batch::{Piece, extent, join, part, row};
pub use independence::{Verdict, analyse};
pub use padding::{DeclaredLength, Filling, Padding};
pub(crate) use padding::{Lengths, Sizes};
pub use timing::{Measured, measure};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::ModelFile;
use crate::runtime::ort::RunOptions;
use crate::runtime::{Engine, Feed};
pub(crate) use invented::Numbers;
use probe::Trial;

/// How calls of a model are put together: where their rows lie, and which axes may be filled up for that.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The axes of the rows.
    pub axes: BatchAxes,
    /// What may be filled up.
    pub padding: Padding,
}

impl From<BatchAxes> for Layout {
    fn from(axes: BatchAxes) -> Self {
        let padding = Padding::default();
        Self { axes, padding }
    }
}

impl Layout {
    /// A layout with lengths that calls may differ in, if filling them up does not change what the model gives; else an
    /// error that says what helps.
    ///
    /// Trial runs end early once `check` fails, which the calling thread asks now and then.
    pub fn padded(
        engine: &dyn Engine,
        axes: BatchAxes,
        declared: &[DeclaredLength],
        demand: &Demand<'_>,
        clock: &Clock,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let padding = Padding::of(engine.signature(), &axes, declared)?;
        let layout = Self { axes, padding };
        padding::trial::run(engine, &layout, demand, clock, check)?;
        Ok(layout)
    }
}

/// What somebody says of the rows of a model.
#[derive(Debug, Default)]
pub struct Demand<'a> {
    /// Axes that are not the default.
    pub declared: &'a [Declared],
    /// Inputs that the model accepts, for trial runs.
    pub example: Option<&'a [Feed]>,
    /// Whether rows are independent, if that is known better than it can be found out.
    pub is_independent: Option<bool>,
    /// Options of the trial runs.
    pub options: Option<&'a RunOptions>,
}

/// The axes of the rows of a model whose rows are independent; else an error that says why they are not, and what helps.
///
/// Without a file, trial runs alone decide. They end early once `check` fails, which the calling thread asks now and then.
pub fn establish(
    engine: &dyn Engine,
    file: Option<&ModelFile>,
    demand: &Demand<'_>,
    clock: &Clock,
    check: &dyn Fn() -> Result<()>,
) -> Result<BatchAxes> {
    const OVERRULE: &str = "pass `rows_independent=True` if no row influences another all the same";
    let refused = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
    let signature = engine.signature();
    let axes = BatchAxes::of(signature, demand.declared)?;
    match demand.is_independent {
        Some(true) => return Ok(axes),
        Some(false) => return refused("`rows_independent=False` says that rows influence each other".to_owned()),
        None => {}
    }
    let verdict = file.map_or_else(
        || Verdict::Unknown("its file cannot be read as an ONNX graph".to_owned()),
        |file| analyse(file, signature, &axes),
    );
    let unknown = match verdict {
        Verdict::Independent => return Ok(axes),
        Verdict::Refused(reason) => return refused(format!("{reason}; {OVERRULE}")),
        Verdict::Branches(reason) if demand.example.is_none() => {
            return refused(format!(
                "{reason}, and a trial run would take one of several branches; pass `example=` with inputs that take the \
                 one that calls take, or `rows_independent=True` if no row influences another"
            ));
        }
        Verdict::Unknown(reason) | Verdict::Branches(reason) => reason,
    };
    match probe::run(engine, &axes, demand, clock, check) {
        Trial::Unchanged => Ok(axes),
        Trial::Changed(how) => refused(format!("{how} ({unknown}); {OVERRULE}")),
        Trial::Impossible(problem) => refused(format!(
            "{unknown}, and a trial run failed: {}; pass `example=` with inputs that the model accepts, or \
             `rows_independent=True` if no row influences another",
            problem.trim()
        )),
    }
}
