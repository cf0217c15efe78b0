"""Ctrl-C while native code runs."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Final

from inferlite.cli.failures import ExitCode

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
    if os.isatty(STDERR):
        # A spinner or progress bar has hidden it. Python's own stream may be in the spinner's hands.
        os.write(STDERR, SHOW_CURSOR)
    os._exit(ExitCode.INTERRUPTED)
