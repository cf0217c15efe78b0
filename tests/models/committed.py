"""Where the committed models lie, for processes that only run them: onnx alone takes a third of their start."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def path(name: str) -> str:
    """The path of a committed model, as a string."""
    return str(HERE / f"{name}.onnx")
