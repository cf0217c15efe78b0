"""Arrays through the Arrow C data interface, without pyarrow: https://arrow.apache.org/docs/format/CDataInterface.html.

The structures are read through ctypes: both back ends share one reader, and neither needs a library of Arrow's.
Numbers in one chunk stay where they are. What can be seen of a producer's mistakes is refused: counts that are
negative, buffers that are missing, ranges beyond a child's length. The length of most buffers is not part of the
interface.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_void_p, string_at
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBERS: Final = {
    b"c": "i1",
    b"C": "u1",
    b"s": "i2",
    b"S": "u2",
    b"i": "i4",
    b"I": "u4",
    b"l": "i8",
    b"L": "u8",
    b"e": "f2",
    b"f": "f4",
    b"g": "f8",
}
"""The formats of numbers, and numpy's names of their dtypes."""

_BITS: Final = b"b"
_OFFSETS: Final = {b"u": np.int32, b"U": np.int64}
_VIEWS: Final = b"vu"
_STRUCT: Final = b"+s"
_FIXED_LIST: Final = b"+w:"
_LISTS: Final = (b"+l", b"+L", b"+vl", b"+vL")

# Axes that an array may have; a longer chain of lists is one that ends nowhere.
_DEEPEST: Final = 32

_EXTENSION: Final = b"ARROW:extension:name"


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_Schema._fields_ = [
    ("format", c_char_p),
    ("name", c_char_p),
    ("metadata", c_void_p),
    ("flags", c_int64),
    ("n_children", c_int64),
    ("children", POINTER(POINTER(_Schema))),
    ("dictionary", POINTER(_Schema)),
    ("release", CFUNCTYPE(None, POINTER(_Schema))),
    ("private_data", c_void_p),
]
_Array._fields_ = [
    ("length", c_int64),
    ("null_count", c_int64),
    ("offset", c_int64),
    ("n_buffers", c_int64),
    ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)),
    ("children", POINTER(POINTER(_Array))),
    ("dictionary", POINTER(_Array)),
    ("release", CFUNCTYPE(None, POINTER(_Array))),
    ("private_data", c_void_p),
]
_Stream._fields_ = [
    ("get_schema", CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Schema))),
    ("get_next", CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Array))),
    ("get_last_error", CFUNCTYPE(c_char_p, POINTER(_Stream))),
    ("release", CFUNCTYPE(None, POINTER(_Stream))),
    ("private_data", c_void_p),
]

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = c_void_p
_pointer_of.argtypes = [ctypes.py_object, c_char_p]


class ArrowError(ValueError):
    """What came through the interface is no array of numbers, truth values or strings; the text says what to do."""


class Read(NamedTuple):
    """An array that was read.

    Attributes:
        array: Read-only where it looks at the producer's memory.
        is_copy: Whether it has memory of its own.
    """

    array: NDArray[Any]
    is_copy: bool


def read(value: Any) -> Read:  # noqa: ANN401 - whatever has one of the two methods
    """The array in an object that has `__arrow_c_array__` or `__arrow_c_stream__`.

    Numbers that lie in one chunk are not copied. Lists of a fixed size are axes, and a table with columns of one dtype
    is a matrix with its rows.

    Raises:
        ArrowError: There are nulls, or the type is none that a tensor can have.
        Exception: Whatever the object's method raises.
    """
    if hasattr(type(value), "__arrow_c_array__"):
        schema_capsule, array_capsule = value.__arrow_c_array__()
        schema = _content(schema_capsule, b"arrow_schema", _Schema)
        # The capsule releases the array when it goes.
        return _Reader(array_capsule).all_of(schema, _content(array_capsule, b"arrow_array", _Array))
    capsule = value.__arrow_c_stream__()
    stream = _content(capsule, b"arrow_array_stream", _Stream)
    schema = _Schema()
    _ask(stream, stream.get_schema(byref(stream), byref(schema)))
    try:
        return _joined(schema, stream)
    finally:
        if schema.release:
            schema.release(byref(schema))
        del capsule


def _joined(schema: _Schema, stream: _Stream) -> Read:
    parts = []
    while True:
        chunk = _Chunk()
        _ask(stream, stream.get_next(byref(stream), byref(chunk.array)))
        if not chunk.array.release:
            break
        parts.append(_Reader(chunk).all_of(schema, chunk.array))
    if not parts:
        return Read(_empty(schema, 0), is_copy=True)
    if len(parts) == 1:
        return parts[0]
    return Read(np.concatenate([part.array for part in parts]), is_copy=True)


class _Chunk:
    """An array of a stream, released when nobody looks at it any more."""

    def __init__(self) -> None:
        self.array = _Array()

    def __del__(self) -> None:
        if self.array.release:
            self.array.release(byref(self.array))


class _Memory:
    """Memory of a producer as numpy asks for it; the array that numpy makes keeps this, and this keeps the owner."""

    def __init__(self, owner: object, address: int, dtype: np.dtype[Any], count: int) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "version": 3,
            "shape": (count,),
            "typestr": dtype.str,
            "data": (address, True),
        }


class _Reader:
    """Reads arrays that live as long as `owner` does."""

    def __init__(self, owner: object) -> None:
        self._owner = owner

    def all_of(self, schema: _Schema, array: _Array) -> Read:
        """The whole array."""
        if array.offset < 0:
            _refuse_lie("a negative offset")
        return self._part(schema, array, 0, array.length, 0)

    def _part(self, schema: _Schema, array: _Array, first: int, count: int, depth: int) -> Read:
        """`count` elements from `first` on, which counts from the array's own offset."""
        kind = _kind(schema, depth)
        if count < 0 or array.offset < 0 or first + count > array.length:
            _refuse_lie("fewer elements than it says")
        start = array.offset + first
        self._refuse_nulls(array, start, count)
        if kind == _STRUCT:
            return self._table(schema, array, start, count, depth)
        if kind.startswith(_FIXED_LIST):
            width = _width(kind)
            inner = self._part(*_child(schema, array, 0), start * width, count * width, depth + 1)
            return Read(inner.array.reshape(count, width, *inner.array.shape[1:]), inner.is_copy)
        if count == 0:
            return Read(_empty(schema, depth), is_copy=True)
        if kind in NUMBERS:
            return Read(self._numbers(array, 1, NUMBERS[kind], start, count), is_copy=False)
        if kind == _BITS:
            return Read(self._bits(array, 1, start, count), is_copy=True)
        texts = self._views(array, start, count) if kind == _VIEWS else self._texts(array, _OFFSETS[kind], start, count)
        strings = np.empty(count, object)
        strings[:] = [text.decode() for text in texts]
        return Read(strings, is_copy=True)

    def _table(self, schema: _Schema, array: _Array, start: int, count: int, depth: int) -> Read:
        columns = [
            self._part(*_child(schema, array, index), start, count, depth + 1) for index in range(schema.n_children)
        ]
        if not columns:
            _refuse("it has no columns")
        kinds = {column.array.dtype for column in columns}
        if len(kinds) > 1 or any(column.array.ndim > 1 for column in columns):
            names = [_child(schema, array, index)[0].name or b"" for index in range(schema.n_children)]
            shown = ", ".join(
                f"`{name.decode(errors='replace')}` {_shown(column.array)}"
                for name, column in zip(names, columns, strict=True)
            )
            _refuse(f"its columns are not of one dtype ({shown}): cast them to that of the input first")
        if len(columns) == 1:
            return Read(columns[0].array.reshape(count, 1), columns[0].is_copy)
        return Read(np.stack([column.array for column in columns], axis=1), is_copy=True)

    def _numbers(self, array: _Array, index: int, dtype: Any, start: int, count: int) -> NDArray[Any]:  # noqa: ANN401
        kind = np.dtype(dtype)
        address = _buffer(array, index)
        return np.asarray(_Memory(self._owner, address + start * kind.itemsize, kind, count))

    def _bits(self, array: _Array, index: int, start: int, count: int) -> NDArray[np.bool_]:
        first = start // 8
        packed = self._numbers(array, index, np.uint8, first, (start + count + 7) // 8 - first)
        bits = np.unpackbits(packed, bitorder="little")
        return bits[start - first * 8 :][:count].view(np.bool_)

    def _refuse_nulls(self, array: _Array, start: int, count: int) -> None:
        if array.null_count == 0 or count == 0 or array.n_buffers < 1 or not array.buffers or not array.buffers[0]:
            return
        nulls = count - int(np.count_nonzero(self._bits(array, 0, start, count)))
        if nulls:
            noun = "null" if nulls == 1 else "nulls"
            _refuse(f"it has {nulls} {noun}: fill or drop them first, such as by `fill_null(0)`")

    def _texts(self, array: _Array, offset_type: Any, start: int, count: int) -> list[bytes]:  # noqa: ANN401
        offsets = self._numbers(array, 1, offset_type, start, count + 1).tolist()
        if offsets[0] < 0 or any(end < begin for begin, end in pairwise(offsets)):
            _refuse_lie("strings that end before they begin")
        if offsets[0] == offsets[-1]:
            return [b""] * count
        text = string_at(_buffer(array, 2) + offsets[0], offsets[-1] - offsets[0])
        ends = [end - offsets[0] for end in offsets]
        return [text[begin:end] for begin, end in pairwise(ends)]

    def _views(self, array: _Array, start: int, count: int) -> list[bytes]:
        shared = array.n_buffers - 3
        if shared < 0:
            _refuse_lie("too few buffers")
        lengths = self._numbers(array, array.n_buffers - 1, np.int64, 0, shared).tolist() if shared else []
        views = self._numbers(array, 1, np.int32, start * 4, count * 4).reshape(count, 4)
        texts = []
        for view, (length, _, index, offset) in zip(views, views.tolist(), strict=True):
            if 0 <= length <= 12:  # noqa: PLR2004 - so many bytes fit into the view itself
                texts.append(view.tobytes()[4 : 4 + length])
                continue
            if length < 0 or not 0 <= index < shared or not 0 <= offset <= lengths[index] - length:
                _refuse_lie("strings beyond the end of their buffer")
            texts.append(string_at(_buffer(array, 2 + index) + offset, length))
        return texts


def _content(capsule: object, name: bytes, kind: Any) -> Any:  # noqa: ANN401 - one of the structures
    content = kind.from_address(_pointer_of(capsule, name))
    if not content.release:
        _refuse("it was released before: export it anew")
    return content


def _ask(stream: _Stream, failed: int) -> None:
    if failed:
        said = stream.get_last_error(byref(stream))
        _refuse(f"its stream fails: {(said or b'it does not say why').decode(errors='replace')}")


def _kind(schema: _Schema, depth: int) -> bytes:
    """The format of a type that can be read."""
    kind: bytes = schema.format or b""
    if schema.dictionary:
        _refuse("it is dictionary-encoded: decode it first, such as by `dictionary_decode()` or a cast")
    extension = _metadata(schema).get(_EXTENSION)
    if extension is not None:
        _refuse(f"its type is the extension `{extension.decode(errors='replace')}`: pass its storage, or an array")
    if kind == b"n":
        _refuse("it has nothing but nulls: fill or drop them first")
    if kind in _LISTS:
        _refuse("its lists may differ in length: cast it to a list of fixed size, or pass an array")
    if depth > _DEEPEST:
        _refuse("it has more axes than an array can have")
    is_table = kind == _STRUCT and depth == 0
    if not (kind in {*NUMBERS, *_OFFSETS, _BITS, _VIEWS} or kind.startswith(_FIXED_LIST) or is_table):
        shown = kind.decode(errors="replace")
        _refuse(f"its Arrow type (`{shown}`) is none that a tensor has: cast it to numbers, truth values or strings")
    return kind


def _width(kind: bytes) -> int:
    width = kind[len(_FIXED_LIST) :]
    if not width.isdigit():
        _refuse_lie("a list without a size")
    return int(width)


def _child(schema: _Schema, array: _Array, index: int) -> tuple[_Schema, _Array]:
    if index >= schema.n_children or index >= array.n_children or not schema.children or not array.children:
        _refuse_lie("fewer children than its type")
    child_schema, child_array = schema.children[index], array.children[index]
    if not child_schema or not child_array:
        _refuse_lie("a child that is missing")
    return child_schema.contents, child_array.contents


def _buffer(array: _Array, index: int) -> int:
    address = array.buffers[index] if array.buffers and index < array.n_buffers else None
    if not address:
        _refuse_lie("a buffer that is missing")
    return int(address)


def _refuse(text: str) -> NoReturn:
    raise ArrowError(text)


def _refuse_lie(what: str) -> NoReturn:
    _refuse(f"its producer is wrong about it: it has {what}")


def _empty(schema: _Schema, depth: int) -> NDArray[Any]:
    """No elements of this type."""
    kind = _kind(schema, depth)
    if kind == _STRUCT:
        columns = [_empty(schema.children[index].contents, depth + 1) for index in range(schema.n_children)]
        return np.stack(columns, axis=1) if columns else np.empty((0, 0))
    if kind.startswith(_FIXED_LIST):
        inner = _empty(schema.children[0].contents, depth + 1)
        return inner.reshape(0, _width(kind), *inner.shape[1:])
    if kind in NUMBERS:
        return np.empty(0, NUMBERS[kind])
    return np.empty(0, np.bool_ if kind == _BITS else object)


def _metadata(schema: _Schema) -> dict[bytes, bytes]:
    """The keys and values beside a type: their number, then each with its length before it."""
    address = schema.metadata
    if not address:
        return {}
    items = []
    count = 2 * c_int32.from_address(address).value
    address += 4
    for _ in range(count):
        length = c_int32.from_address(address).value
        if length < 0:
            _refuse_lie("metadata of a negative length")
        items.append(string_at(address + 4, length))
        address += 4 + length
    return dict(zip(items[::2], items[1::2], strict=True))


def _shown(array: NDArray[Any]) -> str:
    kind = "string" if array.dtype.hasobject else array.dtype.name
    return f"{kind}{list(array.shape[1:]) if array.ndim > 1 else ''}"
