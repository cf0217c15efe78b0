"""The prediction cache and odd inputs: what prints alike, changes when it is read, or is an array only nearly."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest

import inferlite
import oracle
from cases import f32

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
FLEXIBLE = make_models.parse("flexible (float[] x) => (float[] y) { y = Identity(x) }")
STRINGS = make_models.parse("strings (string[n] x) => (string[n] y) { y = Identity(x) }")


def _ends_as_without_a_cache(model: bytes, values: list[Any]) -> Any:
    """Feed each value twice, with and without a cache; the session with one."""
    ours, plain = inferlite.InferenceSession(model, cache="1MB"), inferlite.InferenceSession(model)
    for value in values:
        for _ in range(2):
            wanted = oracle.outcome(lambda value=value: plain.run(None, {"x": value}))
            oracle.assert_same_outcome(oracle.outcome(lambda value=value: ours.run(None, {"x": value})), wanted)
    return ours


def test_a_value_of_the_runtime_that_is_overwritten_in_place_is_another_question() -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    value = onnxruntime.OrtValue.ortvalue_from_numpy(f32(1.0))
    for number in (1.0, 2.0, 1.0):
        value.update_inplace(f32(number))
        assert session.run(None, {"x": value})[0].tolist() == [2 * number]


def test_values_of_the_runtime_at_one_address_are_different_questions() -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    for number in range(20):
        # Each is freed before the next one is made, which takes its place.
        feed = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(f32(number))}
        assert session.run(None, feed)[0].tolist() == [2.0 * number]
        del feed


class _Rounded(float):
    """A number that prints as many others do, like the scalars of some libraries."""

    def __repr__(self) -> str:
        return "number(1.23)"

    __str__ = __repr__


class _Convertible:
    """Not a number, but numpy can make one of it."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __float__(self) -> float:
        return self.number

    def __repr__(self) -> str:
        return "convertible"


ALIKE: dict[str, list[Any]] = {
    "numbers that print alike": [[_Rounded(1.234)], [_Rounded(1.226)]],
    "objects that print alike": [[_Convertible(1.0)], [_Convertible(2.0)]],
    "numbers of several types": [[1.5], [np.float32(1.5)], [np.float64(1.5)], [1], [True], [np.bool_(1)], [np.int8(1)]],
    "zeros": [[0.0], [-0.0], [0], [False], [np.float32(-0.0)]],
    "texts and numbers": [["1"], [1], [b"1"], ["1.0"]],
    "lists in lists": [[[1.0]], [[1.0], [2.0]], [[1.0, 2.0]], [1.0, 2.0], []],
    "what is no list": [(1.0,), [1.0], (1.0,), {1.0}, {1.0: 1.0}, range(2), 1.0, "1", None],
    "arrays in lists": [[f32(1.0)], [f32(2.0)], [np.float32(1.0), f32(3.0)]],
}


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lists_of_whatever_prints_alike_are_told_apart(name: str) -> None:
    _ends_as_without_a_cache(DOUBLE, ALIKE[name])


@pytest.mark.parametrize("bits", [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000020000000])
def test_lists_of_numbers_that_are_none_are_told_apart_by_every_bit(bits: int) -> None:
    session = inferlite.InferenceSession(FLEXIBLE, cache="1MB")
    session.run(None, {"x": [float("nan")]})
    number = np.array([bits], np.uint64).view(np.float64)
    (answer,) = session.run(None, {"x": number.tolist()})
    assert answer.tobytes() == number.astype(np.float32).tobytes()


class _Counting:
    """Another text each time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __str__(self) -> str:
        self.asked += 1
        return str(self.asked)


def test_an_object_with_another_text_each_time_poisons_nothing() -> None:
    session = inferlite.InferenceSession(STRINGS, cache="1MB")
    odd = np.array([_Counting()], object)
    given = [session.run(None, {"x": odd})[0].tolist() for _ in range(4)]
    assert len({text for (text,) in given}) == 4
    for number in range(20):
        assert session.run(None, {"x": np.array([str(number)], object)})[0].tolist() == [str(number)]


TEXTS = [
    np.array(["a", "b"]),
    np.array(["a", "b"], object),
    np.array([b"a", b"b"]),
    np.array([b"a", b"b"], object),
    np.array(["b'a'", "b'b'"], object),
    np.array(["ab", ""], object),
    np.array(["", "ab"], object),
    np.array(["a\0", "b"], object),
    np.array([1, None], object),
    np.array(["1", "None"], object),
    np.array(["\ud800"], object),
    np.array(["a"], np.dtypes.StringDType()),
    np.array([(1, "a")], dtype=[("number", "i4"), ("text", "O")]),
    ["a", "b"],
    ["1", 1],
]


def test_texts_end_as_without_a_cache() -> None:
    session = _ends_as_without_a_cache(STRINGS, TEXTS)
    assert session.cache.stats().hits > 0


def test_masked_arrays_are_what_lies_under_the_mask() -> None:
    mask = [False, True, False]
    masked = [np.ma.masked_array(f32(1.0, number, 3.0), mask=mask) for number in (2.0, 9.0)]
    session = _ends_as_without_a_cache(DOUBLE, [*masked, f32(1.0, 2.0, 3.0)])
    assert session.cache.stats().entries == 2


class _Lying(np.ndarray):
    """An array that says something else of itself than what it holds."""

    def tobytes(self, order: Any = "C") -> bytes:
        del order
        return b"\0" * self.nbytes

    def copy(self, order: Any = "C") -> np.ndarray:
        return np.zeros_like(np.asarray(self), order=order)

    def ravel(self, order: Any = "C") -> np.ndarray:
        return np.zeros_like(np.asarray(self), order=order).ravel()


@pytest.mark.parametrize("size", [3, 10_000])
def test_a_subclass_is_what_it_holds_and_not_what_it_says(size: int) -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    for number in (1.0, 2.0, 1.0):
        x = np.full(size, number, np.float32).view(_Lying)
        assert np.asarray(session.run(None, {"x": x})[0]).tolist() == [2 * number] * size
    assert session.cache.stats().hits == 1


def _layouts(dtype: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    x = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    read_only = x.copy()
    read_only.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(shape)
    return [x, x.T, x[::2], x[::-1], x[..., ::2], x[0:0], x[..., 0:0], read_only, unaligned, np.asfortranarray(x)]


@pytest.mark.parametrize("shape", [(4, 6), (2, 0, 3), (100, 120)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_every_layout_is_the_numbers_in_it(dtype: str, shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    session = _ends_as_without_a_cache(FLEXIBLE, _layouts(dtype, shape))
    before = session.cache.stats()
    for same in (x.astype("<f4"), x.astype(">f4"), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        assert session.run(None, {"x": same})[0].tobytes() == x.astype("<f4").tobytes()
    after = session.cache.stats()
    assert (after.hits - before.hits, after.misses) == (4, before.misses)


def test_a_dtype_that_does_not_fit_is_refused_although_its_bytes_are_kept() -> None:
    session = _ends_as_without_a_cache(DOUBLE, [f32(1.0), np.array([0x3F800000], np.int32), np.zeros(1, "V4")])
    stats = session.cache.stats()
    assert (stats.hits, stats.entries) == (1, 1)


ASK: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "as the only argument": lambda model, x: model(x),
    "by predict": lambda model, x: model.predict(x),
    "by name": lambda model, x: model(x=x),
    "in a dictionary": lambda model, x: model({"x": x}),
    "for outputs by name": lambda model, x: model(x, outputs="y"),
    "as a list": lambda model, x: model(x.tolist()),
    "by the class": lambda model, x: type(model).__call__(model, x),
    "with a deadline": lambda model, x: model(x, timeout=60),
}


def test_every_form_of_a_call_asks_the_same_question() -> None:
    model = inferlite.load(DOUBLE, cache="1MB")
    x = f32(1.0, 2.0)
    for ask in ASK.values():
        assert ask(model, x).tolist() == [2.0, 4.0]
    stats = model.stats().cache
    assert (stats.hits, stats.misses) == (len(ASK) - 1, 1)


@pytest.mark.parametrize("name", ASK)
def test_a_small_array_that_another_thread_changes_poisons_nothing(name: str) -> None:
    model, plain = inferlite.load(DOUBLE, cache="1MB"), inferlite.load(DOUBLE)
    x = np.zeros(1_000, np.float32)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            x[:] = 1
            x[:] = 2

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            ASK[name](model, x)
    finally:
        stop.set()
        thread.join()
    for number in (0.0, 1.0, 2.0):
        settled = np.full(1_000, number, np.float32)
        assert model(settled).tobytes() == plain(settled).tobytes()


def test_what_nothing_is_kept_for_cannot_be_dropped() -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    session.run(None, {"x": [_Convertible(1.0)]})
    assert session.cache.invalidate(None, {"x": [_Convertible(2.0)]}) is False
