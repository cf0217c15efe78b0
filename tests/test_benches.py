"""The benchmarks' own logic, on a clock that the tests hold; nothing here asserts a speed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from inferlite import Cache, InferenceSession
from inferlite._measure import Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
# The benchmarks are no part of the installed package.
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benches import (  # noqa: E402
    __main__ as command,
    asynchronous,
    batching,
    bind,
    cache,
    harness,
    machine,
    models,
    policies,
    questions,
    report,
    run,
    subject,
    targets,
    threads,
    zipmap,
)

BOUNDED = targets.Target("run", "identity-1x4", "ours", "onnxruntime run", 0.5)
NO_SLOWER = replace(BOUNDED, bound="no slower")
PUBLISHED = replace(BOUNDED, bound="published")
FACTS = {"processor": "an example | of one", "command": "python -m benches --check"}


class ScriptedClock:
    """A clock that moves only when it is told to; reading it costs nothing."""

    def __init__(self) -> None:
        """Start at zero."""
        self.now = 0

    def __call__(self) -> int:
        """Tell the time in nanoseconds."""
        return self.now

    def pass_time(self, nanoseconds: int) -> None:
        """Let a call take this long."""
        self.now += nanoseconds


def a_comparison(*ratios: float) -> Comparison:
    """With these ratios, of two pairs of rounds each."""
    ours = [ratio * 1e-6 for ratio in ratios for _order in range(2)]
    return compare(ours, [1e-6] * len(ours), calls_per_round=1)


def write_targets(folder: Path, **changes: object) -> Path:
    table: dict[str, object] = {
        "question": "run",
        "cases": ["identity-1x4"],
        "ours": "InferenceSession.run",
        "peer": "onnxruntime run",
        "bound": 0.5,
    }
    table |= changes
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if value is not None]
    path = folder / "targets.toml"
    path.write_text("\n".join(["[[target]]", *lines, ""]), encoding="utf-8")
    return path


# targets


def test_every_line_of_the_targets_has_a_bench_and_every_bench_a_line() -> None:
    pairs = questions.pair(questions.CASES, targets.read_targets())
    assert len(pairs) == len(questions.CASES)
    assert all(target.key == case.key for target, case in pairs)


def test_the_promises_of_the_design_are_among_the_targets() -> None:
    bounds = {target.key: target.bound for target in targets.read_targets()}
    for case in ("identity-1x4", "8-in-1-out", "1-in-8-out"):
        assert bounds["run", case, "onnxruntime run"] == 0.5
    assert {bound for (question, _, peer), bound in bounds.items() if (question, peer[:5]) == ("bind", "C API")} == {
        1.15
    }
    assert bounds["threads", "mlp-16-32-16-4, 16 threads", "onnxruntime run"] == 0.25
    assert bounds["imports", "import", "python -c 'import numpy, onnxruntime'"] == "no slower"
    assert {bound for (question, _, _), bound in bounds.items() if question == "creation"} == {"no slower"}
    cached = {(case, peer): bound for (question, case, peer), bound in bounds.items() if question == "cache"}
    assert cached["hit, 1x16, Model", "x.copy()"] == 1.25
    assert cached["hit, 1x16, session", "x.copy()"] == 1.7
    assert {bound for (_, peer), bound in cached.items() if "around onnxruntime" in peer} == {0.25}
    assert cached["hit, 1x3x224x224, Model", "keyed BLAKE3 of the input, one thread"] == 1.2
    assert cached["hits, 1x16, 16 threads in sum", "one thread"] == 1.0
    assert cached["miss, mlp-256-512-512-10", "run without cache"] == 1.05
    assert cached["miss, magika", "run without cache"] == 1.02
    serving = {(case, peer): bound for (question, case, peer), bound in bounds.items() if question == "serving"}
    loaded = "mlp-256-512-512-10, 16 connections"
    for peer, times in (("FastAPI", 14), ("mosec", 13), ("Triton", 7)):
        (asked,) = (bound for (case, other), bound in serving.items() if case == loaded and other.startswith(peer))
        assert times <= 1 / asked < times + 0.01
    assert {bound for (case, _), bound in serving.items() if case.endswith("percentile")} == {1.0}
    assert 1 / serving[f"{loaded}, hits", "without cache, batched"] >= 1.3
    assert 1 / serving["magika, 16 connections, hits", "without cache, batched"] == 50
    assert 1 / serving[f"{loaded}, binary bodies", "the same in JSON"] == 1.25


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bound": None}, "target 1 of `targets.toml` lacks keys ['bound'] and has unknown keys []"),
        ({"limit": 1}, "target 1 of `targets.toml` lacks keys [] and has unknown keys ['limit']"),
        ({"ours": 3}, "target 1 of `targets.toml`: `ours` is 3, but a text is wanted"),
        ({"cases": []}, "target 1 of `targets.toml`: `cases` is [], but a list of texts is wanted"),
        (
            {"bound": "fast"},
            (
                "target 1 of `targets.toml`: `bound` is 'fast', "
                "but a ratio above 0.0, `no slower` or `published` is wanted"
            ),
        ),
        (
            {"bound": 0.0},
            "target 1 of `targets.toml`: `bound` is 0.0, but a ratio above 0.0, `no slower` or `published` is wanted",
        ),
        ({"unit": "MB"}, "target 1 of `targets.toml`: `unit` is 'MB', but `s` or `bytes` is wanted"),
        (
            {"cases": ["identity-1x4", "identity-1x4"]},
            "`targets.toml` holds `run / identity-1x4 / onnxruntime run` twice",
        ),
    ],
)
def test_a_malformed_target_is_named(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    with pytest.raises(targets.TargetsError) as caught:
        targets.read_targets(write_targets(tmp_path, **changes))
    assert str(caught.value) == text


def test_a_bench_without_target_and_a_target_without_bench_are_both_named() -> None:
    with pytest.raises(questions.UnmatchedError) as caught:
        questions.pair([run.CASES[1]], [BOUNDED])
    assert str(caught.value) == (
        "target without a bench: run / identity-1x4 / onnxruntime run; "
        "bench without a target: run / 8-in-1-out / onnxruntime run"
    )


def test_a_number_bounds_the_median_whatever_the_interval() -> None:
    assert BOUNDED.is_met_by(a_comparison(0.2, 0.5, 0.9)) is True
    assert BOUNDED.is_met_by(a_comparison(0.1, 0.51, 0.52)) is False


def test_no_slower_bounds_the_upper_end_of_the_interval() -> None:
    assert NO_SLOWER.is_met_by(a_comparison(*[1.02] * 9)) is True
    assert NO_SLOWER.is_met_by(a_comparison(*[0.9] * 5, *[1.2] * 4)) is False


def test_a_bound_is_written_with_all_its_decimals() -> None:
    assert BOUNDED.limit == "median at most 0.50"
    assert replace(BOUNDED, bound=0.0714).limit == "median at most 0.0714"


def test_a_published_line_has_no_verdict() -> None:
    assert PUBLISHED.is_met_by(a_comparison(9.0)) is None


def test_names_select_questions_cases_and_both() -> None:
    pairs = questions.pair(questions.CASES, targets.read_targets())
    assert questions.only(pairs, []) == pairs
    assert {case.question for _, case in questions.only(pairs, ["bind", "threads"])} == {"bind", "threads"}
    assert {case.question for _, case in questions.only(pairs, ["identity-1x4"])} == {"run", "creation"}
    assert [case.key for _, case in questions.only(pairs, ["run/identity-1x4"])] == [BOUNDED.key]


def test_an_unknown_name_lists_the_questions() -> None:
    pairs = questions.pair(questions.CASES, targets.read_targets())
    with pytest.raises(questions.UnmatchedError) as caught:
        questions.only(pairs, ["walk"])
    assert str(caught.value) == (
        "nothing is called ['walk']; the questions are "
        "['run', 'zipmap', 'bind', 'values', 'threads', 'creation', 'making', 'imports', 'tail', 'cache', "
        "'batching', 'asynchronous', 'serving']"
    )


# harness


def test_a_loop_outside_python_is_compared_per_call() -> None:
    clock = ScriptedClock()
    comparison = harness.paired_loops(
        lambda: clock.pass_time(300),
        lambda calls: clock.pass_time(200 * calls),
        rounds=3,
        calls=1000,
        clock=clock,
    )
    assert comparison.calls_per_round == 1000
    assert comparison.ours == pytest.approx([300e-9] * 3)
    assert comparison.theirs == pytest.approx([200e-9] * 3)
    assert comparison.ratio_spread.p50 == pytest.approx(1.5)


def test_self_timed_rounds_alternate_and_stay_paired() -> None:
    order: list[str] = []

    def side(name: str, times: list[float]) -> float:
        order.append(name)
        return times.pop(0)

    ours, theirs = [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]
    comparison = harness.alternate(lambda: side("ours", ours), lambda: side("theirs", theirs), rounds=3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert comparison.ours == (1.0, 2.0, 3.0)
    assert comparison.ratios == (0.75,)


def test_threads_are_counted_from_the_first_start_to_the_last_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def together(self: threads.Crew, jobs: object) -> list[tuple[int, int, int]]:
        del self, jobs
        return [(0, 700, 30), (100, 1000, 70)]

    monkeypatch.setattr(threads.Crew, "together", together)
    with threads.Crew(2) as crew:
        assert threads.seconds_per_call(crew, [], 0.1) == pytest.approx(1000e-9 / 100)


def test_a_crew_starts_together_and_hands_on_an_exception() -> None:
    with threads.Crew(3) as crew:
        assert crew.together([lambda number=number: number for number in range(3)]) == [0, 1, 2]  # type: ignore[misc]
        with pytest.raises(ZeroDivisionError):
            crew.together([lambda: 1, lambda: 1 // 0, lambda: 3])


def test_a_smoke_round_is_short_and_a_real_one_is_not() -> None:
    smoke, full = harness.Effort(smoke=True), harness.Effort()
    assert (smoke.rounds(200), full.rounds(200)) == (2, 200)
    assert (smoke.seconds(0.5), full.seconds(0.5)) == (0.02, 0.5)


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        ([], "run of x: 0 outputs, but the peer gives 1"),
        ([np.zeros(2, np.float64)], "run of x: output 0 is float64[2], but the peer gives float32[2]"),
        ([np.zeros((1, 2), np.float32)], "run of x: output 0 is float32[1, 2], but the peer gives float32[2]"),
        ([np.array([0.0, -0.0], np.float32)], "run of x: output 0 differs from the peer's in its bits"),
    ],
)
def test_answers_are_compared_by_their_bits(ours: list[np.ndarray], text: str) -> None:
    with pytest.raises(harness.WrongAnswerError) as caught:
        harness.require_same(ours, [np.zeros(2, np.float32)], "run of x")
    assert str(caught.value) == text


def test_equal_bits_pass_even_where_they_are_no_numbers() -> None:
    harness.require_same([np.array([np.nan])], [np.array([np.nan])], "run of x")


def test_only_release_builds_are_timed() -> None:
    subject.refuse_debug("release")
    with pytest.raises(harness.RefusedError) as caught:
        subject.refuse_debug("debug")
    assert str(caught.value) == "the native back end is a debug build, but only release builds are timed"


class ZeroSession:
    """Answers zeros of its inputs' shapes, whatever the model."""

    def run(self, output_names: list[str] | None, input_feed: subject.Feed) -> list[np.ndarray]:
        """Answer wrongly."""
        del output_names
        return [np.zeros_like(array) for array in input_feed.values()]


class WrongPredictor:
    """Answers with zeros, at once and later."""

    def __call__(self, x: np.ndarray, /) -> np.ndarray:
        """Give nothing but zeros."""
        return np.zeros_like(x)

    async def apredict(self, x: np.ndarray, /) -> np.ndarray:
        """Give nothing but zeros."""
        return np.zeros_like(x)


class WrongSubject:
    """Gives wrong answers, and leaves bound outputs as they are."""

    name = "wrong"
    module = "onnxruntime"

    def session(self, model: bytes | str, cache: object = None) -> subject.Session:
        """Ignore the model."""
        del model, cache
        return ZeroSession()

    def model(self, model: bytes | str, cache: object) -> Callable[[np.ndarray], np.ndarray]:
        """Ignore the model."""
        del model, cache
        return np.zeros_like

    def predictor(self, model: bytes | str, *, batching: bool) -> WrongPredictor:
        """Ignore the model."""
        del model, batching
        return WrongPredictor()

    def bind(self, session: subject.Session, feed: subject.Feed, outputs: subject.Arrays | None) -> subject.Bound:
        """Ignore the inputs."""
        del session, feed
        return lambda: list((outputs or {}).values())

    def runtime_loop(self, bound: subject.Bound) -> Callable[[int], object]:
        """Have none."""
        del bound
        message = "no loop here"
        raise harness.NotMeasurableError(message)


@pytest.mark.parametrize(
    "case",
    [
        run.CASES[0],
        bind.CASES[0],
        threads.CASES[0],
        *cache.CASES[:3],
        batching.CASES[0],
        batching.CASES[-2],
        asynchronous.CASES[0],
    ],
    ids=lambda case: f"{case.question}, {case.name}, {case.peer}",
)
def test_a_wrong_answer_is_never_timed(case: harness.Case) -> None:
    with pytest.raises(harness.WrongAnswerError):
        case.measure(WrongSubject(), harness.Effort(smoke=True))


@pytest.mark.parametrize("name", sorted(set(models.MODELS) - {"mlp-64mb", "identity-16mb", "add-16mb"}))
def test_models_are_the_same_every_time_and_run(name: str) -> None:
    made = models.MODELS[name]()
    assert made.content == models.MODELS[name]().content
    outputs = subject.peer_session(made.content).run(None, made.feed)
    numbers = [output for output in outputs if isinstance(output, np.ndarray) and not output.dtype.hasobject]
    rows = [list(row.values()) for output in outputs if isinstance(output, list) for row in output]
    assert all(np.isfinite(array).all() for array in (*numbers, *rows))


# zipmap


def test_dicts_that_differ_are_not_timed() -> None:
    rows = [{"a": 1.0, "b": 2.0}]
    zipmap.require_same_rows(rows, [dict(rows[0])], "run")
    for other in ([{"b": 2.0, "a": 1.0}], [{"a": 1.0}], []):
        with pytest.raises(harness.WrongAnswerError, match="run: the dicts differ from the peer's"):
            zipmap.require_same_rows(rows, other, "run")


# cache


MLP = models.model("mlp-16-32-16-4")


@pytest.mark.parametrize("name", ["hit, 1x16, Model", "hit, 1x16, session", "no repeats, sampling, mlp-16-32-16-4"])
def test_what_the_cache_is_timed_for_happens_on_the_python_back_end_too(name: str) -> None:
    case = next(case for case in cache.CASES if case.name == name)
    assert case.measure(subject.choose("python"), harness.Effort(smoke=True)).rounds == 2


def test_every_call_of_a_stream_of_misses_misses_however_many_there_are() -> None:
    made: list[subject.Session] = []

    def make() -> subject.Session:
        made.append(InferenceSession(MLP.content, cache=Cache(max_entries=cache.KEPT)))
        return made[-1]

    misses = cache.Misses(make, cache.different(MLP.feed, cache.POOL))
    for _ in range(30):
        assert misses.time(400) > 0
    assert len(made) == 2


def test_a_hit_among_misses_is_never_reported() -> None:
    misses = cache.Misses(lambda: InferenceSession(MLP.content, cache="1MB"), cache.different(MLP.feed, 50))
    with pytest.raises(harness.WrongAnswerError, match="were to miss"):
        misses.time(10)


def test_hits_that_were_none_are_never_timed() -> None:
    live = InferenceSession(MLP.content, cache="1MB")
    live.run(None, MLP.feed)
    with pytest.raises(harness.WrongAnswerError) as caught:
        cache.require_hits(live, 1)
    assert str(caught.value) == "0 calls were hits, but 1 were to be"


def test_a_subject_without_a_cache_says_so() -> None:
    for case in (cache.CASES[0], cache.CASES[1]):
        with pytest.raises(harness.NotMeasurableError, match="onnxruntime has no cache"):
            case.measure(subject.choose("onnxruntime"), harness.Effort(smoke=True))


# policies


def test_what_knows_the_future_keeps_what_is_asked_soonest() -> None:
    stream = np.array([1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5])
    # Belady's own example: seven faults, and ten of the least recently used policy.
    assert policies.hits_of_optimum(stream, 3) == 5
    assert policies.hits_of_optimum(stream, 5) == 7
    assert policies.hits_of_lru(stream, 3) == 2
    assert policies.hits_of_lru(stream, 5) == 7


def test_live_models_are_asked_and_none_beats_the_optimum() -> None:
    stream = policies.polluted(policies.zipf(1.0, 3_000, 300), 100, 300)
    assert len(stream) == 4_500
    assert len(set(stream[stream >= 300].tolist())) == 1_500
    budget = 50 * policies.bytes_of_one()
    hits, entries = policies.ask(stream, Cache(max_bytes=budget))
    assert (hits, entries) == (policies.hits_of_lru(stream, 50), 50)
    other, _ = policies.ask(stream, Cache(max_bytes=budget, policy="s3-fifo"))
    assert hits < other < policies.hits_of_optimum(stream, 50)


def test_the_picture_names_every_policy_and_draws_every_stream() -> None:
    ratios = {name: [0.5] * len(policies.SHARES) for name in policies.LINES}
    picture = policies.draw([policies.Curves(title, ratios) for title in policies.STREAMS])
    root = ET.fromstring(picture)  # noqa: S314 - a text of our own
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {'policy="lru"', 'policy="s3-fifo"', "hits, % of calls", *policies.STREAMS} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 3 * len(policies.STREAMS)


# report


def test_losses_have_a_section_of_their_own() -> None:
    won = report.Outcome(BOUNDED, a_comparison(0.4, 0.4, 0.4))
    lost = report.Outcome(replace(PUBLISHED, question="tail", case="alone"), a_comparison(1.5, 1.5, 1.5))
    text = report.page([won, lost], FACTS)
    losses = text.partition("## Losses")[2].partition("## run")[0]
    assert "| tail: alone, against onnxruntime run | 1.50 us | 1.00 us | 1.500 | **1.500** | 1.500 |" in losses
    assert "identity-1x4" not in losses
    row = "| identity-1x4 | 400 ns | 1.00 us | 0.400 | **0.400** | 0.400 | 0.400 to 0.400 | 0.50 | pass |"
    assert row in text
    assert "| processor | an example \\| of one |" in text
    assert "`python -m benches --check`" in text


def test_a_page_without_losses_says_so() -> None:
    assert "No case has its whole interval above 1." in report.page([report.Outcome(BOUNDED, a_comparison(0.4))], FACTS)


def test_memory_is_written_in_bytes_and_judged_as_time_is(tmp_path: Path) -> None:
    (target,) = targets.read_targets(write_targets(tmp_path, peer="120 MB", bound=1.0, unit="bytes"))
    outcome = report.Outcome(target, compare([95.4e6] * 2, [120e6] * 2, calls_per_round=1))
    assert outcome.verdict == "pass"
    assert report.in_words(outcome).startswith("95.4 MB against 120 MB, ratio 0.795 ")
    assert "| identity-1x4 | 95.4 MB | 120 MB | 0.795 | **0.795** |" in report.page([outcome], FACTS)


def test_what_was_not_measured_is_on_the_page_and_in_the_document() -> None:
    outcome = report.Outcome(BOUNDED, None, "no loop here", skipped=True)
    row = "| identity-1x4 | - | - | - | - | - | - | 0.50 | not measured: no loop here |"
    assert row in report.page([outcome], FACTS)
    document = json.loads(json.dumps(report.document([outcome], FACTS)))
    assert document["results"][0]["verdict"] == "not measured"
    assert document["results"][0]["problem"] == "no loop here"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5, "2.50 s"),
        (0.0999, "99.9 ms"),
        (3.86e-6, "3.86 us"),
        (0.9996e-3, "1.00 ms"),
        (63.4e-9, "63.4 ns"),
        (150e-6, "150 us"),
    ],
)
def test_times_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_the_facts_name_machine_versions_commit_and_command() -> None:
    facts = machine.describe("native", ["--check", "--only", "run"])
    assert {"processor", "cores", "python", "inferlite", "onnxruntime", "numpy", "commit"} <= set(facts)
    assert facts["command"] == "python -m benches --check --only run"
    assert all(facts.values())


# command line


def test_a_smoke_round_writes_its_document_and_prints_no_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    arguments = ["--smoke", "--ours", "onnxruntime", "--only", "run/identity-1x4", "--json", str(path)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("[1/1] run / identity-1x4 against onnxruntime run: answers equal, 2 rounds (")
    assert "ratio" not in printed
    document = json.loads(path.read_text(encoding="utf-8"))
    assert len(document["results"][0]["comparison"]["ours"]) == 2


@pytest.mark.parametrize(
    ("ratio", "code", "verdict", "kept"),
    [(0.4, 0, "PASS", 1), (0.6, 1, "FAIL", 0)],
)
def test_a_missed_target_fails_the_check(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    ratio: float,
    code: int,
    verdict: str,
    kept: int,
) -> None:
    scripted = replace(run.CASES[0], measure=lambda _subject, _effort: a_comparison(ratio, ratio, ratio))
    monkeypatch.setattr(command, "CASES", (scripted,))
    monkeypatch.setattr(command, "read_targets", lambda: (BOUNDED,))
    page = tmp_path / "docs" / "page.md"
    assert command.main(["--check", "--ours", "onnxruntime", "--report", str(page)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith(f"{verdict:12} run / identity-1x4 against onnxruntime run: ")
    assert lines[-2].endswith("(median at most 0.50)")
    assert lines[-1] == f"{kept} of 1 lines kept or without bound"
    assert f"| {verdict.lower()} |" in page.read_text(encoding="utf-8")


def test_a_wrong_answer_fails_the_run_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(_subject: object, _effort: object) -> Comparison:
        message = "output 0 differs"
        raise harness.WrongAnswerError(message)

    second = replace(BOUNDED, case="8-in-1-out")
    monkeypatch.setattr(command, "CASES", (replace(run.CASES[0], measure=wrong), run.CASES[1]))
    monkeypatch.setattr(command, "read_targets", lambda: (BOUNDED, second))
    assert command.main(["--smoke", "--ours", "onnxruntime"]) == 1
    first, other = capsys.readouterr().out.splitlines()
    assert "not measured: output 0 differs" in first
    assert "answers equal" in other


@pytest.mark.slow
def test_a_target_that_was_not_measured_fails_the_check_but_not_a_smoke_round() -> None:
    name = "bind/mlp-16-32-16-4, fresh outputs"
    assert command.main(["--smoke", "--ours", "onnxruntime", "--only", name]) == 0
    assert command.main(["--check", "--ours", "onnxruntime", "--only", name]) == 1


def test_smoke_rounds_are_never_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--smoke", "--report", "page.md"])
    assert "a smoke round gives no figures to report" in capsys.readouterr().err


def test_a_debug_build_ends_with_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> subject.Subject:
        message = f"no {name}"
        raise harness.RefusedError(message)

    monkeypatch.setattr(command, "choose", refuse)
    assert command.main(["--smoke"]) == 2
    assert capsys.readouterr().err == "error: no native\n"
