"""How many answers per second does the server give over HTTP, how soon is it there, and what does it keep in memory?

The server has one core and the load the other. What is asked is one row, by sixteen connections unless the case says
otherwise.
"""

from __future__ import annotations

import http.client
import json
import tempfile
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benches.forms import BINARY, MODEL, PLAIN, PROTOCOL, Caller, Form
from benches.harness import Case, Effort, WrongAnswerError, alternate
from benches.load import Traffic, press
from benches.models import magika_model, model
from benches.servers import BARE, FASTAPI, HOST, MOSEC, TRITON, Peer, Server, cores, ours, write_model
from benches.subject import peer_session
from benches.threads import Crew
from inferlite._measure import Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from benches.subject import Subject

SMALL: Final = "mlp-256-512-512-10"
SMALLEST: Final = "mlp-16-32-16-4"
TEN_MEGABYTES: Final = "mlp-10mb"

CONNECTIONS: Final = 16
ROUNDS: Final = 10
SECONDS: Final = 2.0
"""Length of a round; wrk takes whole seconds, so that a smoke round has one."""

CHECKED_CALLS: Final = 20
TOLERANCE: Final = 1e-4
"""Rows in a batch are rounded otherwise than rows by themselves."""

STARTS: Final = 20
READY_LIMIT: Final = 0.6
MEMORY_ROUNDS: Final = 4
MEMORY_LIMIT: Final = 120e6

CACHE: Final = 'cache = "64MB"\n'

# Answers


@dataclass(frozen=True, slots=True)
class Served:
    """A model that servers are asked about, and what it must answer.

    Attributes:
        content: the model's bytes.
        name: what its input is called.
        rows: inputs of one row, no two alike, one for each connection.
        wanted: onnxruntime's answers to them.
    """

    content: bytes
    name: str
    rows: tuple[NDArray[Any], ...]
    wanted: tuple[NDArray[Any], ...]


@cache
def served(name: str) -> Served:
    """Return one of the benchmarks' models, or magika's.

    Raises:
        NotMeasurableError: magika's is not here.
    """
    if name == "magika":
        path, feed = magika_model()
        content = Path(path).read_bytes()
    else:
        content, feed = model(name).content, model(name).feed
    ((given, row),) = feed.items()
    # No row is rolled onto another one: their numbers are random.
    rows = tuple(np.roll(row, number, axis=-1) for number in range(CONNECTIONS))
    session = peer_session(content)
    return Served(content, given, rows, tuple(session.run(None, {given: x})[0] for x in rows))


def check(port: int, form: Form, about: Served, what: str) -> None:
    """Ask on as many connections at once as there are rows, and compare the answers with onnxruntime's.

    Raises:
        WrongAnswerError: an answer is none, or differs by more than rounding.
    """

    def many(x: NDArray[Any], wanted: NDArray[Any]) -> None:
        with Caller(HOST, port, form) as ask:
            for _ in range(CHECKED_CALLS):
                require_close(ask(about.name, x), wanted, what)

    with Crew(len(about.rows)) as crew:
        crew.together([partial(many, *pair) for pair in zip(about.rows, about.wanted, strict=True)])


def require_close(answer: NDArray[Any], wanted: NDArray[Any], what: str) -> None:
    """Compare an answer with the one that is wanted.

    Raises:
        WrongAnswerError: they differ in shape, or by more than rounding.
    """
    if answer.shape != wanted.shape or not np.allclose(answer, wanted, rtol=TOLERANCE, atol=TOLERANCE):
        message = f"{what}: an answer differs from onnxruntime's by more than rounding"
        raise WrongAnswerError(message)


# Load


@contextmanager
def repository(about: Served, settings: str = "") -> Iterator[tuple[Path, Path]]:
    """Make a repository of one model meanwhile: its folder, and the file of the model."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), write_model(Path(folder), about.content, settings)


@dataclass(frozen=True, slots=True)
class Side:
    """A server that runs, and how it is asked."""

    server: Server
    form: Form


@dataclass(frozen=True, slots=True)
class Rounds:
    """What two servers made of the same rounds.

    Attributes:
        requests: seconds per answer.
        slow: seconds that 99 of 100 answers took at most.
    """

    requests: Comparison
    slow: Comparison


def rounds_of(mine: Side, theirs: Side, about: Served, connections: int, effort: Effort) -> Rounds:
    """Check the answers of both sides, then press them in turn."""
    _, core = cores()
    seconds = effort.seconds(SECONDS)
    sides = (mine, theirs)
    seen: dict[int, list[Traffic]] = {0: [], 1: []}

    def once(number: int) -> float:
        side, other = sides[number], sides[1 - number]
        request = side.form.write(about.name, about.rows[0])
        with nullcontext() if side.server is other.server else other.server.asleep():
            traffic = press(side.server.url, request, connections=connections, seconds=seconds, core=core)
        seen[number].append(traffic)
        return traffic.seconds_per_request

    for side in sides:
        check(side.server.port, side.form, about, side.server.name)
    # What runs of several sizes take is learned while serving.
    once(0)
    once(1)
    seen[0].clear()
    seen[1].clear()
    requests = alternate(partial(once, 0), partial(once, 1), rounds=effort.rounds(ROUNDS))
    return Rounds(
        requests,
        compare(
            [traffic.slow for traffic in seen[0]],
            [traffic.slow for traffic in seen[1]],
            calls_per_round=requests.calls_per_round,
        ),
    )


@cache
def rounds_against(peer: Peer, connections: int, subject: Subject, effort: Effort) -> Rounds:
    """Press our server and a peer's; both figures of a pair are of the same rounds, which are made once."""
    core, _ = cores()
    about = served(SMALL)
    with repository(about) as (folder, path), ExitStack() as running:
        our_server, their_server = ours(subject, folder, core=core, workers=1), peer.server(path, core=core)
        mine = Side(running.enter_context(our_server), peer.form)
        theirs = Side(running.enter_context(their_server), peer.form)
        return rounds_of(mine, theirs, about, connections, effort)


def measure_requests(peer: Peer, connections: int, subject: Subject, effort: Effort) -> Comparison:
    """Compare seconds per answer."""
    return rounds_against(peer, connections, subject, effort).requests


def measure_slow(peer: Peer, subject: Subject, effort: Effort) -> Comparison:
    """Compare the 99th percentile."""
    return rounds_against(peer, CONNECTIONS, subject, effort).slow


def measure_binary(subject: Subject, effort: Effort) -> Comparison:
    """Compare answers to binary bodies with those to JSON, of one server."""
    core, _ = cores()
    about = served(SMALL)
    with repository(about) as (folder, _), ours(subject, folder, core=core, workers=1) as server:
        return rounds_of(Side(server, BINARY), Side(server, PROTOCOL), about, CONNECTIONS, effort).requests


def measure_hits(name: str, subject: Subject, effort: Effort) -> Comparison:
    """Compare answers that are kept with answers that are run for, in batches."""
    core, _ = cores()
    about = served(name)
    with repository(about, CACHE) as (kept, _), repository(about) as (run, _), ExitStack() as running:
        with_cache, without = (
            running.enter_context(ours(subject, folder, core=core, workers=1)) for folder in (kept, run)
        )
        rounds = rounds_of(Side(with_cache, PLAIN), Side(without, PLAIN), about, CONNECTIONS, effort)
        require_hits(with_cache.port, len(about.rows))
        return rounds.requests


def require_hits(port: int, different: int) -> None:
    """Find out from a server's statistics that it has run no more than what was different.

    Raises:
        WrongAnswerError: it has not kept its answers, or does not say so.
    """
    connection = http.client.HTTPConnection(HOST, port)
    try:
        connection.request("GET", f"/v2/models/{MODEL}/stats")
        (told,) = json.loads(connection.getresponse().read())["model_stats"]
    finally:
        connection.close()
    hits, misses = (told["inference_stats"][name]["count"] for name in ("cache_hit", "cache_miss"))
    # Sixteen connections may ask the same before the first of them has its answer.
    if misses > different * CONNECTIONS or hits <= misses:
        message = f"{hits} answers were kept ones and {misses} were not, but only {different} rows were asked about"
        raise WrongAnswerError(message)


# Start and memory


def fixed(amount: float) -> Callable[[], float]:
    """Return a peer that is no server but a figure."""
    return lambda: amount


def measure_ready(subject: Subject, effort: Effort) -> Comparison:
    """Compare the time from the start of the process until it is ready with what it may take, on all cores."""
    about = served(TEN_MEGABYTES)
    with repository(about) as (folder, _):

        def start() -> float:
            with ours(subject, folder) as server:
                with Caller(HOST, server.port, PLAIN) as ask:
                    require_close(ask(about.name, about.rows[0]), about.wanted[0], "the first answer")
                return server.seconds_to_ready

        # The first process writes compiled files and fills the page cache.
        start()
        return alternate(start, fixed(READY_LIMIT), rounds=effort.rounds(STARTS))


def measure_memory(subject: Subject, effort: Effort) -> Comparison:
    """Compare what a server has in memory, once it has answered on sixteen connections, with what it may have."""
    about = served(SMALLEST)
    with repository(about) as (folder, _):

        def resident() -> float:
            with ours(subject, folder) as server:
                check(server.port, PLAIN, about, server.name)
                return float(server.resident_bytes())

        return alternate(resident, fixed(MEMORY_LIMIT), rounds=effort.rounds(MEMORY_ROUNDS))


# Cases

UNCACHED: Final = "without cache, batched"
_LOADED: Final = f"{SMALL}, {CONNECTIONS} connections"

CASES: Final = (
    *(
        case
        for peer in (FASTAPI, MOSEC, TRITON)
        for case in (
            Case("serving", _LOADED, peer.name, partial(measure_requests, peer, CONNECTIONS)),
            Case("serving", f"{_LOADED}, 99th percentile", peer.name, partial(measure_slow, peer)),
        )
    ),
    Case("serving", f"{SMALL}, 1 connection", BARE.name, partial(measure_requests, BARE, 1)),
    Case("serving", f"{_LOADED}, binary bodies", "the same in JSON", measure_binary),
    *(
        Case("serving", f"{name}, {CONNECTIONS} connections, hits", UNCACHED, partial(measure_hits, name))
        for name in (SMALL, "magika")
    ),
    Case("serving", f"{TEN_MEGABYTES}, from start to ready", "0.6 s", measure_ready),
    Case("serving", f"{SMALLEST}, resident memory", "120 MB", measure_memory),
)
