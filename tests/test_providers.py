"""Execution providers are normalised as onnxruntime normalises them."""

from __future__ import annotations

import warnings
from typing import Any

import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_inference_collection import check_and_normalize_provider_args

from inferlite import providers as provider_rules
from inferlite.providers import CPU, fallback_providers, normalize, usable

AVAILABLE = ["AzureExecutionProvider", CPU]
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"

ARGUMENTS: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "nothing with options": (None, [{}]),
    "no providers": ([], None),
    "one": ([CPU], None),
    "a tuple of names": ((CPU,), None),
    "with options": ([(CPU, {"a": 1, 2: None})], None),
    "mixed": ([("AzureExecutionProvider", {"k": True}), CPU], None),
    "options beside": ([CPU], [{"a": 1.5}]),
    "unavailable": ([CUDA, CPU], None),
    "unknown": (["x"], None),
    "twice": ([CPU, CPU], None),
    "twice with other options": ([(CPU, {"a": 1}), (CPU, {"a": 2})], None),
    "twice and unavailable": ([CUDA, CUDA], None),
    "one name instead of a list": ("CPU", None),
    "a set": ({CPU}, None),
    "a number": (5, None),
    "a dict": ({CPU: {}}, None),
    "numbers": ([1], None),
    "a list instead of a pair": ([[CPU, {}]], None),
    "three of a pair": ([(CPU, {}, 1)], None),
    "options that are no dict": ([(CPU, [])], None),
    "a pair without a name": ([(1, {})], None),
    "options beside that are no sequence": ([CPU], {"a": 1}),
    "options beside that are a number": ([CPU], 5),
    "fewer options": ([CPU, "AzureExecutionProvider"], [{}]),
    "more options": ([CPU], [{}, {}]),
    "options twice": ([(CPU, {})], [{}]),
    "options beside that hold no dict": ([CPU], [None]),
    "a good one before a bad one": ([CUDA, 1], None),
}


def _ending(function: Any, *arguments: Any) -> tuple[Any, list[tuple[type[Warning], str]]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*arguments)
        except Exception as error:  # noqa: BLE001 - every ending is compared
            result = (type(error), str(error))
    return result, [(warning.category, str(warning.message)) for warning in caught]


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_normalising_ends_as_in_onnxruntime(arguments: tuple[Any, Any]) -> None:
    wanted = _ending(check_and_normalize_provider_args, *arguments, AVAILABLE)
    assert _ending(normalize, *arguments, AVAILABLE) == wanted


def test_warnings_point_at_the_line_that_made_the_session() -> None:
    def constructor() -> None:
        create()

    def create() -> None:
        normalize(["x"], None, AVAILABLE)

    with pytest.warns(UserWarning, match="Specified provider 'x'") as caught:
        constructor()
    assert caught[0].filename == __file__


def test_what_a_build_does_not_have_is_left_out() -> None:
    assert usable([CUDA, CPU], [{"device_id": "0"}, {"a": "1"}], AVAILABLE) == [(CPU, {"a": "1"})]


def test_what_no_build_has_is_an_error_with_onnxruntimes_text() -> None:
    with pytest.raises(RuntimeError) as caught:
        usable(["x"], [{}], AVAILABLE)
    assert str(caught.value) == "Unknown Provider Type: x"


def test_available_providers_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_rules, "_all_providers", lambda: pytest.fail("onnxruntime was imported"))
    assert usable([CPU], [{}], AVAILABLE) == [(CPU, {})]


def test_every_provider_of_onnxruntime_is_known() -> None:
    names = onnxruntime.get_all_providers()
    assert usable(names, [{}] * len(names), []) == []


@pytest.mark.parametrize(
    ("names", "available", "substitutes"),
    [
        ([CPU], [CPU], [CPU]),
        ([CUDA], [CUDA, CPU], [CPU]),
        ([TENSORRT, CUDA], [TENSORRT, CUDA, CPU], [CUDA, CPU]),
        ([TENSORRT_RTX, CUDA], [TENSORRT_RTX, CUDA, CPU], [CUDA, CPU]),
        ([TENSORRT, CUDA], [CUDA, CPU], [CPU]),
        ([TENSORRT], [TENSORRT, CPU], [CPU]),
    ],
)
def test_what_is_fallen_back_to(names: list[str], available: list[str], substitutes: list[str]) -> None:
    assert fallback_providers(names, available) == substitutes


def test_the_two_tensorrt_providers_exclude_each_other() -> None:
    provider_rules.check_pair([TENSORRT, CUDA])
    with pytest.raises(ValueError, match=r"^Cannot enable both") as caught:
        provider_rules.check_pair([TENSORRT, TENSORRT_RTX])
    assert str(caught.value) == (
        "Cannot enable both 'TensorrtExecutionProvider' and 'NvTensorRTRTXExecutionProvider' in the same session."
    )
