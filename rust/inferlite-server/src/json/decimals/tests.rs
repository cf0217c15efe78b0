use proptest::collection::vec;
use proptest::prelude::*;

use super::super::number::Number;
use super::super::reader::{Fault, Next, Reader};
use super::*;
use inferlite_core::Dtype;

/// Reads a row that has been entered one by one: the numbers as they are in memory.
fn one_by_one<T: Number>(reader: &mut Reader<'_>) -> Result<Vec<u8>, Fault> {
    let mut buffer = Buffer::default();
    loop {
        buffer.push(reader.number::<T>()?);
        if reader.next_element()? == Next::End {
            return Ok(bytes(buffer));
        }
    }
}

/// The same with as many at once as there are.
fn many_at_once<T: Number + Decimal>(reader: &mut Reader<'_>) -> Result<Vec<u8>, Fault> {
    let mut buffer = Buffer::default();
    loop {
        reader.position();
        reader.decimals::<T>(&mut buffer, usize::MAX);
        buffer.push(reader.number::<T>()?);
        if reader.next_element()? == Next::End {
            return Ok(bytes(buffer));
        }
    }
}

fn bytes(buffer: Buffer) -> Vec<u8> {
    let shape = [i64::try_from(buffer.len()).unwrap()];
    buffer
        .into_tensor(Dtype::Uint8, shape.as_slice().into())
        .unwrap()
        .to_bytes()
}

fn compare<T: Number + Decimal>(text: &str) -> Result<(), TestCaseError> {
    let enter = || {
        let mut reader = Reader::new(text.as_bytes()).unwrap();
        reader.array().unwrap();
        reader
    };
    prop_assert_eq!(
        many_at_once::<T>(&mut enter()),
        one_by_one::<T>(&mut enter()),
        "{}",
        text
    );
    Ok(())
}

fn together(text: &str) -> (Vec<u8>, usize) {
    let mut buffer = Buffer::default();
    let (_, at) = read::<f64>(text.as_bytes(), 0, usize::MAX, &mut buffer);
    (bytes(buffer), at)
}

#[test]
fn the_usual_forms_are_read_at_once() {
    if !is_x86_feature_detected!("sse4.1") {
        return;
    }
    let numbers = [
        "0",
        "-0",
        "7",
        "-7",
        "0.5",
        "-0.25",
        "1.5",
        "12.75",
        "255",
        "-1234.5678",
        "0.000000000001",
        "123456789012345",
        "1.2345678901234",
        "-9999999999999",
    ];
    for separator in [",", ", "] {
        let text: String = numbers.iter().flat_map(|number| [*number, separator]).collect();
        let wanted: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.parse::<f64>().unwrap().to_ne_bytes())
            .collect();
        // Behind the last one there must be something to look at.
        let followed = format!("{text}{}", "]".repeat(WINDOW));
        assert_eq!(together(&followed), (wanted, text.len()));
    }
}

#[test]
fn what_is_written_otherwise_is_left_where_it_is() {
    for number in [
        "",
        "-",
        ".5",
        "-.5",
        "1.",
        "01",
        "-01",
        "00.5",
        "1e5",
        "1.5e1",
        "+1",
        "1.2.3",
        "1 ",
        "x",
        "1x",
        "--1",
        "1-",
        "1234567890123456",
        "[1",
        "\"1\"",
        "null",
    ] {
        let text = format!("{number},{}", "1,".repeat(WINDOW));
        assert_eq!(together(&text), (Vec::new(), 0), "{number}");
    }
}

#[test]
fn no_more_are_read_than_wanted() {
    let mut buffer = Buffer::default();
    let text = "1,2,3,4,5,6,7,8,9,10,11,12,13,14,";
    for most in 0..4 {
        let (count, at) = read::<f32>(text.as_bytes(), 0, most, &mut buffer);
        assert!(count <= most && at == 2 * count);
    }
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "-?(0|[1-9][0-9]{0,5})(\\.[0-9]{1,10})?",
        1 => "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?",
        1 => any::<f32>().prop_filter("JSON has no others", |number| number.is_finite()).prop_map(|number| number.to_string()),
    ]
}

fn separator() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(","), 4 => Just(", "), 1 => Just(" ,"), 1 => Just(",  "), 1 => Just(",\n")]
}

proptest! {
    #[test]
    fn numbers_read_at_once_are_those_read_one_by_one(row in vec((number(), separator()), 1..40)) {
        let mut text = String::from("[");
        for (number, separator) in &row {
            text.extend([number, *separator]);
        }
        let text = text.trim_end().trim_end_matches(',').to_owned() + "]";
        compare::<f32>(&text)?;
        compare::<f64>(&text)?;
    }

    #[test]
    fn whatever_is_there_is_read_as_it_would_be_one_by_one(text in "\\[[-0-9.,e \\]]{0,60}") {
        compare::<f32>(&text)?;
        compare::<f64>(&text)?;
    }
}
