"""How long does a process take that imports the package, and one that gives a first answer too?

Whole processes are timed, interpreter included: `-X importtime` slows what it measures and leaves out
the loading of libraries that ends after the import.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benches.harness import Case, Effort, WrongAnswerError
from benches.models import model
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from benches.subject import Subject

MODEL: Final = "identity-1x4"
ROUNDS: Final = 40
SECONDS_ALLOWED: Final = 60

IMPORT: Final = "import numpy, {module}"
FIRST_ANSWER: Final = (
    "import numpy, {module}; "
    "session = {module}.InferenceSession({path!r}, providers=['CPUExecutionProvider']); "
    "print(session.run(None, {{'x': numpy.arange(4, dtype=numpy.float32).reshape(1, 4)}})[0].tolist())"
)
ANSWERS: Final = {IMPORT: "", FIRST_ANSWER: "[[0.0, 1.0, 2.0, 3.0]]"}


def measure(program: str, subject: Subject, effort: Effort) -> Comparison:
    """Time processes that run `program` with our module and with onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model(MODEL).content)
        environment = dict(os.environ)
        if subject.name in {"native", "python"}:
            environment["INFERLITE_BACKEND"] = subject.name
        ours, theirs = (
            partial(run_process, program.format(module=module, path=str(path)), environment)
            for module in (subject.module, "onnxruntime")
        )
        # The first process of each side writes compiled files and fills the page cache.
        for side, process in (("ours", ours), ("the peer", theirs)):
            answer = process()
            if answer != ANSWERS[program]:
                message = f"{side} printed {answer!r}, but {ANSWERS[program]!r} is wanted"
                raise WrongAnswerError(message)
        return paired_rounds(ours, theirs, rounds=effort.rounds(ROUNDS), calls_per_round=1)


def run_process(program: str, environment: dict[str, str]) -> str:
    """Run `program` in a fresh interpreter; return what it printed.

    Raises:
        WrongAnswerError: it failed; the text holds the last line it wrote to stderr.
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=SECONDS_ALLOWED,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        message = f"a timed process ended with {done.returncode}: {last}"
        raise WrongAnswerError(message)
    return done.stdout.strip()


CASES: Final = (
    Case("imports", "import", "python -c 'import numpy, onnxruntime'", partial(measure, IMPORT)),
    Case(
        "imports",
        "import and first answer",
        f"process that imports onnxruntime and runs {MODEL} once",
        partial(measure, FIRST_ANSWER),
    ),
)
