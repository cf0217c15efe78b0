use super::*;
use crate::json::Reader;
use crate::json::number::{Number, read_float16};
use inferlite_core::Tensor;
use inferlite_core::tensor::Shape;
use proptest::prelude::*;

fn flat(dtype: Dtype, bytes: &[u8]) -> String {
    let count = bytes.len() * 8 / dtype.bits();
    let shape = Shape::from_slice(&[i64::try_from(count).unwrap()]);
    let tensor = Tensor::from_bytes(dtype, shape, bytes).unwrap();
    let mut text = Vec::new();
    Cells::Numbers(tensor.view()).write(0..count, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn nested(shape: &[i64]) -> String {
    let count: i64 = shape.iter().product();
    let bytes: Vec<u8> = (0..u8::try_from(count).unwrap()).collect();
    let tensor = Tensor::from_bytes(Dtype::Uint8, Shape::from_slice(shape), &bytes).unwrap();
    let mut text = Vec::new();
    let end = Cells::Numbers(tensor.view()).write_nested(shape, 0, &mut text).unwrap();
    assert_eq!(end, bytes.len());
    String::from_utf8(text).unwrap()
}

#[test]
fn every_type_is_written() {
    assert_eq!(flat(Dtype::Bool, &[1, 0, 7]), "true,false,true");
    assert_eq!(flat(Dtype::Uint8, &[0, 255]), "0,255");
    assert_eq!(flat(Dtype::Int8, &[128]), "-128");
    assert_eq!(flat(Dtype::Uint16, &u16::MAX.to_ne_bytes()), "65535");
    assert_eq!(flat(Dtype::Int16, &i16::MIN.to_ne_bytes()), "-32768");
    assert_eq!(flat(Dtype::Uint32, &u32::MAX.to_ne_bytes()), "4294967295");
    assert_eq!(flat(Dtype::Int32, &i32::MIN.to_ne_bytes()), "-2147483648");
    assert_eq!(flat(Dtype::Uint64, &u64::MAX.to_ne_bytes()), "18446744073709551615");
    assert_eq!(flat(Dtype::Int64, &i64::MIN.to_ne_bytes()), "-9223372036854775808");
    assert_eq!(flat(Dtype::Float32, &0.1_f32.to_ne_bytes()), "0.1");
    assert_eq!(flat(Dtype::Float64, &0.1_f64.to_ne_bytes()), "0.1");
    assert_eq!(flat(Dtype::Float32, &2_f32.to_ne_bytes()), "2.0");
    assert_eq!(flat(Dtype::Float32, &(-0.0_f32).to_ne_bytes()), "-0.0");
    assert_eq!(flat(Dtype::Float16, &0x3E00_u16.to_ne_bytes()), "1.5");
    assert_eq!(flat(Dtype::Bfloat16, &0x3FC0_u16.to_ne_bytes()), "1.5");
    assert_eq!(flat(Dtype::Float32, &[]), "");
}

#[test]
fn numbers_that_are_not_finite_have_the_words_that_triton_writes() {
    let words = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0]
        .map(f32::to_ne_bytes)
        .concat();
    assert_eq!(flat(Dtype::Float32, &words), "NaN,Infinity,-Infinity,1.0");
    let words = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
        .map(f64::to_ne_bytes)
        .concat();
    assert_eq!(flat(Dtype::Float64, &words), "NaN,Infinity,-Infinity");
    let words = [0x7E00_u16, 0x7C00, 0xFC00].map(u16::to_ne_bytes).concat();
    assert_eq!(flat(Dtype::Float16, &words), "NaN,Infinity,-Infinity");
}

#[test]
fn tensors_longer_than_a_piece_are_written_whole() {
    let numbers: Vec<u16> = (0..2000).collect();
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    let texts: Vec<String> = numbers.iter().map(u16::to_string).collect();
    assert_eq!(flat(Dtype::Uint16, &bytes), texts.join(","));
}

#[test]
fn arrays_are_nested_as_the_shape_says() {
    for (shape, text) in [
        (&[][..], "0"),
        (&[3], "[0,1,2]"),
        (&[2, 2], "[[0,1],[2,3]]"),
        (&[2, 1, 2], "[[[0,1]],[[2,3]]]"),
        (&[0], "[]"),
        (&[2, 0], "[[],[]]"),
        (&[0, 2], "[]"),
    ] {
        assert_eq!(nested(shape), text);
    }
}

#[test]
fn strings_that_are_not_utf_8_are_not_written() {
    let mut strings = Strings::with_shape(Shape::from_slice(&[2]));
    strings.push(b"a");
    strings.push(b"\xff");
    let cells = Cells::Strings(&strings);
    assert_eq!(cells.write(0..1, &mut Vec::new()), Ok(()));
    assert_eq!(cells.write(0..2, &mut Vec::new()), Err(NotText));
}

#[test]
fn halves_are_widened_exactly() {
    for bits in 0..=u16::MAX {
        let number = widened(bits);
        if number.is_finite() {
            let mut text = Vec::new();
            float(&mut text, &mut zmij::Buffer::new(), number);
            let mut reader = Reader::new(&text).unwrap();
            assert_eq!(read_float16(&mut reader), Ok(bits));
        }
    }
}

#[test]
fn numbers_are_read_back_as_they_were() {
    let mut bits = 1_u32;
    for _ in 0..200_000 {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = f32::from_bits(bits);
        if number.is_finite() {
            let text = flat(Dtype::Float32, &number.to_ne_bytes());
            let read = f32::read(&mut Reader::new(text.as_bytes()).unwrap());
            assert_eq!(read.map(f32::to_bits), Ok(bits), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }
}

proptest! {
    #[test]
    fn strings_are_read_back_as_they_were(text in any::<String>()) {
        let mut json = Vec::new();
        string(&mut json, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text.clone());
        prop_assert_eq!(Reader::new(&json).unwrap().string().unwrap(), text);
    }

    #[test]
    fn doubles_are_read_back_as_they_were(number in any::<f64>().prop_filter("no word", |number| number.is_finite())) {
        let text = flat(Dtype::Float64, &number.to_ne_bytes());
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), number.to_bits());
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}
