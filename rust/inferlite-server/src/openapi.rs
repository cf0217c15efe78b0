//! What the server says of itself, for tools that read `OpenAPI`.

use crate::keys::Keys;
use crate::routes::{Access, Route};

/// The description, which tests hold against the routes.
const DESCRIPTION: &str = include_str!("openapi.json");

/// How an operation is described which nobody needs a key for, among the other ways to ask.
const NO_KEY: &str = "     {},";

/// The description of a server that has these keys: what they are needed for cannot be asked without one.
pub(crate) fn description(keys: &Keys) -> String {
    let mut access = Access::Open;
    let mut described = String::with_capacity(DESCRIPTION.len());
    for line in DESCRIPTION.lines() {
        let path = line
            .strip_prefix("  \"")
            .and_then(|line| line.strip_suffix("\": {"))
            .filter(|name| name.starts_with('/'));
        if let Some(path) = path {
            access = Route::of(path).map_or(Access::Open, Route::access);
        }
        if line != NO_KEY || keys.admit(access, &[]) {
            described.push_str(line);
            described.push('\n');
        }
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn described(keys: &Keys) -> Value {
        serde_json::from_str(&description(keys)).unwrap()
    }

    #[test]
    fn every_path_that_is_described_has_a_route_which_takes_its_methods_alone() {
        let description = described(&Keys::default());
        assert_eq!(description, serde_json::from_str::<Value>(DESCRIPTION).unwrap());
        let paths = description["paths"].as_object().unwrap();
        assert!(!paths.is_empty());
        for (path, operations) in paths {
            let example = path
                .replace("{model}", "m")
                .replace("{version}", "1")
                .replace("{label}", "stable");
            let route = Route::of(&example).unwrap_or_else(|| panic!("{path} has no route"));
            for method in ["GET", "POST"] {
                let is_described = operations.get(method.to_lowercase()).is_some();
                assert_eq!(route.takes(method), is_described, "{method} {path}");
            }
        }
    }

    #[test]
    fn an_operation_can_be_asked_without_a_key_where_none_is_needed() {
        for keys in [
            Keys::default(),
            Keys::new(&["in"], &[]),
            Keys::new(&[], &["ad"]),
            Keys::new(&["in"], &["ad"]),
        ] {
            let description = described(&keys);
            for (path, operations) in description["paths"].as_object().unwrap() {
                let access = Route::of(path).unwrap().access();
                for operation in operations.as_object().unwrap().values() {
                    let ways = operation["security"].as_array().unwrap();
                    let is_open = ways.is_empty() || ways.contains(&serde_json::json!({}));
                    assert_eq!(is_open, keys.admit(access, &[]), "{path} with {keys:?}");
                    assert!(
                        ways.is_empty() || ways.contains(&serde_json::json!({"bearer": []})),
                        "{path}"
                    );
                }
            }
        }
    }
}
