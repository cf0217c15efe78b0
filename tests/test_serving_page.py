"""docs/serving.md: its commands run and print what it says, its settings load, and it names every path and key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import inferlite
import served
from inferlite import demo
from test_readme import ROOT, code_blocks
from test_serve_command import demand_curl

TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
DESCRIPTION = ROOT / "rust" / "inferlite-server" / "src" / "openapi.json"
ADDRESS = "http://127.0.0.1:8000"
START = "inferlite serve models/"


def steps() -> list[tuple[str, list[str]]]:
    """Each command of the page with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for _, block in code_blocks(TEXT, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


@pytest.mark.usefixtures("native_backend")
def test_the_commands_print_what_they_say(tmp_path: Path) -> None:
    demand_curl()
    # `python` on the page is the one that runs this.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    todo = steps()
    starts = [number for number, (command, _) in enumerate(todo) if command == START]
    assert len(starts) == 1
    assert len(todo) > 15

    def run(url: str, part: list[tuple[str, list[str]]]) -> None:
        for command, expected in part:
            done = subprocess.run(
                ["/bin/bash", "-c", command.replace(ADDRESS, url)],
                cwd=tmp_path,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                timeout=served.PATIENCE,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), (command, done.stderr)
            assert done.stdout.splitlines() == expected, command

    run("", todo[: starts[0]])
    # As the command, but without changes that come between the page's own.
    with inferlite.Server(tmp_path / "models", watch=None) as server:
        run(server.url, todo[starts[0] + 1 :])


@pytest.mark.usefixtures("native_backend")
def test_the_readmes_request_gets_the_reply_that_it_shows(tmp_path: Path) -> None:
    demand_curl()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ((command, reply),) = re.findall(r"^\$ (curl .*)\n(.*)$", text, flags=re.MULTILINE)
    served.replace(tmp_path / "digits.onnx", demo.MODEL_PATH.read_bytes())
    with inferlite.Server(tmp_path) as server:
        done = subprocess.run(
            ["/bin/bash", "-c", command.replace(ADDRESS, server.url)],
            capture_output=True,
            text=True,
            timeout=served.PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [reply]


@pytest.mark.usefixtures("native_backend")
def test_the_python_example_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served.add(tmp_path / "models", "digits", demo.MODEL_PATH)
    monkeypatch.chdir(tmp_path)
    ((_, block),) = code_blocks(TEXT, "python")
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - our own page
    names["connection"].close()
    assert capsys.readouterr().out.splitlines() == re.findall(r"^# -> (.*)$", block, flags=re.MULTILINE)


@pytest.mark.usefixtures("native_backend")
def test_the_settings_of_the_page_load(tmp_path: Path) -> None:
    ((_, block),) = code_blocks(TEXT, "toml")
    served.add(tmp_path, "digits", demo.MODEL_PATH, settings=block)
    served.add(tmp_path, "digits", demo.MODEL_PATH, version=2)
    with inferlite.Server(tmp_path) as server:
        assert server.index() == [inferlite.ServedModel("digits", number, "READY", None) for number in ("1", "2")]
        assert served.get(server.url, "/v2/models/digits/versions/stable/stats")["model_stats"][0]["version"] == "1"


def test_the_page_has_every_path_of_the_description_and_no_other() -> None:
    described = json.loads(DESCRIPTION.read_text(encoding="utf-8"))["paths"]
    expected = {
        (method.upper(), re.sub(r"\{(\w+)\}", lambda name: name[1].upper().replace("MODEL", "NAME"), path))
        for path, methods in described.items()
        for method in methods
    }
    found = set()
    for method, path in re.findall(r"^\| `(GET|POST) (\S+)` \|", TEXT, flags=re.MULTILINE):
        found |= {(method, re.sub(r"\[.*?\]", "", path)), (method, re.sub(r"[\[\]]", "", path))}
    assert found == expected
