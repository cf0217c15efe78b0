"""The command line: `inferlite` and `python -m inferlite`.

typer and rich are imported here and nowhere else, and only once a command runs.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

INTERRUPTED = 130


def main() -> None:
    """Run the command that the process's arguments name, then exit with its code.

    `inferlite --help` lists the commands, and what each exit code means.
    """
    try:
        from inferlite.cli.application import app  # noqa: PLC0415 - only a command needs typer and rich
        from inferlite.cli.interrupt import end_stuck_runs  # noqa: PLC0415 - likewise

        end_stuck_runs()
    except KeyboardInterrupt:
        # The imports take long enough for an impatient Ctrl-C; there is nothing to clean up yet.
        sys.exit(INTERRUPTED)
    app()
