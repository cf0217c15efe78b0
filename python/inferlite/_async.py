"""Waiting for the answers of a model on an event loop, without the native part."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

from inferlite import _checks as checks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


class Ticket(Protocol):
    """The claim to the answer of one call."""

    def answer(self) -> tuple[Any] | None:
        """The answer once it is there, or what it raises; None before."""

    def when_ended(self, callback: Callable[[], object], /) -> None:
        """Have `callback` called once `answer` has something to say, from any thread."""

    def remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""

    def leave(self) -> None:
        """Give the answer up."""


async def answered(value: Any) -> Any:  # noqa: ANN401 - whatever the model gives; callers await it
    """What was there at once."""
    return value


async def failed(error: BaseException) -> Any:  # noqa: ANN401 - as above
    """What went wrong at once."""
    raise error


def answer(ticket: Ticket, model: str, timeout: float | None) -> Coroutine[Any, Any, Any]:
    """Wait for the answer to a ticket, which is given up if this ends before."""
    return _Waiting(ticket, _wait(ticket, model, timeout))


class _Waiting(Coroutine[Any, Any, Any]):
    """A coroutine that also gives its ticket up if it is ended before it begins.

    None of its own code runs then, as for a task that is cancelled before its first turn; and the exception keeps its
    frame, with the ticket in it, for as long as anybody has the exception.
    """

    __slots__ = ("_steps", "_ticket")

    def __init__(self, ticket: Ticket, steps: Coroutine[Any, Any, Any]) -> None:
        """Wait by `steps`."""
        self._ticket = ticket
        self._steps = steps

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - an event loop knows what it sends
        """Go on."""
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:  # noqa: ANN401 - as above
        """Go on with an exception."""
        try:
            return self._steps.throw(*error)
        except BaseException:
            self._ticket.leave()
            raise

    def close(self) -> None:
        """End."""
        self._steps.close()
        self._ticket.leave()

    def __await__(self) -> Generator[Any, Any, Any]:
        """Wait as a part of another coroutine, which cannot be ended between the call and this."""
        return self._steps.__await__()


class _Bell:
    """Wakes one event loop, once for all that has ended since the loop has looked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have nothing to tell yet."""
        self.loop = loop
        self.waiting: set[Ticket] = set()
        self._ended: deque[asyncio.Future[bool]] = deque()
        self._is_rung = False

    def note(self, ended: asyncio.Future[bool]) -> None:
        """Have this one told; from any thread."""
        # In this order: whoever finds the bell rung has its own among those that the loop is about to look at.
        self._ended.append(ended)
        if _gathering.bells is None:
            self.ring()
        else:
            _gathering.bells[self] = None

    def ring(self) -> None:
        """Wake the loop, unless it is about to look."""
        if self._is_rung:
            return
        self._is_rung = True
        try:
            self.loop.call_soon_threadsafe(self._look)
        except RuntimeError:  # the loop that wanted to know is closed by now
            self._ended.clear()

    def give_up(self) -> None:
        """Give up what a closed loop waits for: no task of its can go on."""
        for ticket in list(self.waiting):
            ticket.leave()

    def _look(self) -> None:
        self._is_rung = False
        try:
            while self._ended:
                _settle(self._ended[0], True)  # noqa: FBT003
                self._ended.popleft()
        finally:
            # Where Ctrl-C came in the middle of it.
            if self._ended:
                self.ring()


class _Gathering(threading.local):
    bells: dict[_Bell, None] | None = None


_gathering: Final = _Gathering()
# By the loops that they wake and keep; each is there for as long as somebody waits for it.
_bells: Final[WeakValueDictionary[int, _Bell]] = WeakValueDictionary()


@contextmanager
def together() -> Iterator[None]:
    """Wake each event loop once for all that this thread tells of within the block."""
    if _gathering.bells is not None:
        yield
        return
    bells: dict[_Bell, None] = {}
    _gathering.bells = bells
    try:
        yield
    finally:
        _gathering.bells = None
        for bell in bells:
            bell.ring()


def _bell_of(loop: asyncio.AbstractEventLoop) -> _Bell:
    bell = _bells.get(id(loop))
    if bell is None:
        # What others wait for whose loops have been closed keeps these, and threads busy, for as long as it runs.
        for other in list(_bells.values()):
            if other.loop.is_closed():
                other.give_up()
        bell = _bells[id(loop)] = _Bell(loop)
    return bell


async def _wait(ticket: Ticket, model: str, timeout: float | None) -> Any:  # noqa: ANN401, ASYNC109 - for the text
    loop = asyncio.get_running_loop()
    bell = _bell_of(loop)
    bell.waiting.add(ticket)
    try:
        while (given := ticket.answer()) is None:
            remaining = ticket.remaining()
            ended: asyncio.Future[bool] = loop.create_future()
            ticket.when_ended(partial(bell.note, ended))
            timer = None if remaining is None else loop.call_later(remaining, _settle, ended, False)  # noqa: FBT003
            try:
                is_in_time = await ended
            finally:
                if timer is not None:
                    timer.cancel()
            if not is_in_time:
                raise checks.deadline_exceeded(model, timeout)
        return given[0]
    finally:
        bell.waiting.discard(ticket)
        ticket.leave()


def _settle(ended: asyncio.Future[bool], is_in_time: bool) -> None:  # noqa: FBT001
    if not ended.done():
        ended.set_result(is_in_time)
