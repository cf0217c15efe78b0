//! The server of models, behind `inferlite.Server`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inferlite_core::clock::Clock;
use inferlite_core::repository::{IndexEntry, OnnxOpener, Repository, RepositorySettings};
use inferlite_core::threads;
use inferlite_server::{AccessLogSettings, Form, Keys, Limits, Server, ServerSettings};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::boundary::{PyCoreError, detach, inferlite_exception};

/// What `inferlite.Server` hands over; times in seconds.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Given {
    host: String,
    port: u16,
    workers: Option<usize>,
    body_limit: usize,
    header_time: f64,
    body_time: f64,
    idle_time: f64,
    drain_time: f64,
    connections: usize,
    requests: usize,
    watch: Option<f64>,
    inference_keys: Vec<String>,
    admin_keys: Vec<String>,
    access_log: Option<String>,
    access_log_path: Option<PathBuf>,
}

/// Serves a repository of models; listens once it is made.
#[pyclass(name = "Server", module = "inferlite._core", frozen)]
pub(crate) struct PyServer {
    repository: Arc<Repository>,
    server: Mutex<Option<Server>>,
    is_watched: bool,
    address: (String, u16),
}

#[pymethods]
impl PyServer {
    #[new]
    fn new(py: Python<'_>, repository: PathBuf, settings: Given) -> Result<Self, PyCoreError> {
        let settings = settings.read()?;
        let is_watched = settings.watch.is_some();
        let started = detach(py, || {
            let opener = OnnxOpener::new(threads::available());
            let repository = Repository::new(
                repository,
                Box::new(opener),
                RepositorySettings::default(),
                Clock::default(),
            )?;
            let server = Server::start(repository.clone(), settings);
            Ok::<_, inferlite_core::Error>((repository, server))
        });
        let (repository, server) = started?;
        let server = server.map_err(os_error)?;
        let address = server.address();
        Ok(Self {
            repository,
            is_watched,
            address: (address.ip().to_string(), address.port()),
            server: Mutex::new(Some(server)),
        })
    }

    /// The address that it listens on.
    #[getter]
    fn address(&self) -> (String, u16) {
        self.address.clone()
    }

    /// Whether all models that were there at the start are loaded, or have failed.
    fn is_ready(&self) -> bool {
        self.repository.has_started()
    }

    /// Looks at the folder where nobody else does, for what the index says of it; nothing is loaded.
    fn look_around(&self, py: Python<'_>) {
        if !self.is_watched {
            detach(py, || self.repository.look_around());
        }
    }

    /// Every version that is known: the model's name, the version, its state, and why it is in that state.
    fn index(&self, py: Python<'_>) -> Vec<(String, Option<String>, String, Option<String>)> {
        let entries = detach(py, || self.repository.index());
        let entry = |entry: IndexEntry| {
            let reason = Some(entry.reason).filter(|reason| !reason.is_empty());
            (entry.name, entry.version, entry.state.to_string(), reason)
        };
        entries.into_iter().map(entry).collect()
    }

    /// Loads a model anew.
    fn load(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        change(py, || self.repository.load(name))
    }

    /// Serves a model no longer.
    fn unload(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        change(py, || self.repository.unload(name))
    }

    /// Serves what was served before the last change.
    fn rollback(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        change(py, || self.repository.rollback(name).map(drop))
    }

    /// What its owner should know and has not been told yet.
    fn notices(&self) -> Vec<String> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.as_ref().map_or_else(Vec::new, Server::take_notices)
    }

    /// Takes no more connections, lets the requests under way end, and ends.
    fn stop(&self, py: Python<'_>) {
        detach(py, || {
            let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(server);
        });
    }
}

fn change(py: Python<'_>, change: impl FnOnce() -> inferlite_core::Result<()> + Send) -> PyResult<()> {
    let changed = detach(py, change);
    crate::logging::forward(py)?;
    changed.map_err(|error| {
        inferlite_exception(py, "ModelLoadError", error.message().to_owned()).unwrap_or_else(|problem| problem)
    })
}

impl Drop for PyServer {
    fn drop(&mut self) {
        let server = self.server.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        crate::boundary::free(server);
    }
}

impl Given {
    fn read(self) -> PyResult<ServerSettings> {
        // More seconds than a duration holds are as good as for ever.
        let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let form = match self.access_log.as_deref() {
            None => None,
            Some("text") => Some(Form::Text),
            Some("json") => Some(Form::Json),
            Some(other) => return Err(PyValueError::new_err(format!("there is no access log `{other}`"))),
        };
        let to = |path: Option<PathBuf>| -> PyResult<Box<dyn Write + Send>> {
            let Some(path) = path else {
                return Ok(Box::new(io::stderr()));
            };
            let file = OpenOptions::new().create(true).append(true).open(&path);
            Ok(Box::new(file.map_err(|error| os_error_at(error, path))?))
        };
        let access_log = match form {
            None => None,
            Some(form) => Some(AccessLogSettings {
                form,
                to: to(self.access_log_path)?,
            }),
        };
        Ok(ServerSettings {
            host: self.host,
            port: self.port,
            workers: self.workers.unwrap_or_else(threads::available),
            limits: Limits {
                body: self.body_limit,
                header_time: duration(self.header_time),
                body_time: duration(self.body_time),
                idle_time: duration(self.idle_time),
                connections: self.connections,
                requests: self.requests,
            },
            keys: Keys::new(&self.inference_keys, &self.admin_keys),
            drain_time: duration(self.drain_time),
            watch: self.watch.map(duration),
            access_log,
        })
    }
}

fn os_error(error: io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(code) => PyOSError::new_err((code, error.to_string())),
        None => error.into(),
    }
}

fn os_error_at(error: io::Error, path: PathBuf) -> PyErr {
    match error.raw_os_error() {
        Some(code) => PyOSError::new_err((code, error.to_string(), path)),
        None => error.into(),
    }
}
