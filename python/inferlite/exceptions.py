"""The exceptions of `inferlite.Model` and of loading; both back ends raise these very classes.

`InferenceSession` raises onnxruntime's own classes instead, so that code written for onnxruntime keeps working.
"""

from __future__ import annotations


class InferliteError(Exception):
    """The base of every exception that inferlite declares.

    Example:
        >>> import inferlite
        >>> issubclass(inferlite.InvalidInputError, inferlite.InferliteError)
        True
    """


class InvalidInputError(InferliteError, ValueError):
    """An input does not fit the model's signature, is missing or unknown, or an unknown output was asked for."""


class ModelLoadError(InferliteError, RuntimeError):
    """A model cannot be read, is not valid, or holds something that the runtime cannot run."""


class ModelRunError(InferliteError, RuntimeError):
    """The inputs fit the signature, and a node of the model failed all the same."""


class ModelClosedError(InferliteError, RuntimeError):
    """A model was called after `close()`."""


class DeadlineExceededError(InferliteError, TimeoutError):
    """An answer did not come within the `timeout` of its caller."""


class QueueFullError(InferliteError, RuntimeError):
    """Too many calls wait already: try again later, or call less often."""


class BackendUnavailableError(InferliteError, RuntimeError):
    """A back end, an engine, or something that only another back end has, was asked for and is not there."""
