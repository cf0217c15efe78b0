"""Calls that are answered later: futures, and answers in order, on both back ends."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, as_completed, wait
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

import child
import inferlite
from cases import f32
from inferlite import Batching, _futures
from inferlite.exceptions import DeadlineExceededError, InvalidInputError, ModelClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
TWO = make_models.parse(
    "two (float[2, n] x, float[1] scale) => (float[2, n] a, float[n] b) "
    "<int64[1] first = {0}> { a = Mul(x, scale) b = ReduceSum<keepdims = 0>(x, first) }"
)
# Goes on for as many rounds as the caller says.
ROUNDS = make_models.parse(
    "rounds (float[n] x, int64 rounds) => (float[n] y) <bool yes = {1}> "
    "{ y = Loop<body = body (int64 i, bool go, float[m] v) => (bool go_on, float[m] w) "
    "{ go_on = Identity(go) w = Identity(v) }>(rounds, yes, x) }"
)


def _endless(number: int) -> dict[str, Any]:
    # No two share a batch, which would go on although all its members have left.
    return {"x": f32(number), "rounds": np.array(2**60 + number, np.int64)}


@pytest.fixture(params=["plain", "batched"])
def batching(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "plain":
        return {}
    return {"batching": Batching(max_rows=64), "rows_independent": True}


def test_a_future_has_the_answer_or_what_predict_raises(batching: dict[str, Any]) -> None:
    model = inferlite.load(DOUBLE, **batching)
    futures = {model.submit(f32(number)): number for number in range(200)}
    for future in as_completed(futures, 30):
        assert future.result().tolist() == [2.0 * futures[future]]
    assert model.submit(x=f32(1.0), outputs=["y"], timeout=30).result(30).tolist() == [2.0]
    assert isinstance(model.submit("no").exception(30), InvalidInputError)
    with pytest.raises(ValueError, match="`timeout` must be at least 0 seconds"):
        model.submit(f32(1.0), timeout=-1).result(30)
    model.close()
    assert isinstance(model.submit(f32(1.0)).exception(30), ModelClosedError)


def test_a_future_ends_at_its_deadline_and_when_it_is_cancelled(batching: dict[str, Any]) -> None:
    model = inferlite.load(ROUNDS, **batching)
    for number in range(6):
        future = model.submit(_endless(number))
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(30)
    late = [model.submit(_endless(number), timeout=0.02) for number in range(6)]
    assert not wait(late, 30).not_done
    for future in late:
        with pytest.raises(DeadlineExceededError, match=r"^model `rounds` did not answer within 0\.02 s$"):
            future.result()
    # Each run has made room for the next.
    answered = model.submit(x=f32(1.0), rounds=np.array(1, np.int64))
    assert answered.result(30).tolist() == [1.0]
    assert not answered.cancel()


def test_deadlines_need_no_thread_once_they_are_over() -> None:
    model = inferlite.load(DOUBLE)
    model.submit(f32(1.0), timeout=60).result(30)
    for thread in threading.enumerate():
        if thread.name == "inferlite-deadlines":
            thread.join(30)
    assert all(thread.name != "inferlite-deadlines" for thread in threading.enumerate())


def test_answers_come_in_the_order_of_the_items(batching: dict[str, Any]) -> None:
    model = inferlite.load(DOUBLE, **batching)
    given = model.map((f32(number) for number in range(1_000)), timeout=60)
    assert [answer.tolist() for answer in given] == [[2.0 * number] for number in range(1_000)]
    assert list(model.map([])) == []


def test_items_are_read_as_answers_are_taken(batching: dict[str, Any]) -> None:
    model = inferlite.load(DOUBLE, **batching)
    read = 0
    closed = False

    def items() -> Iterator[Any]:
        nonlocal read, closed
        try:
            while True:
                read += 1
                yield f32(read)
        finally:
            closed = True

    source = items()
    given: Any = model.map(source)
    for number in range(1, 4):
        assert next(given).tolist() == [2.0 * number]
    assert read <= _futures.WINDOW + 3
    given.close()
    source.close()
    assert closed


def test_closing_cancels_what_is_under_way(batching: dict[str, Any]) -> None:
    model = inferlite.load(ROUNDS, **batching)
    one = {"x": f32(1.0), "rounds": np.array(1, np.int64)}
    given: Any = model.map([one, *(_endless(number) for number in range(5)), *[one] * _futures.WINDOW])
    assert next(given).tolist() == [1.0]
    given.close()
    assert model.submit(one).result(30).tolist() == [1.0]


def test_an_error_ends_the_answers_at_its_place(batching: dict[str, Any]) -> None:
    model = inferlite.load(DOUBLE, **batching)
    given = model.map([f32(1.0), "no", f32(2.0)])
    assert next(given).tolist() == [2.0]
    with pytest.raises(InvalidInputError):
        next(given)
    assert list(given) == []


def test_a_full_line_is_waited_for() -> None:
    model = inferlite.load(DOUBLE, batching=Batching(max_rows=2, max_queue=4), rows_independent=True)
    given = model.map(f32(number) for number in range(500))
    assert [answer.tolist() for answer in given] == [[2.0 * number] for number in range(500)]


def test_rows_have_no_batch_axis(batching: dict[str, Any]) -> None:
    model = inferlite.load(make_models.path("mlp"), **batching)
    width = model.signature.inputs[0].shape[1]
    table = np.random.default_rng(0).standard_normal((50, width), np.float32)
    given = np.stack(list(model.map_rows(table)))
    np.testing.assert_allclose(given, model(table), rtol=1e-5, atol=1e-6)
    as_lists = list(model.map_rows({model.signature.inputs[0].name: row} for row in table))
    np.testing.assert_allclose(given, as_lists, rtol=1e-5, atol=1e-6)


def test_rows_are_where_they_were_declared_to_be(batching: dict[str, Any]) -> None:
    axes = {"x": 1, "scale": None, "a": 1, "b": 0}
    model = inferlite.load(TWO, batch_axes=axes, **batching)
    rows = [{"x": f32(number, 1.0), "scale": f32(3.0)} for number in range(5)]
    for number, given in enumerate(model.map_rows(rows)):
        assert given["a"].tolist() == [3.0 * number, 3.0]
        assert float(given["b"]) == number + 1.0
    assert [answer.tolist() for answer in model.map_rows(rows, outputs="b")] == [number + 1.0 for number in range(5)]


def test_futures_and_maps_load_no_second_runtime(native_environment: dict[str, str]) -> None:
    code = """
        import sys, numpy, inferlite, committed
        model = inferlite.load(committed.path("double"))
        x = numpy.ones((1, 4), numpy.float32)
        assert model.submit(x, timeout=60).result().tolist() == [[2.0] * 4]
        assert len(list(model.map([x, x]))) == len(list(model.map_rows([x[0]] * 2))) == 2
        assert "onnxruntime" not in sys.modules
    """
    child.run(code, native_environment)
