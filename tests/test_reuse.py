"""A session keeps memory from run to run: no answer may show it.

Small inputs and outputs lie in places that later runs use again, sized by what earlier runs have shown.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import make_models
import numpy as np
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
