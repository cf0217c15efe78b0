"""How long does it take to make a session and drop it?"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benches.harness import Case, Effort, copies, require_same
from benches.models import model
from benches.subject import peer_session
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from benches.subject import Subject

FROM_BYTES: Final = (
    "identity-1x4",
    "mlp-256-512-512-10",
    "logistic-regression",
    "chain-500",
    "mlp-64mb",
)
FROM_FILE: Final = "mlp-64mb"
ROUNDS: Final = 600


def measure_bytes(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time sessions made from bytes."""
    return _measure(name, model(name).content, subject, effort)


def measure_file(subject: Subject, effort: Effort) -> Comparison:
    """Time sessions made from a file that the page cache holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model(FROM_FILE).content)
        return _measure(FROM_FILE, str(path), subject, effort)


def _measure(name: str, source: bytes | str, subject: Subject, effort: Effort) -> Comparison:
    feed = copies(model(name).feed)
    require_same(subject.session(source).run(None, feed), peer_session(source).run(None, feed), f"session of {name}")
    return paired_rounds(
        partial(subject.session, source),
        partial(peer_session, source),
        rounds=effort.rounds(ROUNDS),
    )


CASES: Final = (
    *(
        Case("creation", name, "onnxruntime InferenceSession(bytes)", partial(measure_bytes, name))
        for name in FROM_BYTES
    ),
    Case(
        "creation",
        f"{FROM_FILE} from a file",
        "onnxruntime InferenceSession(path)",
        measure_file,
    ),
)
