"""The settings of micro-batching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inferlite import _checks as checks
from inferlite.capabilities import refuse
from inferlite.padding import Pad, read_pads

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST: Final = 2**31 - 1
LONGEST_DELAY: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How calls that come at the same time are combined; the rows of the model must be independent.

    A call on a model that is free runs at once, by itself and on its own thread. Those that come while it runs stand in
    line, and leave together when it is free again.

    Attributes:
        max_rows: The most rows of a batch; a call that is larger runs by itself. None to choose by the times of runs:
            as many as it takes to do 90 % of what the model could do with batches of any size, up to 95 % where many
            calls are there at once, and no batches at all for a model of which a row in a batch costs nearly what it
            costs alone.
        max_delay: How many seconds a call waits for company even where the model is free. A window opens when the first
            call arrives, and ends early for one whose `timeout` would be over.
        max_queue: How many rows may wait. A call beyond raises QueueFullError at once.
        timeout: What `timeout` is for calls that do not say, in seconds; None for as long as it takes.
        instances: How many batches may run at once, which share the threads of the model; None for as many as the
            processors allow: one, unless `session_options` gives an operator fewer threads than there are processors.
        target_latency: How many seconds a call should take. Batches are kept so small that the one under way and its
            own take no longer, by the times of earlier runs.
        pad: Lengths that calls of a batch may differ in: a `Pad` for each, or one.

    Raises:
        ValueError: A setting is out of range.
        TypeError: A setting is of another type.

    Example:
        >>> import inferlite
        >>> inferlite.Batching(max_rows=32).max_rows
        32
    """

    max_rows: int | None = None
    max_delay: float = 0.0
    max_queue: int = 10_000
    timeout: float | None = None
    instances: int | None = None
    target_latency: float | None = None
    pad: Pad | Sequence[Pad] = ()

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("max_rows", "instances"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name))
        _check_number("max_queue", self.max_queue)
        _check_seconds("max_delay", self.max_delay, may_be_zero=True)
        if self.target_latency is not None:
            _check_seconds("target_latency", self.target_latency, may_be_zero=False)
        checks.timeout(self.timeout)
        object.__setattr__(self, "pad", read_pads(self.pad))

    @classmethod
    def read(cls, given: Batching | bool | None) -> Batching | None:  # noqa: FBT001 - what `batching=` takes
        """The settings that `batching=` stands for: True for the defaults, False and None for no batches.

        Raises:
            TypeError: It is of another type.
        """
        if given is None or given is False:
            return None
        if given is True:
            return cls()
        if isinstance(given, cls):
            return given
        message = f"`batching` must be True, False, an `inferlite.Batching` or None, not {given!r}"
        raise TypeError(message)

    @classmethod
    def read_for_session(cls, given: Batching | bool | None) -> Batching | None:  # noqa: FBT001 - as above
        """The same for `InferenceSession`, whose `run` waits for as long as it takes.

        Raises:
            TypeError: It is of another type.
            ValueError: It has a `timeout`.
        """
        settings = cls.read(given)
        if settings is not None and settings.timeout is not None:
            message = "`run` of a session keeps no `timeout`: leave it out of `batching`, or use `inferlite.load`"
            raise ValueError(message)
        return settings

    def _check_backend(self, backend: str) -> None:
        """Refuse what only the native back end can do.

        Raises:
            BackendUnavailableError: The size of batches is to follow from the times of runs on the other one, or calls
                of other lengths are to share a batch.
        """
        if backend != "native" and self.target_latency is not None:
            refuse("batch_tuning", "`Batching(target_latency=...)`")
        if backend != "native" and self.pad:
            refuse("padding", "`Batching(pad=...)`")

    def _given(self, instances: int) -> dict[str, Any]:
        """What the native part takes."""
        return {
            "max_rows": self.max_rows,
            "max_delay": float(self.max_delay),
            "max_queue": self.max_queue,
            "instances": self.instances or instances,
            "target_latency": None if self.target_latency is None else float(self.target_latency),
            "timeout": self.timeout,
            "pad": [pad._given() for pad in read_pads(self.pad)],  # noqa: SLF001 - a class of this package
        }


def _check_number(name: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        message = f"`{name}` must be a number, not {number!r}"
        raise TypeError(message)
    if not 1 <= number <= MOST:
        bound = "at least 1" if number < 1 else f"at most {MOST:,}"
        message = f"`{name}` must be {bound}, not {number}"
        raise ValueError(message)


def _check_seconds(name: str, seconds: object, *, may_be_zero: bool) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        message = f"`{name}` must be seconds, not {seconds!r}"
        raise TypeError(message)
    is_enough = seconds >= 0 if may_be_zero else seconds > 0
    if not (is_enough and math.isfinite(seconds) and seconds <= LONGEST_DELAY):
        least = "at least 0" if may_be_zero else "more than 0"
        message = f"`{name}` must be {least} and at most {LONGEST_DELAY:g} seconds, not {seconds}"
        raise ValueError(message)
