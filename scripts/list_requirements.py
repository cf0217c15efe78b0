"""Print what pyproject.toml asks for, one requirement a line: of the package itself, or of the extras named.

`pip install ".[test]"` would build the package only to read these lists.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def list_requirements(extras: list[str]) -> list[str]:
    """Return the requirements of `extras`, or of the package itself where none is named."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    if not extras:
        return list(project["dependencies"])
    return [requirement for extra in extras for requirement in project["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(list_requirements(sys.argv[1:])))
