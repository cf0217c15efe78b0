"""`casting=` of a session and of `load`: numpy decides what may be cast, and what is cast is what is keyed and run."""

from __future__ import annotations

from functools import cache
from typing import Any

import make_models
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

import inferlite
import oracle
from test_arrays import DTYPES, TYPE_NAMES, laid_out

pytestmark = pytest.mark.usefixtures("backend")

CASTINGS = ("no", "safe", "same_kind")


@cache
def _session(backend: str, kind: str, casting: Any) -> Any:
    assert backend in ("native", "python")
    return inferlite.InferenceSession(make_models.identity(kind), casting=casting)


@oracle.proves("an array of another dtype, with `casting=`")
@pytest.mark.filterwarnings("ignore:overflow encountered in cast", "ignore:invalid value encountered in cast")
@given(value=laid_out(), declared=st.sampled_from(DTYPES), casting=st.sampled_from(CASTINGS))
def test_an_array_is_cast_where_numpy_says_so(backend: str, value: np.ndarray, declared: type, casting: str) -> None:
    dtype = np.dtype(declared)
    session = _session(backend, TYPE_NAMES.get(dtype.name, dtype.name), casting)
    ended = oracle.outcome(lambda: session.run(None, {"x": value}))
    value = np.asarray(value)
    if value.dtype == dtype or (casting != "no" and np.can_cast(value.dtype, dtype, casting)):
        oracle.assert_same_value(ended.value, [np.ascontiguousarray(value.astype(dtype)).reshape(value.shape)])
    else:
        assert "Unexpected input data type" in str(ended.error)


@pytest.mark.parametrize("casting", CASTINGS)
def test_the_same_holds_for_a_model(casting: Any) -> None:
    wide, whole, text = np.ones((1, 4)), np.ones((1, 4), np.int16), np.array([["a"] * 4])
    with inferlite.load(make_models.build("double"), casting=casting) as model:
        for value in (wide, whole, text):
            ended = oracle.outcome(lambda value=value: model(value))
            if casting != "no" and value is not text and np.can_cast(value.dtype, np.float32, casting):
                assert ended.value.tolist() == [[2.0] * 4]
            else:
                assert type(ended.error) is inferlite.InvalidInputError
                assert "expects float32: pass `x.astype(numpy.float32)`" in str(ended.error)


@pytest.mark.parametrize("settings", [{"cache": "1MB"}, {"batching": True, "rows_independent": True}])
def test_what_is_kept_and_combined_is_what_was_cast(settings: dict[str, Any]) -> None:
    with inferlite.load(make_models.build("double"), casting="same_kind", **settings) as model:
        for dtype in (np.float32, np.float64, np.int64, np.float16, np.float32):
            assert model(np.ones((1, 4), dtype)).tolist() == [[2.0] * 4]
            assert model.submit(np.ones((1, 4), dtype)).result().tolist() == [[2.0] * 4]
        if model.cache is not None:
            assert (model.cache.stats().hits, model.cache.stats().misses) == (9, 1)


def test_a_session_keys_what_was_cast() -> None:
    session = inferlite.InferenceSession(make_models.build("double"), cache="1MB", casting="same_kind")
    for dtype in (np.float32, np.float64, np.int64, np.float16):
        assert session.run(None, {"x": np.ones((1, 4), dtype)})[0].tolist() == [[2.0] * 4]
    assert session.cache is not None
    assert (session.cache.stats().hits, session.cache.stats().misses) == (3, 1)


def test_values_of_other_libraries_are_cast_too() -> None:
    session = inferlite.InferenceSession(make_models.build("double"), casting="same_kind")
    value = pa.array([[1, 2, 3, 4]], pa.list_(pa.float64(), 4))
    assert session.run(None, {"x": value})[0].tolist() == [[2, 4, 6, 8]]


def test_lists_are_converted_as_ever_and_bind_casts_nothing() -> None:
    session = inferlite.InferenceSession(make_models.identity("int64"), casting="safe")
    assert session.run(None, {"x": [1.5, 2.5]})[0].tolist() == [1, 2]
    with pytest.raises(ValueError, match="its dtype is int32, but the model expects int64"):
        session.bind({"x": np.ones(2, np.int32)})


def test_other_names_of_castings_are_refused() -> None:
    wanted = '`casting` must be "no", "safe" or "same_kind", not \'unsafe\''
    for make in (inferlite.InferenceSession, inferlite.load):
        with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
            make(make_models.build("double"), casting="unsafe")
        assert str(refused.value) == wanted
