"""`OrtValue` and the runs that take and give it, as onnxruntime's."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import make_models
import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from packaging.version import Version

import inferlite
import oracle
from cases import f32
from conftest import BACKENDS
from inferlite.exceptions import BackendUnavailableError

native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
fallback = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "python"], indirect=True)
pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.skipif(
        Version(onnxruntime.__version__).release[:2] < (1, 32),
        reason="values of onnxruntime before 1.32 have no DLPack and belong to no session: there is little to compare",
    ),
]

PACKAGE = onnxruntime.capi.onnxruntime_pybind11_state
NUMBERS = (
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)
FACTS = (
    "data_type",
    "device_name",
    "element_type",
    "has_value",
    "is_tensor",
    "is_sparse_tensor",
    "is_tensor_sequence",
    "shape",
    "tensor_size_in_bytes",
    "numpy",
    "__dlpack_device__",
)


def outcome_of(make: Any, facts: tuple[str, ...] = FACTS) -> Any:
    """How making a value ends; a value becomes what it says about itself."""

    def told() -> list[Any]:
        value = make()
        return [oracle.outcome(getattr(value, fact)) for fact in facts]

    return oracle.outcome(told)


def compare_values(make: Any, facts: tuple[str, ...] = FACTS) -> None:
    """Make a value by inferlite's class and by onnxruntime's; both end alike and say the same about themselves."""
    ours = outcome_of(lambda: make(inferlite.OrtValue), facts)
    theirs = outcome_of(lambda: make(onnxruntime.OrtValue), facts)
    if theirs.error is not None or ours.error is not None:
        # Texts of the binding's own are worded anew.
        assert type(ours.error) is type(theirs.error), (ours.error, theirs.error)
        return
    for fact, given, wanted in zip(facts, ours.value, theirs.value, strict=True):
        if wanted.error is not None:
            assert type(given.error) is type(wanted.error), (fact, given, wanted)
        else:
            oracle.assert_same_outcome(given, wanted)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 4)])
def test_values_of_arrays_are_as_onnxruntimes(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    compare_values(lambda package: package.ortvalue_from_numpy(array))
    compare_values(lambda package: package.ortvalue_from_numpy(array.T))


@pytest.mark.parametrize(
    "value",
    [[1.0], (1.0,), 1.0, np.float32(1), None, "a", np.ones(2, np.complex64), np.zeros(2, "M8[s]"), {}, b"a"],
    ids=repr,
)
def test_what_is_no_array_of_numbers_is_refused_as_by_onnxruntime(value: Any) -> None:
    compare_values(lambda package: package.ortvalue_from_numpy(value))


@pytest.mark.parametrize("device", ["cuda", "dml", "npu", "gpu", "webgpu", "cann", "CPU", "xyz", "", 1, None])
def test_other_devices_are_refused_as_by_onnxruntime(device: Any) -> None:
    compare_values(lambda package: package.ortvalue_from_numpy(f32(1), device, 0))
    compare_values(lambda package: package.ortvalue_from_shape_and_type([1], np.float32, device))


@pytest.mark.parametrize(
    "element_type",
    [np.float32, "float16", np.dtype("i8"), float, int, bool, None, 1, 7, 9, 10, np.complex64, 0, 14, 99, -1],
    ids=repr,
)
def test_types_and_shapes_are_as_onnxruntimes(element_type: Any) -> None:
    facts = tuple(fact for fact in FACTS if fact != "numpy")
    for shape in ([2, 3], (), [0, 2], (4,)):
        compare_values(lambda package, shape=shape: package.ortvalue_from_shape_and_type(shape, element_type), facts)


@pytest.mark.parametrize("shape", [[-1], [2**62, 2**62], 3, [1.5], None, "ab"], ids=repr)
def test_shapes_that_are_none_are_refused_as_by_onnxruntime(shape: Any) -> None:
    compare_values(lambda package: package.ortvalue_from_shape_and_type(shape, np.float32))


def test_more_memory_than_there_is_raises_as_onnxruntime() -> None:
    compare_values(lambda package: package.ortvalue_from_shape_and_type([2**40, 2**10], np.float32))


@native
def test_new_memory_holds_zeros() -> None:
    assert inferlite.OrtValue.ortvalue_from_shape_and_type([1000], np.float32).numpy().tolist() == [0.0] * 1000
    assert inferlite.OrtValue.ortvalue_from_shape_and_type([3], 22).numpy().tolist() == [0] * 3
    assert inferlite.OrtValue.ortvalue_from_shape_and_type([2], str).numpy().tolist() == ["", ""]


@pytest.mark.parametrize("number", [1, 3, 8, 14, 16, 17, 19, 22, 99])
def test_bytes_of_another_type_are_as_onnxruntimes(number: int) -> None:
    facts = ("data_type", "shape", "element_type", "tensor_size_in_bytes")
    for array in (np.arange(8, dtype=np.uint8).reshape(2, 4), np.arange(4, dtype=np.uint16), np.arange(4.0)):
        compare_values(
            lambda package, array=array: package.ortvalue_from_numpy_with_onnx_type(array, number),  # type: ignore[misc]
            facts,
        )


@oracle.proves("`ortvalue_from_numpy_with_onnx_type` of an array that is not in C order")
def test_bytes_of_another_type_are_in_the_order_of_the_array() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3))
    given = inferlite.OrtValue.ortvalue_from_numpy_with_onnx_type(array, 3).numpy()
    assert given.tolist() == [[0, 1, 2], [3, 4, 5]]


@native
def test_packed_bytes_are_packed_elements() -> None:
    given = inferlite.OrtValue.ortvalue_from_numpy_with_onnx_type(np.array([0x21, 0x03, 0], np.uint8), 22)
    assert given.numpy().tolist() == [1, 2, 3]
    same = inferlite.OrtValue.ortvalue_from_numpy_with_onnx_type(np.array([1, -2, 3], ml_dtypes.int4), 22)
    assert same.numpy().tolist() == [1, -2, 3]


def test_memory_is_shared_with_an_array_in_c_order() -> None:
    array = f32(1, 2, 3)
    value = inferlite.OrtValue.ortvalue_from_numpy(array)
    assert value.data_ptr() == array.ctypes.data
    array[0] = 9
    assert value.numpy().tolist() == [9, 2, 3]
    value.numpy()[1] = 8
    assert array.tolist() == [9, 8, 3]


@native
def test_memory_lives_as_long_as_anyone_looks_at_it() -> None:
    array = f32(*range(10_000))
    reference = weakref.ref(array)
    value = inferlite.OrtValue.ortvalue_from_numpy(array)
    view, borrowed = value.numpy(), np.from_dlpack(value)
    del array, value
    gc.collect()
    assert reference() is not None
    assert view[9_999] == borrowed[9_999] == 9_999
    del view, borrowed
    gc.collect()
    # numpy releases what it has borrowed behind the native part's back, which lets go at its next call.
    inferlite.OrtValue.ortvalue_from_numpy(f32(1)).shape()
    assert reference() is None


@native
def test_an_array_of_a_value_is_not_moved() -> None:
    array = np.ones(4, np.float32)
    value = inferlite.OrtValue.ortvalue_from_numpy(array)
    with pytest.raises(ValueError, match="resize"):
        array.resize(1_000_000, refcheck=False)
    del value


@native
def test_what_is_read_only_stays_so() -> None:
    array = f32(1, 2)
    array.flags.writeable = False
    value = inferlite.OrtValue.ortvalue_from_numpy(array)
    assert not value.numpy().flags.writeable
    with pytest.raises(PACKAGE.InvalidArgument, match="read-only"):
        value.update_inplace(f32(3, 4))
    with pytest.raises(BufferError, match="max_version"):
        value.__dlpack__()
    assert not np.from_dlpack(value).flags.writeable
    binding = inferlite.InferenceSession(make_models.build("double")).io_binding()
    with pytest.raises(BufferError, match="read-only"):
        binding.bind_ortvalue_output("y", value)


@oracle.proves("strings in an OrtValue")
@native
def test_strings_are_values() -> None:
    array = np.array(["a", "b\0c", "日本", ""], object)
    value = inferlite.OrtValue.ortvalue_from_numpy(array)
    assert value.data_type() == "tensor(string)"
    assert value.element_type() == 8
    assert value.shape() == [4]
    assert value.numpy().tolist() == array.tolist()
    (given,) = inferlite.InferenceSession(make_models.build("strings")).run_with_ort_values(None, {"x": value})
    assert given.numpy().tolist() == array.tolist()
    with pytest.raises(RuntimeError, match="DLPack"):
        value.__dlpack__()
    with pytest.raises(RuntimeError, match="non-string"):
        value.update_inplace(array)


@native
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint2", "float4_e2m1fn"])
def test_types_of_ml_dtypes_are_values(name: str) -> None:
    array = np.array([1, 0, 1], getattr(ml_dtypes, name))
    value = inferlite.OrtValue.ortvalue_from_numpy(array)
    assert value.numpy().dtype == array.dtype
    assert value.numpy().tolist() == array.tolist()
    value.update_inplace(array[::-1] * array)
    again = inferlite.OrtValue.from_dlpack(value)
    assert (again.numpy().tolist(), again.data_ptr()) == (array.tolist(), value.data_ptr())
    theirs = onnxruntime.OrtValue.from_dlpack(value)
    assert (theirs.data_ptr(), theirs.element_type()) == (value.data_ptr(), value.element_type())


@native
def test_sequences_are_values() -> None:
    value = inferlite.OrtValue.ortvalue_from_sequence([f32(1), f32(2, 3)])
    assert value.is_tensor_sequence()
    assert (value.data_type(), value.element_type()) == ("seq(tensor(float))", 1)
    assert [item.tolist() for item in value.value()] == [[1.0], [2.0, 3.0]]
    assert [item.numpy().tolist() for item in value.elements()] == [[1.0], [2.0, 3.0]]
    assert inferlite.OrtValue.ortvalue_from_sequence([], np.float32).value() == []
    session = inferlite.InferenceSession(make_models.build("sequence_length"))
    assert session.run_with_ort_values(None, {"s": value})[0].numpy() == 2
    for wrong in ([], [1.0], [f32(1), np.ones(1)], [None]):
        with pytest.raises(RuntimeError):
            inferlite.OrtValue.ortvalue_from_sequence(wrong)


@fallback
def test_the_fallback_says_what_it_cannot_hold() -> None:
    for make in (
        lambda: inferlite.OrtValue.ortvalue_from_numpy(np.array(["a"])),
        lambda: inferlite.OrtValue.ortvalue_from_numpy(np.ones(2, ml_dtypes.bfloat16)),
        lambda: inferlite.OrtValue.ortvalue_from_sequence([f32(1)]),
        lambda: inferlite.OrtValue.ortvalue_from_shape_and_type([1], 16).numpy(),
    ):
        with pytest.raises(BackendUnavailableError):
            make()


@oracle.proves("`OrtValue.update_inplace` with an array of another dtype")
def test_updates_of_another_dtype_are_refused() -> None:
    value = inferlite.OrtValue.ortvalue_from_numpy(f32(1, 2))
    with pytest.raises(PACKAGE.InvalidArgument, match=r"Actual: \(tensor\(double\)\) , expected: \(tensor\(float\)\)"):
        value.update_inplace(np.ones(2))
    assert value.numpy().tolist() == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        f32(5, 6),
        f32(5, 6).reshape(2, 1),
        f32(5),
        f32(5, 6, 7),
        [5, 6],
        np.float32(1),
        np.array(["a", "b"]),
        f32(1, 2, 3, 4)[::2],
    ],
    ids=repr,
)
def test_updates_end_as_onnxruntimes(data: Any) -> None:
    def update(package: Any) -> list[float]:
        value = package.ortvalue_from_numpy(f32(1, 2))
        value.update_inplace(data)
        return list(value.numpy())

    given, wanted = (
        oracle.outcome(lambda package=package: update(package))
        for package in (inferlite.OrtValue, onnxruntime.OrtValue)
    )
    assert type(given.error) is type(wanted.error)
    assert given.value == wanted.value


@pytest.mark.parametrize("other", [f32(5, 6), np.ones(2), f32(1)])
def test_updates_by_values_end_as_onnxruntimes(other: np.ndarray) -> None:
    def update(package: Any) -> list[float]:
        value = package.ortvalue_from_numpy(f32(1, 2))
        value.update_inplace(package.ortvalue_from_numpy(other))
        return list(value.numpy())

    given, wanted = (
        oracle.outcome(lambda package=package: update(package))
        for package in (inferlite.OrtValue, onnxruntime.OrtValue)
    )
    assert type(given.error) is type(wanted.error)
    assert given.value == wanted.value


def test_values_are_arrays_to_numpy() -> None:
    value = inferlite.OrtValue.ortvalue_from_numpy(f32(1, 2))
    assert np.asarray(value).ctypes.data == value.data_ptr()
    assert np.asarray(value, dtype=np.float64).tolist() == [1.0, 2.0]
    assert np.array(value, copy=True).ctypes.data != value.data_ptr()


@native
def test_dlpack_lends_and_borrows_without_a_copy() -> None:
    array = f32(1, 2, 3)
    for max_version in (None, (0, 8), (1, 0), (1, 9), (2, 0)):
        value = inferlite.OrtValue.ortvalue_from_numpy(array)
        capsule = value.__dlpack__(max_version=max_version)
        named = '"dltensor"' if max_version in (None, (0, 8)) else '"dltensor_versioned"'
        assert named in repr(capsule)
        again = inferlite.OrtValue.from_dlpack(capsule)
        assert again.data_ptr() == array.ctypes.data
        with pytest.raises(TypeError, match="valid DLPack capsule"):
            inferlite.OrtValue.from_dlpack(capsule)
    assert np.from_dlpack(value).ctypes.data == array.ctypes.data
    assert np.from_dlpack(value).flags.writeable
    assert value.__dlpack_device__() == (1, 0)
    copied = inferlite.OrtValue.from_dlpack(value.__dlpack__(copy=True, max_version=(1, 0)))
    assert copied.numpy().tolist() == [1, 2, 3]
    assert copied.data_ptr() != array.ctypes.data
    with pytest.raises(BufferError, match="device"):
        value.__dlpack__(dl_device=(2, 0))
    assert value.__dlpack__(dl_device=(1, 0), stream=1) is not None


@native
def test_dlpack_takes_what_is_read_only() -> None:
    array = f32(1, 2)
    array.flags.writeable = False
    value = inferlite.OrtValue.from_dlpack(array)
    assert value.data_ptr() == array.ctypes.data
    assert not value.numpy().flags.writeable


@pytest.mark.parametrize(
    "data",
    [
        f32(1, 2).reshape(1, 2),
        np.ones(3, bool),
        np.ones((0, 2), np.float32),
        np.array(1.5),
        f32(1, 2, 3, 4)[::2],
        np.ones((2, 3), np.float32).T,
        np.ones(2, np.complex64),
        3,
        None,
        [1.0],
    ],
    ids=repr,
)
def test_dlpack_ends_as_onnxruntimes(data: Any) -> None:
    compare_values(lambda package: package.from_dlpack(data), ("data_type", "shape", "numpy"))


def test_runs_with_values_end_as_onnxruntimes() -> None:
    ours, theirs = oracle.pair(make_models.identity("float"))

    def feed(package: Any, **arrays: np.ndarray) -> dict[str, Any]:
        return {name: package.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}

    for outputs, arrays in (
        (None, {"x": f32(1, 2)}),
        ([], {"x": f32(1)}),
        (["y", "y"], {"x": f32(1)}),
        (("y",), {"x": f32(1)}),
        (None, {}),
        (["zz"], {"x": f32(1)}),
        (None, {"x": f32(1), "q": f32(1)}),
        (None, {"x": np.ones(2)}),
        ("y", {"x": f32(1)}),
        ([1], {"x": f32(1)}),
    ):
        oracle.compare_calls(
            lambda outputs=outputs, arrays=arrays: [  # type: ignore[misc]
                value.numpy() for value in ours.run_with_ort_values(outputs, feed(inferlite, **arrays))
            ],
            lambda outputs=outputs, arrays=arrays: [  # type: ignore[misc]
                value.numpy() for value in theirs.run_with_ort_values(outputs, feed(onnxruntime, **arrays))
            ],
        )


@pytest.mark.parametrize("feed", [{"x": np.ones(1, np.float32)}, {"x": None}, [1], None, {"x": 1}], ids=repr)
def test_feeds_without_values_end_as_onnxruntimes(feed: Any) -> None:
    ours, theirs = oracle.pair(make_models.identity("float"))
    given = oracle.outcome(lambda: ours.run_with_ort_values(None, feed))
    wanted = oracle.outcome(lambda: theirs.run_with_ort_values(None, feed))
    oracle.assert_same_outcome(given, wanted)


def test_an_output_that_is_an_input_shares_its_memory_and_keeps_it_alive() -> None:
    session = inferlite.InferenceSession(make_models.build("passthrough"))
    array = f32(*range(5_000))
    value = inferlite.OrtValue.ortvalue_from_numpy(array)
    same, other = session.run_with_ort_values(None, {"x": value})
    assert same.data_ptr() == value.data_ptr()
    assert other.data_ptr() != value.data_ptr()
    if inferlite.backend == "native":
        del array, value
        gc.collect()
    assert same.numpy()[4_999] == 4_999


def test_absent_optionals_are_values() -> None:
    session = inferlite.InferenceSession(make_models.build("optional_absent"))
    absent, present = session.run_with_ort_values(None, {"x": inferlite.OrtValue.ortvalue_from_numpy(f32(1))})
    assert not absent.has_value()
    assert present.has_value()
    if inferlite.backend == "native":
        assert absent.value() is None
        taker = inferlite.InferenceSession(make_models.build("optional_input"))
        assert not taker.run_with_ort_values(None, {"o": absent})[0].numpy()
        with pytest.raises(PACKAGE.InvalidArgument, match="holds nothing"):
            session.run_with_ort_values(None, {"x": absent})
        for fact in ("data_type", "numpy", "shape", "data_ptr", "element_type", "__dlpack__", "device_name"):
            with pytest.raises(RuntimeError):
                getattr(absent, fact)()


@native
def test_maps_come_out_as_values() -> None:
    session = inferlite.InferenceSession(make_models.build("zipmap"))
    x = np.ones((2, 4), np.float32)
    _, maps = session.run_with_ort_values(None, {"x": inferlite.OrtValue.ortvalue_from_numpy(x)})
    assert maps.data_type() == "seq(map(int64,tensor(float)))"
    assert maps.value() == session.run(None, {"x": x})[1]
    assert not maps.is_tensor_sequence()


def test_values_of_a_session_stay_with_it() -> None:
    session = inferlite.InferenceSession(make_models.identity("float"))
    other = inferlite.InferenceSession(make_models.identity("float"))
    value = session.create_ortvalue_from_shape_and_type([3], np.float32, "cpu")
    value.update_inplace(f32(1, 2, 3))
    assert session.run_with_ort_values(None, {"x": value})[0].numpy().tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="must be used with the session that created it"):
        other.run_with_ort_values(None, {"x": value})
    with pytest.raises(ValueError, match="must be bound to the session that created it"):
        other.io_binding().bind_ortvalue_input("x", value)
    theirs = oracle.reference(make_models.identity("float"))
    for arguments in (([2], 8, "cpu"), ([2], 1, "cuda"), ([2], 1, "cpu", 3)):
        for one in (session, theirs):
            with pytest.raises(RuntimeError):
                one.create_ortvalue_from_shape_and_type(*arguments)


@native
def test_values_of_onnxruntimes_package_are_taken_and_kept_alive() -> None:
    session = inferlite.InferenceSession(make_models.identity("float"))
    array = f32(1, 2, 3)
    theirs = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    (given,) = session.run_with_ort_values(None, {"x": theirs})
    assert given.numpy().tolist() == [1, 2, 3]
    ours = inferlite.OrtValue(theirs._get_c_value())
    assert ours.data_ptr() == array.ctypes.data
    made = onnxruntime.OrtValue.ortvalue_from_shape_and_type([10_000], np.float32)
    made.update_inplace(np.ones(10_000, np.float32))
    ours = inferlite.OrtValue(made._get_c_value())
    del made, theirs
    gc.collect()
    assert ours.numpy().sum() == 10_000
    maker = onnxruntime.InferenceSession(make_models.parse("k (int64[n] x) => (string[n] y) { y = Cast<to = 8>(x) }"))
    (texts,) = maker.run_with_ort_values(None, {"x": onnxruntime.OrtValue.ortvalue_from_numpy(np.arange(3))})
    assert inferlite.OrtValue(texts._get_c_value()).numpy().tolist() == ["0", "1", "2"]
    maker = onnxruntime.InferenceSession(make_models.build("sequence_make"))
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(f32(1)) for name in ("a", "b")}
    (sequence,) = maker.run_with_ort_values(None, values)
    with pytest.raises(RuntimeError, match="another copy of the runtime"):
        inferlite.OrtValue(sequence._get_c_value())


@native
def test_our_values_go_into_onnxruntimes_sessions() -> None:
    theirs = oracle.reference(make_models.identity("float"))
    value = inferlite.OrtValue.ortvalue_from_numpy(f32(1, 2))
    assert theirs.run_with_ort_values(None, {"x": value})[0].numpy().tolist() == [1, 2]
    binding = theirs.io_binding()
    binding.bind_ortvalue_input("x", value)
    binding.bind_output("y")
    theirs.run_with_iobinding(binding)
    assert binding.copy_outputs_to_cpu()[0].tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="DLPack"):
        theirs.run_with_ort_values(None, {"x": inferlite.OrtValue.ortvalue_from_numpy(np.array(["a"]))})


@native
def test_run_takes_our_values_as_it_takes_onnxruntimes() -> None:
    session = inferlite.InferenceSession(make_models.identity("bfloat16"))
    value = inferlite.OrtValue.ortvalue_from_numpy(np.ones(3, ml_dtypes.bfloat16))
    (given,) = session.run(None, {"x": value})
    assert given.tolist() == [1, 1, 1]
    assert given.ctypes.data != value.data_ptr()


def test_vectors_of_values_run_in_order() -> None:
    session = inferlite.InferenceSession(make_models.build("add"))
    feeds, fetches = inferlite.OrtValueVector(), inferlite.OrtValueVector()
    for _ in range(2):
        value = inferlite.OrtValue.ortvalue_from_numpy(np.ones((1, 4), np.float32))
        feeds.push_back(value if inferlite.backend == "native" else value._ortvalue)
    names = [argument.name for argument in session.get_inputs()]
    outputs = [argument.name for argument in session.get_outputs()]
    devices = [onnxruntime.OrtDevice.make("cpu", 0)._get_c_device()]
    session.run_with_ortvaluevector(inferlite.RunOptions(), names, feeds, outputs, fetches, devices)
    assert len(fetches) == 1
    assert fetches[0].numpy().tolist() == [[2.0] * 4]
    assert fetches.element_type_at(0) == 1
    assert len(fetches.to_dlpacks(None)) == 1
    theirs = oracle.reference(make_models.build("add"))
    given, made = PACKAGE.OrtValueVector(), PACKAGE.OrtValueVector()
    kept = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((1, 4), np.float32)) for _ in range(2)]
    for one in kept:
        given.push_back(one._ortvalue)
    theirs.run_with_ortvaluevector(onnxruntime.RunOptions(), names, given, outputs, made, devices)
    oracle.assert_same_value(np.array(fetches[0].numpy()), np.array(made[0].numpy()))
    with pytest.raises(TypeError, match="incompatible function arguments"):
        session.run_with_ortvaluevector(None, names, feeds, outputs, fetches, devices)


@native
def test_vectors_of_onnxruntime_are_taken() -> None:
    session = inferlite.InferenceSession(make_models.identity("float"))
    feeds, fetches = PACKAGE.OrtValueVector(), PACKAGE.OrtValueVector()
    array = f32(1, 2)
    feeds.push_back(onnxruntime.OrtValue.ortvalue_from_numpy(array)._ortvalue)
    session.run_with_ortvaluevector(inferlite.RunOptions(), ["x"], feeds, ["y"], fetches, [])
    assert fetches[0].numpy().tolist() == [1, 2]
    given = inferlite.OrtValueVector([inferlite.OrtValue.ortvalue_from_numpy(np.zeros(2, np.float32))._value])
    place = given[0].data_ptr()
    session.run_with_ortvaluevector(inferlite.RunOptions(), ["x"], feeds, ["y"], given, [])
    assert given[0].numpy().tolist() == [1, 2]
    assert given[0].data_ptr() == place
    for names, values in ((["q"], feeds), (["x", "y"], feeds)):
        with pytest.raises((PACKAGE.InvalidArgument, ValueError)):
            session.run_with_ortvaluevector(inferlite.RunOptions(), names, values, ["y"], fetches, [])


@native
def test_tensors_are_copied_where_onnxruntime_copies_to_devices_alone() -> None:
    def copied(package: Any, *arrays: np.ndarray) -> list[float]:
        source, *targets = [package.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        package.copy_tensors([source], targets)
        return list(targets[0].numpy())

    assert copied(inferlite, f32(1, 2), f32(0, 0)) == [1, 2]
    with pytest.raises(RuntimeError):
        copied(onnxruntime, f32(1, 2), f32(0, 0))
    for arrays in ([f32(1)], [f32(1), np.zeros(1)], [f32(1), f32(0, 0)], [f32(1), f32(0), f32(0)]):
        for package in (inferlite, onnxruntime):
            with pytest.raises(RuntimeError):
                copied(package, *arrays)


def test_many_threads_run_one_value_at_once() -> None:
    session = inferlite.InferenceSession(make_models.identity("float"))
    value = inferlite.OrtValue.ortvalue_from_numpy(f32(1, 2, 3))
    answers: list[list[float]] = []

    def work() -> None:
        given = [session.run_with_ort_values(None, {"x": value})[0] for _ in range(100)]
        answers.extend(value.numpy().tolist() for value in given)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[1.0, 2.0, 3.0]] * 400
