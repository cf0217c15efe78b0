"""Which calls leave together, and when: decisions alone, with the time handed in and no thread in sight."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from onnxruntime import RunOptions

    Told = Callable[[list[Any] | None, BaseException | None], None]


@dataclass(slots=True, eq=False)
class Member:
    """A call, from its arrival until its end."""

    names: Sequence[str]
    feed: Mapping[str, Any]
    priority: int = 0
    """Higher ones leave first."""
    arrival: float = 0.0
    leave_by: float = math.inf
    """When it has to leave for its answer to be there in time."""
    options: RunOptions | None = None
    """Terminated when it is given up, where its caller does not wait in a thread."""
    told: Told | None = None
    """What is called with the outputs or the error, where the caller does not wait in a thread."""
    woken: threading.Event | None = None
    """What wakes the thread that waits."""
    kind: Hashable = None
    rows: int = 1
    place: tuple[int, int] = (0, 0)
    is_left: bool = False
    has_ended: bool = False
    results: list[Any] | None = None
    error: BaseException | None = None

    @property
    def is_gone(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self.is_left or (self.options is not None and bool(self.options.terminate))

    def end(self, results: list[Any] | None, error: BaseException | None) -> None:
        """Tell whoever asked how it ended."""
        if self.has_ended:
            return
        # In this order: one that has not ended is run once more if the teller is interrupted.
        if self.told is not None:
            try:
                self.told(results, error)
            except Exception as problem:  # noqa: BLE001 - a copy may find no memory
                self.told(None, problem)
        else:
            self.results, self.error = results, error
        self.has_ended = True
        if self.woken is not None:
            self.woken.set()


@dataclass(slots=True)
class Batch:
    """Calls that leave together."""

    members: list[Member]
    why: Literal["idle", "full", "delay", "deadline"] = "idle"

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(member.rows for member in self.members)


@dataclass(slots=True)
class Line:
    """Calls that wait, by what may leave together.

    Ctrl-C may come wherever a function is called or a loop turns. Where two facts must not part, there is neither.
    """

    max_delay: float
    """How long calls wait for company."""
    max_rows: int
    """How many rows may wait."""
    calls: int = 0
    rows: int = 0
    away: int = 0
    """How many calls of those who do not wait in a thread."""
    dropped: int = 0
    """How many have left before their run."""
    _groups: dict[Hashable, list[Member]] = field(default_factory=dict)
    _cycle: int = 0
    _number: int = 0

    def has_room(self, rows: int) -> bool:
        """Whether there is room for a call; one that is larger than the line needs it for itself."""
        return self.calls == 0 or self.rows + rows <= self.max_rows

    def is_awaited(self) -> bool:
        """Whether somebody waits who does not do so in a thread."""
        return self.away > 0 and any(
            member.woken is None and not member.is_gone for group in self._groups.values() for member in group
        )

    def push(self, member: Member) -> None:
        """Have a call stand in line.

        Its place is the number of batches that have left, less its priority: to wait while a whole batch leaves raises
        a call by one above those that come after it, and the order of two that wait never changes.
        """
        self._number += 1
        member.place = (self._cycle - member.priority, self._number)
        self.put_back(member)

    def put_back(self, member: Member) -> None:
        """Have a call stand where it stood before; nothing changes for one that still does."""
        group = self._groups.setdefault(member.kind, [])
        at = bisect_left(group, member.place, key=_place)
        if at == len(group) or group[at] is not member:
            is_away = member.woken is None
            group[at:at] = [member]
            self.calls += 1
            self.rows += member.rows
            self.away += is_away

    def _remove(self, member: Member) -> None:
        group = self._groups.get(member.kind, [])
        at = bisect_left(group, member.place, key=_place)
        if at < len(group) and group[at] is member:
            is_away = member.woken is None
            del group[at]
            self.calls -= 1
            self.rows -= member.rows
            self.away -= is_away
        if not group:
            self._groups.pop(member.kind, None)

    def due(self, now: float, limit: Callable[[Hashable], int]) -> Batch | None:
        """The batch that is due, which stands in line until it `leave`s: of those kinds that are, whose first is first.

        Members leave in their order, as many as there is room for, and nobody overtakes; the first leaves whatever its
        size. Whoever is gone is dropped.
        """
        while True:
            due = [group for group in self._groups.values() if group and self._opens(group, limit) <= now]
            if not due:
                return None
            group = min(due, key=lambda group: group[0].place)
            is_over = self.max_delay == 0 or any(member.arrival + self.max_delay <= now for member in group)
            batch = Batch([], "idle" if self.max_delay == 0 else "delay" if is_over else "deadline")
            self._fill(batch, list(group), limit(group[0].kind))
            if batch.members:
                return batch

    def _fill(self, batch: Batch, group: list[Member], limit: int) -> None:
        rows = 0
        for member in group:
            if member.is_gone:
                self._drop(member)
                continue
            rows += member.rows
            if rows <= limit or not batch.members:
                batch.members.append(member)
            if rows >= limit:
                batch.why = "full"
                return

    def leave(self, batch: Batch) -> None:
        """Have a batch leave."""
        for member in batch.members:
            self._remove(member)
        self._cycle += 1

    def sweep(self) -> None:
        """Drop whoever is gone."""
        for member in self._all():
            if member.is_gone:
                self._drop(member)

    def take_all(self) -> list[Member]:
        """Have everybody leave."""
        members = self._all()
        for member in members:
            self._remove(member)
        return members

    def next_due(self, limit: Callable[[Hashable], int]) -> float:
        """When the next batch is due, if nobody joins it; infinity where nobody waits."""
        return min((self._opens(group, limit) for group in self._groups.values() if group), default=math.inf)

    def _opens(self, group: list[Member], limit: Callable[[Hashable], int]) -> float:
        if self.max_delay == 0 or sum(member.rows for member in group) >= limit(group[0].kind):
            return -math.inf
        # The window opens at the first arrival of those who wait, whatever the order in which they will leave.
        return min(min(member.arrival + self.max_delay, member.leave_by) for member in group)

    def _drop(self, member: Member) -> None:
        self._remove(member)
        self.dropped += 1

    def _all(self) -> list[Member]:
        return sorted((member for group in self._groups.values() for member in group), key=_place)


def _place(member: Member) -> tuple[int, int]:
    return member.place
