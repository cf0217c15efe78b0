"""The judge itself: it must see every kind of difference, and its table must be complete."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import oracle

ROOT = Path(__file__).parent.parent

PROOFS = (
    "hostile.test_fork",
    "test_bad_input",
    "test_extended_types",
    "test_casting",
    "test_exchange",
    "test_gil",
    "test_io_binding",
    "test_optimized_cache",
    "test_ort_values",
    "test_hints",
    "test_out",
    "test_pickling",
    "test_reuse",
    "test_runtime",
    "test_session",
    "test_session_async",
    "test_session_memory",
    "test_session_methods",
    "test_session_options",
    "test_sparse",
    "test_values",
)


def test_every_difference_is_proved_by_a_test() -> None:
    for module in PROOFS:
        importlib.import_module(module)
    assert oracle.unproved() == []


def test_a_difference_that_is_not_in_the_table_cannot_be_proved() -> None:
    with pytest.raises(LookupError, match="no difference has the case 'rain'"):
        oracle.proves("rain")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.float32([1]), np.float64([1])),
        (np.float32([1]), np.float32([[1]])),
        (np.float32([0.0]), np.float32([-0.0])),
        (np.asfortranarray(np.ones((2, 2))), np.ones((2, 2))),
        (np.array(["a"], object), np.array(["b"], object)),
        ([1.0], [1]),
        ([1.0], [1.0, 2.0]),
        ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}),
        (0.0, -0.0),
        (None, np.float32([])),
    ],
)
def test_values_that_differ_are_told_apart(given: object, wanted: object) -> None:
    with pytest.raises(AssertionError):
        oracle.assert_same_value(given, wanted)


def test_equal_values_pass_with_nan_and_nesting() -> None:
    value = [{"a": np.float32([np.nan, -0.0])}, None, [1.0, "x"]]
    oracle.assert_same_value(value, [{"a": np.float32([np.nan, -0.0])}, None, [1.0, "x"]])


class _OwnError(ValueError):
    pass


def test_a_subclass_of_the_wanted_exception_is_not_the_same_class() -> None:
    with pytest.raises(AssertionError):
        oracle.assert_same_error(_OwnError("x"), ValueError("x"))


def test_another_text_is_not_the_same_exception() -> None:
    with pytest.raises(AssertionError):
        oracle.assert_same_error(ValueError("x"), ValueError("y"))


def test_lists_of_signatures_are_compared_by_their_first_line() -> None:
    first = "run(): incompatible function arguments. The following argument types are supported:"
    oracle.assert_same_error(TypeError(f"{first}\n ours"), TypeError(f"{first}\n theirs"))


def test_the_page_for_users_is_made_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("write_dropin", ROOT / "scripts" / "write_dropin.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    remedy = "run scripts/write_dropin.py"
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), remedy
