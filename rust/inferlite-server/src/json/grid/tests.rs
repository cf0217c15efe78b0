use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn read(dtype: Dtype, text: &str) -> Result<(Vec<i64>, Vec<u8>), Fault> {
    let mut reader = Reader::new(text.as_bytes())?;
    let mut grid = Grid::new(dtype, usize::MAX, 0, text.len());
    grid.read(&mut reader, 0)?;
    reader.end()?;
    let shape = grid.shape();
    let Some(Value::Tensor(tensor)) = grid.into_value(shape.clone()) else {
        panic!("the elements do not fit {shape:?}")
    };
    Ok((shape.to_vec(), tensor.to_bytes()))
}

#[test]
fn the_arrays_give_the_shape() {
    for (text, shape) in [
        ("5", &[][..]),
        ("[]", &[0]),
        (" [ 1 , 2 ] ", &[2]),
        ("[[1,2,3],[4,5,6]]", &[2, 3]),
        ("[[[1],[2]],[[3],[4]],[[5],[6]]]", &[3, 2, 1]),
        ("[[],[]]", &[2, 0]),
        ("[[[]]]", &[1, 1, 0]),
    ] {
        let (read, bytes) = read(Dtype::Uint8, text).unwrap();
        assert_eq!(read, shape, "{text}");
        let wanted: Vec<u8> = text
            .bytes()
            .filter(u8::is_ascii_digit)
            .map(|digit| digit - b'0')
            .collect();
        assert_eq!(bytes, wanted);
    }
}

#[test]
fn ragged_arrays_are_refused() {
    for text in [
        "[[1],[2,3]]",
        "[[1,2],[3]]",
        "[1,[2]]",
        "[[1],2]",
        "[[],[1]]",
        "[[1],[]]",
        "[[[1]],[2]]",
        "[[1],[[2]]]",
        "[[],[[]]]",
        "[[[1],[2]],[[3]]]",
    ] {
        assert_eq!(read(Dtype::Float32, text), Err(Fault::Ragged), "{text}");
    }
}

#[test]
fn every_type_has_its_elements() {
    let bytes = |dtype, text| read(dtype, text).unwrap().1;
    assert_eq!(bytes(Dtype::Bool, "[true,false]"), [1, 0]);
    assert_eq!(bytes(Dtype::Uint8, "[255]"), [255]);
    assert_eq!(bytes(Dtype::Uint16, "[65535]"), u16::MAX.to_ne_bytes());
    assert_eq!(bytes(Dtype::Uint32, "[4294967295]"), u32::MAX.to_ne_bytes());
    assert_eq!(bytes(Dtype::Uint64, "[18446744073709551615]"), u64::MAX.to_ne_bytes());
    assert_eq!(bytes(Dtype::Int8, "[-128]"), i8::MIN.to_ne_bytes());
    assert_eq!(bytes(Dtype::Int16, "[-32768]"), i16::MIN.to_ne_bytes());
    assert_eq!(bytes(Dtype::Int32, "[-2147483648]"), i32::MIN.to_ne_bytes());
    assert_eq!(bytes(Dtype::Int64, "[-9223372036854775808]"), i64::MIN.to_ne_bytes());
    assert_eq!(bytes(Dtype::Float32, "[0.1]"), 0.1_f32.to_ne_bytes());
    assert_eq!(bytes(Dtype::Float64, "[0.1]"), 0.1_f64.to_ne_bytes());
    assert_eq!(bytes(Dtype::Float16, "[1.5]"), 0x3E00_u16.to_ne_bytes());
    assert_eq!(bytes(Dtype::Bfloat16, "[1.5]"), 0x3FC0_u16.to_ne_bytes());
    assert_eq!(read(Dtype::Float16, "[65520]"), Err(Fault::OutOfRange { at: 1 }));
    let what = "attempt to access JSON non-boolean as boolean";
    assert_eq!(read(Dtype::Bool, "[true,1]"), Err(Fault::Mistyped { what, at: 6 }));
    assert!(read(Dtype::Complex64, "[1]").is_err());
}

#[test]
fn strings_become_strings() {
    let text = r#"[["a","b\u0000c"],["",""]]"#;
    let mut grid = Grid::new(Dtype::String, 4, 4, text.len());
    grid.read(&mut Reader::new(text.as_bytes()).unwrap(), 0).unwrap();
    let shape = grid.shape();
    let Some(Value::Strings(strings)) = grid.into_value(shape) else {
        panic!("four strings fit")
    };
    assert_eq!(strings.shape.as_slice(), [2, 2]);
    assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"a"[..], b"b\0c", b"", b""]);
}

#[test]
fn no_more_elements_are_read_than_wanted() {
    for (dtype, text) in [
        (Dtype::Float32, "[1,2,3]"),
        (Dtype::Float32, "[[1],[2],[3]]"),
        (Dtype::String, r#"["","",""]"#),
    ] {
        let read = |count| {
            let mut grid = Grid::new(dtype, count, count, text.len());
            grid.read(&mut Reader::new(text.as_bytes()).unwrap(), 0)
                .map(|()| grid.len())
        };
        assert_eq!(read(2), Err(Fault::TooMany));
        assert_eq!(read(3), Ok(3));
        assert_eq!(read(usize::MAX), Ok(3));
    }
    // A comma announces no element where none follows.
    let mut grid = Grid::new(Dtype::Float32, 2, 2, 6);
    let read = grid.read(&mut Reader::new(b"[1,2,]").unwrap(), 0);
    assert_eq!(
        read,
        Err(Fault::Malformed {
            what: "Invalid value.",
            at: 5
        })
    );
}

#[test]
fn rows_are_read_one_by_one() {
    let mut grid = Grid::new(Dtype::Int8, usize::MAX, 0, 100);
    for text in ["[1,2]", "[3,4]", "[5,6]"] {
        grid.read(&mut Reader::new(text.as_bytes()).unwrap(), 1).unwrap();
    }
    grid.set_extent(0, 3).unwrap();
    assert_eq!(grid.shape().as_slice(), [3, 2]);
    let uneven = grid.read(&mut Reader::new(b"[7]").unwrap(), 1);
    assert_eq!(uneven, Err(Fault::Ragged));
}

/// The extents of nested arrays, by looking at each of them.
fn extents(value: &serde_json::Value) -> Option<Vec<i64>> {
    let Some(items) = value.as_array() else {
        return Some(Vec::new());
    };
    let mut inner = items.iter().map(extents);
    let first = inner.next().unwrap_or(Some(Vec::new()))?;
    let is_even = inner.all(|other| other.as_ref() == Some(&first));
    let mut shape = vec![i64::try_from(items.len()).ok()?];
    shape.extend(first);
    is_even.then_some(shape)
}

#[expect(clippy::cast_possible_truncation, reason = "rounds as the reader is meant to")]
fn flattened(value: &serde_json::Value, into: &mut Vec<u8>) {
    match value.as_array() {
        Some(items) => items.iter().for_each(|item| flattened(item, into)),
        None => into.extend_from_slice(&(value.as_f64().unwrap() as f32).to_ne_bytes()),
    }
}

fn arrays() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(serde_json::Value::from),
        (-1e30..1e30).prop_map(serde_json::Value::from)
    ];
    leaf.prop_recursive(4, 60, 4, |inner| {
        prop_oneof![
            // Equal ones are even.
            2 => (inner.clone(), 0..4_usize).prop_map(|(item, count)| vec![item; count].into()),
            1 => vec(inner, 0..3).prop_map(serde_json::Value::from),
        ]
    })
}

proptest! {
    #[test]
    fn arrays_are_those_of_the_tree(value in arrays()) {
        let read = read(Dtype::Float32, &value.to_string());
        match extents(&value) {
            None => prop_assert_eq!(read, Err(Fault::Ragged)),
            Some(shape) => {
                let mut bytes = Vec::new();
                flattened(&value, &mut bytes);
                prop_assert_eq!(read, Ok((shape, bytes)));
            }
        }
    }
}
