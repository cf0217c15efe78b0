//! What all requests share.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse};
use inferlite_core::repository::{Repository, Served};

use crate::access_log::{AccessLog, Line};
use crate::counts::{self, Counts};
use crate::figures::Figures;
use crate::keys::Keys;
use crate::limits::{Crowd, Guest, Limits};
use crate::looks::Looks;
use crate::overdue::{Notices, Overdue};
use crate::pauses::{Pauses, Seen};
use crate::server::ServerSettings;
use crate::status::Failure;

type CountsByVersion = HashMap<u64, Arc<Counts>>;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) repository: Arc<Repository>,
    pub(crate) limits: Limits,
    pub(crate) keys: Keys,
    pub(crate) crowd: Crowd,
    pub(crate) notices: Notices,
    pauses: Pauses,
    looks: Looks,
    /// Whether somebody looks at the repository's folder from time to time.
    pub(crate) is_watched: bool,
    /// By name and version: they outlive a version that is loaded anew.
    counts: RwLock<HashMap<Arc<str>, CountsByVersion>>,
    access_log: Option<AccessLog>,
    is_draining: AtomicBool,
}

impl State {
    pub(crate) fn new(repository: Arc<Repository>, settings: ServerSettings) -> io::Result<Self> {
        let access_log = match settings.access_log {
            Some(log) => Some(AccessLog::new(log.form, log.to)?),
            None => None,
        };
        Ok(Self {
            repository,
            limits: settings.limits,
            keys: settings.keys,
            crowd: Crowd::default(),
            notices: Notices::default(),
            pauses: Pauses::default(),
            looks: Looks::default(),
            is_watched: settings.watch.is_some(),
            counts: RwLock::default(),
            access_log,
            is_draining: AtomicBool::new(false),
        })
    }

    /// Says to whoever asks that other servers should be asked from now on.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether requests should come here.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_draining() && self.repository.is_ready()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Lets one more request in.
    pub(crate) fn admit(&self) -> Result<Guest<'_>, Failure> {
        let most = self.limits.requests;
        let too_many = || Failure::new(503, format!("{most} requests are under way already: try again later"));
        self.crowd.admit(most).ok_or_else(too_many)
    }

    /// What is counted of the requests to a version.
    pub(crate) fn counts_of(&self, served: &Served) -> Arc<Counts> {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let known = counts
            .get(&served.name)
            .and_then(|versions| versions.get(&served.version));
        if let Some(known) = known {
            return known.clone();
        }
        drop(counts);
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        let versions = counts.entry(served.name.clone()).or_default();
        versions.entry(served.version).or_default().clone()
    }

    /// What watches the runs of a version.
    pub(crate) fn overdue<'a>(&'a self, served: &'a Served, counts: &'a Arc<Counts>) -> Overdue<'a> {
        Overdue {
            model: &served.name,
            version: &served.version_text,
            counts,
            notices: &self.notices,
        }
    }

    /// What the server's owner should know and has not been told yet.
    pub(crate) fn take_notices(&self) -> Vec<String> {
        let models = self.repository.models();
        let served = models.iter().flat_map(|listed| &listed.versions);
        let seen: Vec<Seen> = served.filter_map(|served| Seen::of(served)).collect();
        let mut notices = self.notices.take();
        notices.extend(self.pauses.news(&seen));
        notices.extend(self.looks.news(self.repository.looked_at()));
        notices
    }

    pub(crate) fn figures_of(&self, served: &Served) -> Figures {
        Figures::of(served, self.counts_of(served))
    }

    /// Of all versions that are served, by name and version.
    pub(crate) fn figures(&self) -> Vec<Figures> {
        let models = self.repository.models();
        let served = models.iter().flat_map(|listed| &listed.versions);
        served.map(|served| self.figures_of(served)).collect()
    }

    /// Writes the line of a request to the access log, where there is one.
    pub(crate) fn log(&self, request: &HttpRequest, response: &HttpResponse, start: Instant) {
        let Some(log) = &self.access_log else { return };
        let peer = request.peer_addr().map(|address| address.to_string());
        log.write(&Line {
            time: Duration::from_millis(counts::now()),
            peer: peer.as_deref().unwrap_or("-"),
            method: request.method().as_str(),
            path: request.path(),
            status: response.status().as_u16(),
            bytes: bytes_of(response),
            took: start.elapsed(),
        });
    }

    /// How many lines of the access log could not be written.
    pub(crate) fn lost_lines(&self) -> u64 {
        self.access_log.as_ref().map_or(0, AccessLog::lost)
    }
}

fn bytes_of(response: &HttpResponse) -> u64 {
    use actix_web::body::{BodySize, MessageBody};
    match response.body().size() {
        BodySize::Sized(bytes) => bytes,
        BodySize::None | BodySize::Stream => 0,
    }
}
