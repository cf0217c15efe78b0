"""Micro-batching without the native part: calls that come while the model runs leave together when it is free again.

Nobody dispatches. A thread that finds the model free runs its call at once. Others stand in line (`line.py` decides who
leaves when); whoever ends a run, joins or gives up looks who is next, and wakes one thread of that batch to lead it, or
a worker where none waits. To be woken is a hint alone: a batch stands in line until its leader has it, and everybody
who waits looks for it now and then as well. So whoever gives up, by Ctrl-C for one, takes nothing along.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from onnxruntime import RunOptions

from inferlite import _async, _checks as checks
from inferlite._fallback import forks
from inferlite._fallback.cache import copied_value
from inferlite._fallback.latency import Durations
from inferlite._fallback.line import Batch, Line, Member
from inferlite.metadata import BatchingStats

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from inferlite._fallback.rows import BatchAxes

    Run = Callable[[Sequence[str], Mapping[str, Any], RunOptions | None, Sequence[int] | None], list[Any]]
    Outcomes = list[tuple[Member, list[Any] | None, BaseException | None]]

ROWS: Final = 32
"""The most rows of a batch where nobody says: what the native back end takes as long as it knows no times."""

PATIENCE: Final = 0.05
"""Seconds between two looks of somebody who waits."""

HASTE: Final = 8
"""A call leaves when this part of its time is left: threads take a while to wake up."""

MOST_APART: Final = 1024
"""So many kinds whose outputs cannot be split are remembered one by one; after that no calls are put together."""

SPARE_WORKERS: Final = 8
"""Threads beside those that lead: one looks after the line, others may still tell what has ended."""


class Company:
    """The members of a run under way; it ends early once all of them are gone."""

    def __init__(self, members: Sequence[Member]) -> None:
        """A run for these members."""
        self.options = RunOptions()
        self._members = members
        self._gone = 0

    def look(self) -> None:
        """End the run if nobody is left; from any thread, and in the middle of another look."""
        # Whoever is gone stays so, and need not be looked at again.
        gone = self._gone
        while gone < len(self._members) and self._members[gone].is_gone:
            gone += 1
        self._gone = gone
        if gone == len(self._members):
            self.options.terminate = True


class Batcher:
    """Combines the calls of one model."""

    def __init__(self, model: str, axes: BatchAxes, run: Run, settings: Mapping[str, Any]) -> None:
        """Combine calls of a model of this name.

        Args:
            model: What messages call the model.
            axes: Where the rows are.
            run: Runs one call, or several that were put together and have so many rows each.
            settings: What `Batching` gives.
        """
        self._model = model
        self._axes = axes
        self._run = run
        self._max_rows: int = settings["max_rows"] or ROWS
        self._max_queue: int = settings["max_queue"]
        self._max_delay: float = settings["max_delay"]
        self._instances: int = settings["instances"]
        self.clock: Callable[[], float] = time.monotonic
        self._begin()

    def _begin(self) -> None:
        # A model that is closed by what the interpreter finds to be garbage comes here wherever that thread is.
        self._lock = threading.RLock()
        self._wanted = threading.Condition(self._lock)
        self._line = Line(self._max_delay, self._max_queue)
        self._running: set[object] = set()
        # What those have who lead, until all its members have been told.
        self._led: dict[object, Batch] = {}
        # Those whose runs may be ended; looked at without the lock.
        self._companies: set[Company] = set()
        # Workers that wait for a batch.
        self._workers: set[object] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._has_threads = True
        self._turns: WeakValueDictionary[int, Turn] = WeakValueDictionary()
        self._apart: set[Hashable] = set()
        self._is_closed = False
        self._lone = self._refused = self._retried = 0
        self._reasons: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._queue_time, self._compute_time = Durations(), Durations()
        self._process = forks.generation()

    def _survive_fork(self) -> None:
        # The threads of a parent process are not there in its child, and one of them may have held the lock.
        if self._process != forks.generation():
            with forks.rebuilding():
                if self._process != forks.generation():
                    self._begin()

    # Coming in

    def run(self, names: Sequence[str], feed: Mapping[str, Any], priority: int) -> list[Any]:
        """Run a call: at once, or in a batch, which this thread may have to lead.

        Raises:
            QueueFullError: Too many rows wait.
            ModelClosedError: The model was closed meanwhile.
            Exception: What a run of the call by itself raises.
        """
        self._survive_fork()
        own = Member(names, feed, priority)
        try:
            results = self._run(names, feed, None, None) if self._enter(own) else self._stand(own)
            self._give_back(own)
        except BaseException:
            # Once more where Ctrl-C came in the middle of it.
            self._give_back(own)
            raise
        self._work_here()
        return results

    def submit(self, *members: Member) -> None:
        """Have calls computed whose callers do not wait in a thread; each is told, if only that there is no room."""
        self._survive_fork()
        refused: Outcomes = []
        for member in members:
            self._read(member)
        with self._lock:
            for member in members:
                try:
                    self._push(member)
                except Exception as error:  # noqa: BLE001 - whoever asked is told
                    refused.append((member, None, error))
            self._serve()
        _tell(refused)
        self._work_here()

    def submit_with_turn(self, member: Member) -> None:
        """The same, together with all that this turn of the thread's event loop brings."""
        self._survive_fork()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.submit(member)
            return
        with self._lock:
            turn = self._turns.get(id(loop))
            if turn is None or turn.is_over:
                turn = self._turns[id(loop)] = Turn(self, loop)
                loop.call_soon(turn.flush)
            turn.members.append(member)

    def flush(self, turn: Turn) -> None:
        """Let the calls of a turn go their way."""
        self._survive_fork()
        with self._lock:
            turn.is_over = True
            members = turn.members
        if members:
            self.submit(*members)
            # Afterwards, so that one who comes again where Ctrl-C was in the way finds them.
            turn.members = []

    def flush_stopped(self) -> None:
        """The same for loops that have stopped in the middle of a turn; whoever waits for their calls asks for it."""
        self._survive_fork()
        with self._lock:
            turns = list(self._turns.values())
        for turn in turns:
            if not turn.loop.is_running():
                turn.flush()

    def end_deserted(self) -> None:
        """End the runs that nobody wants any more; whoever leaves calls it, wherever that thread is."""
        for company in list(self._companies):
            company.look()

    def leave_by(self, seconds: float | None) -> float:
        """When a call that has so many seconds from now on has to leave."""
        return float("inf") if seconds is None else self.clock() + seconds - seconds / HASTE

    def _enter(self, own: Member) -> bool:
        """Come in at once, if the model is free and nobody waits."""
        with self._lock:
            if self._is_closed or self._line.calls or self._max_delay or len(self._running) >= self._instances:
                return False
            self._running.add(own)
            self._lone += 1
            self._queue_time.add(0)
            return True

    def _read(self, member: Member) -> None:
        try:
            kind = self._axes.kind(member.names, member.feed)
        except Exception:  # noqa: BLE001 - a run says what is wrong with objects that nothing can be made of
            kind = None
        # What is like nothing else stands alone.
        member.kind, member.rows = (object(), 1) if kind is None else kind

    def _push(self, member: Member) -> None:
        if member.place[1]:
            # It comes again where Ctrl-C was in the way.
            if not member.has_ended:
                self._line.put_back(member)
            return
        if self._is_closed:
            raise checks.closed(self._model)
        if not self._line.has_room(member.rows):
            self._line.sweep()
        if not self._line.has_room(member.rows):
            self._refused += 1
            raise checks.line_full(self._model, self._line.rows)
        self._line.push(member)

    def _stand(self, own: Member) -> list[Any]:
        """Stand in line, and lead the batch that this call is in, or wait until another thread has."""
        own.feed = {name: copied_value(value) for name, value in own.feed.items()}
        own.arrival, own.woken = self.clock(), threading.Event()
        self._read(own)
        with self._lock:
            self._push(own)
        while not own.has_ended:
            with self._lock:
                batch, pause = self._serve(own), self._pause()
            if batch is not None:
                self._lead(batch, own)
            else:
                own.woken.wait(pause)
                own.woken.clear()
        error, own.error = own.error, None
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback has this frame.
                del error
        return own.results or []

    # Who is next; under the lock

    def _limit(self, kind: Hashable) -> int:
        is_apart = not isinstance(kind, tuple) or len(self._apart) >= MOST_APART or kind in self._apart
        return 1 if is_apart else self._max_rows

    def _serve(self, leader: object = None) -> Batch | None:
        """The batch that is due, if this leader may lead it; else whoever may is woken."""
        taken = None
        while self._line.calls and len(self._running) < self._instances:
            now = self.clock()
            batch = self._line.due(now, self._limit)
            if batch is None:
                break
            waiting = next((member for member in batch.members if member.woken is not None), None)
            is_own = leader in self._workers if waiting is None else leader in batch.members
            if taken is not None or not is_own:
                if waiting is None:
                    self._wanted.notify()
                elif waiting.woken is not None:
                    waiting.woken.set()
                break
            taken = self._taken(batch, leader, now)
        if not self._workers and self._line.is_awaited():
            self._call_worker()
        return taken

    def _taken(self, batch: Batch, leader: object, now: float) -> Batch:
        # Before it leaves the line: what its leader has and does not end stands there again.
        self._led[leader] = batch
        self._running.add(leader)
        self._workers.discard(leader)
        self._line.leave(batch)
        self._reasons[batch.why] += 1
        self._sizes[batch.rows] += 1
        for member in batch.members:
            self._queue_time.add(max(0, int((now - member.arrival) * 1e9)))
        return batch

    def _pause(self) -> float:
        """How long whoever waits may do so."""
        left = self._line.next_due(self._limit) - self.clock()
        # What is due already waits for somebody else.
        return min(left, PATIENCE) if left > 0 else PATIENCE

    def _give_back(self, leader: object) -> None:
        """Give back whatever this leader still has, and let the next ones come; to do it twice changes nothing."""
        with self._lock:
            if isinstance(leader, Member):
                leader.is_left = True
                self.end_deserted()
            batch = self._led.pop(leader, None)
            self._running.discard(leader)
            self._workers.discard(leader)
            for member in batch.members if batch is not None else ():
                if not (member.has_ended or member.is_gone):
                    self._line.put_back(member)
            self._serve()
            if self._is_closed and not self._line.calls and not self._led and self._pool is not None:
                self._pool.shutdown(wait=False)

    # Workers, which lead batches of which no member waits in a thread

    def _call_worker(self) -> None:
        worker, is_started = object(), False
        try:
            self._workers.add(worker)
            is_started = self._start(partial(self._work, worker))
        finally:
            if not is_started:
                self._workers.discard(worker)

    def _start(self, job: Callable[[], None]) -> bool:
        if self._pool is None:
            most = self._instances + SPARE_WORKERS
            self._pool = ThreadPoolExecutor(most, thread_name_prefix="inferlite-batches")
        try:
            self._pool.submit(job)
            self._has_threads = True
        except RuntimeError:  # the interpreter is about to end, or starts no more threads
            self._has_threads = False
        return self._has_threads

    def _work_here(self) -> None:
        """Lead what no worker leads, where there are none to be had."""
        while not self._has_threads:
            worker = object()
            try:
                with self._lock:
                    if not self._line.is_awaited():
                        return
                    self._workers.add(worker)
                self._work(worker)
            finally:
                self._workers.discard(worker)

    def _work(self, worker: object) -> None:
        try:
            with self._lock:
                while (batch := self._serve(worker)) is None and worker in self._workers and self._line.is_awaited():
                    self._wanted.wait(self._pause())
            if batch is not None:
                self._lead(batch, worker)
        finally:
            self._give_back(worker)

    # Leading

    def _lead(self, batch: Batch, leader: object) -> None:
        """Run a batch, let the next one come, and tell the members of this one."""
        outcomes: Outcomes = []
        self._run_part(batch.members, outcomes)
        with self._lock:
            self._running.discard(leader)
            self._serve()
        away = [outcome for outcome in outcomes if outcome[0].woken is None]
        waiting = [outcome for outcome in outcomes if outcome[0].woken is not None]
        outcomes.clear()
        if away and threading.current_thread() is threading.main_thread():
            # Where Ctrl-C comes, what others wait for might be told half.
            with self._lock:
                is_told = self._start(partial(_tell, away))
            if is_told:
                batch.members = [member for member in batch.members if member.woken is not None]
                away = []
        _tell(away)
        _tell(waiting)

    def _run_part(self, members: list[Member], outcomes: Outcomes) -> None:
        """Run some calls of a kind together, or in parts where that fails."""
        if len(members) == 1:
            outcomes.append((members[0], *self._run_one(members[0])))
            return
        rows = [member.rows for member in members]
        try:
            feed = self._axes.join([member.feed for member in members])
            results = self._run_for(members, feed, rows)
            parts = self._axes.split(members[0].names, results, rows)
        except Exception:  # noqa: BLE001 - the culprit is told once it is alone
            members = self._staying(members, outcomes)
            half = len(members) // 2
            self._retry([members[:half], members[half:]], outcomes)
            return
        if parts is None:
            with self._lock:
                self._apart.add(members[0].kind)
            self._retry([[member] for member in self._staying(members, outcomes)], outcomes)
            return
        outcomes += [(member, part, None) for member, part in zip(members, parts, strict=True)]

    def _retry(self, parts: list[list[Member]], outcomes: Outcomes) -> None:
        for part in filter(None, parts):
            with self._lock:
                self._retried += 1
            self._run_part(part, outcomes)

    def _staying(self, members: list[Member], outcomes: Outcomes) -> list[Member]:
        """Those who still wait after a run that has told nothing; the others need no run of their own."""
        staying = []
        for member in members:
            if member.is_gone:
                outcomes.append((member, None, CancelledError()))
            else:
                staying.append(member)
        return staying

    def _run_one(self, member: Member) -> tuple[list[Any] | None, BaseException | None]:
        """Run one call as it would run by itself; whoever asks may end the run by leaving."""
        if member.is_gone:
            return None, CancelledError()
        try:
            return self._run_for([member], member.feed, None), None
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            return None, error

    def _run_for(self, members: list[Member], feed: Mapping[str, Any], rows: Sequence[int] | None) -> list[Any]:
        """Run what ends early if all members leave."""
        company = Company(members)
        try:
            self._companies.add(company)
            # Whoever has left before saw no company.
            company.look()
            return self._run_timed(members[0].names, feed, company.options, rows)
        finally:
            self._companies.discard(company)

    def _run_timed(
        self, names: Sequence[str], feed: Mapping[str, Any], options: RunOptions | None, rows: Sequence[int] | None
    ) -> list[Any]:
        start = time.perf_counter_ns()
        results = self._run(names, feed, options, rows)
        took = time.perf_counter_ns() - start
        with self._lock:
            self._compute_time.add(took)
        return results

    # The end, and what was counted

    def close(self, *, cancel: bool) -> None:
        """Take no more calls; those who wait are served at once, or told that it is over."""
        self._survive_fork()
        with self._lock:
            turns = list(self._turns.values())
        for turn in turns:
            turn.flush()
        with self._lock:
            self._is_closed = True
            self._line.max_delay = 0.0
            cancelled = self._line.take_all() if cancel else []
        _tell([(member, None, checks.closed(self._model)) for member in cancelled])
        self._give_back(None)
        self._work_here()

    def stats(self) -> BatchingStats:
        """What has been counted."""
        self._survive_fork()
        with self._lock:
            return BatchingStats(
                lone=self._lone,
                idle=self._reasons["idle"],
                full=self._reasons["full"],
                delay=self._reasons["delay"],
                deadline=self._reasons["deadline"],
                sizes=dict(sorted(self._sizes.items())),
                queue_time=self._queue_time.summary(),
                compute_time=self._compute_time.summary(),
                dropped=self._line.dropped,
                refused=self._refused,
                retried=self._retried,
                queued_calls=self._line.calls,
                queued_rows=self._line.rows,
                running=len(self._running),
                max_rows=self._max_rows,
            )


class Turn:
    """The calls that one turn of an event loop makes; the loop holds it until the turn is over."""

    def __init__(self, batcher: Batcher, loop: asyncio.AbstractEventLoop) -> None:
        """Collect calls for `batcher`."""
        self._batcher = batcher
        self.loop = loop
        self.members: list[Member] = []
        self.is_over = False

    def flush(self) -> None:
        """Let them go their way."""
        self._batcher.flush(self)

    def __del__(self) -> None:
        """The loop was closed in the middle of the turn."""
        # No thread begins any more once the interpreter ends, and to wait for one would be for ever.
        if self.members and not sys.is_finalizing():
            # The interpreter comes here wherever that thread is, and whatever locks it holds.
            with suppress(RuntimeError):
                threading.Thread(target=self.flush, name="inferlite-turn", daemon=True).start()


def _tell(outcomes: Outcomes) -> None:
    with _async.together():
        for member, results, error in outcomes:
            member.end(results, error)
    # The traceback of an error has the frames that have this list.
    outcomes.clear()
