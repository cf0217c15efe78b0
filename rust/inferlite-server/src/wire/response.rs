//! Replies of the Open Inference Protocol.

use inferlite_core::Answer;
use inferlite_core::runtime::Signature;

use super::request::Wanted;
use super::{Refusal, binary, datatype};
use crate::json::writer::{self, Cells, NotText};

/// What a reply says besides the tensors.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// What the client calls the request.
    pub id: Option<&'a str>,
    /// The model's name.
    pub model: &'a str,
    /// The version that has answered.
    pub version: &'a str,
    /// What the model gives.
    pub signature: &'a Signature,
    /// What was asked for: the outputs of the answer, in its order.
    pub wanted: &'a Wanted,
}

/// Appends the reply to `into`; gives the length of its JSON where tensors' bytes follow, which is the header
/// `Inference-Header-Content-Length`.
///
/// After a refusal `into` is what it was.
pub fn write(into: &mut Vec<u8>, head: &Head<'_>, answer: &Answer<'_>) -> Result<Option<usize>, Refusal> {
    let start = into.len();
    let written = write_whole(into, head, answer);
    if written.is_err() {
        into.truncate(start);
    }
    written
}

fn write_whole(into: &mut Vec<u8>, head: &Head<'_>, answer: &Answer<'_>) -> Result<Option<usize>, Refusal> {
    let start = into.len();
    // Most numbers take up to a dozen characters, and most names are short.
    let json_elements: usize = (0..answer.len())
        .filter(|&position| !is_binary(head.wanted, position))
        .filter_map(|position| answer.get(position).as_ref().and_then(Cells::of))
        .map(Cells::len)
        .sum();
    into.reserve(json_elements.saturating_mul(12).saturating_add(256));
    into.push(b'{');
    if let Some(id) = head.id {
        writer::key(into, "id");
        writer::string(into, id);
        into.push(b',');
    }
    writer::key(into, "model_name");
    writer::string(into, head.model);
    into.push(b',');
    writer::key(into, "model_version");
    writer::string(into, head.version);
    into.extend_from_slice(b",\"outputs\":[");
    for position in 0..head.wanted.fetches.len() {
        if position > 0 {
            into.push(b',');
        }
        write_output(into, head, answer, position)?;
    }
    into.extend_from_slice(b"]}");
    let json_len = into.len() - start;
    let mut has_bytes = false;
    for position in (0..head.wanted.fetches.len()).filter(|&position| is_binary(head.wanted, position)) {
        has_bytes = true;
        let (name, cells) = output(head.signature, &head.wanted.fetches, answer, position)?;
        binary::append(into, cells).ok_or_else(|| {
            Refusal::internal(format!(
                "output '{name}' has a string of 4 GiB or more, which the protocol cannot send"
            ))
        })?;
    }
    Ok(has_bytes.then_some(json_len))
}

fn is_binary(wanted: &Wanted, position: usize) -> bool {
    wanted.is_binary.get(position).copied().unwrap_or(false)
}

/// The name and the elements of the output at a position of the answer.
pub(super) fn output<'a>(
    signature: &'a Signature,
    fetches: &[usize],
    answer: &'a Answer<'_>,
    position: usize,
) -> Result<(&'a str, Cells<'a>), Refusal> {
    let argument = fetches.get(position).and_then(|&index| signature.outputs.get(index));
    let name = argument.map_or("", |argument| argument.name.as_str());
    let cells = answer.get(position).as_ref().and_then(Cells::of);
    let cells = cells.filter(|cells| datatype::name(cells.dtype()).is_some());
    let cells = cells.ok_or_else(|| {
        Refusal::internal(format!(
            "output '{name}' is no tensor of a type that the protocol has a name for"
        ))
    })?;
    Ok((name, cells))
}

/// The refusal of strings that are not UTF-8.
#[cold]
pub(super) fn not_text(name: &str) -> Refusal {
    Refusal::bad_request(format!(
        "output '{name}' has strings that are not UTF-8 and cannot be sent as JSON. Please use the binary data format"
    ))
}

fn write_output(into: &mut Vec<u8>, head: &Head<'_>, answer: &Answer<'_>, position: usize) -> Result<(), Refusal> {
    let (name, cells) = output(head.signature, &head.wanted.fetches, answer, position)?;
    into.extend_from_slice(b"{\"name\":");
    writer::string(into, name);
    into.extend_from_slice(b",\"datatype\":\"");
    into.extend_from_slice(datatype::name(cells.dtype()).unwrap_or_default().as_bytes());
    into.extend_from_slice(b"\",\"shape\":");
    writer::integers(into, cells.shape().iter().copied());
    if is_binary(head.wanted, position) {
        into.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
        writer::integer(into, binary::byte_len(cells));
        into.extend_from_slice(b"}}");
    } else {
        into.extend_from_slice(b",\"data\":[");
        cells.write(0..cells.len(), into).map_err(|NotText| not_text(name))?;
        into.extend_from_slice(b"]}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
