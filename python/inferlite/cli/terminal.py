"""What a command shows: colour and tables on a terminal, plain lines in a pipe.

In a pipe every line stands by itself (`name: value`, or columns two blanks apart), without colour and
without drawn boxes, so that `grep`, `cut` and a diff of two outputs work.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from inferlite.cli.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

PATIENCE: Final = 1.0
"""Seconds before a progress bar shows."""

REDRAW: Final = 0.1
"""Seconds between two drawings of a progress bar."""

BAR_WIDTH: Final = 40


class _Console(Console):
    """A console that leaves a closed pipe to the command's own handler and exit code."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


class _Closed(io.StringIO):
    """A stream that cannot be written to."""

    def write(self, text: str) -> NoReturn:
        del text
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class Terminal:
    """Where a command writes: results on stdout, progress and notes on stderr."""

    def __init__(self) -> None:
        """Take the process's streams as they are now."""
        # stdout is None when the process was started with it closed: what is written then is lost, which is said.
        self._out: IO[str] = sys.stdout or _Closed()
        self._console = _Console(file=self._out, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._progress = _Console(file=sys.stderr or _nowhere(), highlight=False, markup=False, emoji=False)
        self.is_rich = _is_terminal(self._out)
        self.has_progress = _is_terminal(sys.stderr)

    @property
    def shades(self) -> str:
        """Characters from empty to full."""
        return " ░▒▓█" if self.is_rich and self._can_draw() else " .:*#"

    def line(self, text: str = "", *, style: str = "") -> None:
        """Write one line."""
        if self.is_rich and style:
            self._console.print(Text(text, style=style))
        else:
            print(text, file=self._out)

    def heading(self, text: str) -> None:
        """Write a line that what follows belongs to, set off by an empty one."""
        self.line()
        self.line(text, style="bold cyan")

    def fields(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Write names with their values, one pair a line."""
        shown = [(name, one_line(value)) for name, value in pairs]
        if not self.is_rich:
            for name, value in shown:
                print(f"{one_line(name)}: {value}", file=self._out)
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in shown:
            grid.add_row(Text(one_line(name)), Text(value))
        self._console.print(grid, soft_wrap=False)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write a table; columns whose name starts with `>` are set flush right."""
        cells = [[one_line(cell) for cell in row] for row in rows]
        names = [name.removeprefix(">") for name in columns]
        right = [name.startswith(">") for name in columns]
        if self.is_rich:
            table = Table(box=SIMPLE_HEAD, header_style="cyan", pad_edge=False)
            for name, is_right in zip(names, right, strict=True):
                table.add_column(name, justify="right" if is_right else "left", overflow="fold")
            for row in cells:
                table.add_row(*map(Text, row))
            self._console.print(table, soft_wrap=False)
            return
        widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
        for row in [names, *cells]:
            padded = [
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(row, widths, right, strict=True)
            ]
            print("  ".join(padded).rstrip(), file=self._out)

    def bars(self, rows: Sequence[tuple[str, float, str]]) -> None:
        """Write a bar chart of (name, length, caption) rows; the longest bar fills the width."""
        longest = max(length for _, length, _ in rows)
        names = max(len(name) for name, _, _ in rows)
        captions = max(len(caption) for _, _, caption in rows)
        for place, (name, length, caption) in enumerate(rows):
            cells = max(1, round(length / longest * BAR_WIDTH))
            bar = (self.shades[-1] * cells).ljust(BAR_WIDTH)
            if self.is_rich:
                style = "green" if place == 0 else "yellow"
                row = Text.assemble(f"{name.ljust(names)}  ", (bar, style), f"  {caption.rjust(captions)}")
                self._console.print(row)
            else:
                print(f"{name.ljust(names)}  {bar}  {caption.rjust(captions)}", file=self._out)

    def rounds(self, items: Iterable[int], *, total: int, text: str) -> Iterator[int]:
        """Yield `items`, `total` of them; where this takes longer than a second, draw a progress bar between them.

        The bar is drawn by this very loop, never by a thread, which would disturb what is timed.
        """
        if not self.has_progress:
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=self._progress, transient=True, auto_refresh=False)
        task = progress.add_task(text, total=total)
        next_drawing = time.monotonic() + PATIENCE
        try:
            for done, item in enumerate(items):
                if time.monotonic() >= next_drawing:
                    progress.start()
                    progress.update(task, completed=done, refresh=True)
                    next_drawing = time.monotonic() + REDRAW
                yield item
        finally:
            progress.stop()

    @contextmanager
    def waiting(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show a spinner with `text` on stderr while the block takes over a second; gives what changes the text."""
        if not self.has_progress:
            yield lambda _text: None
            return
        status = self._progress.status(text)
        timer = threading.Timer(PATIENCE, status.start)
        timer.daemon = True
        timer.start()
        try:
            yield status.update
        finally:
            timer.cancel()
            timer.join()
            status.stop()

    def _can_draw(self) -> bool:
        return (getattr(self._out, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _nowhere() -> IO[str]:
    return Path(os.devnull).open("w", encoding="utf-8")


def show_seconds(seconds: float) -> str:
    """Write a duration with three digits in a fitting unit.

    Example:
        >>> show_seconds(1.861e-6), show_seconds(0.0123), show_seconds(2.0)
        ('1.86 us', '12.3 ms', '2.00 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds / 1e-9)} ns"


def show_bytes(size: float) -> str:
    """Write a number of bytes in powers of 1000.

    Example:
        >>> show_bytes(999), show_bytes(10_267), show_bytes(2_600_000)
        ('999 B', '10.3 kB', '2.60 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000:  # noqa: PLR2004 - the step between the units
            return f"{size:.0f} {unit}" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1000
    return f"{size:.3g} EB"


def show_kind(dtype: str, shape: Sequence[object] | None) -> str:
    """Write what an input or output is: `float32 [batch, 64]`, or the type alone where no shape belongs to it.

    A model's file does not tell a scalar from a tensor whose shape was never declared.
    """
    if shape is not None:
        return f"{dtype} {show_shape(shape)}"
    return dtype if "(" in dtype else f"{dtype} (no declared shape)"


def show_shape(shape: Sequence[object]) -> str:
    """Write a shape as the error messages do: `[batch, 64]`, unnamed dimensions as `?`."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _three_digits(value: float) -> str:
    if value >= 99.95:  # noqa: PLR2004 - from here on three digits need no point
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"  # noqa: PLR2004 - likewise
