"""Answers that survive the process: saved, warmed from, and refused where anything about the file is wrong."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper

import child
import inferlite
import oracle
from cases import f32, ones
from inferlite.exceptions import BackendUnavailableError, ModelLoadError
from test_readme import ROOT, code_blocks

if TYPE_CHECKING:
    from pathlib import Path

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
TRIPLE = make_models.parse("double (float[n] x) => (float[n] y) { two = Add(x, x) y = Add(two, x) }")
TWO = make_models.parse("two (float[n] x, string[k] s) => (float[n] a, string[k] t) { a = Neg(x) t = Identity(s) }")
SECRET = b"sixteen bytes or more"
CACHING = (ROOT / "docs" / "caching.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("backend")
native = pytest.mark.parametrize("backend", ["native"], indirect=True)


def _load(path: Path, model: str | bytes = DOUBLE, *, options: dict[str, Any] | None = None, **settings: Any) -> Any:
    cache = inferlite.Cache(**{"max_bytes": "1MB", "warm_from": path, **settings})
    return inferlite.load(model, cache=cache, **(options or {}))


def _warm(path: Path, model: str | bytes = DOUBLE, **settings: Any) -> Any:
    """A model that has taken the file over without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _load(path, model, **settings)


def _saved(path: Path, model: str | bytes = DOUBLE, **settings: Any) -> Path:
    loaded = _warm(path, model, **settings)
    loaded(f32(1.0, 2.0))
    assert loaded.cache.save(path) == 1
    return path


@native
def test_a_restarted_process_hits_with_the_same_bits(tmp_path: Path, child_environment: dict[str, str]) -> None:
    path = tmp_path / "answers"
    code = f"""
        import inferlite, numpy as np
        model = inferlite.load({DOUBLE!r}, cache=inferlite.Cache(max_bytes="1MB", warm_from={str(path)!r}))
        small, large = np.array([0.1, np.nan, -0.0], np.float32), np.linspace(0, 1, 50_000, dtype=np.float32)
        print(*(model(x).tobytes().hex()[-64:] for x in (small, large)))
        print(model.stats().cache.hits, model.stats().cache.misses, model.cache.save({str(path)!r}))
    """
    first = child.run(code, child_environment).split("\n")
    second = child.run(code, child_environment).split("\n")
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("0 2 2", "2 0 2")


@native
def test_every_kind_of_answer_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    feed = {"x": f32(1.0, -0.0), "s": np.array(["", "ä\0b"], dtype=object)}
    model = _warm(path, TWO)
    wanted = model(feed)
    model.cache.save(path)
    again = _warm(path, TWO)
    for name, value in again(feed).items():
        oracle.assert_same_value(value, wanted[name])
    assert again.stats().cache.hits == 1


@native
def test_a_session_saves_and_warms_as_a_model_does(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    settings = inferlite.Cache(max_bytes="1MB", warm_from=path, secret=SECRET.decode())
    first = inferlite.InferenceSession(DOUBLE, cache=settings)
    wanted = first.run(None, {"x": ones(3)})
    assert first.cache is not None
    assert first.cache.save(path) == 1
    second = inferlite.InferenceSession(DOUBLE, cache=settings)
    oracle.assert_same_value(second.run(None, {"x": ones(3)}), wanted)
    assert second.cache is not None
    assert second.cache.stats().hits == 1
    path.write_bytes(b"nothing")
    with pytest.warns(RuntimeWarning, match="the cache starts empty") as caught:
        inferlite.InferenceSession(DOUBLE, cache=settings)
    assert [warning.filename for warning in caught] == [__file__]


@native
def test_the_most_recently_used_answers_stay_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    model = _warm(path)
    for number in range(4):
        model(f32(number))
    model(f32(0))
    assert model.cache.save(path) == 4
    small = _warm(path, max_entries=2)
    assert len(small.cache) == 2
    small(f32(0))
    small(f32(3))
    assert small.stats().cache.hits == 2
    small(f32(9))
    small(f32(3))
    assert small.stats().cache.hits == 3


@native
@pytest.mark.parametrize("secret", [pytest.param(None, marks=pytest.mark.slow), SECRET])
def test_every_damaged_byte_is_a_warning_and_an_empty_cache(tmp_path: Path, secret: bytes | None) -> None:
    path = _saved(tmp_path / "answers", secret=secret)
    whole = path.read_bytes()
    assert len(whole) < 400
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with pytest.warns(RuntimeWarning, match="is not used, and the cache starts empty") as caught:
            model = _load(path, secret=secret)
        assert len(caught) == 1
        assert str(path) in str(caught[0].message)
        assert len(model.cache) == 0
    oracle.assert_same_value(model(f32(1.0, 2.0)), f32(2.0, 4.0))
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.warns(RuntimeWarning, match="it is (cut short|no saved cache)|seal"):
            assert len(_load(path, secret=secret).cache) == 0
    path.write_bytes(whole)
    assert len(_warm(path, secret=secret).cache) == 1


@native
def test_the_example_of_a_warm_restart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [block for _, block in code_blocks(CACHING, "py") if "warm_from" in block]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_SECRET", SECRET.decode())
    (tmp_path / "model.onnx").write_bytes(DOUBLE)
    first, *rest = example.split("...\n")
    restarts = []
    for _ in range(2):
        names: dict[str, Any] = {"inferlite": inferlite, "os": os}
        exec(first, names)  # noqa: S102 - our own page
        restarts.append(len(names["model"].cache))
        names["model"](f32(1.0, 2.0))
        exec("".join(rest), names)  # noqa: S102 - our own page
    assert restarts == [0, 1]
    assert (tmp_path / "answers.cache").is_file()


@native
def test_files_of_a_session_and_of_a_model_with_other_threads_are_not_each_others(tmp_path: Path) -> None:
    path = _saved(tmp_path / "answers")
    settings = inferlite.Cache(max_bytes="1MB", warm_from=path)
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 7
    with pytest.warns(RuntimeWarning) as caught:
        session = inferlite.InferenceSession(DOUBLE, options, cache=settings)
    reason = "it is of another model, or of other options or versions"
    assert str(caught[0].message) == f"`{path}` is not used, and the cache starts empty: {reason}"
    assert len(session.cache) == 0


@native
def test_files_of_others_are_refused_with_a_reason(tmp_path: Path) -> None:
    path = _saved(tmp_path / "answers", secret=SECRET)
    seven = inferlite.SessionOptions()
    seven.intra_op_num_threads = 7
    other_model = "it is of another model, or of other options or versions"
    seal = "its seal does not fit: it is damaged, was changed, or was sealed with another secret"
    trials: list[tuple[str, dict[str, Any]]] = [
        (other_model, {"model": TRIPLE, "secret": SECRET}),
        (other_model, {"secret": SECRET, "options": {"session_options": seven}}),
        (seal, {"secret": SECRET + b"!"}),
        (seal, {}),
    ]
    for reason, settings in trials:
        with pytest.warns(RuntimeWarning) as caught:
            model = _load(path, **settings)
        assert str(caught[0].message) == f"`{path}` is not used, and the cache starts empty: {reason}"
        assert caught[0].filename == __file__
        assert len(model.cache) == 0
    with pytest.warns(RuntimeWarning, match="it is no regular file"):
        _load(tmp_path)


@native
def test_other_weights_beside_the_same_file_are_another_model(tmp_path: Path) -> None:
    """Data outside the model's file counts."""
    weights = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    model = onnx.load_from_string(make_models.parse("scale (float[4] x, float[4] w) => (float[4] y) { y = Mul(x, w) }"))
    del model.graph.input[1]
    model.graph.initializer.append(weights)
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    path = tmp_path / "answers"
    first = _warm(path, str(tmp_path / "model.onnx"))
    oracle.assert_same_value(first(ones(4)), np.arange(4, dtype=np.float32))
    first.cache.save(path)
    assert len(_warm(path, str(tmp_path / "model.onnx")).cache) == 1
    (tmp_path / "weights.bin").write_bytes(np.full(4, 5, np.float32).tobytes())
    with pytest.warns(RuntimeWarning, match="it is of another model"):
        second = _load(path, str(tmp_path / "model.onnx"))
    oracle.assert_same_value(second(ones(4)), np.full(4, 5, np.float32))


@native
def test_saving_replaces_the_file_at_once_or_leaves_it(tmp_path: Path) -> None:
    path = _saved(tmp_path / "answers")
    whole = path.read_bytes()
    model = _warm(path)
    with pytest.raises(FileNotFoundError):
        model.cache.save(tmp_path / "no such folder" / "answers")
    with pytest.raises(OSError, match="directory"):
        model.cache.save(tmp_path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
    model.cache.clear()
    assert model.cache.save(path) == 0
    assert len(_warm(path).cache) == 0


@native
def test_a_cache_that_was_not_told_so_is_not_saved(tmp_path: Path) -> None:
    model = inferlite.load(DOUBLE, cache="1MB")
    with pytest.raises(ValueError, match=r"inferlite.Cache\(warm_from=path\)"):
        model.cache.save(tmp_path / "answers")


@native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_begins_empty(tmp_path: Path) -> None:
    model = _warm(_saved(tmp_path / "answers"))
    assert len(model.cache) == 1
    pid = os.fork()
    if pid == 0:
        os._exit(len(model.cache))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@native
def test_a_model_whose_data_cannot_be_found_is_refused(tmp_path: Path) -> None:
    compiled = make_models.parse("plain (float[n] x) => (float[n] y) { y = Identity(x) }")
    model = onnx.load_from_string(compiled)
    tensor = model.graph.initializer.add(name="unused", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="missing.bin")
    with pytest.raises(ModelLoadError, match=r"missing\.bin"):
        _load(tmp_path / "answers", model.SerializeToString())


@native
def test_a_model_that_cannot_be_loaded_is_refused_as_without_a_cache(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    for model in (str(tmp_path / "none.onnx"), str(tmp_path / "broken.onnx")):
        for load in (inferlite.load, inferlite.InferenceSession):
            with pytest.raises(Exception) as plain:  # noqa: PT011 - compared below
                load(model)  # type: ignore[operator]
            cache = inferlite.Cache(warm_from=tmp_path / "answers", allow_random=True)
            with pytest.raises(type(plain.value)) as cached:
                load(model, cache=cache)  # type: ignore[operator]
            assert str(cached.value) == str(plain.value)


@pytest.mark.parametrize("backend", ["python"], indirect=True)
def test_the_fallback_says_that_it_cannot(tmp_path: Path, backend: str) -> None:
    assert backend == "python"
    for settings in ({"warm_from": tmp_path / "answers"}, {"secret": SECRET}):
        cache = inferlite.Cache(**settings)
        (name,) = settings
        with pytest.raises(BackendUnavailableError, match=rf"`Cache\({name}=...\)` is not available: .*in the process"):
            inferlite.load(DOUBLE, cache=cache)
        with pytest.raises(BackendUnavailableError, match=rf"`Cache\({name}=...\)` is not available"):
            inferlite.InferenceSession(DOUBLE, cache=cache)
    for owner in (inferlite.load(DOUBLE, cache="1MB"), inferlite.InferenceSession(DOUBLE, cache="1MB")):
        with pytest.raises(BackendUnavailableError, match=r"`PredictionCache.save` is not available"):
            owner.cache.save(tmp_path / "answers")


def test_settings_are_checked_and_the_secret_is_not_shown() -> None:
    assert "sixteen" not in repr(inferlite.Cache(secret=SECRET))
    with pytest.raises(ValueError, match="`secret` must have at least 16 bytes, not 5"):
        inferlite.Cache(secret=SECRET[:5])
    with pytest.raises(TypeError, match="`secret` must be bytes, text or None, not int"):
        inferlite.Cache(secret=7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`warm_from` must be a path or None, not 7"):
        inferlite.Cache(warm_from=7)  # type: ignore[arg-type]
