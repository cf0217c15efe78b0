"""Waiting for the answers of a model on an event loop, without the native part."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from inferlite import _checks as checks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


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


async def _wait(ticket: Ticket, model: str, timeout: float | None) -> Any:  # noqa: ANN401, ASYNC109 - for the text
    loop = asyncio.get_running_loop()
    try:
        while (given := ticket.answer()) is None:
            remaining = ticket.remaining()
            ended: asyncio.Future[bool] = loop.create_future()
            ticket.when_ended(partial(_tell, loop, ended))
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
        ticket.leave()


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[bool]) -> None:
    loop.call_soon_threadsafe(_settle, ended, True)  # noqa: FBT003


def _settle(ended: asyncio.Future[bool], is_in_time: bool) -> None:  # noqa: FBT001
    if not ended.done():
        ended.set_result(is_in_time)
