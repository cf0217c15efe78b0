"""Inputs of other libraries: what they hold is what runs, in place where that can be, on every way to call a model."""

from __future__ import annotations

import array
import threading
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

import cases
import child
import inferlite
import oracle
from inferlite import _exchange as exchange
from test_arrays import laid_out

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

# From 2.1 on numpy gives and reads capsules with a version, which may say that they are read-only.
HAS_VERSIONS = np.lib.NumpyVersion(np.__version__) >= "2.1.0"

TYPE_NAMES = {"float32": "float", "float64": "double", "object": "string"}


class _Interface:
    """What has `__array_interface__` alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__
        self._array = array


class _Capsules:
    """What has DLPack alone, as libraries before version 1 and after it."""

    def __init__(self, array: np.ndarray, *, versions: bool = True) -> None:
        self._array, self._versions = array, versions

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> object:
        if options and not self._versions:
            message = "unexpected keyword argument"
            raise TypeError(message)
        return self._array.__dlpack__(**options)


WAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "DLPack": _Capsules,
    "DLPack without versions": lambda value: _Capsules(value, versions=False),
    "__array_interface__": _Interface,
    "memoryview": memoryview,
}


def read(value: Any) -> exchange.Exchanged:
    exchanged = exchange.array_of("input `x`", value, RuntimeError)
    assert exchanged is not None
    return exchanged


def refusal(value: Any) -> str:
    with pytest.raises(RuntimeError) as refused:
        exchange.array_of("input `x`", value, RuntimeError)
    return str(refused.value)


@oracle.proves("an input of another library: DLPack, Arrow, `__array_interface__`, the buffer protocol")
@oracle.proves("arrays of another library in a list for a sequence")
@pytest.mark.parametrize("case", cases.EXCHANGED.values(), ids=cases.EXCHANGED)
def test_what_holds_an_array_is_taken_as_that_array(case: cases.Case) -> None:
    ours, theirs = oracle.pair(case.model)
    assert type(oracle.outcome(lambda: theirs.run(None, case.feed())).error) is RuntimeError
    as_array = lambda value: [np.asarray(item) for item in value] if isinstance(value, list) else read(value).array  # noqa: E731
    plain = {name: as_array(value) for name, value in case.feed().items()}
    oracle.assert_same_value(ours.run(None, case.feed()), theirs.run(None, plain))


@pytest.mark.parametrize("way", WAYS)
@given(value=laid_out())
def test_any_layout_is_read_in_place_as_its_values(way: str, value: np.ndarray) -> None:
    value = np.asarray(value)
    if "DLPack" in way and not (value.flags.writeable or (way == "DLPack" and HAS_VERSIONS)):
        # Without versions there is no way to say that it is read-only.
        value = value.copy()
    exchanged = read(WAYS[way](value))
    oracle.assert_same_value(exchanged.array.tolist(), value.tolist())
    assert (exchanged.array.dtype, exchanged.array.shape) == (value.dtype, value.shape)
    if value.size:
        assert exchanged.array.ctypes.data == value.ctypes.data
        assert exchanged.array.strides == value.strides or 1 in value.shape
    assert not exchanged.is_copy


@pytest.mark.parametrize("way", WAYS)
@given(value=laid_out())
def test_any_layout_runs_as_the_array_itself(way: str, value: np.ndarray) -> None:
    value = np.array(value)
    model = make_models.identity(TYPE_NAMES.get(value.dtype.name, value.dtype.name))
    ours, theirs = oracle.pair(model)
    oracle.assert_same_value(ours.run(None, {"x": WAYS[way](value)}), theirs.run(None, {"x": value}))


f32 = pa.float32()
MATRIX = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(f32, 2))
HOLES = pa.array([[1, None], [3, 4], [5, 6]], pa.list_(f32, 2))
TABLE = pa.table({"a": pa.array([1, 2], f32), "b": pa.array([3, 4], f32)})

ARROW: dict[str, tuple[Any, Any, bool]] = {
    "numbers": (pa.array([1, 2], f32), np.float32([1, 2]), False),
    "a slice": (pa.array(range(9), pa.int64())[2:5], np.int64([2, 3, 4]), False),
    "half": (pa.array([1.5], pa.float16()), np.float16([1.5]), False),
    "unsigned": (pa.array([200], pa.uint8()), np.uint8([200]), False),
    "truth values": (pa.array([True, False] * 9)[3:16], np.array([False, True] * 9)[2:15], True),
    "strings": (pa.array(["a", "", "é" * 20]), np.array(["a", "", "é" * 20], object), True),
    "a slice of large strings": (pa.array(["a", "bc"], pa.large_string())[1:], np.array(["bc"], object), True),
    "string views": (pa.array(["a", "b" * 20], pa.string_view())[1:], np.array(["b" * 20], object), True),
    "lists of a fixed size": (MATRIX, np.float32([[1, 2], [3, 4], [5, 6]]), False),
    "a slice of these": (MATRIX[1:], np.float32([[3, 4], [5, 6]]), False),
    "a slice beyond the nulls": (HOLES[1:], np.float32([[3, 4], [5, 6]]), False),
    "lists in lists": (
        pa.array([[[1], [2]], [[3], [4]]], pa.list_(pa.list_(f32, 1), 2)),
        np.float32([[[1], [2]], [[3], [4]]]),
        False,
    ),
    "one chunk": (pa.chunked_array([[1, 2]], f32), np.float32([1, 2]), False),
    "several chunks": (pa.chunked_array([[1, 2], [3]], f32), np.float32([1, 2, 3]), True),
    "no chunk": (pa.chunked_array([], f32), np.float32([]), True),
    "no elements": (pa.array([], pa.list_(f32, 2)), np.ones((0, 2), np.float32), True),
    "a table": (TABLE, np.float32([[1, 3], [2, 4]]), True),
    "a slice of a batch": (TABLE.to_batches()[0][1:], np.float32([[2, 4]]), True),
    "a table of one column": (TABLE.select(["a"]), np.float32([[1], [2]]), False),
    "a series": (pl.Series([1.5, 2.5], dtype=pl.Float32), np.float32([1.5, 2.5]), False),
    "a series of strings": (pl.Series(["a", "b" * 20]), np.array(["a", "b" * 20], object), True),
    "a series of truth values": (pl.Series([True, False]), np.array([True, False]), True),
    "a series of arrays": (pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), np.int64([[1, 2]]), False),
    "a data frame": (pl.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}), np.array([[1.0, 3.0], [2.0, 4.0]]), True),
    "a data frame without rows": (pl.DataFrame({"a": [1.0], "b": [3.0]}).clear(), np.ones((0, 2)), True),
}
if HAS_VERSIONS:
    # pyarrow warns of capsules without a version.
    ARROW["a tensor"] = (pa.Tensor.from_numpy(np.ones((2, 3))), np.ones((2, 3)), False)


@pytest.mark.parametrize("name", ARROW)
def test_arrow_is_read_as_its_values_and_copied_only_where_it_is_packed(name: str) -> None:
    value, wanted, is_copy = ARROW[name]
    exchanged = read(value)
    assert exchanged.array.dtype == wanted.dtype
    np.testing.assert_array_equal(exchanged.array, wanted)
    assert exchanged.is_copy == is_copy
    assert is_copy or value.__class__ is pa.Tensor or not exchanged.array.flags.writeable


@pytest.mark.parametrize("name", ARROW)
def test_arrow_runs_as_the_array(name: str) -> None:
    value, wanted, _ = ARROW[name]
    ours, theirs = oracle.pair(make_models.identity(TYPE_NAMES.get(wanted.dtype.name, wanted.dtype.name)))
    oracle.assert_same_value(ours.run(None, {"x": value}), theirs.run(None, {"x": wanted}))


@given(
    values=st.lists(st.integers(-100, 100) | st.none(), max_size=40),
    kind=st.sampled_from((pa.int8(), pa.int64(), pa.float32(), pa.bool_(), pa.string(), pa.string_view())),
    start=st.integers(0, 40),
    length=st.integers(0, 40),
)
def test_any_slice_of_arrow_is_its_values_or_refused_for_its_nulls(
    values: list[int | None], kind: pa.DataType, start: int, length: int
) -> None:
    as_kind = {pa.bool_(): lambda item: item > 0, pa.string(): str, pa.string_view(): str}.get(kind, lambda item: item)
    whole = pa.array([None if item is None else as_kind(item) for item in values], kind)
    part = whole.slice(start, length)
    if part.null_count:
        assert "null" in refusal(part)
    else:
        assert read(part).array.tolist() == part.to_pylist()


def test_memory_of_arrow_lives_as_long_as_the_array() -> None:
    held = pa.total_allocated_bytes()
    value = pa.chunked_array([np.arange(100_000, dtype=np.float32)])
    copy = pa.array(value.combine_chunks().to_numpy() * 1)
    exchanged = read(pa.chunked_array([copy]))
    del copy
    assert exchanged.array.sum(dtype=np.float64) == 4_999_950_000
    del exchanged, value
    assert pa.total_allocated_bytes() <= held


class _Elsewhere:
    def __init__(self, device: int) -> None:
        self._device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0

    def __dlpack__(self, **_options: Any) -> object:
        message = "nobody may ask"
        raise AssertionError(message)


class _Raising:
    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        message = "not today\nnor tomorrow"
        raise LookupError(message)


def _released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a null": (lambda: pa.array([1.0, None]), "it has 1 null: fill or drop them first, such as by `fill_null(0)`"),
    "nulls of a series": (
        lambda: pl.Series([None, 1.0, None]),
        "it has 2 nulls: fill or drop them first, such as by `fill_null(0)`",
    ),
    "a null in a list": (lambda: HOLES, "it has 1 null: fill or drop them first, such as by `fill_null(0)`"),
    "nothing but nulls": (lambda: pa.array([None]), "it has nothing but nulls: fill or drop them first"),
    "a dictionary": (
        lambda: pa.array(["a"]).dictionary_encode(),
        "it is dictionary-encoded: decode it first, such as by `dictionary_decode()` or a cast",
    ),
    "categories": (
        lambda: pl.Series(["a"], dtype=pl.Categorical),
        "it is dictionary-encoded: decode it first, such as by `dictionary_decode()` or a cast",
    ),
    "lists": (
        lambda: pa.array([[1.0]]),
        "its lists may differ in length: cast it to a list of fixed size, or pass an array",
    ),
    "times": (
        lambda: pa.array([1], pa.timestamp("s")),
        "its Arrow type (`tss:`) is none that a tensor has: cast it to numbers, truth values or strings",
    ),
    "an extension": (
        lambda: pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(f32, (2,)), MATRIX),
        "its type is the extension `arrow.fixed_shape_tensor`: pass its storage, or an array",
    ),
    "columns of two dtypes": (
        lambda: pl.DataFrame({"a": [1.0], "b": [2]}),
        "its columns are not of one dtype (`a` float64, `b` int64): cast them to that of the input first",
    ),
    "columns of lists": (
        lambda: pa.table({"a": MATRIX}),
        "its columns are not of one dtype (`a` float32[2]): cast them to that of the input first",
    ),
    "another device": (
        lambda: _Elsewhere(2),
        "it lies on a CUDA device: copy it to the CPU first, such as by `.cpu()` or `jax.device_get(...)`",
    ),
    "a device without a name": (
        lambda: _Elsewhere(99),
        "it lies on device 99 of DLPack: copy it to the CPU first, such as by `.cpu()` or `jax.device_get(...)`",
    ),
    "a buffer of objects": (
        lambda: memoryview(np.array([object()], object)),
        "its elements are said to be Python objects: pass an array of numpy's",
    ),
    "a released buffer": (_released, "operation forbidden on released memoryview object"),
    "a method that raises": (_Raising, "not today"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named_with_the_remedy(name: str) -> None:
    make, reason = REFUSED[name]
    value = make()
    kind = type(value)
    shown = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    wanted = f"input `x` cannot be read as an array ({shown}): {reason}"
    assert refusal(value) == wanted
    ours, _ = oracle.pair("double")
    with pytest.raises(RuntimeError) as refused:
        ours.run(None, {"x": make()})
    assert str(refused.value) == wanted
    with inferlite.load(make_models.build("double")) as model, pytest.raises(inferlite.InvalidInputError) as invalid:
        model(make())
    assert str(invalid.value) == wanted


MISFITS: dict[str, tuple[Any, str]] = {
    "dtype": (
        pl.DataFrame({name: [1.0] for name in "abcd"}),
        "input `x` has dtype float64, but the model expects float32: pass `numpy.asarray(x).astype(numpy.float32)`",
    ),
    "shape": (pa.array([1], f32), "input `x` has shape [1], but the model expects [batch, 4]"),
    "strings": (
        pa.array(["a"]),
        "input `x` has dtype object, but the model expects float32: pass `numpy.asarray(x).astype(numpy.float32)`",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_keeps_the_class_and_names_the_input(name: str) -> None:
    value, wanted = MISFITS[name]
    ours, theirs = oracle.pair("double")
    outcome = oracle.compare(ours, theirs, {"x": value})
    assert str(outcome.error) == wanted


FOUR = pa.array([[1, 2, 3, 4]], pa.list_(f32, 4))
EIGHT = np.float32([[2, 4, 6, 8]])


@pytest.mark.parametrize(
    "value", [FOUR, pl.Series([[1, 2, 3, 4]], dtype=pl.Array(pl.Float32, 4))], ids=["arrow", "polars"]
)
def test_every_way_to_call_a_model_takes_them(value: Any) -> None:
    for settings in ({}, {"cache": "1MB"}, {"batching": True, "rows_independent": True}):
        with inferlite.load(make_models.build("double"), **settings) as model:
            for _ in range(3):
                np.testing.assert_array_equal(model(value), EIGHT)
                np.testing.assert_array_equal(model(x=value), EIGHT)
                np.testing.assert_array_equal(model({"x": value}), EIGHT)
                np.testing.assert_array_equal(model.submit(value).result(), EIGHT)
                np.testing.assert_array_equal(model.predict(value, timeout=60), EIGHT)


def test_a_session_with_a_cache_knows_them_again() -> None:
    session = inferlite.InferenceSession(make_models.build("double"), cache="1MB")
    for value in (FOUR, np.float32([[1, 2, 3, 4]]), _Capsules(np.float32([[1, 2, 3, 4]]))):
        np.testing.assert_array_equal(session.run(None, {"x": value})[0], EIGHT)
    assert session.cache is not None
    assert session.cache.stats().hits == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_bound_call_reads_the_memory_again(way: str) -> None:
    session = inferlite.InferenceSession(make_models.build("double"))
    memory = np.float32([[1, 2, 3, 4]])
    call = session.bind({"x": WAYS[way](memory)})
    np.testing.assert_array_equal(call()[0], EIGHT)
    memory[:] = 5
    np.testing.assert_array_equal(call()[0], np.full((1, 4), 10, np.float32))


@pytest.mark.parametrize("way", ["DLPack", "__array_interface__", "memoryview"])
def test_a_bound_call_writes_into_the_memory(way: str) -> None:
    if way == "DLPack" and not HAS_VERSIONS:
        pytest.skip("numpy reads capsules as read-only before 2.1")
    session = inferlite.InferenceSession(make_models.build("double"))
    memory = np.zeros((1, 4), np.float32)
    given = WAYS[way](memory)
    call = session.bind({"x": np.float32([[1, 2, 3, 4]])}, {"y": given})
    assert call()[0] is given
    np.testing.assert_array_equal(memory, EIGHT)


def test_memory_that_is_shared_with_an_input_cannot_be_bound_for_an_output() -> None:
    session = inferlite.InferenceSession(make_models.build("double"))
    memory = np.zeros((1, 4), np.float32)
    with pytest.raises(ValueError, match="output `y` cannot be overwritten: its array shares memory"):
        session.bind({"x": memory}, {"y": memoryview(memory)})


def test_what_is_read_through_a_copy_or_read_only_cannot_be_bound() -> None:
    session = inferlite.InferenceSession(make_models.build("double"))
    kind = type(TABLE)
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
        session.bind({"x": TABLE})
    assert str(refused.value) == (
        f"input `x` cannot be bound: {kind} can only be read through a copy, which later writes would not reach; pass "
        "an array of numpy's"
    )
    with pytest.raises(
        ValueError, match="output `y` cannot be overwritten: its array is read-only; pass a writable one"
    ):
        session.bind({"x": np.ones((1, 4), np.float32)}, {"y": FOUR})


def test_a_bytearray_cannot_be_resized_while_it_runs() -> None:
    session = inferlite.InferenceSession(make_models.identity("uint8"))
    memory = bytearray(b"abc")
    call = session.bind({"x": memory})
    with pytest.raises(BufferError):
        memory.append(1)
    assert call()[0].tobytes() == b"abc"


def test_a_maps_sequence_is_still_read_as_onnxruntime_reads_it() -> None:
    # What offers Arrow and iterates over dicts is a sequence of maps to onnxruntime.
    ours, theirs = oracle.pair("sequence")
    oracle.compare(ours, theirs, {"s": pl.Series([{"a": 1.0}])})


def test_many_threads_read_one_value() -> None:
    session = inferlite.InferenceSession(make_models.build("double"))
    value, wrong = pl.Series([[1, 2, 3, 4]], dtype=pl.Array(pl.Float32, 4)), []

    def run() -> None:
        for _ in range(50):
            answer = session.run(None, {"x": value})[0].tolist()
            wrong.extend([] if answer == EIGHT.tolist() else [answer])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# jax keeps threads, and warns of every fork in its process from then on.
def test_jax_runs_in_place_with_its_bfloat16_too(child_environment: dict[str, str]) -> None:
    code = """
    import jax.numpy as jnp, numpy as np, make_models, inferlite
    from inferlite import _exchange as exchange
    x = jnp.asarray([[1, 2, 3, 4]], jnp.float32)
    exchanged = exchange.array_of("x", x, RuntimeError)
    assert exchanged.array.ctypes.data == x.unsafe_buffer_pointer() and not exchanged.is_copy
    session = inferlite.InferenceSession(make_models.build("double"))
    assert session.run(None, {"x": x})[0].tolist() == [[2, 4, 6, 8]]
    with inferlite.load(make_models.build("double")) as model:
        assert model(x).tolist() == [[2, 4, 6, 8]]
        assert model(x=x + 1).tolist() == [[4, 6, 8, 10]]
    half = exchange.array_of("x", jnp.asarray([1, 2], jnp.bfloat16), RuntimeError)
    assert half.array.dtype.name == "bfloat16" and half.array.tolist() == [1, 2]
    """
    child.run(code, child_environment, warnings=True)


@pytest.mark.torch
def test_torch_runs_in_place() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert read(x).array.ctypes.data == x.data_ptr()
    session = inferlite.InferenceSession(make_models.build("double"))
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], EIGHT)
    assert "detach" in refusal(x.requires_grad_())


def test_other_formats_of_buffers_are_refused_by_their_dtype() -> None:
    ours, _ = oracle.pair("double")
    with pytest.raises(RuntimeError, match="input `x` has dtype int16, but the model expects float32"):
        ours.run(None, {"x": array.array("h", [1, 2])})
