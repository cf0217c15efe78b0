use super::*;
use crate::wire::fixtures::{answer, dbl, floats, signature, strings, tensor};
use inferlite_core::runtime::ValueType;
use inferlite_core::{Dtype, Value};

fn reply(
    signature: &Signature,
    id: Option<&str>,
    is_binary: &[bool],
    values: Vec<Value>,
) -> Result<(Option<usize>, Vec<u8>), Refusal> {
    let wanted = Wanted {
        fetches: (0..values.len()).collect(),
        is_binary: is_binary.into(),
    };
    let head = Head {
        id,
        model: "dbl",
        version: "1",
        signature,
        wanted: &wanted,
    };
    let mut into = b"before".to_vec();
    let json_len = write(&mut into, &head, &answer(values)).inspect_err(|_| assert_eq!(into, b"before"))?;
    Ok((json_len, into.split_off(6)))
}

#[test]
fn a_reply_in_json_is_that_of_triton() {
    let (json_len, body) = reply(
        &dbl(),
        Some("42"),
        &[false],
        vec![floats(&[1, 4], &[2.0, 4.0, 6.0, 9.0])],
    )
    .unwrap();
    assert_eq!(json_len, None);
    assert_eq!(
        String::from_utf8(body).unwrap(),
        r#"{"id":"42","model_name":"dbl","model_version":"1","outputs":[{"name":"Y","datatype":"FP32","shape":[1,4],"data":[2.0,4.0,6.0,9.0]}]}"#
    );
}

#[test]
fn a_reply_with_bytes_is_that_of_triton() {
    let numbers = [2.0_f32, 4.0, 6.0, 9.0];
    let (json_len, body) = reply(&dbl(), None, &[true], vec![floats(&[1, 4], &numbers)]).unwrap();
    assert_eq!((json_len, body.len()), (Some(134), 150));
    let (json, bytes) = body.split_at(134);
    assert_eq!(
        std::str::from_utf8(json).unwrap(),
        r#"{"model_name":"dbl","model_version":"1","outputs":[{"name":"Y","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}"#
    );
    assert_eq!(bytes, numbers.map(f32::to_le_bytes).concat());
}

#[test]
fn outputs_of_both_kinds_share_a_reply() {
    let float = || tensor(Dtype::Float32, &[-1]);
    let model = signature(
        &[],
        &[("A", float()), ("S", tensor(Dtype::String, &[-1])), ("C", float())],
    );
    let values = || {
        vec![
            floats(&[1], &[1.0]),
            strings(&[2], &[b"ab", b"\xff"]),
            floats(&[0], &[]),
        ]
    };
    let (json_len, body) = reply(&model, None, &[false, true, false], values()).unwrap();
    let (json, bytes) = body.split_at(json_len.unwrap());
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    let wanted = serde_json::json!([
        {"name": "A", "datatype": "FP32", "shape": [1], "data": [1.0]},
        {"name": "S", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}},
        {"name": "C", "datatype": "FP32", "shape": [0], "data": []},
    ]);
    assert_eq!(json["outputs"], wanted);
    assert_eq!(bytes, b"\x02\0\0\0ab\x01\0\0\0\xff");

    let refusal = reply(&model, None, &[false; 3], values()).unwrap_err();
    assert_eq!(refusal.status, 400);
    assert_eq!(
        refusal.message,
        "output 'S' has strings that are not UTF-8 and cannot be sent as JSON. Please use the binary data format"
    );
}

#[test]
fn what_is_no_tensor_is_refused_by_name() {
    let model = signature(&[], &[("A", ValueType::Opaque)]);
    let refusal = reply(&model, None, &[false], vec![Value::Absent]).unwrap_err();
    assert_eq!(refusal.status, 500);
    assert_eq!(
        refusal.message,
        "output 'A' is no tensor of a type that the protocol has a name for"
    );
}
