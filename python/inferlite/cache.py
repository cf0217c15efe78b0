"""The prediction cache: its settings, and the live one of a model."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from inferlite._shared_url import read_url
from inferlite.capabilities import refuse
from inferlite.exceptions import ModelLoadError
from inferlite.metadata import CacheStats, cache_stats

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
"""What may follow the number of a size, and the bytes that it stands for."""

MOST_BYTES: Final = 2**63 - 1

POLICIES: Final = ("lru", "s3-fifo")
"""What decides which answer goes first when there is no room."""

LONGEST_WAIT: Final = 60
"""Seconds that a question to a server may take at most."""

SHORTEST_SECRET: Final = 16
"""Bytes that a secret must have."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Settings of a prediction cache.

    Attributes:
        max_bytes: How much is kept: keys, answers and bookkeeping, in bytes or as text such as ``"256MB"``, which is
            256 times 10**6, or ``"256MiB"``, which is 256 times 2**20.
        max_entries: How many answers are kept at most; None for as many as the bytes allow.
        ttl: How long an answer counts, in seconds; None for ever.
        by: What is looked up: `"request"`, a call as a whole, or `"row"`, each row of its batch by itself, of which
            only those run that are new. The rows must be independent; the Python back end cannot do it.
        allow_random: Whether a model with random operators is cached all the same: a repeated call then gives the
            numbers that were drawn first.
        copy: Whether every answer is a private, writable copy. If not, hits and misses alike are read-only arrays that
            refuse to become writable; a hit looks at the kept answer itself, and stays as it is when that is evicted.
            Lists and dicts are always new.
        policy: Which answer goes first when there is no room: `"lru"`, the least recently used one; or `"s3-fifo"`,
            rather one that was asked for once, so that a scan does not push out what is asked for again and again.
        warm_from: A file that `model.cache.save` has written, of which the answers are taken over; one that is not
            there yet is none. One that is damaged, or of another model, is ignored with a RuntimeWarning. None for a
            cache that begins empty.
        secret: At least 16 bytes that seal what leaves the process, so that nobody without them can forge an answer;
            without a secret, a file is safe from damage alone. It is not part of what `repr` shows.
        shared: The URL of a Redis or Valkey server, whose answers processes and machines share:
            ``"redis://user:password@host:6379/0"`` or ``"unix:///run/redis.sock"``. It demands a secret. A server that
            fails is done without. It is not part of what `repr` shows either, because of the password in it.
        shared_timeout: How many seconds one question to that server may take.

    Raises:
        ValueError: A setting is out of range, or a size cannot be read.
        TypeError: A setting is of another type.

    Example:
        >>> import inferlite
        >>> inferlite.Cache(max_bytes="64MiB", ttl=60.0).max_bytes
        67108864
    """

    max_bytes: int | str = "256MB"
    max_entries: int | None = None
    ttl: float | None = None
    allow_random: bool = False
    policy: Literal["lru", "s3-fifo"] = "lru"
    copy: bool = True
    by: Literal["request", "row"] = "request"
    warm_from: str | os.PathLike[str] | None = None
    secret: bytes | str | None = field(default=None, repr=False)
    shared: str | None = field(default=None, repr=False)
    shared_timeout: float = 0.02

    def __post_init__(self) -> None:
        """Check the settings, and turn the size into bytes."""
        object.__setattr__(self, "max_bytes", parse_size(self.max_bytes))
        check_entries(self.max_entries)
        if self.ttl is not None:
            if isinstance(self.ttl, bool) or not isinstance(self.ttl, (int, float)):
                message = f"`ttl` must be seconds or None, not {self.ttl!r}"
                raise TypeError(message)
            if not (self.ttl > 0 and math.isfinite(self.ttl)):
                message = f"`ttl` must be more than 0 seconds, not {self.ttl}: pass None for ever"
                raise ValueError(message)
        if self.policy not in POLICIES:
            message = f"`policy` must be one of {', '.join(map(repr, POLICIES))}, not {self.policy!r}"
            raise ValueError(message)
        if self.by not in ("request", "row"):
            message = f'`by` must be "request" or "row", not {self.by!r}'
            raise ValueError(message)
        check_copy(self.copy)
        check_path(self.warm_from)
        check_secret(self.secret)
        check_seconds("shared_timeout", self.shared_timeout)
        if self.shared is not None:
            self._check_shared()

    def _check_shared(self) -> None:
        read_url(self.shared)
        if self.secret is None:
            message = (
                "`shared` needs a `secret`: whoever reaches the server could forge answers; "
                "pass the same `secret=secrets.token_bytes(32)` to every process"
            )
            raise ValueError(message)
        if self.by == "row":
            message = '`shared` holds answers to whole calls: leave it out, or pass `by="request"`'
            raise ValueError(message)

    @classmethod
    def read(cls, given: Cache | str | int | None) -> Cache | None:
        """The settings that `cache=` stands for: a size is enough, None is no cache.

        Raises:
            TypeError: It is of another type.
            ValueError: A size cannot be read.
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, bool) or not isinstance(given, (str, int)):
            message = f'`cache` must be a size such as "256MB", an `inferlite.Cache` or None, not {given!r}'
            raise TypeError(message)
        return cls(max_bytes=given)

    def _check_backend(self, backend: str) -> None:
        """Refuse what only the native back end can do.

        Raises:
            BackendUnavailableError: Rows are to be looked up by the other one.
        """
        if self.by == "row" and backend != "native":
            refuse("row_cache", '`Cache(by="row")`')

    def _given(self) -> dict[str, Any]:
        """What the back ends take."""
        secret = self.secret.encode() if isinstance(self.secret, str) else self.secret
        return {
            "max_bytes": parse_size(self.max_bytes),
            "max_entries": self.max_entries,
            "ttl": self.ttl,
            "policy": self.policy,
            "copy": self.copy,
            "warm_from": None if self.warm_from is None else os.fsdecode(self.warm_from),
            "secret": secret,
            "shared": None if self.shared is None else {**read_url(self.shared), "timeout": float(self.shared_timeout)},
        }

    def _given_alone(self) -> dict[str, Any]:
        """What a back end takes whose answers stay in the process.

        Raises:
            BackendUnavailableError: They are to leave it.
        """
        for name in ("warm_from", "secret", "shared"):
            if getattr(self, name) is not None:
                refuse("cache_beyond_process", f"`Cache({name}=...)`")
        beyond = ("warm_from", "secret", "shared")
        return {name: value for name, value in self._given().items() if name not in beyond}


def parse_size(size: int | str) -> int:
    """The bytes of a size.

    Raises:
        TypeError: It is neither a number of bytes nor text.
        ValueError: It is not a size, or not at least one byte.

    Example:
        >>> parse_size("256MB"), parse_size("1.5 GiB"), parse_size(4096)
        (256000000, 1610612736, 4096)
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        message = f'a size must be a number of bytes or text such as "256MB", not {size!r}'
        raise TypeError(message)
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([KMGT]?i?B)\s*", size, re.ASCII)
        if found is None or found.group(2) not in UNITS:
            message = f'`{size}` is no size: write a number and one of {", ".join(UNITS)}, such as "256MB"'
            raise ValueError(message)
        given = int(float(found.group(1)) * UNITS[found.group(2)])
    else:
        given = size
    if not 1 <= given <= MOST_BYTES:
        message = f"a size must be from 1 to {MOST_BYTES} bytes, not {given}"
        raise ValueError(message)
    return given


def check_entries(max_entries: int | None) -> None:
    """Refuse what is no number of entries.

    Raises:
        TypeError: It is neither a number nor None.
        ValueError: It is below 1.
    """
    if max_entries is None:
        return
    if isinstance(max_entries, bool) or not isinstance(max_entries, int):
        message = f"`max_entries` must be a number or None, not {max_entries!r}"
        raise TypeError(message)
    if not 1 <= max_entries <= MOST_BYTES:
        message = f"`max_entries` must be at least 1, not {max_entries}"
        raise ValueError(message)


def check_seconds(name: str, seconds: object) -> None:
    """Refuse what is no time limit.

    Raises:
        TypeError: It is no number.
        ValueError: It is not more than nothing, or more than a minute.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        message = f"`{name}` must be seconds, not {seconds!r}"
        raise TypeError(message)
    if not 0 < seconds <= LONGEST_WAIT:
        message = f"`{name}` must be more than 0 and at most {LONGEST_WAIT} seconds, not {seconds}"
        raise ValueError(message)


def check_copy(copy: object) -> None:
    """Refuse what is no answer.

    Raises:
        TypeError: It is no bool.
    """
    if not isinstance(copy, bool):
        message = f"`copy` must be True or False, not {copy!r}"
        raise TypeError(message)


def check_path(warm_from: object) -> None:
    """Refuse what is no path.

    Raises:
        TypeError: It is neither a path nor None.
    """
    if warm_from is not None and not isinstance(warm_from, (str, os.PathLike)):
        message = f"`warm_from` must be a path or None, not {warm_from!r}"
        raise TypeError(message)


def check_secret(secret: object) -> None:
    """Refuse what is no secret, without showing it.

    Raises:
        TypeError: It is neither bytes, nor text, nor None.
        ValueError: It is too short.
    """
    if secret is None:
        return
    if not isinstance(secret, (bytes, str)):
        message = f"`secret` must be bytes, text or None, not {type(secret).__name__}"
        raise TypeError(message)
    length = len(secret.encode() if isinstance(secret, str) else secret)
    if length < SHORTEST_SECRET:
        message = f"`secret` must have at least {SHORTEST_SECRET} bytes, not {length}: take `secrets.token_bytes(32)`"
        raise ValueError(message)


def refuse_random(name: str, random_node: str | None) -> None:
    """Refuse to cache a model that may answer the same question in another way.

    Raises:
        ModelLoadError: There is such a node.
    """
    if random_node is not None:
        message = (
            f"model `{name or 'model'}` cannot be cached: {random_node} may be random; pass "
            "`cache=inferlite.Cache(allow_random=True)` to keep its first answers"
        )
        raise ModelLoadError(message)


class PredictionCache:
    """The live cache of a model or a session: `model.cache`."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Any) -> None:  # noqa: ANN401 - a model or a session of either back end
        """Look at the cache of `owner`."""
        self._owner = owner

    def clear(self) -> None:
        """Drop every answer; one that is being computed now is not kept either.

        What a shared server has stays there until its time is over: other processes use it as well.
        """
        self._owner._cache_clear()  # noqa: SLF001 - a class of this package

    def invalidate(self, *args: Any, outputs: Sequence[str] | str | None = None, **named: Any) -> bool:  # noqa: ANN401
        """Drop the answer to one call, on a shared server as well.

        Args:
            *args: What the call was given: the inputs of `model(...)`, or `output_names` and `input_feed` of
                `session.run(...)`.
            outputs: As given to `model(...)`.
            **named: The inputs by name, as given to `model(...)`.

        Returns:
            Whether there was an answer to drop.

        Raises:
            InvalidInputError: The inputs do not fit; and what `session.run` raises for a session.
        """
        owner = self._owner
        if hasattr(owner, "predict"):
            inputs = args[0] if args else None
            return bool(owner._cache_invalidate(inputs, outputs, named))  # noqa: SLF001
        return bool(owner._cache_invalidate(*args, **named))  # noqa: SLF001

    def resize(self, max_bytes: int | str | None = None, max_entries: int | None = None) -> None:
        """Change how much is kept, and drop what is too much at once.

        Args:
            max_bytes: As in `Cache`; None leaves it as it is.
            max_entries: As in `Cache`; None for as many as the bytes allow.
        """
        check_entries(max_entries)
        size = self.max_bytes if max_bytes is None else parse_size(max_bytes)
        self._owner._cache_resize(size, max_entries)  # noqa: SLF001

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the answers to a file, for `Cache(warm_from=path)` of a later process with the same model and options.

        The file takes the place of an older one at once, when it is whole. Other threads go on meanwhile.

        Args:
            path: Where to write; a file beside it is used until it is whole.

        Returns:
            How many answers were written.

        Raises:
            ValueError: The cache was made without `warm_from` and without `secret`.
            OSError: The file cannot be written.
            BackendUnavailableError: The back end keeps answers in the process alone.
        """
        return int(self._owner._cache_save(os.fsdecode(path)))  # noqa: SLF001

    def stats(self) -> CacheStats:
        """What the cache has counted, and what it holds now."""
        stats = cache_stats(self._owner._cache_summary())  # noqa: SLF001
        return stats if stats is not None else CacheStats()

    @property
    def max_bytes(self) -> int:
        """How many bytes are kept at most."""
        return int(self._limits()[0])

    @property
    def max_entries(self) -> int | None:
        """How many answers are kept at most; None for as many as the bytes allow."""
        return self._limits()[1]

    def _limits(self) -> tuple[int, int | None]:
        summary = self._owner._cache_summary()  # noqa: SLF001
        return (0, None) if summary is None else summary[-2:]

    def __len__(self) -> int:
        """How many answers are kept now."""
        return self.stats().entries

    def __bool__(self) -> bool:
        """True: a cache that is empty is one all the same."""
        return True

    def __repr__(self) -> str:
        """What is kept, of how much."""
        stats = self.stats()
        return f"<inferlite.PredictionCache: {stats.entries} entries, {stats.bytes:,} of {self.max_bytes:,} bytes>"


def live(owner: Any) -> PredictionCache | None:  # noqa: ANN401 - a model or a session of either back end
    """The live cache of a model or a session; None if it has none."""
    return None if owner._cache_summary() is None else PredictionCache(owner)  # noqa: SLF001
