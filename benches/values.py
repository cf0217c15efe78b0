"""How much does a run over values that stay with the runtime cost, against onnxruntime's?"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benches.harness import Case, Effort, copies, require_same
from benches.models import model
from benches.subject import peer_session
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benches.subject import Subject

    Arrays = dict[str, NDArray[np.float32]]
    Way = Callable[[str, Any, Arrays], tuple[Callable[[], object], Callable[[], Any]]]

MODEL: Final = "mlp-16-32-16-4"
ROUNDS: Final = 200


def bound(module: str, session: Any, feed: Arrays) -> tuple[Callable[[], object], Callable[[], Any]]:  # noqa: ANN401
    """Return a run of bound values, whose outputs the first one makes, and what copies them."""
    del module
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    for node in session.get_outputs():
        binding.bind_output(node.name)
    return partial(session.run_with_iobinding, binding), binding.copy_outputs_to_cpu


def by_name(module: str, session: Any, feed: Arrays) -> tuple[Callable[[], object], Callable[[], Any]]:  # noqa: ANN401
    """Return a run of values by name, which gives values, and what copies them."""
    make = import_module(module).OrtValue.ortvalue_from_numpy
    run = partial(session.run_with_ort_values, None, {name: make(array) for name, array in feed.items()})
    return run, lambda: [value.numpy().copy() for value in run()]


def measure(name: str, way: Way, subject: Subject, effort: Effort) -> Comparison:
    """Time the same run on both sides, once the answers to two feeds are the same."""
    chosen = model(MODEL)
    ours, theirs = subject.session(chosen.content), peer_session(chosen.content)
    feed, same_feed = copies(chosen.feed), copies(chosen.feed)
    run, answer = way(subject.module, ours, feed)
    their_run, their_answer = way("onnxruntime", theirs, same_feed)
    for what in (f"{name} of {MODEL}", f"{name} of {MODEL} with inputs written anew"):
        run()
        their_run()
        require_same(answer(), their_answer(), what)
        for array in (*feed.values(), *same_feed.values()):
            np.add(array, 1, out=array)
    return paired_rounds(run, their_run, rounds=effort.rounds(ROUNDS))


WAYS: Final[dict[str, Way]] = {"run_with_iobinding": bound, "run_with_ort_values": by_name}
CASES: Final = tuple(
    Case("values", name, f"onnxruntime {name}", partial(measure, name, way)) for name, way in WAYS.items()
)
