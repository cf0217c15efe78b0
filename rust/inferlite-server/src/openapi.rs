//! What the server says of itself, for tools that read `OpenAPI`.

/// The description, which tests hold against the routes.
pub(crate) const DESCRIPTION: &str = include_str!("openapi.json");
