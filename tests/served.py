"""Repositories of models for servers, and requests to them with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import make_models

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE: Final = 30.0
"""Seconds that anything may take which the tests wait for."""

DOUBLE: Final = "double (float[batch,4] x) => (float[batch,4] y) { y = Add(x, x) }"
TRIPLE: Final = "triple (float[batch,4] x) => (float[batch,4] y) { y = Sum(x, x, x) }"
OTHER_INPUT: Final = "other (float[batch,4] z) => (float[batch,4] y) { y = Add(z, z) }"

# As long as it is told to take.
ROUNDS: Final = (
    "counted (int64[1] rounds, float[1] x) => (float[1] y) <bool yes = {1}> "
    "{ y = Loop<body = body (int64 i, bool go, float[1] v) => (bool go_on, float[1] w) "
    "{ go_on = Identity(go) w = Identity(v) }>(rounds, yes, x) }"
)


def add(folder: Path, name: str, graph: str | bytes | Path, *, version: int = 1, settings: str | None = None) -> Path:
    """Put a version of a model into a repository, whole at once; returns the path of its file.

    Args:
        folder: The repository.
        name: The model's name.
        graph: A graph in ONNX's text form, the bytes of a model, or its file.
        version: The version.
        settings: What `model.toml` says, written before the model.
    """
    content = graph.read_bytes() if isinstance(graph, Path) else graph
    content = make_models.parse(content) if isinstance(content, str) else content
    (folder / name).mkdir(parents=True, exist_ok=True)
    if settings is not None:
        replace(folder / name / "model.toml", settings.encode())
    path = folder / name / str(version) / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    replace(path, content)
    return path


def replace(path: Path, content: bytes) -> None:
    """Write a file so that nobody sees a part of it."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    beside.replace(path)


def until(condition: Callable[[], object], what: str, *, limit: float = PATIENCE) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: It was not in time.
    """
    deadline, pause = time.monotonic() + limit, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} seconds: {what}"
        pause.wait(0.01)


def ask(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = PATIENCE,
) -> tuple[int, dict[str, str], bytes]:
    """Ask once, over a connection of its own; returns status, headers in lower case, and the body.

    A body that is neither bytes nor None is sent as JSON.
    """
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout)
    try:
        given = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, given, dict(headers or {}))
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def get(url: str, path: str, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON at a path that must be there."""
    status, _, content = ask(url, "GET", path, headers=headers)
    assert status == 200, (path, status, content)
    return json.loads(content)


def error(reply: tuple[int, Mapping[str, str], bytes]) -> tuple[int, str]:
    """Status and text of a refusal."""
    status, _, content = reply
    return status, json.loads(content)["error"]


def tensor(name: str, shape: list[int], data: list[Any], datatype: str = "FP32", **parameters: Any) -> dict[str, Any]:
    """An input of a request."""
    spec = {"name": name, "shape": shape, "datatype": datatype, "data": data}
    return {**spec, "parameters": parameters} if parameters else spec


def row(*values: float, **members: Any) -> dict[str, Any]:
    """A request with one row for the input `x`."""
    return {"inputs": [tensor("x", [1, len(values)], list(values))], **members}


def double(url: str, name: str = "double", first: float = 1.5, headers: Mapping[str, str] | None = None) -> list[float]:
    """What a model makes of one row of four."""
    status, _, content = ask(url, "POST", f"/v2/models/{name}/infer", row(first, 2, 3, 4), headers)
    assert status == 200, (status, content)
    (output,) = json.loads(content)["outputs"]
    data: list[float] = output["data"]
    return data
