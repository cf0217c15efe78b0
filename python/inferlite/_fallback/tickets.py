"""Calls that are answered later, without the native part: a pool of threads per model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, TimeoutError as FutureTimeoutError, wait
from typing import TYPE_CHECKING, Any, Final

from inferlite import _checks as checks
from inferlite._fallback import forks
from inferlite._fallback.threads import available_threads

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 0.05
"""Seconds after which a thread that waits looks up."""

MAX_QUEUE: Final = 10_000
"""How many calls may wait for a thread."""


class Ticket:
    """The claim to the answer of one call."""

    def __init__(
        self,
        future: Future[Any],
        deadline: float | None,
        leave: Callable[[], None],
        hasten: Callable[[], None] | None = None,
    ) -> None:
        """Wait for `future` until `time.monotonic()` gives `deadline`.

        Args:
            future: What has the answer at last.
            deadline: When it is of no use any more.
            leave: Ends what runs for it.
            hasten: Is called when somebody is about to wait.
        """
        self._future = future
        self._deadline = deadline
        self._leave = leave
        self._hasten = hasten

    def answer(self) -> tuple[Any] | None:
        """The answer once it is there, or what it raises; None before."""
        return (self._future.result(),) if self._future.done() else None

    def when_ended(self, callback: Callable[[], object], /) -> None:
        """Have `callback` called once `answer` has something to say, from any thread."""
        if self._hasten is not None:
            self._hasten()
        self._future.add_done_callback(lambda _: callback())

    def remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def leave(self) -> None:
        """Give the answer up: a run that has not begun does not begin, and one for nobody else ends."""
        if not self._future.done() and not self._future.cancel():
            self._leave()

    def __del__(self) -> None:
        """Nobody is left to ask."""
        self.leave()

    def wait(self, model: str, timeout: float | None) -> Any:  # noqa: ANN401 - whatever the model gives
        """The answer, or what it raises.

        Raises:
            DeadlineExceededError: It did not come in time.
        """
        try:
            # In pieces: Ctrl-C that comes just before such a wait ends it no sooner than the time does.
            while (left := self.remaining()) is None or left > 0:
                if wait((self._future,), PATIENCE if left is None else min(left, PATIENCE)).done:
                    break
            return self._future.result(0)
        except (FutureTimeoutError, CancelledError):
            if self._future.done() and not self._future.cancelled():
                raise
            raise checks.deadline_exceeded(model, timeout) from None
        finally:
            self.leave()


class Threads:
    """The threads of one model, started when there is work for them."""

    def __init__(self) -> None:
        """Start none yet."""
        self._begin()

    def _begin(self) -> None:
        self._process = forks.generation()
        # A ticket that the interpreter finds to be garbage is given up wherever that thread is, in here too.
        self._lock = threading.RLock()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting = 0

    def submit(self, model: str, work: Callable[[], Any], timeout: float | None, leave: Callable[[], None]) -> Ticket:
        """Have `work` done on another thread; `leave` ends it early.

        Raises:
            QueueFullError: Too many calls wait for a thread.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        return Ticket(self.begin(model, work), deadline, leave)

    def begin(self, model: str, work: Callable[[], Any]) -> Future[Any]:
        """Have `work` done on another thread, whatever becomes of whoever asked for it.

        Raises:
            QueueFullError: Too many calls wait for a thread.
        """
        # The threads of a parent process are not there in its child.
        if self._process != forks.generation():
            self._begin()
        with self._lock:
            if self._waiting >= MAX_QUEUE:
                raise checks.queue_full(model, MAX_QUEUE)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(available_threads(), thread_name_prefix="inferlite-worker")
            future: Future[Any] | None = None
            try:
                future = self._pool.submit(self._work, work)
                self._waiting += 1
            except RuntimeError:  # the interpreter is about to end, and starts no more threads
                pass
        if future is None:
            return _done(work)
        future.add_done_callback(self._settle)
        return future

    def _work(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401
        with self._lock:
            self._waiting -= 1
        return work()

    def _settle(self, future: Future[Any]) -> None:
        if future.cancelled():
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """End the threads once the calls under way have ended."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


def _done(work: Callable[[], Any]) -> Future[Any]:
    """What `work` gives or raises, here and now."""
    future: Future[Any] = Future()
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - whoever asks for the result is told
        future.set_exception(error)
    return future
