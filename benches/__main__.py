"""Command line of the benchmarks: `python -m benches`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benches import machine, report
from benches.harness import Effort, NotMeasurableError, RefusedError, WrongAnswerError
from benches.questions import CASES, UnmatchedError, only, pair
from benches.report import Outcome
from benches.subject import SUBJECTS, choose
from benches.targets import TargetsError, read_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benches.harness import Case
    from benches.subject import Subject
    from benches.targets import Target

BUSY = 0.5
"""Load average from which the figures are doubtful: something else is running."""

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for.

    Args:
        arguments: what follows the program's name; `None` takes the process's.

    Returns:
        0; 1 when an answer was wrong, or when `--check` found a target missed or not measured; 2 when
        nothing could be run.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options = parser.parse_args(given)
    if options.smoke and options.report is not None:
        parser.error("a smoke round gives no figures to report: drop `--smoke` or `--report`")
    try:
        chosen = only(pair(CASES, read_targets()), options.only)
        subject = choose(options.ours)
    except (RefusedError, TargetsError, UnmatchedError) as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE_ERROR
    facts = machine.describe(subject.name, given)
    load = facts["load average at the start"]
    if not options.smoke and load != "unknown" and float(load) > BUSY:
        sys.stderr.write(f"warning: the load average is {load}: something else is running\n")
    outcomes = measure_all(chosen, subject, Effort(smoke=options.smoke), _say)
    if options.json is not None:
        document = json.dumps(report.document(outcomes, facts), indent=1)
        options.json.write_text(document + "\n", encoding="utf-8")
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(report.page(outcomes, facts), encoding="utf-8")
    failed = any(outcome.comparison is None and not outcome.skipped for outcome in outcomes)
    if options.check:
        failed |= not _judge(outcomes)
    return int(failed)


def measure_all(
    chosen: Sequence[tuple[Target, Case]],
    subject: Subject,
    effort: Effort,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Run every case in turn; one that cannot be measured does not keep the others from it."""
    outcomes = []
    for number, (target, case) in enumerate(chosen, start=1):
        say(f"[{number}/{len(chosen)}] {case.question} / {case.name} against {case.peer}: ")
        begin = time.monotonic()
        outcome = _measure(target, case, subject, effort)
        outcomes.append(outcome)
        if effort.smoke and outcome.comparison is not None:
            words = f"answers equal, {outcome.comparison.rounds} rounds"
        else:
            words = report.in_words(outcome)
        say(f"{words} ({time.monotonic() - begin:.1f} s)\n")
    return outcomes


def _measure(target: Target, case: Case, subject: Subject, effort: Effort) -> Outcome:
    try:
        return Outcome(target, case.measure(subject, effort))
    except NotMeasurableError as error:
        return Outcome(target, None, str(error), skipped=True)
    except WrongAnswerError as error:
        return Outcome(target, None, str(error))


def _judge(outcomes: Sequence[Outcome]) -> bool:
    """Print every verdict; return whether all bounds were kept."""
    _say("\n")
    for outcome in outcomes:
        _say(f"{report.judgement(outcome)}\n")
    missed = [outcome for outcome in outcomes if outcome.verdict in {"fail", "not measured"}]
    _say(f"{len(outcomes) - len(missed)} of {len(outcomes)} lines kept or without bound\n")
    return not missed


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benches",
        description="Time inferlite against its peers in paired, alternating rounds.",
    )
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--smoke", action="store_true", help="a few rounds of each: answers, no figures")
    depth.add_argument("--check", action="store_true", help="judge every target; exit 1 if one is missed")
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="a question (run), a case (identity-1x4) or both (run/identity-1x4); may be repeated",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every round as JSON")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write the results page")
    parser.add_argument(
        "--ours",
        choices=SUBJECTS,
        default="native",
        help="what stands on our side; onnxruntime against itself shows the harness's own error",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
