//! What a path means: one table, and nothing of HTTP but the paths and methods themselves.

/// A model in a URL, with its version or label if one is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) model: &'a str,
    /// A number, or a label such as `stable`.
    pub(crate) version: Option<&'a str>,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    ServerMetadata,
    Live,
    Ready,
    Models,
    AllStatistics,
    Metadata(Target<'a>),
    ModelReady(Target<'a>),
    Config(Target<'a>),
    Statistics(Target<'a>),
    Infer(Target<'a>),
    Index,
    Load(&'a str),
    Unload(&'a str),
    Rollback(&'a str),
    Predict,
    /// TensorFlow Serving's form.
    Classic(Target<'a>),
    Metrics,
    OpenApi,
}

/// What somebody needs a key for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whether the server is up: everybody may ask.
    Open,
    Inference,
    Admin,
}

impl<'a> Route<'a> {
    /// The route of a path; `None` where there is nothing.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let mut parts = path.split('/');
        match parts.next()? {
            "v2" => Self::of_protocol(parts),
            "v1" => Self::of_classic(parts),
            "predict" if parts.next().is_none() => Some(Self::Predict),
            "metrics" if parts.next().is_none() => Some(Self::Metrics),
            "openapi.json" if parts.next().is_none() => Some(Self::OpenApi),
            _ => None,
        }
    }

    fn of_protocol(mut parts: impl Iterator<Item = &'a str>) -> Option<Self> {
        let route = match (parts.next(), parts.next()) {
            (None | Some(""), None) => Self::ServerMetadata,
            (Some("health"), Some("live")) => Self::Live,
            (Some("health"), Some("ready")) => Self::Ready,
            (Some("models"), None | Some("")) => Self::Models,
            (Some("models"), Some(model)) => return Self::of_model(model, parts),
            (Some("repository"), Some("index")) => Self::Index,
            (Some("repository"), Some("models")) => {
                let model = parts.next()?;
                match parts.next()? {
                    "load" => Self::Load(model),
                    "unload" => Self::Unload(model),
                    "rollback" => Self::Rollback(model),
                    _ => return None,
                }
            }
            _ => return None,
        };
        parts.next().is_none().then_some(route)
    }

    fn of_model(model: &'a str, mut parts: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut verb = parts.next();
        if model == "stats" && verb.is_none() {
            return Some(Self::AllStatistics);
        }
        let mut version = None;
        if verb == Some("versions") {
            version = Some(parts.next().filter(|version| !version.is_empty())?);
            verb = parts.next();
        }
        let target = Target { model, version };
        let route = match verb {
            None => Self::Metadata(target),
            Some("ready") => Self::ModelReady(target),
            Some("config") => Self::Config(target),
            Some("stats") => Self::Statistics(target),
            Some("infer") => Self::Infer(target),
            Some(_) => return None,
        };
        parts.next().is_none().then_some(route)
    }

    /// `v1/models/NAME[/versions/V | /labels/L]:predict`.
    fn of_classic(mut parts: impl Iterator<Item = &'a str>) -> Option<Self> {
        if parts.next()? != "models" {
            return None;
        }
        let first = parts.next()?;
        let (model, version) = match parts.next() {
            None => (first.strip_suffix(":predict")?, None),
            Some("versions" | "labels") => {
                let version = parts.next()?.strip_suffix(":predict")?;
                (first, Some(version).filter(|version| !version.is_empty()))
            }
            Some(_) => return None,
        };
        let is_whole = parts.next().is_none() && !model.is_empty();
        is_whole.then_some(Self::Classic(Target { model, version }))
    }

    /// The methods that it takes, as the header `Allow` lists them.
    pub(crate) fn methods(self) -> &'static str {
        match self {
            Self::ServerMetadata
            | Self::Live
            | Self::Ready
            | Self::Models
            | Self::AllStatistics
            | Self::Metadata(_)
            | Self::ModelReady(_)
            | Self::Config(_)
            | Self::Statistics(_)
            | Self::Metrics
            | Self::OpenApi => "GET, HEAD",
            Self::Infer(_)
            | Self::Index
            | Self::Load(_)
            | Self::Unload(_)
            | Self::Rollback(_)
            | Self::Predict
            | Self::Classic(_) => "POST",
        }
    }

    pub(crate) fn takes(self, method: &str) -> bool {
        self.methods().split(", ").any(|taken| taken == method)
    }

    pub(crate) fn access(self) -> Access {
        match self {
            Self::Live | Self::Ready | Self::ModelReady(_) => Access::Open,
            Self::ServerMetadata
            | Self::Models
            | Self::Metadata(_)
            | Self::Config(_)
            | Self::Infer(_)
            | Self::Predict
            | Self::Classic(_)
            | Self::OpenApi => Access::Inference,
            Self::AllStatistics
            | Self::Statistics(_)
            | Self::Index
            | Self::Load(_)
            | Self::Unload(_)
            | Self::Rollback(_)
            | Self::Metrics => Access::Admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target<'a>(model: &'a str, version: Option<&'a str>) -> Target<'a> {
        Target { model, version }
    }

    #[test]
    fn every_path_of_the_protocol_has_its_route() {
        for (path, route) in [
            ("/v2", Route::ServerMetadata),
            ("/v2/", Route::ServerMetadata),
            ("/v2/health/live", Route::Live),
            ("/v2/health/ready", Route::Ready),
            ("/v2/models", Route::Models),
            ("/v2/models/stats", Route::AllStatistics),
            ("/v2/models/m", Route::Metadata(target("m", None))),
            ("/v2/models/m/ready", Route::ModelReady(target("m", None))),
            ("/v2/models/m/config", Route::Config(target("m", None))),
            ("/v2/models/m/stats", Route::Statistics(target("m", None))),
            ("/v2/models/m/infer", Route::Infer(target("m", None))),
            ("/v2/models/m/versions/3", Route::Metadata(target("m", Some("3")))),
            ("/v2/models/m/versions/3/infer", Route::Infer(target("m", Some("3")))),
            (
                "/v2/models/m/versions/stable/ready",
                Route::ModelReady(target("m", Some("stable"))),
            ),
            ("/v2/repository/index", Route::Index),
            ("/v2/repository/models/m/load", Route::Load("m")),
            ("/v2/repository/models/m/unload", Route::Unload("m")),
            ("/v2/repository/models/m/rollback", Route::Rollback("m")),
            ("/predict", Route::Predict),
            ("/v1/models/m:predict", Route::Classic(target("m", None))),
            (
                "/v1/models/m/versions/2:predict",
                Route::Classic(target("m", Some("2"))),
            ),
            (
                "/v1/models/m/labels/canary:predict",
                Route::Classic(target("m", Some("canary"))),
            ),
            ("/metrics", Route::Metrics),
            ("/openapi.json", Route::OpenApi),
        ] {
            assert_eq!(Route::of(path), Some(route), "{path}");
        }
    }

    #[test]
    fn there_is_nothing_elsewhere() {
        for path in [
            "",
            "/",
            "/v3",
            "/v2/health",
            "/v2/health/live/x",
            "/v2/models/m/infer/x",
            "/v2/models/m/versions",
            "/v2/models/m/versions/",
            "/v2/models/m/versions/1/2",
            "/v2/repository/models/m",
            "/v2/repository/models/m/delete",
            "/v1/models/m",
            "/v1/models/:predict",
            "/v1/models/m/versions/:predictx",
            "/predict/m",
            "/metrics/",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }

    #[test]
    fn a_route_takes_its_methods_alone() {
        assert!(Route::Live.takes("GET") && Route::Live.takes("HEAD") && !Route::Live.takes("POST"));
        assert!(Route::Predict.takes("POST") && !Route::Predict.takes("GET") && !Route::Predict.takes("POS"));
    }

    proptest! {
        #[test]
        fn any_path_has_a_route_or_none(path in "(/[a-z0-9:./]{0,12}){0,8}") {
            let _ = Route::of(&path);
        }
    }
}
