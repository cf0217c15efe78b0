"""Targets: what was promised for each measured ratio, and whether a measurement keeps it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferlite._measure import Comparison

TARGETS: Final = Path(__file__).with_name("targets.toml")

NO_SLOWER: Final = "no slower"
PUBLISHED: Final = "published"
NO_SLOWER_LIMIT: Final = 1.03

SECONDS: Final = "s"
BYTES: Final = "bytes"

KEYS: Final = frozenset({"question", "cases", "ours", "peer", "bound"})
OPTIONAL_KEYS: Final = frozenset({"unit"})


class TargetsError(ValueError):
    """A line of targets.toml that cannot be read; the text names it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: the time of `ours` over the time of `peer` keeps `bound`.

    Attributes:
        question: which file under benches/ measures it.
        case: which of that file's cases.
        ours: the call that is timed, in words.
        peer: what it is compared with, in words.
        bound: a number for the median ratio, "no slower", or "published" (no bound).
        unit: what both sides are measured in, "s" or "bytes".
    """

    question: str
    case: str
    ours: str
    peer: str
    bound: float | str
    unit: str = SECONDS

    @property
    def key(self) -> tuple[str, str, str]:
        """What ties it to its bench: question, case and peer."""
        return (self.question, self.case, self.peer)

    @property
    def limit(self) -> str:
        """The bound in words."""
        match self.bound:
            case float(number):
                return f"median at most {in_digits(number)}"
            case "no slower":
                return f"no slower: interval ends at most at {NO_SLOWER_LIMIT:.2f}"
            case _:
                return "published, no bound"

    def is_met_by(self, comparison: Comparison) -> bool | None:
        """Judge a measurement; `None` where there is no bound."""
        match self.bound:
            case float(number):
                return comparison.ratio_spread.p50 <= number
            case "no slower":
                return comparison.ratio_interval[1] <= NO_SLOWER_LIMIT
            case _:
                return None


def in_digits(bound: float) -> str:
    """Write a bound with two decimals, and with more where it has more.

    Example:
        >>> in_digits(0.5), in_digits(0.0714)
        ('0.50', '0.0714')
    """
    return max(f"{bound:.2f}", f"{bound:.4g}", key=len)


def read_targets(path: Path = TARGETS) -> tuple[Target, ...]:
    """Read the targets at `path`, in the file's order.

    Raises:
        TargetsError: a table lacks a key, has an unknown one, holds a value of another kind, or
            repeats a question, case and peer.
    """
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = sorted(set(document) - {"target"})
    if unknown:
        message = f"`{path.name}` has unknown tables {unknown}, but takes `target` alone"
        raise TargetsError(message)
    targets = [
        target
        for number, table in enumerate(document.get("target", []), start=1)
        for target in _read_table(table, f"target {number} of `{path.name}`")
    ]
    seen: set[tuple[str, str, str]] = set()
    for target in targets:
        if target.key in seen:
            message = f"`{path.name}` holds `{' / '.join(target.key)}` twice"
            raise TargetsError(message)
        seen.add(target.key)
    return tuple(targets)


def _read_table(table: dict[str, object], where: str) -> Iterable[Target]:
    missing, unknown = sorted(KEYS - set(table)), sorted(set(table) - KEYS - OPTIONAL_KEYS)
    if missing or unknown:
        message = f"{where} lacks keys {missing} and has unknown keys {unknown}"
        raise TargetsError(message)
    texts = {key: table[key] for key in ("question", "ours", "peer")}
    for key, text in texts.items():
        if not isinstance(text, str) or not text:
            message = f"{where}: `{key}` is {text!r}, but a text is wanted"
            raise TargetsError(message)
    cases = table["cases"]
    if not isinstance(cases, list) or not cases or not all(isinstance(case, str) for case in cases):
        message = f"{where}: `cases` is {cases!r}, but a list of texts is wanted"
        raise TargetsError(message)
    bound = _read_bound(table["bound"], where)
    unit = table.get("unit", SECONDS)
    if unit not in {SECONDS, BYTES}:
        message = f"{where}: `unit` is {unit!r}, but `{SECONDS}` or `{BYTES}` is wanted"
        raise TargetsError(message)
    return [
        Target(str(table["question"]), case, str(table["ours"]), str(table["peer"]), bound, str(unit)) for case in cases
    ]


def _read_bound(bound: object, where: str) -> float | str:
    if isinstance(bound, float) and bound > 0:
        return bound
    if bound in {NO_SLOWER, PUBLISHED}:
        return str(bound)
    message = f"{where}: `bound` is {bound!r}, but a ratio above 0.0, `{NO_SLOWER}` or `{PUBLISHED}` is wanted"
    raise TargetsError(message)
