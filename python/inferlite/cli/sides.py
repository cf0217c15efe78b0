"""The two sides of a comparison: inferlite, and onnxruntime under the same settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import inferlite
from inferlite.cli.answers import first_difference
from inferlite.cli.failures import DifferentAnswersError
from inferlite.cli.options import session_options
from inferlite.cli.terminal import show_shape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnxruntime


def open_both(
    model: Path, *, is_verbose: bool, threads: int
) -> tuple[inferlite.InferenceSession, onnxruntime.InferenceSession]:
    """Open `model` in inferlite and in onnxruntime, with the same settings."""
    import onnxruntime  # noqa: PLC0415 - its import takes a while

    ours = inferlite.InferenceSession(model, session_options(is_verbose=is_verbose, threads=threads))
    theirs = onnxruntime.InferenceSession(model, session_options(is_verbose=is_verbose, threads=threads))
    return ours, theirs


def check_answers(
    ours: inferlite.InferenceSession, theirs: onnxruntime.InferenceSession, feed: Mapping[str, Any]
) -> int:
    """Compare the outputs of both for `feed`; returns their number.

    Raises:
        DifferentAnswersError: a bit differs.
    """
    names = [output.name for output in theirs.get_outputs()]
    expected = theirs.run(None, dict(feed))
    difference = first_difference(names, ours.run(None, dict(feed)), expected)
    if difference is None:
        return len(names)
    if first_difference(names, theirs.run(None, dict(feed)), expected) is not None:
        message = f"{difference}: onnxruntime's own answers differ from call to call, the model is random"
    else:
        message = f"the answers differ: {difference}"
    raise DifferentAnswersError(message)


def show_kind_of(value: Any) -> str:  # noqa: ANN401 - any model value
    """Write what a value is: its dtype and shape, or its type."""
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    dtype = "string" if value.dtype.kind in "OU" else value.dtype
    return f"{dtype} {show_shape(value.shape)}"
