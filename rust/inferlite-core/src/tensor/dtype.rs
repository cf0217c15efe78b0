//! The types of tensor elements.

use std::fmt;

/// The type of a tensor's elements, numbered as the runtime's C interface numbers them.
///
/// ONNX gives the last three other numbers: see [`Dtype::proto`].
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
    /// The type of this number of the runtime; numbers of a later one count as [`Dtype::Undefined`].
    #[inline]
    #[must_use]
    pub fn from_runtime(number: i32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|i| TABLE.get(i))
            .map_or(Self::Undefined, |row| row.0)
    }

    /// The type of this number in an ONNX file; numbers of a later ONNX count as [`Dtype::Undefined`].
    #[must_use]
    pub fn from_proto(number: i32) -> Self {
        match number {
            24 => Self::Float8e8m0,
            25 => Self::Uint2,
            26 => Self::Int2,
            other => Self::from_runtime(other),
        }
    }

    /// The number that stands for the type in an ONNX file.
    #[must_use]
    pub fn proto(self) -> i32 {
        match self {
            Self::Float8e8m0 => 24,
            Self::Uint2 => 25,
            Self::Int2 => 26,
            other => other as i32,
        }
    }

    /// Whether several elements share a byte.
    #[inline]
    #[must_use]
    pub fn is_packed(self) -> bool {
        matches!(
            self,
            Self::Uint4 | Self::Int4 | Self::Float4e2m1 | Self::Uint2 | Self::Int2
        )
    }

    /// Elements with a byte each, of which the low bits count, as they share bytes: the first in the lowest bits.
    #[must_use]
    pub fn pack(self, elements: &[u8]) -> Vec<u8> {
        debug_assert!(self.is_packed(), "others have bytes of their own");
        let bits = self.bits();
        let mask = (1_u8 << bits) - 1;
        elements
            .chunks(8 / bits)
            .map(|chunk| {
                let shifted = chunk
                    .iter()
                    .enumerate()
                    .map(|(i, element)| (element & mask) << (i * bits));
                shifted.fold(0, |byte, element| byte | element)
            })
            .collect()
    }

    /// Elements that share bytes, with a byte each; also those of the bits that fill up the last byte.
    pub fn unpack(self, bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
        debug_assert!(self.is_packed(), "others have bytes of their own");
        let bits = self.bits();
        let mask = (1_u8 << bits) - 1;
        bytes
            .iter()
            .flat_map(move |byte| (0..8 / bits).map(move |i| (byte >> (i * bits)) & mask))
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
        assert_eq!(Dtype::from_runtime(-1), Dtype::Undefined);
        assert_eq!(Dtype::from_runtime(1000), Dtype::Undefined);
        assert_eq!(Dtype::from_proto(1000), Dtype::Undefined);
    }

    #[test]
    fn every_type_has_its_number_in_a_file() {
        for row in TABLE {
            assert_eq!(Dtype::from_proto(row.0.proto()), row.0);
        }
        assert_eq!(Dtype::from_proto(24), Dtype::Float8e8m0);
    }

    #[test]
    fn elements_that_share_bytes_keep_their_order() {
        for (dtype, elements, packed) in [
            (Dtype::Int4, &[1, 0xF, 7][..], &[0xF1, 7][..]),
            (Dtype::Uint2, &[3, 0, 1, 2, 1], &[0b10_01_00_11, 1]),
            (Dtype::Float4e2m1, &[], &[]),
        ] {
            assert_eq!(dtype.pack(elements), packed);
            let unpacked: Vec<u8> = dtype.unpack(packed).collect();
            assert_eq!(&unpacked[..elements.len()], elements);
            assert!(unpacked[elements.len()..].iter().all(|&element| element == 0));
        }
        // A sign that fills the byte does not reach the neighbour.
        assert_eq!(Dtype::Int4.pack(&[0xFF, 0]), [0x0F]);
    }

    #[test]
    fn small_elements_share_bytes() {
        assert_eq!(Dtype::Int4.byte_len(3), Some(2));
        assert_eq!(Dtype::Float32.byte_len(usize::MAX), None);
    }
}
