//! Signatures and values for the tests of the formats.

use inferlite_core::runtime::{Argument, Dim, OwnedFeeds, Signature, ValueType};
use inferlite_core::tensor::{Shape, Strings};
use inferlite_core::{Answer, Dtype, Input, Outputs, Tensor, Value};

/// The type of a tensor whose axes are variable where the extent is negative.
pub(super) fn tensor(dtype: Dtype, dims: &[i64]) -> ValueType {
    let dim = |&extent: &i64| if extent < 0 { Dim::Unknown } else { Dim::Fixed(extent) };
    ValueType::Tensor {
        dtype,
        shape: Some(dims.iter().map(dim).collect()),
    }
}

pub(super) fn signature(inputs: &[(&str, ValueType)], outputs: &[(&str, ValueType)]) -> Signature {
    let arguments = |all: &[(&str, ValueType)]| -> Vec<Argument> {
        all.iter()
            .map(|(name, value_type)| Argument::new((*name).into(), value_type.clone()).unwrap())
            .collect()
    };
    Signature {
        inputs: arguments(inputs),
        required: inputs.len(),
        outputs: arguments(outputs),
    }
}

/// The model of which Triton's replies are known.
pub(super) fn dbl() -> Signature {
    let float = || tensor(Dtype::Float32, &[-1, 4]);
    signature(&[("X", float())], &[("Y", float())])
}

/// An input as bytes: strings with their lengths in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fed {
    pub(super) index: usize,
    pub(super) shape: Vec<i64>,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn fed(feeds: &OwnedFeeds) -> Vec<Fed> {
    let fed = feeds.feeds().iter().map(|feed| {
        let (shape, bytes) = match &feed.value {
            Input::Tensor(view) => {
                let mut bytes = Vec::new();
                view.append_to(&mut bytes);
                (view.shape().to_vec(), bytes)
            }
            Input::Value(value) => match &**value {
                Value::Strings(strings) => (strings.shape.to_vec(), prefixed(strings.iter())),
                other => panic!("nobody feeds {other:?}"),
            },
        };
        let index = feed.index;
        Fed { index, shape, bytes }
    });
    fed.collect()
}

/// Strings with their lengths in front.
pub(super) fn prefixed<'s>(strings: impl Iterator<Item = &'s [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for string in strings {
        bytes.extend(u32::try_from(string.len()).unwrap().to_le_bytes());
        bytes.extend(string);
    }
    bytes
}

pub(super) fn floats(shape: &[i64], numbers: &[f32]) -> Value {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    Value::Tensor(Tensor::from_bytes(Dtype::Float32, Shape::from_slice(shape), &bytes).unwrap())
}

pub(super) fn strings(shape: &[i64], texts: &[&[u8]]) -> Value {
    let mut strings = Strings::with_shape(Shape::from_slice(shape));
    for text in texts {
        strings.push(text);
    }
    Value::Strings(strings)
}

pub(super) fn answer(values: Vec<Value>) -> Answer<'static> {
    Answer::Computed(Outputs::of_values(values))
}
