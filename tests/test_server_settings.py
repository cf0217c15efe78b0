"""What `model.toml` says of shared caches and of lengths, through a server."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest

import inferlite
import served
from test_shared_cache import Server as CacheServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("native_backend")

SECRET = "sixteen bytes or more"  # noqa: S105 - nobody's
DOUBLED = [3.0, 4.0, 6.0, 8.0]

# A mask decides what counts of a row, so that the length does not.
MASKED = (
    "masked (float[batch,length] x, float[batch,length] mask) => (float[batch,length] y, float[batch,1] total) "
    "<int64[1] axis = {1}> { y = Mul(x, mask) total = ReduceSum<keepdims = 1>(y, axis) }"
)
PAD = """
[batching]
max_delay = 0.5
max_rows = 2
[batching.pad]
inputs = { x = 1, mask = 1 }
sizes = [4, 8]
outputs = { y = 1 }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty repository."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def cache_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheServer]:
    """A real server that keeps answers."""
    server = CacheServer(tmp_path_factory.mktemp("s"))
    server.start()
    yield server
    server.kill()


def sharing(server: CacheServer, secret: str, extra: str = "") -> str:
    """Settings of a model that shares its answers; patient, since what is tested is what happens, not how soon."""
    return f"""{extra}[cache]
shared = "{server.url}"
secret = {secret}
shared_timeout = 5
"""


@pytest.mark.parametrize("batching", ["batching = false\n", "batching = true\n", ""])
def test_servers_share_answers(folder: Path, cache_server: CacheServer, batching: str) -> None:
    served.add(folder, "double", served.DOUBLE, settings=sharing(cache_server, f'"{SECRET}"', batching))
    with inferlite.Server(folder, watch=None) as server:
        assert served.double(server.url) == DOUBLED
        served.until(lambda: len(cache_server.names()) == 1, "the answer is shared")
    (name,) = cache_server.names()
    before = cache_server.value(name)
    with inferlite.Server(folder, watch=None) as server:
        hits = _hits(cache_server)
        assert served.double(server.url) == DOUBLED
        # One question is two commands: what the answer is, and how long it counts.
        assert _hits(cache_server) == hits + 2
        # Kept here by now.
        assert served.double(server.url) == DOUBLED
        assert _hits(cache_server) == hits + 2
    assert cache_server.value(name) == before


def test_other_weights_get_no_shared_answers_of_before(folder: Path, cache_server: CacheServer) -> None:
    served.add(folder, "double", served.DOUBLE, settings=sharing(cache_server, f'"{SECRET}"'))
    with inferlite.Server(folder, watch=None) as server:
        assert served.double(server.url) == DOUBLED
        served.add(folder, "double", served.TRIPLE)
        server.load("double")
        assert served.double(server.url) == [4.5, 6.0, 9.0, 12.0]
        served.until(lambda: len(cache_server.names()) == 2, "both answers are shared")
        served.add(folder, "double", served.DOUBLE)
        server.load("double")
        assert served.double(server.url) == DOUBLED


@pytest.mark.parametrize("place", ["env", "file"])
def test_the_secret_may_lie_elsewhere(
    folder: Path, cache_server: CacheServer, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_SECRET", SECRET)
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    secret = '{ env = "CACHE_SECRET" }' if place == "env" else f'{{ file = "{path}" }}'
    for settings in (sharing(cache_server, f'"{SECRET}"'), sharing(cache_server, secret)):
        served.add(folder, "double", served.DOUBLE, settings=settings)
        with inferlite.Server(folder, watch=None) as server:
            assert served.double(server.url) == DOUBLED
            served.until(lambda: len(cache_server.names()) == 1, "the answer is shared under one secret")


def test_a_cache_that_cannot_be_reached_is_done_without(folder: Path, tmp_path: Path) -> None:
    settings = f'[cache]\nshared = "unix://{tmp_path}/nobody"\nsecret = "{SECRET}"\n'
    served.add(folder, "double", served.DOUBLE, settings=settings)
    with inferlite.Server(folder, watch=None) as server:
        assert [served.double(server.url) for _ in range(3)] == [DOUBLED] * 3


def test_a_cache_that_cannot_be_reached_is_told_and_counted(folder: Path) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody answers here, and nobody else gets the port.
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = f'[cache]\nshared = "redis://me:hidden@{place}/3"\nsecret = "{SECRET}"\nshared_timeout = 5\n'
        served.add(folder, "double", served.DOUBLE, settings=settings)
        served.add(folder, "other", served.DOUBLE, settings='cache = "1MB"\n')
        with inferlite.Server(folder, watch=None) as server:
            assert shared_figures(server.url) == {"hits": 0, "misses": 0, "errors": 0, "paused": 0}
            assert server.notices() == []
            # An answer that is kept here is not asked for there.
            for number in range(5):
                assert served.double(server.url, first=number) == [2.0 * number, *DOUBLED[1:]]
            assert shared_figures(server.url) == {"hits": 0, "misses": 0, "errors": 3, "paused": 1}
            (notice,) = server.notices()
            assert server.notices() == []
            assert 'model="other"' not in shared_lines(server.url)
            assert "shared_cache" not in served.get(server.url, "/v2/models/other/stats")["model_stats"][0]
    assert notice == (
        f"the shared cache at `{place}` of version 1 of model `double` cannot be used, and answers are computed here "
        f"until it can: {os.strerror(errno.ECONNREFUSED)} (os error {errno.ECONNREFUSED})"
    )


def test_a_cache_that_comes_back_is_told_too(folder: Path, cache_server: CacheServer) -> None:
    served.add(folder, "double", served.DOUBLE, settings=sharing(cache_server, f'"{SECRET}"'))
    numbers = itertools.count()
    with inferlite.Server(folder, watch=None) as server:

        def is_paused() -> bool:
            served.double(server.url, first=next(numbers))
            return shared_figures(server.url)["paused"] == 1

        assert not is_paused()
        cache_server.kill()
        served.until(is_paused, "the server is given up")
        assert [" cannot be used, " in notice for notice in server.notices()] == [True]
        cache_server.start()
        served.until(lambda: not is_paused(), "the server is asked again")
        name = f"the shared cache at `{cache_server.path}` of version 1 of model `double`"
        assert server.notices() == [f"{name} can be used again"]
        assert server.notices() == []


def shared_lines(url: str) -> str:
    """What `/metrics` has about shared caches."""
    lines = served.ask(url, "GET", "/metrics")[2].decode().splitlines()
    return "\n".join(line for line in lines if line.startswith("inferlite_cache_shared_"))


def counted(url: str) -> dict[str, int]:
    """What `/metrics` counts of the shared cache of the model `double`."""
    pattern = r'^inferlite_cache_shared_(\w+)\{model="double",version="1"\} (\d+)$'
    found = re.findall(pattern, shared_lines(url), flags=re.MULTILINE)
    return {name.removesuffix("_total"): int(count) for name, count in found}


def shared_figures(url: str) -> dict[str, int]:
    """What is counted of the shared cache of the model `double`, by `/metrics`, and by its statistics too."""
    while True:
        before = counted(url)
        (stats,) = served.get(url, "/v2/models/double/stats")["model_stats"]
        # Answers are shared after they are given: a count may have changed between the two.
        if counted(url) == before:
            assert stats["shared_cache"] == before
            return before


def test_a_secret_that_is_not_there_is_told_with_its_place(folder: Path, cache_server: CacheServer) -> None:
    settings = sharing(cache_server, '{ env = "INFERLITE_NO_SUCH" }')
    served.add(folder, "double", served.DOUBLE, settings=settings)
    with inferlite.Server(folder, watch=None) as server:
        (model,) = server.index()
    place = f"{folder}/double/model.toml:3: `cache.secret`"
    assert model.reason == f"{place}: the environment has no variable `INFERLITE_NO_SUCH`"


def test_requests_of_other_lengths_share_a_batch(folder: Path) -> None:
    served.add(folder, "masked", MASKED, settings=PAD)
    with inferlite.Server(folder, watch=None) as server:
        (model,) = server.index()
        assert (model.state, model.reason) == ("READY", None)
        answers: dict[int, dict[str, list[float]]] = {}

        def ask(length: int) -> None:
            data = [float(number) for number in range(1, length + 1)]
            inputs = [served.tensor(name, [1, length], row) for name, row in (("x", data), ("mask", [1.0] * length))]
            status, _, content = served.ask(server.url, "POST", "/v2/models/masked/infer", {"inputs": inputs})
            assert status == 200, content
            answers[length] = {output["name"]: output["data"] for output in json.loads(content)["outputs"]}

        threads = [threading.Thread(target=ask, args=(length,)) for length in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(served.PATIENCE)
        assert answers == {
            2: {"y": [1.0, 2.0], "total": [3.0]},
            3: {"y": [1.0, 2.0, 3.0], "total": [6.0]},
        }
        (stats,) = served.get(server.url, "/v2/models/masked/stats")["model_stats"]
    assert [entry["batch_size"] for entry in stats["batch_stats"]] == [2]


def test_a_model_whose_answers_padding_changes_is_refused(folder: Path) -> None:
    mean = "mean (float[batch,length] x) => (float[batch,1] y) <int64[1] axis = {1}> { y = ReduceMean(x, axis) }"
    settings = "[batching.pad]\ninputs = { x = 1 }\nsizes = [4, 8]\n"
    served.add(folder, "mean", mean, settings=settings)
    served.add(folder, "named", mean, settings=settings.replace("x =", "z ="))
    with inferlite.Server(folder, watch=None) as server:
        first, second = server.index()
    assert (first.state, second.state) == ("UNAVAILABLE", "UNAVAILABLE")
    assert "it cannot be batched: " in str(first.reason)
    assert "`z`" in str(second.reason)


def _hits(server: CacheServer) -> int:
    lines = server.ask("INFO", "stats").decode().split("\r\n")
    (hits,) = (line.removeprefix("keyspace_hits:") for line in lines if line.startswith("keyspace_hits:"))
    return int(hits)
