"""Runs of a model: timed, counted, and with the errors of `inferlite.exceptions`."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from inferlite._fallback.latency import CallStats
from inferlite.exceptions import InferliteError, InvalidInputError, ModelRunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnxruntime

    from inferlite._fallback.session import InferenceSession

_PREFIX: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs one model; knows neither it nor its session, so that both are gone with whoever has them."""

    model: str
    """What messages call the model."""
    rows_input: str | None
    """The input whose axis 0 has the rows that are counted; None to count one a call."""
    stats: CallStats = field(default_factory=CallStats)

    def run(
        self,
        session: InferenceSession,
        names: Sequence[str],
        feed: Mapping[str, Any],
        options: onnxruntime.RunOptions | None,
        rows: Sequence[int] | None,
    ) -> list[Any]:
        """Run one call, or several that were put together and have so many rows each."""
        start = time.perf_counter_ns()
        try:
            results = session._run(names, feed, options)  # noqa: SLF001 - the words of a session are not a model's
        except MemoryError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        took = time.perf_counter_ns() - start
        for count in [self.rows(feed)] if rows is None else rows:
            self.stats.record(took, 1 if self.rows_input is None else count)
        return results

    def rows(self, feed: Mapping[str, Any]) -> int:
        """How many rows a call counts as."""
        value = feed.get(self.rows_input) if self.rows_input is not None else None
        return len(value) if isinstance(value, np.ndarray) else 1

    def _failure(self, error: Exception) -> InferliteError:
        text = text_of(error)
        # onnxruntime says InvalidArgument of a failing node too, and Fail of a string that is no UTF-8.
        is_node = text.startswith("Non-zero status code")
        is_text = text.startswith("<class 'Unicode")
        is_runtime = type(error).__module__ == InvalidArgument.__module__
        if not is_runtime or is_text or (isinstance(error, InvalidArgument) and not is_node):
            return InvalidInputError(f"model `{self.model}` refuses its inputs: {text}")
        return ModelRunError(f"model `{self.model}` failed: {text}")


def text_of(error: Exception) -> str:
    """What onnxruntime says, without its codes."""
    return _PREFIX.sub("", str(error), count=1).strip()
