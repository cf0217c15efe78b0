"""The parts of the pure-Python back end that have no native twin to be compared with."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, strategies as st
from onnxruntime.capi import _pybind_state as state

import child
import inferlite
from inferlite import _backend
from inferlite._fallback import latency, threads
from inferlite._fallback.feeds import readable_array, readable_feed
from inferlite.metadata import NodeArg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _python_back_end() -> Iterator[None]:
    _backend.select("python")
    yield
    _backend.select(None)


# --- threads


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("150000 100000\n", 1.5),
        ("50000 100000", 0.5),
        ("200000", 2.0),
        ("max 100000\n", None),
        ("", None),
        ("0 100000", None),
        ("100000 0", None),
        ("nonsense", None),
    ],
)
def test_the_quota_of_the_second_version(text: str, quota: float | None) -> None:
    assert threads.quota_v2(text) == quota


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("150000", "100000", 1.5), ("-1", "100000", None), ("", "", None), ("1", "0", None)],
)
def test_the_quota_of_the_first_version(quota: str, period: str, expected: float | None) -> None:
    assert threads.quota_v1(quota, period) == expected


def _cgroup(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    (folder / "membership").write_text(membership)
    for name, content in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / "membership", folder / "root"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "300000 100000"}, 1.0),
        ("0::/host/only\n", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/\n", {}, None),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:memory:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
        ("nonsense\n", {}, None),
    ],
)
def test_the_lowest_quota_counts(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None) -> None:
    assert threads.cgroup_quota(*_cgroup(tmp_path, membership, files)) == quota


@pytest.mark.parametrize(
    ("affinity", "quota", "count"), [(8, None, 8), (8, 2.5, 2), (2, 4.0, 2), (8, 0.5, 1), (1, None, 1)]
)
def test_threads_are_the_smaller_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float | None, count: int
) -> None:
    monkeypatch.setattr(threads, "affinity", lambda: affinity)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)
    assert threads.available_threads() == count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_the_affinity_mask_is_respected() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads.available_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_model_gets_the_available_threads_unless_the_options_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferlite._fallback.model.available_threads", lambda: 3)
    content = make_models.build("identity")

    def count(options: Any) -> int:
        model: Any = inferlite.load(content, session_options=options)
        number: int = model._session.get_session_options().intra_op_num_threads
        return number

    assert count(None) == 3
    options = inferlite.SessionOptions()
    assert count(options) == 3
    options.intra_op_num_threads = 2
    assert count(options) == 2
    plain = state.SessionOptions()
    assert count(plain) == 0
    plain.intra_op_num_threads = 2
    assert count(plain) == 2


# --- latency


@given(st.integers(min_value=0, max_value=2**62))
def test_a_bucket_holds_what_is_put_into_it(nanoseconds: int) -> None:
    bucket = latency.bucket_of(nanoseconds)
    assert nanoseconds <= latency.upper_bound_of(bucket)
    assert bucket == 0 or nanoseconds > latency.upper_bound_of(bucket - 1)
    assert latency.upper_bound_of(bucket) <= nanoseconds * 1.125


def test_a_duration_beyond_all_buckets_is_kept_in_the_last() -> None:
    stats = latency.CallStats()
    stats.record(2**80, 1)
    assert stats.snapshot().latency.max == 2**80 / 1e9


def test_percentiles_come_from_above_and_within_an_eighth() -> None:
    stats = latency.CallStats()
    for microseconds in range(1, 1001):
        stats.record(microseconds * 1000, 2)
    snapshot = stats.snapshot()
    assert (snapshot.calls, snapshot.rows, snapshot.latency.count) == (1000, 2000, 1000)
    assert snapshot.latency.max == pytest.approx(1e-3)
    assert snapshot.latency.mean == pytest.approx(500.5e-6)
    for given_, exact in (
        (snapshot.latency.p50, 500e-6),
        (snapshot.latency.p95, 950e-6),
        (snapshot.latency.p99, 990e-6),
    ):
        assert exact <= given_ <= exact * 1.125


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_counts_although_a_thread_of_its_parent_was_counting() -> None:
    code = """
        import os, signal
        from inferlite._fallback.latency import CallStats

        stats = CallStats()
        stats._lock.acquire()
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            stats.record(1, 1), stats.record_answered(1)
            os._exit(stats.snapshot().calls != 2)
        assert os.waitpid(child, 0)[1] == 0
    """
    child.run(code, {**os.environ, "INFERLITE_BACKEND": "python"})


# --- feeds


def test_a_feed_that_is_read_right_is_handed_on_as_it_is() -> None:
    feed = {"x": np.ones(2), "s": [np.ones(1)], "o": np.array(["a", None], object), "t": ["a"], "n": None}
    types = {"x": "tensor(double)", "s": "seq(tensor(double))", "o": "tensor(string)", "t": "tensor(string)"}
    declared = {name: NodeArg(name, kind, []) for name, kind in types.items()}
    assert readable_feed(feed, declared) is feed
    assert readable_feed([1], declared) == [1]
    assert readable_feed(None, declared) is None


def test_only_what_is_misread_is_replaced() -> None:
    good, swapped = np.ones(2), np.array([1, 2], ">i4")
    feed = {"good": good, "swapped": swapped}
    given_ = readable_feed(feed, {})
    assert given_["good"] is good
    assert given_["swapped"].dtype == np.dtype("=i4")
    assert given_["swapped"].tolist() == [1, 2]
    assert feed["swapped"] is swapped


@pytest.mark.parametrize("shape", [(), (0,), (2,), (2, 1), (1, 0, 3)])
def test_bytes_become_text_of_the_same_shape(shape: tuple[int, ...]) -> None:
    array = readable_array(np.full(shape, "é".encode()))
    assert array.shape == shape
    assert array.dtype == object
    assert array.ravel().tolist() == ["é"] * array.size


def test_strings_in_sequences_are_read_too() -> None:
    session = inferlite.InferenceSession(make_models.build("sequence_strings"), providers=["CPUExecutionProvider"])
    (given_,) = session.run(None, {"s": [np.array([b"ab", b"cd"]), np.array(["x"], ">U1")]})
    assert [item.tolist() for item in given_] == [["ab", "cd"], ["x"]]


class _LooksLikeAnArray:
    __array_finalize__ = None


@pytest.mark.parametrize("value", [np.ndarray, _LooksLikeAnArray()])
def test_what_onnxruntime_would_take_for_an_array_is_refused(value: Any) -> None:
    session = inferlite.InferenceSession(make_models.build("identity"), providers=["CPUExecutionProvider"])
    with pytest.raises(RuntimeError) as caught:
        session.run(None, {"x": value})
    assert str(caught.value).splitlines()[0] == f"Unable to handle object of type {type(value)}"
    session = inferlite.InferenceSession(make_models.build("sequence"), providers=["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match=r"^CreateSequenceOfTensors: Input is not a tensor\n"):
        session.run(None, {"s": [value]})


# --- a provider that fails while running


def test_a_failing_provider_is_replaced_once_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    session = inferlite.InferenceSession(make_models.build("identity"), providers=["CPUExecutionProvider"])
    run, calls = onnxruntime.InferenceSession.run, []

    def failing(self: Any, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) in {1, 3, 4}:
            message = "the device is gone"
            raise state.EPFail(message)
        return run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", failing)
    feed = {"x": np.ones((1, 3), np.float32)}
    with caplog.at_level(logging.WARNING, "inferlite"):
        assert session.run(None, feed)[0].tolist() == [[1.0] * 3]
    assert [record.message for record in caplog.records] == [
        "providers ['CPUExecutionProvider'] failed (the device is gone): falling back to ['CPUExecutionProvider']"
    ]
    with pytest.raises(state.EPFail):
        session.run(None, feed)
    session.enable_fallback()
    assert session.run(None, feed)[0].tolist() == [[1.0] * 3]
    session.disable_fallback()
    assert capsys.readouterr().out == ""
