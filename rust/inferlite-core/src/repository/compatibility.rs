//! Whether those who call one version of a model can go on with another.
//!
//! What somebody relies on who has called the old version, and so what the new one must keep:
//!
//! - every input has its name, and takes all that it took: the same type, as many axes, and no axis narrower (a number
//!   may become "any", not the reverse). Names of axes are not compared: the runtime holds no call to them;
//! - what could be left out still can, and nothing new has to be fed;
//! - every output has its name, its place among the outputs (plain clients take the first one), its type and its axes.
//!   An axis of any extent may become a number, since whoever takes any takes that one. A number may only become "any"
//!   where an input did so with it: who feeds one row as before still gets one row.
//!
//! New outputs behind the old ones harm nobody who asks by name.

use crate::runtime::{Argument, Dim, Signature, ValueType};

/// Types are nested by files, so that there has to be an end; no model comes near.
const DEEPEST: usize = 32;

/// Whether a version may take over from an old one; an error is a sentence that names the input or output.
pub fn check(old: &Signature, new: &Signature) -> Result<(), String> {
    for (index, was) in old.inputs.iter().enumerate() {
        let Some(place) = new.input(&was.name) else {
            return Err(format!("input `{}` is gone", was.name));
        };
        let Some(is) = new.inputs.get(place) else {
            continue;
        };
        if may_be_left_out(old, index) && !may_be_left_out(new, place) {
            return Err(format!("input `{}` can no longer be left out", was.name));
        }
        check_input(was, is).map_err(|difference| format!("input `{}` {difference}", was.name))?;
    }
    for (place, is) in new.inputs.iter().enumerate() {
        if old.input(&is.name).is_none() && !may_be_left_out(new, place) {
            return Err(format!("input `{}` is new and cannot be left out", is.name));
        }
    }
    for (place, was) in old.outputs.iter().enumerate() {
        let Some(now_at) = new.output(&was.name) else {
            return Err(format!("output `{}` is gone", was.name));
        };
        if now_at != place {
            return Err(format!(
                "output `{}` is number {} now, and was number {}",
                was.name,
                now_at + 1,
                place + 1
            ));
        }
        let Some(is) = new.outputs.get(place) else {
            continue;
        };
        check_output(old, new, was, is).map_err(|difference| format!("output `{}` {difference}", was.name))?;
    }
    Ok(())
}

fn may_be_left_out(signature: &Signature, index: usize) -> bool {
    index >= signature.required || signature.inputs.get(index).is_some_and(Argument::is_optional)
}

fn check_input(was: &Argument, is: &Argument) -> Result<(), String> {
    if takes(&is.value_type, &was.value_type, DEEPEST) {
        return Ok(());
    }
    Err(differs("takes", was, is))
}

fn differs(verb: &str, was: &Argument, is: &Argument) -> String {
    format!("{verb} {} now, and {} before", described(is), described(was))
}

/// A type as onnxruntime writes it, and its axes.
fn described(argument: &Argument) -> String {
    let declared = argument.declared_type();
    match argument.shape() {
        Some(shape) => {
            let axes = shape.iter().map(|dim| match dim {
                Dim::Fixed(extent) => extent.to_string(),
                Dim::Symbol(name) => name.clone(),
                Dim::Unknown => "?".to_owned(),
            });
            format!("{declared} [{}]", axes.collect::<Vec<_>>().join(", "))
        }
        None => declared,
    }
}

/// Whether one type takes every value of another.
fn takes(wide: &ValueType, narrow: &ValueType, depth: usize) -> bool {
    use ValueType as T;
    let Some(depth) = depth.checked_sub(1) else {
        return wide == narrow;
    };
    match (wide, narrow) {
        (
            T::Tensor { dtype, shape },
            T::Tensor {
                dtype: given,
                shape: of,
            },
        )
        | (
            T::SparseTensor { dtype, shape },
            T::SparseTensor {
                dtype: given,
                shape: of,
            },
        ) => dtype == given && takes_shape(shape.as_deref(), of.as_deref()),
        (T::Sequence(wide), T::Sequence(narrow)) | (T::Optional(wide), T::Optional(narrow)) => {
            takes(wide, narrow, depth)
        }
        (T::Map(key, wide), T::Map(given, narrow)) => key == given && takes(wide, narrow, depth),
        (T::Optional(wide), narrow) => takes(wide, narrow, depth),
        (T::Opaque, T::Opaque) => true,
        _ => false,
    }
}

fn takes_shape(wide: Option<&[Dim]>, narrow: Option<&[Dim]>) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => {
            wide.len() == narrow.len() && wide.iter().zip(narrow).all(|(wide, narrow)| takes_extent(wide, narrow))
        }
    }
}

fn takes_extent(wide: &Dim, narrow: &Dim) -> bool {
    match (wide, narrow) {
        (Dim::Fixed(wide), Dim::Fixed(narrow)) => wide == narrow,
        (Dim::Fixed(_), Dim::Symbol(_) | Dim::Unknown) => false,
        (Dim::Symbol(_) | Dim::Unknown, _) => true,
    }
}

fn check_output(old: &Signature, new: &Signature, was: &Argument, is: &Argument) -> Result<(), String> {
    let key_type = |argument: &Argument| argument.zipped.as_ref().map(|map| map.key_type());
    if key_type(was) == key_type(is) {
        // Whoever takes what the old one gave must be able to take what the new one gives.
        if takes(&was.value_type, &is.value_type, DEEPEST) {
            return Ok(());
        }
        if let (Some(_), true) = (was.dtype(), was.dtype() == is.dtype())
            && let (Some(before), Some(now)) = (was.shape(), is.shape())
            && before.len() == now.len()
        {
            let follows = |(axis, (was, is)): (usize, (&Dim, &Dim))| match was {
                Dim::Fixed(extent) if !takes_extent(was, is) => follows_an_input(old, new, axis, *extent, is),
                _ => true,
            };
            if before.iter().zip(now).enumerate().all(follows) {
                return Ok(());
            }
        }
    }
    Err(differs("is", was, is))
}

/// Whether an axis of an output that had a number has lost it together with an axis of an input of the same number: one
/// of the same name, or where there are no names both are the first.
fn follows_an_input(old: &Signature, new: &Signature, axis: usize, extent: i64, is: &Dim) -> bool {
    old.inputs.iter().any(|was| {
        let now = new.input(&was.name).and_then(|place| new.inputs.get(place));
        let (Some(before), Some(now)) = (was.shape(), now.and_then(Argument::shape)) else {
            return false;
        };
        before.iter().zip(now).enumerate().any(|(place, (before, now))| {
            *before == Dim::Fixed(extent)
                && match (now, is) {
                    (Dim::Symbol(input), Dim::Symbol(output)) => input == output,
                    (Dim::Unknown, Dim::Unknown) => axis == 0 && place == 0,
                    _ => false,
                }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;

    /// A tensor of floats whose axes are numbers, names, or "?".
    fn tensor(axes: &str) -> ValueType {
        let dim = |axis: &str| match axis.parse() {
            Ok(extent) => Dim::Fixed(extent),
            Err(_) if axis == "?" => Dim::Unknown,
            Err(_) => Dim::Symbol(axis.to_owned()),
        };
        ValueType::Tensor {
            dtype: Dtype::Float32,
            shape: Some(axes.split_whitespace().map(dim).collect()),
        }
    }

    fn argument((name, value_type): (&str, ValueType)) -> Argument {
        Argument::new(name.to_owned(), value_type).expect("there is no NUL in it")
    }

    fn signature(
        inputs: Vec<(&str, ValueType)>,
        overridable: Vec<(&str, ValueType)>,
        outputs: Vec<(&str, ValueType)>,
    ) -> Signature {
        Signature {
            required: inputs.len(),
            inputs: inputs.into_iter().chain(overridable).map(argument).collect(),
            outputs: outputs.into_iter().map(argument).collect(),
        }
    }

    /// One input `x` and one output `y`.
    fn of(x: ValueType, y: ValueType) -> Signature {
        signature(vec![("x", x)], vec![], vec![("y", y)])
    }

    fn inputs(inputs: Vec<(&str, ValueType)>, overridable: Vec<(&str, ValueType)>) -> Signature {
        signature(inputs, overridable, vec![])
    }

    fn outputs(outputs: Vec<(&str, ValueType)>) -> Signature {
        signature(vec![], vec![], outputs)
    }

    fn refused(old: &Signature, new: &Signature) -> String {
        check(old, new).expect_err("it is not compatible")
    }

    #[test]
    fn a_version_can_take_over_from_itself() {
        let same = of(tensor("batch 4"), tensor("batch ?"));
        assert_eq!(check(&same, &same), Ok(()));
    }

    #[test]
    fn the_axes_of_an_input_may_become_wider_and_not_narrower() {
        let given = |x| of(tensor(x), tensor("3"));
        for (narrow, wide) in [("1 4", "batch 4"), ("1 4", "? 4"), ("1 4", "1 n")] {
            assert_eq!(check(&given(narrow), &given(wide)), Ok(()), "{narrow} to {wide}");
        }
        for same in [("batch 4", "rows 4"), ("batch 4", "? 4"), ("? 4", "batch 4")] {
            assert_eq!(check(&given(same.0), &given(same.1)), Ok(()), "{same:?}");
        }
        assert_eq!(
            refused(&given("batch 4"), &given("1 4")),
            "input `x` takes tensor(float) [1, 4] now, and tensor(float) [batch, 4] before"
        );
        assert_eq!(
            refused(&given("batch 4"), &given("batch 5")),
            "input `x` takes tensor(float) [batch, 5] now, and tensor(float) [batch, 4] before"
        );
        assert_eq!(
            refused(&given("4"), &given("4 4")),
            "input `x` takes tensor(float) [4, 4] now, and tensor(float) [4] before"
        );
    }

    #[test]
    fn a_shape_that_is_not_declared_is_the_widest() {
        let any = || ValueType::Tensor {
            dtype: Dtype::Float32,
            shape: None,
        };
        assert_eq!(check(&of(tensor("1 4"), any()), &of(any(), tensor("7"))), Ok(()));
        assert_eq!(
            refused(&of(any(), any()), &of(tensor("1 4"), any())),
            "input `x` takes tensor(float) [1, 4] now, and tensor(float) before"
        );
        assert_eq!(
            refused(&of(any(), tensor("7")), &of(any(), any())),
            "output `y` is tensor(float) now, and tensor(float) [7] before"
        );
    }

    #[test]
    fn the_type_of_an_input_and_of_an_output_stays() {
        let double = || ValueType::Tensor {
            dtype: Dtype::Float64,
            shape: None,
        };
        assert_eq!(
            refused(&of(tensor("4"), double()), &of(double(), double())),
            "input `x` takes tensor(double) now, and tensor(float) [4] before"
        );
        assert_eq!(
            refused(&of(double(), tensor("4")), &of(double(), double())),
            "output `y` is tensor(double) now, and tensor(float) [4] before"
        );
    }

    #[test]
    fn an_input_that_is_gone_or_new_is_named() {
        let one = || inputs(vec![("x", tensor("4"))], vec![]);
        let two = || inputs(vec![("x", tensor("4")), ("z", tensor("4"))], vec![]);
        assert_eq!(refused(&two(), &one()), "input `z` is gone");
        assert_eq!(refused(&one(), &two()), "input `z` is new and cannot be left out");
    }

    #[test]
    fn a_new_input_that_can_be_left_out_harms_nobody() {
        let one = || inputs(vec![("x", tensor("4"))], vec![]);
        let optional = || ValueType::Optional(Box::new(tensor("4")));
        let with_default = || inputs(vec![("x", tensor("4"))], vec![("z", tensor("4"))]);
        let with_optional = || inputs(vec![("x", tensor("4")), ("z", optional())], vec![]);
        assert_eq!(check(&one(), &with_default()), Ok(()));
        assert_eq!(check(&one(), &with_optional()), Ok(()));
        assert_eq!(refused(&with_default(), &one()), "input `z` is gone");
        let needed = inputs(vec![("x", tensor("4")), ("z", tensor("4"))], vec![]);
        assert_eq!(refused(&with_default(), &needed), "input `z` can no longer be left out");
        assert_eq!(
            refused(&with_optional(), &needed),
            "input `z` can no longer be left out"
        );
        assert_eq!(check(&needed, &with_default()), Ok(()));
        assert_eq!(check(&needed, &with_optional()), Ok(()));
    }

    #[test]
    fn old_outputs_keep_their_names_and_places() {
        let (y, z) = (|| ("y", tensor("4")), || ("z", tensor("4")));
        assert_eq!(check(&outputs(vec![y()]), &outputs(vec![y(), z()])), Ok(()));
        assert_eq!(
            refused(&outputs(vec![y(), z()]), &outputs(vec![y()])),
            "output `z` is gone"
        );
        assert_eq!(
            refused(&outputs(vec![y()]), &outputs(vec![z(), y()])),
            "output `y` is number 2 now, and was number 1"
        );
    }

    #[test]
    fn an_output_of_any_extent_may_get_a_number() {
        let given = |y| of(tensor("4"), tensor(y));
        assert_eq!(check(&given("n"), &given("10")), Ok(()));
        assert_eq!(
            refused(&given("10"), &given("n")),
            "output `y` is tensor(float) [n] now, and tensor(float) [10] before"
        );
        assert_eq!(
            refused(&given("10"), &given("11")),
            "output `y` is tensor(float) [11] now, and tensor(float) [10] before"
        );
    }

    #[test]
    fn an_output_may_follow_an_input_that_takes_more_rows_than_before() {
        let before = || of(tensor("1 4"), tensor("1 10"));
        assert_eq!(check(&before(), &of(tensor("batch 4"), tensor("batch 10"))), Ok(()));
        assert_eq!(check(&before(), &of(tensor("? 4"), tensor("? 10"))), Ok(()));
        for (x, y) in [
            ("batch 4", "other 10"),
            ("1 4", "batch 10"),
            ("batch 4", "batch n"),
            ("1 n", "n 10"),
        ] {
            let refused = refused(&before(), &of(tensor(x), tensor(y)));
            assert!(
                refused.starts_with("output `y` is tensor(float) ["),
                "{x} to {y}: {refused}"
            );
        }
    }

    #[test]
    fn sequences_and_maps_are_compared_by_what_they_hold() {
        let sequence = |axes| ValueType::Sequence(Box::new(tensor(axes)));
        assert_eq!(
            check(&of(sequence("4"), sequence("n")), &of(sequence("n"), sequence("4"))),
            Ok(())
        );
        assert_eq!(
            refused(&of(sequence("n"), tensor("4")), &of(tensor("n"), tensor("4"))),
            "input `x` takes tensor(float) [n] now, and seq(tensor(float)) before"
        );
        let map = |key| ValueType::Map(key, Box::new(tensor("4")));
        assert_eq!(
            refused(
                &of(map(Dtype::Int64), tensor("4")),
                &of(map(Dtype::String), tensor("4"))
            ),
            "input `x` takes map(string,tensor(float)) now, and map(int64,tensor(float)) before"
        );
    }
}
