"""Calls with their arrays bound: what is read and written when, what cannot be bound, and who owns what."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

import inferlite
import oracle
from cases import f32, ones

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")


def _session(name: str) -> Any:
    return inferlite.InferenceSession(make_models.path(name), providers=["CPUExecutionProvider"])


def _bound(session: Any, inputs: Any, outputs: Any = None) -> list[Any]:
    """Bind and call at once."""
    return session.bind(inputs, outputs)()


BOUND: dict[str, dict[str, np.ndarray]] = {
    "identity": {"x": ones(2, 3)},
    "mlp": {"x": ones(5, 16)},
    "eight_inputs": {letter: f32(1, 2, 3, 4) * index for index, letter in enumerate("abcdefgh")},
    "eight_outputs": {"x": np.arange(8, dtype=np.float32)},
    "two_outputs": {"x": f32(-1, 1)},
    "zipmap": {"x": ones(2, 4)},
    "scalar": {"x": np.array(3, np.float32)},
}


@pytest.mark.parametrize("name", BOUND)
def test_a_bound_call_gives_what_run_gives(name: str) -> None:
    session = _session(name)
    _, theirs = oracle.pair(name)
    call = session.bind(BOUND[name])
    for _ in range(3):
        oracle.assert_same_value(call(), theirs.run(None, BOUND[name]))


@pytest.mark.parametrize("kind", [kind for kind in make_models.TENSOR_TYPES if kind != "string"])
def test_every_numeric_type_can_be_bound_both_ways(kind: str) -> None:
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    session = inferlite.InferenceSession(make_models.identity(kind))
    x = np.array([[1, 0, 1]], dtype)
    oracle.assert_same_value(session.bind({"x": x})(), [x])
    y = np.zeros_like(x)
    (given,) = session.bind({"x": x}, {"y": y})()
    assert given is y
    oracle.assert_same_value(y, x)


def test_every_call_reads_the_inputs_again() -> None:
    x = ones(1, 4)
    call = _session("double").bind(inputs={"x": x})
    assert call()[0].tolist() == [[2.0] * 4]
    x[:] = 5
    assert call()[0].tolist() == [[10.0] * 4]


def test_outputs_that_are_not_given_are_new_each_time() -> None:
    x = ones(1, 4)
    call = _session("double").bind({"x": x})
    (first,) = call()
    x[:] = 3
    (second,) = call()
    assert first.tolist() == [[2.0] * 4]
    assert second.tolist() == [[6.0] * 4]
    assert not np.shares_memory(first, second)
    first[:] = 0
    assert call()[0].tolist() == [[6.0] * 4]


def test_outputs_that_are_given_are_overwritten_and_returned() -> None:
    x, y = ones(2, 4), np.full((2, 4), 7, np.float32)
    call = _session("double").bind({"x": x}, {"y": y})
    assert y.tolist() == [[7.0] * 4] * 2
    for factor in (1, 5):
        x[:] = factor
        results = call()
        assert isinstance(results, list)
        assert results[0] is y
        assert y.tolist() == [[2.0 * factor] * 4] * 2


def test_large_outputs_are_written_in_place() -> None:
    x, y = np.ones((100_000, 4), np.float32), np.empty((100_000, 4), np.float32)
    address = y.ctypes.data
    (given,) = _session("double").bind({"x": x}, {"y": y})()
    assert given is y
    assert y.ctypes.data == address
    assert y.min() == y.max() == 2


def test_the_order_of_outputs_is_the_callers() -> None:
    session, x = _session("two_outputs"), f32(-1, 1)
    assert [value.tolist() for value in session.bind({"x": x}, ["small", "negative"])()] == [[True, False], [1.0, -1.0]]
    assert [value.tolist() for value in session.bind({"x": x}, ("small",))()] == [[True, False]]
    small, negative = np.empty(2, bool), np.empty(2, np.float32)
    results = session.bind({"x": x}, {"small": small, "negative": negative})()
    assert results[0] is small
    assert results[1] is negative
    assert small.tolist() == [True, False]


def test_one_name_may_be_asked_twice() -> None:
    first, second = _session("double").bind({"x": ones(1, 4)}, ["y", "y"])()
    assert first.tolist() == second.tolist() == [[2.0] * 4]


def test_arrays_without_elements_can_be_bound() -> None:
    (given,) = _session("identity").bind({"x": ones(0, 3)})()
    assert given.shape == (0, 3)
    y = np.empty((0, 3), np.float32)
    assert _session("identity").bind({"x": ones(0, 3)}, {"y": y})()[0] is y


def test_inputs_with_defaults_may_be_bound_or_left_out() -> None:
    session = _session("default_input")
    assert session.bind({"x": f32(1, 1)})()[0].tolist() == [1.0, 2.0]
    weights = f32(3, 4)
    call = session.bind({"x": f32(1, 1), "w": weights})
    assert call()[0].tolist() == [3.0, 4.0]
    weights[:] = 9
    assert call()[0].tolist() == [9.0, 9.0]


def test_an_input_passed_through_is_copied() -> None:
    x = f32(1, 2)
    call = _session("passthrough").bind({"x": x})
    through, _ = call()
    x[:] = 7
    assert through.tolist() == [1.0, 2.0]
    assert not np.shares_memory(through, x)


def test_one_array_may_be_bound_to_two_inputs() -> None:
    a = ones(1, 4)
    assert _session("add").bind({"a": a, "b": a})()[0].tolist() == [[2.0] * 4]


def _unaligned() -> np.ndarray:
    return np.zeros(17, np.uint8)[1:].view(np.float32).reshape(1, 4)


UNBINDABLE: dict[str, Callable[[], Any]] = {
    "another dtype": lambda: np.ones((1, 4)),
    "integers": lambda: np.ones((1, 4), np.int32),
    "another byte order": lambda: np.ones((1, 4), ">f4"),
    "Fortran order": lambda: np.asfortranarray(np.ones((2, 4), np.float32)),
    "strided": lambda: np.ones((1, 8), np.float32)[:, ::2],
    "zero strides": lambda: np.broadcast_to(np.float32(1), (2, 4)),
    "unaligned": _unaligned,
    "list": lambda: [[1.0] * 4],
    "numpy scalar": lambda: np.float32(1),
    "None": lambda: None,
    "strings": lambda: np.array([["a"] * 4]),
    "objects": lambda: np.ones((1, 4), object),
}


WRONG_LAYOUT = (
    "its array is not in C order, aligned and in native byte order; "
    "pass `numpy.ascontiguousarray(...)` of it in native byte order"
)
REASONS = {
    "another dtype": "its dtype is float64, but the model expects float32; pass an array of that dtype",
    "integers": "its dtype is int32, but the model expects float32; pass an array of that dtype",
    "another byte order": WRONG_LAYOUT,
    "Fortran order": WRONG_LAYOUT,
    "strided": WRONG_LAYOUT,
    "zero strides": WRONG_LAYOUT,
    "unaligned": WRONG_LAYOUT,
    "list": "it is <class 'list'>, not an array",
    "numpy scalar": "it is <class 'numpy.float32'>, not an array",
    "None": "it is <class 'NoneType'>, not an array",
    "strings": "its dtype is <U1, but the model expects float32; pass an array of that dtype",
    "objects": "its dtype is object, but the model expects float32; pass an array of that dtype",
}


@pytest.mark.parametrize("value", UNBINDABLE)
def test_an_input_that_cannot_be_bound_is_named_with_the_reason(value: str) -> None:
    with pytest.raises(ValueError, match="cannot be bound") as caught:
        _session("double").bind({"x": UNBINDABLE[value]()})
    assert str(caught.value) == f"input `x` cannot be bound: {REASONS[value]}"


@pytest.mark.parametrize("value", UNBINDABLE)
def test_an_output_that_cannot_be_bound_is_named_with_the_reason(value: str) -> None:
    with pytest.raises(ValueError, match="cannot be bound") as caught:
        _session("double").bind({"x": ones(1, 4)}, {"y": UNBINDABLE[value]()})
    assert str(caught.value) == f"output `y` cannot be bound: {REASONS[value]}"


def test_a_read_only_output_is_refused() -> None:
    y = ones(1, 4)
    y.flags.writeable = False
    with pytest.raises(ValueError, match="read-only") as caught:
        _session("double").bind({"x": ones(1, 4)}, {"y": y})
    assert str(caught.value) == "output `y` cannot be overwritten: its array is read-only; pass a writable one"


def test_a_read_only_input_is_bound() -> None:
    x = ones(1, 4)
    x.flags.writeable = False
    assert _session("double").bind({"x": x})()[0].tolist() == [[2.0] * 4]


@pytest.mark.parametrize(
    ("name", "feed", "kind"),
    [
        ("strings", {"x": np.array(["a"])}, "tensor(string)"),
        ("sequence", {"s": [f32(1)]}, "seq(tensor(float))"),
        ("optional_sequence", {"o": [f32(1)]}, "optional(seq(tensor(float)))"),
    ],
)
def test_only_numbers_can_be_bound(name: str, feed: dict[str, Any], kind: str) -> None:
    with pytest.raises(ValueError, match="cannot be bound") as caught:
        _session(name).bind(feed)
    (given,) = feed
    wanted = f"input `{given}` cannot be bound: it is a {kind}, and only tensors of numbers can; use `run`"
    assert str(caught.value) == wanted


def test_a_missing_input_is_named() -> None:
    with pytest.raises(ValueError, match="missing") as caught:
        _session("add").bind({"a": ones(1, 4)})
    assert str(caught.value) == "input `b` is missing: bind an array to it"


def test_unknown_names_end_as_in_run() -> None:
    session, (_, theirs) = _session("double"), oracle.pair("double")
    x = ones(1, 4)
    oracle.compare_calls(lambda: _bound(session, {"x": x, "q": x}), lambda: theirs.run(None, {"x": x, "q": x}))
    oracle.compare_calls(lambda: _bound(session, {"x": x}, ["zzz"]), lambda: theirs.run(["zzz"], {"x": x}))
    with pytest.raises(Exception, match="zzz") as caught:
        session.bind({"x": x}, {"zzz": x})()
    assert type(caught.value).__name__ == "InvalidArgument"


@pytest.mark.parametrize("inputs", [None, 5, "x", [("x", 1)]])
def test_inputs_that_are_no_mapping_are_a_type_error(inputs: Any) -> None:
    with pytest.raises(TypeError):
        _session("double").bind(inputs)


@pytest.mark.parametrize("outputs", [5, "y", [5]])
def test_outputs_that_are_no_names_are_refused(outputs: Any) -> None:
    with pytest.raises(TypeError) as caught:
        _session("double").bind({"x": ones(1, 4)}, outputs)
    assert str(caught.value) == (
        f"`outputs` must be a sequence of names or a mapping of names to arrays, not {type(outputs)}"
    )


@pytest.mark.parametrize("shape", [(1, 3), (4,), (1, 1, 4)])
def test_a_wrong_input_shape_ends_as_in_run(shape: tuple[int, ...]) -> None:
    session, (_, theirs) = _session("double"), oracle.pair("double")
    x = np.ones(shape, np.float32)
    oracle.compare_calls(lambda: _bound(session, {"x": x}), lambda: theirs.run(None, {"x": x}))


@pytest.mark.parametrize("shape", [(1, 3), (4,), (2, 4), (1, 1, 4), (0, 4)])
def test_an_output_of_a_wrong_shape_is_refused_and_not_written(shape: tuple[int, ...]) -> None:
    y = np.full(shape, 7, np.float32)
    with pytest.raises(Exception, match=r".") as caught:
        _session("double").bind({"x": ones(1, 4)}, {"y": y})()
    assert type(caught.value).__name__ in ("InvalidArgument", "Fail", "ValueError", "RuntimeException", "RuntimeError")
    assert y.tolist() == np.full(shape, 7, np.float32).tolist()


def test_a_failing_node_ends_as_in_run_and_the_call_goes_on() -> None:
    session, (_, theirs) = _session("reshape"), oracle.pair("reshape")
    x, shape = ones(4), np.array([3, 1])
    call = session.bind({"x": x, "shape": shape})
    oracle.compare_calls(call, lambda: theirs.run(None, {"x": x, "shape": shape}))
    shape[:] = (2, 2)
    assert call()[0].shape == (2, 2)


def test_outputs_may_change_their_shape_from_call_to_call() -> None:
    shape = np.array([2, 2])
    call = _session("reshape").bind({"x": ones(4), "shape": shape})
    (first,) = call()
    shape[:] = (4, 1)
    (second,) = call()
    assert first.shape == (2, 2)
    assert second.shape == (4, 1)


def test_a_declared_rank_that_is_a_lie_disturbs_no_call() -> None:
    call = _session("lying").bind({"x": ones(2, 2)})
    for _ in range(3):
        assert call()[0].shape == (1, 2, 2)


def _slow_call() -> Callable[[], list[np.ndarray]]:
    session = inferlite.InferenceSession(
        make_models.parse("g (float[n] x) => (float[n] y) { a = Tan(x) b = Tan(a) c = Tan(b) d = Tan(c) y = Tan(d) }"),
        hold_gil=False,
    )
    return session.bind({"x": np.ones(2_000_000, np.float32)})


def test_two_threads_in_one_call_at_once_are_refused() -> None:
    call = _slow_call()

    def attempt() -> str | None:
        try:
            call()
        except RuntimeError as error:
            return str(error)
        return None

    refusals: set[str | None] = set()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            refusals |= {done.result() for done in [pool.submit(attempt), pool.submit(attempt)]}
            if refusals - {None}:
                break
    assert refusals - {None} == {"a bound call runs once at a time; bind once per thread"}
    assert len(call()) == 1


def test_each_thread_has_its_own_call() -> None:
    session = _session("mlp")
    _, theirs = oracle.pair("mlp")

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((3, 16)).astype(np.float32)
        call = session.bind({"x": x})
        wanted = theirs.run(None, {"x": x})
        for _ in range(100):
            oracle.assert_same_value(call(), wanted)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, seed) for seed in range(8)]:
            done.result()


def test_a_call_keeps_its_session_and_arrays_alive() -> None:
    session, x, y = _session("double"), ones(1, 4), np.empty((1, 4), np.float32)
    call = session.bind({"x": x}, {"y": y})
    alive = [weakref.ref(x), weakref.ref(y)]
    del session, x, y
    gc.collect()
    assert call()[0].tolist() == [[2.0] * 4]
    del call
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_results_survive_the_call_and_the_session() -> None:
    session = _session("double")
    call = session.bind({"x": ones(1000, 4)})
    (given,) = call()
    del call, session
    gc.collect()
    assert given.min() == given.max() == 2


def test_a_bound_array_cannot_be_resized_away() -> None:
    x = np.ones(1000, np.float32)
    call = _session("passthrough").bind({"x": x})
    with pytest.raises(ValueError, match="resize"):
        x.resize(5_000_000)
    assert call()[0].shape == (1000,)


@pytest.mark.parametrize("role", ["input", "output"])
def test_a_bound_array_whose_memory_was_exchanged_is_refused(role: str) -> None:
    session = inferlite.InferenceSession(make_models.parse("g (float[n] x) => (float[n] y) { y = Neg(x) }"))
    x, y = np.ones(1000, np.float32), np.zeros(1000, np.float32)
    call = session.bind({"x": x}, {"y": y})
    array = x if role == "input" else y
    # What `pickle` uses to fill an array: it frees the memory that the array had.
    array.__setstate__((1, (3,), np.dtype(np.float32), False, bytes(12)))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="the memory of a bound array has been exchanged: bind it anew"):
        call()


def test_a_call_takes_no_arguments() -> None:
    call = _session("double").bind({"x": ones(1, 4)})
    with pytest.raises(TypeError):
        call(1)


def _session_of_negation(kind: str) -> Any:
    return inferlite.InferenceSession(make_models.parse(f"g ({kind}[n] x) => ({kind}[n] y) {{ y = Neg(x) }}"))


@pytest.mark.parametrize("size", [4, 1000, 20_000])
def test_bound_memory_of_another_type_is_refused_even_where_it_lies_in_the_same_place(size: int) -> None:
    for _ in range(20):
        x, y = np.ones(size), np.zeros(size)
        call = _session_of_negation("double").bind({"x": x}, {"y": y})
        y.__setstate__((1, (size,), np.dtype(">i2"), False, bytes(2 * size)))  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="the memory of a bound array has been exchanged: bind it anew"):
            call()


def test_a_bound_view_is_refused_once_the_memory_it_looks_into_was_exchanged() -> None:
    base = np.ones(1000, np.float32)
    call = _session_of_negation("float").bind({"x": base[:]})
    base.__setstate__((1, (2,), np.dtype(np.float32), False, bytes(8)))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="the memory of a bound array has been exchanged: bind it anew"):
        call()


def test_a_call_that_its_own_array_holds_is_collected() -> None:
    class Holding(np.ndarray):
        call: Any

    session = _session_of_negation("float")
    gone = []
    for _ in range(3):
        array = np.ones(4, np.float32).view(Holding)
        array.call = session.bind({"x": array})
        gone.append(weakref.ref(array))
        del array
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3
