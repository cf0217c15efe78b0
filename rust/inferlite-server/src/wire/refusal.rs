//! What a request is refused with.

use std::borrow::Cow;

use crate::json::Fault;

/// Why a request gets no answer: a status of HTTP and the text for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The status of HTTP.
    pub status: u16,
    /// The text for the client.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// The client's mistake.
    #[cold]
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: 400,
            message: message.into(),
        }
    }

    /// The server cannot write what the model has answered.
    #[cold]
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: 500,
            message: message.into(),
        }
    }

    /// What is wrong with the value of a member, or with the whole text.
    #[cold]
    pub(super) fn parsing(member: &str, fault: Fault) -> Self {
        match fault {
            Fault::Malformed { what, at } => {
                Self::bad_request(format!("failed to parse the request JSON buffer: {what} at {at}"))
            }
            Fault::Mistyped { what, .. } => Self::bad_request(format!("Unable to parse '{member}': {what}")),
            Fault::OutOfRange { at } => Self::bad_request(format!(
                "Unable to parse '{member}': the number at {at} is out of range"
            )),
            Fault::Ragged | Fault::TooMany => Self::bad_request(format!("Unable to parse '{member}': {MISSHAPEN}")),
        }
    }

    /// A member that must be there is not.
    #[cold]
    pub(super) fn missing(member: &str) -> Self {
        Self::bad_request(format!(
            "Unable to parse '{member}': attempt to access non-existing object member '{member}'"
        ))
    }
}

/// Triton's words for arrays that do not fit a shape.
pub(super) const MISSHAPEN: &str = "Shape does not match true shape of 'data' field";

/// What is wrong with the whole text.
impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::parsing("request", fault)
    }
}
