//! What the server says of itself, for tools that read `OpenAPI`.

/// The description, which tests hold against the routes.
pub(crate) const DESCRIPTION: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    use super::DESCRIPTION;
    use crate::routes::Route;

    #[test]
    fn every_path_that_is_described_has_a_route_which_takes_its_methods_alone() {
        let description: serde_json::Value = serde_json::from_str(DESCRIPTION).unwrap();
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
}
