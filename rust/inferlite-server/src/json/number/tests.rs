use super::*;
use std::fmt::Debug;

/// Numbers that look random and are the same in every run.
pub(super) struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        // G. Marsaglia, "Xorshift RNGs", 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn single(&mut self) -> f32 {
        f32::from_bits(u32::try_from(self.next() >> 32).unwrap())
    }

    fn digits(&mut self, most: u64) -> String {
        let count = self.below(most) + 1;
        (0..count).map(|_| self.below(10).to_string()).collect()
    }

    /// A number of JSON of any length.
    fn decimal(&mut self) -> String {
        let sign = if self.below(2) == 0 { "" } else { "-" };
        match self.below(8) {
            // What Python and JavaScript write.
            0 => format!("{}", f64::from_bits(self.next())),
            1 => format!("{:e}", f64::from_bits(self.next())),
            2 => format!("{sign}0.{}", self.digits(8)),
            3 => format!("{}", f64::from(self.single())),
            4 => format!("{sign}{}", self.below(u64::MAX) >> self.below(64)),
            5 => format!("{sign}{}.{}", self.below(1000), self.digits(20)),
            // In the middle of two numbers of 32 bits, and beside it.
            6 => {
                let low = self.single().abs();
                let high = f32::from_bits(low.to_bits().wrapping_add(1));
                let middle = f64::midpoint(low.into(), high.into());
                let beside = f64::from_bits(middle.to_bits().wrapping_add(self.below(5)).wrapping_sub(2));
                format!("{beside}")
            }
            _ => {
                let whole = self.below(10).to_string();
                format!(
                    "{sign}{whole}.{}e{}",
                    self.digits(25),
                    self.below(640).cast_signed() - 320
                )
            }
        }
    }
}

fn read<T: Number>(text: &str) -> Result<T, Fault> {
    let mut reader = Reader::new(text.as_bytes()).unwrap();
    let number = reader.number()?;
    reader.end()?;
    Ok(number)
}

#[expect(clippy::cast_possible_truncation, reason = "rounds as the reader is meant to")]
fn compare(count: usize) {
    let mut draws = Draws(0x9E37_79B9_7F4A_7C15);
    let mut compared = 0;
    while compared < count {
        let text = draws.decimal();
        if text.contains("inf") || text.contains("NaN") {
            continue;
        }
        compared += 1;
        let double: f64 = text.parse().unwrap();
        let wanted = double.is_finite().then(|| double.to_bits());
        assert_eq!(read::<f64>(&text).ok().map(f64::to_bits), wanted, "{text}");
        let single = double as f32;
        let wanted = single.is_finite().then(|| single.to_bits());
        assert_eq!(read::<f32>(&text).ok().map(f32::to_bits), wanted, "{text}");
        assert_eq!(read::<i64>(&text).ok(), text.parse().ok(), "{text}");
        let is_zero = text == "-0";
        assert_eq!(
            read::<u64>(&text).ok(),
            if is_zero { Some(0) } else { text.parse().ok() },
            "{text}"
        );
        assert_eq!(
            read::<u8>(&text).ok(),
            if is_zero { Some(0) } else { text.parse().ok() },
            "{text}"
        );
    }
}

#[test]
fn numbers_are_those_of_the_standard_library() {
    compare(100_000);
}

#[test]
#[ignore = "takes two minutes in a release build"]
fn a_hundred_million_numbers_are_those_of_the_standard_library() {
    compare(100_000_000);
}

#[test]
fn up_to_eight_digits_are_read_at_once() {
    for text in ["", "0", "7", "12", "999", "12345678", "00000001", "99999999", "1234567"] {
        for rest in [",", "]", " ", ".", "e", "\u{e9}", "/", ":", "~"] {
            let mut bytes = text.as_bytes().to_vec();
            bytes.extend_from_slice(rest.as_bytes());
            bytes.resize(8, b'5');
            // What stands behind the first other byte does not count.
            let wanted = if text.len() < 8 { text } else { &text[..8] };
            let bytes: [u8; 8] = bytes[..8].try_into().unwrap();
            assert_eq!(
                eight_digits(bytes),
                (wanted.parse().unwrap_or(0), wanted.len()),
                "{bytes:?}"
            );
        }
    }
}

#[test]
fn a_number_ends_where_the_text_does() {
    for text in [
        "0",
        "-0",
        "7",
        "1234567",
        "12345678",
        "123456789",
        "1234567890123456789",
        "0.5",
        "0.12345678",
        "1e5",
    ] {
        assert_eq!(
            read::<f64>(text).unwrap().to_bits(),
            text.parse::<f64>().unwrap().to_bits()
        );
    }
}

fn check_range<T: Number + Debug + PartialEq + TryFrom<i128>>(least: i128, most: i128) {
    for number in [least, least + 1, most - 1, most] {
        assert_eq!(read::<T>(&number.to_string()), Ok(T::try_from(number).ok().unwrap()));
    }
    for number in [least - 1, most + 1, i128::MAX, i128::MIN] {
        let fault = if least == 0 && number < 0 {
            Fault::Mistyped {
                what: NOT_UNSIGNED,
                at: 0,
            }
        } else {
            Fault::OutOfRange { at: 0 }
        };
        assert_eq!(read::<T>(&number.to_string()), Err(fault));
    }
}

#[test]
fn integers_are_read_over_the_whole_range_and_not_beyond() {
    check_range::<i8>(i8::MIN.into(), i8::MAX.into());
    check_range::<i16>(i16::MIN.into(), i16::MAX.into());
    check_range::<i32>(i32::MIN.into(), i32::MAX.into());
    check_range::<i64>(i64::MIN.into(), i64::MAX.into());
    check_range::<u8>(0, u8::MAX.into());
    check_range::<u16>(0, u16::MAX.into());
    check_range::<u32>(0, u32::MAX.into());
    check_range::<u64>(0, u64::MAX.into());
}

#[test]
fn what_is_no_integer_is_no_integer() {
    for text in ["1.0", "1e3", "-0.0", "1.5", "12345678901234567890.0"] {
        assert_eq!(
            read::<i64>(text),
            Err(Fault::Mistyped {
                what: NOT_SIGNED,
                at: 0
            }),
            "{text}"
        );
        assert_eq!(
            read::<u64>(text),
            Err(Fault::Mistyped {
                what: NOT_UNSIGNED,
                at: 0
            }),
            "{text}"
        );
    }
    assert_eq!(
        read::<u64>("true"),
        Err(Fault::Mistyped {
            what: NOT_UNSIGNED,
            at: 0
        })
    );
    let what = "Number too big to be stored in double.";
    assert_eq!(read::<i64>(&"9".repeat(400)), Err(Fault::Malformed { what, at: 0 }));
    assert_eq!(read::<i64>("1e400"), Err(Fault::Malformed { what, at: 0 }));
}

#[test]
fn a_number_that_32_bits_cannot_hold_is_not_made_infinite() {
    assert_eq!(read::<f32>("3.4028234663852886e38"), Ok(f32::MAX));
    // Nearer to the largest number than to the next one, if there were a next one.
    assert_eq!(read::<f32>("3.40282356e38"), Ok(f32::MAX));
    assert_eq!(read::<f32>("3.4028236e38"), Err(Fault::OutOfRange { at: 0 }));
    assert_eq!(read::<f32>("-1e39"), Err(Fault::OutOfRange { at: 0 }));
    assert_eq!(read::<f32>("1e-60").map(f32::to_bits), Ok(0));
    assert_eq!(read::<f32>("-0").map(f32::to_bits), Ok((-0.0_f32).to_bits()));
}

/// The bits of the nearest finite number among those given with their bits, by looking at all of them.
fn nearest(numbers: &[(f64, u16)], value: f64) -> u16 {
    let position = numbers.partition_point(|(number, _)| *number < value);
    let candidates = &numbers[position.saturating_sub(1)..(position + 1).min(numbers.len())];
    let distance = |(number, _): &(f64, u16)| (number - value).abs();
    let by_distance = |a: &&(f64, u16), b: &&(f64, u16)| {
        distance(a)
            .partial_cmp(&distance(b))
            .unwrap()
            .then((a.1 & 1).cmp(&(b.1 & 1)))
    };
    candidates.iter().min_by(by_distance).unwrap().1
}

#[test]
fn halves_are_the_nearest_of_all_halves() {
    type Case = (i32, i32, fn(u16) -> f64);
    let float16: fn(u16) -> f64 = |bits| {
        let (exponent, fraction) = (i32::from(bits >> 10), f64::from(bits & 0x3FF));
        match exponent {
            0 => fraction * 2_f64.powi(-24),
            _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
        }
    };
    let bfloat16: fn(u16) -> f64 = |bits| f32::from_bits(u32::from(bits) << 16).into();
    let cases: [Case; 2] = [(5, 10, float16), (8, 7, bfloat16)];
    for (exponent_bits, mantissa_bits, widened) in cases {
        let infinity = ((1_u16 << exponent_bits) - 1) << mantissa_bits;
        let numbers: Vec<(f64, u16)> = (0..infinity).map(|bits| (widened(bits), bits)).collect();
        let largest = numbers.last().unwrap().0;
        let step = largest - numbers[numbers.len() - 2].0;
        let narrow = |value| narrowed(value, exponent_bits, mantissa_bits);
        let check = |value: f64| {
            let wanted = (value < largest + step / 2.0).then(|| nearest(&numbers, value));
            assert_eq!(narrow(value), wanted, "{value:e}");
            assert_eq!(narrow(-value), wanted.map(|bits| bits | 0x8000), "{value:e}");
        };
        for pair in numbers.windows(2) {
            let (low, high) = (pair[0].0, pair[1].0);
            let middle = f64::midpoint(low, high);
            for value in [
                low,
                middle,
                f64::from_bits(middle.to_bits() - 1),
                f64::from_bits(middle.to_bits() + 1),
            ] {
                check(value);
            }
        }
        for value in [largest, largest + step / 2.0, largest + step, 1e300, 5e-324, 1e-300] {
            check(value);
        }
        assert_eq!(narrow(-0.0), Some(0x8000));
    }
}
