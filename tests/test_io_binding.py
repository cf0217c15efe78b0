"""`IOBinding` as onnxruntime's, and safe where onnxruntime crashes."""

from __future__ import annotations

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
pytestmark = pytest.mark.usefixtures("backend")

# What the values of older releases lack, nothing can be compared with.
KNOWN_RUNTIME = Version(onnxruntime.__version__).release[:2] >= (1, 32)
compared = pytest.mark.skipif(not KNOWN_RUNTIME, reason="onnxruntime before 1.32 ends otherwise, or has no such method")


def both(model: str | bytes, steps: Any) -> None:
    """Do the same with a session of each package; it ends alike, with equal results.

    Args:
        model: A name of make_models, or a model's bytes.
        steps: Takes the package and its session.
    """
    ours, theirs = oracle.pair(model)
    given = oracle.outcome(lambda: steps(inferlite, ours))
    wanted = oracle.outcome(lambda: steps(onnxruntime, theirs))
    if wanted.error is not None:
        # Texts of the binding's own, and lines of its sources, are worded anew.
        assert type(given.error) is type(wanted.error), (given, wanted)
        return
    oracle.assert_same_outcome(given, wanted)


def bound(session: Any, x: np.ndarray) -> Any:
    """A binding of `x` and `y`."""
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    return binding


def test_outputs_are_overwritten_by_the_next_run() -> None:
    def steps(_: Any, session: Any) -> list[Any]:
        x = f32(1, 2, 3)
        binding = bound(session, x)
        session.run_with_iobinding(binding)
        first = binding.get_outputs()[0]
        seen = [first.numpy().copy(), binding.copy_outputs_to_cpu()]
        x[0] = 9
        session.run_with_iobinding(binding)
        assert binding.get_outputs()[0].data_ptr() == first.data_ptr()
        return [*seen, first.numpy().copy(), binding.copy_outputs_to_cpu()]

    both(make_models.identity("float"), steps)


def test_another_shape_needs_outputs_bound_anew() -> None:
    def steps(_: Any, session: Any) -> list[Any]:
        binding = bound(session, f32(1, 2, 3))
        session.run_with_iobinding(binding)
        binding.bind_cpu_input("x", f32(1))
        with pytest.raises(RuntimeError, match="pre-allocated output OrtValues"):
            session.run_with_iobinding(binding)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    both(make_models.identity("float"), steps)


@compared
def test_what_is_bound_anew_after_runs_is_what_runs() -> None:
    def steps(package: Any, session: Any) -> list[Any]:
        binding = bound(session, f32(1, 2))
        session.run_with_iobinding(binding)
        session.run_with_iobinding(binding)
        first = binding.get_outputs()[0]
        binding.bind_cpu_input("x", f32(3, 4))
        session.run_with_iobinding(binding)
        seen = [first.numpy().copy()]
        given = package.OrtValue.ortvalue_from_numpy(f32(0, 0))
        binding.bind_ortvalue_output("y", given)
        binding.bind_ortvalue_input("x", package.OrtValue.ortvalue_from_numpy(f32(5, 6)))
        session.run_with_iobinding(binding)
        seen += [first.numpy().copy(), given.numpy().copy()]
        binding.clear_binding_outputs()
        with pytest.raises(RuntimeError):
            session.run_with_iobinding(binding)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        seen += binding.copy_outputs_to_cpu()
        binding.clear_binding_inputs()
        with pytest.raises(RuntimeError):
            session.run_with_iobinding(binding)
        return seen

    both(make_models.identity("float"), steps)


def test_outputs_go_where_they_are_told() -> None:
    def steps(package: Any, session: Any) -> list[Any]:
        place, value = np.zeros(3, np.float32), package.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32))
        binding = session.io_binding()
        x = f32(1, 2, 3)
        binding.bind_input("x", "cpu", 0, np.float32, (3,), x.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, (3,), place.ctypes.data)
        session.run_with_iobinding(binding)
        binding.bind_ortvalue_input("x", package.OrtValue.ortvalue_from_numpy(f32(4, 5, 6)))
        binding.bind_ortvalue_output("y", value)
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return [place, value.numpy().copy(), len(binding.get_outputs_as_ortvaluevector())]

    both(make_models.identity("float"), steps)


@pytest.mark.parametrize("device", ["cpu", "cuda", "dml", "npu", "gpu", "webgpu", "cann", "xyz", "CPU", "", 1, None])
def test_outputs_that_the_run_makes_lie_where_it_can_place_them(device: Any) -> None:
    def steps(_: Any, session: Any) -> list[Any]:
        binding = session.io_binding()
        binding.bind_cpu_input("x", f32(1, 2, 3))
        binding.bind_output("y", device)
        session.run_with_iobinding(binding)
        (output,) = binding.get_outputs()
        return [output.device_name(), output.numpy()]

    both(make_models.identity("float"), steps)


def _attempt(name: str) -> Any:
    """One thing to do with a fresh binding."""
    x = f32(1, 2, 3)
    return {
        "unknown input": lambda _, binding: binding.bind_cpu_input("zz", x),
        "unknown input, value": lambda package, binding: binding.bind_ortvalue_input(
            "zz", package.OrtValue.ortvalue_from_numpy(x)
        ),
        "unknown input, address": lambda _, binding: binding.bind_input("zz", "cpu", 0, 1, (3,), x.ctypes.data),
        "unknown output": lambda _, binding: binding.bind_output("zz"),
        "None": lambda _, binding: binding.bind_cpu_input("x", None),
        "None as value": lambda _, binding: binding.bind_ortvalue_input("x", None),
        "None as output": lambda _, binding: binding.bind_ortvalue_output("y", None),
        "array as value": lambda _, binding: binding.bind_ortvalue_input("x", x),
        "strings at an address": lambda _, binding: binding.bind_input("x", "cpu", 0, np.str_, (3,), x.ctypes.data),
        "negative shape": lambda _, binding: binding.bind_input("x", "cpu", 0, np.float32, (-3,), x.ctypes.data),
        "cuda": lambda _, binding: binding.bind_input("x", "cuda", 0, np.float32, (3,), x.ctypes.data),
        "no such device": lambda _, binding: binding.bind_output("y", "xyz"),
        "no type": lambda _, binding: binding.bind_output("y", buffer_ptr=x.ctypes.data),
        "outputs of nothing": lambda _, binding: len(binding.get_outputs()),
        "copies of nothing": lambda _, binding: binding.copy_outputs_to_cpu(),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "unknown input",
        "unknown input, value",
        "unknown input, address",
        "unknown output",
        "None",
        "None as value",
        "None as output",
        "array as value",
        pytest.param("strings at an address", marks=compared),
        "negative shape",
        "cuda",
        "no such device",
        "no type",
        "outputs of nothing",
        "copies of nothing",
    ],
)
def test_bindings_that_cannot_be_end_as_onnxruntimes(name: str) -> None:
    both(make_models.identity("float"), lambda package, session: _attempt(name)(package, session.io_binding()))


@compared
def test_runs_that_cannot_be_end_as_onnxruntimes() -> None:
    def without_outputs(_: Any, session: Any) -> None:
        binding = session.io_binding()
        binding.bind_cpu_input("x", f32(1))
        session.run_with_iobinding(binding)

    def with_an_unknown_output(_: Any, session: Any) -> None:
        binding = bound(session, f32(1))
        binding.bind_output("zz")
        session.run_with_iobinding(binding)

    def with_another_dtype(_: Any, session: Any) -> None:
        session.run_with_iobinding(bound(session, np.ones(3)))

    def with_cleared_outputs(_: Any, session: Any) -> None:
        binding = bound(session, f32(1))
        binding.clear_binding_outputs()
        session.run_with_iobinding(binding)

    def with_cleared_inputs(_: Any, session: Any) -> None:
        binding = bound(session, f32(1))
        binding.clear_binding_inputs()
        session.run_with_iobinding(binding)

    def of_another_session(package: Any, session: Any) -> None:
        other = package.InferenceSession(make_models.identity("float"))
        session.run_with_iobinding(bound(other, f32(1)))

    def of_nothing(_: Any, session: Any) -> None:
        session.run_with_iobinding(None)

    for steps in (
        without_outputs,
        with_an_unknown_output,
        with_another_dtype,
        with_cleared_outputs,
        with_cleared_inputs,
        of_another_session,
        of_nothing,
    ):
        both(make_models.identity("float"), steps)


@oracle.proves("`IOBinding.copy_outputs_to_cpu` before a run")
def test_outputs_before_a_run_say_what_to_do() -> None:
    binding = bound(inferlite.InferenceSession(make_models.identity("float")), f32(1))
    wanted = r"output `y` has no value yet: call `session.run_with_iobinding\(binding\)` first"
    for look in (binding.copy_outputs_to_cpu, binding.get_outputs, binding.get_outputs_as_ortvaluevector):
        with pytest.raises(RuntimeError, match=wanted):
            look()


def test_an_input_that_is_not_bound_is_named() -> None:
    session = inferlite.InferenceSession(make_models.build("add"))
    binding = session.io_binding()
    names = [argument.name for argument in session.get_inputs()]
    binding.bind_cpu_input(names[0], np.ones((1, 4), np.float32))
    binding.bind_output(session.get_outputs()[0].name)
    with pytest.raises(RuntimeError, match=f"Error in execution: input `{names[1]}` is not bound"):
        session.run_with_iobinding(binding)


def test_an_output_that_is_an_input_follows_it() -> None:
    def steps(_: Any, session: Any) -> list[Any]:
        binding = session.io_binding()
        binding.bind_output("x")
        binding.bind_output("y")
        seen = []
        for x in (f32(1, 2), f32(3, 4)):
            binding.bind_cpu_input("x", x)
            session.run_with_iobinding(binding)
            seen.append(binding.copy_outputs_to_cpu())
        return seen

    both("passthrough", steps)


@oracle.proves("strings and sequences in an IOBinding")
@native
def test_everything_that_run_takes_is_bound() -> None:
    strings = inferlite.InferenceSession(make_models.build("strings"))
    binding = strings.io_binding()
    name = strings.get_outputs()[0].name
    binding.bind_output(name)
    first = None
    for texts in (["a", "b\0c"], ["日本"]):
        binding.bind_cpu_input("x", np.array(texts, object))
        strings.run_with_iobinding(binding)
        assert binding.copy_outputs_to_cpu()[0].tolist() == texts
        # Strings are made anew, since somebody may be reading the ones before.
        assert first is None or first.numpy().tolist() == ["a", "b\0c"]
        first = first or binding.get_outputs()[0]
    sequence = inferlite.InferenceSession(make_models.build("sequence"))
    binding = sequence.io_binding()
    binding.bind_output("t")
    for items in ([f32(1)], [f32(1, 2), f32(3)], []):
        binding.bind_cpu_input("s", items)
        sequence.run_with_iobinding(binding)
        assert [item.tolist() for item in binding.copy_outputs_to_cpu()[0]] == [item.tolist() for item in items]
    narrow = inferlite.InferenceSession(make_models.identity("bfloat16"))
    x = np.array([1, 2], ml_dtypes.bfloat16)
    binding = bound(narrow, x)
    narrow.run_with_iobinding(binding)
    assert binding.copy_outputs_to_cpu()[0].dtype == ml_dtypes.bfloat16
    floats = inferlite.InferenceSession(make_models.identity("float"))
    binding = bound(floats, [1.0, 2.0])
    floats.run_with_iobinding(binding)
    assert binding.copy_outputs_to_cpu()[0].tolist() == [1, 2]


@fallback
@pytest.mark.parametrize(
    ("model", "value"),
    [
        (make_models.build("strings"), np.array(["a"], object)),
        (make_models.build("sequence"), [f32(1)]),
        (make_models.identity("bfloat16"), np.ones(1, ml_dtypes.bfloat16)),
    ],
    ids=["strings", "sequence", "bfloat16"],
)
def test_the_fallback_says_what_it_cannot_bind(model: bytes, value: Any) -> None:
    session = inferlite.InferenceSession(model)
    with pytest.raises(BackendUnavailableError):
        session.io_binding().bind_cpu_input(session.get_inputs()[0].name, value)


@native
def test_a_binding_of_onnxruntimes_class_runs_on_its_package() -> None:
    session = inferlite.InferenceSession(make_models.identity("float"))
    binding = onnxruntime.IOBinding(session)
    binding.bind_cpu_input("x", f32(1, 2))
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    assert binding.copy_outputs_to_cpu()[0].tolist() == [1, 2]


@native
def test_options_end_a_run_of_bound_values() -> None:
    session = inferlite.InferenceSession(make_models.identity("float"))
    binding = bound(session, f32(1))
    for package in (inferlite, onnxruntime):
        options = package.RunOptions()
        options.terminate = True
        with pytest.raises(RuntimeError, match="terminate flag"):
            session.run_with_iobinding(binding, options)
        value = inferlite.OrtValue.ortvalue_from_numpy(f32(1))
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="terminate flag"):
            session.run_with_ort_values(None, {"x": value}, options)
    for wrong in (3, "a", object()):
        with pytest.raises((TypeError, AttributeError)):
            session.run_with_iobinding(binding, wrong)


@native
def test_strings_are_not_written_into() -> None:
    session = inferlite.InferenceSession(make_models.build("strings"))
    binding = session.io_binding()
    value = inferlite.OrtValue.ortvalue_from_numpy(np.array(["a"]))
    with pytest.raises(RuntimeError, match="only tensors of numbers keep their memory"):
        binding.bind_ortvalue_output(session.get_outputs()[0].name, value)


@native
def test_an_address_must_be_one() -> None:
    binding = inferlite.InferenceSession(make_models.identity("float")).io_binding()
    x = f32(1, 2)
    for address, shape in ((0, (2,)), (x.ctypes.data + 1, (1,)), (x.ctypes.data, (2**62, 2**62))):
        with pytest.raises(RuntimeError):
            binding.bind_input("x", "cpu", 0, np.float32, shape, address)
        with pytest.raises(RuntimeError):
            binding.bind_output("y", "cpu", 0, np.float32, shape, address)


@native
def test_a_binding_needs_a_session_of_its_own() -> None:
    for session in (None, oracle.reference(make_models.identity("float"))):
        with pytest.raises(TypeError, match="needs a session"):
            inferlite.IOBinding(session)
