//! Numbers of JSON as the types of tensors.
//!
//! A decimal number becomes the nearest `f64`, and that the nearest `f32` or half: what Triton and numpy do, which differs
//! from the nearest `f32` of the decimal where that `f64` lies in the middle of two. Numbers that a type cannot hold are
//! refused, where Triton and numpy would wrap them around or make infinities of them.

use inferlite_core::tensor::{Buffer, Element};

use super::reader::{Fault, Reader};

const NOT_NUMBER: &str = "attempt to access JSON non-number as double";
const NOT_SIGNED: &str = "attempt to access JSON non-signed-integer as signed-integer";
const NOT_UNSIGNED: &str = "attempt to access JSON non-unsigned-integer as unsigned-integer";

/// The powers of ten that `f64` holds exactly.
pub(super) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The integers up to here are all numbers of `f64`.
const MAX_EXACT: u64 = 1 << 53;

/// So many digits always fit into 64 bits.
const MAX_DIGITS: usize = 19;

/// A number whose digits have been read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanned<'a> {
    text: &'a str,
    start: usize,
    end: usize,
    /// The digits as an integer, if they are few.
    mantissa: u64,
    /// The power of ten that the mantissa is multiplied with.
    exponent: i32,
    is_negative: bool,
    /// Whether there is neither a fraction nor an exponent.
    is_integer: bool,
    /// Whether the mantissa has all digits.
    has_all_digits: bool,
}

/// Why there is no number.
pub(super) enum NoNumber {
    /// Something else is there.
    Other,
    /// A number begins and goes wrong.
    Malformed(&'static str, usize),
}

/// The value of up to eight digits at the start of eight bytes, and how many they are.
#[inline]
fn eight_digits(bytes: [u8; 8]) -> (u64, usize) {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let word = u64::from_le_bytes(bytes) ^ u64::from_ne_bytes([b'0'; 8]);
    // What is above nine has its highest bit set afterwards; a carry reaches only the bytes behind it.
    let others = (word.wrapping_add(ONES * 0x76) | word) & (ONES << 7);
    let count = others.trailing_zeros() / 8;
    // The digits go to the end, and zeros stand in front of them.
    let digits = word.checked_shl(64 - 8 * count).unwrap_or(0);
    // Neighbours become numbers below 100, those below 10,000, and those the value.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = pairs & 0x0000_00FF_0000_00FF;
    let high = pairs >> 16 & 0x0000_00FF_0000_00FF;
    let value = low
        .wrapping_mul(100 + (1_000_000 << 32))
        .wrapping_add(high.wrapping_mul(1 + (10_000 << 32)))
        >> 32;
    (value, count as usize)
}

/// Appends the digits from `at` on to a mantissa, which wraps around if they are many; gives where they end.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mut mantissa: u64) -> (u64, usize) {
    const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let (value, count) = eight_digits(*chunk);
        mantissa = mantissa.wrapping_mul(POWERS[count]).wrapping_add(value);
        at += count;
        if count < 8 {
            return (mantissa, at);
        }
    }
    while let Some(&digit @ b'0'..=b'9') = bytes.get(at) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (mantissa, at)
}

/// Reads the number that begins at `start`; gives where it ends as well.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the loop over numbers is the hot path")]
pub(super) fn scan(text: &str, start: usize) -> Result<(Scanned<'_>, usize), NoNumber> {
    let bytes = text.as_bytes();
    let is_negative = bytes.get(start) == Some(&b'-');
    let first = start + usize::from(is_negative);
    let (mut mantissa, mut end) = match bytes.get(first) {
        Some(b'0') => (0, first + 1),
        Some(b'1'..=b'9') => digits(bytes, first, 0),
        _ if is_negative => return Err(NoNumber::Malformed("Invalid value.", first)),
        _ => return Err(NoNumber::Other),
    };
    let mut count = end - first;
    let mut exponent = 0;
    let mut is_integer = true;
    if bytes.get(end) == Some(&b'.') {
        let point = end + 1;
        (mantissa, end) = digits(bytes, point, mantissa);
        let fraction = end - point;
        if fraction == 0 {
            return Err(NoNumber::Malformed("Miss fraction part in number.", end));
        }
        count += fraction;
        // Where the fraction is long, the mantissa does not count anyway.
        exponent = -i32::try_from(fraction).unwrap_or(i32::MAX);
        is_integer = false;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let (power, after) = scan_exponent(bytes, end + 1)?;
        exponent = exponent.saturating_add(power);
        end = after;
        is_integer = false;
    }
    let scanned = Scanned {
        text,
        start,
        end,
        mantissa,
        exponent,
        is_negative,
        is_integer,
        has_all_digits: count <= MAX_DIGITS,
    };
    Ok((scanned, end))
}

/// The exponent from `at` on, as far as 32 bits hold it, and where it ends.
fn scan_exponent(bytes: &[u8], mut at: usize) -> Result<(i32, usize), NoNumber> {
    let sign = bytes.get(at);
    at += usize::from(matches!(sign, Some(b'+' | b'-')));
    let first = at;
    let mut power = 0_i32;
    while let Some(&digit @ b'0'..=b'9') = bytes.get(at) {
        power = power.saturating_mul(10).saturating_add(i32::from(digit - b'0'));
        at += 1;
    }
    if at == first {
        return Err(NoNumber::Malformed("Miss exponent in number.", at));
    }
    Ok((if sign == Some(&b'-') { -power } else { power }, at))
}

impl Scanned<'_> {
    fn text(&self) -> &str {
        self.text.get(self.start..self.end).unwrap_or_default()
    }

    #[inline]
    fn signed<T: std::ops::Neg<Output = T>>(&self, number: T) -> T {
        if self.is_negative { -number } else { number }
    }

    /// The mantissa times its power of ten, without the sign, rounded at most twice; `None` where it is more.
    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "rounds as it says")]
    fn rough(&self) -> Option<f64> {
        let power = POWERS.get(self.exponent.unsigned_abs() as usize)?;
        let mantissa = self.mantissa as f64;
        if !self.has_all_digits {
            return None;
        }
        Some(if self.exponent < 0 {
            mantissa / power
        } else {
            mantissa * power
        })
    }

    /// The nearest `f64`.
    ///
    /// W. D. Clinger, "How to read floating point numbers accurately", 1990: an exact mantissa and an exact power leave
    /// one operation that rounds. The standard library does the rest.
    #[inline]
    fn to_f64(self) -> Result<f64, Fault> {
        match self.rough() {
            Some(exact) if self.mantissa <= MAX_EXACT => Ok(self.signed(exact)),
            _ => self.parse(),
        }
    }

    #[cold]
    fn parse(&self) -> Result<f64, Fault> {
        let value: f64 = self.text().parse().unwrap_or(f64::INFINITY);
        if value.is_infinite() {
            return Err(Fault::Malformed {
                what: "Number too big to be stored in double.",
                at: self.start,
            });
        }
        Ok(value)
    }

    /// The nearest `f32` of the nearest `f64`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "rounds as it says")]
    fn to_f32(self) -> Result<f32, Fault> {
        if let Some(rough) = self.rough()
            && (self.mantissa <= MAX_EXACT || is_far_from_middle(rough))
        {
            let value = rough as f32;
            if value.is_finite() {
                return Ok(self.signed(value));
            }
        }
        let value = self.parse()? as f32;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(self.out_of_range())
        }
    }

    /// The fault of an integer that a type cannot hold: for `RapidJSON`, a negative one is no unsigned one.
    #[cold]
    fn unfit(&self, number: i128, is_unsigned: bool, what: &'static str) -> Fault {
        if is_unsigned && number < 0 {
            Fault::Mistyped { what, at: self.start }
        } else {
            self.out_of_range()
        }
    }

    #[cold]
    fn out_of_range(&self) -> Fault {
        Fault::OutOfRange { at: self.start }
    }

    /// The number as an integer of any type here.
    #[inline]
    fn to_integer(self, what: &'static str) -> Result<i128, Fault> {
        if !self.is_integer {
            // A number that no `f64` holds is no number.
            self.to_f64()?;
            return Err(Fault::Mistyped { what, at: self.start });
        }
        if self.has_all_digits {
            return Ok(self.signed(i128::from(self.mantissa)));
        }
        self.to_f64()?;
        self.text().parse().map_err(|_| self.out_of_range())
    }
}

/// Whether an `f64` that may be a few units in its last place away from the right one becomes the same `f32`.
#[inline]
fn is_far_from_middle(rough: f64) -> bool {
    const LOST: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    // Below, `f32` has fewer digits.
    let is_normal = rough > 1e-30;
    is_normal && (rough.to_bits() & LOST).abs_diff(MIDDLE) > 8
}

/// The nearest number of a binary format with so few bits; `None` where it has none but infinity.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is left is small and not negative"
)]
fn narrowed(value: f64, exponent_bits: i32, mantissa_bits: i32) -> Option<u16> {
    let sign = u16::from(value.is_sign_negative()) << 15;
    let magnitude = value.abs();
    let least = 2 - (1 << (exponent_bits - 1));
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(least);
    // Scaling by a power of two is exact, so that this rounds once.
    let steps = (magnitude * 2_f64.powi(mantissa_bits - exponent)).round_ties_even() as u32;
    let bits = ((exponent - least) << mantissa_bits) as u32 + steps;
    let infinity = ((1_u32 << exponent_bits) - 1) << mantissa_bits;
    (bits < infinity).then_some(sign | bits as u16)
}

/// A type that numbers are read as.
pub(crate) trait Number: Element {
    /// Reads the number that begins at the very position of the reader.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault>;

    /// Reads numbers that begin there, each with the comma behind it, as far as there is a faster way to, and at most so
    /// many; gives how many they are.
    fn read_many(_reader: &mut Reader<'_>, _into: &mut Buffer, _most: usize) -> usize {
        0
    }
}

macro_rules! integers {
    ($what:expr => $($number:ty)*) => {
        $(impl Number for $number {
            #[inline]
            fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
                let scanned = reader.scan($what)?;
                let number = scanned.to_integer($what)?;
                Self::try_from(number).map_err(|_| scanned.unfit(number, Self::MIN == 0, $what))
            }
        })*
    };
}

integers!(NOT_SIGNED => i8 i16 i32 i64);
integers!(NOT_UNSIGNED => u8 u16 u32 u64);

impl Number for f32 {
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.scan(NOT_NUMBER)?.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    fn read_many(reader: &mut Reader<'_>, into: &mut Buffer, most: usize) -> usize {
        reader.decimals::<Self>(into, most)
    }
}

impl Number for f64 {
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.scan(NOT_NUMBER)?.to_f64()
    }

    #[cfg(target_arch = "x86_64")]
    fn read_many(reader: &mut Reader<'_>, into: &mut Buffer, most: usize) -> usize {
        reader.decimals::<Self>(into, most)
    }
}

/// The bits of a half of so many bits of exponent and mantissa.
fn read_half(reader: &mut Reader<'_>, exponent_bits: i32, mantissa_bits: i32) -> Result<u16, Fault> {
    let scanned = reader.scan(NOT_NUMBER)?;
    narrowed(scanned.to_f64()?, exponent_bits, mantissa_bits).ok_or_else(|| scanned.out_of_range())
}

/// Reads the bits of an IEEE half.
pub(super) fn read_float16(reader: &mut Reader<'_>) -> Result<u16, Fault> {
    read_half(reader, 5, 10)
}

/// Reads the bits of a `bfloat16`.
pub(super) fn read_bfloat16(reader: &mut Reader<'_>) -> Result<u16, Fault> {
    read_half(reader, 8, 7)
}

#[cfg(test)]
mod tests;
