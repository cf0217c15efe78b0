"""The package as it is installed: its version, its types and its command."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import inferlite

ROOT = Path(__file__).resolve().parent.parent
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"]["version"]


def test_the_version_is_the_workspace_version() -> None:
    assert inferlite.__version__ == VERSION


def test_the_installed_package_says_that_it_is_typed() -> None:
    folder = Path(inferlite.__file__).parent
    assert (folder / "py.typed").is_file()
    assert (folder / "_core.pyi").is_file()


def test_the_command_is_an_entry_point() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="inferlite")
    assert command.value == "inferlite.cli:main"
