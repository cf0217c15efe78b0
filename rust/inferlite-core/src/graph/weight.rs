//! A tensor in a model file: its shape, and its numbers where they are few integers.

use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType, decode_varint, skip_field};
use prost::{DecodeError, Message};

use crate::tensor::Dtype;

/// Contents of more bytes are skipped in place: shapes, axes and indices are small, weights are not.
const SMALL_BYTES: usize = 4096;

/// A weight or a constant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weight {
    /// The name.
    pub name: String,
    /// The extent of every axis.
    pub dims: Vec<i64>,
    /// The number of the element type.
    pub data_type: i32,
    /// The content as 32-bit and smaller integers.
    int32_data: Vec<i32>,
    /// The content as 64-bit integers.
    int64_data: Vec<i64>,
    /// The content as bytes in little-endian order.
    raw_data: Vec<u8>,
}

const DIMS: u32 = 1;
const DATA_TYPE: u32 = 2;
const INT32_DATA: u32 = 5;
const INT64_DATA: u32 = 7;
const NAME: u32 = 8;
const RAW_DATA: u32 = 9;

impl Weight {
    /// A weight of this name, of which nothing else is known.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// A tensor of 64-bit integers.
    #[must_use]
    pub fn of_integers(name: &str, dims: &[i64], numbers: &[i64]) -> Self {
        Self {
            name: name.into(),
            dims: dims.into(),
            data_type: Dtype::Int64 as i32,
            int64_data: numbers.into(),
            ..Self::default()
        }
    }

    /// A truth value.
    #[cfg(test)]
    pub(super) fn of_truth(name: &str, truth: bool) -> Self {
        Self {
            name: name.into(),
            data_type: Dtype::Bool as i32,
            int32_data: vec![i32::from(truth)],
            ..Self::default()
        }
    }

    /// Whether it is one truth value, and false.
    #[must_use]
    pub(super) fn is_false(&self) -> bool {
        Dtype::from_proto(self.data_type) == Dtype::Bool && self.integers().is_some_and(|numbers| numbers == [0])
    }

    /// The integers in C order; `None` for other types, and where there are too many to have been read.
    #[must_use]
    pub fn integers(&self) -> Option<Vec<i64>> {
        let count = crate::tensor::element_count(&self.dims).ok()?;
        let dtype = Dtype::from_proto(self.data_type);
        let numbers: Vec<i64> = match dtype {
            Dtype::Int64 if !self.int64_data.is_empty() => self.int64_data.clone(),
            Dtype::Int64 => self.raw(i64::from_le_bytes),
            Dtype::Int32 | Dtype::Bool | Dtype::Uint8 | Dtype::Int8 if !self.int32_data.is_empty() => {
                self.int32_data.iter().map(|&number| i64::from(number)).collect()
            }
            Dtype::Int32 => self.raw(|bytes| i64::from(i32::from_le_bytes(bytes))),
            Dtype::Bool | Dtype::Uint8 => self.raw(|[byte]: [u8; 1]| i64::from(byte)),
            Dtype::Int8 => self.raw(|bytes| i64::from(i8::from_le_bytes(bytes))),
            _ => return None,
        };
        (numbers.len() == count).then_some(numbers)
    }

    fn raw<const N: usize>(&self, number: impl Fn([u8; N]) -> i64) -> Vec<i64> {
        self.raw_data
            .as_chunks::<N>()
            .0
            .iter()
            .map(|bytes| number(*bytes))
            .collect()
    }
}

/// Hands a small field over to `read`, and skips a large one.
fn small(buf: &mut impl Buf, read: impl FnOnce(&mut Vec<u8>) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
    let length = usize::try_from(decode_varint(buf)?).unwrap_or(usize::MAX);
    if length > buf.remaining() {
        // As prost itself refuses what ends too soon.
        return Err(decode_varint(&mut &[][..]).expect_err("there is no number in nothing"));
    }
    if length > SMALL_BYTES {
        buf.advance(length);
        return Ok(());
    }
    let mut bytes = vec![0; length];
    buf.copy_to_slice(&mut bytes);
    read(&mut bytes)
}

impl Message for Weight {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::int64::encode_packed(DIMS, &self.dims, buf);
        encoding::int32::encode(DATA_TYPE, &self.data_type, buf);
        encoding::int32::encode_packed(INT32_DATA, &self.int32_data, buf);
        encoding::int64::encode_packed(INT64_DATA, &self.int64_data, buf);
        encoding::string::encode(NAME, &self.name, buf);
        encoding::bytes::encode(RAW_DATA, &self.raw_data, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let is_packed = wire_type == WireType::LengthDelimited;
        match tag {
            DIMS => encoding::int64::merge_repeated(wire_type, &mut self.dims, buf, ctx),
            DATA_TYPE => encoding::int32::merge(wire_type, &mut self.data_type, buf, ctx),
            INT32_DATA if is_packed => small(buf, |bytes| {
                let mut bytes = bytes.as_slice();
                while !bytes.is_empty() {
                    encoding::int32::merge_repeated(WireType::Varint, &mut self.int32_data, &mut bytes, ctx.clone())?;
                }
                Ok(())
            }),
            INT64_DATA if is_packed => small(buf, |bytes| {
                let mut bytes = bytes.as_slice();
                while !bytes.is_empty() {
                    encoding::int64::merge_repeated(WireType::Varint, &mut self.int64_data, &mut bytes, ctx.clone())?;
                }
                Ok(())
            }),
            INT32_DATA => encoding::int32::merge_repeated(wire_type, &mut self.int32_data, buf, ctx),
            INT64_DATA => encoding::int64::merge_repeated(wire_type, &mut self.int64_data, buf, ctx),
            NAME => encoding::string::merge(wire_type, &mut self.name, buf, ctx),
            RAW_DATA if is_packed => small(buf, |bytes| {
                self.raw_data = std::mem::take(bytes);
                Ok(())
            }),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        encoding::int64::encoded_len_packed(DIMS, &self.dims)
            + encoding::int32::encoded_len(DATA_TYPE, &self.data_type)
            + encoding::int32::encoded_len_packed(INT32_DATA, &self.int32_data)
            + encoding::int64::encoded_len_packed(INT64_DATA, &self.int64_data)
            + encoding::string::encoded_len(NAME, &self.name)
            + encoding::bytes::encoded_len(RAW_DATA, &self.raw_data)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(weight: &Weight) -> Weight {
        Weight::decode(weight.encode_to_vec().as_slice()).expect("it was just written")
    }

    #[test]
    fn few_integers_are_read_however_they_are_written() {
        let numbers = [2, -1, i64::MAX];
        let listed = Weight::of_integers("shape", &[3], &numbers);
        assert_eq!(read_back(&listed).integers().as_deref(), Some(&numbers[..]));
        let raw = Weight {
            int64_data: Vec::new(),
            raw_data: numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            ..listed
        };
        assert_eq!(read_back(&raw).integers().as_deref(), Some(&numbers[..]));
        let truth = Weight {
            dims: vec![],
            data_type: Dtype::Bool as i32,
            int32_data: vec![1],
            ..Weight::default()
        };
        assert_eq!(read_back(&truth).integers(), Some(vec![1]));
    }

    #[test]
    fn large_contents_and_other_types_are_left_out() {
        let large = Weight {
            dims: vec![1000],
            data_type: Dtype::Int64 as i32,
            raw_data: vec![0; 8000],
            ..Weight::named("w")
        };
        let read = read_back(&large);
        assert_eq!((read.name.as_str(), read.dims.as_slice()), ("w", &[1000][..]));
        assert_eq!((read.raw_data.len(), read.integers()), (0, None));
        let floats = Weight {
            dims: vec![1],
            data_type: Dtype::Float32 as i32,
            raw_data: vec![0; 4],
            ..Weight::default()
        };
        assert_eq!(read_back(&floats).integers(), None);
    }

    #[test]
    fn what_ends_too_soon_is_an_error() {
        assert!(Weight::decode(&[RAW_DATA.to_le_bytes()[0] << 3 | 2, 9, 1][..]).is_err());
    }
}
