"""Every bench there is, and which target each of them answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benches import (
    asynchronous,
    batching,
    bind,
    cache,
    creation,
    imports,
    making,
    run,
    serving,
    tail,
    threads,
    values,
    zipmap,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.harness import Case
    from benches.targets import Target

CASES: Final = (
    *run.CASES,
    *zipmap.CASES,
    *bind.CASES,
    *values.CASES,
    *threads.CASES,
    *creation.CASES,
    *making.CASES,
    *imports.CASES,
    *tail.CASES,
    *cache.CASES,
    *batching.CASES,
    *asynchronous.CASES,
    *serving.CASES,
)


class UnmatchedError(ValueError):
    """A target without a bench, a bench without a target, or a name that neither knows."""


def pair(cases: Sequence[Case], targets: Sequence[Target]) -> list[tuple[Target, Case]]:
    """Give every target its bench, in the order of the targets.

    Raises:
        UnmatchedError: one side lacks its other; the text names every such line.
    """
    by_key = {case.key: case for case in cases}
    wanted = {target.key for target in targets}
    problems = [
        *(f"target without a bench: {' / '.join(key)}" for key in sorted(wanted - set(by_key))),
        *(f"bench without a target: {' / '.join(key)}" for key in sorted(set(by_key) - wanted)),
    ]
    if problems:
        raise UnmatchedError("; ".join(problems))
    return [(target, by_key[target.key]) for target in targets]


def only(pairs: Sequence[tuple[Target, Case]], names: Sequence[str]) -> list[tuple[Target, Case]]:
    """Keep what one of `names` names: a question, a case, or `question/case`; no names keep all.

    Raises:
        UnmatchedError: a name fits nothing.
    """
    if not names:
        return list(pairs)
    known: dict[str, None] = {}
    for target, _ in pairs:
        known |= dict.fromkeys((target.question, target.case, f"{target.question}/{target.case}"))
    unknown = [name for name in names if name not in known]
    if unknown:
        questions = list(dict.fromkeys(target.question for target, _ in pairs))
        message = f"nothing is called {unknown}; the questions are {questions}"
        raise UnmatchedError(message)
    return [
        (target, case)
        for target, case in pairs
        if {target.question, target.case, f"{target.question}/{target.case}"} & set(names)
    ]
