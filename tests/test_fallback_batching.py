"""Micro-batching of the Python back end: its decisions with the time held by hand, and Ctrl-C between any two steps."""

from __future__ import annotations

import asyncio
import contextlib
import dis
import gc
import inspect
import math
import sys
import threading
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest
from hypothesis import given, strategies as st
from onnxruntime import RunOptions

import inferlite
from cases import f32
from conftest import BACKENDS
from inferlite import Batching
from inferlite._fallback import batching
from inferlite._fallback.batching import Batcher, Turn
from inferlite._fallback.line import Batch, Line, Member
from inferlite._fallback.rows import BatchAxes
from inferlite.exceptions import ModelClosedError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from types import FrameType

PATIENCE = 30.0
DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
VECTOR = ("x", "tensor(float)", ["n"])

fallback = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "python"], indirect=True)


# Who leaves when


def _limit(_: Hashable, rows: int = 4) -> int:
    return rows


def _member(line: Line, rows: int = 1, kind: str = "kind", **given: Any) -> Member:
    member = Member((), {}, kind=kind, rows=rows, **given)
    line.push(member)
    return member


def _leave(line: Line, now: float = 0.0, rows: int = 4) -> Batch | None:
    batch = line.due(now, partial(_limit, rows=rows))
    if batch is not None:
        line.leave(batch)
    return batch


def _left(line: Line, now: float = 0.0, rows: int = 4) -> list[Member]:
    batch = _leave(line, now, rows)
    return [] if batch is None else batch.members


def test_rows_count_and_nobody_overtakes() -> None:
    line = Line(0, 100)
    first, second, third, fourth = (_member(line, rows) for rows in (1, 2, 3, 1))
    large = _member(line, 9)
    assert (line.calls, line.rows, line.away) == (5, 16, 5)
    batch = _leave(line)
    assert batch == Batch([first, second], "full")
    assert _left(line) == [third, fourth]
    assert _left(line) == [large]
    assert _leave(line) is None
    assert (line.calls, line.rows, line.away) == (0, 0, 0)


def test_a_batch_that_is_not_full_leaves_because_the_model_is_free() -> None:
    line = Line(0, 100)
    members = [_member(line) for _ in range(3)]
    assert _leave(line) == Batch(members, "idle")


def test_kinds_leave_apart_the_one_whose_first_is_first() -> None:
    line = Line(0, 100)
    first, other, second = _member(line), _member(line, kind="other"), _member(line)
    assert _left(line) == [first, second]
    assert _left(line) == [other]


def test_a_priority_is_a_number_of_batches() -> None:
    line = Line(0, 100)
    low = _member(line)
    assert _left(line, rows=1) == [low]
    low, high = _member(line), _member(line, priority=1)
    assert _left(line, rows=1) == [high]
    # It has seen a batch leave: the next one of a higher priority came later.
    _member(line, priority=1)
    assert _left(line, rows=1) == [low]


def test_a_window_opens_when_the_first_one_arrives_and_ends_early_for_one_in_haste() -> None:
    line = Line(10.0, 100)
    _member(line, arrival=5.0, priority=-1)
    _member(line, arrival=3.0)
    assert line.next_due(_limit) == 13.0
    assert _leave(line, 12.9) is None
    batch = _leave(line, 13.0)
    assert batch is not None
    assert (len(batch.members), batch.why) == (2, "delay")
    _member(line, arrival=20.0, leave_by=22.0)
    assert line.next_due(_limit) == 22.0
    assert _leave(line, 21.9) is None
    batch = _leave(line, 22.0)
    assert batch is not None
    assert batch.why == "deadline"
    _member(line, 4, arrival=30.0)
    assert line.next_due(_limit) == -math.inf
    batch = _leave(line, 30.0)
    assert batch is not None
    assert batch.why == "full"
    assert line.next_due(_limit) == math.inf


def test_whoever_is_gone_is_dropped() -> None:
    line = Line(0, 100)
    options = RunOptions()
    gone, stays, late = _member(line, options=options), _member(line), _member(line)
    options.terminate = True
    late.is_left = True
    assert _left(line) == [stays]
    assert (line.dropped, line.calls) == (2, 0)
    gone = _member(line, is_left=True)
    assert not line.is_awaited()
    assert _leave(line) is None
    assert (line.dropped, line.calls) == (3, 0)
    assert gone.is_gone


def test_the_line_is_bounded_and_a_call_that_is_larger_has_it_for_itself() -> None:
    line = Line(0, 3)
    assert line.has_room(9)
    _member(line, 2)
    assert line.has_room(1)
    assert not line.has_room(2)
    assert [member.rows for member in line.take_all()] == [2]
    assert line.has_room(9)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(0, 2), st.integers(-2, 2)), max_size=60))
def test_every_count_is_what_it_counts(steps: list[tuple[int, int, int, int]]) -> None:
    line = Line(0, 1000)
    waiting: list[Member] = []
    seen = 0
    for step, rows, kind, priority in steps:
        if step <= 2:
            woken = threading.Event() if step == 2 else None
            waiting.append(_member(line, rows, str(kind), priority=priority, woken=woken))
        elif step == 3 and waiting:
            waiting[rows % len(waiting)].is_left = True
            line.sweep()
            waiting = [member for member in waiting if not member.is_left]
        elif step == 4:
            left = _left(line)
            assert left == sorted(left, key=lambda member: member.place)
            assert not left or left[0] is min(waiting, key=lambda member: member.place)
            waiting = [member for member in waiting if member not in left]
        else:
            for member in waiting:
                line.put_back(member)
        assert line.calls == len(waiting)
        assert line.rows == sum(member.rows for member in waiting)
        assert line.away == sum(member.woken is None for member in waiting)
        seen = max(seen, line.calls)
    assert line.take_all() == sorted(waiting, key=lambda member: member.place)
    assert (line.calls, line.rows, line.away) == (0, 0, 0)


# What may share a batch


def _axes(*inputs: tuple[str, str, list[Any]], overridable: Sequence[Any] = (), **declared: int | None) -> BatchAxes:
    outputs: Any = [("y", "tensor(float)", ["n", 2])]
    return BatchAxes(list(inputs), outputs, overridable, declared.items())


def test_calls_may_differ_in_their_rows_and_in_nothing_else() -> None:
    axes = _axes(("x", "tensor(string)", ["n", "m"]), ("rate", "tensor(float)", [1]), rate=None)

    def kind(shape: tuple[int, ...], rate: np.ndarray, names: Sequence[str] = ("y",), dtype: str = "U3") -> Any:
        return axes.kind(names, {"x": np.full(shape, "a", dtype), "rate": rate})

    one, other = f32(1.0), f32(2.0)
    first, rows = kind((1, 3), one)
    assert rows == 1
    assert kind((5, 3), one) == (first, 5)
    assert kind((5, 3), one, dtype="U9") == (first, 5)
    for different in (
        kind((1, 4), one),
        kind((1, 3), other),
        kind((1, 3), one, ("y", "y")),
        kind((1, 3), one, dtype="O"),
        kind((1, 3), one.astype(np.float64)),
    ):
        assert different[0] != first
    for alone in (kind((0, 3), one), kind((), one), kind((1, 3), np.array(1.0, np.float32))):
        assert alone is None
    assert axes.kind(("y",), {"rate": one}) is None
    assert axes.kind(("y",), {"x": ["a"], "rate": one}) is None


def test_large_inputs_without_rows_are_compared_by_a_digest() -> None:
    axes = _axes(VECTOR, ("table", "tensor(float)", [100]))
    table = np.zeros(100, np.float32)

    def kind() -> Any:
        return axes.kind(("y",), {"x": f32(1.0), "table": table})

    before = kind()
    assert kind() == before
    table[50] = 1
    assert kind() != before
    words = _axes(VECTOR, ("words", "tensor(string)", [2]))
    kinds = [
        words.kind(("y",), {"x": f32(1.0), "words": np.array(given, object)})
        for given in (["a", "b"], ["a", "b"], ["ab", ""])
    ]
    assert kinds[0] == kinds[1] != kinds[2]


def test_weights_that_calls_may_override_have_no_rows() -> None:
    axes = _axes(VECTOR, overridable=[("w", "tensor(float)", ["n"])])
    plain = axes.kind(("y",), {"x": f32(1.0)})
    assert plain is not None
    overridden = axes.kind(("y",), {"x": f32(1.0), "w": f32(1.0, 2.0)})
    assert overridden is not None
    assert overridden[0] != plain[0]


def test_outputs_are_split_where_their_rows_are() -> None:
    axes = BatchAxes([VECTOR], [("a", "tensor(float)", [2, "n"]), ("b", "tensor(string)", ["n"])], [], [("a", 1)])
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(["p", "q", "r"], object)
    parts = axes.split(("a", "b"), [a, b], [1, 2])
    assert parts is not None
    assert [[part.tolist() for part in call] for call in parts] == [
        [[[0.0], [3.0]], ["p"]],
        [[[1.0, 2.0], [4.0, 5.0]], ["q", "r"]],
    ]
    assert all(part.base is None for call in parts for part in call)
    for results in ([a, b[:2]], [a[0], b], [[1, 2, 3], b]):
        assert axes.split(("a", "b"), results, [1, 2]) is None


# Who does it


class _Engine:
    """Doubles what it is given, and does first what a test wants."""

    def __init__(self) -> None:
        self.runs: list[list[float]] = []
        self.first: Callable[[list[float]], object] = lambda _: None
        self.options: Any = None

    def __call__(
        self, _names: Sequence[str], feed: Mapping[str, Any], options: object, _rows: Sequence[int] | None
    ) -> list[Any]:
        self.options = options
        given = feed["x"].tolist()
        self.runs.append(given)
        self.first(given)
        return [feed["x"] * 2]


def _batcher(engine: _Engine, **settings: Any) -> Batcher:
    axes = BatchAxes([VECTOR], [("y", "tensor(float)", ["n"])], [], [])
    given = {"max_rows": None, "max_queue": 100, "max_delay": 0.0, "instances": 1, **settings}
    return Batcher("scripted", axes, engine, given)


def _call(batcher: Batcher, *values: float, **given: Any) -> Future[list[float]]:
    """A call of somebody who does not wait in a thread."""
    future: Future[list[float]] = Future()
    batcher.submit(_away(future, *values, **given))
    return future


def _away(future: Future[list[float]], *values: float, **given: Any) -> Member:
    def told(results: list[Any] | None, error: BaseException | None) -> None:
        # To be told twice is what Ctrl-C may lead to.
        if future.done():
            return
        if results is None:
            future.set_exception(error or AssertionError("neither an answer nor an error"))
        else:
            future.set_result(results[0].tolist())

    return Member(("y",), {"x": f32(*values)}, told=told, **given)


def _wait(batcher: Batcher, pool: ThreadPoolExecutor, *values: float) -> Future[list[float]]:
    """A call of a thread, which stands in line when this returns."""
    before = batcher.stats().queued_calls
    future = pool.submit(_run, batcher, *values)
    _until(lambda: batcher.stats().queued_calls > before)
    return future


def _run(batcher: Batcher, *values: float) -> list[float]:
    answer: list[float] = batcher.run(("y",), {"x": f32(*values)}, 0)[0].tolist()
    return answer


def _until(condition: Callable[[], bool]) -> None:
    woken = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if condition():
            return
        woken.wait(0.001)
    pytest.fail("it does not come to pass")


class _Busy:
    """A run under way that others wait for, until the end of the block."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def __enter__(self) -> None:
        self._batcher._running.add(self)

    def __exit__(self, *_: object) -> None:
        self._batcher._give_back(self)


def _is_empty(batcher: Batcher) -> bool:
    return not (batcher._line.calls or batcher._running or batcher._led or batcher._workers)


def test_time_held_by_hand_decides_when_a_window_ends() -> None:
    engine = _Engine()
    batcher = _batcher(engine, max_delay=10.0)
    now = 100.0
    batcher.clock = lambda: now
    first = _call(batcher, 1.0, arrival=now)
    now = 109.0
    second = _call(batcher, 2.0, arrival=now)
    assert not first.done()
    now = 110.0
    assert first.result(PATIENCE) == [2.0]
    assert second.result(PATIENCE) == [4.0]
    assert engine.runs == [[1.0, 2.0]]
    third = _call(batcher, 3.0, arrival=now, leave_by=batcher.leave_by(8.0))
    now = 116.9
    assert not third.done()
    now = 117.0
    assert third.result(PATIENCE) == [6.0]
    stats = batcher.stats()
    assert (stats.delay, stats.deadline, stats.lone) == (1, 1, 0)
    assert (stats.queue_time.count, stats.queue_time.max) == (3, 10.0)


def test_a_thread_watches_its_own_window() -> None:
    batcher = _batcher(_Engine(), max_delay=10.0)
    now = 100.0
    batcher.clock = lambda: now
    with ThreadPoolExecutor(1) as pool:
        waiting = _wait(batcher, pool, 1.0)
        assert batcher._workers == set()
        now = 110.0
        assert waiting.result(PATIENCE) == [2.0]
    assert batcher.stats().delay == 1


def test_a_thread_of_a_batch_leads_it_and_a_worker_where_there_is_none() -> None:
    engine = _Engine()
    batcher = _batcher(engine)
    leaders: list[str] = []
    engine.first = lambda _: leaders.append(threading.current_thread().name)
    with ThreadPoolExecutor(1, thread_name_prefix="caller") as pool:
        with _Busy(batcher):
            away = _call(batcher, 1.0)
            waiting = _wait(batcher, pool, 2.0)
        assert away.result(PATIENCE) == [2.0]
        assert waiting.result(PATIENCE) == [4.0]
    assert _call(batcher, 3.0).result(PATIENCE) == [6.0]
    assert engine.runs == [[1.0, 2.0], [3.0]]
    assert [name.rpartition("_")[0] for name in leaders] == ["caller", "inferlite-batches"]
    _until(lambda: _is_empty(batcher))


def test_a_failing_batch_is_halved_until_the_culprit_is_alone() -> None:
    engine = _Engine()
    batcher = _batcher(engine)

    def fail(given: list[float]) -> None:
        if 3.0 in given:
            message = f"not {given}"
            raise ValueError(message)

    engine.first = fail
    with _Busy(batcher):
        calls = [_call(batcher, number) for number in (1.0, 2.0, 3.0, 4.0)]
    assert [calls[place].result(PATIENCE) for place in (0, 1, 3)] == [[2.0], [4.0], [8.0]]
    with pytest.raises(ValueError, match=r"^not \[3\.0\]$"):
        calls[2].result(PATIENCE)
    assert engine.runs == [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0], [3.0, 4.0], [3.0], [4.0]]
    assert batcher.stats().retried == 4


def test_those_who_leave_while_their_batch_runs_are_not_run_again_where_it_fails() -> None:
    engine = _Engine()
    batcher = _batcher(engine)
    gone = RunOptions()

    def leave_and_fail(given: list[float]) -> None:
        gone.terminate = True
        batcher.end_deserted()
        if 1.0 in given:
            raise ValueError

    engine.first = leave_and_fail
    with _Busy(batcher):
        leaving = [_call(batcher, value, options=gone) for value in (1.0, 2.0, 1.0)]
        staying = _call(batcher, 3.0)
    assert staying.result(PATIENCE) == [6.0]
    _until(lambda: _is_empty(batcher))
    assert engine.runs == [[1.0, 2.0, 1.0, 3.0], [3.0]]
    assert all(isinstance(future.exception(PATIENCE), CancelledError) for future in leaving)
    assert batcher.stats().retried == 1


def test_a_run_is_told_to_end_once_its_last_member_leaves() -> None:
    engine = _Engine()
    batcher = _batcher(engine)
    claims = [RunOptions() for _ in range(3)]
    told: list[bool] = []

    def leave(given: list[float]) -> None:
        for claim in reversed(claims[: len(given)]):
            claim.terminate = True
            batcher.end_deserted()
            told.append(engine.options.terminate)
        if all(told):
            raise ValueError

    engine.first = leave
    with _Busy(batcher):
        calls = [_call(batcher, 1.0, options=claim) for claim in claims]
    _until(lambda: _is_empty(batcher))
    assert told == [False, False, True]
    assert [future.result(PATIENCE) for future in calls] == [[2.0]] * 3
    told.clear()
    claims[0] = RunOptions()
    alone = _call(batcher, 1.0, options=claims[0])
    assert isinstance(alone.exception(PATIENCE), ValueError)
    assert told == [True]


def test_outputs_without_the_rows_run_apart_and_so_they_do_from_then_on() -> None:
    axes = BatchAxes([VECTOR], [("y", "tensor(float)", ["n"])], [], [])
    runs = []

    def run(_names: object, feed: Mapping[str, Any], _options: object, _rows: object) -> list[Any]:
        runs.append(feed["x"].tolist())
        return [feed["x"].sum(keepdims=True)]

    settings = {"max_rows": 8, "max_queue": 100, "max_delay": 0.0, "instances": 1}
    batcher = Batcher("sum", axes, run, settings)
    for _ in range(2):
        with _Busy(batcher):
            calls = [_call(batcher, 1.0, 2.0), _call(batcher, 3.0)]
        assert [call.result(PATIENCE) for call in calls] == [[3.0], [3.0]]
    assert runs == [[1.0, 2.0, 3.0], [1.0, 2.0], [3.0], [1.0, 2.0], [3.0]]


def test_an_answer_that_cannot_be_handed_over_fails_that_call_alone() -> None:
    batcher = _batcher(_Engine())
    told: list[Any] = []

    def tell(results: list[Any] | None, error: BaseException | None) -> None:
        if results is not None:
            raise MemoryError
        told.append(error)

    with _Busy(batcher):
        batcher.submit(Member(("y",), {"x": f32(1.0)}, told=tell))
        other = _call(batcher, 2.0)
    assert other.result(PATIENCE) == [4.0]
    assert [type(error) for error in told] == [MemoryError]
    _until(lambda: _is_empty(batcher))


def test_instances_run_at_once() -> None:
    engine = _Engine()
    batcher = _batcher(engine, instances=2, max_rows=1)
    together = threading.Barrier(2)
    engine.first = lambda _: together.wait(PATIENCE)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(batcher.run, ("y",), {"x": f32(number)}, 0) for number in range(2)]
        assert [call.result(PATIENCE)[0].tolist() for call in calls] == [[0.0], [2.0]]
    others = [_call(batcher, number) for number in range(4)]
    assert [call.result(PATIENCE) for call in others] == [[0.0], [2.0], [4.0], [6.0]]
    _until(lambda: _is_empty(batcher))


def test_a_full_line_refuses_at_once_unless_somebody_is_gone() -> None:
    batcher = _batcher(_Engine(), max_queue=2)
    options = RunOptions()
    with _Busy(batcher):
        calls = [_call(batcher, 1.0), _call(batcher, 2.0, options=options)]
        text = "^model `scripted`: 2 rows are waiting for a batch already$"
        with pytest.raises(QueueFullError, match=text):
            _call(batcher, 3.0).result(0)
        with pytest.raises(QueueFullError, match=text):
            batcher.run(("y",), {"x": f32(3.0)}, 0)
        options.terminate = True
        calls.append(_call(batcher, 4.0))
    assert [calls[place].result(PATIENCE) for place in (0, 2)] == [[2.0], [8.0]]
    stats = batcher.stats()
    assert (stats.refused, stats.dropped) == (2, 1)


@pytest.mark.parametrize("cancel", [False, True])
def test_no_thread_is_left_after_close(cancel: bool) -> None:
    batcher = _batcher(_Engine())
    with ThreadPoolExecutor(1) as pool:
        with _Busy(batcher):
            calls = [_call(batcher, 1.0), _wait(batcher, pool, 2.0)]
            batcher.close(cancel=cancel)
            with pytest.raises(ModelClosedError, match=r"^model `scripted` is closed$"):
                batcher.run(("y",), {"x": f32(3.0)}, 0)
            with pytest.raises(ModelClosedError):
                _call(batcher, 3.0).result(0)
        for call, answer in zip(calls, ([2.0], [4.0]), strict=True):
            if cancel:
                with pytest.raises(ModelClosedError, match=r"^model `scripted` is closed$"):
                    call.result(PATIENCE)
            else:
                assert call.result(PATIENCE) == answer
    assert batcher._pool is not None
    for thread in batcher._pool._threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert _is_empty(batcher)


def test_calls_are_led_here_where_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    batcher = _batcher(_Engine(), max_rows=1)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    with _Busy(batcher):
        futures: list[Future[list[float]]] = [Future() for _ in range(2_000)]
        members = [_away(future, number) for number, future in enumerate(futures)]
        batcher._line.max_rows = len(members)
        with batcher._lock:
            for member in members:
                batcher._read(member)
                batcher._push(member)
    batcher._work_here()
    assert [future.result(0) for future in futures] == [[2.0 * number] for number in range(2_000)]
    assert _call(batcher, 1.0).result(0) == [2.0]
    monkeypatch.undo()
    assert _call(batcher, 1.0).result(PATIENCE) == [2.0]
    assert batcher._has_threads
    _until(lambda: _is_empty(batcher))


# Turns of event loops


def test_a_turn_that_its_loop_does_not_end_is_ended_by_others() -> None:
    batcher = _batcher(_Engine())
    futures: list[Future[list[float]]] = [Future() for _ in range(2)]

    async def ask(future: Future[list[float]]) -> None:
        batcher.submit_with_turn(_away(future, 1.0))
        raise KeyboardInterrupt

    stopped = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        stopped.run_until_complete(ask(futures[0]))
    assert not futures[0].done()
    batcher.flush_stopped()
    assert futures[0].result(PATIENCE) == [2.0]
    closed = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        closed.run_until_complete(ask(futures[1]))
    closed.close()
    stopped.close()
    gc.collect()
    assert futures[1].result(PATIENCE) == [2.0]


def test_a_call_outside_of_loops_goes_its_way_at_once() -> None:
    batcher = _batcher(_Engine())
    future: Future[list[float]] = Future()
    batcher.submit_with_turn(_away(future, 1.0))
    assert future.result(PATIENCE) == [2.0]


def test_close_counts_those_of_a_turn_among_those_who_wait() -> None:
    batcher = _batcher(_Engine())
    future: Future[list[float]] = Future()

    async def ask() -> None:
        batcher.submit_with_turn(_away(future, 1.0))
        batcher.close(cancel=False)

    asyncio.run(ask())
    assert future.result(PATIENCE) == [2.0]


# Ctrl-C


class _Interrupting:
    """Raises KeyboardInterrupt in this thread at one of the places where Python looks for signals.

    These are the beginning of a function, what follows a call, and a jump back.
    """

    FILES = tuple(sys.modules[seen.__module__].__file__ for seen in (Batcher, Line, ThreadPoolExecutor, Future))

    def __init__(self, place: int) -> None:
        self._left = place
        self._last: dict[FrameType, int] = {}

    def __enter__(self) -> None:
        sys.settrace(self._begin)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        # A frame holds what a test wants to let go of.
        self._last.clear()

    @property
    def has_come(self) -> bool:
        return self._left < 0

    def _pass(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt

    def _begin(self, frame: FrameType, _event: str, _: object) -> Any:
        # What is raised where a generator ends, nobody hears of.
        if frame.f_code.co_filename not in self.FILES or frame.f_code.co_flags & inspect.CO_GENERATOR:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._pass()
        return self._step

    def _step(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            last = self._last.get(frame)
            self._last[frame] = frame.f_lasti
            if last is not None and dis.opname[frame.f_code.co_code[last]].startswith(("CALL", "JUMP_BACKWARD")):
                self._pass()
        elif event == "return":
            self._last.pop(frame, None)
        return self._step


def _at_every_place(scenario: Callable[[_Interrupting], None]) -> None:
    for place in range(10_000):
        interrupting = _Interrupting(place)
        scenario(interrupting)
        if not interrupting.has_come:
            assert place > 10
            return


# There it also shows the call that enters a `with` block, which no signal follows.
before_with_was_a_call = pytest.mark.skipif(sys.version_info >= (3, 14), reason="the trace shows other calls")


@before_with_was_a_call
def test_ctrl_c_of_a_leader_harms_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE", 0.001)

    def scenario(interrupting: _Interrupting) -> None:
        engine = _Engine()
        batcher = _batcher(engine)
        busy = _Busy(batcher)

        class Running(set[object]):
            """Has room for this thread once it stands in line, with company."""

            def __len__(self) -> int:
                is_for_this = threading.current_thread() is threading.main_thread() and batcher._line.calls > 3
                return super().__len__() - is_for_this

        heard: list[float] = []
        with ThreadPoolExecutor(1) as pool:
            busy.__enter__()
            others = [_wait(batcher, pool, 1.0), _call(batcher, 2.0), _call(batcher, 3.0)]
            for other in others:
                # As an event loop does.
                other.add_done_callback(lambda other: heard.extend(other.result()))
            batcher._running = Running(batcher._running)
            try:
                with interrupting:
                    own = batcher.run(("y",), {"x": f32(4.0)}, 0)
            except KeyboardInterrupt:
                assert interrupting.has_come
            else:
                assert own[0].tolist() == [8.0]
                assert engine.runs == [[1.0, 2.0, 3.0, 4.0]]
            batcher._give_back(busy)
            assert [other.result(PATIENCE) for other in others] == [[2.0], [4.0], [6.0]]
        _until(lambda: sorted(heard) == [2.0, 4.0, 6.0])
        assert batcher.run(("y",), {"x": f32(5.0)}, 0)[0].tolist() == [10.0]
        _until(lambda: _is_empty(batcher))
        batcher.close(cancel=False)

    _at_every_place(scenario)


@before_with_was_a_call
def test_ctrl_c_of_a_lone_call_harms_nobody_who_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE", 0.001)

    def scenario(interrupting: _Interrupting) -> None:
        engine = _Engine()
        batcher = _batcher(engine)
        others = []
        with ThreadPoolExecutor(1) as pool:

            def bring_company() -> None:
                others.extend([_wait(batcher, pool, 1.0), _call(batcher, 2.0)])

            def have_company(given: list[float]) -> None:
                if given == [4.0]:
                    thread = threading.Thread(target=bring_company)
                    thread.start()
                    thread.join()

            engine.first = have_company
            try:
                with interrupting:
                    batcher.run(("y",), {"x": f32(4.0)}, 0)
            except KeyboardInterrupt:
                assert interrupting.has_come
            assert [other.result(PATIENCE) for other in others] == [[2.0], [4.0]][: len(others)]
        _until(lambda: _is_empty(batcher))
        batcher.close(cancel=False)

    _at_every_place(scenario)


@before_with_was_a_call
def test_ctrl_c_at_the_end_of_a_turn_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE", 0.001)
    loop = asyncio.new_event_loop()

    def scenario(interrupting: _Interrupting) -> None:
        batcher = _batcher(_Engine())
        futures: list[Future[list[float]]] = [Future() for _ in range(2)]
        turn = Turn(batcher, loop)
        turn.members = [_away(future, 1.0) for future in futures]
        try:
            with interrupting:
                turn.flush()
        except KeyboardInterrupt:
            assert interrupting.has_come
        del turn
        gc.collect(1)
        assert [future.result(PATIENCE) for future in futures] == [[2.0], [2.0]]
        _until(lambda: _is_empty(batcher))
        batcher.close(cancel=False)

    _at_every_place(scenario)
    loop.close()


# With a cache above


@fallback
@pytest.mark.parametrize("copy", [True, False])
def test_equal_questions_of_a_turn_are_run_once(backend: str, copy: bool) -> None:
    assert backend
    cache = inferlite.Cache(max_bytes="1MB", copy=copy)
    model: Any = inferlite.load(DOUBLE, batching=Batching(max_rows=8), rows_independent=True, cache=cache)

    async def ask(*numbers: float) -> list[Any]:
        return await asyncio.gather(*(model.apredict(f32(number)) for number in numbers))

    answers = asyncio.run(ask(1.0, 2.0, 1.0))
    assert [answer.tolist() for answer in answers] == [[2.0], [4.0], [2.0]]
    assert [answer.flags.writeable for answer in answers] == [copy] * 3
    assert model.submit(f32(2.0)).result(PATIENCE).tolist() == [4.0]
    stats = model.stats()
    assert stats.batching.sizes == {2: 1}
    assert (stats.calls, stats.cache.hits, stats.cache.misses, stats.cache.coalesced) == (4, 1, 2, 1)


# What is left


@fallback
@pytest.mark.parametrize("cache", [None, "1MB"])
def test_a_model_that_is_let_go_of_is_gone_with_its_threads(backend: str, cache: str | None) -> None:
    assert backend
    model: Any = inferlite.load(DOUBLE, batching=True, rows_independent=True, cache=cache)
    assert model.submit(f32(1.0)).result(PATIENCE).tolist() == [2.0]
    assert asyncio.run(model.apredict(f32(2.0))).tolist() == [4.0]
    batcher = model._batcher
    _until(partial(_is_empty, batcher))
    threads = list(batcher._pool._threads)
    watched = [weakref.ref(of) for of in (model, batcher)]
    del model, batcher
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    # Threads let go of what they did a moment after they have said so.
    _until(lambda: all(watch() is None for watch in watched))


def test_errors_keep_no_call() -> None:
    engine = _Engine()
    batcher = _batcher(engine, max_rows=1)

    def fail(_: list[float]) -> None:
        raise ValueError

    engine.first = fail

    def ask() -> weakref.ref[np.ndarray]:
        x = f32(1.0)
        with contextlib.suppress(ValueError):
            batcher.run(("y",), {"x": x}, 0)
        return weakref.ref(x)

    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:
            with _Busy(batcher):
                waiting = pool.submit(ask)
                _until(lambda: batcher.stats().queued_calls == 1)
            assert waiting.result(PATIENCE)() is None
    finally:
        gc.enable()
