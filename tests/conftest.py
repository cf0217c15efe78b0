"""What every test file shares: the back-end fixture, hypothesis profiles, and the check that both back ends ran."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from inferlite import _backend

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
# `oracle`, `make_models` and others are plain modules that tests import, in subprocesses too.
IMPORTABLE = (str(TESTS), str(TESTS / "models"))
sys.path[:0] = IMPORTABLE

# A shell has what it starts in the background ignore Ctrl-C, which the processes that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BOTH_BACKENDS = ("native", "python")
OPTIONAL_MARKERS = ("slow", "soak", "torch")
# On which parametrisation of the fixture `backend` the test is slow, because what it proves lies in the other one.
SLOW_ON_FALLBACK = "slow_on_fallback"


def _expected_backends() -> tuple[str, ...]:
    """The back ends of this run: both, unless INFERLITE_TEST_BACKENDS names fewer (comma separated)."""
    wanted = os.environ.get("INFERLITE_TEST_BACKENDS")
    if not wanted:
        return BOTH_BACKENDS
    names = tuple(name.strip() for name in wanted.split(","))
    unknown = sorted(set(names) - set(BOTH_BACKENDS))
    if unknown:
        message = f"INFERLITE_TEST_BACKENDS names {unknown}, but the back ends are {list(BOTH_BACKENDS)}"
        raise pytest.UsageError(message)
    return names


BACKENDS = _expected_backends()

# The back-end fixture is a name; using it again for the next example is what the test wants.
_shared = {
    "deadline": None,
    "derandomize": bool(os.environ.get("CI")),
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("fast", max_examples=40, **_shared)
settings.register_profile("slow", max_examples=2000, **_shared)
settings.load_profile("fast")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once per back end; yields its name, `native` or `python`."""
    name: str = request.param
    try:
        _backend.select(name)
    except Exception as error:  # noqa: BLE001 - whatever the reason, the run must say that a back end is missing
        pytest.fail(
            f"the {name} back end is expected but cannot be used: {error}\n"
            "build it, or set INFERLITE_TEST_BACKENDS=python to test the fallback alone",
            pytrace=False,
        )
    yield name
    _backend.select(None)


@pytest.fixture
def native_backend() -> Iterator[str]:
    """Run the test on the native back end, of which it tests a part that the other one lacks."""
    if "native" not in BACKENDS:
        pytest.skip("INFERLITE_TEST_BACKENDS leaves the native back end out")
    _backend.select("native")
    yield "native"
    _backend.select(None)


@pytest.fixture
def child_environment(backend: str) -> dict[str, str]:
    """The environment of a subprocess that uses the same back end as the test and can import the test modules."""
    return _child_environment(backend)


@pytest.fixture
def native_environment(native_backend: str) -> dict[str, str]:
    """The same for a test of the native back end alone."""
    return _child_environment(native_backend)


def _child_environment(backend: str) -> dict[str, str]:
    path = os.pathsep.join(entry for entry in (*IMPORTABLE, os.environ.get("PYTHONPATH")) if entry)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INFERLITE_")}
    return {**clean, "INFERLITE_BACKEND": backend, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow and soak tests unless `-m` names their marker."""
    chosen = config.option.markexpr
    for item in items:
        if item.get_closest_marker(SLOW_ON_FALLBACK) and _backend_of(item) == "python" and "native" in BACKENDS:
            item.add_marker("slow")
    left_out = [
        item
        for item in items
        if any(
            item.get_closest_marker(marker) and not re.search(rf"\b{marker}\b", chosen) for marker in OPTIONAL_MARKERS
        )
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def pytest_collection_finish() -> None:
    """Let collections of garbage look at what tests make, not at what their modules have made: many tests collect."""
    gc.collect()
    gc.freeze()


def _backend_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("backend")


_ran_on: Counter[str] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note on which back end a test really ran; a skipped one proves nothing."""
    report = yield
    if call.when == "call" and not report.skipped:
        report.backend = _backend_of(item)
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the tests of each back end, those of other processes included, whose reports come here as well."""
    name = getattr(report, "backend", None)
    if name is not None:
        _ran_on[name] += 1


def _is_whole_run(config: pytest.Config) -> bool:
    option = config.option
    partial = (option.keyword, option.collectonly, getattr(option, "lf", False), getattr(option, "stepwise", False))
    if any(partial) or option.maxfail:
        return False
    folders = [Path(argument) for argument in config.args]
    return all(folder.is_dir() and TESTS.is_relative_to(folder.resolve()) for folder in folders)


def _missing_backends(config: pytest.Config) -> list[str]:
    if not _is_whole_run(config):
        return []
    return [name for name in BACKENDS if not _ran_on[name]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a whole run in which a back end ran no test."""
    is_part_of_a_run = hasattr(session.config, "workerinput")
    if not is_part_of_a_run and _missing_backends(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests ran on each back end."""
    if not _ran_on and not _missing_backends(config):
        return
    counts = ", ".join(f"{name} {_ran_on[name]}" for name in BACKENDS)
    terminalreporter.write_line(f"tests per back end: {counts}")
    for name in _missing_backends(config):
        terminalreporter.write_line(f"no test ran on the {name} back end", red=True)
