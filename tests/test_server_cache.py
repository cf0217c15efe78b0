"""What makes the caches of other servers answer wrongly, or never: none of it does so here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import inferlite
import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("native_backend")

ANY_SHAPE = "m (float[a,b] x) => (float[a,b] y) { y = Cos(x) }"
TWO_OUTPUTS = "m (float[n] x) => (float[n] a, float[n] b) { a = Add(x, x) b = Mul(x, x) }"
ZEROS = [0.0] * 6


@pytest.fixture(params=["true", "false"], ids=["batched", "not batched"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A repository of the models `first` and `second`, each of which keeps its answers."""
    for name in ("first", "second"):
        graph = ANY_SHAPE if name == "first" else ANY_SHAPE.replace("Cos", "Exp")
        served.add(tmp_path, name, graph, settings=f'cache = "1MB"\nbatching = {request.param}\n')
    served.add(tmp_path, "two", TWO_OUTPUTS, settings='cache = "1MB"\n')
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[inferlite.Server]:
    """Serves them."""
    with inferlite.Server(folder, watch=None) as server:
        yield server


def infer(server: inferlite.Server, model: str, shape: list[int], data: list[float], **members: Any) -> dict[str, Any]:
    """The reply to one request of the protocol."""
    body = {"inputs": [served.tensor("x", shape, data)], **members}
    status, _, reply = served.ask(server.url, "POST", f"/v2/models/{model}/infer", body)
    assert status == 200, reply
    answer: dict[str, Any] = json.loads(reply)
    return answer


def hits(server: inferlite.Server, model: str) -> int:
    """How many answers of a model were kept ones."""
    (stats,) = served.get(server.url, f"/v2/models/{model}/stats")["model_stats"]
    count: int = stats["inference_stats"]["cache_hit"]["count"]
    return count


def test_equal_bytes_of_other_shapes_have_answers_of_their_shapes(server: inferlite.Server) -> None:
    for _ in range(2):
        for shape in ([2, 3], [3, 2], [1, 6]):
            (output,) = infer(server, "first", shape, ZEROS)["outputs"]
            assert (output["shape"], output["data"]) == (shape, [1.0] * 6)
    assert hits(server, "first") == 3


def test_every_choice_of_outputs_gets_what_it_asks_for(server: inferlite.Server) -> None:
    wanted = {"a": [6.0], "b": [9.0]}
    for _ in range(2):
        for names in (["a"], ["a", "b"], ["b"], ["b", "a"]):
            reply = infer(server, "two", [1], [3.0], outputs=[{"name": name} for name in names])
            given = {output["name"]: output["data"] for output in reply["outputs"]}
            assert given == {name: wanted[name] for name in names}
    assert hits(server, "two") == 4


def test_two_models_with_equal_inputs_share_nothing(server: inferlite.Server) -> None:
    for _ in range(2):
        for model, wanted in (("first", [1.0, 1.0]), ("second", [1.0, 1.0])):
            assert infer(server, model, [1, 2], [0.0, 0.0])["outputs"][0]["data"] == wanted
        assert infer(server, "first", [1, 1], [1.0])["outputs"] != infer(server, "second", [1, 1], [1.0])["outputs"]
    assert (hits(server, "first"), hits(server, "second")) == (2, 2)


def test_an_id_of_its_own_makes_no_request_a_new_question(server: inferlite.Server) -> None:
    for number in range(5):
        reply = infer(server, "first", [1, 2], [0.0, 0.0], id=f"request {number}")
        assert (reply["id"], reply["outputs"][0]["data"]) == (f"request {number}", [1.0, 1.0])
    assert hits(server, "first") == 4
