"""A picture of what many callers get out of a model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from inferlite.cli.failures import UnwritableError, WrongUsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inferlite.cli.callers import Load


def require_plots() -> None:
    """Refuse to measure what cannot be drawn afterwards.

    Raises:
        WrongUsageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        message = 'matplotlib, which `--plot` draws with, is not installed: `pip install "inferlite[plot]"` does that'
        raise WrongUsageError(message)


def draw_callers(path: Path, model: str, loads: Sequence[Load]) -> None:
    """Draw calls per second, and the middle and 99th percentile of latency, over the number of callers.

    Args:
        path: The file to write; its ending says the format.
        model: The name of the model.
        loads: All that was measured.

    Raises:
        UnwritableError: The file cannot be written, or there is no such format.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(10, 4), layout="constrained")
    rates: Any
    times: Any
    rates, times = figure.subplots(1, 2)
    for side in dict.fromkeys(load.side for load in loads):
        mine = [load for load in loads if load.side == side]
        callers = [load.callers for load in mine]
        (line,) = rates.plot(callers, [load.per_second for load in mine], marker="o", label=side)
        colour = line.get_color()
        for percent, style in ((50, "-"), (99, ":")):
            milliseconds = [load.percentile(percent) * 1e3 for load in mine]
            times.plot(callers, milliseconds, marker=".", ls=style, color=colour, label=f"{side}, p{percent}")
    for axes, title in ((rates, "calls per second"), (times, "milliseconds per call")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("callers")
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
        ticks = sorted({load.callers for load in loads})
        axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    times.set_ylim(auto=True)
    times.set_yscale("log")
    figure.suptitle(model)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        message = f"cannot write the picture `{path}`: {str(error).splitlines()[0]}"
        raise UnwritableError(message) from error
