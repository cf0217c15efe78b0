//! Tensors as bytes behind the JSON: little-endian numbers, and strings with their lengths in front.

use inferlite_core::runtime::OwnedFeeds;
use inferlite_core::tensor::{Buffer, Shape, Strings};
use inferlite_core::{Dtype, Value};

use super::Refusal;
use super::target::{Context, Target};
use crate::json::writer::Cells;

#[cfg(target_endian = "big")]
compile_error!("the bytes of tensors are sent as they lie in memory, which must be little-endian");

/// Feeds an input with `bytes`, which must be all of the tensor and nothing else.
pub(super) fn feed(
    context: &Context<'_>,
    target: &Target<'_>,
    shape: Shape,
    count: usize,
    bytes: &[u8],
    inputs: &mut OwnedFeeds,
) -> Result<(), Refusal> {
    if target.dtype == Dtype::String {
        let strings = strings(context, target.name, shape, count, bytes)?;
        inputs.push_value(target.index, Value::Strings(strings));
        return Ok(());
    }
    let wanted = target.dtype.byte_len(count).unwrap_or(usize::MAX);
    let mut buffer = Buffer::with_capacity(bytes.len());
    if target.dtype == Dtype::Bool {
        // Code that was compiled against a type of truth values may rely on there being two.
        for &byte in bytes {
            buffer.push(u8::from(byte != 0));
        }
    } else {
        buffer.extend_from_slice(bytes);
    }
    let tensor = (bytes.len() == wanted).then(|| buffer.into_tensor(target.dtype, shape));
    let Some(tensor) = tensor.flatten() else {
        return Err(context.refuse(&format!(
            "input byte size mismatch for input '{}' for model '{}'. Expected {wanted}, got {}",
            target.name,
            context.model,
            bytes.len()
        )));
    };
    inputs.push(target.index, tensor);
    Ok(())
}

fn strings(context: &Context<'_>, name: &str, shape: Shape, count: usize, bytes: &[u8]) -> Result<Strings, Refusal> {
    let mut strings = Strings::with_shape(shape);
    // Each has four bytes of its own, which must be there.
    strings.reserve(
        count.min(bytes.len() / 4),
        bytes.len().saturating_sub(count.saturating_mul(4)),
    );
    let mut rest = bytes;
    while !rest.is_empty() {
        if strings.len() == count {
            return Err(context.refuse(&format!(
                "unexpected number of string elements for inference input '{name}': {} bytes follow the {count} that are \
                 expected",
                rest.len()
            )));
        }
        let Some((length, after)) = rest.split_first_chunk() else {
            return Err(context.refuse(&format!(
                "incomplete string length indicator for inference input '{name}', expecting 4 bytes but only {} bytes \
                 available",
                rest.len()
            )));
        };
        let length = u32::from_le_bytes(*length);
        let string = usize::try_from(length)
            .ok()
            .and_then(|length| after.split_at_checked(length));
        let Some((string, after)) = string else {
            return Err(context.refuse(&format!(
                "incomplete string data for inference input '{name}', expecting string of length {length} but only {} \
                 bytes available",
                after.len()
            )));
        };
        strings.push(string);
        rest = after;
    }
    if strings.len() != count {
        return Err(context.refuse(&format!(
            "unexpected number of string elements {} for inference input '{name}', expecting {count}",
            strings.len()
        )));
    }
    Ok(strings)
}

/// How many bytes an output takes.
pub(super) fn byte_len(cells: Cells<'_>) -> usize {
    match cells {
        Cells::Numbers(view) => view.byte_len(),
        Cells::Strings(strings) => strings.iter().map(|string| string.len() + 4).sum(),
    }
}

/// Appends an output; `None` if a string is too long for its length to be written.
pub(super) fn append(into: &mut Vec<u8>, cells: Cells<'_>) -> Option<()> {
    match cells {
        Cells::Numbers(view) => view.append_to(into),
        Cells::Strings(strings) => {
            for string in strings.iter() {
                into.extend_from_slice(&u32::try_from(string.len()).ok()?.to_le_bytes());
                into.extend_from_slice(string);
            }
        }
    }
    Some(())
}
