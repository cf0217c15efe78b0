//! What the live cache of a model or a session is asked, behind `inferlite.PredictionCache`.

use std::ffi::CString;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use inferlite_core::cache::{Address, CacheSettings, Limits, Policy, Portable, PredictionCache, Server};
use inferlite_core::clock::Clock;
use inferlite_core::fork::PerProcess;
use inferlite_core::runtime::ort::{Fingerprint, ModelSource, OrtEngine, SessionSettings};
use inferlite_core::stats::LatencySummary;
use inferlite_core::{Model, Result};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::boundary::detach;
use crate::value::Handing;

/// `inferlite.Cache` as the Python layer hands it over.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Given {
    max_bytes: usize,
    max_entries: Option<usize>,
    /// In seconds.
    ttl: Option<f64>,
    #[pyo3(from_py_with = policy)]
    policy: Policy,
    copy: bool,
    warm_from: Option<PathBuf>,
    secret: Option<Vec<u8>>,
    shared: Option<GivenServer>,
}

fn policy(name: &Bound<'_, PyAny>) -> PyResult<Policy> {
    match name.extract()? {
        "lru" => Ok(Policy::Lru),
        "s3-fifo" => Ok(Policy::S3Fifo),
        other => Err(PyValueError::new_err(format!("there is no policy `{other}`"))),
    }
}

/// A server as the Python layer has read it from a URL.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct GivenServer {
    /// For messages: without a password.
    title: String,
    /// A path on this machine, instead of a host and a port.
    path: Option<PathBuf>,
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
    database: u32,
    /// In seconds.
    timeout: f64,
}

impl GivenServer {
    /// Looks the name up, which later questions have no time for.
    fn resolved(self) -> (Server, String) {
        let address = match self.path {
            Some(path) => Address::Unix(path),
            None => Address::Tcp(
                (self.host.as_str(), self.port)
                    .to_socket_addrs()
                    .map(Iterator::collect)
                    .unwrap_or_default(),
            ),
        };
        let server = Server {
            address,
            user: self.user,
            password: self.password,
            database: self.database,
            timeout: Duration::from_secs_f64(self.timeout),
        };
        (server, self.title)
    }
}

/// The cache that a model gets.
pub(crate) struct Plan {
    settings: CacheSettings,
    handing: Handing,
    portable: Option<Portable>,
    warm_from: Option<PathBuf>,
    shared: Option<(Server, String)>,
}

impl Given {
    /// Whether answers may leave the process, which takes a digest of the model.
    fn is_portable(&self) -> bool {
        self.warm_from.is_some() || self.secret.is_some() || self.shared.is_some()
    }

    fn plan(self, fingerprint: Option<&Fingerprint>) -> Result<Plan> {
        let identity = fingerprint.map(Fingerprint::check).transpose()?;
        Ok(Plan {
            settings: CacheSettings {
                limits: limits(self.max_bytes, self.max_entries),
                // Seconds beyond what a duration holds are as good as for ever.
                ttl: self.ttl.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
                policy: self.policy,
            },
            handing: if self.copy { Handing::Private } else { Handing::ReadOnly },
            portable: identity.map(|identity| Portable::new(identity, self.secret.as_deref())),
            warm_from: self.warm_from,
            shared: self.shared.map(GivenServer::resolved),
        })
    }
}

/// Makes the session, and plans the cache that was asked for; without the GIL.
pub(crate) fn load(
    source: ModelSource,
    settings: &SessionSettings,
    cache: Option<Given>,
) -> Result<(OrtEngine, Option<Plan>)> {
    let is_portable = cache.as_ref().is_some_and(Given::is_portable);
    let fingerprint = is_portable.then(|| Fingerprint::take(&source, settings));
    // What the runtime says about a model that cannot be loaded comes first.
    let engine = OrtEngine::load(source, settings)?;
    let fingerprint = fingerprint.transpose()?;
    let plan = cache.map(|given| given.plan(fingerprint.as_ref())).transpose()?;
    Ok((engine, plan))
}

impl Plan {
    /// Whose the arrays are that calls return.
    pub(crate) fn handing(&self) -> Handing {
        self.handing
    }

    /// The cache, and what is wrong with its file or its server; a child that forks off gets an empty one, and a
    /// connection of its own.
    fn make(self) -> (PerProcess<PredictionCache>, Vec<String>) {
        let Self {
            settings,
            handing: _,
            portable,
            warm_from,
            shared,
        } = self;
        let (server, title) = shared.unzip();
        let cache = PerProcess::new(move || {
            let cache = PredictionCache::new(settings, Clock::default());
            match (&portable, &server) {
                (Some(portable), Some(server)) => cache.with_shared(portable.clone(), server.clone()),
                (Some(portable), None) => cache.with_portable(portable.clone()),
                (None, _) => cache,
            }
        });
        let of_file = warm_from.and_then(|path| {
            let problem = cache.get().warm_from(&path).err()?;
            Some(format!(
                "`{}` is not used, and the cache starts empty: {problem}",
                path.display()
            ))
        });
        let of_server = title.and_then(|title| {
            let problem = cache.get().problem_of_shared()?;
            Some(format!(
                "the shared cache at `{title}` cannot be used, and predictions go on without it until it can: {problem}"
            ))
        });
        (cache, of_file.into_iter().chain(of_server).collect())
    }

    /// The model with its cache; what is wrong with a file is a warning to whoever is `stack_level` Python frames above.
    pub(crate) fn add_to(self, py: Python<'_>, model: Model, stack_level: i32) -> PyResult<Model> {
        let (cache, problems) = detach(py, || self.make());
        for problem in problems {
            let category = py.get_type::<PyRuntimeWarning>();
            PyErr::warn(py, &category, &CString::new(problem)?, stack_level)?;
        }
        Ok(model.with_cache(cache))
    }
}

/// Writes the answers to a file.
pub(crate) fn save(py: Python<'_>, model: &Model, path: PathBuf) -> PyResult<usize> {
    let saved = detach(py, || model.cache().and_then(|cache| cache.save(&path)));
    match saved {
        Some(saved) => saved.map_err(|error| match error.raw_os_error() {
            Some(code) => pyo3::exceptions::PyOSError::new_err((code, error.to_string(), path)),
            None => error.into(),
        }),
        None => Err(PyValueError::new_err(
            "answers can be saved only where the cache was told so when it was made: pass \
             `cache=inferlite.Cache(warm_from=path)`, whether there is a file yet or not",
        )),
    }
}

fn limits(max_bytes: usize, max_entries: Option<usize>) -> Limits {
    Limits {
        max_bytes,
        max_entries: max_entries.unwrap_or(usize::MAX),
    }
}

/// An `inferlite.Latency`.
pub(crate) fn latency(py: Python<'_>, summary: LatencySummary) -> PyResult<Bound<'_, PyAny>> {
    let seconds = |duration: Duration| duration.as_secs_f64();
    py.import("inferlite.metadata")?.getattr("Latency")?.call1((
        summary.count,
        seconds(summary.mean),
        seconds(summary.p50),
        seconds(summary.p95),
        seconds(summary.p99),
        seconds(summary.max),
    ))
}

/// The figures of `inferlite.CacheStats`, in its order, then the limits; `None` without a cache.
pub(crate) fn summary<'py>(py: Python<'py>, model: &Model) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(cache) = model.cache() else { return Ok(None) };
    let (summary, shared, limits) = detach(py, || (cache.summary(), cache.shared_summary(), cache.limits()));
    let shared = shared.unwrap_or_default();
    let hit_latency = latency(py, cache.hit_latency())?;
    let max_entries = Some(limits.max_entries).filter(|&entries| entries != usize::MAX);
    let figures = [
        summary.hits.into_bound_py_any(py)?,
        summary.misses.into_bound_py_any(py)?,
        summary.coalesced.into_bound_py_any(py)?,
        summary.skipped.into_bound_py_any(py)?,
        summary.evictions.into_bound_py_any(py)?,
        summary.expired.into_bound_py_any(py)?,
        summary.entries.into_bound_py_any(py)?,
        summary.bytes.into_bound_py_any(py)?,
        summary.is_sampling.into_bound_py_any(py)?,
        shared.hits.into_bound_py_any(py)?,
        shared.misses.into_bound_py_any(py)?,
        shared.errors.into_bound_py_any(py)?,
        shared.is_open.into_bound_py_any(py)?,
        hit_latency,
        limits.max_bytes.into_bound_py_any(py)?,
        max_entries.into_bound_py_any(py)?,
    ];
    PyTuple::new(py, figures).map(Some)
}

pub(crate) fn clear(py: Python<'_>, model: &Model) {
    detach(py, || {
        if let Some(cache) = model.cache() {
            cache.clear();
        }
    });
}

pub(crate) fn resize(py: Python<'_>, model: &Model, max_bytes: usize, max_entries: Option<usize>) {
    detach(py, || {
        if let Some(cache) = model.cache() {
            cache.resize(limits(max_bytes, max_entries));
        }
    });
}
