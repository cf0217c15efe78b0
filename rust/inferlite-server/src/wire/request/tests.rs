use inferlite_core::Dtype;
use inferlite_core::runtime::ValueType;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::fixtures::{Fed, dbl, fed, prefixed, signature, tensor};

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn dbl_request(json: &str) -> Result<InferRequest, Refusal> {
    read(json.as_bytes(), None, &dbl(), "dbl")
}

fn refusal(json: &str) -> String {
    let refusal = dbl_request(json).expect_err(json);
    assert_eq!(refusal.status, 400);
    refusal.to_string()
}

/// A request with one input of these members, in place of `X` with four numbers.
fn with_input(members: &str) -> String {
    format!(r#"{{"inputs":[{{{members}}}]}}"#)
}

#[test]
fn flat_and_nested_data_are_the_same() {
    for data in [
        "[1,2,3,4,5,6,7,8]",
        "[[1,2,3,4],[5,6,7,8]]",
        "[[[1,2],[3,4]],[[5,6],[7,8]]]",
    ] {
        let members = format!(r#""name":"X","shape":[2,4],"datatype":"FP32","data":{data}"#);
        let request = dbl_request(&with_input(&members)).unwrap();
        let wanted = Fed {
            index: 0,
            shape: vec![2, 4],
            bytes: floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        };
        assert_eq!(fed(&request.inputs), [wanted]);
        assert_eq!(request.wanted.fetches.as_slice(), [0]);
        assert_eq!(request.wanted.is_binary.as_slice(), [false]);
        assert_eq!((request.id, request.priority, request.timeout), (None, 0, None));
    }
}

#[test]
fn members_may_come_in_any_order() {
    let members = [
        r#""name":"X""#,
        r#""shape":[1,4]"#,
        r#""datatype":"FP32""#,
        r#""data":[1,2,3,4]"#,
        r#""future":{"a":[null]}"#,
    ];
    for first in 0..members.len() {
        for second in 0..members.len() {
            let mut order = members.to_vec();
            order.swap(0, first);
            order.swap(1, second);
            let request = dbl_request(&with_input(&order.join(" , "))).unwrap();
            assert_eq!(fed(&request.inputs)[0].bytes, floats(&[1.0, 2.0, 3.0, 4.0]));
        }
    }
}

#[test]
fn mistakes_have_the_texts_of_triton() {
    let input = |name: &str, shape: &str, datatype: &str, data: &str| {
        let members = format!(r#""name":"{name}","shape":{shape},"datatype":"{datatype}","data":{data}"#);
        refusal(&with_input(&members))
    };
    assert_eq!(
        input("X", "[1,4]", "INT32", "[1,2,3,4]"),
        "[request id: <id_unknown>] inference input 'X' data-type is 'INT32', but model 'dbl' expects 'FP32'"
    );
    assert_eq!(
        input("X", "[1,5]", "FP32", "[1,2,3,4,5]"),
        "[request id: <id_unknown>] unexpected shape for input 'X' for model 'dbl'. Expected [-1,4], got [1,5]"
    );
    assert_eq!(
        input("X", "[4]", "FP32", "[1,2,3,4]"),
        "[request id: <id_unknown>] unexpected shape for input 'X' for model 'dbl'. Expected [-1,4], got [4]"
    );
    assert_eq!(
        input("Q", "[1,4]", "FP32", "[1,2,3,4]"),
        "unexpected inference input 'Q' for model 'dbl'"
    );
    assert_eq!(
        input("X", "[1,4]", "FP32", r#"[1,2,"3",4]"#),
        "Unable to parse 'data': attempt to access JSON non-number as double: element 2 of input 'X' is \"3\""
    );
    assert_eq!(
        input("X", "[1,4]", "FP32", "[1,2,3]"),
        "Unable to parse 'data': Shape does not match true shape of 'data' field: input 'X' has 3 elements, but its \
         shape [1,4] wants 4"
    );
    assert_eq!(
        input("X", "[1,4]", "FP32", "[1,2,3,4,5]"),
        "Unable to parse 'data': Shape does not match true shape of 'data' field: input 'X' has more than 4 elements"
    );
    assert_eq!(
        input("X", "[1,4]", "FP32", "[[1,2],[3]]"),
        "Unable to parse 'data': Shape does not match true shape of 'data' field: the arrays of input 'X' differ in \
         length or depth"
    );
    assert_eq!(
        input("X", "[1,4]", "FP32", "[1,1e39,3,4]"),
        "Unable to parse 'data': element 1 of input 'X' is 1e39, which FP32 cannot hold"
    );
    assert_eq!(
        input("X", "[1,4]", "FP32", "[1,1e400,3,4]"),
        "failed to parse the request JSON buffer: Number too big to be stored in double. at 65"
    );
    assert_eq!(
        input("X", "[1,4]", "FP32", "7"),
        "Unable to parse 'data': attempt to access JSON non-array as array"
    );
    assert_eq!(
        input("X", "[-1,4]", "FP32", "[]"),
        "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer"
    );
    assert_eq!(
        input("X", "[1000000000000,4]", "FP32", "[1,2,3,4]"),
        "Unable to parse 'data': Shape does not match true shape of 'data' field: input 'X' has 4 elements, but its \
         shape [1000000000000,4] wants 4000000000000"
    );
    assert_eq!(
        input("X", "[9223372036854775807,4]", "FP32", "[1,2,3,4]"),
        "[request id: <id_unknown>] unexpected shape for input 'X' for model 'dbl': [9223372036854775807,4] has more \
         elements than there can be"
    );
}

#[test]
fn what_is_missing_or_too_much_is_named() {
    let x = r#"{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}"#;
    for (json, text) in [
        (
            "{nope".to_owned(),
            "failed to parse the request JSON buffer: Missing a name for object member. at 1",
        ),
        (
            "[]".to_owned(),
            "Unable to parse 'request': attempt to access JSON non-object as object",
        ),
        (
            "{}".to_owned(),
            "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'",
        ),
        (
            r#"{"inputs":[]}"#.to_owned(),
            "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'dbl'. Got input(s) [], but missing \
             required input(s) ['X']. Please provide all required input(s).",
        ),
        (
            r#"{"inputs":[],"id":"42"}"#.to_owned(),
            "[request id: 42] expected 1 inputs but got 0 inputs for model 'dbl'. Got input(s) [], but missing required \
             input(s) ['X']. Please provide all required input(s).",
        ),
        (
            format!(r#"{{"inputs":[{x},{x}]}}"#),
            "[request id: <id_unknown>] input 'X' for model 'dbl' is given twice",
        ),
        (
            format!(r#"{{"inputs":[{x}],"inputs":[]}}"#),
            "Unable to parse 'inputs': the object has two members of this name",
        ),
        (
            with_input(r#""name":"X","name":"X""#),
            "Unable to parse 'name': the object has two members of this name",
        ),
        (
            with_input(r#""name":"X","datatype":"FP32","data":[]"#),
            "Unable to parse 'shape': attempt to access non-existing object member 'shape'",
        ),
        (
            with_input(r#""name":"X","shape":[1,4],"datatype":"FP32""#),
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters'. But no field is \
             set",
        ),
        (
            with_input(r#""data":[],"parameters":{"binary_data_size":0}"#),
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters'. But set 'data' \
             'binary_data_size'",
        ),
        (
            with_input(r#""name":"X","parameters":{"shared_memory_region":"r"}"#),
            "'shared_memory_region' of input 'X' is not supported: send the bytes with the request",
        ),
        (
            with_input(r#""name":7"#),
            "Unable to parse 'name': attempt to access JSON non-string as string",
        ),
        (
            format!(r#"{{"inputs":[{x}],"outputs":[{{"name":"Z"}}]}}"#),
            "unexpected inference output 'Z' for model 'dbl'",
        ),
        (
            format!(r#"{{"inputs":[{x}],"outputs":[{{"name":"Y"}},{{"name":"Y"}}]}}"#),
            "[request id: <id_unknown>] output 'Y' for model 'dbl' is asked for twice",
        ),
        (
            format!(r#"{{"inputs":[{x}],"outputs":[{{"name":"Y","parameters":{{"classification":2}}}}]}}"#),
            "'classification' of output 'Y' is not supported: ask for its numbers",
        ),
        (
            format!(r#"{{"inputs":[{x}],"outputs":[{{"parameters":{{"shared_memory_region":"r"}}}}]}}"#),
            "'shared_memory_region' of output is not supported: send the bytes with the request",
        ),
        (
            format!(r#"{{"inputs":[{x}],"outputs":[{{}}]}}"#),
            "Unable to parse 'name': attempt to access non-existing object member 'name'",
        ),
        (
            format!(r#"{{"inputs":[{x}],"parameters":{{"timeout":-1}}}}"#),
            "Unable to parse 'timeout': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        (
            format!(r#"{{"inputs":[{x}]}} x"#),
            "failed to parse the request JSON buffer: The document root must not be followed by other values. at 75",
        ),
        (
            format!(r#"{{"deep":{}}}"#, "[".repeat(100)),
            "failed to parse the request JSON buffer: Nested deeper than 64 levels. at 71",
        ),
    ] {
        assert_eq!(refusal(&json), text, "{json}");
    }
}

#[test]
fn parameters_that_are_known_count_and_others_are_accepted() {
    let json = r#"{"id":"a\"b","inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4],
        "parameters":{"what":[1]}}],"parameters":{"priority":1,"timeout":2500,"sequence_id":7,"custom":{"a":null}},
        "outputs":[],"model_name":"dbl"}"#;
    let request = dbl_request(json).unwrap();
    assert_eq!(request.id.as_deref(), Some("a\"b"));
    assert_eq!(request.timeout, Some(Duration::from_micros(2500)));
    let level = |level: &str| {
        let json = json.replace(r#""priority":1"#, &format!(r#""priority":{level}"#));
        dbl_request(&json).unwrap().priority
    };
    assert!(level("1") > level("2"));
    assert!(level("2") > level("0"));
    assert_eq!(level("0"), level("100"));
    assert!(level("18446744073709551615") < level("101"));
    let without = json.replace(r#""timeout":2500"#, r#""timeout":0"#);
    assert_eq!(dbl_request(&without).unwrap().timeout, None);
    let null = r#"{"id":null,"parameters":null,"outputs":null,"inputs":[{"name":"X","shape":[0,4],"datatype":"FP32","data":[],
        "parameters":null}]}"#;
    assert_eq!(dbl_request(null).unwrap().id, None);
}

#[test]
fn outputs_go_out_as_they_are_asked_for() {
    let float = || tensor(Dtype::Float32, &[-1]);
    let signature = signature(&[("X", float())], &[("A", float()), ("B", float()), ("C", float())]);
    let wanted = |rest: &str| {
        let json = format!(r#"{{"inputs":[{{"name":"X","shape":[1],"datatype":"FP32","data":[1]}}],{rest}}}"#);
        let wanted = read(json.as_bytes(), None, &signature, "m").unwrap().wanted;
        (wanted.fetches.to_vec(), wanted.is_binary.to_vec())
    };
    let binary = r#""parameters":{"binary_data_output":true}"#;
    assert_eq!(wanted(binary), (vec![0, 1, 2], vec![true; 3]));
    let outputs = r#""outputs":[{"name":"C"},{"name":"A","parameters":{"binary_data":true}},
        {"name":"B","parameters":{"binary_data":false,"classification":0}}]"#;
    assert_eq!(wanted(outputs), (vec![2, 0, 1], vec![false, true, false]));
    assert_eq!(
        wanted(&format!("{outputs},{binary}")),
        (vec![2, 0, 1], vec![true, true, false])
    );
}

#[test]
fn values_that_the_protocol_cannot_carry_are_refused_by_name() {
    let sequence = || ValueType::Sequence(Box::new(tensor(Dtype::Float32, &[])));
    let float = || tensor(Dtype::Float32, &[-1]);
    let model = signature(&[("X", float())], &[("A", float()), ("S", sequence())]);
    let x = r#"{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":[1]}]"#;
    let refusal = read(format!("{x}}}").as_bytes(), None, &model, "m").unwrap_err();
    assert_eq!(
        refusal.message,
        "[request id: <id_unknown>] output 'S' for model 'm' is seq(tensor(float)), which the protocol has no datatype \
         for: ask for other outputs"
    );
    assert!(
        read(
            format!(r#"{x},"outputs":[{{"name":"A"}}]}}"#).as_bytes(),
            None,
            &model,
            "m"
        )
        .is_ok()
    );
    let model = signature(&[("X", sequence())], &[("A", float())]);
    let refusal = read(format!("{x}}}").as_bytes(), None, &model, "m").unwrap_err();
    assert_eq!(
        refusal.message,
        "[request id: <id_unknown>] input 'X' for model 'm' is seq(tensor(float)), which the protocol has no datatype for"
    );
}

#[test]
fn inputs_that_may_be_left_out_may_be_left_out() {
    let float = || tensor(Dtype::Float32, &[1]);
    let mut model = signature(
        &[
            ("A", float()),
            ("B", ValueType::Optional(Box::new(float()))),
            ("C", float()),
        ],
        &[("Y", float())],
    );
    model.required = 2;
    let input = |name: &str| format!(r#"{{"name":"{name}","shape":[1],"datatype":"FP32","data":[1]}}"#);
    let read = |names: &[&str]| {
        let inputs: Vec<String> = names.iter().map(|name| input(name)).collect();
        let json = format!(r#"{{"inputs":[{}]}}"#, inputs.join(","));
        read(json.as_bytes(), None, &model, "m").map(|request| fed(&request.inputs).len())
    };
    assert_eq!(read(&["A"]), Ok(1));
    assert_eq!(read(&["C", "B", "A"]), Ok(3));
    assert_eq!(
        read(&["B"]).unwrap_err().message,
        "[request id: <id_unknown>] expected number of inputs between 1 and 2 but got 1 inputs for model 'm'. Got input(s) \
         ['B'], but missing required input(s) ['A']. Please provide all required input(s)."
    );
}

fn binary(json: &str, tail: &[u8], signature: &Signature) -> Result<Vec<Fed>, Refusal> {
    let body = [json.as_bytes(), tail].concat();
    read(&body, Some(json.len()), signature, "m").map(|request| fed(&request.inputs))
}

#[test]
fn bytes_behind_the_json_are_taken_in_the_order_of_the_inputs() {
    let model = signature(
        &[
            ("I", tensor(Dtype::Int16, &[-1])),
            ("S", tensor(Dtype::String, &[-1])),
            ("B", tensor(Dtype::Bool, &[-1])),
        ],
        &[("Y", tensor(Dtype::Float32, &[1]))],
    );
    let json = r#"{"inputs":[{"name":"S","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":11}},
        {"name":"B","shape":[2],"datatype":"BOOL","parameters":{"binary_data_size":2}},
        {"parameters":{"binary_data_size":4},"name":"I","shape":[2],"datatype":"INT16"}]}"#;
    let tail = [
        &prefixed([&b"abc"[..], b""].into_iter())[..],
        &[0, 9],
        &[1, 0, 255, 255],
    ]
    .concat();
    let read = binary(json, &tail, &model).unwrap();
    let bytes: Vec<&[u8]> = read.iter().map(|fed| &*fed.bytes).collect();
    assert_eq!(bytes, [&tail[..11], &[0, 1], &[1, 0, 255, 255]]);

    let text = |tail: &[u8]| binary(json, tail, &model).unwrap_err().to_string();
    assert_eq!(
        text(&tail[..16]),
        "unexpected size for input 'I', expecting 1 additional bytes for model 'm'"
    );
    assert_eq!(
        text(&[&tail[..], &[0]].concat()),
        "unexpected additional input data for model 'm'"
    );
    let shorter = json.replace("\"binary_data_size\":2", "\"binary_data_size\":1");
    assert_eq!(
        binary(&shorter, &tail, &model).unwrap_err().message,
        "[request id: <id_unknown>] input byte size mismatch for input 'B' for model 'm'. Expected 2, got 1"
    );
    let huge = json.replace("\"binary_data_size\":2", "\"binary_data_size\":18446744073709551615");
    assert_eq!(
        binary(&huge, &tail, &model).unwrap_err().message,
        "unexpected size for input 'B', expecting 18446744073709551609 additional bytes for model 'm'"
    );
}

#[test]
fn the_lengths_of_strings_are_checked() {
    let model = signature(
        &[("S", tensor(Dtype::String, &[-1]))],
        &[("Y", tensor(Dtype::Float32, &[1]))],
    );
    let text = |count: usize, tail: &[u8]| {
        let json = format!(
            r#"{{"id":"7","inputs":[{{"name":"S","shape":[{count}],"datatype":"BYTES","parameters":{{"binary_data_size":{}}}}}]}}"#,
            tail.len()
        );
        binary(&json, tail, &model).unwrap_err().to_string()
    };
    assert_eq!(
        text(2, &prefixed([&b"abc"[..]].into_iter())),
        "[request id: 7] unexpected number of string elements 1 for inference input 'S', expecting 2"
    );
    assert_eq!(
        text(1, &prefixed([&b"abc"[..], b""].into_iter())),
        "[request id: 7] unexpected number of string elements for inference input 'S': 4 bytes follow the 1 that are \
         expected"
    );
    assert_eq!(
        text(1, &[1, 0]),
        "[request id: 7] incomplete string length indicator for inference input 'S', expecting 4 bytes but only 2 bytes \
         available"
    );
    assert_eq!(
        text(1, &[255, 255, 255, 255, b'a']),
        "[request id: 7] incomplete string data for inference input 'S', expecting string of length 4294967295 but only 1 \
         bytes available"
    );
    assert_eq!(
        text(1_000_000_000_000, &[]),
        "[request id: 7] unexpected number of string elements 0 for inference input 'S', expecting 1000000000000"
    );
}

#[test]
fn a_header_longer_than_the_body_is_refused() {
    let refusal = read(b"{}", Some(3), &dbl(), "dbl").unwrap_err();
    assert_eq!(
        refusal.message,
        "inference header size should be in range (0, 2), got: 3"
    );
}

#[test]
fn a_raw_body_is_the_only_input() {
    let request = read(
        &floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        Some(0),
        &dbl(),
        "dbl",
    )
    .unwrap();
    assert_eq!(fed(&request.inputs)[0].shape, [2, 4]);
    assert_eq!(request.wanted.is_binary.as_slice(), [true]);
    let empty = read(b"", Some(0), &dbl(), "dbl").unwrap();
    assert_eq!(fed(&empty.inputs)[0].shape, [0, 4]);

    let raw = |dtype, dims: &[i64], len: usize| {
        let model = signature(&[("X", tensor(dtype, dims))], &[("Y", tensor(Dtype::Float32, &[1]))]);
        let request = read(&vec![0; len], Some(0), &model, "m");
        request
            .map(|request| fed(&request.inputs)[0].shape.clone())
            .map_err(|refusal| refusal.to_string())
    };
    assert_eq!(raw(Dtype::Int16, &[2, 3], 12), Ok(vec![2, 3]));
    assert_eq!(raw(Dtype::Int16, &[], 2), Ok(vec![]));
    assert_eq!(raw(Dtype::Int16, &[3, -1], 18), Ok(vec![3, 3]));
    assert_eq!(raw(Dtype::Int16, &[-1, -1, 3], 18), Ok(vec![1, 3, 3]));
    assert_eq!(
        raw(Dtype::Int16, &[-1, -1, -1], 18),
        Err(
            "[request id: <id_unknown>] the shape of the raw input 'X' for model 'm' cannot be deduced: more than one \
             axis is variable-sized"
                .into()
        )
    );
    assert_eq!(
        raw(Dtype::Int16, &[-1, 3], 13),
        Err(
            "[request id: <id_unknown>] input byte size mismatch for input 'X' for model 'm'. Expected 12, got 13"
                .into()
        )
    );
    assert_eq!(
        raw(Dtype::Int16, &[2, 3], 18),
        Err(
            "[request id: <id_unknown>] input byte size mismatch for input 'X' for model 'm'. Expected 12, got 18"
                .into()
        )
    );
    assert_eq!(
        raw(Dtype::Int16, &[-1, 0], 18),
        Err(
            "[request id: <id_unknown>] input byte size mismatch for input 'X' for model 'm'. Expected 0, got 18"
                .into()
        )
    );
    assert_eq!(
        raw(Dtype::String, &[-1], 18),
        Err(
            "[request id: <id_unknown>] raw input 'X' for model 'm' cannot be BYTES, whose number cannot be deduced"
                .into()
        )
    );
    let float = || tensor(Dtype::Float32, &[-1]);
    let two = signature(&[("A", float()), ("B", float())], &[("Y", float())]);
    assert_eq!(
        read(&[0; 4], Some(0), &two, "m").unwrap_err().message,
        "[request id: <id_unknown>] raw input is for models that require one input, but model 'm' requires another number"
    );
}

/// What the request asks for, by way of a tree and without care for time or memory.
fn by_tree(json: &[u8], tail: &[u8], names: &[&str]) -> Option<Vec<Fed>> {
    let tree: serde_json::Value = serde_json::from_slice(json).ok()?;
    let mut at = 0_usize;
    let mut read: Vec<Fed> = Vec::new();
    for input in tree.get("inputs")?.as_array()? {
        let index = names.iter().position(|name| input["name"] == *name)?;
        if input["datatype"] != "INT16" || read.iter().any(|fed| fed.index == index) {
            return None;
        }
        let shape = input.get("shape")?.as_array()?.iter();
        let shape: Vec<i64> = shape
            .map(|extent| extent.as_u64()?.try_into().ok())
            .collect::<Option<_>>()?;
        let count: i64 = shape
            .iter()
            .try_fold(1_i64, |count, extent| count.checked_mul(*extent))?;
        let bytes = match (
            input.get("data"),
            input.get("parameters").and_then(|all| all.get("binary_data_size")),
        ) {
            (Some(data), None) => {
                let mut bytes = Vec::new();
                for number in data.as_array()? {
                    bytes.extend(i16::try_from(number.as_i64()?).ok()?.to_le_bytes());
                }
                bytes
            }
            (None, Some(len)) => {
                let len = usize::try_from(len.as_u64()?).ok()?;
                let bytes = tail.get(at..at.checked_add(len)?)?.to_vec();
                at += len;
                bytes
            }
            _ => return None,
        };
        if usize::try_from(count).ok()?.checked_mul(2)? != bytes.len() || shape.len() != 1 {
            return None;
        }
        read.push(Fed { index, shape, bytes });
    }
    (at == tail.len() && read.len() == names.len()).then_some(read)
}

/// An input with mistakes now and then, and the bytes that belong to it.
fn input() -> impl Strategy<Value = (String, Vec<u8>)> {
    let numbers = vec(
        prop_oneof![20 => any::<i16>().prop_map(i32::from), 1 => any::<i32>()],
        0..5,
    );
    let odd = prop_oneof![10 => Just(0_i64), 1 => -2..3_i64];
    let name = prop_oneof![8 => prop::sample::select(vec!["A", "B"]), 1 => Just("C")];
    let datatype = prop_oneof![12 => Just("INT16"), 1 => Just("INT32")];
    (
        name,
        datatype,
        numbers,
        odd.clone(),
        odd,
        any::<bool>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(name, datatype, numbers, longer, more, is_binary, rotation)| {
            let count = i64::try_from(numbers.len()).unwrap() + longer;
            let mut members = vec![
                format!(r#""name": "{name}""#),
                format!(r#""datatype":"{datatype}""#),
                format!(r#""shape":[{count}]"#),
            ];
            let mut bytes = Vec::new();
            if is_binary {
                bytes = numbers
                    .iter()
                    .flat_map(|number| number.to_le_bytes()[..2].to_vec())
                    .collect();
                let len = i64::try_from(bytes.len()).unwrap() + more;
                members.push(format!(r#""parameters":{{"binary_data_size":{len}}}"#));
            } else {
                members.push(format!(r#""data" : {numbers:?}"#));
            }
            let middle = rotation.index(members.len());
            members.rotate_left(middle);
            (format!("{{{}}}", members.join(",")), bytes)
        })
}

proptest! {
    #[test]
    fn requests_are_what_a_tree_says(inputs in vec(input(), 1..4), cut in prop_oneof![8 => Just(0_usize), 1 => 1..3_usize]) {
        let short = || tensor(Dtype::Int16, &[-1]);
        let (first, second) = (("A", short()), ("B", short()));
        let model = signature(&[first, second], &[("Y", short())]);
        let (texts, mut tail) = inputs.into_iter().fold((Vec::new(), Vec::new()), |(mut texts, mut tail), (text, bytes)| {
            texts.push(text);
            tail.extend(bytes);
            (texts, tail)
        });
        tail.truncate(tail.len().saturating_sub(cut));
        let json = format!(r#"{{"inputs":[{}]}}"#, texts.join(","));
        prop_assert_eq!(binary(&json, &tail, &model).ok(), by_tree(json.as_bytes(), &tail, &["A", "B"]), "{}", json);
    }

    #[test]
    fn changed_requests_are_read_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        json_len in prop::option::of(0..120_usize),
    ) {
        let mut body = br#"{"id":"1","inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2.5,3e1,-4]}],
            "parameters":{"timeout":1,"priority":2,"binary_data_output":true},"outputs":[{"name":"Y"}]}"#.to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        match read(&body, json_len, &dbl(), "dbl") {
            Ok(request) => prop_assert_eq!(request.wanted.fetches.as_slice(), [0]),
            Err(refusal) => prop_assert_eq!(refusal.status, 400),
        }
    }
}
