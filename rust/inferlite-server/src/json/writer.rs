//! What replies are written with.
//!
//! Numbers are the shortest that are read back as they were: one of 32 bits is written with the digits that tell it from
//! other numbers of 32 bits. JSON has no word for numbers that are not finite; `NaN`, `Infinity` and `-Infinity` are
//! written as Triton and TensorFlow Serving write them, which Python's `json` and `RapidJSON` read. A `null` would turn an
//! infinity into a missing value, and a refusal would lose the rest of the reply, while a strict parser stops at the word
//! and says so; clients that have one ask for binary data.

use std::ops::Range;

use inferlite_core::runtime::Kept;
use inferlite_core::tensor::{Strings, TensorView};
use inferlite_core::{Dtype, Value};

/// Writes a string with its quotes.
pub(crate) fn string(into: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    into.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..=0x1F => b'u',
            _ => continue,
        };
        into.extend_from_slice(bytes.get(written..at).unwrap_or_default());
        into.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            into.extend_from_slice(b"00");
            into.extend(HEX.get(usize::from(byte >> 4)));
            into.extend(HEX.get(usize::from(byte & 0xF)));
        }
        written = at + 1;
    }
    into.extend_from_slice(bytes.get(written..).unwrap_or_default());
    into.push(b'"');
}

/// A text as a string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    string(&mut quoted, text);
    String::from_utf8(quoted).unwrap_or_default()
}

/// Writes `"key":`.
pub(crate) fn key(into: &mut Vec<u8>, key: &str) {
    string(into, key);
    into.push(b':');
}

/// Writes an integer.
pub(crate) fn integer<T: itoa::Integer>(into: &mut Vec<u8>, number: T) {
    into.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes an array of integers.
pub(crate) fn integers(into: &mut Vec<u8>, numbers: impl IntoIterator<Item = i64>) {
    list(into, numbers, integer);
}

/// Writes an array.
pub(crate) fn list<T>(into: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    into.push(b'[');
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            into.push(b',');
        }
        write(into, item);
    }
    into.push(b']');
}

/// Writes a number of 32 bits, or the word for it.
fn float(into: &mut Vec<u8>, buffer: &mut zmij::Buffer, number: f32) {
    if number.is_finite() {
        into.extend_from_slice(buffer.format_finite(number).as_bytes());
    } else {
        into.extend_from_slice(infinite(number.into()));
    }
}

#[cold]
fn infinite(number: f64) -> &'static [u8] {
    if number.is_nan() {
        b"NaN"
    } else if number > 0.0 {
        b"Infinity"
    } else {
        b"-Infinity"
    }
}

/// The number that an IEEE half stands for.
fn widened(half: u16) -> f32 {
    let sign = if half >> 15 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(half & 0x3FF);
    sign * match half >> 10 & 0x1F {
        0 => fraction * 2_f32.powi(-24),
        0x1F if fraction == 0.0 => f32::INFINITY,
        0x1F => f32::NAN,
        exponent => (1024.0 + fraction) * 2_f32.powi(i32::from(exponent) - 25),
    }
}

/// Bytes of a string that are not UTF-8, and so cannot go out as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotText;

/// The elements of an output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cells<'a> {
    Numbers(&'a TensorView),
    Strings(&'a Strings),
}

impl<'a> Cells<'a> {
    /// The elements of an output that is a tensor.
    pub(crate) fn of(output: &Kept<'a>) -> Option<Self> {
        match output {
            Kept::Tensor(view) => Some(Self::Numbers(view)),
            Kept::Other(Value::Tensor(tensor)) => Some(Self::Numbers(tensor.view())),
            Kept::Other(Value::Strings(strings)) => Some(Self::Strings(strings)),
            Kept::Other(_) => None,
        }
    }

    /// The type of an element.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::Numbers(view) => view.dtype(),
            Self::Strings(_) => Dtype::String,
        }
    }

    /// The extent of every axis.
    pub(crate) fn shape(self) -> &'a [i64] {
        match self {
            Self::Numbers(view) => view.shape(),
            Self::Strings(strings) => &strings.shape,
        }
    }

    /// The number of elements.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Numbers(view) => view.elements(),
            Self::Strings(strings) => strings.len(),
        }
    }

    /// Writes the elements of these positions, which there must be, with commas between them.
    pub(crate) fn write(self, positions: Range<usize>, into: &mut Vec<u8>) -> Result<(), NotText> {
        let view = match self {
            Self::Numbers(view) => view,
            Self::Strings(strings) => {
                for (position, bytes) in strings.part(positions).enumerate() {
                    if position > 0 {
                        into.push(b',');
                    }
                    string(into, std::str::from_utf8(bytes).map_err(|_| NotText)?);
                }
                return Ok(());
            }
        };
        macro_rules! integers {
            ($integer:ty) => {
                each(view, positions, into, |into, bytes| {
                    integer(into, <$integer>::from_ne_bytes(bytes))
                })
            };
        }
        let mut digits = zmij::Buffer::new();
        match view.dtype() {
            Dtype::Float32 => each(view, positions, into, |into, bytes| {
                float(into, &mut digits, f32::from_ne_bytes(bytes));
            }),
            Dtype::Float64 => each(view, positions, into, |into, bytes| {
                let number = f64::from_ne_bytes(bytes);
                if number.is_finite() {
                    into.extend_from_slice(digits.format_finite(number).as_bytes());
                } else {
                    into.extend_from_slice(infinite(number));
                }
            }),
            Dtype::Float16 => each(view, positions, into, |into, bytes| {
                float(into, &mut digits, widened(u16::from_ne_bytes(bytes)));
            }),
            Dtype::Bfloat16 => each(view, positions, into, |into, bytes| {
                let bits = u32::from(u16::from_ne_bytes(bytes)) << 16;
                float(into, &mut digits, f32::from_bits(bits));
            }),
            Dtype::Bool => each(view, positions, into, |into, [byte]| {
                into.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
            }),
            Dtype::Uint8 => integers!(u8),
            Dtype::Uint16 => integers!(u16),
            Dtype::Uint32 => integers!(u32),
            Dtype::Uint64 => integers!(u64),
            Dtype::Int8 => integers!(i8),
            Dtype::Int16 => integers!(i16),
            Dtype::Int32 => integers!(i32),
            Dtype::Int64 => integers!(i64),
            // Whoever writes has asked for the protocol's name of the type, which others do not have.
            other => debug_assert!(false, "{other} has no name in the protocol"),
        }
        Ok(())
    }

    /// Writes nested arrays of this shape from the element at `start` on, which there must be; gives where they end.
    pub(crate) fn write_nested(self, shape: &[i64], start: usize, into: &mut Vec<u8>) -> Result<usize, NotText> {
        let Some((&extent, inner)) = shape.split_first() else {
            self.write(start..start + 1, into)?;
            return Ok(start + 1);
        };
        let extent = usize::try_from(extent).unwrap_or(0);
        let mut end = start;
        into.push(b'[');
        if inner.is_empty() {
            end += extent;
            self.write(start..end, into)?;
        } else {
            for position in 0..extent {
                if position > 0 {
                    into.push(b',');
                }
                end = self.write_nested(inner, end, into)?;
            }
        }
        into.push(b']');
        Ok(end)
    }
}

/// Writes elements of so many bytes, with commas between them.
fn each<const BYTES: usize>(
    view: &TensorView,
    positions: Range<usize>,
    into: &mut Vec<u8>,
    mut write: impl FnMut(&mut Vec<u8>, [u8; BYTES]),
) {
    // The memory may be read by copying alone, so a piece of it is copied at a time.
    let mut piece = [0; 512];
    let mut at = positions.start;
    while at < positions.end {
        let count = (positions.end - at).min(piece.len() / BYTES);
        let (bytes, _) = piece.split_at_mut(count * BYTES);
        view.copy_part(at * BYTES, bytes);
        for element in bytes.as_chunks().0 {
            write(into, *element);
            into.push(b',');
        }
        at += count;
    }
    if !positions.is_empty() {
        into.pop();
    }
}

#[cfg(test)]
mod tests;
