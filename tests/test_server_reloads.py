"""Answers that a served model keeps, while other weights take its place: none is of the weights that were before."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

import inferlite
import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("native_backend")

KEPT = [
    pytest.param('cache = "1MB"\nbatching = false\n', id="by request"),
    pytest.param('cache = "1MB"\nbatching = true\n', id="by request, batched"),
    pytest.param('cache = { by = "row" }\nbatching = true\n', id="by row"),
]


def weighted(weight: float) -> str:
    """A graph that multiplies."""
    return f"m (float[batch,4] x) => (float[batch,4] y) <float w = {{{weight}}}> {{ y = Mul(x, w) }}"


def weight_of(url: str) -> float:
    """The weight that the answer to the one question shows which all tests ask."""
    factors = {answer / given for answer, given in zip(served.double(url, "m"), (1.5, 2, 3, 4), strict=True)}
    (factor,) = factors
    return factor


def hits(url: str) -> int:
    """How many of the present model's answers were kept ones."""
    (stats,) = served.get(url, "/v2/models/m/stats")["model_stats"]
    count: int = stats["inference_stats"]["cache_hit"]["count"]
    return count


def check(url: str, weight: float) -> None:
    """Ask twice, of which the second answer must be a kept one."""
    before = hits(url)
    assert [weight_of(url), weight_of(url)] == [weight, weight]
    assert hits(url) > before


@pytest.fixture(params=KEPT)
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a model that keeps its answers."""
    folder = tmp_path / "models"
    served.add(folder, "m", weighted(2), settings=request.param)
    return folder


@pytest.fixture
def server(repository: Path) -> Iterator[inferlite.Server]:
    """Looks at the folder when it is told to."""
    with inferlite.Server(repository, watch=None) as server:
        yield server


def test_other_weights_under_the_same_version_have_answers_of_their_own(
    server: inferlite.Server, repository: Path
) -> None:
    for weight in (2, 5, 2, 3):
        served.add(repository, "m", weighted(weight))
        server.load("m")
        check(server.url, weight)


def test_a_model_that_is_loaded_again_has_the_answers_of_its_weights(
    server: inferlite.Server, repository: Path
) -> None:
    check(server.url, 2)
    server.unload("m")
    server.load("m")
    check(server.url, 2)
    server.unload("m")
    served.add(repository, "m", weighted(5))
    server.load("m")
    check(server.url, 5)


def test_a_model_that_failed_in_between_has_the_answers_of_what_serves(
    server: inferlite.Server, repository: Path
) -> None:
    check(server.url, 2)
    served.add(repository, "m", b"this is no model")
    with pytest.raises(inferlite.ModelLoadError):
        server.load("m")
    check(server.url, 2)
    served.add(repository, "m", weighted(5))
    server.load("m")
    check(server.url, 5)


def test_a_rollback_has_the_answers_of_the_version_before(server: inferlite.Server, repository: Path) -> None:
    check(server.url, 2)
    served.add(repository, "m", weighted(5), version=2)
    server.load("m")
    check(server.url, 5)
    server.rollback("m")
    check(server.url, 2)
    # The file of the version that comes back has changed while it did not serve.
    served.add(repository, "m", weighted(7), version=2)
    server.load("m")
    check(server.url, 7)
    server.unload("m")
    server.rollback("m")
    check(server.url, 2)


def test_versions_side_by_side_keep_their_own_answers(server: inferlite.Server, repository: Path) -> None:
    served.add(repository, "m", weighted(5), version=2)
    settings = (repository / "m" / "model.toml").read_text()
    served.replace(repository / "m" / "model.toml", f'versions = "all"\n{settings}'.encode())
    server.load("m")
    for _ in range(2):
        for version, weight in ((1, 2), (2, 5)):
            path = f"/v2/models/m/versions/{version}/infer"
            status, _, content = served.ask(server.url, "POST", path, served.row(1, 2, 3, 4))
            assert status == 200, content
            assert json.loads(content)["outputs"][0]["data"] == [weight * given for given in (1, 2, 3, 4)]


def test_no_request_fails_or_gets_an_answer_of_before_while_models_are_reloaded(
    server: inferlite.Server, repository: Path
) -> None:
    present, is_over = [2], threading.Event()
    problems: list[object] = []

    def ask() -> None:
        try:
            while not is_over.is_set():
                least = present[0]
                weight = weight_of(server.url)
                # The next one may have come, but nothing from before the question.
                assert least <= weight <= present[0] + 1, (least, weight, present[0])
        except BaseException as problem:  # noqa: BLE001 - told below
            problems.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for weight in range(3, 23):
            served.add(repository, "m", weighted(weight))
            server.load("m")
            present[0] = weight
    finally:
        is_over.set()
        for thread in threads:
            thread.join(served.PATIENCE)
    assert problems == []
    check(server.url, 22)
