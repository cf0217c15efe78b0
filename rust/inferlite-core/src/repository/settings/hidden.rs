//! Text that nobody is to see: in clear, in a variable of the environment, or in a file.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

/// A password in a file is short; whoever names another one has made a mistake.
const MOST_BYTES: u64 = 1 << 16;

/// Text that does not show in messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    env: Option<String>,
    file: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Hidden;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, { env = \"NAME\" } or { file = \"/path\" }")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hidden, E> {
                Ok(Hidden(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Hidden, A::Error> {
                let place = Place::deserialize(MapAccessDeserializer::new(map))?;
                let found = match (place.env, place.file) {
                    (Some(name), None) => of_variable(&name),
                    (None, Some(path)) => of_file(&path),
                    _ => Err("it must name one of `env` and `file`".to_owned()),
                };
                found.map(Hidden).map_err(serde::de::Error::custom)
            }
        }

        deserializer.deserialize_any(Text)
    }
}

fn of_variable(name: &str) -> Result<String, String> {
    // Names that the system cannot hold would make it panic.
    let is_name = !name.is_empty() && !name.contains(['=', '\0']);
    let found = is_name.then(|| env::var_os(name)).flatten();
    let found = found.ok_or_else(|| format!("the environment has no variable `{name}`"))?;
    found
        .into_string()
        .map_err(|_| format!("the variable `{name}` of the environment must be UTF-8"))
}

/// The first line of a file, which editors end with a newline.
fn of_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("`{shown}` must be an absolute path"));
    }
    // To open a pipe would wait for whoever writes to it.
    let metadata = path
        .metadata()
        .map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("`{shown}` is no file"));
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
        .map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
