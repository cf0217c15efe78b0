"""Who holds the GIL and when: long runs never stop other threads, and the runtime's log never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest

import inferlite
import oracle
from cases import f32, ones

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

pytestmark = pytest.mark.usefixtures("backend")

# Seconds of a run that is called long.
LONG = 0.5
TICK = 0.005
# A tenth of the ticks that an idle machine gives meanwhile; a held GIL leaves one or two.
ENOUGH_TICKS = 10

# A few microseconds on one row, and as long as one likes on enough of them: tangents take long and cannot be shortened.
TANGENTS = "a = Tan(x) b = Tan(a) c = Tan(b) d = Tan(c) "
BY_SIZE = f"g (float[n] x) => (float[n] y) {{ {TANGENTS} y = Tan(d) }}"
# The time depends on the value of the input while its size stays the same.
BY_VALUE = f"g (int64[1] shape) => (float y) {{ x = ConstantOfShape(shape) {TANGENTS} y = ReduceMax<keepdims = 0>(d) }}"


class Ticker:
    """A thread that wants the GIL every 5 ms and counts how often it got it."""

    def __init__(self) -> None:
        """Start with no ticks."""
        self.ticks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            self.ticks += 1

    def __enter__(self) -> Self:
        """Start ticking."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop ticking."""
        self._stop.set()
        self._thread.join()


def _one_thread(**extras: Any) -> dict[str, Any]:
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 1
    return {"sess_options": options, "providers": ["CPUExecutionProvider"], **extras}


def _count_that_takes(seconds: float, text: str, name: str, make: Any) -> int:
    """How many elements keep onnxruntime busy for so long with this graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(make_models.parse(text), options)
    count = 200_000
    session.run(None, {name: make(count)})
    started = time.perf_counter()
    session.run(None, {name: make(count)})
    return int(count * seconds / (time.perf_counter() - started))


@pytest.mark.slow_on_fallback
def test_a_long_run_after_many_short_ones_leaves_other_threads_alive() -> None:
    count = _count_that_takes(1.0, BY_SIZE, "x", lambda count: np.ones(count, np.float32))
    session = inferlite.InferenceSession(make_models.parse(BY_SIZE), **_one_thread())
    row, many = f32(1), np.ones(count, np.float32)
    for _ in range(5_000):
        session.run(None, {"x": row})
    with Ticker() as ticker:
        session.run(None, {"x": many})
    assert ticker.ticks >= ENOUGH_TICKS


@pytest.mark.slow_on_fallback
def test_a_long_bound_call_after_many_short_ones_leaves_other_threads_alive() -> None:
    count = _count_that_takes(LONG, BY_SIZE, "x", lambda count: np.ones(count, np.float32))
    session = inferlite.InferenceSession(make_models.parse(BY_SIZE), **_one_thread())
    short, long = session.bind({"x": f32(1)}), session.bind({"x": np.ones(count, np.float32)})
    for _ in range(5_000):
        short()
    with Ticker() as ticker:
        long()
    assert ticker.ticks >= ENOUGH_TICKS


@pytest.mark.slow_on_fallback
def test_a_long_run_of_as_many_elements_leaves_other_threads_alive() -> None:
    # As many elements go in as for a quick call, and their square is computed.
    text = (
        f"g (float[n, m] u, float[k, l] v) => (float y) {{ x = Add(u, v) {TANGENTS} y = ReduceMax<keepdims = 0>(d) }}"
    )
    session = inferlite.InferenceSession(make_models.parse(text), **_one_thread())
    side = 200
    while True:
        row, column = ones(1, side), ones(side, 1)
        started = time.perf_counter()
        session.run(None, {"u": column, "v": row})
        took = time.perf_counter() - started
        if took > LONG / 2:
            break
        side = int(side * min(4, (LONG / took) ** 0.5))
    sessions = [inferlite.InferenceSession(make_models.parse(text), **_one_thread()) for _ in range(2)]
    short, long = sessions[1].bind({"u": row, "v": row}), sessions[1].bind({"u": column, "v": row})
    for _ in range(3_000):
        sessions[0].run(None, {"u": row, "v": row})
        short()
    for call in (lambda: sessions[0].run(None, {"u": column, "v": row}), long):
        with Ticker() as ticker:
            call()
        assert ticker.ticks >= ENOUGH_TICKS


def _ticks_in_a_run_that_is_long_by_its_value(**extras: Any) -> int:
    count = _count_that_takes(LONG, BY_VALUE, "shape", lambda count: np.array([count]))
    session = inferlite.InferenceSession(make_models.parse(BY_VALUE), **_one_thread(**extras))
    for _ in range(5_000):
        session.run(None, {"shape": np.array([1])})
    with Ticker() as ticker:
        session.run(None, {"shape": np.array([count])})
    return ticker.ticks


@pytest.mark.slow_on_fallback
def test_hold_gil_false_is_honoured() -> None:
    assert _ticks_in_a_run_that_is_long_by_its_value(hold_gil=False) >= ENOUGH_TICKS


@pytest.mark.slow_on_fallback
def test_the_environment_can_forbid_holding_the_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERLITE_HOLD_GIL", "0")
    assert _ticks_in_a_run_that_is_long_by_its_value() >= ENOUGH_TICKS
    assert _ticks_in_a_run_that_is_long_by_its_value(hold_gil=True) >= ENOUGH_TICKS


@pytest.mark.slow_on_fallback
def test_a_run_that_is_long_by_its_value_leaves_other_threads_alive() -> None:
    # Its size says nothing of its time, so that the GIL is never held for this model.
    assert _ticks_in_a_run_that_is_long_by_its_value() >= ENOUGH_TICKS


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("setting", ["two threads", "parallel", "loop"])
def test_sessions_that_may_never_hold_the_gil_release_it(setting: str) -> None:
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 2 if setting == "two threads" else 1
    if setting == "parallel":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = 2
    if setting == "loop":
        text = (
            "g (int64[1] shape) => (float y) <bool yes = {1}, int64 one = {1}> { "
            "z = Loop<body = body (int64 i, bool go, int64[1] s) => (bool on, int64[1] t) "
            f"{{ on = Identity(go) t = Identity(s) }}>(one, yes, shape) x = ConstantOfShape(z) {TANGENTS} "
            "y = ReduceMax<keepdims = 0>(d) }"
        )
    else:
        text = BY_VALUE
    count = _count_that_takes(LONG, BY_VALUE, "shape", lambda count: np.array([count]))
    session = inferlite.InferenceSession(make_models.parse(text), options, providers=["CPUExecutionProvider"])
    for _ in range(2_000):
        session.run(None, {"shape": np.array([1])})
    with Ticker() as ticker:
        session.run(None, {"shape": np.array([count])})
    assert ticker.ticks >= ENOUGH_TICKS


def _parallel() -> Any:
    options = inferlite.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.inter_op_num_threads = 2
    return inferlite.InferenceSession(make_models.path("failing_parallel"), options, providers=["CPUExecutionProvider"])


BAD = {"a": ones(2, 3), "b": ones(2, 3)}


def test_parallel_execution_with_a_failing_node_logs_and_does_not_hang(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = _parallel()
    _, theirs = oracle.pair("failing_parallel")
    wanted = oracle.outcome(lambda: theirs.run(None, BAD))
    with caplog.at_level(logging.WARNING, logger="inferlite.onnxruntime"):
        for _ in range(100):
            given = oracle.outcome(lambda: session.run(None, BAD))
            assert type(given.error) is type(wanted.error)
    # The two failing nodes race for the text, which names one of them.
    assert "Non-zero status code returned while running MatMul node." in str(given.error)
    if backend == "native":
        records = [record for record in caplog.records if record.name == "inferlite.onnxruntime"]
        assert records
        assert all(record.levelno == logging.ERROR for record in records)
        assert any("MatMul" in record.getMessage() for record in records)


def test_many_threads_that_fail_and_log_do_not_hang() -> None:
    session = _parallel()
    failures: list[Exception] = []

    def work() -> None:
        for _ in range(50):
            error = oracle.outcome(lambda: session.run(None, BAD)).error
            assert error is not None
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 8 * 50


def test_a_logging_handler_may_run_the_session_itself() -> None:
    session = inferlite.InferenceSession(make_models.path("failing"))
    inner: list[oracle.Outcome] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            del record
            if len(inner) < 3:
                place = len(inner)
                inner.append(oracle.Outcome())
                inner[place] = oracle.outcome(lambda: session.run(None, BAD))

    handler = Handler()
    logger = logging.getLogger("inferlite.onnxruntime")
    logger.addHandler(handler)
    try:
        outer = oracle.outcome(lambda: session.run(None, BAD))
    finally:
        logger.removeHandler(handler)
    assert outer.error is not None
    assert all(outcome.error is not None for outcome in inner)


def test_what_the_runtime_logs_reaches_python_with_its_level(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    session = inferlite.InferenceSession(make_models.path("failing"))
    with caplog.at_level(logging.DEBUG, logger="inferlite.onnxruntime"):
        oracle.outcome(lambda: session.run(None, BAD))
        quiet = inferlite.RunOptions()
        quiet.log_severity_level = 4
        seen = len(caplog.records)
        oracle.outcome(lambda: session.run(None, BAD, quiet))
    if backend == "native":
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [record.name for record in errors] == ["inferlite.onnxruntime"]
        assert len(caplog.records) == seen


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupt_in_a_logging_handler_is_the_callers(
    error: type[BaseException], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "python":
        pytest.skip("onnxruntime's package prints what it logs")
    seen = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)
            if len(seen) == 1:
                raise error

    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    session = inferlite.InferenceSession(make_models.path("failing"))
    handler = Handler()
    logger = logging.getLogger("inferlite.onnxruntime")
    logger.addHandler(handler)
    # Any other failure of a handler is reported where Python reports what nobody can catch.
    is_the_callers = error is not ValueError
    try:
        with pytest.raises(error if is_the_callers else Exception, match=None if is_the_callers else "Non-zero status"):
            session.run(None, BAD)
        with pytest.raises(Exception, match="Non-zero status"):
            session.run(None, BAD)
    finally:
        logger.removeHandler(handler)
    assert [type(hook.exc_value) for hook in unraisable] == ([] if is_the_callers else [ValueError])
    assert len(seen) == 2
