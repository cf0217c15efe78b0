//! Inputs that fit the model one by one, and not together.

use inferlite_core::runtime::{Dim, Signature};
use inferlite_core::{Feed, Input};
use smallvec::SmallVec;

use super::Refusal;
use super::target::{listed, tensor_of};

/// An extent that the model has a name for, and where a request says it.
struct Said<'a> {
    symbol: &'a str,
    extent: i64,
    input: &'a str,
    shape: &'a [i64],
}

/// The refusal of a request in which an extent that the model has one name for is several numbers.
///
/// Asked only about a request that the model has failed on. Names are no promise: exporters give one to axes that the
/// graph then broadcasts, and what a model can answer is answered.
#[cold]
pub(crate) fn between(feeds: &[Feed], signature: &Signature, model: &str) -> Option<Refusal> {
    let mut all: SmallVec<[Said<'_>; 8]> = SmallVec::new();
    for feed in feeds {
        let Some(argument) = signature.inputs.get(feed.index) else {
            continue;
        };
        let (Some((_, _, Some(declared))), Some(shape)) = (tensor_of(argument), shape_of(&feed.value)) else {
            continue;
        };
        let input = argument.name.as_str();
        for (dim, &extent) in std::iter::zip(declared, shape) {
            let Dim::Symbol(symbol) = dim else { continue };
            let here = Said {
                symbol,
                extent,
                input,
                shape,
            };
            match all.iter().find(|said| said.symbol == symbol) {
                Some(other) if other.extent != extent => return Some(refusal(other, &here, model)),
                Some(_) => {}
                None => all.push(here),
            }
        }
    }
    None
}

fn shape_of(input: &Input) -> Option<&[i64]> {
    match input {
        Input::Tensor(view) => Some(view.shape()),
        Input::Value(value) => value.shape(),
    }
}

fn refusal(one: &Said<'_>, other: &Said<'_>, model: &str) -> Refusal {
    let place = |said: &Said<'_>| {
        let shape = listed(said.shape.iter().copied());
        format!("{} in the shape {shape} of input '{}'", said.extent, said.input)
    };
    Refusal::bad_request(format!(
        "unexpected shapes for model '{model}', which expects '{}' to be one number, not {} and {}",
        one.symbol,
        place(one),
        place(other)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{floats, signature, strings};
    use super::*;
    use inferlite_core::runtime::{OwnedFeeds, ValueType};
    use inferlite_core::{Dtype, Value};

    fn tensor(dtype: Dtype, symbols: &[&str]) -> ValueType {
        ValueType::Tensor {
            dtype,
            shape: Some(symbols.iter().map(|symbol| Dim::Symbol((*symbol).into())).collect()),
        }
    }

    fn model() -> Signature {
        let inputs = [
            ("a", tensor(Dtype::Float32, &["n", "m"])),
            ("b", tensor(Dtype::String, &["n"])),
            ("square", tensor(Dtype::Float32, &["k", "k"])),
        ];
        signature(&inputs, &[])
    }

    fn said(values: Vec<(usize, Value)>) -> Option<String> {
        let mut feeds = OwnedFeeds::default();
        for (index, value) in values {
            feeds.push_value(index, value);
        }
        let refusal = between(feeds.feeds(), &model(), "m")?;
        assert_eq!(refusal.status, 400);
        Some(refusal.message.into_owned())
    }

    #[test]
    fn a_name_with_two_numbers_is_told_of_with_both_inputs() {
        let a = floats(&[2, 1], &[1.0, 2.0]);
        let b = strings(&[3], &[b"x", b"y", b"z"]);
        assert_eq!(
            said(vec![(0, a), (1, b)]).unwrap(),
            "unexpected shapes for model 'm', which expects 'n' to be one number, not 2 in the shape [2,1] of input 'a' \
             and 3 in the shape [3] of input 'b'"
        );
        assert_eq!(
            said(vec![(2, floats(&[1, 2], &[1.0, 2.0]))]).unwrap(),
            "unexpected shapes for model 'm', which expects 'k' to be one number, not 1 in the shape [1,2] of input \
             'square' and 2 in the shape [1,2] of input 'square'"
        );
    }

    #[test]
    fn inputs_that_agree_are_not_to_blame() {
        assert_eq!(said(vec![]), None);
        let a = floats(&[2, 1], &[1.0, 2.0]);
        let b = strings(&[2], &[b"x", b"y"]);
        assert_eq!(said(vec![(0, a), (1, b), (2, floats(&[1, 1], &[1.0]))]), None);
    }
}
