"""Producers of arrays that lie: what can be seen of a lie is an error, in a process of its own for what may crash."""

from __future__ import annotations

import numpy as np
import pytest

import child

PRELUDE = """
import ctypes
from ctypes import POINTER, byref, cast, c_char_p, c_int64, c_void_p, pointer, py_object
import numpy as np
import inferlite, make_models
from inferlite import _arrow, _dlpack, _exchange

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
kept = []
numbers = (ctypes.c_float * 4)(1, 2, 3, 4)
AT = ctypes.addressof(numbers)

def keep(value):
    kept.append(value)
    return value

class Given:
    def __init__(self, **methods):
        self.methods = methods

def with_methods(**methods):
    return type("Liar", (), {name: (lambda self, *_, _given=given, **__: _given) for name, given in methods.items()})()

sessions = [inferlite.InferenceSession(make_models.identity(kind)) for kind in ("float", "string")]

def refused(value, says):
    for session in sessions:
        try:
            session.run(None, {"x": value() if callable(value) else value})
        except RuntimeError as error:
            assert "input `x`" in str(error) and says in str(error), error
        else:
            raise AssertionError(f"{says}: it was taken")
"""

DLPACK = """
def tensor(name=b"dltensor", device=1, shape=(4,), strides=None, data=AT, version=1, **header):
    header = {"ndim": 1, "code": 2, "bits": 32, "lanes": 1, **header}
    made = _dlpack._Tensor(data=data, device_type=device, **header)
    if shape is not None:
        made.shape = keep((c_int64 * len(shape))(*shape))
    if strides is not None:
        made.strides = keep((c_int64 * len(strides))(*strides))
    class Old(ctypes.Structure):
        _fields_ = (("tensor", _dlpack._Tensor), ("manager", c_void_p), ("deleter", c_void_p))
    whole = _dlpack._Versioned(major=version, tensor=made) if name.endswith(b"versioned") else Old(tensor=made)
    keep(whole)
    capsule = new_capsule(ctypes.addressof(whole), keep(name), None)
    return with_methods(__dlpack__=capsule, __dlpack_device__=(1, 0))

assert sessions[0].run(None, {"x": tensor()})[0].tolist() == [1, 2, 3, 4]
for name in (b"dltensor", b"dltensor_versioned"):
    refused(lambda: tensor(name, device=2), "CUDA device")
    refused(lambda: tensor(name, device=99), "device 99")
    refused(lambda: tensor(name, ndim=-1), "-1 axes")
    refused(lambda: tensor(name, ndim=65), "65 axes")
    refused(lambda: tensor(name, ndim=2**31 - 1), "axes")
    refused(lambda: tensor(name, shape=None), "1 axes")
    refused(lambda: tensor(name, shape=(-4,)), "shape [-4]")
    refused(lambda: tensor(name, ndim=2, shape=(2**62, 2**62)), "shape")
    refused(lambda: tensor(name, ndim=2, shape=(2**32, 2**32)), "shape")
    refused(lambda: tensor(name, shape=(4,), strides=(2**62,)), "strides")
    refused(lambda: tensor(name, shape=(4,), strides=(-(2**62),)), "strides")
    refused(lambda: tensor(name, data=None), "no memory")
    refused(lambda: tensor(name, lanes=4), "vectors")
    refused(lambda: tensor(name, code=77), "Unsupported dtype")
    refused(lambda: tensor(name, bits=7), "Unsupported dtype")
    assert sessions[0].run(None, {"x": tensor(name, data=None, shape=(0,))})[0].shape == (0,)
refused(lambda: tensor(b"dltensor_versioned", version=2), "version 2")
refused(lambda: tensor(b"used_dltensor"), "used before")
refused(lambda: tensor(b"something"), "used before")
refused(with_methods(__dlpack__=5, __dlpack_device__=(1, 0)), "used before")
refused(with_methods(__dlpack__=None, __dlpack_device__=(1, 0)), "used before")
refused(with_methods(__dlpack__=None, __dlpack_device__=None), "Liar")
refused(with_methods(__dlpack__=None, __dlpack_device__=()), "Liar")
once = tensor()
assert sessions[0].run(None, {"x": once})[0].tolist() == [1, 2, 3, 4]
refused(once, "used before")
"""

ARROW = """
release = _arrow._Array._fields_[8][1](lambda array: None)
release_schema = _arrow._Schema._fields_[7][1](lambda schema: None)

def schema(format=b"f", children=(), metadata=None, dictionary=None):
    made = keep(_arrow._Schema(format=format, name=b"", release=release_schema, n_children=len(children)))
    if children:
        places = keep((POINTER(_arrow._Schema) * len(children))(*[pointer(child) for child in children]))
        made.children = places
    if metadata is not None:
        made.metadata = ctypes.addressof(keep(ctypes.create_string_buffer(metadata)))
    if dictionary is not None:
        made.dictionary = pointer(dictionary)
    return made

def array(buffers=(None, AT), length=4, offset=0, nulls=0, children=(), n_children=None, released=False):
    made = keep(_arrow._Array(length=length, null_count=nulls, offset=offset))
    if not released:
        made.release = release
    if buffers is not None:
        made.buffers = keep((c_void_p * max(1, len(buffers)))(*buffers))
        made.n_buffers = len(buffers)
    if children:
        made.children = keep((POINTER(_arrow._Array) * len(children))(*[pointer(child) for child in children]))
        made.n_children = len(children)
    if n_children is not None:
        made.n_children = n_children
    return made

def given(a, s=None):
    s = schema() if s is None else s
    capsules = [(s, b"arrow_schema"), (a, b"arrow_array")]
    return with_methods(__arrow_c_array__=tuple(new_capsule(ctypes.addressof(c), n, None) for c, n in capsules))

def text(*ends, kind=ctypes.c_int32):
    return ctypes.addressof(keep((kind * len(ends))(*ends)))

assert sessions[0].run(None, {"x": given(array())})[0].tolist() == [1, 2, 3, 4]
lie = "its producer is wrong about it"
refused(given(array(length=-1)), lie)
refused(given(array(offset=-1)), lie)
refused(given(array(length=-(2**63))), lie)
refused(given(array(length=2**62)), "too")
refused(given(array(buffers=None)), lie)
refused(given(array(buffers=(None, None))), lie)
refused(given(array(buffers=(None,))), lie)
refused(given(array(released=True)), "released before")
refused(given(array(), schema(b"")), "none that a tensor has")
refused(given(array(), schema(None)), "none that a tensor has")
refused(given(array(), schema(b"+w:")), lie)
refused(given(array(), schema(b"+w:-2")), lie)
refused(given(array(), schema(b"+w:x")), lie)
refused(given(array(), schema(b"+w:2")), lie)
refused(given(array(), schema(b"+w:2", [schema()])), lie)
refused(given(array(length=4, children=[array(length=4)]), schema(b"+w:2", [schema()])), lie)
refused(given(array(length=2, offset=1, children=[array(length=4)]), schema(b"+w:2", [schema()])), lie)
refused(given(array(length=2**61, children=[array()]), schema(b"+w:9999999999", [schema()])), lie)
refused(given(array(length=1, n_children=3), schema(b"+s", [schema()])), lie)
refused(given(array(length=1, n_children=1), schema(b"+s", [schema()])), lie)
refused(given(array(length=1), schema(b"+s")), "no columns")
refused(given(array(), schema(dictionary=schema())), "dictionary")
refused(given(array(), schema(metadata=b"\\x01\\0\\0\\0\\xff\\xff\\xff\\xff")), lie)
deep = schema()
for _ in range(100):
    deep = schema(b"+w:1", [deep])
leaf = array(length=1)
for _ in range(100):
    leaf = array(length=1, children=[leaf])
refused(given(leaf, deep), "more axes")
endless, whole = schema(b"+w:1"), array(length=1)
endless.children, endless.n_children = keep((POINTER(_arrow._Schema) * 1)(pointer(endless))), 1
whole.children, whole.n_children = keep((POINTER(_arrow._Array) * 1)(pointer(whole))), 1
refused(given(whole, endless), "more axes")
letters = ctypes.addressof(keep(ctypes.create_string_buffer(b"abcd")))
refused(given(array((None, text(0, 3, 1), letters), 2), schema(b"u")), lie)
refused(given(array((None, text(-1, 3, 4), letters), 2), schema(b"u")), lie)
refused(given(array((None, text(0, 3, 4), None), 2), schema(b"u")), lie)
refused(given(array((None, text(0, 3, 4)), 2), schema(b"u")), lie)
bad = ctypes.addressof(keep(ctypes.create_string_buffer(b"\\xff\\xfe")))
refused(given(array((None, text(0, 2), bad), 1), schema(b"u")), "utf-8")
for view in ((20, 0, 0, 0), (-1, 0, 0, 0), (20, 0, 5, 0), (20, 0, -1, 0), (20, 0, 0, -5), (20, 0, 0, 2**31 - 1)):
    sizes = text(4, kind=c_int64)
    refused(given(array((None, text(*view), letters, sizes), 1), schema(b"vu")), lie)
refused(given(array((None, text(1, 0, 0, 0)), 1), schema(b"vu")), lie)
refused(with_methods(__arrow_c_array__=None), "Liar")
refused(with_methods(__arrow_c_array__=(1, 2)), "Liar")
refused(with_methods(__arrow_c_stream__=None), "Liar")
wrong = new_capsule(ctypes.addressof(array()), b"another", None)
refused(with_methods(__arrow_c_array__=(wrong, wrong)), "Liar")
refused(with_methods(__arrow_c_stream__=wrong), "Liar")

fields = dict(_arrow._Stream._fields_)
failing = fields["get_schema"](lambda stream, schema: 5)
why = fields["get_last_error"](lambda stream: None)
gone = fields["release"](lambda stream: None)
stream = keep(_arrow._Stream(get_schema=failing, get_last_error=why, release=gone))
capsule = new_capsule(ctypes.addressof(stream), b"arrow_array_stream", None)
refused(with_methods(__arrow_c_stream__=capsule), "its stream fails")
"""

INTERFACE = """
class Liar:
    def __init__(self, **given):
        self.__array_interface__ = {"version": 3, "shape": (3,), "typestr": "<f4", **given}

refused(Liar(data=(0, False)), "NULL")
refused(Liar(data=(AT, False), shape=(2**62, 4)), "big")
refused(Liar(data=(AT, False), shape=(-3,)), "negative")
refused(Liar(data=(AT, False), typestr="|O"), "objects")
refused(Liar(data=(2**80, False)), "Liar")
refused(Liar(data=b"abcd"), "beyond its buffer")
refused(Liar(data=b"abcd" * 3, strides=(2**40,)), "beyond its buffer")
refused(Liar(data=b"abcd" * 3, strides=(-4,)), "beyond its buffer")
refused(Liar(data=b"abcd" * 3, offset=8), "Liar")
refused(Liar(data=5), "Liar")
refused(Liar(typestr="nonsense", data=b"abcd" * 3), "Liar")
liar = Liar(data=b"abcd" * 3)
liar.__array_interface__ = 5
refused(liar, "Liar")
"""


since_numpy_2_1 = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0",
    reason="numpy reads no capsules with a version before, and finds other words for the rest",
)


@pytest.mark.parametrize(
    "lies",
    [
        pytest.param(DLPACK, id="DLPack", marks=since_numpy_2_1),
        pytest.param(ARROW, id="Arrow"),
        pytest.param(INTERFACE, id="__array_interface__", marks=since_numpy_2_1),
    ],
)
def test_a_lie_that_can_be_seen_is_an_error(child_environment: dict[str, str], lies: str) -> None:
    child.run(PRELUDE + lies, child_environment)
