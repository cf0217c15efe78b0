"""The ONNX backend test suite: inferlite ends as onnxruntime does on each of its cases, bit for bit, or passes it.

The cases come in batches, since a test of pytest's costs about as much as a case: a batch reports every case in it that
fails. Both back ends run all of them; the answers of onnxruntime are computed once for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnxruntime
import pytest
from packaging.version import Version

import inferlite
import onnx_suite
import oracle
from inferlite.exceptions import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

COUNT = 32
# Every other one of them is quick enough for each day; cases of one operator are in many.
BATCHES = [pytest.param(batch, marks=pytest.mark.slow) if batch % 2 else batch for batch in range(COUNT)]
CASES = 2_033
# Passing with onnxruntime 1.32; older ones lack operators. The suite of another onnx has other cases.
PASSING = {"run": 1_698, "run_with_ort_values": 1_651, "run_with_iobinding": 1_656}
PASSING_NATIVE = 1_849
KNOWN_SUITE = Version(onnx.__version__).release[:2] == (1, 23)
KNOWN_RUNTIME = Version(onnxruntime.__version__).release[:2] >= (1, 32)


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("batch", BATCHES)
def test_cases_end_as_onnxruntime_bit_for_bit(backend: str, batch: int) -> None:
    cases = onnx_suite.load()
    failures = []
    for index in range(batch, len(cases), COUNT):
        if not KNOWN_RUNTIME and "INT2" in cases[index].name:
            continue  # The C interface of onnxruntime 1.24 takes int2 for uint2.
        given = onnx_suite.end(cases[index], inferlite)
        try:
            _assert_as_good(cases[index], given, onnx_suite.judged(index))
        except AssertionError as error:
            failures.append(f"{cases[index].name} on {backend}: {error}")
    assert not failures, f"{len(failures)} cases of this batch fail:\n" + "\n".join(failures)


def _assert_as_good(case: onnx_suite.Case, given: oracle.Outcome, wanted: oracle.Outcome) -> None:
    """The same ending, unless it is what ONNX expects, or says that only the native back end can do this."""
    if isinstance(given.error, BackendUnavailableError):
        assert isinstance(wanted.error, RuntimeError)
    elif onnx_suite.passes(case, wanted) or not onnx_suite.passes(case, given):
        oracle.assert_same_outcome(given, wanted)


@pytest.mark.skipif(not KNOWN_SUITE, reason="another version of onnx generates another suite")
def test_the_suite_is_complete() -> None:
    assert len(onnx_suite.load()) == CASES


@pytest.mark.slow
@pytest.mark.skipif(not (KNOWN_SUITE and KNOWN_RUNTIME), reason="counted with onnx 1.23 and onnxruntime 1.32")
@pytest.mark.parametrize("way", onnx_suite.WAYS)
def test_onnxruntime_passes_what_it_is_known_to_pass(way: str) -> None:
    cases = onnx_suite.load()
    ended = (
        onnx_suite.judged(index) if way == "run" else onnx_suite.end(case, onnxruntime, way)
        for index, case in enumerate(cases)
    )
    assert _passing(ended) >= PASSING[way]


@pytest.mark.slow
@pytest.mark.skipif(not (KNOWN_SUITE and KNOWN_RUNTIME), reason="counted with onnx 1.23 and onnxruntime 1.32")
@pytest.mark.parametrize("way", onnx_suite.WAYS)
def test_inferlite_passes_what_it_is_known_to_pass(way: str, backend: str) -> None:
    ended = (onnx_suite.end(case, inferlite, way) for case in onnx_suite.load())
    assert _passing(ended) >= (PASSING_NATIVE if backend == "native" else PASSING[way])


def _passing(ended: Iterable[oracle.Outcome]) -> int:
    return sum(onnx_suite.passes(case, outcome) for case, outcome in zip(onnx_suite.load(), ended, strict=True))


def test_a_wrong_answer_does_not_count_as_passing() -> None:
    cases = onnx_suite.load()
    index = next(index for index, case in enumerate(cases) if case.name == "node/test_abs")
    ended = onnx_suite.judged(index)
    assert onnx_suite.passes(cases[index], ended)
    wrong = oracle.Outcome(value=[[[-value for value in outputs] for outputs in runs] for runs in ended.value])
    assert not onnx_suite.passes(cases[index], wrong)
    assert not onnx_suite.passes(cases[index], oracle.Outcome(error=ValueError("x")))
