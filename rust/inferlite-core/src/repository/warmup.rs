//! Calls that a model is given before it serves, so that no client pays for what the first ones cost.

use super::settings::{Warmup, WarmupInput, WarmupValue};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::rows::Numbers;
use crate::runtime::{Argument, Call, OwnedFeeds, ValueType};
use crate::tensor::{Dtype, Shape, Strings, Tensor, Value, element_count};

/// Makes all the calls; the first one that fails ends it.
pub(super) fn run(model: &Model, warmups: &[Warmup]) -> Result<()> {
    let signature = model.signature();
    let fetches: Vec<usize> = (0..signature.outputs.len()).collect();
    for warmup in warmups {
        for number in 0..warmup.count {
            let mut feeds = OwnedFeeds::default();
            for (name, input) in &warmup.inputs {
                let known = signature
                    .input(name)
                    .and_then(|index| Some((index, signature.inputs.get(index)?)));
                let (index, argument) =
                    known.ok_or_else(|| refused(format!("`warmup` names `{name}`, which is no input")))?;
                feeds.push_value(index, value(argument, input, number)?);
            }
            let call = Call {
                feeds: feeds.feeds(),
                fetches: &fetches,
                options: None,
            };
            let ran = model.run(&call).map(drop);
            ran.map_err(|error| refused(format!("a warm-up fails: {}", error.message())))?;
        }
    }
    Ok(())
}

fn value(argument: &Argument, input: &WarmupInput, number: usize) -> Result<Value> {
    let ValueType::Tensor { dtype, .. } = argument.value_type else {
        return Err(refused(format!(
            "`warmup` cannot make up `{}`, which is no tensor",
            argument.name
        )));
    };
    let shape = Shape::from_slice(&input.shape);
    let count = element_count(&shape)?;
    if dtype == Dtype::String {
        let mut strings = Strings::with_shape(shape);
        let text: &[u8] = if input.value == WarmupValue::Zeros { b"" } else { b"a" };
        (0..count).for_each(|_| strings.push(text));
        return Ok(Value::Strings(strings));
    }
    let mut numbers = Numbers::new(number as u64);
    let bytes = (0..count).flat_map(|_| match input.value {
        WarmupValue::Zeros => Numbers::encoded(dtype, 0.0),
        WarmupValue::Ones => Numbers::encoded(dtype, 1.0),
        WarmupValue::Random => numbers.next_of(dtype),
    });
    let bytes: Vec<u8> = bytes.collect();
    let tensor = Tensor::from_bytes(dtype, shape, &bytes);
    let unknown = || {
        refused(format!(
            "`warmup` cannot make up `{}` of {}",
            argument.name,
            dtype.numpy_name()
        ))
    };
    tensor.map(Value::Tensor).ok_or_else(unknown)
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}
