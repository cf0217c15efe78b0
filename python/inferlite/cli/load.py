"""`inferlite bench --concurrency`: many callers at once, with and without batching."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import inferlite
from inferlite.cli.callers import SLICES, Load, check_batched, measure_callers, parse_callers
from inferlite.cli.failures import WrongUsageError, refusals
from inferlite.cli.info import describe_runtime
from inferlite.cli.options import session_options
from inferlite.cli.plot import draw_callers, require_plots
from inferlite.cli.sides import show_kind_of
from inferlite.cli.terminal import Terminal, show_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnxruntime


@dataclass(frozen=True, slots=True)
class LoadDemand:
    """The load that somebody wants to see.

    Attributes:
        callers: Numbers of threads that call at once.
        rate: Calls due per second; None for callers that call again at once.
        seconds: How long a slice is.
        plot: Where the picture goes.
    """

    callers: list[int]
    rate: float | None
    seconds: float
    plot: Path | None

    @classmethod
    def parse(
        cls, callers: str, *, rate: float | None, seconds: float, plot: Path | None, cache: bool
    ) -> LoadDemand | None:
        """Read the options; None where no load is wanted.

        Raises:
            WrongUsageError: They do not go together, or the picture cannot be drawn.
        """
        if not callers:
            if rate is not None or plot is not None:
                message = "`--open-loop` and `--plot` say more about `--concurrency`, which is not given"
                raise WrongUsageError(message)
            return None
        if cache:
            message = "`--cache` and `--concurrency` are measured apart: give one of them"
            raise WrongUsageError(message)
        if plot is not None:
            require_plots()
        return cls(parse_callers(callers), rate, seconds, plot)


def bench_load(
    model: Path,
    theirs: onnxruntime.InferenceSession,
    feed: Mapping[str, Any],
    demand: LoadDemand,
    terminal: Terminal,
    *,
    threads: int,
    outputs: int,
    as_json: bool,
) -> None:
    """Measure a load and show what came of it.

    Args:
        model: The model's file.
        theirs: onnxruntime's session, whose answers were compared.
        feed: What every call is asked.
        demand: The load.
        terminal: Where it is shown.
        threads: Threads of one operator.
        outputs: How many outputs were compared.
        as_json: Whether to print JSON instead of a table.
    """
    loads = _measure(model, theirs, feed, demand, terminal, threads)
    if demand.plot is not None:
        draw_callers(demand.plot, model.name, [load for group in loads for load in group])
    if as_json:
        terminal.line(json.dumps(_to_json(model, feed, threads, loads), indent=2))
    else:
        _show(terminal, model, feed, outputs, loads)


def _measure(
    model: Path,
    theirs: onnxruntime.InferenceSession,
    feed: Mapping[str, Any],
    demand: LoadDemand,
    terminal: Terminal,
    threads: int,
) -> list[list[Load]]:
    with terminal.waiting(f"loading {model.name}"), refusals():
        # Options of its own for each: a session may write to them.
        plain = inferlite.load(model, session_options=session_options(is_verbose=False, threads=threads))
        batched = inferlite.load(
            model, batching=True, session_options=session_options(is_verbose=False, threads=threads)
        )
        check_batched(plain, batched, feed, max(demand.callers))
    with plain, batched:
        return list(
            measure_callers(
                {
                    "batching": lambda: batched.predict(feed),
                    "no batching": lambda: plain.predict(feed),
                    "onnxruntime": lambda: theirs.run(None, feed),
                },
                demand.callers,
                rate=demand.rate,
                seconds=demand.seconds,
                track=lambda items: terminal.rounds(items, total=SLICES, text="timing"),
            )
        )


def _show(
    terminal: Terminal, model: Path, feed: Mapping[str, Any], outputs: int, loads: Sequence[Sequence[Load]]
) -> None:
    rate = loads[0][0].rate
    terminal.fields(
        [
            ("model", str(model)),
            *((f"input {name}", show_kind_of(value)) for name, value in feed.items()),
            (
                "answers",
                f"equal bit for bit, {outputs} output{'s' if outputs != 1 else ''}; batched ones up to rounding",
            ),
            ("load", "each caller calls again at once" if rate is None else f"{rate:,g} calls due per second"),
        ]
    )
    terminal.line()
    terminal.table(
        [">callers", "side", ">calls/s", ">p50", ">p95", ">p99", ">times onnxruntime's calls"],
        [
            [
                str(load.callers),
                load.side,
                f"{load.per_second:,.0f}",
                *(show_seconds(load.percentile(percent)) for percent in (50, 95, 99)),
                "" if load is group[-1] else f"{1 / load.against(group[-1]).ratio_spread.p50:.2f}",
            ]
            for group in loads
            for load in group
        ],
    )


def _to_json(model: Path, feed: Mapping[str, Any], threads: int, loads: Sequence[Sequence[Load]]) -> dict[str, Any]:
    return {
        "model": str(model),
        "inputs": {name: show_kind_of(value) for name, value in feed.items()},
        "answers_equal": True,
        "threads": threads,
        "loads": [
            {
                "callers": load.callers,
                "side": load.side,
                "due_per_second": load.rate,
                "calls": sum(load.slices),
                "calls_per_second": load.per_second,
                "seconds": {f"p{percent}": load.percentile(percent) for percent in (50, 95, 99)},
            }
            for group in loads
            for load in group
        ],
        "python": platform.python_version(),
        "machine": platform.machine(),
        **describe_runtime(),
    }
