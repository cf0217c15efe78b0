use inferlite_core::Dtype;
use inferlite_core::runtime::ValueType;

use super::*;
use crate::wire::fixtures::{dbl, signature, tensor};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut into = Vec::new();
    write(&mut into);
    String::from_utf8(into).unwrap()
}

#[test]
fn replies_are_those_of_triton() {
    assert_eq!(
        written(|into| write_model(into, "dbl", &["1"], "python", &dbl())),
        r#"{"name":"dbl","versions":["1"],"platform":"python","inputs":[{"name":"X","datatype":"FP32","shape":[-1,4]}],"outputs":[{"name":"Y","datatype":"FP32","shape":[-1,4]}]}"#
    );
    let entry = |name| IndexEntry {
        name,
        version: Some("1"),
        state: Some("READY"),
        reason: None,
    };
    assert_eq!(
        written(|into| write_index(into, [entry("dbl"), entry("shapes")])),
        r#"[{"name":"dbl","version":"1","state":"READY"},{"name":"shapes","version":"1","state":"READY"}]"#
    );
    assert_eq!(
        written(|into| write_error(into, "Request for unknown model: 'nope' is not found")),
        r#"{"error":"Request for unknown model: 'nope' is not found"}"#
    );
    assert_eq!(
        written(|into| write_server(into, "inferlite", "0.1.0", &["binary_tensor_data", "statistics"])),
        r#"{"name":"inferlite","version":"0.1.0","extensions":["binary_tensor_data","statistics"]}"#
    );
    assert_eq!(
        written(|into| write_config(into, "dbl", "onnxruntime", &dbl())),
        r#"{"name":"dbl","platform":"onnxruntime_onnx","backend":"onnxruntime","max_batch_size":0,"input":[{"name":"X","data_type":"TYPE_FP32","dims":[-1,4]}],"output":[{"name":"Y","data_type":"TYPE_FP32","dims":[-1,4]}]}"#
    );
}

#[test]
fn models_never_loaded_have_their_names_alone() {
    let entry = IndexEntry {
        name: "a\"b",
        version: None,
        state: None,
        reason: None,
    };
    assert_eq!(written(|into| write_index(into, [entry])), r#"[{"name":"a\"b"}]"#);
    let failed = IndexEntry {
        version: Some("2"),
        state: Some("UNAVAILABLE"),
        reason: Some("no such file"),
        ..entry
    };
    assert_eq!(
        written(|into| write_index(into, [failed])),
        r#"[{"name":"a\"b","version":"2","state":"UNAVAILABLE","reason":"no such file"}]"#
    );
    assert_eq!(written(|into| write_index(into, [])), "[]");
}

#[test]
fn arguments_that_are_no_plain_tensors_have_their_types() {
    let unknown = ValueType::Tensor {
        dtype: Dtype::Bool,
        shape: None,
    };
    let model = signature(
        &[
            ("S", tensor(Dtype::String, &[1])),
            ("O", ValueType::Optional(Box::new(tensor(Dtype::Float16, &[2])))),
        ],
        &[
            ("U", unknown),
            ("Q", ValueType::Sequence(Box::new(tensor(Dtype::Float32, &[])))),
        ],
    );
    assert_eq!(
        written(|into| write_model(into, "m", &[], "onnxruntime_onnx", &model)),
        r#"{"name":"m","versions":[],"platform":"onnxruntime_onnx","inputs":[{"name":"S","datatype":"BYTES","shape":[1]},{"name":"O","datatype":"FP16","shape":[2]}],"outputs":[{"name":"U","datatype":"BOOL"},{"name":"Q","datatype":"seq(tensor(float))"}]}"#
    );
    let config = written(|into| write_config(into, "m", "onnxruntime", &model));
    assert!(
        config.contains(r#"{"name":"S","data_type":"TYPE_STRING","dims":[1]}"#),
        "{config}"
    );
}
