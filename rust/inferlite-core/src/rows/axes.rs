//! On which axis an input or an output holds the rows of a batch.

use super::batch::Piece;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{Argument, Feed, Signature, ValueType};

/// The axis of the rows of every input and output; `None` for an input that belongs to all rows alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAxes {
    /// In the order of [`Signature::inputs`].
    pub inputs: Vec<Option<usize>>,
    /// In the order of [`Signature::outputs`].
    pub outputs: Vec<Option<usize>>,
    /// How many axes each input declares, in the same order; `None` where it declares none at all.
    ranks: Vec<Option<usize>>,
}

/// An axis that somebody declares for the input or output of this name; `None` for "it has no rows".
pub type Declared = (String, Option<usize>);

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

impl BatchAxes {
    /// Axis 0 where it is dynamic, unless something else is declared. A weight that calls may override has no rows,
    /// or else one that is left out would be taken row by row.
    ///
    /// An error where a name is not the model's, an axis is not there, or no rows can be told apart.
    pub fn of(signature: &Signature, declared: &[Declared]) -> Result<Self> {
        let default = |argument: &Argument| argument.has_dynamic_rows.then_some(0);
        let mut axes = Self {
            inputs: signature.inputs.iter().map(default).collect(),
            outputs: signature.outputs.iter().map(default).collect(),
            ranks: signature
                .inputs
                .iter()
                .map(|input| Some(input.shape()?.len()))
                .collect(),
        };
        axes.inputs[signature.required..].fill(None);
        for (name, axis) in declared {
            let input = signature
                .input(name)
                .map(|index| (&signature.inputs[index], &mut axes.inputs[index]));
            let output = signature
                .output(name)
                .map(|index| (&signature.outputs[index], &mut axes.outputs[index]));
            if input.is_none() && output.is_none() {
                return Err(refused(format!("`batch_axes` names `{name}`, which the model has not")));
            }
            for (argument, place) in input.into_iter().chain(output) {
                check_rank(argument, *axis)?;
                *place = *axis;
            }
        }
        axes.check(signature)?;
        Ok(axes)
    }

    /// Whether what is known of the rows holds for a call: every input that has rows is fed, and every other one has as
    /// many axes as it declares, which the runtime leaves unchecked for scalars.
    pub(crate) fn hold_for(&self, feeds: &[Feed]) -> bool {
        let wanted = self.inputs.iter().flatten().count();
        let mut given = 0;
        for feed in feeds {
            if self.inputs[feed.index].is_some() {
                given += 1;
            } else if let (Some(rank), Some(piece)) = (self.ranks[feed.index], Piece::fed(&feed.value))
                && piece.shape().len() != rank
            {
                return false;
            }
        }
        given == wanted
    }

    fn check(&self, signature: &Signature) -> Result<()> {
        if self.inputs.iter().all(Option::is_none) {
            return Err(refused(
                "no input has a batch axis: declare one with `load(..., batch_axes={name: axis})`".to_owned(),
            ));
        }
        for (argument, axis) in std::iter::zip(&signature.inputs, &self.inputs) {
            if axis.is_some() && !is_divisible(argument) {
                return Err(refused(format!(
                    "input `{}` of type {} cannot be split into rows",
                    argument.name, argument.value_type
                )));
            }
        }
        for (argument, axis) in std::iter::zip(&signature.outputs, &self.outputs) {
            if !is_divisible(argument) {
                return Err(refused(format!(
                    "output `{}` of type {} cannot be split into rows",
                    argument.name, argument.value_type
                )));
            }
            if axis.is_none() {
                return Err(refused(format!(
                    "output `{0}` has no batch axis: declare one with `load(..., batch_axes={{\"{0}\": axis}})`",
                    argument.name
                )));
            }
        }
        Ok(())
    }
}

fn check_rank(argument: &Argument, axis: Option<usize>) -> Result<()> {
    match (axis, argument.shape()) {
        (Some(axis), Some(shape)) if axis >= shape.len() => Err(refused(format!(
            "`batch_axes` gives `{}` axis {axis}, but it has {} axes",
            argument.name,
            shape.len()
        ))),
        _ => Ok(()),
    }
}

/// Whether a row is whole bytes, or whole strings.
fn is_divisible(argument: &Argument) -> bool {
    match &argument.value_type {
        ValueType::Tensor { dtype, .. } => dtype.bits() % 8 == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Dim, Input};
    use crate::tensor::{Dtype, Strings, Value};
    use std::sync::Arc;

    fn argument(name: &str, shape: &[Dim]) -> Argument {
        let value_type = ValueType::Tensor {
            dtype: Dtype::Float32,
            shape: Some(shape.to_vec()),
        };
        Argument::new(name.into(), value_type).expect("there is no NUL in it")
    }

    fn recurrent() -> Signature {
        let (unknown, two) = (Dim::Unknown, Dim::Fixed(2));
        Signature {
            inputs: vec![
                argument("x", &[unknown.clone(), unknown.clone()]),
                argument("state", &[two, unknown.clone()]),
                argument("rate", &[]),
            ],
            required: 3,
            outputs: vec![argument("y", std::slice::from_ref(&unknown))],
        }
    }

    fn message(declared: &[(&str, Option<usize>)]) -> String {
        let declared: Vec<Declared> = declared
            .iter()
            .map(|(name, axis)| ((*name).to_owned(), *axis))
            .collect();
        BatchAxes::of(&recurrent(), &declared)
            .map_or_else(|error| error.message().to_owned(), |axes| format!("{axes:?}"))
    }

    #[test]
    fn axis_0_counts_where_it_is_dynamic_and_another_where_it_is_declared() {
        let axes = BatchAxes::of(&recurrent(), &[]).expect("there are rows");
        assert_eq!((axes.inputs, axes.outputs), (vec![Some(0), None, None], vec![Some(0)]));
        let axes = BatchAxes::of(&recurrent(), &[("state".into(), Some(1))]).expect("the axis is there");
        assert_eq!(axes.inputs, [Some(0), Some(1), None]);
    }

    #[test]
    fn a_weight_that_may_be_overridden_has_rows_only_where_that_is_declared() {
        let signature = Signature {
            required: 1,
            ..recurrent()
        };
        let inputs = |declared: &[Declared]| BatchAxes::of(&signature, declared).expect("there are rows").inputs;
        assert_eq!(inputs(&[]), [Some(0), None, None]);
        assert_eq!(inputs(&[("state".into(), Some(1))]), [Some(0), Some(1), None]);
    }

    #[test]
    fn calls_that_leave_rows_out_or_feed_more_than_a_scalar_are_not_taken_apart() {
        let axes = BatchAxes::of(&recurrent(), &[("state".into(), Some(1))]).expect("the axis is there");
        let fed = |index, shape: &[i64]| Feed {
            index,
            value: Input::Value(Arc::new(Value::Strings(Strings::with_shape(shape.into())))),
        };
        assert!(axes.hold_for(&[fed(0, &[4, 2]), fed(1, &[2, 4]), fed(2, &[])]));
        assert!(!axes.hold_for(&[fed(0, &[4, 2]), fed(2, &[])]));
        assert!(!axes.hold_for(&[fed(0, &[4, 2]), fed(1, &[2, 4]), fed(2, &[4, 1])]));
    }

    #[test]
    fn what_cannot_be_declared_says_so() {
        assert_eq!(
            message(&[("z", Some(0))]),
            "`batch_axes` names `z`, which the model has not"
        );
        assert_eq!(
            message(&[("rate", Some(0))]),
            "`batch_axes` gives `rate` axis 0, but it has 0 axes"
        );
        assert_eq!(
            message(&[("x", None)]),
            "no input has a batch axis: declare one with `load(..., batch_axes={name: axis})`"
        );
        assert_eq!(
            message(&[("y", None)]),
            "output `y` has no batch axis: declare one with `load(..., batch_axes={\"y\": axis})`"
        );
    }
}
