//! Replies that describe models and servers.

use inferlite_core::runtime::{Argument, Signature};

use super::target::{dims, tensor_of};
use crate::json::writer::{integers, key, list, string};

/// One line of the repository's index.
#[derive(Debug, Clone, Copy)]
pub struct IndexEntry<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The version; `None` where no version is known.
    pub version: Option<&'a str>,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`; `None` for a model that was never loaded.
    pub state: Option<&'a str>,
    /// Why it is in this state.
    pub reason: Option<&'a str>,
}

/// Appends `{"error": message}`.
pub fn write_error(into: &mut Vec<u8>, message: &str) {
    into.push(b'{');
    member(into, "error", message);
    into.push(b'}');
}

/// Appends the reply to `GET /v2`.
pub fn write_server(into: &mut Vec<u8>, name: &str, version: &str, extensions: &[&str]) {
    into.push(b'{');
    member(into, "name", name);
    next_member(into, "version", version);
    into.push(b',');
    key(into, "extensions");
    list(into, extensions, |into, extension| string(into, extension));
    into.push(b'}');
}

/// Appends the metadata of a model.
///
/// An argument without declared axes has no shape in it, and one that is no tensor has onnxruntime's name of its type.
pub fn write_model(into: &mut Vec<u8>, name: &str, versions: &[&str], platform: &str, signature: &Signature) {
    into.push(b'{');
    member(into, "name", name);
    into.push(b',');
    key(into, "versions");
    list(into, versions, |into, version| string(into, version));
    next_member(into, "platform", platform);
    for (member, arguments) in [("inputs", inputs(signature)), ("outputs", &*signature.outputs)] {
        into.push(b',');
        key(into, member);
        list(into, arguments, |into, argument| {
            write_argument(into, argument, "datatype", "shape", "");
        });
    }
    into.push(b'}');
}

/// Appends the configuration of a model, as far as Triton's has names for it; there is no `max_batch_size`, since axes
/// are declared whole.
pub fn write_config(into: &mut Vec<u8>, name: &str, backend: &str, signature: &Signature) {
    into.push(b'{');
    member(into, "name", name);
    next_member(into, "platform", "onnxruntime_onnx");
    next_member(into, "backend", backend);
    into.extend_from_slice(b",\"max_batch_size\":0");
    for (member, arguments) in [("input", inputs(signature)), ("output", &*signature.outputs)] {
        into.push(b',');
        key(into, member);
        list(into, arguments, |into, argument| {
            write_argument(into, argument, "data_type", "dims", "TYPE_");
        });
    }
    into.push(b'}');
}

/// Appends the repository's index.
pub fn write_index<'a>(into: &mut Vec<u8>, entries: impl IntoIterator<Item = IndexEntry<'a>>) {
    list(into, entries, |into, entry| {
        into.push(b'{');
        member(into, "name", entry.name);
        let others = [
            ("version", entry.version),
            ("state", entry.state),
            ("reason", entry.reason),
        ];
        for (name, value) in others {
            if let Some(value) = value {
                next_member(into, name, value);
            }
        }
        into.push(b'}');
    });
}

fn inputs(signature: &Signature) -> &[Argument] {
    signature.inputs.get(..signature.required).unwrap_or_default()
}

fn member(into: &mut Vec<u8>, name: &str, value: &str) {
    key(into, name);
    string(into, value);
}

fn next_member(into: &mut Vec<u8>, name: &str, value: &str) {
    into.push(b',');
    member(into, name, value);
}

fn write_argument(into: &mut Vec<u8>, argument: &Argument, datatype: &str, shape: &str, prefix: &str) {
    into.push(b'{');
    member(into, "name", &argument.name);
    let Some((_, protocol_name, axes)) = tensor_of(argument) else {
        next_member(into, datatype, &argument.declared_type());
        into.push(b'}');
        return;
    };
    // Triton's configuration has another name for strings.
    let protocol_name = match (prefix, protocol_name) {
        ("TYPE_", "BYTES") => "STRING",
        _ => protocol_name,
    };
    next_member(into, datatype, &format!("{prefix}{protocol_name}"));
    if let Some(axes) = axes {
        into.push(b',');
        key(into, shape);
        integers(into, dims(axes));
    }
    into.push(b'}');
}

#[cfg(test)]
mod tests;
