//! Requests to load, unload or roll back a model.

use super::Refusal;
use crate::json::Reader;

/// What a request wants done to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Serve what the folder holds of it.
    Load,
    /// Serve it no longer.
    Unload,
    /// Serve what was served before.
    Rollback,
}

/// Reads the body of a request to change `model`, which may be empty.
///
/// Parameters that mean nothing here are accepted. Those of Triton's that would have another model be served than the
/// folder holds are refused: a client that gets `200` relies on them.
pub(crate) fn read(body: &[u8], change: Change, model: &str) -> Result<(), Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let mut reader = Reader::new(body)?;
    let mut has_parameters = false;
    let mut members = reader.object()?;
    while let Some(member) = members.next(&mut reader)? {
        if member != "parameters" {
            reader.skip_value()?;
            continue;
        }
        if std::mem::replace(&mut has_parameters, true) {
            return Err(Refusal::bad_request(
                "Unable to parse 'parameters': the object has two members of this name",
            ));
        }
        if !reader.null()? {
            read_parameters(&mut reader, change, model)?;
        }
    }
    Ok(reader.end()?)
}

fn read_parameters(reader: &mut Reader<'_>, change: Change, model: &str) -> Result<(), Refusal> {
    let mut parameters = reader.object().map_err(|fault| Refusal::parsing("parameters", fault))?;
    while let Some(parameter) = parameters.next(reader)? {
        if reader.null()? {
            continue;
        }
        match (change, &*parameter) {
            (Change::Load, "config") => {
                return Err(Refusal::bad_request(format!(
                    "parameter `config` is not taken from requests: write settings into `model.toml` in the folder of \
                     model `{model}`, and load it then"
                )));
            }
            (Change::Load, name) if name.starts_with("file:") => {
                return Err(Refusal::bad_request(format!(
                    "parameter `{name}` is not taken from requests: put the file into the folder of model `{model}`, and \
                     load it then"
                )));
            }
            (Change::Unload, "unload_dependents") => drop(
                reader
                    .boolean()
                    .map_err(|fault| Refusal::parsing("unload_dependents", fault))?,
            ),
            _ => reader.skip_value()?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str, change: Change) -> String {
        let refusal = read(body.as_bytes(), change, "m").unwrap_err();
        assert_eq!(refusal.status, 400);
        refusal.message.into_owned()
    }

    #[test]
    fn a_body_may_be_empty_or_say_what_means_nothing() {
        for change in [Change::Load, Change::Unload, Change::Rollback] {
            for body in [
                "",
                " \n",
                "{}",
                r#"{"parameters": null}"#,
                r#"{"parameters": {}, "mine": [1]}"#,
                r#"{"parameters": {"mine": {"config": "{}"}, "config": null, "file:1/model.onnx": null}}"#,
                r#"{"parameters": {"unload_dependents": true}}"#,
            ] {
                read(body.as_bytes(), change, "m").unwrap_or_else(|refusal| panic!("{change:?} {body}: {refusal}"));
            }
        }
    }

    #[test]
    fn a_configuration_and_files_of_the_request_are_refused_with_the_remedy() {
        assert_eq!(
            refused(r#"{"parameters": {"mine": 1, "config": "{}"}}"#, Change::Load),
            "parameter `config` is not taken from requests: write settings into `model.toml` in the folder of model `m`, \
             and load it then"
        );
        assert_eq!(
            refused(r#"{"parameters": {"file:1/model.onnx": "AAAA"}}"#, Change::Load),
            "parameter `file:1/model.onnx` is not taken from requests: put the file into the folder of model `m`, and \
             load it then"
        );
        let body = r#"{"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}"#;
        assert_eq!(read(body.as_bytes(), Change::Unload, "m"), Ok(()));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (body, text) in [
            (
                "[]",
                "Unable to parse 'request': attempt to access JSON non-object as object",
            ),
            (
                r#"{"parameters": []}"#,
                "Unable to parse 'parameters': attempt to access JSON non-object as object",
            ),
            (
                r#"{"parameters": {}, "parameters": {}}"#,
                "Unable to parse 'parameters': the object has two members of this name",
            ),
            (
                r#"{"parameters": {"unload_dependents": 1}}"#,
                "Unable to parse 'unload_dependents': attempt to access JSON non-boolean as boolean",
            ),
            (
                "{} {}",
                "failed to parse the request JSON buffer: The document root must not be followed by other values. at 3",
            ),
        ] {
            assert_eq!(refused(body, Change::Unload), text, "{body}");
        }
    }
}
