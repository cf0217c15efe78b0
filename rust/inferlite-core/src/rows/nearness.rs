//! Whether two answers are the same, to the bit or but for rounding.

use crate::tensor::{Dtype, Value};

/// The shape and the bytes of a tensor.
pub(super) fn bits(value: &Value) -> (Option<&[i64]>, Vec<u8>) {
    let bytes = match value {
        Value::Tensor(tensor) => tensor.to_bytes(),
        Value::Strings(strings) => strings.iter().flat_map(|text| [text, b"\0"].concat()).collect(),
        Value::Sequence { .. } | Value::Map(_) | Value::Absent => Vec::new(),
    };
    (value.shape(), bytes)
}

/// Whether two answers are the same but for rounding, which may be another one in a batch of another size, or at another
/// place in it. What is no fraction does not round: it is the same, or it is not.
pub(super) fn is_near(before: &Value, after: &Value) -> bool {
    if bits(before) == bits(after) {
        return true;
    }
    let (Some((before_type, before_numbers)), Some((after_type, after_numbers))) =
        (fractions(before), fractions(after))
    else {
        return false;
    };
    if before.shape() != after.shape() || before_type != after_type {
        return false;
    }
    let finite = before_numbers
        .iter()
        .map(|number| number.abs())
        .filter(|number| number.is_finite());
    let most = finite.fold(1e-6, f64::max) * tolerance(before_type);
    std::iter::zip(before_numbers, after_numbers).all(|(before, after)| {
        before.to_bits() == after.to_bits() || (before - after).abs() <= most || (before.is_nan() && after.is_nan())
    })
}

/// How far two answers of one shape are apart, as a part of the largest number in them; `None` where nothing rounds, or
/// a number is none.
pub(super) fn distance(before: &Value, after: &Value) -> Option<f64> {
    let ((_, before), (_, after)) = (fractions(before)?, fractions(after)?);
    let largest = before.iter().map(|number| number.abs()).fold(0.0, f64::max);
    let apart = std::iter::zip(before, after).map(|(before, after)| (before - after).abs());
    let most = apart.fold(0.0, f64::max);
    if most == 0.0 {
        return Some(0.0);
    }
    Some(most / largest).filter(|distance| distance.is_finite())
}

/// How much of the largest number of an output may be rounding: two units in the last place, where there are few of them.
fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Bfloat16 => 16e-3,
        Dtype::Float16 => 2e-3,
        _ => 1e-4,
    }
}

fn fractions(value: &Value) -> Option<(Dtype, Vec<f64>)> {
    let Value::Tensor(tensor) = value else { return None };
    let (dtype, bytes) = (tensor.view().dtype(), tensor.to_bytes());
    let single = |bits: u32| f64::from(f32::from_bits(bits));
    let numbers = match dtype {
        Dtype::Float32 => each(&bytes, |bytes| single(u32::from_ne_bytes(bytes))),
        Dtype::Float64 => each(&bytes, f64::from_ne_bytes),
        Dtype::Float16 => each(&bytes, |bytes| whole(u16::from_ne_bytes(bytes))),
        Dtype::Bfloat16 => each(&bytes, |bytes| single(u32::from(u16::from_ne_bytes(bytes)) << 16)),
        _ => return None,
    };
    Some((dtype, numbers))
}

fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|bytes| number(*bytes)).collect()
}

/// The number that a half is.
fn whole(half: u16) -> f64 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f64::from(half & 0x3FF) / 1024.0;
    sign * match i32::from(half >> 10 & 0x1F) {
        0 => fraction * 2_f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * 2_f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::invented::encoded;
    use crate::tensor::{Strings, Tensor};
    use smallvec::smallvec;

    fn tensor(dtype: Dtype, numbers: &[f64]) -> Value {
        let bytes: Vec<u8> = numbers.iter().flat_map(|&number| encoded(dtype, number)).collect();
        let shape = smallvec![i64::try_from(numbers.len()).unwrap_or(0)];
        Value::Tensor(Tensor::of_bytes(dtype, shape, bytes.into()))
    }

    fn near(dtype: Dtype, before: &[f64], after: &[f64]) -> bool {
        is_near(&tensor(dtype, before), &tensor(dtype, after))
    }

    #[test]
    fn a_distance_is_a_part_of_the_largest_number() {
        let apart =
            |before: &[f64], after: &[f64]| distance(&tensor(Dtype::Float64, before), &tensor(Dtype::Float64, after));
        assert_eq!(apart(&[1.0, -4.0], &[1.0, -3.0]), Some(0.25));
        assert_eq!(apart(&[0.0], &[0.0]), Some(0.0));
        assert_eq!(apart(&[0.0], &[1.0]), None);
        let whole = tensor(Dtype::Int64, &[1.0]);
        assert_eq!(distance(&whole, &whole), None);
    }

    #[test]
    fn fractions_may_differ_by_rounding_and_no_more() {
        for (dtype, rounding, more) in [
            (Dtype::Float32, 1e-5, 1e-3),
            (Dtype::Float64, 1e-5, 1e-3),
            (Dtype::Float16, 1e-3, 1e-2),
            (Dtype::Bfloat16, 1e-2, 1e-1),
        ] {
            assert!(near(dtype, &[2.0, 1.0], &[2.0, 1.0 + rounding]), "{dtype}");
            assert!(!near(dtype, &[2.0, 1.0], &[2.0, 1.0 + more]), "{dtype}");
            assert!(near(dtype, &[f64::NAN, 1.0], &[-f64::NAN, 1.0]), "{dtype}");
            assert!(!near(dtype, &[f64::NAN, 1.0], &[0.0, 1.0]), "{dtype}");
        }
    }

    #[test]
    fn integers_truth_values_and_strings_do_not_round() {
        for dtype in [Dtype::Int64, Dtype::Int8, Dtype::Bool] {
            assert!(near(dtype, &[1.0, 0.0], &[1.0, 0.0]), "{dtype}");
            assert!(!near(dtype, &[1.0, 0.0], &[1.0, 1.0]), "{dtype}");
        }
        let text = |text: &[u8]| {
            let mut strings = Strings::with_shape(smallvec![1]);
            strings.push(text);
            Value::Strings(strings)
        };
        assert!(is_near(&text(b"a"), &text(b"a")));
        assert!(!is_near(&text(b"a"), &text(b"b")));
    }

    #[test]
    fn other_shapes_and_types_are_not_near() {
        assert!(!near(Dtype::Float32, &[1.0], &[1.0, 1.0]));
        assert!(!is_near(
            &tensor(Dtype::Float32, &[1.0]),
            &tensor(Dtype::Float64, &[1.0])
        ));
    }

    #[test]
    fn halves_are_read_as_they_are_written() {
        for (half, number) in [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x0001, 2_f64.powi(-24)),
            (0x7C00, f64::INFINITY),
        ] {
            assert_eq!(whole(half).to_bits(), f64::to_bits(number), "{half:#x}");
        }
        assert!(whole(0x7E00).is_nan());
    }
}
