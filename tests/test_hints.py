"""The line that `run` adds below a text of onnxruntime's: what is wrong with which input, and what to pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest
from packaging.version import Version

import oracle
from cases import ones

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

identity = make_models.identity

HINTS: dict[str, tuple[str | bytes, Callable[[], Any], Any, str]] = {
    "dtype": (
        "add",
        lambda: {"a": ones(1, 4), "b": np.ones((1, 4))},
        None,
        "input `b` has dtype float64, but the model expects float32: pass `b.astype(numpy.float32)`",
    ),
    "dtype of truth values": (
        identity("bool"),
        lambda: {"x": np.ones(2, np.uint8)},
        None,
        "input `x` has dtype uint8, but the model expects bool: pass `x.astype(numpy.bool_)`",
    ),
    "dtype that the runtime has not": (
        "identity",
        lambda: {"x": np.ones((1, 3), np.complex64)},
        None,
        "input `x` has dtype complex64, but the model expects float32: pass `x.astype(numpy.float32)`",
    ),
    "rank": (
        "add",
        lambda: {"a": ones(1, 4), "b": ones(4)},
        None,
        "input `b` has shape [4], but the model expects [batch, 4]",
    ),
    "extent": (
        "identity",
        lambda: {"x": ones(1, 4)},
        None,
        "input `x` has shape [1, 4], but the model expects [batch, 3]",
    ),
    "number": (
        "identity",
        lambda: {"x": 1.5},
        None,
        "input `x` is <class 'float'>: pass `numpy.asarray(x, numpy.float32)`",
    ),
    "tuple": (
        "identity",
        lambda: {"x": (1.0,)},
        None,
        "input `x` is a tuple: pass a list, or `numpy.asarray(x, numpy.float32)`",
    ),
    "set": ("identity", lambda: {"x": {1.0}}, None, "input `x` is <class 'set'>: pass an array of float32"),
    "list": (
        "identity",
        lambda: {"x": [["a"]]},
        None,
        "input `x` cannot be made an array of float32: could not convert string to float: 'a'",
    ),
    "dict": ("identity", lambda: {"x": {"a": 1.0}}, None, "input `x` is <class 'dict'>, but the model expects float32"),
    "empty dict": ("identity", lambda: {"x": {}}, None, "input `x` is an empty dict: pass at least one key"),
    "None": ("identity", lambda: {"x": None}, None, "input `x` is None, but the model expects float32"),
    "sequence": (
        "sequence",
        lambda: {"s": [1.0]},
        None,
        "input `s` is a list of other things than arrays: pass a list of arrays",
    ),
    "input": ("add", lambda: {"a": ones(1, 4), "b": ones(1, 4), "q": ones(1)}, None, "the model takes `a`, `b`"),
    "output": ("two_outputs", lambda: {"x": ones(1)}, ["large"], "the model gives `negative`, `small`"),
    "feed": ("identity", lambda: [ones(1, 3)], None, '`input_feed` must be a dict of values by name: {"x": ...}'),
    "text for names": ("identity", lambda: {"x": ones(1, 3)}, "y", "`output_names` must be a list of names: ['y']"),
    "number as a name": (
        "identity",
        lambda: {"x": ones(1, 3), 1: ones(1)},
        None,
        "the keys of `input_feed` must be names of inputs",
    ),
}


@oracle.proves("an input that does not fit, or a name that is unknown")
@pytest.mark.parametrize("name", HINTS)
def test_an_error_says_what_to_do_below_what_onnxruntime_says(name: str) -> None:
    if name == "None" and Version(onnxruntime.__version__).release[:2] < (1, 32):
        pytest.skip("onnxruntime says something else of it before 1.32")
    model, feed, outputs, hint = HINTS[name]
    ours, theirs = oracle.pair(model)
    error = oracle.compare(ours, theirs, feed(), outputs).error
    assert str(error).splitlines()[-1] == hint


def test_an_error_of_the_callers_own_is_left_as_it_is() -> None:
    class OwnError(RuntimeError):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)
            self.code = code

    class Raising:
        def __str__(self) -> str:
            raise OwnError(5, "Could not create tensor from given input list")

    ours, _ = oracle.pair("strings")
    with pytest.raises(OwnError) as raised:
        ours.run(None, {"x": np.array([Raising()], object)})
    assert (raised.value.code, str(raised.value)) == (5, "Could not create tensor from given input list")
