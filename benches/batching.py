"""What does micro-batching take from a lone call, and what do many threads get out of a model with it?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benches.harness import Case, Effort, WrongAnswerError, alternate, peer_package, require_same
from benches.models import magika_model, model
from benches.subject import peer_session
from benches.threads import THREADS, Crew
from inferlite._measure import Comparison, paired_rounds
from inferlite.cli.callers import measure_slice

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benches.subject import Subject

    Ask = Callable[[NDArray[Any]], NDArray[Any]]

LONE: Final = ("mlp-16-32-16-4", "mlp-256-512-512-10", "transformer", "magika")
LONE_ROUNDS: Final = 100

LOADS: Final = (0.2, 0.5, 0.8, 0.95, 1.1)
"""Calls due, as a part of what onnxruntime answers on as many threads as there are."""

LOADED_ROUNDS: Final = 8
BUSY_ROUNDS: Final = 32
"""Near the capacity chance decides how long the line is: a ratio needs more rounds to stand still."""

BUSY: Final = 0.8
SECONDS: Final = 2.0
TOLERANCE: Final = 1e-3
"""Rows in a batch are rounded otherwise than rows by themselves."""

# A fixed window


def fixed_window(ask: Ask) -> Ask:
    """Return what collects rows for a time that is fixed, as `batched` does, with the settings it has by itself.

    Raises:
        NotMeasurableError: it is not installed.
    """
    batched = peer_package("batched")

    def run(rows: list[NDArray[Any]]) -> list[NDArray[Any]]:
        return list(ask(np.stack(rows)))

    together = batched.dynamically(run)

    def one(x: NDArray[Any]) -> NDArray[Any]:
        answer: NDArray[Any] = together(x[0])
        return answer[np.newaxis]

    return one


# Cases


def model_and_row(name: str) -> tuple[bytes | str, NDArray[Any]]:
    """Return a model of one input, and one row for it.

    Raises:
        NotMeasurableError: the model is not here.
    """
    content, feed = magika_model() if name == "magika" else (model(name).content, model(name).feed)
    (row,) = feed.values()
    return content, row


def measure_lone(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time a call that comes alone, with batches and without."""
    content, row = model_and_row(name)
    batched, plain = (subject.predictor(content, batching=batching) for batching in (True, False))
    session = peer_session(content)
    (answer,) = session.run(None, {session.get_inputs()[0].name: row})
    require_same([batched(row), plain(row)], [answer, answer], f"a lone call of {name}")
    return paired_rounds(partial(batched, row), partial(plain, row), rounds=effort.rounds(LONE_ROUNDS))


def check(asks: dict[str, Ask], row: NDArray[Any]) -> None:
    """Compare the answers to many threads at once with the one of a call by itself."""
    first, *_ = asks.values()
    wanted = first(row)
    for who, ask in asks.items():
        with Crew(THREADS) as crew:
            answers = crew.together([partial(ask, row)] * THREADS)
        for answer in answers:
            if answer.shape != wanted.shape or not np.allclose(answer, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                message = f"{who}: an answer of {THREADS} threads differs from a lone one by more than rounding"
                raise WrongAnswerError(message)


def measure_threads(load: float | None, subject: Subject, effort: Effort, *, is_windowed: bool) -> Comparison:
    """Compare calls of many threads: seconds per call where each calls again at once, else the median until an answer.

    Args:
        load: calls due, as a part of what onnxruntime answers; None for threads that call again at once.
        subject: who is timed.
        effort: how much time goes into it; a smoke round takes a small model.
        is_windowed: whether the peer is the fixed window, and not onnxruntime's session alone.
    """
    content, row = model_and_row("transformer-small" if effort.smoke else "transformer")
    session = peer_session(content)
    given = session.get_inputs()[0].name
    ours = subject.predictor(content, batching=True)

    def direct(x: NDArray[Any]) -> NDArray[Any]:
        answer: NDArray[Any] = session.run(None, {given: x})[0]
        return answer

    theirs = fixed_window(direct) if is_windowed else direct
    seconds = effort.seconds(SECONDS)
    check({"onnxruntime": direct, "ours": ours, "theirs": theirs}, row)

    def saturated(ask: Ask) -> float:
        took, latencies = measure_slice(partial(ask, row), THREADS, None, seconds, seed=0)
        return took / latencies.size

    # What runs of several sizes take is learned while serving.
    saturated(ours)
    if load is None:
        return alternate(partial(saturated, ours), partial(saturated, theirs), rounds=effort.rounds(LOADED_ROUNDS))
    rate = load / saturated(direct)
    turn = 0

    def median(ask: Ask) -> float:
        nonlocal turn
        # Both sides of a pair get the same arrivals.
        seed, turn = turn // 2, turn + 1
        _, latencies = measure_slice(partial(ask, row), THREADS, rate, seconds, seed=seed)
        return float(np.median(latencies))

    # With a fixed window the line never ends there, which a few rounds show.
    rounds = BUSY_ROUNDS if load >= BUSY and not is_windowed else LOADED_ROUNDS
    return alternate(partial(median, ours), partial(median, theirs), rounds=effort.rounds(rounds))


PEERS: Final = {"onnxruntime run, 16 threads": False, "a fixed window (batched), 16 threads": True}

CASES: Final = (
    *(Case("batching", f"lone call, {name}", "without batches", partial(measure_lone, name)) for name in LONE),
    *(
        Case("batching", f"transformer, {load}", peer, partial(measure_threads, part, is_windowed=is_windowed))
        for load, part in {"saturated": None, **{f"{part} of capacity": part for part in LOADS}}.items()
        for peer, is_windowed in PEERS.items()
    ),
)
