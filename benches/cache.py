"""What does a hit of the prediction cache cost, and what does a miss cost on top of its run?"""

from __future__ import annotations

import time
from functools import lru_cache, partial
from itertools import cycle, islice
from threading import Lock
from timeit import Timer
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benches.harness import Case, Effort, WrongAnswerError, alternate, peer_package, require_same
from benches.models import magika_model, model
from benches.subject import peer_session
from benches.threads import THREADS, Crew, seconds_per_call
from inferlite import Cache
from inferlite._measure import Comparison, paired_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benches.subject import Session, Subject

    Ask = Callable[[NDArray[Any]], NDArray[Any]]

SMALL: Final = "identity-1x16"
ROUNDS: Final = 200
ROOM: Final = "64MB"

# Hits


HITS_PER_ROUND: Final = 20_000


def compare_statements(ours: str, theirs: str, names: dict[str, Any], effort: Effort) -> Comparison:
    """Time two statements as somebody would write them: a call by way of `partial` costs a tenth of a hit more."""
    calls = HITS_PER_ROUND // 100 if effort.smoke else HITS_PER_ROUND
    mine, other = Timer(ours, globals=names), Timer(theirs, globals=names)
    return alternate(
        lambda: mine.timeit(calls) / calls, lambda: other.timeit(calls) / calls, rounds=effort.rounds(ROUNDS)
    )


def measure_hit(form: str, subject: Subject, effort: Effort) -> Comparison:
    """Time a hit on a small input against a copy of it, which is the least that a private answer costs."""
    chosen = model(SMALL)
    feed = dict(chosen.feed)
    x = feed["x"]
    if form == "Model":
        live: Any = subject.model(chosen.content, ROOM)
        ours = "live(x)"
        answers = [live(x), live(x)]
    else:
        live = subject.session(chosen.content, ROOM)
        ours = "live.run(None, feed)"
        answers = [live.run(None, feed)[0], live.run(None, feed)[0]]
    require_same(answers, [x, x], f"hit on {SMALL}, {form}")
    require_hits(live, 1)
    return compare_statements(ours, "x.copy()", {"live": live, "x": x, "feed": feed}, effort)


def measure_image(subject: Subject, effort: Effort) -> Comparison:
    """Time a hit on an image against one keyed digest of it, which is the least that a proof by digest costs."""
    blake3 = peer_package("blake3").blake3
    chosen = model("image")
    x = chosen.feed["x"]
    live: Any = subject.model(chosen.content, ROOM)
    plain = peer_session(chosen.content).run(None, chosen.feed)
    require_same([live(x), live(x)], [plain[0], plain[0]], "hit on image")
    require_hits(live, 1)
    content, key = x.data.cast("B"), bytes(range(32))

    def digest() -> object:
        return blake3(content, key=key, max_threads=1).digest()

    return paired_rounds(partial(live, x), digest, rounds=effort.rounds(ROUNDS))


def measure_peer(make: Callable[[Session], Ask], copied: str, subject: Subject, effort: Effort) -> Comparison:
    """Time a hit on a small input against a hit of a dictionary-like cache around onnxruntime."""
    chosen = model(SMALL)
    x = chosen.feed["x"]
    live: Any = subject.model(chosen.content, ROOM)
    shared = make(peer_session(chosen.content))
    require_same([live(x), live(x)], [shared(x), shared(x)], f"hit on {SMALL}")
    require_hits(live, 1)
    theirs = "shared(x).copy()" if copied else "shared(x)"
    return compare_statements("live(x)", theirs, {"live": live, "x": x, "shared": shared}, effort)


def around_functools(session: Session) -> Ask:
    """Keep answers in `functools.lru_cache`."""

    @lru_cache(maxsize=1_000)
    def answer(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        return session.run(None, {"x": np.frombuffer(content, dtype).reshape(shape)})[0]

    def ask(x: NDArray[Any]) -> NDArray[Any]:
        return answer(x.tobytes(), x.shape, x.dtype)

    return ask


def around_cachetools(session: Session) -> Ask:
    """Keep answers in `cachetools.LRUCache`, with the lock that its documentation asks for."""
    cachetools = peer_package("cachetools")

    @cachetools.cached(cachetools.LRUCache(1_000), lock=Lock())  # type: ignore[untyped-decorator]
    def answer(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        return session.run(None, {"x": np.frombuffer(content, dtype).reshape(shape)})[0]

    def ask(x: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = answer(x.tobytes(), x.shape, x.dtype)
        return found

    return ask


def around_cachebox(session: Session) -> Ask:
    """Keep answers in `cachebox.LRUCache`, asked directly, which is quicker than by its decorator."""
    kept = peer_package("cachebox").LRUCache(1_000)

    def ask(x: NDArray[Any]) -> NDArray[Any]:
        key = (x.tobytes(), x.shape, x.dtype)
        found: NDArray[Any] | None = kept.get(key)
        if found is None:
            found = kept[key] = session.run(None, {"x": x})[0]
        return found

    return ask


def measure_threads(subject: Subject, effort: Effort) -> Comparison:
    """Time the hits of many threads in sum against those of one: per hit, wall time over all threads' hits."""
    live, inputs = live_on_threads(subject)
    return in_sum([partial(live, x) for x in inputs], effort)


def measure_copies(subject: Subject, effort: Effort) -> Comparison:
    """Time the copies of many threads in sum against those of one: what the interpreter takes for having many."""
    _, inputs = live_on_threads(subject)
    return in_sum([x.copy for x in inputs], effort)


def live_on_threads(subject: Subject) -> tuple[Any, list[NDArray[Any]]]:
    """Return a model that has kept the answer to one input for each thread, and the inputs."""
    chosen = model(SMALL)
    inputs = [chosen.feed["x"] + np.float32(number) for number in range(THREADS)]
    live: Any = subject.model(chosen.content, ROOM)
    require_same([live(x) for x in inputs + inputs], inputs + inputs, f"hits on {SMALL}")
    require_hits(live, THREADS)
    return live, inputs


def in_sum(calls: Sequence[Callable[[], object]], effort: Effort) -> Comparison:
    """Time calls on a thread each against the first of them on one, in wall time over all calls."""
    seconds = effort.seconds(0.5)
    with Crew(THREADS) as many, Crew(1) as one:
        return alternate(
            partial(seconds_per_call, many, calls, seconds),
            partial(seconds_per_call, one, calls[:1], seconds),
            rounds=effort.rounds(40),
        )


def require_hits(live: Any, wanted: int) -> None:  # noqa: ANN401 - a model or a session
    """Make sure that hits are what is timed.

    Raises:
        WrongAnswerError: the cache has counted others.
    """
    hits = live.cache.stats().hits
    if hits != wanted:
        message = f"{hits} calls were hits, but {wanted} were to be"
        raise WrongAnswerError(message)


# Misses

POOL: Final = 512
"""Different inputs, asked in turn: with room for fewer, the least recently used policy never has the next one."""

KEPT: Final = 100
LOOKED_UP: Final = 9_000
"""So many look-ups without a hit a cache is asked; after 10,000 it would turn itself down."""


class Misses:
    """Calls that all miss: a live session behind a full cache, made anew before it turns itself down."""

    def __init__(self, make: Callable[[], Session], feeds: Sequence[dict[str, NDArray[Any]]]) -> None:
        """Fill the first one."""
        self._make, self._feeds = make, feeds
        self._next = 0
        self._renew()

    def _renew(self) -> None:
        self.live: Any = self._make()
        self._asked = 0
        self.run(KEPT)

    def take(self, calls: int) -> list[dict[str, NDArray[Any]]]:
        """The next inputs."""
        taken = [self._feeds[(self._next + number) % len(self._feeds)] for number in range(calls)]
        self._next += calls
        return taken

    def run(self, calls: int) -> None:
        """Miss so many times, untimed."""
        for feed in self.take(calls):
            self.live.run(None, feed)
        self._asked += calls

    def time(self, calls: int) -> float:
        """Miss so many times, and return seconds per call.

        Raises:
            WrongAnswerError: something else than a miss was timed.
        """
        if self._asked + calls > LOOKED_UP:
            self._renew()
        seconds = time_calls(self.live, self.take(calls))
        self._asked += calls
        stats = self.live.cache.stats()
        if (stats.misses, stats.evictions) != (self._asked, self._asked - KEPT):
            message = f"{self._asked} calls were to miss, but the cache says {stats}"
            raise WrongAnswerError(message)
        return seconds


def time_calls(session: Session, feeds: Sequence[dict[str, NDArray[Any]]]) -> float:
    """Run once with each feed, and return seconds per call."""
    run = session.run
    start = time.perf_counter_ns()
    for feed in feeds:
        run(None, feed)
    return (time.perf_counter_ns() - start) / 1e9 / len(feeds)


def different(feed: dict[str, NDArray[Any]], number: int) -> list[dict[str, NDArray[Any]]]:
    """Return feeds of which no two are alike: the first element counts them."""
    feeds = []
    for count in range(number):
        copies = {name: array.copy() for name, array in feed.items()}
        next(iter(copies.values())).flat[0] = count
        feeds.append(copies)
    return feeds


def measure_miss(name: str, calls: int, subject: Subject, effort: Effort) -> Comparison:
    """Time a look-up, a run and keeping its answer in place of another one, against the run alone."""
    content: bytes | str
    if name == "magika":
        content, feed = magika_model()
    else:
        content, feed = model(name).content, dict(model(name).feed)
    feeds = different(feed, POOL)
    settings = Cache(max_bytes=ROOM, max_entries=KEPT)
    plain = subject.session(content)
    misses = Misses(partial(subject.session, content, settings), feeds)
    for example in misses.take(3):
        require_same(misses.live.run(None, example), plain.run(None, example), f"miss on {name}")
    misses = Misses(partial(subject.session, content, settings), feeds)
    position, beside = 0, None

    def theirs() -> float:
        nonlocal position, beside, plain
        if beside is not misses.live:
            # A session is as fast as its age and the place of its memory make it: both sides are made anew together.
            beside, plain = misses.live, subject.session(content)
            for feed in feeds[:KEPT]:
                plain.run(None, feed)
        taken = [feeds[(position + number) % POOL] for number in range(calls)]
        position += calls
        return time_calls(plain, taken)

    return alternate(partial(misses.time, calls), theirs, rounds=effort.rounds(ROUNDS))


def measure_sampling(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Time calls without repeats once the cache has turned itself down, against runs without one.

    Raises:
        WrongAnswerError: the cache has not turned itself down.
    """
    chosen = model(name)
    # One call in 64 is looked up and kept: of these, too, none may come again while it is there.
    feeds = different(dict(chosen.feed), 1_000)
    live: Any = subject.session(chosen.content, Cache(max_bytes=ROOM, max_entries=KEPT))
    plain = subject.session(chosen.content)
    require_same(live.run(None, feeds[0]), plain.run(None, feeds[0]), f"sampling on {name}")
    for feed in islice(cycle(feeds), 1, 20_000):
        live.run(None, feed)
        if live.cache.stats().sampling:
            break
    # What the last full look-ups have kept would be hits, and end the sampling.
    live.cache.clear()
    comparison = alternate(
        partial(time_calls, live, feeds), partial(time_calls, plain, feeds), rounds=effort.rounds(ROUNDS)
    )
    stats = live.cache.stats()
    if not stats.sampling or stats.hits:
        message = f"the cache was to look up a sample alone, without a hit, but says {stats}"
        raise WrongAnswerError(message)
    return comparison


AROUND: Final = {
    "functools.lru_cache": around_functools,
    "cachebox": around_cachebox,
    "cachetools": around_cachetools,
}
MISSES: Final = {"mlp-256-512-512-10": 200, "magika": 10}
"""Model -> calls of a round."""

CASES: Final = (
    Case("cache", "hit, 1x16, Model", "x.copy()", partial(measure_hit, "Model")),
    Case("cache", "hit, 1x16, session", "x.copy()", partial(measure_hit, "session")),
    *(
        Case(
            "cache",
            "hit, 1x16, Model",
            f"{name} around onnxruntime{copied}",
            partial(measure_peer, make, copied),
        )
        for name, make in AROUND.items()
        for copied in (", answer copied", "")
    ),
    Case("cache", "hit, 1x3x224x224, Model", "keyed BLAKE3 of the input, one thread", measure_image),
    Case("cache", f"hits, 1x16, {THREADS} threads in sum", "one thread", measure_threads),
    Case("cache", f"copies, 1x16, {THREADS} threads in sum", "one thread", measure_copies),
    *(
        Case("cache", f"miss, {name}", "run without cache", partial(measure_miss, name, calls))
        for name, calls in MISSES.items()
    ),
    *(
        Case("cache", f"no repeats, sampling, {name}", "run without cache", partial(measure_sampling, name))
        for name in ("mlp-16-32-16-4", "mlp-256-512-512-10")
    ),
)
