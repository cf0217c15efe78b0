"""Call the command line in this process, as the tests of its verbs do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import make_models
from typer.testing import CliRunner

from inferlite.cli import application

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

MODELS = make_models.HERE


def invoke(*arguments: object) -> Result:
    """Run a command and catch what it prints and how it exits."""
    return CliRunner().invoke(application.app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    """What a command prints that must not fail."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refuse(*arguments: object) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that fails."""
    result = invoke(*arguments)
    assert result.stdout == ""
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    return result.exit_code, result.stderr.removesuffix("\n")


def model(name: str) -> Path:
    """The file of a committed model."""
    return MODELS / f"{name}.onnx"


def save(path: Path, text: str) -> Path:
    """Write a text file; returns its path."""
    path.write_text(text, encoding="utf-8")
    return path


def save_model(path: Path, content: bytes) -> Path:
    """Write a binary file; returns its path."""
    path.write_bytes(content)
    return path
