"""Write docs/dropin.md from the table of differences that the tests prove."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "dropin.md"

HEAD = """\
# Being a drop-in for onnxruntime

`inferlite.InferenceSession` takes what `onnxruntime.InferenceSession` takes, gives the same bits, and raises the same
exception classes with the same texts. The tests compare every ending with the installed onnxruntime, over the ONNX
backend suite and every kind of bad input.

These are the exceptions. Each is proved by a test; `scripts/write_dropin.py` makes this page from the tests' table.

| when | onnxruntime | inferlite | why |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "models")]
    import oracle  # noqa: PLC0415 - found only through the path above

    rows = [f"| {d.case} | {d.onnxruntime} | {d.inferlite} | {d.reason} |\n" for d in oracle.DIFFERENCES]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
