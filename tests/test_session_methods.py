"""The rest of a session's methods: what it says of its devices and providers, and how it is reconfigured."""

from __future__ import annotations

import warnings
from typing import Any

import make_models
import onnxruntime
import pytest

import inferlite
import oracle
from cases import f32, ones

pytestmark = pytest.mark.usefixtures("backend")

CPU = "CPUExecutionProvider"
DOUBLE = make_models.build("double")
OTHERS = [name for name in onnxruntime.get_available_providers() if name != CPU]
RECORDS = "session.record_ep_graph_assignment_info"


def _pair(model: Any = DOUBLE, **arguments: Any) -> tuple[Any, Any]:
    return tuple(library.InferenceSession(model, **arguments) for library in (inferlite, onnxruntime))


def _same(method: str, *args: Any, model: Any = DOUBLE, **kwargs: Any) -> oracle.Outcome:
    """Call a method of two new sessions, and compare how that ends."""
    ours, theirs = _pair(model, providers=[CPU])
    return oracle.compare_calls(
        lambda: getattr(ours, method)(*args, **kwargs), lambda: getattr(theirs, method)(*args, **kwargs)
    )


def _described(infos: list[Any]) -> list[dict[str, Any]]:
    names = [name for name in dir(onnxruntime.OrtMemoryInfo) if not name.startswith("_") and name != "create_v2"]
    return [{name: getattr(info, name) for name in names} for info in infos]


@pytest.mark.parametrize("model", ["double", "add", "two_outputs", "zipmap", "constant", "default_input", "strings"])
def test_the_memory_of_inputs_and_outputs_is_described(model: str) -> None:
    ours, theirs = _pair(make_models.build(model))
    for method in ("get_input_memory_infos", "get_output_memory_infos"):
        assert _described(getattr(ours, method)()) == _described(getattr(theirs, method)())


def test_the_devices_of_inputs_are_those_of_the_package() -> None:
    ours, theirs = _pair(make_models.build("add"))
    given, wanted = (session.get_input_epdevices() for session in (ours, theirs))
    assert [device.ep_name for device in given] == [device.ep_name for device in wanted] == [CPU] * 2
    assert type(given[0]) is type(wanted[0])


def test_who_runs_which_node_is_told_where_it_is_recorded() -> None:
    def told(library: Any) -> Any:
        options = library.SessionOptions()
        options.add_session_config_entry(RECORDS, "1")
        session = library.InferenceSession(make_models.build("mlp"), options, [CPU])
        subgraphs = session.get_provider_graph_assignment_info()
        return [(graph.ep_name, [node.name for node in graph.get_nodes()]) for graph in subgraphs]

    assert told(inferlite) == told(onnxruntime)


def test_who_runs_which_node_is_not_told_without_a_record() -> None:
    assert _same("get_provider_graph_assignment_info").error is not None


@pytest.mark.parametrize("results", [[], [1], None, [{"ep": "x", "results": {}, "validators": {}}]], ids=repr)
@pytest.mark.parametrize("error_on_invalid", [False, True])
def test_results_of_tuning_are_taken_as_onnxruntime_takes_them(results: Any, error_on_invalid: bool) -> None:
    _same("set_tuning_results", results, error_on_invalid=error_on_invalid)


def test_the_cpu_has_no_results_of_tuning() -> None:
    assert _same("get_tuning_results").value == []


@pytest.mark.parametrize("graph", [0, 5, -1])
def test_no_graph_is_captured_on_the_cpu(graph: int) -> None:
    if not hasattr(onnxruntime.InferenceSession, "release_captured_graph"):
        pytest.skip("this onnxruntime has no such method")
    _same("release_captured_graph", graph)
    assert type(oracle.outcome(lambda: _pair()[0].release_captured_graph("x")).error) is TypeError


DYNAMIC: dict[str, Any] = {
    "efficient": {"ep.dynamic.workload_type": "Efficient"},
    "default": {"ep.dynamic.workload_type": "Default"},
    "nonsense": {"ep.dynamic.workload_type": "Nonsense"},
    "unknown": {"a": "b"},
    "numbers": {1: 2},
}


@pytest.mark.parametrize("options", DYNAMIC)
def test_dynamic_options_end_as_in_onnxruntime(options: str) -> None:
    _same("set_ep_dynamic_options", DYNAMIC[options])


@pytest.mark.parametrize("options", [None, 5, [("a", "b")], {}], ids=repr)
def test_dynamic_options_that_are_none_are_refused(options: Any) -> None:
    ours, theirs = (oracle.outcome(lambda s=s: s.set_ep_dynamic_options(options)).error for s in _pair())
    assert type(ours) is type(theirs) is not type(None)


def test_a_reconfigured_session_forgets_its_answers() -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    for reconfigure in (
        lambda: session.set_ep_dynamic_options({"a": "b"}),
        lambda: session.set_providers([CPU]),
        lambda: session.set_providers([*OTHERS, CPU]),
    ):
        session.run(None, {"x": ones(1, 4)})
        assert session.cache.stats().entries == 1
        reconfigure()
        assert session.cache.stats().entries == 0
        assert session.run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]


PROVIDERS: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "empty": ([], None),
    "the CPU": ([CPU], None),
    "the CPU with options": ([(CPU, {"a": 1})], None),
    "options beside": ([CPU], [{"a": 1}]),
    "all": ([*OTHERS, CPU], None),
    "all but the CPU": (OTHERS, None),
    "what is not there": (["CUDAExecutionProvider", CPU], None),
    "what nobody knows": (["zzz"], None),
    "a number": (5, None),
    "numbers": ([1], None),
    "too few options": ([CPU], []),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_providers_can_be_set_as_in_onnxruntime(name: str) -> None:
    sides = _pair(make_models.build("mlp"), providers=[CPU])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (oracle.outcome(lambda side=side: side.set_providers(*PROVIDERS[name])) for side in sides)
    oracle.assert_same_outcome(ours, theirs)
    if theirs.error is not None:
        return
    assert sides[0].get_providers() == sides[1].get_providers()
    assert sides[0].get_provider_options() == sides[1].get_provider_options()
    oracle.compare(*sides, {"x": ones(3, 16)})


@oracle.proves("`set_providers` with providers that are refused")
def test_a_session_whose_new_providers_are_refused_goes_on(backend: str) -> None:
    session = inferlite.InferenceSession(DOUBLE)
    with pytest.warns(UserWarning, match="zzz"), pytest.raises(RuntimeError, match="Unknown Provider Type: zzz"):
        session.set_providers(["zzz"])
    if backend == "native":
        assert session.run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]


def test_runs_and_bound_calls_go_on_while_providers_are_set(backend: str) -> None:
    if backend == "python":
        pytest.skip("onnxruntime has no model while it makes the session anew")
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for this test alone

    session = inferlite.InferenceSession(DOUBLE)
    x = ones(1, 4)
    call = session.bind({"x": x})

    def run(_: int) -> bool:
        return all(session.run(None, {"x": x})[0].tolist() == [[2.0] * 4] for _ in range(200))

    with ThreadPoolExecutor(3) as pool:
        runs = pool.map(run, range(3))
        for _ in range(5):
            session.set_providers([*OTHERS, CPU])
        assert all(runs)
    assert call()[0].tolist() == [[2.0] * 4]


def test_optimizers_are_disabled_for_the_first_session_alone() -> None:
    session = inferlite.InferenceSession(make_models.build("mlp"), disabled_optimizers=["GemmActivationFusion"])
    session.set_providers([CPU])
    assert session.run(None, {"x": ones(1, 16)})[0].shape == (1, 4)
    with pytest.raises(RuntimeError, match="does not have configuration with key"):
        session.get_session_options().get_session_config_entry("optimization.disable_specified_optimizers")


def test_falling_back_can_be_turned_off_and_on() -> None:
    ours, theirs = _pair()
    for session in (ours, theirs):
        session.disable_fallback()
        session.enable_fallback()
    oracle.compare(ours, theirs, {"x": f32(1, 2, 3, 4).reshape(1, 4)})
