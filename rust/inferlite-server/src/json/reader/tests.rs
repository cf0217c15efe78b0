use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Number as Numeral, Value};

use super::*;

/// The value as a tree, which is what the reader is there to avoid.
fn tree(reader: &mut Reader<'_>) -> Result<Value, Fault> {
    Ok(match reader.kind()? {
        Kind::Object => {
            let mut map = Map::new();
            let mut members = reader.object()?;
            while let Some(name) = members.next(reader)? {
                map.insert(name.into_owned(), tree(reader)?);
            }
            Value::Object(map)
        }
        Kind::Array => {
            let mut items = Vec::new();
            let mut elements = reader.array()?;
            while elements.next(reader)? {
                items.push(tree(reader)?);
            }
            Value::Array(items)
        }
        Kind::String => Value::String(reader.string()?.into_owned()),
        Kind::Boolean => Value::Bool(reader.boolean()?),
        Kind::Null => {
            reader.null()?;
            Value::Null
        }
        Kind::Number => {
            let start = reader.clone();
            let number: f64 = reader.number()?;
            let unsigned = start.clone().number::<u64>().map(Numeral::from);
            let signed = start.clone().number::<i64>().map(Numeral::from);
            let is_minus_zero = number == 0.0 && number.is_sign_negative();
            let integer = if is_minus_zero { None } else { unsigned.or(signed).ok() };
            Value::Number(integer.or_else(|| Numeral::from_f64(number)).unwrap())
        }
    })
}

fn whole(bytes: &[u8]) -> Result<Value, Fault> {
    let mut reader = Reader::new(bytes)?;
    let value = tree(&mut reader)?;
    reader.end()?;
    Ok(value)
}

fn skipped(bytes: &[u8]) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes)?;
    reader.skip_value()?;
    reader.end()
}

fn fault(text: &str) -> (&'static str, usize) {
    match whole(text.as_bytes()) {
        Err(Fault::Malformed { what, at }) => (what, at),
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn what_is_malformed_is_said_in_the_words_of_rapidjson() {
    for (text, what, at) in [
        ("", "The document is empty.", 0),
        (" \n", "The document is empty.", 2),
        ("{a", "Missing a name for object member.", 1),
        (r#"{"a":1,}"#, "Missing a name for object member.", 7),
        (r#"{"a" 1}"#, "Missing a colon after a name of object member.", 5),
        (r#"{"a":1 "b""#, "Missing a comma or } after an object member.", 7),
        ("[1 2]", "Missing a comma or ] after an array element.", 3),
        ("[1", "Missing a comma or ] after an array element.", 2),
        ("[1,]", "Invalid value.", 3),
        ("[01]", "Missing a comma or ] after an array element.", 2),
        ("[+1]", "Invalid value.", 1),
        ("[-]", "Invalid value.", 2),
        ("[.5]", "Invalid value.", 1),
        ("[1.]", "Miss fraction part in number.", 3),
        ("[1.e5]", "Miss fraction part in number.", 3),
        ("[1e]", "Miss exponent in number.", 3),
        ("[1e+]", "Miss exponent in number.", 4),
        ("[1e400]", "Number too big to be stored in double.", 1),
        ("[-1e400]", "Number too big to be stored in double.", 1),
        ("[NaN]", "Invalid value.", 1),
        ("[Infinity]", "Invalid value.", 1),
        ("[-Infinity]", "Invalid value.", 2),
        ("[nul]", "Invalid value.", 1),
        ("[tru]", "Invalid value.", 1),
        ("1 1", "The document root must not be followed by other values.", 2),
        ("\"a", "Missing a closing quotation mark in string.", 0),
        ("\"\\x\"", "Invalid escape character in string.", 1),
        ("\"\\u12G4\"", "Incorrect hex digit after \\u escape in string.", 1),
        ("\"\\ud800\"", "The surrogate pair in string is invalid.", 1),
        ("\"\\ud800\\u0041\"", "The surrogate pair in string is invalid.", 1),
        ("\"\\udc00\"", "The surrogate pair in string is invalid.", 1),
        ("\"a\nb\"", "Invalid encoding in string.", 2),
    ] {
        assert_eq!(fault(text), (what, at), "{text:?}");
    }
    let broken = Reader::new(b"\"\xff\"").map(drop);
    let what = "Invalid encoding in string.";
    assert_eq!(broken, Err(Fault::Malformed { what, at: 1 }));
}

#[test]
fn sixty_four_levels_are_read_and_one_more_is_not() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(whole(nested(64).as_bytes()).is_ok());
    assert!(skipped(nested(64).as_bytes()).is_ok());
    assert_eq!(fault(&nested(65)), ("Nested deeper than 64 levels.", 64));
    assert!(skipped(nested(1_000_000).as_bytes()).is_err());
    let objects = "{\"a\":".repeat(65);
    assert!(skipped(objects.as_bytes()).is_err());
}

#[test]
fn a_value_of_another_type_is_named_only_where_it_is_a_value() {
    let string = |text: &'static str| Reader::new(text.as_bytes()).unwrap().string().map(drop);
    let what = "attempt to access JSON non-string as string";
    assert_eq!(string(" [1]"), Err(Fault::Mistyped { what, at: 1 }));
    let what = "Missing a comma or ] after an array element.";
    assert_eq!(string("[1"), Err(Fault::Malformed { what, at: 2 }));
}

#[test]
fn strings_without_escapes_are_not_copied() {
    let mut reader = Reader::new(br#"["plain", "\u00e9\ud83d\ude00\/\b\f\n\r\t\"\\"]"#).unwrap();
    let mut elements = reader.array().unwrap();
    assert!(elements.next(&mut reader).unwrap());
    assert!(matches!(reader.string().unwrap(), Cow::Borrowed("plain")));
    assert!(elements.next(&mut reader).unwrap());
    assert_eq!(reader.string().unwrap(), "é😀/\u{8}\u{c}\n\r\t\"\\");
}

#[test]
fn an_excerpt_ends_where_the_value_does_or_soon() {
    let text = format!("[1.5, \"{}\"]", "é".repeat(100));
    let reader = Reader::new(text.as_bytes()).unwrap();
    assert_eq!(reader.excerpt(1), "1.5");
    assert_eq!(reader.excerpt(6), format!("\"{}...", "é".repeat(31)));
    assert_eq!(reader.excerpt(1000), "");
}

fn blank() -> impl Strategy<Value = String> {
    prop_oneof![8 => Just(String::new()), 1 => Just(" ".to_owned()), 1 => "[ \t\r\n]{1,9}"]
}

fn quoted() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        6 => "[a-z0-9 \\]\\}\\[,:{]",
        1 => any::<char>().prop_filter("must be escaped", |c| *c >= ' ' && *c != '"' && *c != '\\').prop_map(String::from),
        1 => prop::sample::select(vec!["\\n", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\r", "\\t"]).prop_map(String::from),
        1 => any::<char>().prop_map(|c| {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units).iter();
            units.map(|unit| format!("\\u{unit:04X}")).collect::<Vec<_>>().concat()
        }),
    ];
    vec(character, 0..12).prop_map(|characters| format!("\"{}\"", characters.concat()))
}

fn numeral() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no word", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        any::<f32>()
            .prop_filter("JSON has no word", |number| number.is_finite())
            .prop_map(|number| number.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,8})?",
    ]
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        numeral(),
        quoted(),
        prop::sample::select(vec!["true", "false", "null"]).prop_map(String::from)
    ];
    let padded =
        |inner: BoxedStrategy<String>| (blank(), inner, blank()).prop_map(|(a, text, b)| format!("{a}{text}{b}"));
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let inner = padded(inner.boxed()).boxed();
        let member = (blank(), quoted(), blank(), inner.clone());
        let member = member.prop_map(|(a, name, b, value)| format!("{a}{name}{b}:{value}"));
        prop_oneof![
            (blank(), vec(inner, 0..6)).prop_map(|(blank, items)| match &*items {
                [] => format!("[{blank}]"),
                items => format!("[{}]", items.join(",")),
            }),
            (blank(), vec(member, 0..6)).prop_map(|(blank, members)| match &*members {
                [] => format!("{{{blank}}}"),
                members => format!("{{{}}}", members.join(",")),
            }),
        ]
    })
}

/// A change to some bytes: a place, what to do there, and with what.
fn change() -> impl Strategy<Value = (prop::sample::Index, u8, u8)> {
    let byte = prop_oneof![
        4 => prop::sample::select(b"{}[]\",:\\/-+.eE0123456789 \n\tutfn".to_vec()),
        1 => any::<u8>()
    ];
    (any::<prop::sample::Index>(), 0..4_u8, byte)
}

fn changed(text: &str, changes: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (place, what, byte) in changes {
        let at = place.index(bytes.len() + 1);
        match what {
            0 => bytes.insert(at, *byte),
            1 if at < bytes.len() => bytes[at] = *byte,
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if *byte < 32 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

proptest! {
    #[test]
    fn a_text_has_the_values_that_a_tree_has(text in json()) {
        let Ok(wanted) = serde_json::from_str::<Value>(&text) else {
                prop_assert!(whole(text.as_bytes()).is_err(), "{}", text);
                return Ok(());
        };
        prop_assert_eq!(whole(text.as_bytes()), Ok(wanted));
        prop_assert_eq!(skipped(text.as_bytes()), Ok(()));
        let mut reader = Reader::new(text.as_bytes()).unwrap();
        prop_assert_eq!(reader.hop(), Ok(()));
        prop_assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn a_changed_text_is_accepted_where_a_tree_can_be_made(text in json(), changes in vec(change(), 1..4)) {
        let bytes = changed(&text, &changes);
        let wanted = serde_json::from_slice::<Value>(&bytes).ok();
        prop_assert_eq!(whole(&bytes).ok(), wanted.clone(), "{:?}", String::from_utf8_lossy(&bytes));
        prop_assert_eq!(skipped(&bytes).is_ok(), wanted.is_some());
        if let Ok(mut reader) = Reader::new(&bytes) {
            let _ = reader.hop();
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(whole(&bytes).ok(), serde_json::from_slice::<Value>(&bytes).ok());
    }
}
