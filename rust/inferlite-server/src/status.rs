//! What an error of the core is to a client of HTTP.

use inferlite_core::repository::NotFound;
use inferlite_core::{Error, ErrorKind};

use crate::wire::{Refusal, metadata};

/// The status code of an error.
pub(crate) fn code(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::InvalidArgument => 400,
        ErrorKind::NoSuchFile | ErrorKind::NotFound | ErrorKind::NoModel => 404,
        ErrorKind::QueueFull | ErrorKind::Closed | ErrorKind::Interrupted => 503,
        ErrorKind::DeadlineExceeded => 504,
        ErrorKind::Fail
        | ErrorKind::EngineError
        | ErrorKind::RuntimeException
        | ErrorKind::InvalidProtobuf
        | ErrorKind::ModelLoaded
        | ErrorKind::NotImplemented
        | ErrorKind::InvalidGraph
        | ErrorKind::ExecutionProviderFail
        | ErrorKind::ModelLoadCanceled
        | ErrorKind::ModelRequiresCompilation
        | ErrorKind::DeviceReset
        | ErrorKind::RuntimeUnavailable => 500,
    }
}

/// Why a request is not answered as it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) message: String,
    /// Whether the client may as well try again soon.
    pub(crate) may_retry: bool,
}

impl Failure {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            may_retry: status == 503,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(code(error.kind()), error.message())
    }
}

/// In Triton's words, where it has some.
impl From<NotFound> for Failure {
    fn from(missing: NotFound) -> Self {
        match &missing {
            NotFound::UnknownModel { name } => {
                Self::new(404, format!("Request for unknown model: '{name}' is not found"))
            }
            NotFound::UnknownVersion { name, version } => Self::new(
                404,
                format!("Request for unknown model: '{name}' version {version} is not found"),
            ),
            NotFound::NotReady { .. } => Self::new(503, missing.to_string()),
            NotFound::Unnamed { .. } => Self::new(400, missing.to_string()),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, refusal.message)
    }
}

impl Failure {
    /// The body of the reply.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        metadata::write_error(&mut body, &self.message);
        body
    }
}
