"""The README: its examples run and print what it says, its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from inferlite.exceptions import BackendUnavailableError

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def code_blocks(text: str, language: str) -> list[tuple[int, str]]:
    """The blocks of one language, each with the number of its first line."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)) + 1, block[1]) for block in found]


@pytest.mark.parametrize(("page", "count"), [("README.md", 5), ("docs/caching.md", 5), ("docs/batching.md", 4)])
def test_the_python_examples_print_what_they_say(
    page: str, count: int, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backend
    names: dict[str, Any] = {}
    blocks = code_blocks((ROOT / page).read_text(encoding="utf-8"), "python")
    assert len(blocks) == count
    for line, block in blocks:
        # Leading blank lines make a traceback name the line of the page.
        code = compile("\n" * (line - 1) + block, page, "exec")
        if backend == "python" and re.search(r'by="row"|batching=', block):
            with pytest.raises(BackendUnavailableError):
                exec(code, names)  # noqa: S102 - our own page
            continue
        exec(code, names)  # noqa: S102 - our own page
        expected = re.findall(r"^# -> (.*)$", block, flags=re.MULTILINE)
        assert expected
        assert capsys.readouterr().out.splitlines() == expected


def test_it_is_short() -> None:
    assert TEXT.count("\n") < 150


@pytest.mark.parametrize("page", PAGES)
def test_every_make_command_that_a_page_names_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:\$ |`)make ([a-z-]+)", text))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []
