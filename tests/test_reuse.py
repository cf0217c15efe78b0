"""A session keeps memory from run to run: no answer may show it.

Small inputs and outputs lie in places that later runs use again, sized by what earlier runs have shown.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import pairwise
from typing import Any

import make_models
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, strategies as st

import inferlite
import oracle

pytestmark = pytest.mark.usefixtures("backend")


def _one_thread(model: str | bytes) -> tuple[Any, Any]:
    sessions = []
    for library in (inferlite, onnxruntime):
        options = library.SessionOptions()
        options.intra_op_num_threads = 1
        content = make_models.build(model) if isinstance(model, str) else model
        sessions.append(library.InferenceSession(content, options, providers=["CPUExecutionProvider"]))
    return sessions[0], sessions[1]


BRANCHES = make_models.parse(
    "g (float[n, k] x) => (float[n, k] same, float[n, k] doubled, float[k, n] turned, int64[2] shape) "
    "{ same = Identity(x) doubled = Add(x, x) turned = Transpose(x) shape = Shape(x) }"
)
NAMES = ["same", "doubled", "turned", "shape"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(1, 1), (1, 4), (4, 1), (2, 3), (0, 3), (1, 0), (64, 65)]),
            st.one_of(st.none(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=5)),
        ),
        min_size=1,
        max_size=24,
    )
)
def test_any_order_of_shapes_and_outputs_gives_onnxruntimes_answers(
    calls: list[tuple[tuple[int, int], list[str] | None]],
) -> None:
    ours, theirs = _one_thread(BRANCHES)
    kept = []
    for number, (shape, names) in enumerate(calls):
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + number
        given_, wanted = ours.run(names, {"x": x}), theirs.run(names, {"x": x})
        kept.append((given_, wanted))
    # Compared at the end: a later run must not have changed an earlier answer.
    for given_, wanted in kept:
        oracle.assert_same_value(given_, wanted)


def test_answers_are_private_to_each_call() -> None:
    ours, _ = _one_thread(BRANCHES)
    x = np.ones((2, 3), np.float32)
    answers = [ours.run(None, {"x": x}) for _ in range(8)]
    for one, other in pairwise(answers):
        for a, b in zip(one, other, strict=True):
            assert not np.shares_memory(a, b)
            assert not np.shares_memory(a, x)
    answers[3][0][:] = 7
    assert all((answer[0] == 1).all() for number, answer in enumerate(answers) if number != 3)


def test_an_overridden_initializer_does_not_stick() -> None:
    ours, theirs = _one_thread("default_input")
    plain = {"x": np.ones(2, np.float32)}
    overridden = {**plain, "w": np.float32([3, 4])}
    for feed in [plain, plain, plain, overridden, overridden, overridden, plain, overridden, plain, plain]:
        oracle.compare(ours, theirs, feed)


def test_a_declared_rank_that_lies_costs_nothing_but_speed(caplog: pytest.LogCaptureFixture) -> None:
    text = "g (float[n, 3] x) => (float[n] y) { y = Identity(x) }"
    ours, theirs = _one_thread(make_models.parse(text))
    for rows in [1, 1, 1, 1, 2, 2, 2, 1, 1, 1]:
        oracle.compare(ours, theirs, {"x": np.full((rows, 3), rows, np.float32)})
    assert sum(record.levelname == "ERROR" for record in caplog.records) <= 1


def test_threads_that_run_quick_models_never_see_each_others_answers() -> None:
    ours, _ = _one_thread(BRANCHES)
    for _ in range(10_000):
        ours.run(None, {"x": np.zeros((1, 4), np.float32)})
    wrong: list[Any] = []

    def work(number: int) -> None:
        shape = (1, 4) if number % 2 else (2, 3)
        x = np.full(shape, number, np.float32)
        for _ in range(3_000):
            same, doubled, turned, size = ours.run(None, {"x": x})
            right = (same == x).all() and (doubled == x + x).all() and (turned == x.T).all()
            if not right or tuple(size) != shape:
                wrong.append((number, same))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


HANDED_THROUGH = make_models.parse("g (float[n] x) => (float[n] x, float[n] y) { y = Relu(x) }")
OPTIONAL = make_models.parse("g (optional(float[n]) o) => (optional(float[n]) p) { p = Identity(o) }")
PLAIN = make_models.parse("g (float[n] x) => (float[n] y) { y = Relu(x) }")


def test_an_input_that_is_an_output_is_never_stale() -> None:
    ours, theirs = _one_thread(HANDED_THROUGH)
    call = ours.bind({"x": (x := np.zeros(3, np.float32))})
    for number in range(6):
        x[:] = number
        oracle.compare(ours, theirs, {"x": x})
        oracle.assert_same_value(call(), theirs.run(None, {"x": x}))


def test_an_output_that_is_an_input_cannot_be_overwritten() -> None:
    ours, _ = _one_thread(HANDED_THROUGH)
    x, given_ = np.zeros(3, np.float32), np.ones(3, np.float32)
    message = "output `x` cannot be overwritten: the model hands its input of that name through; ask for it by name"
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        ours.bind({"x": x}, {"x": given_})
    assert str(caught.value) == message


def test_an_absent_optional_gets_no_earlier_answer() -> None:
    ours, theirs = _one_thread(OPTIONAL)
    for feed in [{"o": np.ones(3, np.float32)}] * 4 + [{}, {"o": None}, {"o": np.full(3, 2, np.float32)}, {}]:
        oracle.compare(ours, theirs, feed)


def test_an_overridden_initializer_that_is_an_output_does_not_stick() -> None:
    ours, theirs = _one_thread(
        make_models.parse("g (float[2] x, float[2] w = {7, 8}) => (float[2] w, float[2] y) { y = Add(x, w) }")
    )
    plain = {"x": np.ones(2, np.float32)}
    for feed in [plain] * 4 + [{**plain, "w": np.float32([2, 3])}] * 4 + [plain] * 2:
        oracle.compare(ours, theirs, feed)


@pytest.mark.parametrize("other", [np.arange(3), np.arange(1_000), np.arange(1_000).reshape(-1, 10)])
def test_an_input_named_as_text_and_as_bytes_is_the_first_of_both(other: np.ndarray) -> None:
    ours, theirs = _one_thread(PLAIN)
    x = np.float32([5, 6, 7])
    for _ in range(4):
        oracle.compare(ours, theirs, {"x": x, b"x": other.astype(np.float32)})


def test_an_output_bound_twice_by_name_is_right_in_both_places() -> None:
    ours, theirs = _one_thread(PLAIN)
    x = np.zeros(3, np.float32)
    call = ours.bind({"x": x}, ["y", "y"])
    for number in range(4):
        x[:] = number
        oracle.assert_same_value(call(), theirs.run(["y", "y"], {"x": x}))


def test_names_of_outputs_may_not_move_an_input_while_they_are_read() -> None:
    ours, _ = _one_thread(PLAIN)
    x = np.ones(100_000, np.float32)

    class Names(list[str]):
        def __iter__(self) -> Any:
            # The fallback holds the array still, so that numpy refuses.
            with suppress(ValueError):
                x.resize(3, refcheck=False)
            return iter(["y"])

    for _ in range(3):
        (y,) = ours.run(Names(["y"]), {"x": x})
        assert y.shape == x.shape
        assert (y == 1).all()


TWO = make_models.parse("g (float[n] x) => (float[n] y, float[n] z) { y = Neg(x) z = Exp(x) }")


@pytest.mark.parametrize("case", ["output and input", "two outputs", "parts of two outputs"])
def test_bound_outputs_have_memory_of_their_own(case: str) -> None:
    ours, _ = _one_thread(TWO)
    x, one, two, long = np.float32([1, 2, 3]), np.zeros(3, "f"), np.zeros(3, "f"), np.zeros(5, "f")
    given_, name = {
        "output and input": ({"y": one, "z": x}, "z"),
        "two outputs": ({"y": one, "z": one}, "z"),
        "parts of two outputs": ({"y": long[:3], "z": long[2:]}, "z"),
    }[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        ours.bind({"x": x}, given_)
    assert str(caught.value) == (
        f"output `{name}` cannot be overwritten: its array shares memory with another bound array; pass one of its own"
    )
    assert [y.tolist() for y in ours.bind({"x": x}, {"y": one, "z": two})()] == [one.tolist(), two.tolist()]


def test_a_bound_output_that_became_read_only_is_left_alone() -> None:
    ours, _ = _one_thread(PLAIN)
    x, y = np.ones(3, np.float32), np.zeros(3, np.float32)
    call = ours.bind({"x": x}, {"y": y})
    y.flags.writeable = False
    with pytest.raises(ValueError, match="the array of a bound output has become read-only: bind it anew"):
        call()
    assert y.tolist() == [0, 0, 0]


def test_run_options_without_init_are_refused() -> None:
    ours, _ = _one_thread(PLAIN)

    class Heir(inferlite.RunOptions):
        pass

    for kind in (inferlite.RunOptions, Heir):
        with pytest.raises(RuntimeError, match="the run options are empty: `__init__` has not run"):
            ours.run(None, {"x": np.ones(3, np.float32)}, kind.__new__(kind))


PICKY = make_models.parse("g (float[n] x, int64[k] i) => (float[k] y) { y = Gather(x, i) }")


@pytest.mark.parametrize("is_bound", [False, True])
@pytest.mark.parametrize("good_runs", [0, 1, 5])
def test_a_run_that_fails_is_run_once(
    good_runs: int, is_bound: bool, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = _one_thread(PICKY)
    x, i = np.float32([1, 2, 3]), np.int64([0, 2])
    call = ours.bind({"x": x, "i": i}) if is_bound else lambda: ours.run(None, {"x": x, "i": i})
    for _ in range(good_runs):
        assert call()[0].tolist() == [1, 3]
    i[1] = 99
    wanted = oracle.outcome(lambda: theirs.run(None, {"x": x, "i": i}))
    assert wanted.error is not None
    caplog.clear()
    oracle.assert_same_outcome(oracle.outcome(call), wanted)
    if backend == "native":
        # The runtime logs every run that fails, once.
        assert len(caplog.records) == 1
    i[1] = 1
    assert call()[0].tolist() == [1, 2]


def test_a_terminated_run_is_not_begun_again() -> None:
    ours, _ = _one_thread(PLAIN)
    options = inferlite.RunOptions()
    x = np.ones(3, np.float32)
    for terminate in (False, False, True, False):
        options.terminate = terminate
        outcome = oracle.outcome(lambda: ours.run(None, {"x": x}, options))
        assert (outcome.error is not None) is terminate


@pytest.mark.parametrize("size", [1, 3, 4097])
def test_outputs_of_four_bits_stay_within_their_memory(size: int) -> None:
    packed = bytes(number * 37 % 256 for number in range((size + 1) // 2))
    tensor = onnx.TensorProto(name="y", data_type=onnx.TensorProto.FLOAT4E2M1, dims=[size], raw_data=packed)
    output = onnx.helper.make_tensor_value_info("y", tensor.data_type, [size])
    graph = onnx.helper.make_graph([], "constant", [], [output], [tensor])
    opset = onnx.helper.make_opsetid("", 23)
    model = onnx.helper.make_model(graph, ir_version=11, opset_imports=[opset]).SerializeToString()
    if oracle.outcome(lambda: oracle.reference(model)).error is not None:
        pytest.skip("this onnxruntime has no float4")
    ours, _ = oracle.pair(model)
    for _ in range(4):
        (y,) = ours.run(None, {})
        assert (y.shape, y.dtype) == ((size,), ml_dtypes.float4_e2m1fn)
        items = y.view(np.uint8).tolist()
        assert items == [byte >> shift & 15 for byte in packed for shift in (0, 4)][:size]
