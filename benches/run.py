"""How much does one `run` cost, against onnxruntime's?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from benches.harness import Case, Effort, copies, require_same
from benches.models import model
from benches.subject import peer_session
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from benches.subject import Subject

MODELS: Final = (
    "identity-1x4",
    "8-in-1-out",
    "1-in-8-out",
    "mlp-16-32-16-4",
    "mlp-256-512-512-10",
    "logistic-regression",
    "identity-16mb",
    "add-16mb",
)
ROUNDS: Final = 200


def measure(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time `run(None, feed)` on both sides."""
    chosen = model(name)
    feed = copies(chosen.feed)
    ours, theirs = subject.session(chosen.content), peer_session(chosen.content)
    require_same(ours.run(None, feed), theirs.run(None, feed), f"run of {name}")
    return paired_rounds(
        partial(ours.run, None, feed),
        partial(theirs.run, None, feed),
        rounds=effort.rounds(ROUNDS),
    )


CASES: Final = tuple(Case("run", name, "onnxruntime run", partial(measure, name)) for name in MODELS)
