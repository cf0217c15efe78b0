//! Inputs that are made up from what a model declares, and the numbers that they and other rows are made of.

use crate::runtime::{Argument, Dim, ValueType};
use crate::tensor::{Dtype, Shape, Strings, Tensor, Value, element_count};

/// Inputs that would be larger are not made up.
const MOST_BYTES: usize = 1 << 20;
/// Where the numbers begin, an odd one like all that may be given.
pub(super) const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// A value of the declared type and shape, with `rows` on the batch axis and `unknown` wherever no extent is declared, of
/// numbers that begin with `seed`, which must be odd.
pub(super) fn value(
    argument: &Argument,
    axis: Option<usize>,
    rows: usize,
    unknown: i64,
    seed: u64,
) -> Result<Value, String> {
    let ValueType::Tensor { dtype, .. } = argument.value_type else {
        return Err(format!("input `{}` is no tensor", argument.name));
    };
    let dims = argument
        .shape()
        .ok_or_else(|| format!("input `{}` declares no shape", argument.name))?;
    let shape: Shape = dims
        .iter()
        .enumerate()
        .map(|(position, dim)| match dim {
            _ if axis == Some(position) => i64::try_from(rows).unwrap_or(1),
            Dim::Fixed(extent) => *extent,
            Dim::Symbol(_) | Dim::Unknown => unknown,
        })
        .collect();
    let count = element_count(&shape).map_err(|error| error.message().to_owned())?;
    if count > MOST_BYTES {
        return Err(format!("input `{}` would be too large to invent", argument.name));
    }
    let mut numbers = Numbers(seed);
    if dtype == Dtype::String {
        let mut strings = Strings::with_shape(shape);
        (0..count).for_each(|_| strings.push(if numbers.coin() { b"b" } else { b"a" }));
        return Ok(Value::Strings(strings));
    }
    let bytes = (0..count).flat_map(|_| numbers.next_of(dtype));
    Ok(Value::Tensor(Tensor::of_bytes(dtype, shape, bytes.collect())))
}

/// The same numbers in every process, so that a verdict can be had again.
#[derive(Debug)]
pub(crate) struct Numbers(pub(super) u64);

impl Numbers {
    /// A row of them, another one for each of the first numbers.
    pub(crate) fn new(number: u64) -> Self {
        Self(SEED.wrapping_add(number << 1))
    }

    /// The bytes of a number in a type.
    pub(crate) fn encoded(dtype: Dtype, number: f64) -> Vec<u8> {
        encoded(dtype, number)
    }

    /// The bytes of the next one that a model is likely to accept.
    pub(crate) fn next_of(&mut self, dtype: Dtype) -> Vec<u8> {
        // Indices and masks are often integers: 0 and 1 mean something to most.
        let number = if is_float(dtype) {
            self.fraction()
        } else {
            f64::from(u8::from(self.coin()))
        };
        encoded(dtype, number)
    }

    pub(super) fn next(&mut self) -> u64 {
        // Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Of the first four, the second is false and the third is true: the rows that are watched differ.
    fn coin(&mut self) -> bool {
        self.next() >> 20 & 1 == 1
    }

    /// A number from -1 to 1.
    pub(super) fn fraction(&mut self) -> f64 {
        let number = u32::try_from(self.next() >> 32).unwrap_or(0);
        f64::from(number) / f64::from(u32::MAX) * 2.0 - 1.0
    }

    /// A position in a list, which must hold something.
    pub(super) fn below(&mut self, length: usize) -> usize {
        usize::try_from(self.next() >> 32).unwrap_or(0) % length
    }
}

pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Float32 | Dtype::Float64 | Dtype::Float16 | Dtype::Bfloat16
    )
}

/// The bytes of a number in a type; zeros where the type is none of the usual ones.
#[expect(clippy::cast_possible_truncation, reason = "a trial may round")]
pub(super) fn encoded(dtype: Dtype, number: f64) -> Vec<u8> {
    let single = (number as f32).to_bits();
    match dtype {
        Dtype::Float32 => single.to_ne_bytes().to_vec(),
        Dtype::Float64 => number.to_ne_bytes().to_vec(),
        Dtype::Bfloat16 => ((single >> 16) as u16).to_ne_bytes().to_vec(),
        Dtype::Float16 => half(single).to_ne_bytes().to_vec(),
        other => {
            let mut bytes = (number as i64).to_ne_bytes().to_vec();
            if cfg!(target_endian = "big") {
                bytes.reverse();
            }
            bytes.truncate(other.bits() / 8);
            bytes
        }
    }
}

/// A half of what a single-precision number is, rounded towards zero.
fn half(single: u32) -> u16 {
    let sign = u16::try_from(single >> 16 & 0x8000).unwrap_or(0);
    let exponent = i64::from(single >> 23 & 0xFF) - 127 + 15;
    let fraction = u16::try_from(single >> 13 & 0x3FF).unwrap_or(0);
    match exponent {
        ..=0 => sign,
        1..=30 => sign | u16::try_from(exponent << 10).unwrap_or(0) | fraction,
        _ if single << 1 > 0xFF00_0000 => sign | 0x7E00,
        _ => sign | 0x7BFF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_what_the_numbers_are() {
        for (number, wanted) in [
            (1.0_f32, 0x3C00),
            (-2.0, 0xC000),
            (0.0, 0),
            (1e6, 0x7BFF),
            (0.333, 0x3553),
            (1e-9, 0),
        ] {
            assert_eq!(half(number.to_bits()), wanted, "{number}");
        }
        assert_eq!(half(f32::NAN.to_bits()) & 0x7E00, 0x7E00);
    }

    #[test]
    fn rows_of_one_integer_differ_where_they_are_watched() {
        for dtype in [Dtype::Int64, Dtype::Bool, Dtype::String] {
            let value_type = ValueType::Tensor {
                dtype,
                shape: Some(vec![Dim::Unknown]),
            };
            let argument = Argument::new("x".into(), value_type).expect("there is no NUL in it");
            let made = match value(&argument, Some(0), 4, 7, SEED).expect("it is small") {
                Value::Tensor(tensor) => tensor.to_bytes(),
                Value::Strings(strings) => strings.iter().flatten().copied().collect(),
                other => panic!("{other:?} is no tensor"),
            };
            let size = made.len() / 4;
            assert!(made[size..2 * size] < made[2 * size..3 * size], "{dtype}: {made:?}");
        }
    }
}
