"""Every kind of value in and out: tensors of each type, strings, sequences, maps and optionals, as onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import make_models
import numpy as np
import pytest

import cases
import oracle
from cases import f32

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = {"float": "float32", "double": "float64", "string": "object"}
NUMERIC = tuple(kind for kind in make_models.TENSOR_TYPES if kind != "string")


def extremes(kind: str) -> np.ndarray:
    """Values of a type that a careless conversion would change."""
    dtype = np.dtype(DTYPES.get(kind, kind))
    if dtype.kind == "b":
        return np.array([[True, False, True]])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([[limits.min, limits.max, 1]], dtype)
    limits = np.finfo(dtype)
    values = [-0.0, np.nan, np.inf, -np.inf, limits.max, limits.tiny, limits.smallest_subnormal]
    return np.array([values], dtype)


@pytest.mark.parametrize("kind", NUMERIC)
def test_tensors_of_a_type_keep_every_bit(kind: str) -> None:
    ours, theirs = oracle.pair(make_models.identity(kind))
    oracle.compare(ours, theirs, {"x": extremes(kind)})


@pytest.mark.parametrize("kind", make_models.TENSOR_TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (0, 0), (2, 3, 4), (1,) * 12])
def test_shapes_of_a_type_survive(kind: str, shape: tuple[int, ...]) -> None:
    ours, theirs = oracle.pair(make_models.identity(kind))
    given = oracle.compare(ours, theirs, {"x": np.ones(shape, DTYPES.get(kind, kind))})
    assert given.value[0].shape == shape


@pytest.mark.parametrize("bits", [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000001])
def test_payloads_of_nan_and_subnormals_pass_through(bits: int) -> None:
    ours, theirs = oracle.pair(make_models.identity("float"))
    given = oracle.compare(ours, theirs, {"x": np.array([bits], np.uint32).view(np.float32)})
    assert given.value[0].view(np.uint32)[0] == bits


@pytest.mark.parametrize("size", [3, 3000])
@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_integers_of_64_bits_are_the_one_of_numpys_two_types_that_onnxruntime_gives(kind: str, size: int) -> None:
    ours, theirs = oracle.pair(make_models.identity(kind))
    feed = {"x": np.arange(size, dtype=kind)}
    assert ours.run(None, feed)[0].dtype.char == theirs.run(None, feed)[0].dtype.char


@pytest.mark.parametrize("byte", [0, 1, 2, 255])
def test_bool_arrays_with_odd_bytes(byte: int) -> None:
    ours, theirs = oracle.pair(make_models.identity("bool"))
    oracle.compare(ours, theirs, {"x": np.array([byte, 0, 1], np.uint8).view(np.bool_)})


@pytest.mark.parametrize("case", cases.VALUES.values(), ids=cases.VALUES)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_values_end_as_onnxruntime(case: cases.Case) -> None:
    ours, theirs = oracle.pair(case.model)
    oracle.compare(ours, theirs, case.feed(), case.outputs())


class _Unspeakable:
    """Its text cannot be had: `str()` raises what it was made with, or meets something that is no text."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __str__(self) -> str:
        if self.error is None:
            return None  # type: ignore[return-value]  # noqa: PLE0307 - no text is the point
        raise self.error


@oracle.proves("objects whose `str()` raises, as strings")
@pytest.mark.parametrize("wrap", [lambda item: np.array(["a", item], object), lambda item: ["a", item]])
def test_objects_that_fail_to_become_text_raise_their_own_exception(wrap: Callable[[object], object]) -> None:
    ours, _ = oracle.pair("strings")
    with pytest.raises(LookupError, match=r"^not today$"):
        ours.run(None, {"x": wrap(_Unspeakable(LookupError("not today")))})
    with pytest.raises(TypeError, match="__str__ returned non-string"):
        ours.run(None, {"x": wrap(_Unspeakable(None))})


class _Unrepresentable:
    def __repr__(self) -> str:
        message = "not today"
        raise LookupError(message)

    def __str__(self) -> str:
        return "text"


def test_lists_among_the_strings_that_fail_to_become_text_do_so_too() -> None:
    ours, _ = oracle.pair("strings")
    deep: list[object] = ["a"]
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(RecursionError):
        ours.run(None, {"x": deep})
    # The rows of a ragged list are its items, and the text of a list has those of `repr`.
    for value in ([["a", _Unrepresentable()], ["b"]], np.array([["a", _Unrepresentable()], ["b"]], object)):
        with pytest.raises(LookupError, match=r"^not today$"):
            ours.run(None, {"x": value})


def test_objects_for_an_input_of_numbers_are_not_fatal_either() -> None:
    ours, _ = oracle.pair("identity")
    with pytest.raises(LookupError, match=r"^not today$"):
        ours.run(None, {"x": np.array([[_Unspeakable(LookupError("not today"))] * 3], object)})
    ours, _ = oracle.pair("sequence_strings")
    with pytest.raises(LookupError, match=r"^not today$"):
        ours.run(None, {"s": [np.array([_Unspeakable(LookupError("not today"))], object)]})


def test_strings_in_two_dimensions_keep_their_places() -> None:
    ours, theirs = oracle.pair(make_models.identity("string"))
    value = np.array([["a", "b", "c"], ["d", "e", "f"]], object)
    for array in (value, value.T, np.asfortranarray(value), value.astype("U1").T):
        given = oracle.compare(ours, theirs, {"x": array})
        assert given.value[0].tolist() == array.tolist()


@oracle.proves("bytes arrays (dtype `S`) as string tensors")
@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([b"ab", b"cd"]), ["ab", "cd"]),
        (np.array([b"a", b"longer"]), ["a", "longer"]),
        (np.array([b"a\0b", b"c"]), ["a\0b", "c"]),
        (np.array(["é".encode(), b"x"]), ["é", "x"]),
        (np.array([b"a", b"b", b"c", b"d"])[::-2], ["d", "b"]),
        (np.array([], "S3"), []),
        (np.array([b"", b""], "S1"), ["", ""]),
    ],
)
def test_bytes_arrays_give_exactly_their_items(array: np.ndarray, wanted: list[str]) -> None:
    ours, _ = oracle.pair("strings")
    (given,) = ours.run(None, {"x": array})
    assert given.dtype == object
    assert given.tolist() == wanted


def test_bytes_that_are_not_text_are_refused() -> None:
    ours, _ = oracle.pair("strings")
    with pytest.raises(UnicodeDecodeError, match="'utf-8' codec can't decode byte 0xff in position 1"):
        ours.run(None, {"x": np.array([b"a\xff"])})


@oracle.proves("arrays of another byte order (`>f4`)")
@pytest.mark.parametrize("kind", [kind for kind in NUMERIC if kind not in ("bool", "int8", "uint8")])
def test_arrays_of_another_byte_order_are_swapped(kind: str) -> None:
    value = extremes(kind)
    swapped = value.astype(value.dtype.newbyteorder())
    ours, _ = oracle.pair(make_models.identity(kind))
    for array in (swapped, swapped.T, swapped[:, ::-1]):
        (given,) = ours.run(None, {"x": array})
        oracle.assert_same_value(given, np.ascontiguousarray(array.astype(value.dtype)))


def test_strings_of_another_byte_order_are_swapped() -> None:
    ours, _ = oracle.pair("strings")
    (given,) = ours.run(None, {"x": np.array(["ab", "日本", ""], ">U2")})
    assert given.tolist() == ["ab", "日本", ""]


def test_a_sequence_of_another_byte_order_is_swapped() -> None:
    ours, _ = oracle.pair("sequence")
    (given,) = ours.run(None, {"s": [np.array([1.0, 2.0], ">f4")]})
    oracle.assert_same_value(given, [f32(1.0, 2.0)])


def test_an_array_of_another_byte_order_and_type_is_refused_by_its_type() -> None:
    ours, theirs = oracle.pair("identity")
    wanted = oracle.outcome(lambda: theirs.run(None, {"x": np.ones((1, 3))}))
    given = oracle.outcome(lambda: ours.run(None, {"x": np.ones((1, 3), ">f8")}))
    oracle.assert_same_outcome(given, wanted)


@pytest.mark.parametrize("kind", NUMERIC)
def test_sequences_of_each_type(kind: str) -> None:
    model = make_models.sequence_identity(kind)
    theirs = oracle.outcome(lambda: oracle.reference(model))
    if theirs.error is not None:
        oracle.assert_same_outcome(oracle.outcome(lambda: oracle.pair(model)), theirs)
        return
    ours, theirs = oracle.pair(model)
    oracle.compare(ours, theirs, {"s": [extremes(kind), extremes(kind)[:, :1]]})
    oracle.compare(ours, theirs, {"s": []})


@pytest.mark.parametrize(
    "value",
    [
        [np.array(["a", "bé"])],
        [np.array(["a\0b"], object), np.array([], object)],
        [],
        [["a"]],
        ["a"],
        [np.ones(1, np.float32)],
    ],
    ids=repr,
)
def test_sequences_of_strings_end_as_onnxruntime(value: object) -> None:
    ours, theirs = oracle.pair("sequence_strings")
    oracle.compare(ours, theirs, {"s": value})


def test_sequences_made_and_measured_by_the_graph() -> None:
    oracle.compare(*oracle.pair("sequence_make"), {"a": f32(1), "b": f32(1, 2, 3)})
    oracle.compare(*oracle.pair("sequence_empty"), {"x": f32(1)})
    for length in (0, 1, 5):
        oracle.compare(*oracle.pair("sequence_length"), {"s": [f32(1)] * length})


@pytest.mark.parametrize("name", ["zipmap", "zipmap_strings"])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_lists_of_maps_come_out_as_onnxruntime(name: str, rows: int) -> None:
    ours, theirs = oracle.pair(name)
    x = np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)
    given = oracle.compare(ours, theirs, {"x": x})
    assert isinstance(given.value[1], list)
    assert len(given.value[1]) == rows


def test_an_absent_optional_output_is_none() -> None:
    ours, _ = oracle.pair("optional_absent")
    absent, present = ours.run(None, {"x": f32(1)})
    assert absent is None
    assert present.tolist() == [-1.0]


@oracle.proves("a sequence with a tensor of another type")
def test_a_sequence_with_a_tensor_of_another_type_names_both(backend: str) -> None:
    ours, theirs = oracle.pair("sequence")
    given = oracle.compare(ours, theirs, {"s": [np.ones(2, np.float64)]})
    if backend == "native":
        assert str(given.error) == "input `s` is a sequence of float32, and a tensor of float64 is in it"
