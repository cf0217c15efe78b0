"""How a command fails: its exit code, and the one line it leaves on stderr."""

from __future__ import annotations

import re
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from inferlite import _backend
from inferlite.exceptions import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExitCode(IntEnum):
    """What a script may branch on; `inferlite --help` prints this table."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    DIFFERENT = 3
    UNWRITABLE = 4
    UNAVAILABLE = 5
    ADDRESS = 6
    INTERNAL = 70
    INTERRUPTED = 130
    CLOSED_PIPE = 141

    @property
    def meaning(self) -> str:
        """The code's meaning in a few words."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.REFUSED: "the model or its inputs were refused, or the model failed",
    ExitCode.USAGE: "wrong usage of the command line",
    ExitCode.DIFFERENT: "the answers differ from onnxruntime's",
    ExitCode.UNWRITABLE: "the outputs or the access log could not be written",
    ExitCode.UNAVAILABLE: "ONNX Runtime or the back end that was asked for cannot be used",
    ExitCode.ADDRESS: "the server cannot listen on its address",
    ExitCode.INTERNAL: "a bug in inferlite",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.CLOSED_PIPE: "the reader of the output went away",
}


class CommandError(Exception):
    """A command cannot go on; the message is all that the user needs to read."""

    code: ClassVar[ExitCode]


class RefusedError(CommandError):
    """The model or its inputs were refused, or the model failed."""

    code = ExitCode.REFUSED


class WrongUsageError(CommandError):
    """The arguments contradict each other or the model."""

    code = ExitCode.USAGE


class DifferentAnswersError(CommandError):
    """The answers are not onnxruntime's, bit for bit."""

    code = ExitCode.DIFFERENT


class UnwritableError(CommandError):
    """An output could not be written."""

    code = ExitCode.UNWRITABLE


class AddressError(CommandError):
    """The server cannot listen where it should."""

    code = ExitCode.ADDRESS


# What onnxruntime puts before every message; the exit code says as much.
_RUNTIME_PREFIX = re.compile(r"\A\[ONNXRuntimeError\] : \d+ : \w+ : ")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn whatever a model raises while it is loaded or run into a `RefusedError`.

    `CommandError`s and `BackendUnavailableError` pass: they are not about the model.

    Raises:
        RefusedError: with the message of what was raised.
        BackendUnavailableError: no back end can be used, or the environment asks for one that there is not.
    """
    try:
        _backend.active()
    except ValueError as error:
        raise BackendUnavailableError(str(error)) from error
    try:
        yield
    except (CommandError, BackendUnavailableError):
        raise
    except MemoryError as error:
        message = "the model and its inputs do not fit in memory"
        raise RefusedError(message) from error
    # The classes that onnxruntime raises have no base of their own but Exception.
    except Exception as error:
        text = _RUNTIME_PREFIX.sub("", str(error))
        raise RefusedError(text or type(error).__name__) from error


def shortened(text: str, limit: int = 100) -> str:
    """Cut what a user gave to what an error has room for.

    Example:
        >>> shortened("a" * 200, limit=8)
        'aaaaa...'
    """
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def one_line(text: str) -> str:
    r"""Make `text` printable on one line: runs of white space become a blank, control characters escapes.

    Example:
        >>> one_line("no such file:\n  a\x1b[31m.onnx")
        'no such file: a\\x1b[31m.onnx'
    """
    words = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
