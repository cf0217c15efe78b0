"""What `inferlite serve` shows once the models are loaded: which ones, how they are served, and how to ask one."""

from __future__ import annotations

import http.client
import json
import tomllib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from inferlite.cli.serve import LAYOUT
from inferlite.cli.terminal import show_kind
from inferlite.cli.trial import curl_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from inferlite.cli.terminal import Terminal
    from inferlite.server import ServedModel, Server

PATIENCE: Final = 10.0
"""Seconds that the server's own answers about its models may take."""

SHOWN_TENSORS: Final = 3
"""Inputs or outputs that a line of the table has room for."""


def show_lineup(terminal: Terminal, server: Server, repository: Path, key: str | None, *, is_watched: bool) -> None:
    """Show a table of the models, why those fail that do, and a request to try.

    Args:
        terminal: Where it is shown.
        server: Who is asked.
        repository: Its folder, in which the settings of the models lie.
        key: One that the server takes, if it wants any.
        is_watched: Whether models are loaded as they come.
    """
    index = server.index()
    metadata = _ask_about(server, index, key)
    rows = [
        [
            model.name,
            model.version or "",
            model.state,
            _tensors(about, "inputs"),
            _tensors(about, "outputs"),
            # How a version is served that is not served would be a riddle.
            *(("", "") if model.state == "UNAVAILABLE" else _settings(repository / model.name / "model.toml")),
        ]
        for model, about in zip(index, metadata, strict=True)
    ]
    if rows:
        terminal.table(["model", "version", "state", "inputs", "outputs", "cache", "batching"], rows)
    else:
        then = (
            "the folder is watched, and each model is served as it comes"
            if is_watched
            else "the folder is not watched: `POST /v2/repository/models/NAME/load` loads a model that has come"
        )
        terminal.line(f"repository `{repository}` holds no model yet; {then}", style="yellow")
        terminal.line(LAYOUT)
    for model in index:
        if model.reason is not None:
            name = model.name if model.version is None else f"{model.name} version {model.version}"
            terminal.line(f"{name}: {model.reason}", style="red" if model.state == "UNAVAILABLE" else "yellow")
    lines = (
        curl_line(server.url, model.name, about["inputs"], needs_key=key is not None)
        for model, about in zip(index, metadata, strict=True)
        if about is not None
    )
    line = next((line for line in lines if line is not None), None)
    if line is not None:
        # By itself, so that it can be copied as it stands.
        terminal.line()
        terminal.line("try:" if key is None else "try, with a key in the variable KEY:")
        terminal.line(line)
    terminal.line()
    # Last: whoever reads this in a pipe knows then that all is there.
    terminal.fields([("url", server.url)])


def _ask_about(server: Server, index: Sequence[ServedModel], key: str | None) -> list[Mapping[str, Any] | None]:
    """The metadata of each version that answers."""
    connection = http.client.HTTPConnection(*_address(server), timeout=PATIENCE)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    found: list[Mapping[str, Any] | None] = []
    try:
        for model in index:
            if model.state != "READY":
                found.append(None)
                continue
            connection.request("GET", f"/v2/models/{quote(model.name)}/versions/{model.version}", headers=headers)
            reply = connection.getresponse()
            content = reply.read()
            # A model may go between the two questions.
            found.append(json.loads(content) if reply.status == http.client.OK else None)
    except (OSError, http.client.HTTPException, ValueError):
        # The server is there all the same; the table is a courtesy.
        found += [None] * (len(index) - len(found))
    finally:
        connection.close()
    return found


def _address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return host.strip("[]"), int(port)


def _tensors(about: Mapping[str, Any] | None, kind: str) -> str:
    if about is None:
        return ""
    tensors = [f"{spec['name']} {show_kind(spec['datatype'], _shape(spec))}" for spec in about[kind]]
    rest = len(tensors) - SHOWN_TENSORS
    return ", ".join([*tensors[:SHOWN_TENSORS], *([f"and {rest} more"] if rest > 0 else [])])


def _shape(spec: Mapping[str, Any]) -> list[int | None] | None:
    return [None if size < 0 else size for size in spec["shape"]] if "shape" in spec else None


def _settings(path: Path) -> tuple[str, str]:
    """What a model's file says of the cache and of batching; whether it is right is for the server to say."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        given = {}
    cache, batching = given.get("cache"), given.get("batching")
    if isinstance(cache, dict):
        by_row = ", by row" if cache.get("by") == "row" else ""
        cache = f"{cache.get('max_bytes', '256MB')}{by_row}"
    if batching is None:
        return str(cache or "off"), "auto"
    return str(cache or "off"), "on" if batching else "off"
