"""What making sessions costs beside others: of kept graphs, two at once, and for a thread that has other work."""

from __future__ import annotations

import importlib
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benches.harness import Case, Effort, NotMeasurableError, alternate
from benches.subject import PROVIDERS, peer_session
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.subject import Subject

MODELS: Final = {
    "magika": "magika/models/standard_v3_3/model.onnx",
    "silero-vad": "silero_vad/data/silero_vad.onnx",
}
ROUNDS: Final = 60
STALL_ROUNDS: Final = 10
CREATIONS: Final = 20
ALLOWED_STALL: Final = 0.002
"""Seconds that a stall may be longer than those of a machine where nobody makes sessions."""
PERCENTILE: Final = 99.9
TICK: Final = 0.0005


def path_of(name: str) -> str:
    """Return the path of a real model, which the tests' environment holds.

    Raises:
        NotMeasurableError: it is not here.
    """
    path = Path(sys.prefix, "real-models", MODELS[name])
    if not path.exists():
        message = f"{name}'s model is not installed: `make bench` does that"
        raise NotMeasurableError(message)
    return str(path)


def measure_second(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time sessions of a kept graph against those that keep it: each of them finds a folder of its own empty."""
    path, make = path_of(name), keeping(subject)
    rounds = effort.rounds(ROUNDS)
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, str(number)) for number in range(rounds + 1)]
        make(path, folders[-1])
        fresh = iter(folders)
        return alternate(
            lambda: seconds_of(partial(make, path, folders[-1])),
            lambda: seconds_of(partial(make, path, next(fresh))),
            rounds=rounds,
        )


def measure_kept(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time sessions of a kept graph against onnxruntime's of the model."""
    path, make = path_of(name), keeping(subject)
    with tempfile.TemporaryDirectory() as folder:
        make(path, folder)
        return paired_rounds(
            partial(make, path, folder),
            partial(peer_session, path),
            rounds=effort.rounds(ROUNDS),
        )


def keeping(subject: Subject) -> Callable[[str, str | Path], object]:
    """Return what makes a session on one intra-op thread of a path, and keeps its graph in a folder.

    Raises:
        NotMeasurableError: the subject keeps none.
    """
    if subject.module != "inferlite":
        message = "it keeps no optimized graphs"
        raise NotMeasurableError(message)
    inferlite = importlib.import_module(subject.module)
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 1

    def make(path: str, folder: str | Path) -> object:
        made: object = inferlite.InferenceSession(path, options, list(PROVIDERS), optimized_cache=str(folder))
        return made

    return make


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long it takes; what it makes is dropped afterwards."""
    start = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - start
    del made
    return seconds


def measure_two(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time two sessions that are made in two threads against two that are made one after the other."""
    path = path_of(name)

    def one_after_the_other() -> None:
        subject.session(path)
        subject.session(path)

    with ThreadPoolExecutor(2) as pool:

        def at_once() -> None:
            for made in [pool.submit(subject.session, path) for _ in range(2)]:
                made.result()

        return paired_rounds(at_once, one_after_the_other, rounds=effort.rounds(ROUNDS))


def measure_stalls(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Compare how long a thread stalls while another makes sessions, and while it sleeps as long."""
    path = path_of(name)

    def make() -> None:
        for _ in range(CREATIONS):
            subject.session(path)

    start = time.perf_counter()
    make()
    seconds = time.perf_counter() - start
    return alternate(
        lambda: stall(make),
        lambda: stall(partial(time.sleep, seconds)) + ALLOWED_STALL,
        rounds=effort.rounds(STALL_ROUNDS),
    )


def stall(work: Callable[[], object]) -> float:
    """Return the percentile, in seconds, of how late a thread goes on that sleeps half a millisecond at a time."""
    worker = threading.Thread(target=work)
    clock = time.perf_counter
    late = []
    worker.start()
    while worker.is_alive():
        start = clock()
        time.sleep(TICK)
        late.append(clock() - start - TICK)
    worker.join()
    return float(np.percentile(late, PERCENTILE))


CASES: Final = (
    *(
        Case("making", f"second of {name}", peer, partial(measure, name))
        for peer, measure in (
            ("the first, which fills the folder", measure_second),
            ("onnxruntime InferenceSession(path)", measure_kept),
        )
        for name in MODELS
    ),
    *(
        Case("making", f"two of {name} in two threads", "one after the other", partial(measure_two, name))
        for name in MODELS
    ),
    *(
        Case("making", f"stalls meanwhile, {name}", "an idle control, and 2 ms", partial(measure_stalls, name))
        for name in MODELS
    ),
)
