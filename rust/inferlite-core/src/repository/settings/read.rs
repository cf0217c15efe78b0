//! Reading `model.toml`, so that every mistake is named with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use toml::de::{DeTable, DeValue};

use super::{
    BatchOptions, Batching, CacheBy, CacheOptions, Hidden, ModelSettings, SharedOptions, SharedPlace, VersionPolicy,
};
use crate::cache::{CacheSettings, Limits, Policy};
use crate::error::{Error, ErrorKind, Result};
use crate::repository::layout;
use crate::tensor::element_count;

/// Far more than settings are, so that a file in the wrong place costs nothing.
const MOST_BYTES: u64 = 1 << 20;
const MOST: usize = (1 << 31) - 1;
const MOST_WARMUPS: usize = 10_000;
/// Elements of one input of a warm-up.
const MOST_ELEMENTS: usize = 1 << 28;
const LONGEST_DELAY: f64 = 60.0;
/// How long a question to a shared cache may take where nobody says.
const SHARED_TIMEOUT: Duration = Duration::from_millis(20);
/// Bytes.
const SHORTEST_SECRET: usize = 16;
/// A century: seconds beyond are a mistake, and a [`Duration`] holds no more than 584 years of nanoseconds in 64 bits.
const LONGEST_TIME: f64 = 100.0 * 365.0 * 86_400.0;

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

pub(super) fn file(path: &Path) -> Result<Option<ModelSettings>> {
    let origin = path.display().to_string();
    let unreadable = |error: io::Error| refused(format!("{origin}: it cannot be read: {error}"));
    // To open a pipe would wait for whoever writes to it.
    match path.metadata() {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(refused(format!("{origin}: it is no file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MOST_BYTES {
        return Err(refused(format!("{origin}: it must have at most {MOST_BYTES} bytes")));
    }
    let written = str::from_utf8(&bytes).map_err(|error| {
        let line = line_at(&bytes, error.valid_up_to());
        refused(format!("{origin}:{line}: it must be UTF-8"))
    })?;
    text(written, &origin).map(Some)
}

pub(super) fn text(text: &str, origin: &str) -> Result<ModelSettings> {
    let settings: ModelSettings = toml::from_str(text).map_err(|error| refused(placed(text, origin, &error)))?;
    check_instances(&settings).map_err(|message| refused(format!("{origin}: {message}")))?;
    Ok(settings)
}

/// There are two places for one number, which may not contradict each other.
fn check_instances(settings: &ModelSettings) -> Result<(), String> {
    let Batching::Required(BatchOptions {
        instances: Some(batched),
        ..
    }) = settings.batching
    else {
        return Ok(());
    };
    match settings.instances {
        Some(instances) if instances != batched => Err(format!(
            "`instances` is {instances} and `batching.instances` is {batched}: leave one of them out"
        )),
        _ => Ok(()),
    }
}

/// A message with the file, the line and the key in front.
fn placed(text: &str, origin: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end().replace('\n', ", ");
    let Some(span) = error.span() else {
        return format!("{origin}: {message}");
    };
    let line = line_at(text.as_bytes(), span.start);
    match key_at(text, span.start) {
        Some(key) => format!("{origin}:{line}: `{key}`: {message}"),
        None => format!("{origin}:{line}: {message}"),
    }
}

/// The line of a byte, counted from 1.
fn line_at(bytes: &[u8], position: usize) -> usize {
    1 + bytes.iter().take(position).filter(|&&byte| byte == b'\n').count()
}

/// The key, with those of the tables around it, whose name or value a position lies in; none in a text that is no TOML.
fn key_at(text: &str, position: usize) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let mut keys = Vec::new();
    find(table.get_ref(), position, &mut keys).then(|| keys.join("."))
}

/// Goes no deeper than the parser of TOML, which has a limit.
fn find(table: &DeTable<'_>, position: usize, keys: &mut Vec<String>) -> bool {
    for (key, value) in table {
        keys.push(key.get_ref().to_string());
        // A table under a header of its own does not lie within the text of that header, so that all are searched.
        if find_in(value.get_ref(), position, keys)
            || key.span().contains(&position)
            || value.span().contains(&position)
        {
            return true;
        }
        keys.pop();
    }
    false
}

fn find_in(value: &DeValue<'_>, position: usize, keys: &mut Vec<String>) -> bool {
    match value {
        DeValue::Table(table) => find(table, position, keys),
        DeValue::Array(values) => values.iter().any(|value| find_in(value.get_ref(), position, keys)),
        _ => false,
    }
}

/// The bytes of a size such as `256MB` or `1.5 GiB`.
fn size(given: &str) -> Result<usize, String> {
    let trimmed = given.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let unit_at = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let number = number.trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str, most: usize| {
        (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (Some(factor), true, true) = (factor, is_number(whole, 18), is_number(part, 9)) else {
        let units = UNITS.map(|(name, _)| name).join(", ");
        return Err(format!(
            "`{given}` is no size: write a number and one of {units}, such as \"256MB\""
        ));
    };
    let whole: u128 = whole.parse().map_err(|_| format!("`{given}` is no size"))?;
    let digits = u32::try_from(part.len()).unwrap_or(u32::MAX);
    let part: u128 = part.parse().map_err(|_| format!("`{given}` is no size"))?;
    // Eighteen digits times 2^40 are far below what 128 bits hold.
    let bytes = whole * u128::from(factor) + part * u128::from(factor) / 10_u128.pow(digits);
    checked_size(i128::try_from(bytes).unwrap_or(i128::MAX))
}

fn checked_size(bytes: i128) -> Result<usize, String> {
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (1..=usize::MAX / 2).contains(bytes))
        .ok_or_else(|| format!("a size must be from 1 to {} bytes, not {bytes}", usize::MAX / 2))
}

/// A number of bytes, or text with a unit.
struct Size(usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or text such as \"256MB\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                size(text).map(Size).map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                checked_size(bytes.into()).map(Size).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Bytes)
    }
}

#[derive(Default, Deserialize)]
enum PolicyName {
    #[default]
    #[serde(rename = "lru")]
    Lru,
    #[serde(rename = "s3-fifo")]
    S3Fifo,
}

fn default_size() -> Size {
    Size(256_000_000)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheTable {
    #[serde(default = "default_size")]
    max_bytes: Size,
    #[serde(default, deserialize_with = "count")]
    max_entries: Option<usize>,
    #[serde(default, deserialize_with = "long_time")]
    ttl: Option<Duration>,
    #[serde(default)]
    by: CacheBy,
    #[serde(default)]
    policy: PolicyName,
    #[serde(default, deserialize_with = "shared_place")]
    shared: Option<SharedPlace>,
    #[serde(default, deserialize_with = "secret")]
    secret: Option<Hidden>,
    #[serde(default, deserialize_with = "short_time")]
    shared_timeout: Option<Duration>,
}

fn shared_place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SharedPlace>, D::Error> {
    let url = Hidden::deserialize(deserializer)?;
    SharedPlace::read(url.text()).map(Some).map_err(D::Error::custom)
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hidden>, D::Error> {
    let secret = Hidden::deserialize(deserializer)?;
    let bytes = secret.text().len();
    if bytes < SHORTEST_SECRET {
        return Err(D::Error::custom(format!(
            "it must have at least {SHORTEST_SECRET} bytes, not {bytes}"
        )));
    }
    Ok(Some(secret))
}

impl CacheTable {
    fn options(mut self) -> Result<CacheOptions, &'static str> {
        let (secret, timeout) = (self.secret.take(), self.shared_timeout.take());
        let shared = match (self.shared.take(), secret) {
            (Some(_), _) if self.by == CacheBy::Row => {
                return Err("`shared` holds answers to whole calls: leave it out, or write `by = \"request\"`");
            }
            (Some(place), Some(secret)) => Some(SharedOptions {
                place,
                secret,
                timeout: timeout.unwrap_or(SHARED_TIMEOUT),
            }),
            (Some(_), None) => {
                return Err(
                    "`shared` needs a `secret`, the same for all who share it: whoever reaches the server could \
                            forge answers; write `secret = { env = \"NAME\" }` or `secret = { file = \"/path\" }`",
                );
            }
            (None, Some(_)) => return Err("`secret` is of no use without `shared`"),
            (None, None) if timeout.is_some() => return Err("`shared_timeout` is of no use without `shared`"),
            (None, None) => None,
        };
        Ok(CacheOptions { shared, ..self.into() })
    }
}

impl From<CacheTable> for CacheOptions {
    fn from(table: CacheTable) -> Self {
        let policy = match table.policy {
            PolicyName::Lru => Policy::Lru,
            PolicyName::S3Fifo => Policy::S3Fifo,
        };
        Self {
            settings: CacheSettings {
                limits: Limits {
                    max_bytes: table.max_bytes.0,
                    max_entries: table.max_entries.unwrap_or(usize::MAX),
                },
                ttl: table.ttl,
                policy,
            },
            by: table.by,
            shared: None,
        }
    }
}

pub(super) fn cache<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CacheOptions>, D::Error> {
    struct Cache;

    impl<'de> Visitor<'de> for Cache {
        type Value = Option<CacheOptions>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("false, a size such as \"256MB\" or a table")
        }

        fn visit_bool<E: serde::de::Error>(self, is_on: bool) -> Result<Self::Value, E> {
            if is_on {
                return Err(E::custom("say how much is kept, such as \"256MB\", instead of true"));
            }
            Ok(None)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let table = CacheTable {
                max_bytes: Size(size(text).map_err(E::custom)?),
                max_entries: None,
                ttl: None,
                by: CacheBy::default(),
                policy: PolicyName::default(),
                shared: None,
                secret: None,
                shared_timeout: None,
            };
            Ok(Some(table.into()))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            let table = CacheTable::deserialize(MapAccessDeserializer::new(map))?;
            table.options().map(Some).map_err(A::Error::custom)
        }
    }

    deserializer.deserialize_any(Cache)
}

impl<'de> Deserialize<'de> for Batching {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Calls;

        impl<'de> Visitor<'de> for Calls {
            type Value = Batching;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table")
            }

            fn visit_bool<E: serde::de::Error>(self, is_on: bool) -> Result<Batching, E> {
                Ok(if is_on {
                    Batching::Required(BatchOptions::default())
                } else {
                    Batching::Off
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Batching, A::Error> {
                BatchOptions::deserialize(MapAccessDeserializer::new(map)).map(Batching::Required)
            }
        }

        deserializer.deserialize_any(Calls)
    }
}

impl<'de> Deserialize<'de> for VersionPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Policy;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Latest {
            latest: i64,
        }

        impl<'de> Visitor<'de> for Policy {
            type Value = VersionPolicy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\", {latest = N} or a list of numbers")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<VersionPolicy, E> {
                if text == "all" {
                    return Ok(VersionPolicy::All);
                }
                Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VersionPolicy, A::Error> {
                let table = Latest::deserialize(MapAccessDeserializer::new(map))?;
                number_in(table.latest, 1..=MOST)
                    .map(VersionPolicy::Latest)
                    .map_err(A::Error::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<VersionPolicy, A::Error> {
                let mut listed = BTreeSet::new();
                while let Some(version) = seq.next_element()? {
                    listed.insert(checked_version(version).map_err(A::Error::custom)?);
                }
                if listed.is_empty() {
                    return Err(A::Error::custom("the list must name at least one version"));
                }
                Ok(VersionPolicy::Listed(listed))
            }
        }

        deserializer.deserialize_any(Policy)
    }
}

fn checked_version(given: i64) -> Result<u64, String> {
    u64::try_from(given)
        .ok()
        .filter(|&version| version > 0)
        .ok_or_else(|| format!("a version must be at least 1, not {given}"))
}

fn number_in(given: i64, range: RangeInclusive<usize>) -> Result<usize, String> {
    usize::try_from(given)
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("it must be from {} to {}, not {given}", range.start(), range.end()))
}

fn number<'de, D: Deserializer<'de>>(deserializer: D, range: RangeInclusive<usize>) -> Result<usize, D::Error> {
    number_in(i64::deserialize(deserializer)?, range).map_err(D::Error::custom)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D, longest: f64, may_be_zero: bool) -> Result<Duration, D::Error> {
    let given = f64::deserialize(deserializer)?;
    let is_enough = if may_be_zero { given >= 0.0 } else { given > 0.0 };
    let duration = Duration::try_from_secs_f64(given).ok();
    duration.filter(|_| is_enough && given <= longest).ok_or_else(|| {
        let least = if may_be_zero { "at least" } else { "more than" };
        D::Error::custom(format!(
            "it must be {least} 0 and at most {longest} seconds, not {given}"
        ))
    })
}

pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    number(deserializer, 1..=MOST).map(Some)
}

pub(super) fn threads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    number(deserializer, 1..=1024).map(Some)
}

pub(super) fn instances<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    number(deserializer, 1..=1024).map(Some)
}

pub(super) fn queue<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    number(deserializer, 1..=MOST)
}

pub(super) fn warmup_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    number(deserializer, 1..=MOST_WARMUPS)
}

pub(super) fn once() -> usize {
    1
}

pub(super) fn delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    seconds(deserializer, LONGEST_DELAY, true)
}

pub(super) fn short_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    seconds(deserializer, LONGEST_DELAY, false).map(Some)
}

pub(super) fn long_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    seconds(deserializer, LONGEST_TIME, false).map(Some)
}

pub(super) fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    let shape = Vec::<i64>::deserialize(deserializer)?;
    let elements = element_count(&shape).map_err(D::Error::custom)?;
    if elements > MOST_ELEMENTS {
        return Err(D::Error::custom(format!(
            "shape {shape:?} has {elements} elements, more than {MOST_ELEMENTS}"
        )));
    }
    Ok(shape)
}

/// An axis, or "none".
struct Axis(Option<usize>);

impl<'de> Deserialize<'de> for Axis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;

        impl Visitor<'_> for Place {
            type Value = Axis;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an axis from 0 or \"none\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Axis, E> {
                if text == "none" {
                    return Ok(Axis(None));
                }
                Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, axis: i64) -> Result<Axis, E> {
                let checked =
                    usize::try_from(axis).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(axis), &self));
                checked.map(|axis| Axis(Some(axis)))
            }
        }

        deserializer.deserialize_any(Place)
    }
}

pub(super) fn batch_axes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Option<usize>>, D::Error> {
    let axes = BTreeMap::<String, Axis>::deserialize(deserializer)?;
    Ok(axes.into_iter().map(|(name, Axis(axis))| (name, axis)).collect())
}

/// A version under a label.
struct Labelled(u64);

impl<'de> Deserialize<'de> for Labelled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = checked_version(i64::deserialize(deserializer)?);
        version.map(Self).map_err(D::Error::custom)
    }
}

/// A name for a version, which no version can have itself.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Label(String);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let label = String::deserialize(deserializer)?;
        if layout::is_name(&label) && !label.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self(label));
        }
        Err(D::Error::custom(
            "a label must be of letters, digits, `_`, `-` and `.`, begin with no `.`, and be no number",
        ))
    }
}

pub(super) fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u64>, D::Error> {
    let labels = BTreeMap::<Label, Labelled>::deserialize(deserializer)?;
    Ok(labels
        .into_iter()
        .map(|(label, version)| (label.0, version.0))
        .collect())
}
