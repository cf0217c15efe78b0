"""`out=` of `run` and of models: the caller's arrays take the outputs, or stay as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import make_models
import ml_dtypes
import numpy as np
import pytest

import inferlite
import oracle
from cases import f32, ones

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")


@oracle.proves("`run(..., out={name: array})`")
def test_outputs_are_written_into_the_arrays_that_are_given() -> None:
    ours, theirs = oracle.pair("two_outputs")
    feed = {"x": f32(1, -1)}
    with pytest.raises(TypeError):
        theirs.run(None, feed, out={})
    wanted = theirs.run(None, feed)
    negative, small = np.zeros(2, np.float32), np.zeros(2, bool)
    both = ours.run(None, feed, out={"small": small, "negative": negative})
    assert both[0] is negative
    assert both[1] is small
    oracle.assert_same_value(both, wanted)
    some = ours.run(["small", "negative", "small"], feed, out={"small": small})
    assert some[0] is some[2] is small
    oracle.assert_same_value(some, theirs.run(["small", "negative", "small"], feed))
    oracle.assert_same_value(ours.run(None, feed, None, out={}), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cache": "1MB"},
        {"cache": inferlite.Cache(max_bytes="1MB", copy=False)},
        {"batching": True, "rows_independent": True},
    ],
)
def test_a_model_writes_its_answer_however_it_comes_by_it(settings: dict[str, Any]) -> None:
    place = np.zeros((1, 4), np.float32)
    with inferlite.load(make_models.build("double"), **settings) as model:
        for value in (1, 2, 1, 2):
            x = ones(1, 4) * value
            assert model(x, out=place) is place
            np.testing.assert_array_equal(place, x * 2)
            place[:] = 0
            assert model(x=x, out={"y": place}) is place
            assert model.predict(x, out=place, outputs="y", timeout=60, priority=1) is place
            np.testing.assert_array_equal(place, x * 2)
            np.testing.assert_array_equal(model(x), x * 2)


def test_a_session_with_a_cache_writes_what_it_kept() -> None:
    session = inferlite.InferenceSession(make_models.build("double"), cache="1MB")
    place = np.zeros((1, 4), np.float32)
    for _ in range(3):
        place[:] = 0
        session.run(None, {"x": ones(1, 4)}, out={"y": place})
        assert place.tolist() == [[2.0] * 4]
    assert session.cache is not None
    assert session.cache.stats().hits == 2


def test_several_outputs_of_a_model_stay_a_dict() -> None:
    with inferlite.load(make_models.build("two_outputs")) as model:
        small = np.zeros(2, bool)
        answer = model(f32(1, -1), out={"small": small})
        assert list(answer) == ["negative", "small"]
        assert answer["small"] is small
        assert small.tolist() == [False, True]


def test_memory_of_other_libraries_is_written_to() -> None:
    session = inferlite.InferenceSession(make_models.identity("uint8"))
    place = bytearray(3)
    assert session.run(None, {"x": b"abc"}, out={"y": place})[0] is place
    assert place == b"abc"


def test_lying_shapes_are_not_believed() -> None:
    # It declares rank 2 and gives rank 3.
    session, _ = oracle.pair("lying")
    place = np.zeros((1, 2, 2), np.float32)
    session.run(None, {"x": ones(2, 2)}, out={"y": place})
    assert place.tolist() == ones(1, 2, 2).tolist()


def test_dtypes_of_ml_dtypes_are_written(backend: str) -> None:
    session = inferlite.InferenceSession(make_models.identity("bfloat16"))
    place = np.zeros(3, ml_dtypes.bfloat16)
    run = lambda: session.run(None, {"x": np.array([1, -2, 3], ml_dtypes.bfloat16)}, out={"y": place})  # noqa: E731
    if backend == "native":
        run()
        assert place.tolist() == [1, -2, 3]
    else:
        with pytest.raises(inferlite.BackendUnavailableError):
            run()


def _read_only() -> np.ndarray:
    array = ones(1, 4)
    array.flags.writeable = False
    return array


X = ones(1, 4)

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "dtype": (
        lambda: {"y": np.zeros((1, 4))},
        (
            "output `y` cannot be written there: its dtype is float64, but the model expects float32; pass an array of "
            "that dtype"
        ),
    ),
    "shape": (
        lambda: {"y": ones(2, 4)},
        "output `y` has shape [1, 4], but the array in `out` has shape [2, 4]: pass one of that shape",
    ),
    "rank": (
        lambda: {"y": ones(4)},
        "output `y` has shape [1, 4], but the array in `out` has shape [4]: pass one of that shape",
    ),
    "read-only": (
        lambda: {"y": _read_only()},
        "output `y` cannot be written there: its array is read-only; pass a writable one",
    ),
    "strided": (
        lambda: {"y": ones(1, 8)[:, ::2]},
        (
            "output `y` cannot be written there: its array is not in C order, aligned and in native byte order; pass "
            "`numpy.ascontiguousarray(...)` of it in native byte order"
        ),
    ),
    "other bytes": (
        lambda: {"y": ones(1, 4).astype(">f4")},
        (
            "output `y` cannot be written there: its array is not in C order, aligned and in native byte order; pass "
            "`numpy.ascontiguousarray(...)` of it in native byte order"
        ),
    ),
    "the input": (
        lambda: {"y": X},
        (
            "output `y` cannot be written there: its array shares memory with another array of the call; pass one of "
            "its own"
        ),
    ),
    "a part of the input": (
        lambda: {"y": X[:, :]},
        (
            "output `y` cannot be written there: its array shares memory with another array of the call; pass one of "
            "its own"
        ),
    ),
    "no array": (lambda: {"y": [1.0]}, "output `y` cannot be written there: it is <class 'list'>, not an array"),
    "read-only bytes": (
        lambda: {"y": memoryview(ones(1, 4).tobytes()).cast("f", (1, 4))},
        "output `y` cannot be written there: its array is read-only; pass a writable one",
    ),
    "unknown": (lambda: {"z": ones(1, 4)}, "`out` has an array for `z`, but the call is for `y`"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_take_an_output_is_refused_with_the_remedy(name: str) -> None:
    make, wanted = BAD[name]
    session, _ = oracle.pair("double")
    out = make()
    before = {key: np.array(value) for key, value in out.items()}
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
        session.run(None, {"x": X}, out=out)
    assert str(refused.value) == wanted
    with inferlite.load(make_models.build("double")) as model:
        with pytest.raises(inferlite.InvalidInputError) as invalid:
            model(X, out=out)
        assert str(invalid.value) == wanted
    for key, value in out.items():
        np.testing.assert_array_equal(value, before[key])


def test_two_outputs_cannot_share_memory_and_nothing_is_written_if_one_does_not_fit() -> None:
    session = inferlite.InferenceSession(make_models.build("eight_outputs"))
    feed, shared = {"x": np.arange(8, dtype=np.float32)}, np.zeros(1, np.float32)
    with pytest.raises(
        ValueError, match="output `b` cannot be written there: its array shares memory with another array"
    ):
        session.run(None, feed, out={"a": shared, "b": shared})
    first = np.full(1, 7, np.float32)
    with pytest.raises(ValueError, match="output `b` has shape"):
        session.run(None, feed, out={"a": first, "b": ones(2)})
    assert first.tolist() == [7]


def test_a_run_that_fails_leaves_the_arrays_as_they_were() -> None:
    session, theirs = oracle.pair("failing")
    place = ones(2, 3)
    feed = {"a": ones(2, 3), "b": ones(2, 3)}
    oracle.compare_calls(lambda: session.run(None, feed, out={"c": place}), lambda: theirs.run(None, feed))
    assert place.tolist() == ones(2, 3).tolist()


def test_what_is_no_tensor_of_numbers_is_refused() -> None:
    session = inferlite.InferenceSession(make_models.build("strings"))
    with pytest.raises(
        ValueError, match="it is a tensor\\(string\\), and only tensors of numbers can; leave it out of `out`"
    ):
        session.run(None, {"x": ["a"]}, out={"y": np.array(["a"], object)})


def test_out_must_name_the_outputs_where_there_are_several() -> None:
    session = inferlite.InferenceSession(make_models.build("two_outputs"))
    with pytest.raises(TypeError) as refused:
        session.run(None, {"x": f32(1)}, out=f32(1))  # type: ignore[arg-type]
    assert str(refused.value) == "`out` must map names of outputs to arrays, not be a <class 'numpy.ndarray'>"
    with inferlite.load(make_models.build("two_outputs")) as model:
        with pytest.raises(inferlite.InvalidInputError) as invalid:
            model(f32(1), out=f32(1))
        assert str(invalid.value) == "`out` must map names to arrays: there are several outputs (`negative`, `small`)"
