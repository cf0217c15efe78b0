"""Which share of calls does each policy of the cache answer, for how much room?

`python -m benches.policies` asks live models the same questions under each policy and draws docs/policies.svg. Nothing
is timed. What least recently used keeps is held against an `OrderedDict`, hit for hit, before anything is drawn.
"""

from __future__ import annotations

import heapq
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

import inferlite
from benches.harness import WrongAnswerError
from benches.models import model
from inferlite.cache import POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Stream = NDArray[np.int64]

PICTURE: Final = Path(__file__).parent.parent / "docs" / "policies.svg"

QUESTIONS: Final = 20_000
"""Different questions that are asked again and again."""

REQUESTS: Final = 200_000
SCAN: Final = 2_000
"""Questions in a row that are asked once."""

SHARES: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Room, as a part of what all repeated questions take."""

OPTIMUM: Final = "optimum"


@dataclass(frozen=True, slots=True)
class Curves:
    """What one stream has shown.

    Attributes:
        title: the stream, in words.
        ratios: policy, or the optimum -> share of hits for each of `SHARES`.
    """

    title: str
    ratios: dict[str, list[float]]


def zipf(exponent: float, requests: int = REQUESTS, questions: int = QUESTIONS) -> Stream:
    """Return questions of which the k-th most popular one is asked in proportion to k to the power of -exponent."""
    weights = np.arange(1, questions + 1, dtype=np.float64) ** -exponent
    random = np.random.default_rng(round(exponent * 100))
    stream: Stream = random.choice(questions, requests, p=weights / weights.sum()).astype(np.int64)
    return stream


def polluted(stream: Stream, scan: int = SCAN, questions: int = QUESTIONS) -> Stream:
    """Return a stream in which a scan of questions that never come again follows each two scans' length of it."""
    parts: list[Stream] = []
    fresh = questions
    for start in range(0, len(stream), 2 * scan):
        parts += [stream[start : start + 2 * scan], np.arange(fresh, fresh + scan)]
        fresh += scan
    return np.concatenate(parts)


STREAMS: Final[dict[str, Callable[[], Stream]]] = {
    "Zipf 0.7": lambda: zipf(0.7),
    "Zipf 1.0": lambda: zipf(1.0),
    "Zipf 1.0, a third scans": lambda: polluted(zipf(1.0)),
}


def ask(stream: Stream, settings: inferlite.Cache) -> tuple[int, int]:
    """Ask a live model; return its hits, and how many answers it keeps at the end.

    Raises:
        WrongAnswerError: an answer was wrong, or calls were not looked up.
    """
    chosen = model("identity-1x4")
    live = inferlite.load(chosen.content, cache=settings)
    inputs = np.zeros((int(stream.max()) + 1, 1, 4), np.float32)
    inputs[:, 0, 0] = np.arange(len(inputs))
    feeds = list(inputs)
    for question in stream.tolist():
        if live(feeds[question])[0, 0] != question:
            message = f"question {question} got another one's answer"
            raise WrongAnswerError(message)
    stats = live.cache.stats()
    if stats.skipped:
        message = f"{stats.skipped} calls were not looked up, which is no matter of the policy"
        raise WrongAnswerError(message)
    return stats.hits, stats.entries


def bytes_of_one() -> int:
    """Return what one answer takes in the budget."""
    live = inferlite.load(model("identity-1x4").content, cache="1MB")
    live(np.zeros((1, 4), np.float32))
    return int(live.cache.stats().bytes)


def hits_of_lru(stream: Stream, most: int) -> int:
    """Count the hits of the obvious cache of this many answers."""
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for question in stream.tolist():
        if question in kept:
            hits += 1
            kept.move_to_end(question)
        else:
            if len(kept) >= most:
                kept.popitem(last=False)
            kept[question] = None
    return hits


def hits_of_optimum(stream: Stream, most: int) -> int:
    """Count the hits of a cache that knows the future: what is asked again last is not kept.

    Example:
        >>> hits_of_optimum(np.array([1, 2, 3, 1, 2, 3]), 2)
        2
    """
    never = len(stream)
    following = np.full(never, never)
    last: dict[int, int] = {}
    for position, question in enumerate(stream.tolist()):
        if question in last:
            following[last[question]] = position
        last[question] = position
    hits = 0
    kept: dict[int, int] = {}
    furthest: list[tuple[int, int]] = []
    for question, again in zip(stream.tolist(), following.tolist(), strict=True):
        hits += question in kept
        kept[question] = again
        heapq.heappush(furthest, (-again, question))
        if len(kept) > most:
            while True:
                when, candidate = heapq.heappop(furthest)
                if kept.get(candidate) == -when:
                    del kept[candidate]
                    break
    return hits


def measure(title: str, stream: Stream) -> Curves:
    """Ask under every policy with every budget.

    Raises:
        WrongAnswerError: least recently used has hit elsewhere than the obvious cache.
    """
    one = bytes_of_one()
    ratios: dict[str, list[float]] = {policy: [] for policy in (OPTIMUM, *POLICIES)}
    for share in SHARES:
        most = int(QUESTIONS * share)
        for policy in POLICIES:
            hits, entries = ask(stream, inferlite.Cache(max_bytes=most * one, policy=policy))
            ratios[policy].append(hits / len(stream))
            if policy == "lru" and (hits, entries) != (hits_of_lru(stream, most), most):
                message = f"{title}, {most} answers: {hits} hits, but the obvious cache has {hits_of_lru(stream, most)}"
                raise WrongAnswerError(message)
        ratios[OPTIMUM].append(hits_of_optimum(stream, most) / len(stream))
    return Curves(title, ratios)


# The picture. Lengths are in pixels.

WIDTH: Final = 280
HEIGHT: Final = 240
GAP: Final = 40
LEFT: Final = 64
TOP: Final = 68
BOTTOM: Final = 64
RIGHT: Final = 20

LINES: Final[Mapping[str, tuple[str, str, str]]] = {
    OPTIMUM: ("knows the future (bound)", "#8a8a8a", "5 4"),
    "s3-fifo": ('policy="s3-fifo"', "#c2410c", ""),
    "lru": ('policy="lru"', "#1d4ed8", ""),
}
"""What is drawn -> its name, colour and dashes."""


def draw(curves: Sequence[Curves]) -> str:
    """Return the picture: a field for each stream, a line for each policy."""
    width = LEFT + len(curves) * (WIDTH + GAP) - GAP + RIGHT
    height = TOP + HEIGHT + BOTTOM
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="12" role="img">'
        ),
        "<title>Share of calls that the cache answers, by policy and room</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(),
    ]
    for number, field in enumerate(curves):
        parts += _field(field, LEFT + number * (WIDTH + GAP), with_labels=number == 0)
    parts += [
        _text((LEFT + width - RIGHT) / 2, height - 16, "budget of the cache, % of the bytes of all repeated answers"),
        (
            f'<text transform="translate(18 {TOP + HEIGHT / 2}) rotate(-90)" text-anchor="middle" fill="#222222">'
            "hits, % of calls</text>"
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "middle", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="#222222">{words}</text>'


def _legend() -> list[str]:
    parts, x = [], float(LEFT)
    for name, colour, dashes in LINES.values():
        parts += [
            (
                f'<line x1="{x}" y1="22" x2="{x + 28}" y2="22" stroke="{colour}" stroke-width="2.5" '
                f'stroke-dasharray="{dashes}"/>'
            ),
            _text(x + 36, 26, name.replace('"', "&quot;"), "start"),
        ]
        x += 210
    return parts


def _across(left: float, share: float) -> float:
    low, high = np.log(SHARES[0]), np.log(SHARES[-1])
    return float(left + (np.log(share) - low) / (high - low) * WIDTH)


def _field(curves: Curves, left: float, *, with_labels: bool) -> list[str]:
    parts = [_text(left + WIDTH / 2, TOP - 14, curves.title, weight="bold")]
    for percent in range(0, 101, 20):
        y = TOP + HEIGHT * (1 - percent / 100)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" stroke="#e3e3e3"/>')
        if with_labels:
            parts.append(_text(left - 8, y + 4, str(percent), "end"))
    for share in SHARES:
        x = _across(left, share)
        parts += [
            f'<line x1="{x:.1f}" y1="{TOP + HEIGHT}" x2="{x:.1f}" y2="{TOP + HEIGHT + 5}" stroke="#222222"/>',
            _text(x, TOP + HEIGHT + 19, f"{100 * share:g}"),
        ]
    for policy, (_, colour, dashes) in LINES.items():
        points = [
            (_across(left, share), TOP + HEIGHT * (1 - ratio))
            for share, ratio in zip(SHARES, curves.ratios[policy], strict=True)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points if not dashes]
    parts.append(f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#222222"/>')
    return parts


def main() -> int:
    """Ask, print the shares, and draw."""
    curves = []
    for title, make in STREAMS.items():
        curves.append(measure(title, make()))
        for policy, ratios in curves[-1].ratios.items():
            print(f"{title:25} {policy:8} {' '.join(f'{ratio:6.1%}' for ratio in ratios)}", flush=True)
    PICTURE.write_text(draw(curves), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
