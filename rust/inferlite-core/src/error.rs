//! The one error type of the core.

use std::borrow::Cow;

/// What went wrong, for whoever turns an error into an exception or a status code.
///
/// There is no wildcard arm over this type anywhere: a new kind does not compile until every edge has said what it
/// means there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The runtime's generic failure (code 1).
    Fail,
    /// The runtime refused an argument (code 2).
    InvalidArgument,
    /// A model file does not exist (code 3).
    NoSuchFile,
    /// There is no model to run (code 4).
    NoModel,
    /// The runtime's engine failed (code 5).
    EngineError,
    /// An exception inside the runtime (code 6).
    RuntimeException,
    /// A model file is not a readable protobuf (code 7).
    InvalidProtobuf,
    /// A model is loaded already (code 8).
    ModelLoaded,
    /// An operator has no kernel (code 9).
    NotImplemented,
    /// A graph breaks the rules of ONNX (code 10).
    InvalidGraph,
    /// An execution provider failed (code 11).
    ExecutionProviderFail,
    /// Loading was cancelled (code 12).
    ModelLoadCanceled,
    /// A model must be compiled first (code 13).
    ModelRequiresCompilation,
    /// Something named was not found (code 14).
    NotFound,
    /// A device was reset (code 15).
    DeviceReset,
    /// The shared library of the runtime cannot be used.
    RuntimeUnavailable,
    /// The answer did not come in the time that its caller gave it.
    DeadlineExceeded,
    /// Too many calls wait already.
    QueueFull,
    /// The model takes no more calls.
    Closed,
    /// Whoever waited has been told to wait no longer.
    Interrupted,
}

impl ErrorKind {
    /// The runtime's name and number for this kind, `None` for kinds that the runtime does not know.
    #[must_use]
    pub fn runtime_code(self) -> Option<(i32, &'static str)> {
        match self {
            Self::Fail => Some((1, "FAIL")),
            Self::InvalidArgument => Some((2, "INVALID_ARGUMENT")),
            Self::NoSuchFile => Some((3, "NO_SUCHFILE")),
            Self::NoModel => Some((4, "NO_MODEL")),
            Self::EngineError => Some((5, "ENGINE_ERROR")),
            Self::RuntimeException => Some((6, "RUNTIME_EXCEPTION")),
            Self::InvalidProtobuf => Some((7, "INVALID_PROTOBUF")),
            Self::ModelLoaded => Some((8, "MODEL_LOADED")),
            Self::NotImplemented => Some((9, "NOT_IMPLEMENTED")),
            Self::InvalidGraph => Some((10, "INVALID_GRAPH")),
            Self::ExecutionProviderFail => Some((11, "EP_FAIL")),
            Self::ModelLoadCanceled => Some((12, "MODEL_LOAD_CANCELED")),
            Self::ModelRequiresCompilation => Some((13, "MODEL_REQUIRES_COMPILATION")),
            Self::NotFound => Some((14, "NOT_FOUND")),
            Self::DeviceReset => Some((15, "DEVICE_RESET")),
            Self::RuntimeUnavailable | Self::DeadlineExceeded | Self::QueueFull | Self::Closed | Self::Interrupted => {
                None
            }
        }
    }

    /// Whether this is about the turn of one caller, and says nothing about the answer to others who ask the same.
    #[must_use]
    pub fn is_of_one_caller(self) -> bool {
        match self {
            Self::DeadlineExceeded | Self::QueueFull | Self::Interrupted => true,
            Self::Fail
            | Self::InvalidArgument
            | Self::NoSuchFile
            | Self::NoModel
            | Self::EngineError
            | Self::RuntimeException
            | Self::InvalidProtobuf
            | Self::ModelLoaded
            | Self::NotImplemented
            | Self::InvalidGraph
            | Self::ExecutionProviderFail
            | Self::ModelLoadCanceled
            | Self::ModelRequiresCompilation
            | Self::NotFound
            | Self::DeviceReset
            | Self::RuntimeUnavailable
            | Self::Closed => false,
        }
    }

    /// The kind for a runtime's status code; codes of a later runtime count as [`ErrorKind::Fail`].
    #[must_use]
    pub fn from_runtime_code(code: i32) -> Self {
        match code {
            2 => Self::InvalidArgument,
            3 => Self::NoSuchFile,
            4 => Self::NoModel,
            5 => Self::EngineError,
            6 => Self::RuntimeException,
            7 => Self::InvalidProtobuf,
            8 => Self::ModelLoaded,
            9 => Self::NotImplemented,
            10 => Self::InvalidGraph,
            11 => Self::ExecutionProviderFail,
            12 => Self::ModelLoadCanceled,
            13 => Self::ModelRequiresCompilation,
            14 => Self::NotFound,
            15 => Self::DeviceReset,
            _ => Self::Fail,
        }
    }
}

/// An error with a kind for programs and a message for people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
}

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message, without the runtime's prefix.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runtime_code_survives_the_round_trip() {
        for code in 1..=15 {
            let kind = ErrorKind::from_runtime_code(code);
            assert_eq!(kind.runtime_code().map(|(number, _)| number), Some(code));
        }
    }

    #[test]
    fn a_code_of_a_later_runtime_is_a_plain_failure() {
        assert_eq!(ErrorKind::from_runtime_code(99), ErrorKind::Fail);
    }
}
