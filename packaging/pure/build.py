"""Build the pure-Python wheel: the package without its native module, tagged py3-none-any.

The project that hatchling sees is made here from the root's own tables, so that the two wheels cannot drift apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ("_core*.so", "_core*.pyd", "_core*.dylib")
BUILD_TABLES = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["inferlite"]
"""


def read_project() -> dict[str, Any]:
    """Return the root's [project] table with the workspace's version in it."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]
    project.pop("dynamic")
    return {**project, "version": workspace["package"]["version"]}


def write_toml(value: object) -> str:
    """Write what a [project] table may hold: strings, lists, and tables of them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {write_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(write_toml(item) for item in value) + "]"
    return json.dumps(value)


def lay_out(folder: Path) -> None:
    """Put the project that hatchling builds into `folder`."""
    project = read_project()
    shutil.copytree(
        ROOT / "python" / "inferlite",
        folder / "inferlite",
        ignore=shutil.ignore_patterns("__pycache__", *NATIVE),
    )
    for name in (project["readme"], *project["license-files"]):
        shutil.copy(ROOT / name, folder)
    lines = [f"{key} = {write_toml(value)}" for key, value in project.items()]
    tables = "\n".join(["[project]", *lines, "", BUILD_TABLES])
    (folder / "pyproject.toml").write_text(tables, encoding="utf-8")


def main() -> None:
    """Build the wheel into the folder that `--out` names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheel")
    out: Path = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)],
            cwd=folder,
            check=True,
        )


if __name__ == "__main__":
    main()
