"""Feeds that every back end must answer as onnxruntime does; the memory tests repeat each of them many times."""

from __future__ import annotations

import array
import collections
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Case:
    """One call of `run`.

    Attributes:
        model: The name of a model of make_models, or a model's bytes.
        feed: Makes the feed anew, so that iterators and self-references are fresh.
        outputs: Makes the first argument of `run`.
    """

    model: str | bytes
    feed: Callable[[], Any]
    outputs: Callable[[], Any] = lambda: None


def f32(*values: float) -> np.ndarray:
    """A float32 vector."""
    return np.array(values, np.float32)


STRINGS = {
    "ascii": Case("strings", lambda: {"x": np.array(["a", "longer than a small string can hold"])}),
    "unicode": Case("strings", lambda: {"x": np.array(["bé", "日本", "🙂", ""])}),
    "objects": Case("strings", lambda: {"x": np.array(["a", b"x", None, 1, 1.5, ("t",)], object)}),
    "list": Case("strings", lambda: {"x": ["a", "b"]}),
    "mixed list": Case("strings", lambda: {"x": ["a", 1, None, b"x"]}),
    "NUL inside a fixed width item": Case("strings", lambda: {"x": np.array(["a\0b", "c"])}),
    "NUL inside an object": Case("strings", lambda: {"x": np.array(["a\0b", "\0", ""], object)}),
    "NUL in a list": Case("strings", lambda: {"x": ["a\0b"]}),
    "void": Case("strings", lambda: {"x": np.array([b"a\0b", b"cde"], "V3")}),
    "no items": Case("strings", lambda: {"x": np.array([], object)}),
    "no items, fixed width": Case("strings", lambda: {"x": np.array([], "U4")}),
    "empty list": Case("strings", lambda: {"x": []}),
    "width zero": Case("strings", lambda: {"x": np.array(["", ""], "U0")}),
    "strided": Case("strings", lambda: {"x": np.array(["a", "bb", "ccc", "dddd"])[::-2]}),
    "strided objects": Case("strings", lambda: {"x": np.array(["a", "bb", "ccc", "dddd"], object)[::-2]}),
    "lone surrogate": Case("strings", lambda: {"x": np.array(["\ud800"])}),
    "lone surrogate in an object": Case("strings", lambda: {"x": np.array(["ok", "\udfff"], object)}),
    "lone surrogate in a list": Case("strings", lambda: {"x": ["\ud800"]}),
    "new string dtype": Case("strings", lambda: {"x": np.array(["a", "b"], np.dtypes.StringDType())}),
    "numbers": Case("strings", lambda: {"x": f32(1.5)}),
    "nested list": Case("strings", lambda: {"x": [["a"]]}),
    "scalar array": Case("strings", lambda: {"x": np.array("a")}),
}

LISTS = {
    "floats": Case(make_models.identity("float"), lambda: {"x": [1.0, 2.5]}),
    "nested": Case(make_models.identity("float"), lambda: {"x": [[1, 2, 3], [4, 5, 6]]}),
    "integers become the model's type": Case(make_models.identity("float"), lambda: {"x": [2**70, 1]}),
    "floats are cut to integers": Case(make_models.identity("int64"), lambda: {"x": [1.5, -1.5]}),
    "too large for the type": Case(make_models.identity("int8"), lambda: {"x": [300]}),
    "negative for unsigned": Case(make_models.identity("uint8"), lambda: {"x": [-1]}),
    "bools": Case(make_models.identity("bool"), lambda: {"x": [True, 2, 0]}),
    "None becomes nan": Case(make_models.identity("float"), lambda: {"x": [None, 1.0]}),
    "ragged": Case(make_models.identity("float"), lambda: {"x": [[1.0], [1.0, 2.0]]}),
    "text for numbers": Case(make_models.identity("float"), lambda: {"x": ["a"]}),
    "complex": Case(make_models.identity("float"), lambda: {"x": [1j]}),
    "arrays": Case(make_models.identity("float"), lambda: {"x": [np.ones(3, np.float32), np.zeros(3, np.float32)]}),
    "arrays of another type": Case(make_models.identity("float"), lambda: {"x": [np.ones(3), np.zeros(3)]}),
    "empty": Case(make_models.identity("float"), lambda: {"x": []}),
    "empty rows": Case(make_models.identity("float"), lambda: {"x": [[], []]}),
    "numpy scalars": Case(make_models.identity("float"), lambda: {"x": [np.float64(1.5), np.int8(2)]}),
    "half": Case(make_models.identity("float16"), lambda: {"x": [1.5, 65504.0]}),
    "half, too large": Case(make_models.identity("float16"), lambda: {"x": [70000.0]}),
}

SEQUENCES = {
    "different shapes": Case("sequence", lambda: {"s": [f32(1, 2), np.zeros((1, 2), np.float32)]}),
    "empty": Case("sequence", lambda: {"s": []}),
    "scalar item": Case("sequence", lambda: {"s": [np.array(1, np.float32)]}),
    "item without elements": Case("sequence", lambda: {"s": [np.ones((0, 2), np.float32)]}),
    "transposed item": Case("sequence", lambda: {"s": [np.arange(6, dtype=np.float32).reshape(2, 3).T]}),
    "many": Case("sequence", lambda: {"s": [f32(i) for i in range(40)]}),
    "tuple": Case("sequence", lambda: {"s": (f32(1),)}),
    "floats": Case("sequence", lambda: {"s": [1.0, 2.0]}),
    "lists": Case("sequence", lambda: {"s": [[1.0]]}),
    "None inside": Case("sequence", lambda: {"s": [None]}),
    "another type": Case("sequence", lambda: {"s": [np.ones(2)]}),
    "mixed types": Case("sequence", lambda: {"s": [f32(1), np.ones(2)]}),
    "strings": Case("sequence", lambda: {"s": [np.array(["a"])]}),
    "array": Case("sequence", lambda: {"s": f32(1, 2)}),
    "map": Case("sequence", lambda: {"s": {"a": 1.0}}),
    "None": Case("sequence", lambda: {"s": None}),
    "text": Case("sequence", lambda: {"s": "abc"}),
    "number": Case("sequence", lambda: {"s": 5}),
}

MAPS = {
    "hit": Case(make_models.map_input("string"), lambda: {"m": {"a": 1.5, "c": -2.0}}),
    "miss": Case(make_models.map_input("string"), lambda: {"m": {"z": 1.0}}),
    "empty": Case(make_models.map_input("string"), lambda: {"m": {}}),
    "integer values": Case(make_models.map_input("string"), lambda: {"m": {"a": 1}}),
    "large integer value": Case(make_models.map_input("string"), lambda: {"m": {"a": 2**70}}),
    "bool value": Case(make_models.map_input("string"), lambda: {"m": {"a": True}}),
    "numpy value": Case(make_models.map_input("string"), lambda: {"m": {"a": np.float32(2)}}),
    "array value": Case(make_models.map_input("string"), lambda: {"m": {"a": f32(1)}}),
    "text value": Case(make_models.map_input("string"), lambda: {"m": {"a": "b"}}),
    "None value": Case(make_models.map_input("string"), lambda: {"m": {"a": None}}),
    "integer key for text": Case(make_models.map_input("string"), lambda: {"m": {1: 1.0}}),
    "later integer key": Case(make_models.map_input("string"), lambda: {"m": {"a": 1.0, 2: 1.0}}),
    "bytes key": Case(make_models.map_input("string"), lambda: {"m": {b"a": 1.0}}),
    "key with NUL": Case(make_models.map_input("string"), lambda: {"m": {"a\0b": 1.0, "a": 2.0}}),
    "key with a lone surrogate": Case(make_models.map_input("string"), lambda: {"m": {"\ud800": 1.0}}),
    "array instead": Case(make_models.map_input("string"), lambda: {"m": f32(1)}),
    "None instead": Case(make_models.map_input("string"), lambda: {"m": None}),
    "list of maps": Case(make_models.map_input("string"), lambda: {"m": [{"a": 1.0}]}),
    "integers": Case(make_models.map_input("int64"), lambda: {"m": {1: 1.0, 3: 2.0}}),
    "text key for integers": Case(make_models.map_input("int64"), lambda: {"m": {"a": 1.0}}),
    "later text key": Case(make_models.map_input("int64"), lambda: {"m": {1: 1.0, "a": 2.0}}),
    "too large a key": Case(make_models.map_input("int64"), lambda: {"m": {2**70: 1.0}}),
    "bool key": Case(make_models.map_input("int64"), lambda: {"m": {True: 1.0}}),
    "float key": Case(make_models.map_input("int64"), lambda: {"m": {1.5: 1.0}}),
    "numpy key": Case(make_models.map_input("int64"), lambda: {"m": {np.int64(2): 1.0}}),
}

OPTIONALS = {
    "array": Case("optional_input", lambda: {"o": f32(1, 2)}),
    "None": Case("optional_input", lambda: {"o": None}),
    "absent": Case("optional_input", dict),
    "list": Case("optional_input", lambda: {"o": [1.0]}),
    "sequence for a tensor": Case("optional_input", lambda: {"o": [f32(1)]}),
    "map": Case("optional_input", lambda: {"o": {"a": 1.0}}),
    "number": Case("optional_input", lambda: {"o": 5}),
    "another type": Case("optional_input", lambda: {"o": np.ones(2)}),
    "sequence": Case("optional_sequence", lambda: {"o": [f32(1), f32(2, 3)]}),
    "empty sequence": Case("optional_sequence", lambda: {"o": []}),
    "no sequence": Case("optional_sequence", lambda: {"o": None}),
    "absent sequence": Case("optional_sequence", dict),
    "tensor for a sequence": Case("optional_sequence", lambda: {"o": f32(1)}),
    "output": Case("optional_output", lambda: {"x": f32(1, 2)}),
    "absent output": Case("optional_absent", lambda: {"x": f32(1, 2)}),
}

VALUES = {
    f"{kind}, {name}": case
    for kind, table in {
        "strings": STRINGS,
        "list": LISTS,
        "sequence": SEQUENCES,
        "map": MAPS,
        "optional": OPTIONALS,
    }.items()
    for name, case in table.items()
}


def ones(*shape: int) -> np.ndarray:
    """A float32 array of ones."""
    return np.ones(shape, np.float32)


def _endless_list() -> list[Any]:
    items: list[Any] = [1.0]
    items.append(items)
    return items


def _deep_list(depth: int) -> list[Any]:
    items: list[Any] = []
    for _ in range(depth):
        items = [items]
    return items


class _ArrayLike:
    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return ones(1, 3)


class _KeysOnly:
    def keys(self) -> list[str]:
        return ["x"]


class _BrokenMapping(collections.UserDict):
    def __getitem__(self, key: object) -> object:
        message = "broken"
        raise LookupError(message)


def _x(value: Callable[[], Any]) -> Case:
    return Case("identity", lambda: {"x": value()})


def _names(outputs: Callable[[], Any]) -> Case:
    return Case("identity", lambda: {"x": ones(1, 3)}, outputs)


def _feed(feed: Callable[[], Any]) -> Case:
    return Case("identity", feed)


TENSORS = {
    "rank too small": _x(lambda: ones(3)),
    "rank too large": _x(lambda: ones(1, 1, 3)),
    "scalar for rank two": _x(ones),
    "wrong dim": _x(lambda: ones(1, 4)),
    "two wrong dims": Case("fixed", lambda: {"x": ones(2, 5)}),
    "zero for a fixed dim": _x(lambda: ones(1, 0)),
    "zero rows": _x(lambda: ones(0, 3)),
    "zero rows of 2**60 columns": Case("unknown_rank", lambda: {"x": ones(0, 2**60)}),
    "one element for a scalar": Case("scalar", lambda: {"x": ones(1)}),
    "matrix for a scalar": Case("scalar", lambda: {"x": ones(2, 2)}),
    "float64": _x(lambda: np.ones((1, 3))),
    "float64 of wrong rank": _x(lambda: np.ones(3)),
    "int32 for int64": Case(make_models.identity("int64"), lambda: {"x": np.ones(2, np.int32)}),
    "uint8 for bool": Case(make_models.identity("bool"), lambda: {"x": np.ones(2, np.uint8)}),
    "bool for uint8": Case(make_models.identity("uint8"), lambda: {"x": np.ones(2, np.bool_)}),
    "longlong": Case(make_models.identity("int64"), lambda: {"x": np.ones(2, np.longlong)}),
    "ulonglong": Case(make_models.identity("uint64"), lambda: {"x": np.ones(2, np.ulonglong)}),
    "complex": _x(lambda: np.ones((1, 3), np.complex64)),
    "complex128": _x(lambda: np.ones((1, 3), np.complex128)),
    "longdouble": _x(lambda: np.ones((1, 3), np.longdouble)),
    "datetime": _x(lambda: np.zeros((1, 3), "M8[s]")),
    "timedelta": _x(lambda: np.zeros((1, 3), "m8[s]")),
    "strings": _x(lambda: np.array([["a", "b", "c"]])),
    "bytes": _x(lambda: np.array([["a", "b", "c"]], "S4")),
    "string dtype": _x(lambda: np.array([["a", "b", "c"]], np.dtypes.StringDType())),
    "void": _x(lambda: np.zeros((1, 3), "V4")),
    "structured": _x(lambda: np.zeros((1, 3), [("a", "f4"), ("b", "i8")])),
    "objects": _x(lambda: np.array([[1.0, 2.0, 3.0]], object)),
    "objects of any kind": _x(lambda: np.array([[None, "a", {}]], object)),
    "objects without text in UTF-8": _x(lambda: np.array([["\ud800", "b", "c"]], object)),
    "record array": _x(lambda: ones(1, 3).view(np.recarray)),
    "numpy scalar": _x(lambda: np.float32(1)),
    "float": _x(lambda: 1.5),
    "int": _x(lambda: 1),
    "bool": _x(lambda: True),
    "bytes object": _x(lambda: b"abc"),
    "bytearray": _x(lambda: bytearray(b"abc")),
    "object with __array__": _x(_ArrayLike),
    "tuple": _x(lambda: (1.0, 2.0)),
    "text": _x(lambda: "abc"),
    "set": _x(lambda: {1.0}),
    "frozenset": _x(lambda: frozenset({1.0})),
    "range": _x(lambda: range(3)),
    "generator": _x(lambda: (value for value in [1.0])),
    "None": _x(lambda: None),
    "class": _x(lambda: int),
    "function": _x(lambda: ones),
    "map": _x(lambda: {"a": 1.0}),
    "empty map": _x(dict),
    "list of another rank": _x(lambda: [1.0, 2.0, 3.0]),
    "ragged list": _x(lambda: [[1.0, 2.0, 3.0], [1.0]]),
    "list in itself": _x(_endless_list),
    "list of depth 60": _x(lambda: _deep_list(60)),
    "list of depth 100": _x(lambda: _deep_list(100)),
    "list of text": _x(lambda: [["a", "b", "c"]]),
    "list of objects": _x(lambda: [[object(), object(), object()]]),
    "list of maps": _x(lambda: [{"a": 1.0}]),
    "list of None": _x(lambda: [None, None]),
    "32 axes": Case("unknown_rank", lambda: {"x": ones(*[1] * 32)}),
    "64 axes": Case("unknown_rank", lambda: {"x": ones(*[1] * 64)}),
}

NAMES = {
    "unknown output": _names(lambda: ["zzz"]),
    "one unknown output of two": _names(lambda: ["y", "zzz"]),
    "input named as output": _names(lambda: ["x"]),
    "output twice": _names(lambda: ["y", "y"]),
    "output three times": Case("two_outputs", lambda: {"x": f32(1, -1)}, lambda: ["small", "negative", "small"]),
    "names as tuple": _names(lambda: ("y",)),
    "names as set": _names(lambda: {"y"}),
    "names as frozenset": _names(lambda: frozenset({"y"})),
    "names as dict": _names(lambda: {"y": 1}),
    "names as dict's keys": _names({"y": 1}.keys),
    "names as deque": _names(lambda: collections.deque(["y"])),
    "names as iterator": _names(lambda: iter(["y"])),
    "names as array": _names(lambda: np.array(["y"])),
    "names as objects": _names(lambda: np.array(["y"], object)),
    "names as bytes": _names(lambda: [b"y"]),
    "names as one text": _names(lambda: "y"),
    "names as one bytes": _names(lambda: b"y"),
    "name with NUL": _names(lambda: ["y\0"]),
    "name with a lone surrogate": _names(lambda: ["\ud800"]),
    "empty name": _names(lambda: [""]),
    "number in names": _names(lambda: [1]),
    "None in names": _names(lambda: [None]),
    "number for names": _names(lambda: 5),
    "object for names": _names(object),
    "zero for names": _names(lambda: 0),
    "false for names": _names(lambda: False),
    "true for names": _names(lambda: True),
    "empty text for names": _names(lambda: ""),
    "no names": _names(list),
    "no names, tuple": _names(tuple),
    "a range for names": _names(lambda: range(1)),
}

FEEDS = {
    "nothing": _feed(dict),
    "one of two missing": Case("add", lambda: {"b": ones(1, 4)}),
    "all of eight missing": Case("eight_inputs", dict),
    "another name": _feed(lambda: {"q": ones(1, 3)}),
    "name of another case": _feed(lambda: {"X": ones(1, 3)}),
    "unknown input beside": _feed(lambda: {"x": ones(1, 3), "q": ones(1, 3)}),
    "unknown input first": _feed(lambda: {"q": ones(1, 3), "x": ones(1, 3)}),
    "unknown input of a strange kind": _feed(lambda: {"x": ones(1, 3), "q": 1}),
    "output's name as input": _feed(lambda: {"x": ones(1, 3), "y": ones(1, 3)}),
    "name with NUL beside": _feed(lambda: {"x": ones(1, 3), "x\0": ones(1, 3)}),
    "empty name beside": _feed(lambda: {"x": ones(1, 3), "": ones(1, 3)}),
    "lone surrogate beside": _feed(lambda: {"x": ones(1, 3), "\ud800": ones(1, 3)}),
    "long name beside": _feed(lambda: {"x": ones(1, 3), "q" * 10_000: ones(1, 3)}),
    "number as name": _feed(lambda: {1: ones(1, 3)}),
    "number as name beside": _feed(lambda: {"x": ones(1, 3), 1: ones(1, 3)}),
    "bytes as name": _feed(lambda: {b"x": ones(1, 3)}),
    "bytes as name beside": _feed(lambda: {"x": ones(1, 3), b"q": ones(1, 3)}),
    "None as name": _feed(lambda: {"x": ones(1, 3), None: ones(1, 3)}),
    "list": _feed(list),
    "list of pairs": _feed(lambda: [("x", ones(1, 3))]),
    "None": _feed(lambda: None),
    "array": _feed(lambda: ones(1, 3)),
    "number": _feed(lambda: 5),
    "text": _feed(lambda: "x"),
    "mapping proxy": _feed(lambda: types.MappingProxyType({"x": ones(1, 3)})),
    "ordered dict": _feed(lambda: collections.OrderedDict(x=ones(1, 3))),
    "user dict": _feed(lambda: collections.UserDict(x=ones(1, 3))),
    "default dict": _feed(lambda: collections.defaultdict(list, x=ones(1, 3))),
    "chain map": _feed(lambda: collections.ChainMap({"x": ones(1, 3)}, {})),
    "keys without items": _feed(_KeysOnly),
    "mapping that raises": _feed(lambda: _BrokenMapping(x=ones(1, 3))),
    "missing input and unknown output": _names(lambda: ["zzz"]),
    "default input of another type": Case("default_input", lambda: {"x": ones(2), "w": np.ones(2)}),
    "default input of another shape": Case("default_input", lambda: {"x": ones(2), "w": ones(3)}),
    "default input given": Case("default_input", lambda: {"x": ones(2), "w": f32(3, 4)}),
    "default input alone": Case("default_input", lambda: {"w": f32(3, 4)}),
    "initializer that is an output": Case("constant", lambda: {"x": ones(2), "w": f32(3, 4)}),
}


def _shaped(model: str, *shape: int) -> Case:
    return Case(model, lambda: {"x": ones(1), "shape": np.array(shape, np.int64)})


NODES = {
    "node fails": Case("failing", lambda: {"a": ones(2, 3), "b": ones(2, 3)}),
    "negative dim": _shaped("expand", -3, 2),
    "zero dim": _shaped("expand", 0, 2),
    "product overflows": _shaped("expand", 2**62, 2**62),
    "product overflows to zero": _shaped("expand", 2**32, 2**32),
    "bytes overflow": _shaped("expand", 2**61, 2),
    "more than there is": _shaped("expand", 2**40, 2**10),
    "reshape to another size": _shaped("reshape", 3),
    "reshape to a negative dim": _shaped("reshape", -7, 1),
    "reshape to two unknown dims": _shaped("reshape", -1, -1),
    "reshape whose product overflows": _shaped("reshape", 2**62, 4),
    "declared rank is a lie": Case("lying", lambda: {"x": ones(2, 2)}),
}

EXCHANGED = {
    "memoryview": _x(lambda: memoryview(ones(1, 3))),
    "array.array": Case("fixed", lambda: {"x": memoryview(array.array("f", [1, 2, 3, 4])).cast("B").cast("f", (1, 4))}),
    "bytes": Case(make_models.identity("uint8"), lambda: {"x": b"abc"}),
    "bytearray": Case(make_models.identity("uint8"), lambda: {"x": bytearray(b"abc")}),
    "numpy scalar": Case("scalar", lambda: {"x": np.float32(1)}),
    "numpy scalar, optional": Case(make_models.identity("bool"), lambda: {"x": np.bool_(True)}),  # noqa: FBT003
    "numpy scalars in a sequence": Case("sequence", lambda: {"s": [np.float32(1)]}),
    "memoryviews in a sequence": Case("sequence", lambda: {"s": [memoryview(ones(1, 3))]}),
}
"""Values that onnxruntime refuses and inferlite takes, since they follow a protocol for arrays."""

BAD_INPUT = {
    f"{kind}: {name}": case
    for kind, table in {"tensor": TENSORS, "names": NAMES, "feed": FEEDS, "node": NODES}.items()
    for name, case in table.items()
}
