"""Ctrl-C while native code runs, and signals that tell a server to end."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING, Final

from inferlite.cli.failures import ExitCode

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

GRACE: Final = 0.5
"""Seconds that Python gets to end by itself after Ctrl-C."""

STDERR: Final = 2
SHOW_CURSOR: Final = b"\x1b[?25h\n"


def end_stuck_runs() -> None:
    """From now on, end the process when Ctrl-C does not, because a model's run does not come back to Python.

    The interpreter only raises KeyboardInterrupt between two of its own instructions. Its C handler, though,
    writes to this socket at once, on which a thread waits.
    """
    receiving, sending = socket.socketpair()
    sending.settimeout(0)
    signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    # The sockets live as long as the thread, and the thread as long as the process.
    thread = threading.Thread(target=_watch, args=(receiving, sending), name="inferlite-interrupt", daemon=True)
    thread.start()


def _watch(receiving: socket.socket, _sending: socket.socket) -> None:
    while receiving.recv(1) != bytes([signal.SIGINT]):
        pass
    threading.Event().wait(GRACE)
    _end(ExitCode.INTERRUPTED)


def _end(code: int) -> None:
    if os.isatty(STDERR):
        # A spinner or progress bar has hidden it. Python's own stream may be in the spinner's hands.
        os.write(STDERR, SHOW_CURSOR)
    os._exit(code)


class StopSignals:
    """Ctrl-C and SIGTERM, which `wait` waits for while the block runs; Ctrl-C after either ends the process at once.

    A supervisor may send SIGTERM again and again, which changes nothing.
    """

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self.received: int | None = None
        """The signal that has come first, if one has."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a signal has come, or so many seconds; returns whether one has."""
        while self.received is None:
            # The C handler writes to the socket, so that a signal that comes just before this is not missed.
            ready, _, _ = select.select([self._receiving], [], [], timeout)
            if not ready:
                break
            self._receiving.recv(64)
        return self.received is not None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        elif number == signal.SIGINT:
            _end(ExitCode.INTERRUPTED)

    def __enter__(self) -> Self:
        """Take the place of the handlers that there are, and of what ends runs that are stuck."""
        self._receiving, self._sending = socket.socketpair()
        self._sending.settimeout(0)
        self._wakeup = signal.set_wakeup_fd(self._sending.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._receiving.close()
        self._sending.close()
