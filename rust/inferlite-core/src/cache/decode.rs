//! Reading values back from bytes that may be anything: damaged, cut short, or made up.
//!
//! The counterpart of [`write_value`](super::key::write_value). No length is trusted: nothing is set aside for more than
//! the bytes that are there, and whatever does not add up is `None`.

use crate::tensor::{Dtype, Map, MapKeys, MapValues, Shape, Strings, Tensor, Value};

/// Sequences in sequences; models have one level.
const DEEPEST: usize = 8;

/// Bytes, read from the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// How many items follow, each of which takes at least this many bytes.
    pub(super) fn count(&mut self, least: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(least)? <= self.0.len()).then_some(count)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn shape(&mut self) -> Option<Shape> {
        let rank = self.count(size_of::<i64>())?;
        (0..rank).map(|_| self.array().map(i64::from_ne_bytes)).collect()
    }

    fn dtype(&mut self) -> Option<Dtype> {
        let number = self.byte()?;
        let dtype = Dtype::from_runtime(i32::from(number));
        (dtype as u8 == number).then_some(dtype)
    }

    fn strings(&mut self, shape: Shape) -> Option<Strings> {
        let count = crate::tensor::element_count(&shape).ok()?;
        if count.checked_mul(size_of::<u64>())? > self.0.len() {
            return None;
        }
        let mut strings = Strings::with_shape(shape);
        for _ in 0..count {
            let length = self.count(1)?;
            strings.push(self.bytes(length)?);
        }
        Some(strings)
    }

    fn tensor(&mut self) -> Option<Tensor> {
        let dtype = self.dtype()?;
        let shape = self.shape()?;
        let length = dtype.byte_len(crate::tensor::element_count(&shape).ok()?)?;
        Tensor::from_bytes(dtype, shape, self.bytes(length)?)
    }

    fn numbers<const N: usize, T>(&mut self, read: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
        let count = self.count(N)?;
        (0..count).map(|_| self.array().map(&read)).collect()
    }

    /// The strings of a map, which lie in one axis.
    fn strings_of_map(&mut self) -> Option<Strings> {
        if self.number()? != 1 {
            return None;
        }
        let count = i64::try_from(self.number()?).ok()?;
        self.strings(Shape::from_slice(&[count]))
    }

    fn map(&mut self, kind: u8) -> Option<Map> {
        let keys = match kind {
            4 => MapKeys::Int64(self.numbers(i64::from_ne_bytes)?),
            _ => MapKeys::String(self.strings_of_map()?),
        };
        let values = match self.byte()? {
            6 => MapValues::Float(self.numbers(f32::from_ne_bytes)?),
            7 => MapValues::Double(self.numbers(f64::from_ne_bytes)?),
            8 => MapValues::Int64(self.numbers(i64::from_ne_bytes)?),
            9 => MapValues::String(self.strings_of_map()?),
            _ => return None,
        };
        let key_count = match &keys {
            MapKeys::Int64(keys) => keys.len(),
            MapKeys::String(keys) => keys.len(),
        };
        let value_count = match &values {
            MapValues::Float(values) => values.len(),
            MapValues::Double(values) => values.len(),
            MapValues::Int64(values) => values.len(),
            MapValues::String(values) => values.len(),
        };
        (key_count == value_count).then_some(Map { keys, values })
    }

    /// The next value.
    pub(super) fn value(&mut self) -> Option<Value> {
        self.value_at(0)
    }

    fn value_at(&mut self, depth: usize) -> Option<Value> {
        Some(match self.byte()? {
            0 => Value::Absent,
            1 => Value::Tensor(self.tensor()?),
            2 => {
                let shape = self.shape()?;
                Value::Strings(self.strings(shape)?)
            }
            3 if depth < DEEPEST => {
                let element = self.dtype()?;
                let count = self.count(1)?;
                let items = (0..count).map(|_| self.value_at(depth + 1)).collect::<Option<_>>()?;
                Value::Sequence { element, items }
            }
            kind @ (4 | 5) => Value::Map(Box::new(self.map(kind)?)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::write_value;
    use super::*;
    use proptest::prelude::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_value(value, &mut bytes);
        bytes
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        prop::collection::vec(0..4_i64, 0..4).prop_map(Shape::from_vec)
    }

    fn tensors() -> impl Strategy<Value = Value> {
        let dtypes = (1..27_i32)
            .prop_map(Dtype::from_runtime)
            .prop_filter("sized", |dtype| dtype.bits() > 0);
        (dtypes, shapes(), any::<u8>()).prop_map(|(dtype, shape, byte)| {
            let length = dtype
                .byte_len(crate::tensor::element_count(&shape).expect("small"))
                .expect("small");
            Value::Tensor(Tensor::from_bytes(dtype, shape, &vec![byte; length]).expect("as long as it says"))
        })
    }

    fn strings_of(shape: Shape, items: &[Vec<u8>]) -> Strings {
        let count = crate::tensor::element_count(&shape).expect("small");
        let mut strings = Strings::with_shape(shape);
        for index in 0..count {
            strings.push(items.get(index).map_or(&b""[..], Vec::as_slice));
        }
        strings
    }

    fn maps() -> impl Strategy<Value = Value> {
        (
            prop::collection::vec(
                (any::<i64>(), any::<f64>(), prop::collection::vec(any::<u8>(), 0..5)),
                0..5,
            ),
            0..8_u8,
        )
            .prop_map(|(items, kind)| {
                let axis = Shape::from_slice(&[i64::try_from(items.len()).unwrap_or(0)]);
                let texts: Vec<Vec<u8>> = items.iter().map(|item| item.2.clone()).collect();
                let keys = match kind % 2 {
                    0 => MapKeys::Int64(items.iter().map(|item| item.0).collect()),
                    _ => MapKeys::String(strings_of(axis.clone(), &texts)),
                };
                #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
                let values = match kind / 2 {
                    0 => MapValues::Float(items.iter().map(|item| item.1 as f32).collect()),
                    1 => MapValues::Double(items.iter().map(|item| item.1).collect()),
                    2 => MapValues::Int64(items.iter().map(|item| item.0).collect()),
                    _ => MapValues::String(strings_of(axis, &texts)),
                };
                Value::Map(Box::new(Map { keys, values }))
            })
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = || {
            prop_oneof![
                Just(()).prop_map(|()| Value::Absent),
                tensors(),
                (
                    shapes(),
                    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..8)
                )
                    .prop_map(|(shape, items)| Value::Strings(strings_of(shape, &items))),
                maps(),
            ]
        };
        let sequence = prop::collection::vec(leaf(), 0..4).prop_map(|items| Value::Sequence {
            element: Dtype::Float32,
            items,
        });
        prop_oneof![4 => leaf(), 1 => sequence]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(value in values()) {
            let bytes = written(&value);
            let mut reader = Reader(&bytes);
            let again = reader.value().expect("it was written by us");
            prop_assert!(reader.0.is_empty());
            prop_assert_eq!(written(&again), bytes);
        }

        #[test]
        fn damaged_bytes_are_refused_or_mean_what_they_say(
            value in values(), place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = written(&value);
            let place = place.index(bytes.len());
            bytes[place] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            let mut reader = Reader(&bytes);
            if let Some(value) = reader.value() {
                let used = bytes.len() - reader.0.len();
                prop_assert_eq!(&written(&value)[..], &bytes[..used]);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_mean_what_they_say(bytes in prop::collection::vec(0..12_u8, 0..200)) {
            let mut reader = Reader(&bytes);
            if let Some(value) = reader.value() {
                let used = bytes.len() - reader.0.len();
                prop_assert_eq!(&written(&value)[..], &bytes[..used]);
            }
        }
    }

    #[test]
    fn lengths_that_lie_cost_nothing() {
        for kind in [1_u8, 2, 3, 4, 5] {
            let mut bytes = vec![kind, 1];
            bytes.extend([0xff; 40]);
            assert!(Reader(&bytes).value().is_none());
        }
        let nested = [3_u8, 1, 1, 0, 0, 0, 0, 0, 0, 0].repeat(100_000);
        assert!(Reader(&nested).value().is_none());
    }
}
