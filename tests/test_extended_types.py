"""Element types that numpy has from ml_dtypes: bfloat16, and floats and integers of 8, 4 and 2 bits."""

from __future__ import annotations

from typing import Any

import committed
import make_models
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from packaging.version import Version

import child
import inferlite
import oracle
from conftest import BACKENDS
from inferlite.exceptions import BackendUnavailableError, InvalidInputError

native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
pytestmark = pytest.mark.usefixtures("backend")

WHOLE = {
    "bfloat16": "bfloat16",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float8e8m0": "float8_e8m0fnu",
}
PACKED = {"int4": "int4", "uint4": "uint4", "float4e2m1": "float4_e2m1fn", "int2": "int2", "uint2": "uint2"}
# Those that onnxruntime's Python package gives as plain bytes.
AS_BYTES = {"float8e4m3fn", "float4e2m1"}


def passing(kind: str) -> bytes:
    """A model that gives its one input back as `y`, of any rank; of float4, which no operator takes, as `x`."""
    number = int(getattr(onnx.TensorProto, kind.upper()))
    name = "x" if kind == "float4e2m1" else "y"
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=number)
    graph = onnx.helper.make_graph(
        [] if kind == "float4e2m1" else [node],
        "passing",
        [onnx.helper.make_tensor_value_info("x", number, None)],
        [onnx.helper.make_tensor_value_info(name, number, None)],
    )
    opset = 25 if kind in ("int2", "uint2", "float8e8m0") else 23
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, ir_version=11, opset_imports=opsets).SerializeToString()


def _kinds() -> list[str]:
    """The types that the installed onnxruntime can load a model of: older ones lack the latest."""
    kinds = []
    for kind in (*WHOLE, *PACKED):
        # Older ones take the two for each other in their C interface.
        if kind in ("int2", "uint2") and Version(onnxruntime.__version__).release[:2] < (1, 32):
            continue
        try:
            oracle.reference(passing(kind))
        except Exception:  # noqa: BLE001, S112 - whatever it says, it has no such type
            continue
        kinds.append(kind)
    return kinds


KINDS = _kinds()


def dtype_of(kind: str) -> np.dtype[Any]:
    """The type of ml_dtypes for one of onnxruntime's names."""
    return np.dtype(getattr(ml_dtypes, {**WHOLE, **PACKED}[kind]))


def every_value(kind: str, count: int | None = None) -> np.ndarray:
    """All bit patterns of a type, or the first `count` of them, again and again."""
    dtype = dtype_of(kind)
    bits = {"int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2, "bfloat16": 16}.get(kind, 8)
    patterns = np.arange(2**bits, dtype=np.uint16 if bits == 16 else np.uint8)
    return np.resize(patterns, 2**bits if count is None else count).view(dtype)


def bits_of(array: np.ndarray) -> np.ndarray:
    """The bits of each element, without those that a packed type does not have."""
    plain = np.ascontiguousarray(array).view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)
    mask = {"int4": 15, "uint4": 15, "float4_e2m1fn": 15, "int2": 3, "uint2": 3}.get(array.dtype.name)
    return plain if mask is None else plain & mask


def assert_same_bits(given: np.ndarray, wanted: np.ndarray) -> None:
    assert given.dtype == wanted.dtype
    assert given.shape == wanted.shape
    assert bits_of(given).tolist() == bits_of(wanted).tolist()
    assert given.flags.c_contiguous
    assert given.flags.writeable


def test_the_newest_onnxruntime_has_every_type() -> None:
    if Version(onnxruntime.__version__).release[:2] >= (1, 32):
        assert set(KINDS) == set(WHOLE) | set(PACKED)
    assert {"bfloat16", "float8e5m2", "int4"} <= set(KINDS)


@oracle.proves("arrays of types of ml_dtypes as inputs")
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_pattern_passes_through(kind: str, backend: str) -> None:
    session, reference = oracle.pair(passing(kind))
    x = every_value(kind)
    theirs = oracle.outcome(lambda: reference.run(None, {"x": x}))
    assert isinstance(theirs.error, RuntimeError)
    if backend == "python":
        with pytest.raises(BackendUnavailableError, match=f"an array of {x.dtype.name} is not available"):
            session.run(None, {"x": x})
        return
    assert_same_bits(session.run(None, {"x": x})[0], x)


@native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (3,), (5,), (7, 3), (2, 0, 3), (3, 5, 7)])
def test_any_number_of_elements_is_packed_and_unpacked(kind: str, shape: tuple[int, ...]) -> None:
    session = inferlite.InferenceSession(passing(kind))
    x = every_value(kind, int(np.prod(shape))).reshape(shape)
    for _ in range(3):  # the third run writes into memory that the second has left
        assert_same_bits(session.run(None, {"x": x})[0], x)


@native
@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_elements_is_read(kind: str) -> None:
    session = inferlite.InferenceSession(passing(kind))
    x = every_value(kind, 35).reshape(5, 7)
    for array in (x.T, x[::-2], x[:, 1::3], np.asfortranarray(x), np.broadcast_to(x[:1], (3, 7))):
        assert_same_bits(session.run(None, {"x": array})[0], np.ascontiguousarray(array))


@oracle.proves("outputs of types that numpy has from ml_dtypes")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("int2", "uint2", "float8e8m0")])
def test_outputs_have_the_type_that_the_model_gives(kind: str, backend: str) -> None:
    number = int(getattr(onnx.TensorProto, kind.upper()))
    model = make_models.parse(f"narrow (float[n] x) => ({kind}[n] y) {{ y = Cast<to = {number}>(x) }}")
    values = np.array([1.0, 2.0, 0.0, 3.0, 1.0], np.float32)
    try:
        reference = oracle.reference(model)
    except Exception as error:  # noqa: BLE001 - an older onnxruntime has no such Cast
        with pytest.raises(type(error)):
            inferlite.InferenceSession(model)
        return
    session, theirs = inferlite.InferenceSession(model), oracle.outcome(lambda: reference.run(None, {"x": values}))
    if backend == "python" and kind not in AS_BYTES:
        assert isinstance(theirs.error, RuntimeError)
        with pytest.raises(BackendUnavailableError, match=r"an output of type .* is not available"):
            session.run(None, {"x": values})
        return
    (given,) = session.run(None, {"x": values})
    assert_same_bits(given, values.astype(dtype_of(kind)))


def test_a_uint8_array_is_not_taken_for_float8() -> None:
    session, theirs = oracle.pair(make_models.identity("float8e4m3fn"))
    oracle.compare(session, theirs, {"x": np.zeros(2, np.uint8)})


@pytest.mark.parametrize(("kind", "other"), [("bfloat16", "float16"), ("int4", "int8"), ("float", "bfloat16")])
def test_another_type_is_refused_by_name(kind: str, other: str, backend: str) -> None:
    session = inferlite.InferenceSession(make_models.identity(kind) if kind == "float" else passing(kind))
    dtype = np.dtype(getattr(ml_dtypes, other, other))
    error: type[Exception] = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument
    match = rf"Actual: \(tensor\({other}\)\) , expected: \(tensor\(({kind}|Int4x2)\)\)"
    if backend == "python" and other == "bfloat16":
        error, match = BackendUnavailableError, "an array of bfloat16"
    with pytest.raises(error, match=match):
        session.run(None, {"x": np.ones(2, dtype)})


@native
@pytest.mark.parametrize("kind", ["bfloat16", "int4", "float8e5m2"])
def test_sequences_and_lists_hold_them(kind: str) -> None:
    dtype = dtype_of(kind)
    session = inferlite.InferenceSession(passing(kind))
    assert_same_bits(session.run(None, {"x": [1, 2, 3]})[0], np.array([1, 2, 3], dtype))
    model = make_models.sequence_identity(kind)
    if oracle.outcome(lambda: oracle.reference(model)).error is not None:
        return
    session = inferlite.InferenceSession(model)
    (given,) = session.run(None, {"s": [np.ones(3, dtype), np.zeros((0, 2), dtype)]})
    assert_same_bits(given[0], np.ones(3, dtype))
    assert given[1].shape == (0, 2)
    assert session.run(None, {"s": []}) == [[]]


@native
@pytest.mark.parametrize("kind", ["bfloat16", "float8e5m2"])
def test_arrays_of_whole_bytes_are_bound(kind: str) -> None:
    session = inferlite.InferenceSession(make_models.identity(kind, "[n]"))
    x, y = every_value(kind, 5), np.zeros(5, dtype_of(kind))
    call = session.bind({"x": x}, {"y": y})
    call()
    assert_same_bits(y, x)
    x[:] = x[::-1].copy()
    call()
    assert_same_bits(y, x)


@native
def test_arrays_that_must_be_packed_are_not_bound() -> None:
    session = inferlite.InferenceSession(passing("int4"))
    with pytest.raises(ValueError, match="input `x` cannot be bound: it is a tensor\\(int4\\)"):
        session.bind({"x": every_value("int4")})


class _Lender:
    """What another library's tensor is: memory on loan, and no array."""

    def __init__(self, array: np.ndarray) -> None:
        self.value = inferlite.OrtValue.ortvalue_from_numpy(array)

    def __dlpack__(self, **options: Any) -> Any:
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.value.__dlpack_device__()


@native
@pytest.mark.parametrize("kind", ["bfloat16", "int4", "float8e5m2"])
def test_tensors_of_other_libraries_are_read(kind: str) -> None:
    x = every_value(kind, 5)
    assert_same_bits(inferlite.InferenceSession(passing(kind)).run(None, {"x": _Lender(x)})[0], x)
    assert_same_bits(inferlite.load(passing(kind))(_Lender(x)), x)
    value = inferlite.OrtValue.ortvalue_from_numpy(x)
    assert_same_bits(inferlite.load(passing(kind))(value), x)


@native
def test_a_large_output_is_not_copied() -> None:
    session = inferlite.InferenceSession(make_models.identity("bfloat16"))
    x = every_value("bfloat16")
    (given,) = session.run(None, {"x": x})
    assert_same_bits(given, x)
    assert not given.flags.owndata


@native
def test_a_model_takes_and_gives_them() -> None:
    model = inferlite.load(make_models.identity("bfloat16", "[n]"), name="m")
    assert model.signature.inputs[0].dtype == "bfloat16"
    x = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    assert_same_bits(model(x), x)
    assert_same_bits(model([1.5, -2]), x)
    with pytest.raises(InvalidInputError) as refused:
        model(np.ones(2, np.float32))
    assert str(refused.value) == (
        "input `x` has dtype float32, but model `m` expects bfloat16: pass `x.astype(ml_dtypes.bfloat16)`"
    )


@native
@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        ("int4", [-8, 7], [8]),
        ("uint2", [0, 3], [-1]),
        ("float4e2m1", [6, -6, 0.5], [7.5]),
        ("float4e2m1", [1], [float("inf")]),
        ("float8e4m3fn", [448, float("nan")], [500.0]),
        ("float8e5m2", [float("inf"), 57344], [1e9]),
        ("bfloat16", [3e38, float("-inf")], [1e39]),
    ],
)
def test_python_numbers_must_be_in_range(kind: str, taken: list[float], refused: list[float]) -> None:
    if kind not in KINDS:
        pytest.skip("this onnxruntime has no such type")
    model = inferlite.load(passing(kind))
    assert_same_bits(model(taken), np.array(taken).astype(dtype_of(kind)))
    with pytest.raises(InvalidInputError, match="numbers out of range"):
        model(refused)


@native
def test_a_cached_answer_is_of_its_own_type() -> None:
    session = inferlite.InferenceSession(make_models.identity("bfloat16", "[n]"), cache="1MB")
    x = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    for _ in range(2):
        assert_same_bits(session.run(None, {"x": x})[0], x)
    assert session.cache is not None
    # Equal bytes of another type are another question, and here a wrong one.
    for other in (np.float16, np.uint16, np.int16):
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
            session.run(None, {"x": x.view(other)})
    model = inferlite.load(make_models.identity("bfloat16", "[n]"), cache="1MB")
    for _ in range(2):
        model(x)
    assert model.stats().cache.hits == 1


@native
@pytest.mark.parametrize("kind", ["int4", "float4e2m1", "uint4"])
def test_packed_answers_are_kept_and_read_only_where_asked(kind: str) -> None:
    x = every_value(kind, 5)
    for copy in (True, False):
        model = inferlite.load(passing(kind), cache=inferlite.Cache("1MB", copy=copy))
        for _ in range(2):
            given = model(x)
            assert bits_of(given).tolist() == bits_of(x).tolist()
            assert given.flags.writeable == copy
        # One element more takes as many bytes.
        more = every_value(kind, 6)
        more[5] = 0
        assert model(more).shape == (6,)
        assert model.stats().cache.hits == 1


@native
def test_a_batch_holds_rows_of_bfloat16() -> None:
    model = inferlite.load(
        make_models.identity("bfloat16", "[n,2]"), cache=inferlite.Cache("1MB", by="row"), rows_independent=True
    )
    x = np.arange(6).reshape(3, 2).astype(ml_dtypes.bfloat16)
    assert_same_bits(model(x), x)
    assert_same_bits(model(x[1:]), x[1:].copy())


def test_ml_dtypes_is_imported_when_it_is_needed(child_environment: dict[str, str]) -> None:
    model, narrow = committed.path("double"), make_models.identity("bfloat16")
    child.run(
        f"""
        import sys
        import numpy as np
        import inferlite
        session = inferlite.InferenceSession({model!r})
        session.run(None, {{"x": np.ones((1, 4), np.float32)}})
        assert "ml_dtypes" not in sys.modules
        if inferlite.backend == "native":
            print(inferlite.InferenceSession({narrow!r}).run(None, {{"x": [1.5]}})[0].dtype)
            assert "ml_dtypes" in sys.modules
        """,
        child_environment,
    )


@native
def test_without_ml_dtypes_the_remedy_is_named(child_environment: dict[str, str]) -> None:
    narrow = make_models.parse("narrow (float[n] x) => (bfloat16[n] y) { y = Cast<to = 16>(x) }")
    said = child.run(
        f"""
        import sys
        sys.modules["ml_dtypes"] = None
        import numpy as np
        import inferlite
        try:
            inferlite.InferenceSession({narrow!r}).run(None, {{"x": np.ones(2, np.float32)}})
        except RuntimeError as error:
            print(error)
        """,
        child_environment,
    )
    assert said.strip() == "No corresponding Numpy type for Tensor Type. bfloat16: pip install ml_dtypes"
