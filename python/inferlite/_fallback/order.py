"""Which answer of the fallback's cache goes first when there is no room: the policies of the native part."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

SMALL_PART: Final = 10
"""The small queue of S3-FIFO gets one part in so many."""

PASSING: Final = 1
"""More uses than these move an answer from the small queue to the main one."""

MOST_USES: Final = 3
"""More uses than these are not told apart."""

GHOST_BYTES: Final = 150
"""What the hash of an answer that is gone takes: a number, and its place in a dictionary."""


class Order(Protocol):
    """Keys of answers, in the order of eviction."""

    @property
    def extra_bytes(self) -> int:
        """What is remembered of answers that are gone, in bytes."""
        ...

    def use(self, key: Hashable) -> None:
        """Take note of a hit."""
        ...

    def recall(self, key: Hashable) -> bool:
        """Whether this answer was here lately; asked before room is made for it, which could make that forgotten."""
        ...

    def add(self, key: Hashable, size: int, *, was_recalled: bool) -> None:
        """Add an answer; `was_recalled` is what `recall` has said of it."""
        ...

    def remove(self, key: Hashable) -> None:
        """Take an answer out."""
        ...

    def evict(self, *, most_bytes: int | None, most_entries: int | None) -> Hashable:
        """Take out the answer that goes first; one of the two says what there is too little of."""
        ...


class Lru:
    """The least recently used answer goes first."""

    extra_bytes = 0

    def __init__(self) -> None:
        """Begin without answers."""
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def use(self, key: Hashable) -> None:
        """Move an answer to the end."""
        self._keys.move_to_end(key)

    def recall(self, key: Hashable) -> bool:  # noqa: ARG002 - this policy remembers nothing
        """False: what is gone is forgotten."""
        return False

    def add(self, key: Hashable, size: int, *, was_recalled: bool) -> None:  # noqa: ARG002 - as above
        """Add an answer at the end."""
        self._keys[key] = None

    def remove(self, key: Hashable) -> None:
        """Take an answer out."""
        del self._keys[key]

    def evict(self, *, most_bytes: int | None, most_entries: int | None) -> Hashable:  # noqa: ARG002 - as above
        """Take out the first one."""
        return self._keys.popitem(last=False)[0]


@dataclass(slots=True)
class _Item:
    size: int
    uses: int = 0


@dataclass(slots=True)
class _Queue:
    items: OrderedDict[Hashable, _Item] = field(default_factory=OrderedDict)
    size: int = 0

    def push(self, key: Hashable, item: _Item) -> None:
        self.items[key] = item
        self.size += item.size

    def pop(self, key: Hashable | None = None) -> tuple[Hashable, _Item]:
        """Take out an answer, or the first one."""
        if key is None:
            key = next(iter(self.items))
        item = self.items.pop(key)
        self.size -= item.size
        return key, item


class S3Fifo:
    """Answers that were asked for once leave quickly, whatever their number.

    After "FIFO queues are all you need for cache eviction" (SOSP 2023), with the choices of the native part: the small
    queue gets a tenth of the limit that is exceeded, and the ghost queue is never longer than there are answers.
    """

    def __init__(self) -> None:
        """Begin without answers."""
        self._small, self._main = _Queue(), _Queue()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    @property
    def extra_bytes(self) -> int:
        """The bytes of the ghost queue."""
        return len(self._ghosts) * GHOST_BYTES

    def use(self, key: Hashable) -> None:
        """Count a hit."""
        item = self._small.items.get(key) or self._main.items[key]
        item.uses = min(item.uses + 1, MOST_USES)

    def recall(self, key: Hashable) -> bool:
        """Whether its hash is in the ghost queue, which it leaves by that."""
        mark = hash(key)
        if mark not in self._ghosts:
            return False
        del self._ghosts[mark]
        return True

    def add(self, key: Hashable, size: int, *, was_recalled: bool) -> None:
        """Add an answer to the small queue, or to the main one if it was recalled."""
        (self._main if was_recalled else self._small).push(key, _Item(size))

    def remove(self, key: Hashable) -> None:
        """Take an answer out."""
        (self._small if key in self._small.items else self._main).pop(key)
        self._shorten()

    def evict(self, *, most_bytes: int | None, most_entries: int | None) -> Hashable:
        """Take out an answer that was used once, or the first one that was not used while it was in the main queue."""
        while True:
            if self._is_small_due(most_bytes, most_entries):
                key, item = self._small.pop()
                if item.uses <= PASSING:
                    mark = hash(key)
                    self._ghosts[mark] = None
                    self._ghosts.move_to_end(mark)
                    break
                self._main.push(key, _Item(item.size))
            else:
                key, item = self._main.pop()
                if item.uses == 0:
                    break
                item.uses -= 1
                self._main.push(key, item)
        self._shorten()
        return key

    def _is_small_due(self, most_bytes: int | None, most_entries: int | None) -> bool:
        if not self._main.items:
            return True
        if most_bytes is not None:
            is_large = self._small.size >= most_bytes // SMALL_PART
        else:
            is_large = len(self._small.items) >= (most_entries or 0) // SMALL_PART
        return is_large and bool(self._small.items)

    def _shorten(self) -> None:
        surplus = len(self._ghosts) - len(self._small.items) - len(self._main.items)
        for mark in list(islice(self._ghosts, max(surplus, 0))):
            del self._ghosts[mark]


POLICIES: Final[dict[str, type[Lru | S3Fifo]]] = {"lru": Lru, "s3-fifo": S3Fifo}
"""Names, and what begins an order of theirs."""
