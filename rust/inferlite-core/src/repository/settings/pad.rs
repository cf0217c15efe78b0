//! `pad` of `[batching]`: lengths that calls of one batch may differ in.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    Deserializer, Error as _, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer,
};

use crate::rows::{DeclaredLength, Filling};

const LEAST_LAST: i64 = 3;
const MOST: i64 = (1 << 31) - 1;

/// The number of an axis, or several.
struct Axes(Vec<usize>);

impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Places;

        fn checked<E: serde::de::Error>(axis: i64) -> Result<usize, E> {
            let checked = usize::try_from(axis).ok().filter(|_| axis <= MOST);
            checked.ok_or_else(|| E::custom(format!("an axis must be from 0 to {MOST}, not {axis}")))
        }

        impl<'de> Visitor<'de> for Places {
            type Value = Axes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of an axis, or a list of them")
            }

            fn visit_i64<E: serde::de::Error>(self, axis: i64) -> Result<Axes, E> {
                Ok(Axes(vec![checked(axis)?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Axes, A::Error> {
                let mut axes = Vec::new();
                while let Some(axis) = seq.next_element()? {
                    axes.push(checked(axis)?);
                }
                if axes.is_empty() {
                    return Err(A::Error::custom("the list must name at least one axis"));
                }
                Ok(Axes(axes))
            }
        }

        deserializer.deserialize_any(Places)
    }
}

/// What fills one input up.
#[derive(Clone)]
struct Value(Filling);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl Visitor<'_> for One {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or text")
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
                Ok(Value(Filling::Integer(value.into())))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
                Ok(Value(Filling::Integer(value)))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
                Ok(Value(Filling::Number(value)))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
                Ok(Value(Filling::Text(value.to_owned())))
            }
        }

        deserializer.deserialize_any(One)
    }
}

/// One for all inputs, or by name.
enum Values {
    All(Value),
    Named(BTreeMap<String, Value>),
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, text, or a table of them by the names of inputs")
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Values, E> {
                self.visit_i64(value.into())
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Values, E> {
                Ok(Values::All(Value(Filling::Integer(value))))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Values, E> {
                Ok(Values::All(Value(Filling::Number(value))))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Values, E> {
                Ok(Values::All(Value(Filling::Text(value.to_owned()))))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Values, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(Values::Named)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

fn inputs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Axes>, D::Error> {
    let inputs = BTreeMap::deserialize(deserializer)?;
    if inputs.is_empty() {
        return Err(D::Error::custom("it must name at least one input"));
    }
    Ok(inputs)
}

fn sizes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    let given = Vec::<i64>::deserialize(deserializer)?;
    let grow = given.is_sorted_by(|smaller, larger| smaller < larger) && given.first().is_some_and(|&first| first > 0);
    let is_enough = given.last().is_some_and(|last| (LEAST_LAST..=MOST).contains(last));
    if !(grow && is_enough) {
        return Err(D::Error::custom(format!(
            "it must grow from 1 on, and the last be at least {LEAST_LAST}, not {given:?}"
        )));
    }
    Ok(given
        .into_iter()
        .filter_map(|size| usize::try_from(size).ok())
        .collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(deserialize_with = "inputs")]
    inputs: BTreeMap<String, Axes>,
    #[serde(deserialize_with = "sizes")]
    sizes: Vec<usize>,
    value: Option<Values>,
    #[serde(default)]
    outputs: BTreeMap<String, Axes>,
}

impl Table {
    fn length(self) -> Result<DeclaredLength, String> {
        let mut named = match &self.value {
            Some(Values::Named(named)) => named.keys(),
            _ => std::collections::btree_map::Keys::default(),
        };
        if let Some(name) = named.find(|name| !self.inputs.contains_key(*name)) {
            let known: Vec<String> = self.inputs.keys().map(|name| format!("`{name}`")).collect();
            return Err(format!(
                "`value` names `{name}`, which is none of its `inputs`: {}",
                known.join(", ")
            ));
        }
        let value = |name: &String| match &self.value {
            Some(Values::All(value)) => value.0.clone(),
            Some(Values::Named(named)) => named.get(name).map_or(Filling::Integer(0), |value| value.0.clone()),
            None => Filling::Integer(0),
        };
        let inputs = self.inputs.iter();
        let inputs = inputs.flat_map(|(name, axes)| axes.0.iter().map(|&axis| (name.clone(), axis, value(name))));
        let outputs = self.outputs.iter();
        let outputs = outputs.flat_map(|(name, axes)| axes.0.iter().map(|&axis| (name.clone(), axis)));
        Ok(DeclaredLength {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            sizes: self.sizes.clone(),
        })
    }
}

/// One length, or a list of them.
pub(super) fn lengths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DeclaredLength>, D::Error> {
    struct Lengths;

    impl<'de> Visitor<'de> for Lengths {
        type Value = Vec<Table>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table with `inputs` and `sizes`, or a list of them")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Table::deserialize(MapAccessDeserializer::new(map)).map(|table| vec![table])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(seq))
        }
    }

    let tables = deserializer.deserialize_any(Lengths)?;
    let lengths = tables.into_iter().map(|table| table.length().map_err(D::Error::custom));
    lengths.collect()
}
