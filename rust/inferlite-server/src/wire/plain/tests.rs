use inferlite_core::Dtype;
use proptest::prelude::*;

use super::*;
use crate::wire::fixtures::{answer, dbl, fed, floats, signature, strings, tensor};

fn numbers(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn predict(signature: &Signature, json: &str) -> Result<PlainRequest, Refusal> {
    let head = head(json.as_bytes())?;
    read(&head, signature, "m")
}

fn tensorflow(signature: &Signature, json: &str) -> Result<PlainRequest, Refusal> {
    read_tensorflow(json.as_bytes(), signature, "m")
}

fn two() -> Signature {
    let float = || tensor(Dtype::Float32, &[-1, 2]);
    signature(
        &[("A", float()), ("B", tensor(Dtype::Int64, &[-1]))],
        &[("Y", float()), ("Z", tensor(Dtype::String, &[-1]))],
    )
}

fn shapes_and_bytes(request: &PlainRequest) -> Vec<(Vec<i64>, Vec<u8>)> {
    fed(&request.inputs)
        .into_iter()
        .map(|fed| (fed.shape, fed.bytes))
        .collect()
}

#[test]
fn the_head_says_which_model_is_meant() {
    let of = |json: &'static str| head(json.as_bytes()).map(|head| (head.model, head.version));
    let some = |text: &'static str| Some(text.into());
    assert_eq!(of(r#"{"model":"m","inputs":[[1,2]]}"#), Ok((some("m"), None)));
    assert_eq!(
        of(r#"{"inputs":{"a":["]}\""]},"version":3,"model":"m"}"#),
        Ok((some("m"), some("3")))
    );
    assert_eq!(of(r#"{"version":"canary"}"#), Ok((None, some("canary"))));
    assert_eq!(of(r#"{"model":null,"version":null}"#), Ok((None, None)));
    assert_eq!(
        of(r#"{"model":7}"#).unwrap_err().message,
        "Unable to parse 'model': attempt to access JSON non-string as string"
    );
    assert_eq!(
        of(r#"{"version":1.5}"#).unwrap_err().message,
        "Unable to parse 'version': attempt to access JSON non-unsigned-integer as unsigned-integer"
    );
    assert_eq!(
        of(r#"{"model":"a","model":"b"}"#).unwrap_err().message,
        "Unable to parse 'model': the object has two members of this name"
    );
    assert_eq!(
        of(r#"{"inputs":[[1,2]"#).unwrap_err().message,
        "failed to parse the request JSON buffer: Missing a comma or ] after an array element. at 16"
    );
}

#[test]
fn rows_go_to_the_only_input() {
    let request = predict(&dbl(), r#"{"inputs":[[1,2,3,4],[5,6,7,8]],"timeout":0.25}"#).unwrap();
    let wanted = numbers(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(shapes_and_bytes(&request), [(vec![2, 4], wanted)]);
    assert_eq!(request.timeout, Some(Duration::from_millis(250)));
    let patient = predict(&dbl(), r#"{"inputs":[[1,2,3,4]],"timeout":0}"#).unwrap();
    assert_eq!(patient.timeout, None);
    assert_eq!((request.fetches.as_slice(), request.form), (&[0][..], Form::Columns));
    let named = predict(&dbl(), r#"{"inputs":{"X":[[1,2,3,4]]},"outputs":["Y"]}"#).unwrap();
    assert_eq!(shapes_and_bytes(&named), [(vec![1, 4], numbers(&[1.0, 2.0, 3.0, 4.0]))]);
}

#[test]
fn several_inputs_are_named() {
    let request = predict(&two(), r#"{"inputs":{"B":[7,8],"A":[[1,2],[3,4]]},"outputs":["Z"]}"#).unwrap();
    let wanted = [
        (vec![2], [7_i64, 8].map(i64::to_ne_bytes).concat()),
        (vec![2, 2], numbers(&[1.0, 2.0, 3.0, 4.0])),
    ];
    assert_eq!(shapes_and_bytes(&request), wanted);
    assert_eq!(request.fetches.as_slice(), [1]);
    assert_eq!(
        predict(&two(), r#"{"inputs":{"A":[[1,2]],"B":[1]}}"#)
            .unwrap()
            .fetches
            .as_slice(),
        [0, 1]
    );
}

#[test]
fn mistakes_are_named() {
    for (json, text) in [
        (
            "{}",
            "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'",
        ),
        (
            r#"{"inputs":[[1,2]]}"#,
            "Unable to parse 'inputs': model 'm' has several inputs, whose names are wanted: ['A','B']",
        ),
        (
            r#"{"inputs":{"A":[[1,2]]}}"#,
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['A'], but missing required input(s) ['B']. \
             Please provide all required input(s).",
        ),
        (r#"{"inputs":{"Q":1}}"#, "unexpected inference input 'Q' for model 'm'"),
        (
            r#"{"inputs":{"B":[1],"B":[1]}}"#,
            "input 'B' for model 'm' is given twice",
        ),
        (
            r#"{"inputs":{"A":[[1,2,3]]}}"#,
            "unexpected shape for input 'A' for model 'm'. Expected [-1,2], got [1,3]",
        ),
        (
            r#"{"inputs":{"A":[[1,2],[3]]}}"#,
            "Unable to parse 'inputs': Shape does not match true shape of 'data' field: the arrays of input 'A' differ in \
             length or depth",
        ),
        (
            r#"{"inputs":{"B":[1.5]}}"#,
            "Unable to parse 'inputs': attempt to access JSON non-signed-integer as signed-integer: element 0 of input 'B' \
             is 1.5",
        ),
        (
            r#"{"inputs":{"A":[[1,2]],"B":[1]},"outputs":["Q"]}"#,
            "unexpected inference output 'Q' for model 'm'",
        ),
        (
            r#"{"inputs":{"A":[[1,2]],"B":[1]},"timeout":-1}"#,
            "Unable to parse 'timeout': -1.0 is no number of seconds to wait",
        ),
        (
            r#"{"inputs":{"A":[[1,2]],"B":[1]},"timeout":1e300}"#,
            "Unable to parse 'timeout': 1e300 is no number of seconds to wait",
        ),
        (
            r#"{"inputs":{"A":[[1,2}],"B":[1]}}"#,
            "failed to parse the request JSON buffer: Missing a comma or ] after an array element. at 20",
        ),
    ] {
        let refusal = predict(&two(), json).unwrap_err();
        assert_eq!((&*refusal.message, refusal.status), (text, 400), "{json}");
    }
}

#[test]
fn tensorflow_has_rows_and_columns() {
    let rows = tensorflow(
        &dbl(),
        r#"{"signature_name":"serving_default","instances":[[1,2,3,4],[5,6,7,8]]}"#,
    )
    .unwrap();
    let wanted = numbers(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(shapes_and_bytes(&rows), [(vec![2, 4], wanted.clone())]);
    assert_eq!(rows.form, Form::Rows);
    let columns = tensorflow(&dbl(), r#"{"inputs":[[1,2,3,4],[5,6,7,8]]}"#).unwrap();
    assert_eq!(shapes_and_bytes(&columns), [(vec![2, 4], wanted.clone())]);
    assert_eq!(columns.form, Form::Columns);
    let named = tensorflow(&dbl(), r#"{"instances":[{"X":[1,2,3,4]},{"X":[5,6,7,8]}]}"#).unwrap();
    assert_eq!(shapes_and_bytes(&named), [(vec![2, 4], wanted)]);
    let several = r#"{"instances":[{"A":[1,2],"B":7},{"B":8,"A":[3,4]}]}"#;
    let wanted = [
        (vec![2, 2], numbers(&[1.0, 2.0, 3.0, 4.0])),
        (vec![2], [7_i64, 8].map(i64::to_ne_bytes).concat()),
    ];
    assert_eq!(shapes_and_bytes(&tensorflow(&two(), several).unwrap()), wanted);
}

#[test]
fn mistakes_in_instances_are_named() {
    for (json, text) in [
        (
            "{}",
            "Unable to parse 'instances': attempt to access non-existing object member 'instances'",
        ),
        (
            r#"{"instances":[1],"inputs":[1]}"#,
            "the request must set only one of the following fields: 'instances', 'inputs'",
        ),
        (
            r#"{"instances":7}"#,
            "Unable to parse 'instances': attempt to access JSON non-array as array",
        ),
        (
            r#"{"instances":[{"A":[1,2],"B":7},{"A":[1,2]}]}"#,
            "Unable to parse 'instances': instance 1 and those before it do not all have input 'B'",
        ),
        (
            r#"{"instances":[{"A":[1,2]},{"A":[1,2],"B":7}]}"#,
            "Unable to parse 'instances': instance 1 and those before it do not all have input 'B'",
        ),
        (
            r#"{"instances":[{"A":[1,2],"A":[1,2]}]}"#,
            "input 'A' for model 'm' is given twice",
        ),
        (
            r#"{"instances":[{"A":[1,2],"B":7},[1,2]]}"#,
            "Unable to parse 'instances': attempt to access JSON non-object as object",
        ),
        (
            r#"{"instances":[{"A":[1,2],"B":7},{"A":[1],"B":7}]}"#,
            "Unable to parse 'instances': Shape does not match true shape of 'data' field: the arrays of input 'A' differ \
             in length or depth",
        ),
        (
            r#"{"instances":[{}]}"#,
            "expected 2 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['A','B']. \
             Please provide all required input(s).",
        ),
    ] {
        let refusal = tensorflow(&two(), json).unwrap_err();
        assert_eq!((&*refusal.message, refusal.status), (text, 400), "{json}");
    }
    assert_eq!(
        tensorflow(&dbl(), r#"{"instances":[]}"#).unwrap_err().message,
        "unexpected shape for input 'X' for model 'm'. Expected [-1,4], got [0]"
    );
}

fn written(form: Form, fetches: &[usize], values: Vec<inferlite_core::Value>) -> Result<String, Refusal> {
    let mut into = b"before".to_vec();
    let answer = answer(values);
    let outcome = write(&mut into, form, fetches, &two(), &answer);
    outcome.inspect_err(|_| assert_eq!(into, b"before"))?;
    Ok(String::from_utf8(into.split_off(6)).unwrap())
}

#[test]
fn replies_have_the_form_of_their_requests() {
    let y = || floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let z = || strings(&[2], &[b"a", b"b"]);
    assert_eq!(
        written(Form::Columns, &[0], vec![y()]).unwrap(),
        r#"{"outputs":[[1.0,2.0],[3.0,4.0]]}"#
    );
    assert_eq!(
        written(Form::Columns, &[1, 0], vec![z(), y()]).unwrap(),
        r#"{"outputs":{"Z":["a","b"],"Y":[[1.0,2.0],[3.0,4.0]]}}"#
    );
    assert_eq!(
        written(Form::Rows, &[0], vec![y()]).unwrap(),
        r#"{"predictions":[[1.0,2.0],[3.0,4.0]]}"#
    );
    assert_eq!(
        written(Form::Rows, &[0, 1], vec![y(), z()]).unwrap(),
        r#"{"predictions":[{"Y":[1.0,2.0],"Z":"a"},{"Y":[3.0,4.0],"Z":"b"}]}"#
    );
    assert_eq!(
        written(Form::Rows, &[0, 1], vec![floats(&[0, 2], &[]), strings(&[0], &[])]).unwrap(),
        r#"{"predictions":[]}"#
    );
}

#[test]
fn replies_that_have_no_form_are_refused() {
    let text = |form, values| written(form, &[0, 1], values).unwrap_err().to_string();
    assert_eq!(
        text(Form::Rows, vec![floats(&[2], &[1.0, 2.0]), strings(&[1], &[b"a"])]),
        "the outputs have no common number of rows ('Y' [2], 'Z' [1]): send 'inputs' in place of 'instances'"
    );
    assert_eq!(
        text(Form::Rows, vec![floats(&[], &[1.0]), strings(&[], &[b"a"])]),
        "the outputs have no common number of rows ('Y' [], 'Z' []): send 'inputs' in place of 'instances'"
    );
    assert_eq!(
        text(
            Form::Columns,
            vec![floats(&[2], &[1.0, 2.0]), strings(&[1], &[b"\xff"])]
        ),
        "output 'Z' has strings that are not UTF-8 and cannot be sent as JSON. Please use the binary data format"
    );
    assert_eq!(
        text(Form::Columns, vec![floats(&[1 << 40, 0], &[]), strings(&[0], &[])]),
        "output 'Y' has shape [1099511627776,0], which is too much for nested arrays: use the Open Inference Protocol"
    );
}

proptest! {
    #[test]
    fn changed_requests_are_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for json in [
            r#"{"model":"m","inputs":{"B":[7,8],"A":[[1,2],[3,4]]},"outputs":["Z"],"timeout":1}"#,
            r#"{"instances":[{"A":[1,2],"B":7},{"B":8,"A":[3,4]}],"signature_name":"x"}"#,
        ] {
            let mut body = json.as_bytes().to_vec();
            let at = at.index(body.len());
            body[at] = byte;
            if let Ok(head) = head(&body) {
                let _ = read(&head, &two(), "m");
            }
            let _ = read_tensorflow(&body, &two(), "m");
        }
    }
}
