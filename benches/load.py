"""Load on a server over HTTP, by wrk: connections that each send the same request again as soon as it is answered."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benches.harness import NotMeasurableError, WrongAnswerError
from benches.servers import pinned

if TYPE_CHECKING:
    from benches.forms import Request

SCRIPT: Final = Path(__file__).with_suffix(".lua")
PATIENCE: Final = 10
"""Seconds that an answer may take."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a server made of the time.

    Attributes:
        seconds_per_request: wall time over the answers on all connections.
        slow: seconds that 99 of 100 answers took at most.
    """

    seconds_per_request: float
    slow: float


def press(url: str, request: Request, *, connections: int, seconds: float, core: int) -> Traffic:
    """Let connections ask for a time, in whole seconds, from one thread on one core.

    Raises:
        NotMeasurableError: wrk is not installed.
        WrongAnswerError: a request was refused, or got no answer.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        message = "wrk is not installed: it is a package of that name in Debian and in Homebrew"
        raise NotMeasurableError(message)
    with tempfile.NamedTemporaryFile() as body:
        body.write(request.body)
        body.flush()
        headers = [word for pair in request.headers.items() for word in pair]
        with pinned(core):
            done = subprocess.run(
                [
                    wrk,
                    *("--threads", "1", "--connections", str(connections), "--duration", f"{math.ceil(seconds)}s"),
                    *("--timeout", f"{PATIENCE}s", "--script", str(SCRIPT), f"{url}{request.path}"),
                    *("--", body.name, *headers),
                ],
                capture_output=True,
                check=False,
                text=True,
                timeout=60 + seconds,
            )
    if done.returncode != 0:
        message = f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()}"
        raise WrongAnswerError(message)
    return read(done.stdout)


def read(printed: str) -> Traffic:
    """Read what wrk and the script have printed.

    Raises:
        WrongAnswerError: a request was refused or got no answer, or none was answered.
    """
    told = json.loads(printed.strip().splitlines()[-1])
    if told["refused"] or told["lost"] or not told["requests"]:
        message = (
            f"of {told['requests']} requests under load {told['refused']} were refused and {told['lost']} got no answer"
        )
        raise WrongAnswerError(message)
    return Traffic(told["duration"] / told["requests"] / 1e6, told["slow"] / 1e6)
