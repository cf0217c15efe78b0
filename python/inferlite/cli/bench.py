"""`inferlite bench`: the cost of a call beside onnxruntime's, on one model."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inferlite
from inferlite._measure import Comparison, paired_rounds
from inferlite.cli.cached import BUDGET, CacheCosts, measure_cache
from inferlite.cli.callers import SLICE_SECONDS, SLICES
from inferlite.cli.failures import refusals
from inferlite.cli.info import describe_runtime
from inferlite.cli.inputs import RandomShapes, gather_inputs
from inferlite.cli.load import LoadDemand, bench_load
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
from inferlite.cli.sides import check_answers, open_both, show_kind_of
from inferlite.cli.terminal import Terminal, show_seconds
from inferlite.metadata import Signature, tensor_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

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
Cached = Annotated[
    bool, typer.Option("--cache", help="Time a hit and a miss of the prediction cache as well, with the same inputs.")
]
Concurrency = Annotated[
    str,
    typer.Option(
        "--concurrency",
        metavar="1,4,16",
        help="Time so many callers at once instead of a lone one, with and without batching.",
        show_default=False,
    ),
]
OpenLoop = Annotated[
    float | None,
    typer.Option(
        "--open-loop",
        metavar="RATE",
        min=0.1,
        help="With --concurrency: so many calls per second are due at random times, whether or not earlier ones are "
        "answered. Without it every caller calls again as soon as it has its answer.",
        show_default=False,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="With --concurrency: draw the result.", show_default=False),
]
Seconds = Annotated[
    float,
    typer.Option("--seconds", min=0.01, max=600.0, help=f"With --concurrency: seconds of each of {SLICES} slices."),
]


def bench(
    model: ModelPath,
    inputs: Inputs = None,
    dims: Dims = None,
    shapes: Shapes = None,
    seed: Seed = 0,
    rounds: Rounds = 100,
    threads: Threads = 1,
    cache: Cached = False,
    concurrency: Concurrency = "",
    open_loop: OpenLoop = None,
    seconds: Seconds = SLICE_SECONDS,
    plot: Plot = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare the cost of a call with onnxruntime's.

    The answers are compared bit for bit first; if they differ, nothing is timed and the exit code is 3.
    Both sides then call `session.run(None, feed)` in paired rounds whose order alternates, so that what
    slows the machine down slows both. The ratio is inferlite's time over onnxruntime's: below 1 is faster.
    The percentiles are of a call's mean time within each round.

    With --cache, the answer that is found is compared first, too. A miss is a call that is looked up,
    run and kept.

    With --concurrency, threads call `model(feed)` all at once: of a model with batching, of one without, and
    onnxruntime's session. Each number of callers is measured in slices, the sides in turns. Batched answers are
    compared first, up to rounding. Latencies of an open loop count from the moment at which a call was due.

    Examples:
      inferlite bench model.onnx
      inferlite bench model.onnx --dim batch=32 --rounds 300
      inferlite bench model.onnx --cache
      inferlite bench model.onnx --concurrency 1,4,16,64 --plot callers.png
      inferlite bench model.onnx --concurrency 64 --open-loop 5000
      inferlite bench model.onnx --input x=x.npy --json | jq .ratio.p50
    """
    check_model_path(model)
    random_shapes = RandomShapes.parse(dims, shapes)
    demand = LoadDemand.parse(concurrency, rate=open_loop, seconds=seconds, plot=plot, cache=cache)
    terminal = Terminal()
    with terminal.waiting(f"loading {model.name}"), refusals():
        ours, theirs = open_both(model, is_verbose=verbose, threads=threads)
        feed = gather_inputs(_signature(ours), inputs, random_shapes, seed=seed)
        outputs = check_answers(ours, theirs, feed)
        cached = None
        if cache:
            options = session_options(is_verbose=verbose, threads=threads)
            cached = inferlite.InferenceSession(model, options, cache=BUDGET)
    if demand is not None:
        bench_load(model, theirs, feed, demand, terminal, threads=threads, outputs=outputs, as_json=as_json)
        return
    comparison = paired_rounds(
        lambda: ours.run(None, feed),
        lambda: theirs.run(None, feed),
        rounds=rounds,
        track=lambda items: terminal.rounds(items, total=rounds, text="timing"),
    )
    costs = None
    if cached is not None:
        costs = measure_cache(
            cached,
            theirs,
            feed,
            rounds=rounds,
            track=lambda items: terminal.rounds(items, total=rounds, text="timing the cache"),
        )
    if as_json:
        terminal.line(json.dumps(_to_json(model, feed, threads, comparison, costs), indent=2))
        return
    terminal.fields(
        [
            ("model", str(model)),
            *((f"input {name}", show_kind_of(value)) for name, value in feed.items()),
            ("answers", f"equal bit for bit, {outputs} output{'s' if outputs != 1 else ''}"),
            ("rounds", f"{comparison.rounds} pairs of {comparison.calls_per_round:,} calls, {_threads(threads)}"),
        ]
    )
    terminal.line()
    show_comparison(terminal, comparison)
    if costs is not None:
        _show_cache(terminal, costs)


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


def _show_cache(terminal: Terminal, costs: CacheCosts) -> None:
    terminal.heading("with a cache, median")
    terminal.table(
        ["call", ">inferlite", ">onnxruntime run", ">ratio"],
        [
            [name, show_seconds(comparison.ours_spread.p50), show_seconds(comparison.theirs_spread.p50), ratio]
            for name, comparison in (("found", costs.hit), ("looked up, run and kept", costs.miss))
            for ratio in [f"{comparison.ratio_spread.p50:.3f}"]
        ],
    )


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


def _to_json(
    model: Path, feed: Mapping[str, Any], threads: int, comparison: Comparison, costs: CacheCosts | None
) -> dict[str, Any]:
    return {
        "model": str(model),
        "inputs": {name: show_kind_of(value) for name, value in feed.items()},
        "answers_equal": True,
        "threads": threads,
        "unit": "seconds per call",
        **_figures(comparison),
        **({} if costs is None else {"cache": {"hit": _figures(costs.hit), "miss": _figures(costs.miss)}}),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **describe_runtime(),
    }


def _figures(comparison: Comparison) -> dict[str, Any]:
    low, high = comparison.ratio_interval
    return {
        "rounds": comparison.rounds,
        "calls_per_round": comparison.calls_per_round,
        "ours": asdict(comparison.ours_spread),
        "theirs": asdict(comparison.theirs_spread),
        "ratio": {**asdict(comparison.ratio_spread), "low": low, "high": high, "confidence": 0.95},
    }
