"""The prediction cache without the native part: the same questions, answers and figures."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from onnxruntime import RunOptions

from inferlite._fallback import forks
from inferlite._fallback.latency import Durations
from inferlite._fallback.order import POLICIES, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    Ended = Callable[[list[Any] | None, BaseException | None], None]

DIGESTED_BYTES: Final = 16 * 1024
"""Arrays of more bytes are in a key as a digest."""

WINDOW: Final = 10_000
"""So many look-ups are judged together."""

WORTHWHILE: Final = 100
"""A window with fewer hits than one in so many is not worth its look-ups."""

SAMPLED: Final = 64
"""While look-ups do not pay, one call in so many is looked up."""

SAMPLE: Final = 8
"""So many look-ups of a sample are judged together."""

TIMED: Final = 64
"""About one hit in so many is timed."""

PATIENCE: Final = 0.05
"""Seconds between two looks at Ctrl-C while a caller waits for another one's run."""

_NOTHING_SHARED: Final = (0, 0, 0, False)
"""The figures of a second tier, which is not there."""

_ATOMS: Final = frozenset({str, bytes, int, bool, type(None)})
"""Types whose equal values are the same."""

_ENTRY_BYTES: Final = 600
"""What an entry takes beside its key and arrays: Python's objects for them."""


class Told(Protocol):
    """Is told the answer, or what went wrong."""

    def __call__(self, results: list[Any] | None, error: BaseException | None, *, has_run: bool) -> None:
        """Take note of it; `has_run` says that it was run for this very call."""


@dataclass(slots=True)
class _Entry:
    answer: list[Any]
    size: int
    expires_at: float


@dataclass(slots=True)
class _Flight:
    """A computation that others may wait for."""

    has_ended: threading.Event = field(default_factory=threading.Event)
    answer: list[Any] | None = None
    error: BaseException | None = None
    waiting: int = 1
    told: list[Callable[[], None]] = field(default_factory=list)
    """What is called once it has ended."""
    options: RunOptions | None = None
    """What ends the run, where it is one that may be ended."""

    def wait(self, claim: Claim | None, hasten: Callable[[], None] | None) -> None:
        """Wait until it has ended; `hasten` is called now and then.

        Raises:
            CancelledError: The claim was given up.
        """
        while not self.has_ended.wait(PATIENCE):
            if hasten is not None:
                hasten()
            if claim is not None and claim.is_left:
                raise CancelledError


@dataclass(slots=True)
class Claim:
    """The interest of a caller who may give it up."""

    options: RunOptions = field(default_factory=RunOptions)
    flight: _Flight | None = None
    is_left: bool = False


class Answers:
    """Answers by what was asked, within a number of bytes."""

    def __init__(self, max_bytes: int, max_entries: int | None, ttl: float | None, policy: str, *, copy: bool) -> None:
        """Keep nothing yet."""
        self._ttl = ttl
        self._policy = policy
        self._handed: Callable[[Any], Any] = copied_value if copy else frozen_value
        self.clock: Callable[[], float] = time.monotonic
        self.hasten: Callable[[], None] | None = None
        """What is called now and then while a caller waits for another one's run."""
        self._secret = os.urandom(32)
        self.max_bytes, self.max_entries = max_bytes, max_entries
        self._begin()

    def _begin(self) -> None:
        self._process = forks.generation()
        # A ticket that the interpreter finds to be garbage is given up wherever that thread is, in here too.
        self._lock = threading.RLock()
        self._entries: dict[Hashable, _Entry] = {}
        self._order: Order = POLICIES[self._policy]()
        self._flights: dict[Hashable, _Flight] = {}
        self._bytes = 0
        self._generation = 0
        self._hits = self._misses = self._coalesced = self._skipped = self._evictions = self._expired = 0
        self._hit_latency = Durations()
        self._is_sparse = False
        self._calls = self._window_hits = self._window_lookups = 0

    def _survive_fork(self) -> None:
        # A thread of the parent may have held the lock.
        if self._process != forks.generation():
            self._begin()

    def answer(
        self,
        names: Sequence[str],
        feed: Mapping[str, Any],
        run: Callable[[Mapping[str, Any]], list[Any]],
        claim: Claim | None = None,
    ) -> tuple[list[Any], bool]:
        """The answer to a call, and whether it was run for it; `run` is given what the key stands for.

        Raises:
            CancelledError: The claim was given up.
        """
        kept, key, owned = self._look_up(names, feed)
        if kept is not None:
            return kept, False
        if key is None:
            return self.handed_over(run(feed)), True
        return self._compute(key, owned, run, claim)

    def ask(
        self,
        names: Sequence[str],
        feed: Mapping[str, Any],
        run: Callable[[Mapping[str, Any], Ended], None],
        claim: Claim,
        tell: Told,
    ) -> None:
        """`answer` for a caller who does not wait.

        Args:
            names: The outputs.
            feed: The inputs, which are the call's own.
            run: Is given what the key stands for, and what to call with the outputs or the error, from any thread.
            claim: What gives the answer up.
            tell: Is called with the answer or the error, and whether it was run for this call.
        """
        kept, key, owned = self._look_up(names, feed)
        if kept is not None:
            tell(kept, None, has_run=False)
        elif key is None:

            def ended(results: list[Any] | None, error: BaseException | None) -> None:
                tell(None if results is None else self.handed_over(results), error, has_run=True)

            run(feed, ended)
        else:
            self._have_computed(key, owned, run, claim, tell)

    def _look_up(
        self, names: Sequence[str], feed: Mapping[str, Any]
    ) -> tuple[list[Any] | None, Hashable | None, Mapping[str, Any]]:
        """The answer if it is kept; else the key, None where nothing is to be kept, and what it stands for."""
        self._survive_fork()
        if not self._is_due():
            self._skipped += 1
            return None, None, feed
        start = self.clock()
        try:
            key, kept = self._key(names, feed)
        except Exception:  # noqa: BLE001 - onnxruntime says what is wrong with a value that nothing can be made of
            return None, None, feed
        with self._lock:
            entry = self._find(key)
            self._record(is_hit=entry is not None)
            if entry is not None:
                self._time_hit(start)
        if entry is not None:
            return self._handed(entry.answer), key, feed
        # What runs is what is keyed, whoever writes to the caller's arrays meanwhile. To compare them after the run
        # would not do: what changes and changes back has another answer.
        owned = {name: kept[name] if name in kept else copied_value(value) for name, value in feed.items()}
        if len(kept) < len(feed):
            key, _ = self._key(names, owned)
        return None, key, owned

    def kept(self, names: Sequence[str], feed: Mapping[str, Any]) -> list[Any] | None:
        """The answer to a call if it is kept; a call that is not is looked up once more by `answer`."""
        self._survive_fork()
        start = self.clock()
        try:
            key, _ = self._key(names, feed)
        except Exception:  # noqa: BLE001 - as above
            return None
        with self._lock:
            entry = self._find(key)
            if entry is None:
                return None
            self._record(is_hit=True)
            self._time_hit(start)
        handed: list[Any] = self._handed(entry.answer)
        return handed

    def handed_over(self, results: list[Any]) -> list[Any]:
        """What a run gave that nobody else has, as calls return it."""
        return results if self._handed is copied_value else frozen_value(results)

    def _time_hit(self, start: float) -> None:
        if self._hits % TIMED == TIMED // 2 + _some_more(self._hits):
            self._hit_latency.add(int((self.clock() - start) * 1e9))

    def _compute(
        self,
        key: Hashable,
        feed: Mapping[str, Any],
        run: Callable[[Mapping[str, Any]], list[Any]],
        claim: Claim | None,
    ) -> tuple[list[Any], bool]:
        while True:
            with self._lock:
                entry, flight, leads = self._join(key, claim)
                generation = self._generation
            if entry is not None:
                # No hit: another call has computed it since the look-up.
                self._count_coalesced()
                return self._handed(entry.answer), False
            if leads:
                try:
                    results = run(feed)
                    flight.answer = answer = self._keep(key, results, generation)
                except Exception as error:
                    flight.error = error
                    raise
                finally:
                    self._end(key, flight)
                return results if self._handed is copied_value else self._handed(answer), True
            flight.wait(claim, self.hasten)
            if flight.error is not None:
                self._count_coalesced()
                raise flight.error
            if flight.answer is not None:
                self._count_coalesced()
                return self._handed(flight.answer), False

    def _have_computed(
        self,
        key: Hashable,
        feed: Mapping[str, Any],
        run: Callable[[Mapping[str, Any], Ended], None],
        claim: Claim,
        tell: Told,
    ) -> None:
        def follow() -> None:
            if flight.error is None and flight.answer is None:
                # It was given up.
                self._have_computed(key, feed, run, claim, tell)
                return
            self._count_coalesced()
            tell(*self._ending(flight), has_run=False)

        def ended(results: list[Any] | None, error: BaseException | None) -> None:
            try:
                if results is not None:
                    flight.answer = answer = self._keep(key, results, generation)
                    results = results if self._handed is copied_value else self._handed(answer)
            except Exception as problem:  # noqa: BLE001 - whoever asked is told
                error = problem
            flight.error = error
            self._end(key, flight)
            tell(results, error, has_run=True)

        with self._lock:
            if claim.is_left:
                return
            entry, flight, leads = self._join(key, claim)
            generation = self._generation
            if entry is None and not leads:
                # Those that have ended are no longer among the flights.
                flight.told.append(follow)
        if entry is not None:
            # As above.
            self._count_coalesced()
            tell(self._handed(entry.answer), None, has_run=False)
        elif leads:
            run(feed, ended)

    def _ending(self, flight: _Flight) -> tuple[list[Any] | None, BaseException | None]:
        """What those are told who have followed a flight."""
        try:
            return None if flight.answer is None else self._handed(flight.answer), flight.error
        except Exception as problem:  # noqa: BLE001 - whoever asked is told
            return None, problem

    def _end(self, key: Hashable, flight: _Flight) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.has_ended.set()
            told, flight.told = flight.told, []
        for tell in told:
            tell()

    def _count_coalesced(self) -> None:
        with self._lock:
            self._coalesced += 1

    def _join(self, key: Hashable, claim: Claim | None) -> tuple[_Entry | None, _Flight, bool]:
        """The answer if its computation has ended since the look-up, else the computation, and whether to lead it."""
        if claim is not None and claim.is_left:
            raise CancelledError
        entry = self._find(key)
        flight = self._flights.get(key)
        leads = entry is None and flight is None
        if flight is None:
            flight = _Flight(options=None if claim is None else claim.options)
            if leads:
                self._flights[key] = flight
                self._misses += 1
        else:
            flight.waiting += 1
        if claim is not None:
            claim.flight = flight
        return entry, flight, leads

    def leave(self, claim: Claim) -> None:
        """Give a claim up; the run is ended if it was the last one."""
        with self._lock:
            if claim.is_left:
                return
            claim.is_left = True
            flight = claim.flight
            if flight is None or flight.has_ended.is_set():
                return
            flight.waiting -= 1
            if flight.waiting == 0 and flight.options is not None:
                # Whoever asks now begins anew.
                for key in [key for key, other in self._flights.items() if other is flight]:
                    del self._flights[key]
                flight.options.terminate = True

    def _find(self, key: Hashable) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._ttl is not None and self.clock() >= entry.expires_at:
            self._drop(key)
            self._expired += 1
            return None
        self._order.use(key)
        return entry

    def _keep(self, key: Hashable, results: list[Any], generation: int) -> list[Any]:
        """Keep an answer, unless it is void by now."""
        answer: list[Any] = self._handed(results)
        size = _size(key) + sum(map(_size, answer)) + _ENTRY_BYTES
        with self._lock:
            if generation == self._generation and size <= self.max_bytes:
                if key in self._entries:
                    self._drop(key)
                expires_at = self.clock() + self._ttl if self._ttl is not None else 0.0
                was_recalled = self._order.recall(key)
                self._make_room(size, 1)
                self._entries[key] = _Entry(answer, size, expires_at)
                self._order.add(key, size, was_recalled=was_recalled)
                self._bytes += size
        return answer

    def _drop(self, key: Hashable) -> None:
        self._order.remove(key)
        self._bytes -= self._entries.pop(key).size

    def _make_room(self, size: int, entries: int) -> None:
        """Evict until so much more can be kept."""
        while self._entries:
            if self._bytes + self._order.extra_bytes + size > self.max_bytes:
                key = self._order.evict(most_bytes=self.max_bytes, most_entries=None)
            elif self.max_entries is not None and len(self._entries) + entries > self.max_entries:
                key = self._order.evict(most_bytes=None, most_entries=self.max_entries)
            else:
                return
            self._bytes -= self._entries.pop(key).size
            self._evictions += 1

    def _is_due(self) -> bool:
        if not self._is_sparse:
            return True
        self._calls += 1
        return self._calls % SAMPLED == 0

    def _record(self, *, is_hit: bool) -> None:
        self._hits += is_hit
        self._window_hits += is_hit
        self._window_lookups += 1
        window = SAMPLE if self._is_sparse else WINDOW
        if self._window_lookups >= window or (self._is_sparse and is_hit):
            self._is_sparse = self._window_hits * WORTHWHILE < self._window_lookups
            self._window_hits = self._window_lookups = 0

    def _key(self, names: Sequence[str], feed: Mapping[str, Any]) -> tuple[Hashable, dict[str, np.ndarray[Any, Any]]]:
        """What a call asks, and the arrays that the key makes again: what was looked up is what runs.

        Raises:
            TypeError: A value is of a type of which nobody knows what tells two of them apart.
        """
        kept: dict[str, np.ndarray[Any, Any]] = {}
        parts: list[Hashable] = []
        for name in sorted(feed):
            value = feed[name]
            if isinstance(value, np.ndarray):
                # A subclass may say something else of itself than what onnxruntime reads, as a masked array does.
                value = np.asarray(value)
                if value.dtype.kind == "O":
                    # An object may have another text each time it is asked.
                    texts = tuple(str(item) for item in value.ravel().tolist())
                    parts.append((name, "objects", value.shape, texts))
                    kept[name] = np.empty(value.shape, object)
                    kept[name].reshape(-1)[:] = texts
                    continue
                if not value.dtype.hasobject and value.nbytes <= DIGESTED_BYTES:
                    content = value.tobytes()
                    parts.append((name, value.dtype.str, value.shape, content))
                    kept[name] = np.frombuffer(content, value.dtype).reshape(value.shape)
                    continue
            parts.append((name, self._fingerprint(value)))
        return (self._generation, tuple(names), tuple(parts)), kept

    def _fingerprint(self, value: Any) -> Hashable:  # noqa: ANN401 - any value of a model
        """What tells a value from every other one."""
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            content = np.ascontiguousarray(np.asarray(value)).data
            digest = hashlib.blake2b(content, key=self._secret, digest_size=32)
            return ("array", value.dtype.str, value.shape, digest.digest())
        if isinstance(value, np.generic):
            return ("scalar", value.dtype.str, value.tobytes())
        kind = type(value)
        if kind is float:
            # `repr` is silent about the sign and the payload of a NaN.
            return (kind, struct.pack("=d", value))
        if kind in _ATOMS:
            return (kind, value)
        if kind is dict:
            return (kind, tuple((self._fingerprint(key), self._fingerprint(item)) for key, item in value.items()))
        if kind is list or kind is tuple:
            return (kind, tuple(self._fingerprint(item) for item in value))
        # What prints alike may hold something else, and what is at the same address may have changed.
        message = f"nothing is kept for a value of type {kind}"
        raise TypeError(message)

    def clear(self) -> None:
        """Drop every answer; one that is being computed is not kept either."""
        self._survive_fork()
        with self._lock:
            self._generation += 1
            self._entries.clear()
            self._order = POLICIES[self._policy]()
            self._bytes = 0

    def invalidate(self, names: Sequence[str], feed: Mapping[str, Any]) -> bool:
        """Drop the answer to a call; whether there was one."""
        self._survive_fork()
        try:
            key, _ = self._key(names, feed)
        except Exception:  # noqa: BLE001 - nothing is kept for it
            return False
        with self._lock:
            if key not in self._entries:
                return False
            self._drop(key)
            return True

    def resize(self, max_bytes: int, max_entries: int | None) -> None:
        """Change how much is kept."""
        self._survive_fork()
        with self._lock:
            self.max_bytes, self.max_entries = max_bytes, max_entries
            self._make_room(0, 0)

    def summary(self) -> tuple[Any, ...]:
        """The figures of `CacheStats`, in its order, then the limits."""
        self._survive_fork()
        with self._lock:
            return (
                self._hits,
                self._misses,
                self._coalesced,
                self._skipped,
                self._evictions,
                self._expired,
                len(self._entries),
                self._bytes + self._order.extra_bytes,
                self._is_sparse,
                *_NOTHING_SHARED,
                self._hit_latency.summary(),
                self.max_bytes,
                self.max_entries,
            )


def _some_more(hits: int) -> int:
    """From 0 to 7, another number after each 64 hits: calls that take turns are timed in turn."""
    return (hits // TIMED * 0x9E3779B97F4A7C15 % 2**64) >> 61


def copied_value(value: Any) -> Any:  # noqa: ANN401 - any value of a model
    if isinstance(value, np.ndarray):
        return np.array(value, order="C")
    if isinstance(value, list):
        return [copied_value(item) for item in value]
    if isinstance(value, tuple):
        return tuple(copied_value(item) for item in value)
    return {key: copied_value(item) for key, item in value.items()} if isinstance(value, dict) else value


def frozen_value(value: Any) -> Any:  # noqa: ANN401 - any value of a model
    """The same to be read by many: arrays that refuse to become writable, over memory that is not copied again."""
    if isinstance(value, list):
        return [frozen_value(item) for item in value]
    if not isinstance(value, np.ndarray):
        return copied_value(value)
    if value.dtype.hasobject:
        value = value.copy()
        value.setflags(write=False)
        return value.view()
    # numpy asks the base whether memory may be written to, and `bytes` say no.
    base: object = value.base
    content = base if isinstance(base, bytes) else value.tobytes()
    return np.ndarray(value.shape, value.dtype, content)


def _size(value: Any) -> int:  # noqa: ANN401 - any value of a model, or a key
    if isinstance(value, np.ndarray):
        return value.nbytes + (sum(len(str(item)) + 60 for item in value.flat) if value.dtype.hasobject else 0) + 100
    if isinstance(value, dict):
        return 200 + sum(100 + _size(key) + _size(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return 60 + sum(8 + _size(item) for item in value)
    return 60 + (len(value) if isinstance(value, (str, bytes)) else 0)
