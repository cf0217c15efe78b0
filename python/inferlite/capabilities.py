"""What each back end can do; tests hold this table true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from inferlite.exceptions import BackendUnavailableError


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that not every back end can do.

    Attributes:
        native: Whether the native back end can do it.
        python: Whether the pure-Python back end can do it.
        reason: Why a back end cannot, and what to do instead.
    """

    native: bool
    python: bool
    reason: str


CAPABILITIES: Final = {
    "session": Capability(native=True, python=True, reason="both back ends have `InferenceSession`"),
    "model": Capability(native=True, python=True, reason="both back ends have `load` and `Model`"),
    "bind": Capability(native=True, python=True, reason="both back ends have `InferenceSession.bind`"),
    "cache": Capability(native=True, python=True, reason="both back ends keep answers with `cache=`"),
    "cache_beyond_process": Capability(
        native=True,
        python=False,
        reason="the pure-Python back end keeps answers in the process alone: leave the setting out, or install the "
        "native part",
    ),
    "row_cache": Capability(
        native=True,
        python=False,
        reason='only the native back end looks up rows: pass `Cache(by="request")`, which is the default',
    ),
    "batching": Capability(native=True, python=True, reason="both back ends combine calls with `batching=`"),
    "row_independence": Capability(
        native=True,
        python=False,
        reason="only the native back end finds out whether the rows of a model are independent: pass "
        "`rows_independent=True` if no row influences another, or install the native part",
    ),
    "batch_tuning": Capability(
        native=True,
        python=False,
        reason="only the native back end chooses the size of batches by the times of runs: pass `max_rows` instead, or "
        "install the native part",
    ),
    "padding": Capability(
        native=True,
        python=False,
        reason="only the native back end fills calls up to a common length: leave `pad` out, which lets calls of equal "
        "shapes share a batch, or install the native part",
    ),
    "native_engine": Capability(
        native=False,
        python=False,
        reason='the native engine is not there yet: pass `engine="auto"` or `engine="onnxruntime"`',
    ),
    "types_beyond_numpy": Capability(
        native=True,
        python=False,
        reason="numpy has bfloat16, float8, float4, int4 and int2 from ml_dtypes, which onnxruntime's Python interface "
        "does not take: install the native part",
    ),
    "strings_in_values": Capability(
        native=True,
        python=False,
        reason="onnxruntime's Python interface makes values of arrays of numbers alone, and binds no others: pass the "
        "value to `run`, or install the native part",
    ),
    "complex_tensors": Capability(
        native=False,
        python=False,
        reason="ONNX Runtime has no tensors of complex numbers",
    ),
    "hold_gil": Capability(
        native=True,
        python=False,
        reason="onnxruntime's Python interface always releases the GIL for a run: `hold_gil` is accepted and ignored",
    ),
    "gil_free_creation": Capability(
        native=True,
        python=False,
        reason="onnxruntime's Python interface holds the GIL while it loads a model",
    ),
    "optimized_cache": Capability(
        native=True,
        python=False,
        reason="only the native back end keeps optimized graphs: `optimized_cache` is accepted and ignored",
    ),
    "global_thread_pool": Capability(
        native=True,
        python=False,
        reason="onnxruntime's Python package has no pool that leaves other sessions alone: give each session few "
        "threads, or install the native part",
    ),
    "server": Capability(
        native=True,
        python=False,
        reason="the server is a part of the native back end: install the native part, or call `inferlite.load` in "
        "a web framework",
    ),
    "logging": Capability(
        native=True,
        python=False,
        reason="onnxruntime's Python package writes what its runtime logs to standard error by itself",
    ),
    "session_objects": Capability(
        native=False,
        python=True,
        reason=(
            "initializers, providers, adapters and callbacks that live in the onnxruntime package cannot be handed to "
            "another copy of the runtime: make an `InferenceSession`, which runs on that package then, or set "
            "INFERLITE_BACKEND=python"
        ),
    ),
    "tuning": Capability(
        native=False,
        python=True,
        reason="the C interface has no results of tuning: set INFERLITE_BACKEND=python",
    ),
    "captured_graphs": Capability(
        native=False,
        python=True,
        reason="captured graphs are given back with the session: make a new one, or set INFERLITE_BACKEND=python",
    ),
}
"""What inferlite can do, by name, and on which back end."""


def refusal(capability: str, subject: str) -> BackendUnavailableError:
    """What `refuse` raises."""
    return BackendUnavailableError(f"{subject} is not available: {CAPABILITIES[capability].reason}")


def refuse(capability: str, subject: str) -> NoReturn:
    """Refuse something that the active back end lacks.

    Args:
        capability: The name in `CAPABILITIES`.
        subject: What was asked for, such as ``"`SessionOptions.add_initializer`"``.

    Raises:
        BackendUnavailableError: Always; it says the reason.
    """
    raise refusal(capability, subject)
