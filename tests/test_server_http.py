"""What the server says over HTTP, where clients of other servers would not notice a mistake."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import inferlite
import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path, native_backend: str) -> Path:
    """A folder with the model `double`."""
    assert native_backend
    folder = tmp_path / "models"
    served.add(folder, "double", served.DOUBLE)
    return folder


@pytest.fixture
def server(repository: Path) -> Iterator[inferlite.Server]:
    """A server of it."""
    with inferlite.Server(repository, watch=None) as server:
        yield server


def test_what_is_not_there_is_404(server: inferlite.Server) -> None:
    def status(method: str, path: str) -> tuple[int, str]:
        return served.error(served.ask(server.url, method, path))

    for path in ("none", "none/versions/1", "double/versions/9", "double/versions/stable"):
        assert status("GET", f"/v2/models/{path}/ready") == (404, "Model version not ready"), path
        assert status("GET", f"/v2/models/{path}")[0] == 404, path
    for verb in ("load", "unload", "rollback"):
        path = f"/v2/repository/models/none/{verb}"
        assert status("POST", path) == (404, "there is no model `none`"), path
    assert status("POST", "/v2/repository/models/double/rollback") == (
        400,
        "model `double` cannot be rolled back: no version that served before is in the folder",
    )


def test_a_model_that_is_there_and_does_not_answer_is_400_as_the_protocol_has_it(server: inferlite.Server) -> None:
    server.unload("double")
    reply = served.ask(server.url, "GET", "/v2/models/double/ready")
    assert served.error(reply) == (400, "Model version not ready")
    server.load("double")
    assert json.loads(served.ask(server.url, "GET", "/v2/models/double/ready")[2]) == {"name": "double", "ready": True}
