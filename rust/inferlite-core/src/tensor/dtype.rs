//! The types of tensor elements.

use std::fmt;

/// The type of a tensor's elements, numbered as ONNX numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are ONNX's own")]
pub enum Dtype {
    Undefined = 0,
    Float32 = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    String = 8,
    Bool = 9,
    Float16 = 10,
    Float64 = 11,
    Uint32 = 12,
    Uint64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    Bfloat16 = 16,
    Float8e4m3fn = 17,
    Float8e4m3fnuz = 18,
    Float8e5m2 = 19,
    Float8e5m2fnuz = 20,
    Uint4 = 21,
    Int4 = 22,
    Float4e2m1 = 23,
    Uint2 = 24,
    Int2 = 25,
    Float8e8m0 = 26,
}

use Dtype as D;

const TABLE: [(Dtype, &str, &str, usize); 27] = [
    (D::Undefined, "undefined", "undefined", 0),
    (D::Float32, "float", "float32", 32),
    (D::Uint8, "uint8", "uint8", 8),
    (D::Int8, "int8", "int8", 8),
    (D::Uint16, "uint16", "uint16", 16),
    (D::Int16, "int16", "int16", 16),
    (D::Int32, "int32", "int32", 32),
    (D::Int64, "int64", "int64", 64),
    (D::String, "string", "string", 0),
    (D::Bool, "bool", "bool", 8),
    (D::Float16, "float16", "float16", 16),
    (D::Float64, "double", "float64", 64),
    (D::Uint32, "uint32", "uint32", 32),
    (D::Uint64, "uint64", "uint64", 64),
    (D::Complex64, "complex64", "complex64", 64),
    (D::Complex128, "complex128", "complex128", 128),
    (D::Bfloat16, "bfloat16", "bfloat16", 16),
    (D::Float8e4m3fn, "float8e4m3fn", "float8_e4m3fn", 8),
    (D::Float8e4m3fnuz, "float8e4m3fnuz", "float8_e4m3fnuz", 8),
    (D::Float8e5m2, "float8e5m2", "float8_e5m2", 8),
    (D::Float8e5m2fnuz, "float8e5m2fnuz", "float8_e5m2fnuz", 8),
    (D::Uint4, "uint4", "uint4", 4),
    (D::Int4, "int4", "int4", 4),
    (D::Float4e2m1, "float4e2m1", "float4_e2m1fn", 4),
    (D::Uint2, "uint2", "uint2", 2),
    (D::Int2, "int2", "int2", 2),
    (D::Float8e8m0, "float8e8m0", "float8_e8m0fnu", 8),
];

impl Dtype {
    /// The type of this ONNX number; numbers of a later ONNX count as [`Dtype::Undefined`].
    #[inline]
    #[must_use]
    pub fn from_onnx(number: i32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|i| TABLE.get(i))
            .map_or(Self::Undefined, |row| row.0)
    }

    /// Bits per element; 0 for strings and the undefined type.
    #[inline]
    #[must_use]
    pub fn bits(self) -> usize {
        TABLE[self as usize].3
    }

    /// The name that onnxruntime uses in `tensor(...)`.
    #[must_use]
    pub fn onnx_name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// The name that numpy, or `ml_dtypes`, uses.
    #[must_use]
    pub fn numpy_name(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// The name that onnxruntime's own messages use, where it differs from [`Dtype::onnx_name`].
    #[must_use]
    pub fn message_name(self) -> &'static str {
        match self {
            D::Float8e4m3fnuz => "Float8E4M3FNUZ",
            D::Float8e5m2 => "Float8E5M2",
            D::Float8e5m2fnuz => "Float8E5M2FNUZ",
            D::Float8e8m0 => "Float8E8M0",
            D::Int4 => "Int4x2",
            D::Uint4 => "UInt4x2",
            D::Int2 => "Int2x4",
            D::Uint2 => "UInt2x4",
            other => other.onnx_name(),
        }
    }

    /// Bytes of a tensor of so many elements, several of which may share a byte; `None` on overflow.
    #[inline]
    #[must_use]
    pub fn byte_len(self, elements: usize) -> Option<usize> {
        Some(elements.checked_mul(self.bits())?.div_ceil(8))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.numpy_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for (number, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, number);
        }
    }

    #[test]
    fn an_unknown_number_is_undefined() {
        assert_eq!(Dtype::from_onnx(-1), Dtype::Undefined);
        assert_eq!(Dtype::from_onnx(1000), Dtype::Undefined);
    }

    #[test]
    fn small_elements_share_bytes() {
        assert_eq!(Dtype::Int4.byte_len(3), Some(2));
        assert_eq!(Dtype::Float32.byte_len(usize::MAX), None);
    }
}
