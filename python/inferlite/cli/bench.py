"""`inferlite bench`: the cost of a call beside onnxruntime's, on one model."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import inferlite
from inferlite._measure import Comparison, paired_rounds
from inferlite.cli.answers import first_difference
from inferlite.cli.failures import DifferentAnswersError, refusals
from inferlite.cli.info import describe_runtime
from inferlite.cli.inputs import RandomShapes, gather_inputs
from inferlite.cli.options import (
    AsJson,
    Dims,
    Inputs,
    ModelPath,
    Seed,
    Shapes,
    Verbose,
    check_model_path,
    session_options,
)
from inferlite.cli.terminal import Terminal, show_seconds, show_shape
from inferlite.metadata import Signature, tensor_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnxruntime

Rounds = Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Pairs of rounds, about 20 ms each.")]
Threads = Annotated[
    int,
    typer.Option(
        "--threads",
        min=0,
        max=1024,
        help="Threads of one operator, the same on both sides; 0 for onnxruntime's own choice. "
        "With more than one, idle threads of one side spin while the other runs.",
    ),
]


def bench(
    model: ModelPath,
    inputs: Inputs = None,
    dims: Dims = None,
    shapes: Shapes = None,
    seed: Seed = 0,
    rounds: Rounds = 100,
    threads: Threads = 1,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare the cost of a call with onnxruntime's.

    The answers are compared bit for bit first; if they differ, nothing is timed and the exit code is 3.
    Both sides then call `session.run(None, feed)` in paired rounds whose order alternates, so that what
    slows the machine down slows both. The ratio is inferlite's time over onnxruntime's: below 1 is faster.
    The percentiles are of a call's mean time within each round.

    Examples:
      inferlite bench model.onnx
      inferlite bench model.onnx --dim batch=32 --rounds 300
      inferlite bench model.onnx --input x=x.npy --json | jq .ratio.p50
    """
    check_model_path(model)
    random_shapes = RandomShapes.parse(dims, shapes)
    terminal = Terminal()
    with terminal.waiting(f"loading {model.name}"), refusals():
        ours, theirs = open_both(model, is_verbose=verbose, threads=threads)
        feed = gather_inputs(_signature(ours), inputs, random_shapes, seed=seed)
        outputs = check_answers(ours, theirs, feed)
    comparison = paired_rounds(
        lambda: ours.run(None, feed),
        lambda: theirs.run(None, feed),
        rounds=rounds,
        track=lambda items: terminal.rounds(items, total=rounds, text="timing"),
    )
    if as_json:
        terminal.line(json.dumps(_to_json(model, feed, threads, comparison), indent=2))
        return
    terminal.fields(
        [
            ("model", str(model)),
            *((f"input {name}", _kind(value)) for name, value in feed.items()),
            ("answers", f"equal bit for bit, {outputs} output{'s' if outputs != 1 else ''}"),
            ("rounds", f"{comparison.rounds} pairs of {comparison.calls_per_round:,} calls, {_threads(threads)}"),
        ]
    )
    terminal.line()
    show_comparison(terminal, comparison)


def open_both(
    model: Path, *, is_verbose: bool, threads: int
) -> tuple[inferlite.InferenceSession, onnxruntime.InferenceSession]:
    """Open `model` in inferlite and in onnxruntime, with the same settings."""
    import onnxruntime  # noqa: PLC0415 - its import takes a while

    ours = inferlite.InferenceSession(model, session_options(is_verbose=is_verbose, threads=threads))
    theirs = onnxruntime.InferenceSession(model, session_options(is_verbose=is_verbose, threads=threads))
    return ours, theirs


def check_answers(
    ours: inferlite.InferenceSession, theirs: onnxruntime.InferenceSession, feed: Mapping[str, Any]
) -> int:
    """Compare the outputs of both for `feed`; returns their number.

    Raises:
        DifferentAnswersError: a bit differs.
    """
    names = [output.name for output in theirs.get_outputs()]
    expected = theirs.run(None, dict(feed))
    difference = first_difference(names, ours.run(None, dict(feed)), expected)
    if difference is None:
        return len(names)
    if first_difference(names, theirs.run(None, dict(feed)), expected) is not None:
        message = f"{difference}: onnxruntime's own answers differ from call to call, the model is random"
    else:
        message = f"the answers differ: {difference}"
    raise DifferentAnswersError(message)


def show_comparison(terminal: Terminal, comparison: Comparison) -> None:
    """Show both sides' percentiles, their ratio and a bar chart."""
    sides = [("inferlite", comparison.ours_spread), ("onnxruntime", comparison.theirs_spread)]
    terminal.table(
        ["side", ">p5", ">p50", ">p95"],
        [[name, *map(show_seconds, (spread.p5, spread.p50, spread.p95))] for name, spread in sides],
    )
    terminal.line()
    terminal.bars([(name, spread.p50, show_seconds(spread.p50)) for name, spread in sides])
    terminal.line()
    terminal.fields([("ratio", show_ratio(comparison))])


def show_ratio(comparison: Comparison) -> str:
    """Write the median ratio with its interval and spread."""
    low, high = comparison.ratio_interval
    spread = comparison.ratio_spread
    return f"{spread.p50:.3f} (95 % interval {low:.3f} to {high:.3f}; p5 {spread.p5:.3f}, p95 {spread.p95:.3f})"


def _signature(session: inferlite.InferenceSession) -> Signature:
    inputs, outputs = (
        tuple(tensor_spec(node.name, node.type, node.shape) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return Signature(inputs, outputs)


def _threads(threads: int) -> str:
    if threads == 0:
        return "onnxruntime's own number of threads"
    return f"{threads} thread{'s' if threads != 1 else ''}"


def _kind(value: Any) -> str:  # noqa: ANN401 - any model value
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    dtype = "string" if value.dtype.kind in "OU" else value.dtype
    return f"{dtype} {show_shape(value.shape)}"


def _to_json(model: Path, feed: Mapping[str, Any], threads: int, comparison: Comparison) -> dict[str, Any]:
    low, high = comparison.ratio_interval
    return {
        "model": str(model),
        "inputs": {name: _kind(value) for name, value in feed.items()},
        "answers_equal": True,
        "threads": threads,
        "rounds": comparison.rounds,
        "calls_per_round": comparison.calls_per_round,
        "unit": "seconds per call",
        "ours": asdict(comparison.ours_spread),
        "theirs": asdict(comparison.theirs_spread),
        "ratio": {**asdict(comparison.ratio_spread), "low": low, "high": high, "confidence": 0.95},
        "python": platform.python_version(),
        "machine": platform.machine(),
        **describe_runtime(),
    }
