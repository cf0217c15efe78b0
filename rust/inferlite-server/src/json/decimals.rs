#![expect(unsafe_code, reason = "loads windows of a text into registers")]
//! Short decimal numbers one after the other, as programs write them: `0.25,-1.5, 3,`.
//!
//! Each number begins where the comma before it is, so that each has to wait for the one before. Here that chain is as
//! short as it can be: a window of sixteen bytes is loaded, the comma in it is found, and the next number begins; what the
//! digits are worth comes out meanwhile. The digits become a number in three multiplications, as in W. Muła, "Parsing
//! series of integers with SIMD", 2018.
//!
//! Whatever is written in another way, or wrong, is left where it is, for [`super::number`].

use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_madd_epi16, _mm_maddubs_epi16,
    _mm_min_epu8, _mm_movemask_epi8, _mm_packus_epi32, _mm_set1_epi8, _mm_set1_epi16, _mm_set1_epi32, _mm_shuffle_epi8,
    _mm_sub_epi8,
};

use inferlite_core::tensor::{Buffer, Element};

use super::number::POWERS;

/// How many bytes are looked at for a number and the comma behind it.
const WINDOW: usize = 16;

type Window = [u8; WINDOW];

/// For a point at a position and a comma at another one: which byte goes to each place, so that the digits stand at the
/// end, without the point, and zeros in front of them.
static PLACES: [[Window; WINDOW]; WINDOW] = places();

/// Takes a minus away, if there is one.
static SIGNS: [Window; 2] = {
    let mut signs = [[u8::MAX; WINDOW]; 2];
    signs[1][0] = 0;
    signs
};

const fn places() -> [[Window; WINDOW]; WINDOW] {
    /// A zero, for the instruction that shuffles.
    const NOTHING: u8 = 0x80;
    let mut places = [[[NOTHING; WINDOW]; WINDOW]; WINDOW];
    let mut comma = 0;
    while comma < WINDOW {
        let mut point = 0;
        while point <= comma {
            let (mut from, mut place) = (comma, WINDOW);
            while from > 0 {
                from -= 1;
                if from != point {
                    place -= 1;
                    #[expect(clippy::cast_possible_truncation, reason = "there are sixteen")]
                    let byte = from as u8;
                    places[point][comma][place] = byte;
                }
            }
            point += 1;
        }
        comma += 1;
    }
    places
}

/// A type that decimals are read as.
pub(super) trait Decimal: Element {
    /// The nearest to a number of at most fifteen digits.
    fn nearest(number: f64) -> Self;
}

impl Decimal for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounds as it says")]
    fn nearest(number: f64) -> Self {
        number as Self
    }
}

impl Decimal for f64 {
    fn nearest(number: f64) -> Self {
        number
    }
}

/// Reads the numbers that begin at `at`, as far as each is short and has a comma behind it, and at most so many; gives how
/// many they are, and where the next value begins.
pub(super) fn read<T: Decimal>(text: &[u8], at: usize, most: usize, into: &mut Buffer) -> (usize, usize) {
    if !is_x86_feature_detected!("sse4.1") {
        return (0, at);
    }
    // SAFETY: the processor has the instructions.
    unsafe { read_by_windows::<T>(text, at, most, into) }
}

#[target_feature(enable = "sse4.1")]
fn read_by_windows<T: Decimal>(text: &[u8], mut at: usize, most: usize, into: &mut Buffer) -> (usize, usize) {
    let mut count = 0;
    while count < most
        && let Some(window) = text.get(at..).and_then(<[u8]>::first_chunk)
    {
        let bytes = loaded(window);
        let comma = first(bytes, b',');
        let point = first(bytes, b'.').min(comma);
        let is_negative = window[0] == b'-';
        let start = usize::from(is_negative);
        let has_digits = point > start && point + 1 != comma;
        let has_idle_zero = window[start] == b'0' && point != start + 1;
        if comma >= WINDOW || !has_digits || has_idle_zero {
            break;
        }
        let digits = _mm_and_si128(_mm_sub_epi8(bytes, all(b'0')), loaded(&SIGNS[start]));
        let digits = _mm_shuffle_epi8(digits, loaded(&PLACES[point][comma]));
        let are_digits = _mm_cmpeq_epi8(_mm_min_epu8(digits, all(9)), digits);
        if _mm_movemask_epi8(are_digits) != 0xFFFF {
            break;
        }
        #[expect(clippy::cast_precision_loss, reason = "fifteen digits are fewer than 53 bits")]
        let mantissa = value(digits) as f64;
        // Two exact numbers and one rounding, as in `super::number`.
        let number = mantissa / POWERS[(comma - point).saturating_sub(1)];
        let sign = u64::from(is_negative) << 63;
        into.push(T::nearest(f64::from_bits(number.to_bits() | sign)));
        count += 1;
        at += comma + 1;
        at += usize::from(text.get(at) == Some(&b' '));
    }
    (count, at)
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn loaded(window: &Window) -> __m128i {
    // SAFETY: there are sixteen bytes to load, and nothing is asked of where they are.
    unsafe { _mm_loadu_si128(window.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn all(byte: u8) -> __m128i {
    _mm_set1_epi8(byte.cast_signed())
}

/// Where a byte is for the first time; beyond the window if it is not there.
#[inline]
#[target_feature(enable = "sse4.1")]
fn first(bytes: __m128i, wanted: u8) -> usize {
    let found = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, all(wanted)));
    found.trailing_zeros() as usize
}

/// What sixteen digits are worth, of which the first is a zero.
#[inline]
#[target_feature(enable = "sse4.1")]
fn value(digits: __m128i) -> i64 {
    let pairs = _mm_maddubs_epi16(digits, _mm_set1_epi16(i16::from_le_bytes([10, 1])));
    let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(100 + (1 << 16)));
    let fours = _mm_packus_epi32(fours, fours);
    let eights = _mm_cvtsi128_si64(_mm_madd_epi16(fours, _mm_set1_epi32(10_000 + (1 << 16))));
    (eights & 0xFFFF_FFFF) * 100_000_000 + (eights >> 32)
}

#[cfg(test)]
mod tests;
