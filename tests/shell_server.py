"""`inferlite serve` in a process of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import served

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class ShellServer:
    """A server that a shell has started; the block begins when it has shown what it serves, and kills it at its end."""

    def __init__(
        self, *arguments: object, environment: dict[str, str], is_waited_for: bool = True, **options: Any
    ) -> None:
        """Start it on a free port.

        Args:
            *arguments: What follows `inferlite serve`.
            environment: The whole environment.
            is_waited_for: Whether the block begins only when everything is shown.
            **options: For the process.
        """
        self.shown = ""
        self._is_waited_for = is_waited_for
        command = [sys.executable, "-m", "inferlite", "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )

    @property
    def url(self) -> str:
        """Where it is asked."""
        found = re.search(r"^url: (\S+)$", self.shown, flags=re.MULTILINE)
        assert found, self.shown
        return found[1]

    @property
    def trial(self) -> str:
        """The line for the shell that it shows."""
        lines = self.shown.splitlines()
        (place,) = (number for number, line in enumerate(lines) if line.startswith("try"))
        return lines[place + 1]

    def read_until(self, text: str) -> str:
        """Read what it prints until a line begins with a text; returns all that it has shown so far.

        Raises:
            AssertionError: It has ended, or the time is over.
        """
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + served.PATIENCE
        while not re.search(rf"^{re.escape(text)}.*\n", self.shown, flags=re.MULTILINE):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([descriptor], [], [], max(left, 0))
            assert ready, f"no line begins with {text!r}: {self.shown}"
            chunk = os.read(descriptor, 65_536)
            assert chunk, f"ended with {self.process.wait()}: {self.shown}\n{self._errors()}"
            self.shown += chunk.decode()
        return self.shown

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait; returns the exit code and what is on stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait for the end; returns the exit code and what is on stderr."""
        out, err = self.process.communicate(timeout=served.PATIENCE)
        self.shown += out.decode()
        return self.process.returncode, err.decode()

    def _errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def __enter__(self) -> Self:
        """Wait until it has shown what it serves."""
        if self._is_waited_for:
            try:
                self.read_until("url: ")
            except BaseException:
                self.process.kill()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no process behind."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
