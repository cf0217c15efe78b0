"""`inferlite demo`: a model and data that come with the package, answered, checked and timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import inferlite
from inferlite._measure import Comparison, paired_rounds
from inferlite.cli.answers import first_difference
from inferlite.cli.failures import DifferentAnswersError, refusals
from inferlite.cli.options import Verbose, session_options
from inferlite.cli.roundtrip import ask_over_http
from inferlite.cli.sides import check_answers, open_both
from inferlite.cli.terminal import Terminal, show_seconds
from inferlite.demo import MODEL_PATH, Digits, choose_samples, draw, load_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray

DRAWN: Final = 4
ROUNDS: Final = 30
BATCH: Final = 64


def demo(verbose: Verbose = False) -> None:
    """Classify hand-written digits, check the answers, time a call, serve them over HTTP.

    Needs no model and no download: a small network and digits it has never seen come with the package.
    Fails with exit code 3 if an answer is not onnxruntime's, bit for bit.
    """
    terminal = Terminal()
    digits = load_samples()
    with refusals():
        options = session_options(is_verbose=verbose, threads=1)
        model = inferlite.load(MODEL_PATH, session_options=options)
        cached = inferlite.load(MODEL_PATH, session_options=options, cache="16MB")
        answer = model(digits.pixels)
    labels, probabilities = answer["label"], answer["probabilities"]

    terminal.line(f"inferlite {inferlite.__version__}, {inferlite.backend} back end", style="bold")
    _show_digits(terminal, digits, labels, probabilities)

    correct = int((labels == digits.labels).sum())
    ours, theirs = open_both(MODEL_PATH, is_verbose=verbose, threads=1)
    check_answers(ours, theirs, {"pixels": digits.pixels})
    for pixels in digits.pixels:
        check_answers(ours, theirs, {"pixels": pixels[None]})
    found = _check_cache(cached, model, digits)
    served = "left out, it is a part of the native back end"
    if inferlite.backend == "native":
        per_second = ask_over_http(digits.pixels, theirs)
        served = (
            f"{len(digits)} of {len(digits)} answers over HTTP equal bit for bit, {per_second:,.0f} requests/s on one "
            "connection"
        )
    terminal.line()
    terminal.fields(
        [
            ("accuracy", f"{correct / len(digits):.1%} ({correct} of {len(digits)} held-out digits)"),
            ("answers", f"equal to onnxruntime's bit for bit, {len(digits)} digits one by one and together"),
            ("cache", f"{found} of {len(digits)} answers found when asked again, equal bit for bit"),
            ("server", served),
        ]
    )
    _show_costs(terminal, digits, model, cached, ours, theirs)
    if inferlite.backend == "python":
        terminal.line("note: this is the Python back end, which gives the same answers but saves no time")


def _check_cache(cached: inferlite.Model, model: inferlite.Model, digits: Digits) -> int:
    """Ask for every digit twice, and compare; returns how many answers were found the second time.

    Raises:
        DifferentAnswersError: A bit differs.
    """
    for pixels in digits.pixels:
        plain = model(pixels[None])
        for _ in range(2):
            given = cached(pixels[None])
            difference = first_difference([*plain], [*given.values()], [*plain.values()])
            if difference is not None:
                message = f"the answers with a cache differ: {difference}"
                raise DifferentAnswersError(message)
    stats = cached.stats().cache
    return 0 if stats is None else stats.hits


def _show_digits(
    terminal: Terminal, digits: Digits, labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> None:
    chosen = choose_samples(digits.labels, labels, DRAWN)
    drawings = [draw(digits.pixels[sample], terminal.shades) for sample in chosen]
    terminal.line()
    for row in zip(*drawings, strict=True):
        terminal.line("   ".join(row).rstrip())
    terminal.line()
    for sample in chosen:
        is_right = labels[sample] == digits.labels[sample]
        verdict = "right" if is_right else f"wrong, it is a {digits.labels[sample]}"
        certainty = probabilities[sample].max()
        text = f"digit {sample}: answer {labels[sample]} ({certainty:.0%} sure), {verdict}"
        terminal.line(text, style="green" if is_right else "red")


def _show_costs(
    terminal: Terminal,
    digits: Digits,
    model: inferlite.Model,
    cached: inferlite.Model,
    ours: inferlite.InferenceSession,
    theirs: onnxruntime.InferenceSession,
) -> None:
    one, many = digits.pixels[:1], digits.pixels[:BATCH]
    call = ours.bind(inputs={"pixels": one})
    rows: list[tuple[str, NDArray[np.float32], Callable[[], object]]] = [
        ("session.run, 1 digit", one, lambda: ours.run(None, {"pixels": one})),
        ("session.bind, 1 digit", one, call),
        ("model(x), 1 digit", one, lambda: model(one)),
        ("model(x), 1 digit, found in a cache", one, lambda: cached(one)),
        (f"session.run, {BATCH} digits", many, lambda: ours.run(None, {"pixels": many})),
    ]
    turns = terminal.rounds(range(len(rows) * ROUNDS), total=len(rows) * ROUNDS, text="timing")
    measured = [(name, _measure(function, theirs, pixels, turns)) for name, pixels, function in rows]
    # Past its last turn the progress bar takes itself away.
    next(turns, None)
    terminal.heading("cost of a call, median (one thread)")
    terminal.table(["call", ">inferlite", ">onnxruntime run", ">ratio"], [_row(*pair) for pair in measured])
    terminal.line()
    first = measured[0][1]
    terminal.bars(
        [
            ("inferlite", first.ours_spread.p50, show_seconds(first.ours_spread.p50)),
            ("onnxruntime", first.theirs_spread.p50, show_seconds(first.theirs_spread.p50)),
        ]
    )
    terminal.line()
    terminal.line("next: inferlite bench MODEL compares them on a model of yours")


def _measure(
    function: Callable[[], object],
    theirs: onnxruntime.InferenceSession,
    pixels: NDArray[np.float32],
    turns: Iterator[int],
) -> Comparison:
    return paired_rounds(
        function,
        lambda: theirs.run(None, {"pixels": pixels}),
        rounds=ROUNDS,
        # One progress bar serves all comparisons: every round takes a turn from it.
        track=lambda items: (item for item, _ in zip(items, turns, strict=False)),
    )


def _row(name: str, comparison: Comparison) -> list[str]:
    return [
        name,
        show_seconds(comparison.ours_spread.p50),
        show_seconds(comparison.theirs_spread.p50),
        f"{comparison.ratio_spread.p50:.2f}",
    ]
