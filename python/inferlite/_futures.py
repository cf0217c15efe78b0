"""Calls whose answers come later, for those who are no event loop: both back ends give their tickets to this."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite import _checks as checks
from inferlite.exceptions import QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from inferlite._async import Ticket
    from inferlite.metadata import Signature, TensorSpec

WINDOW: Final = 256
"""How many calls `map` and `map_rows` have under way at most."""


class Submitted(Future[Any]):
    """The future of one call; the claim to its answer is given up when it is cancelled."""

    _ticket: Ticket | None = None
    _deadline: list[Any] | None = None

    @classmethod
    def answered(cls, value: Any) -> Submitted:  # noqa: ANN401 - whatever the model gives
        """What was there at once."""
        future = cls()
        future._give(value)
        return future

    @classmethod
    def failed(cls, error: BaseException) -> Submitted:
        """What went wrong at once."""
        future = cls()
        future._fail(error)
        return future

    @classmethod
    def waiting(cls, ticket: Ticket, model: str, timeout: float | None) -> Submitted:
        """What is going to be the answer to `ticket`; the others are for the message where that takes too long."""
        future = cls()
        future._ticket = ticket
        remaining = ticket.remaining()
        if remaining is not None:

            def expire() -> None:
                future._fail(checks.deadline_exceeded(model, timeout))
                ticket.leave()

            future._deadline = deadlines.add(time.monotonic() + remaining, expire)
        ticket.when_ended(future._settle)
        return future

    def cancel(self) -> bool:
        """Give the answer up, unless it is there: the call leaves the line, or its run ends if nobody else waits."""
        is_cancelled = super().cancel()
        ticket = self._ticket
        if is_cancelled and ticket is not None:
            self._let_go()
            ticket.leave()
        return is_cancelled

    def _settle(self) -> None:
        ticket = self._ticket
        if ticket is None or self.done():
            return
        try:
            given = ticket.answer()
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result is told
            self._fail(error)
            return
        if given is None:
            # It has to be computed anew, which is under way; or it was given up.
            if not self.done():
                ticket.when_ended(self._settle)
            return
        self._give(given[0])

    def _give(self, value: Any) -> None:  # noqa: ANN401 - as above
        if self._is_first():
            self.set_result(value)

    def _fail(self, error: BaseException) -> None:
        if self._is_first():
            self.set_exception(error)

    def _is_first(self) -> bool:
        """Whether nobody has said before how it ended."""
        with self._condition:
            if self.done() or self.running():
                return False
            self.set_running_or_notify_cancel()
        self._let_go()
        return True

    def _let_go(self) -> None:
        self._ticket = None
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadlines.drop(deadline)


class Deadlines:
    """Calls what is due; one thread for all deadlines of the process, as long as there are any."""

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self._begin()

    def _begin(self) -> None:
        """Also in a forked child, where the thread is not there that may hold the lock."""
        self._changed = threading.Condition()
        # When, in which order, and what; nothing where it is dropped.
        self._due: list[list[Any]] = []
        self._numbers = itertools.count()
        self._is_running = False

    def add(self, at: float, call: Callable[[], None]) -> list[Any]:
        """Have `call` called once `time.monotonic()` gives `at`."""
        with self._changed:
            entry = [at, next(self._numbers), call]
            heapq.heappush(self._due, entry)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="inferlite-deadlines", daemon=True).start()
            self._changed.notify()
        return entry

    def drop(self, entry: list[Any]) -> None:
        """Call it no more."""
        with self._changed:
            entry[2] = None
            if self._due and self._due[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._due and self._due[0][2] is None:
                    heapq.heappop(self._due)
                if not self._due:
                    self._is_running = False
                    return
                left = self._due[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                call = heapq.heappop(self._due)[2]
            call()


deadlines: Final = Deadlines()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=deadlines._begin)  # noqa: SLF001 - of this module


def answers(submit: Callable[[Any], Future[Any]], items: Iterable[Any]) -> Iterator[Any]:
    """Yield the answers to `items` in their order, so many calls ahead at most as the window says."""
    under_way: deque[Future[Any]] = deque()
    try:
        for item in items:
            while len(under_way) >= WINDOW:
                yield under_way.popleft().result()
            while True:
                future = submit(item)
                # Where the line is full of others' calls, this one waits for its own.
                is_full = future.done() and isinstance(future.exception(), QueueFullError)
                if not (is_full and under_way):
                    break
                yield under_way.popleft().result()
            under_way.append(future)
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


class Rows:
    """Where the rows of a batch are: adds that axis to inputs, and takes it from outputs."""

    def __init__(self, signature: Signature, declared: Sequence[tuple[str, int | None]] = ()) -> None:
        """Take axis 0 where nothing is declared and it is not fixed to another size than 1."""
        given = dict(declared)
        self._inputs = {spec.name: given.get(spec.name, _axis(spec)) for spec in signature.inputs}
        self._outputs = {spec.name: given.get(spec.name, _axis(spec)) for spec in signature.outputs}

    def expand(self, row: Any) -> Any:  # noqa: ANN401 - whatever the model takes
        """The inputs of a batch of this row alone."""
        if hasattr(row, "keys"):
            return {name: _expanded(row[name], self._inputs.get(name)) for name in row.keys()}  # noqa: SIM118
        axes = list(self._inputs.values())
        return _expanded(row, axes[0]) if len(axes) == 1 else row

    def squeeze(self, answer: Any, names: Sequence[str] | str | None) -> Any:  # noqa: ANN401 - as above
        """The answer without the axis of the batch."""
        if isinstance(answer, dict) and (names is None or not isinstance(names, str)):
            wanted = set(self._outputs) if names is None else set(names)
            if len(wanted) != 1:
                return {name: _squeezed(value, self._outputs.get(name)) for name, value in answer.items()}
        name = names if isinstance(names, str) else next(iter(names if names is not None else self._outputs), None)
        return _squeezed(answer, None if name is None else self._outputs.get(name))


def _axis(spec: TensorSpec) -> int | None:
    shape = getattr(spec, "shape", None)
    return 0 if shape and (not isinstance(shape[0], int) or shape[0] == 1) else None


def _expanded(value: Any, axis: int | None) -> Any:  # noqa: ANN401 - as above
    if axis is None:
        return value
    return np.expand_dims(value, axis) if isinstance(value, np.ndarray) or axis else [value]


def _squeezed(value: Any, axis: int | None) -> Any:  # noqa: ANN401 - as above
    if axis is None:
        return value
    return np.take(value, 0, axis) if isinstance(value, np.ndarray) else value[0]


def map_calls(model: Any, items: Iterable[Any], settings: Mapping[str, Any]) -> Iterator[Any]:  # noqa: ANN401 - of either back end
    """What `Model.map` returns."""
    return answers(lambda item: model.submit(item, **settings), items)


def map_rows(
    model: Any,  # noqa: ANN401 - as above
    rows: Iterable[Any],
    settings: Mapping[str, Any],
    declared: Sequence[tuple[str, int | None]],
) -> Iterator[Any]:
    """What `Model.map_rows` returns."""
    layout = Rows(model.signature, declared)
    given = answers(lambda row: model.submit(layout.expand(row), **settings), rows)
    return (layout.squeeze(answer, settings["outputs"]) for answer in given)
