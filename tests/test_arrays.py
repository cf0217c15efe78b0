"""Random arrays against the judge: dtypes, shapes, strides (negative and zero too), orders, subclasses, alignment."""

from __future__ import annotations

from functools import cache
from typing import Any

import make_models
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import oracle

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = (
    np.float16,
    np.float32,
    np.float64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.bool_,
)
TYPE_NAMES = {"float32": "float", "float64": "double"}
SHAPES = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)


class _Subclass(np.ndarray):
    pass


CLASSES = (np.ndarray, _Subclass, np.memmap, np.ma.MaskedArray)


@cache
def _pair(backend: str, kind: str) -> tuple[Any, Any]:
    assert backend in ("native", "python")
    return oracle.pair(make_models.identity(kind))


def _kind(dtype: np.dtype) -> str:
    return TYPE_NAMES.get(dtype.name, dtype.name)


@st.composite
def laid_out(draw: st.DrawFn) -> np.ndarray:
    """An array of any dtype whose memory is laid out in any way that numpy can express."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(SHAPES)
    rank = len(shape)
    steps = draw(st.lists(st.sampled_from((1, 1, 2, 3, -1, -2)), min_size=rank, max_size=rank))
    wide = tuple(side * abs(step) for side, step in zip(shape, steps, strict=True))
    raw = draw(st.binary(min_size=64, max_size=64))
    offset = draw(st.sampled_from((0, 0, 1, 3)))
    count = int(np.prod(wide, dtype=np.int64))
    pool = (raw * (count * dtype.itemsize // len(raw) + 2))[: count * dtype.itemsize + offset]
    buffer = np.frombuffer(pool, np.uint8).copy()[offset:]
    value = (buffer % 2).view(np.bool_)[:count] if dtype.kind == "b" else buffer.view(dtype)[:count]
    value = value.reshape(wide)[(..., *(slice(None, None, step) for step in steps))]
    assert value.shape == shape
    if rank:
        value = value.transpose(draw(st.permutations(range(rank))))
        if draw(st.booleans()):
            value = np.broadcast_to(value[:1], value.shape) if value.shape[0] else value
    kind = draw(st.sampled_from(CLASSES))
    value = value.view(kind)
    if draw(st.booleans()):
        value.flags.writeable = False
    return value


@given(value=laid_out())
def test_any_layout_gives_its_values_in_c_order(backend: str, value: np.ndarray) -> None:
    ours, theirs = _pair(backend, _kind(value.dtype))
    before = value.tobytes()
    outcome = oracle.compare(ours, theirs, {"x": value})
    (result,) = outcome.value
    assert result.tobytes() == np.ascontiguousarray(np.asarray(value)).tobytes()
    assert result.shape == value.shape
    assert value.tobytes() == before


@given(value=laid_out(), declared=st.sampled_from(DTYPES))
def test_any_dtype_is_taken_or_refused_as_onnxruntime_does(backend: str, value: np.ndarray, declared: type) -> None:
    ours, theirs = _pair(backend, _kind(np.dtype(declared)))
    oracle.compare(ours, theirs, {"x": value})


@cache
def _shaped_pair(backend: str, shape: str) -> tuple[Any, Any]:
    assert backend in ("native", "python")
    return oracle.pair(make_models.identity("float", shape))


@given(
    value=laid_out(), shape=st.sampled_from(("", "[]", "[n]", "[3]", "[n,2]", "[?,?]", "[2,n,n]", "[0,n]", "[1,2,3,4]"))
)
def test_any_shape_is_taken_or_refused_as_onnxruntime_does(backend: str, value: np.ndarray, shape: str) -> None:
    ours, theirs = _shaped_pair(backend, shape)
    with np.errstate(all="ignore"):
        value = value.astype(np.float32)
    oracle.compare(ours, theirs, {"x": value})


@given(value=laid_out().filter(lambda value: value.dtype.itemsize > 1))
def test_another_byte_order_changes_nothing(backend: str, value: np.ndarray) -> None:
    ours, theirs = _pair(backend, _kind(value.dtype))
    native = np.array(value, subok=False, order="K")
    swapped = native.copy(order="K")
    swapped.byteswap(inplace=True)
    swapped = swapped.view(native.dtype.newbyteorder())
    wanted = oracle.outcome(lambda: theirs.run(None, {"x": native}))
    given_outcome = oracle.outcome(lambda: ours.run(None, {"x": swapped}))
    oracle.assert_same_outcome(given_outcome, wanted)


TEXT = st.text(max_size=8)


@given(
    value=arrays.arrays(
        object, arrays.array_shapes(max_dims=3, max_side=4, min_side=0), elements=TEXT, fill=st.nothing()
    ),
    form=st.sampled_from(("object", "fixed", "list", "transposed", "strided")),
)
def test_any_text_passes_as_onnxruntime_lets_it(backend: str, value: np.ndarray, form: str) -> None:
    feeds: dict[str, Any] = {
        "object": value,
        "fixed": value.astype("U8"),
        "list": value.tolist(),
        "transposed": value.T,
        "strided": value[::-1],
    }
    ours, theirs = _pair(backend, "string")
    oracle.compare(ours, theirs, {"x": feeds[form]})


@given(value=arrays.arrays("S6", arrays.array_shapes(max_dims=3, max_side=4, min_side=0)))
def test_any_bytes_give_their_items_or_the_decoders_exception(backend: str, value: np.ndarray) -> None:
    ours, _ = _pair(backend, "string")
    ended = oracle.outcome(lambda: ours.run(None, {"x": value}))
    wanted = oracle.outcome(lambda: [item.decode() for item in value.ravel().tolist()])
    if wanted.error is not None:
        assert type(ended.error) is UnicodeDecodeError
        return
    assert ended.value[0].ravel().tolist() == wanted.value
    assert ended.value[0].shape == value.shape


NESTED = st.recursive(
    st.one_of(st.floats(width=32), st.integers(-(2**70), 2**70), st.booleans(), st.none(), st.text(max_size=2)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(value=st.lists(NESTED, max_size=4), kind=st.sampled_from(("float", "double", "int64", "int8", "bool", "string")))
def test_any_list_is_taken_or_refused_as_onnxruntime_does(backend: str, value: list[Any], kind: str) -> None:
    ours, theirs = _pair(backend, kind)
    oracle.compare(ours, theirs, {"x": value})


@cache
def _map_pair(backend: str, key: str) -> tuple[Any, Any]:
    assert backend in ("native", "python")
    return oracle.pair(make_models.map_input(key))


KEYS = st.one_of(st.text(max_size=2), st.integers(-3, 3), st.floats(), st.booleans(), st.none(), st.binary(max_size=1))
NUMBERS = st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.booleans(), st.text(max_size=1), st.none())


@given(
    value=st.one_of(
        st.dictionaries(KEYS, NUMBERS, max_size=3),
        st.dictionaries(st.sampled_from("abcd"), st.floats(width=32), max_size=4),
        st.dictionaries(st.integers(0, 4), st.floats(width=32), max_size=4),
    ),
    key=st.sampled_from(("string", "int64")),
)
def test_any_map_is_taken_or_refused_as_onnxruntime_does(backend: str, value: dict[Any, Any], key: str) -> None:
    ours, theirs = _map_pair(backend, key)
    oracle.compare(ours, theirs, {"m": value})


@cache
def _sequence_pair(backend: str, kind: str) -> tuple[Any, Any]:
    assert backend in ("native", "python")
    return oracle.pair(make_models.sequence_identity(kind))


@given(
    value=st.lists(st.one_of(laid_out(), NESTED), max_size=3),
    same=st.booleans(),
    kind=st.sampled_from(("float", "int64")),
)
def test_any_sequence_is_taken_or_refused_as_onnxruntime_does(
    backend: str, value: list[Any], same: bool, kind: str
) -> None:
    if same:
        dtype = np.float32 if kind == "float" else np.int64
        with np.errstate(all="ignore"):
            value = [item.astype(dtype) for item in value if isinstance(item, np.ndarray)]
    ours, theirs = _sequence_pair(backend, kind)
    oracle.compare(ours, theirs, {"s": value})
