//! The names that the Open Inference Protocol has for the types of elements.

use inferlite_core::Dtype;

const NAMES: [(Dtype, &str); 14] = [
    (Dtype::Bool, "BOOL"),
    (Dtype::Uint8, "UINT8"),
    (Dtype::Uint16, "UINT16"),
    (Dtype::Uint32, "UINT32"),
    (Dtype::Uint64, "UINT64"),
    (Dtype::Int8, "INT8"),
    (Dtype::Int16, "INT16"),
    (Dtype::Int32, "INT32"),
    (Dtype::Int64, "INT64"),
    (Dtype::Float16, "FP16"),
    (Dtype::Float32, "FP32"),
    (Dtype::Float64, "FP64"),
    (Dtype::Bfloat16, "BF16"),
    (Dtype::String, "BYTES"),
];

/// The protocol's name of a type; `None` where it has none.
#[must_use]
pub fn name(dtype: Dtype) -> Option<&'static str> {
    NAMES.iter().find(|row| row.0 == dtype).map(|row| row.1)
}

/// The type of this name; `None` where there is none.
#[must_use]
pub fn dtype(name: &str) -> Option<Dtype> {
    NAMES.iter().find(|row| row.1 == name).map(|row| row.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_type() {
        for (expected, text) in NAMES {
            assert_eq!(dtype(text), Some(expected));
            assert_eq!(name(expected), Some(text));
        }
        assert_eq!(dtype("fp32"), None);
        assert_eq!(name(Dtype::Complex64), None);
    }
}
