"""Runs Python code in a process of its own, with a time limit: what may crash or hang must not take the tests along."""

from __future__ import annotations

import subprocess
import sys
import textwrap

# On top of every child: no core files, and stacks of all threads before a time limit ends the process.
PREAMBLE = """\
import faulthandler, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
faulthandler.enable()
faulthandler.dump_traceback_later({limit}, exit=True)
"""


def run(code: str, environment: dict[str, str], *, limit: float = 60, warnings: bool = False) -> str:
    """Run code and return what it printed.

    Args:
        code: Python, indented as the caller likes.
        environment: The whole environment; the fixture `child_environment` makes one.
        limit: Seconds after which the child counts as hanging.
        warnings: Whether warnings may be printed; else each is an error in the child.

    Raises:
        AssertionError: The child ended by a signal, by its time limit, or with a status other than 0.
    """
    source = PREAMBLE.format(limit=limit) + textwrap.dedent(code)
    flags = [] if warnings else ["-W", "error"]
    try:
        done = subprocess.run(
            [sys.executable, *flags, "-c", source],
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit + 10,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"still running after {limit + 10} seconds:\n{error.stdout!r}\n{error.stderr!r}"
        raise AssertionError(message) from None
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout
