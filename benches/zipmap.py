"""What do a classifier's dicts cost, one for each row, against onnxruntime's whole call?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benches.harness import Case, Effort, WrongAnswerError, copies, require_same
from benches.models import model
from benches.subject import peer_session
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from benches.subject import Subject

MODELS: Final = (
    "classifier, 3 integers",
    "classifier, 3 strings",
    "classifier, 10 integers",
    "classifier, 10 strings",
)
ROUNDS: Final = 200


def require_same_rows(ours: Any, theirs: Any, what: str) -> None:  # noqa: ANN401 - compared here
    """Compare two lists of dicts by their types, the order of their keys, and their numbers.

    Raises:
        WrongAnswerError: they differ.
    """
    if [type(ours), [list(row.items()) for row in ours]] != [list, [list(row.items()) for row in theirs]]:
        message = f"{what}: the dicts differ from the peer's"
        raise WrongAnswerError(message)


def measure(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time `run(None, feed)` of 100 rows on both sides."""
    chosen = model(name)
    feed = copies(chosen.feed)
    ours, theirs = subject.session(chosen.content), peer_session(chosen.content)
    (label, rows), (wanted, wanted_rows) = ours.run(None, feed), theirs.run(None, feed)
    what = f"run of {name}"
    if label.dtype.hasobject:
        label, wanted = label.astype(str), wanted.astype(str)
    require_same([label], [wanted], what)
    require_same_rows(rows, wanted_rows, what)
    return paired_rounds(
        partial(ours.run, None, feed),
        partial(theirs.run, None, feed),
        rounds=effort.rounds(ROUNDS),
    )


CASES: Final = tuple(Case("zipmap", f"{name}, 100 rows", "onnxruntime run", partial(measure, name)) for name in MODELS)
