"""How much does a bound call cost, against the C API and against onnxruntime's io-binding?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from benches.harness import Case, Effort, WrongAnswerError, copies, paired_loops, require_same
from benches.models import model
from benches.subject import io_binding, peer_session
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benches.subject import Arrays, Bound, Session, Subject

MODELS: Final = ("identity-1x4", "mlp-16-32-16-4", "mlp-256-512-512-10")
WAYS: Final = {"outputs given": True, "fresh outputs": False}
ROUNDS: Final = 200


def measure_runtime(name: str, given: bool, subject: Subject, effort: Effort) -> Comparison:  # noqa: FBT001 - bound by partial
    """Time the bound call against a loop of the C API's Run with the same things bound."""
    _, _, bound, _ = _bind(name, subject, given=given)
    loop = subject.runtime_loop(bound)
    calls = paired_rounds(bound, bound, rounds=1).calls_per_round
    return paired_loops(bound, loop, rounds=effort.rounds(ROUNDS), calls=calls)


def measure_io_binding(name: str, given: bool, subject: Subject, effort: Effort) -> Comparison:  # noqa: FBT001 - as above
    """Time the bound call against onnxruntime's io-binding, which writes to or returns the same."""
    peer, feed, bound, expected = _bind(name, subject, given=given)
    given_to_peer = _blank(expected) if given else None
    theirs = io_binding(peer, copies(feed), given_to_peer)
    answer = theirs()
    require_same(
        list(given_to_peer.values()) if given_to_peer is not None else answer,  # type: ignore[arg-type]
        list(expected.values()),
        f"io-binding of {name}",
    )
    return paired_rounds(bound, theirs, rounds=effort.rounds(ROUNDS))


def _bind(name: str, subject: Subject, *, given: bool) -> tuple[Session, dict[str, NDArray[np.float32]], Bound, Arrays]:
    """Bind on our side and check the answer, also after the bound input was written to."""
    chosen = model(name)
    peer = peer_session(chosen.content)
    feed = copies(chosen.feed)
    names = [node.name for node in peer.get_outputs()]
    expected = dict(zip(names, peer.run(None, feed), strict=True))
    outputs = _blank(expected) if given else None
    bound = subject.bind(subject.session(chosen.content), feed, outputs)
    _check(bound, outputs, expected, f"bound call of {name}")
    for array in feed.values():
        np.add(array, 1, out=array)
    changed = dict(zip(names, peer.run(None, feed), strict=True))
    _check(bound, outputs, changed, f"bound call of {name} with inputs written anew")
    return peer, feed, bound, changed


def _check(bound: Bound, outputs: Arrays | None, expected: Arrays, what: str) -> None:
    answer = bound()
    if outputs is not None:
        answer = list(outputs.values())
    if not isinstance(answer, list):
        message = f"{what}: answered {type(answer).__name__}, but a list is wanted"
        raise WrongAnswerError(message)
    require_same(answer, list(expected.values()), what)


def _blank(expected: Arrays) -> Arrays:
    return {name: np.zeros_like(array) for name, array in expected.items()}


CASES: Final = tuple(
    Case("bind", f"{name}, {way}", peer, partial(measure, name, given))
    for peer, measure in (
        ("C API Run, same things bound", measure_runtime),
        ("onnxruntime io-binding", measure_io_binding),
    )
    for name in MODELS
    for way, given in WAYS.items()
)
