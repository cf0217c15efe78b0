"""Finding ONNX Runtime's library without importing onnxruntime."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import onnxruntime
import pytest

from inferlite._library import LIBRARY_VARIABLE, find_library, library_names, pick_library
from inferlite.exceptions import BackendUnavailableError

REMEDY = "install onnxruntime (`pip install onnxruntime`), or name the file in INFERLITE_ORT_LIBRARY"


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)


def _install(monkeypatch: pytest.MonkeyPatch, package: Path | None) -> None:
    """Make this folder the installed onnxruntime package, or none."""
    spec = None if package is None else ModuleSpec("onnxruntime", None, is_package=True)
    if spec is not None and spec.submodule_search_locations is not None:
        spec.submodule_search_locations.append(str(package))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "onnxruntime" else None)


@pytest.mark.parametrize(
    ("system", "version", "names"),
    [
        ("Linux", "1.32.0", ["libonnxruntime.so.1.32.0", "libonnxruntime.so.1", "libonnxruntime.so"]),
        ("Linux", None, ["libonnxruntime.so"]),
        ("Darwin", "1.32.0", ["libonnxruntime.1.32.0.dylib", "libonnxruntime.1.dylib", "libonnxruntime.dylib"]),
        ("Darwin", None, ["libonnxruntime.dylib"]),
        ("Windows", "1.32.0", ["onnxruntime.dll"]),
        ("Windows", None, ["onnxruntime.dll"]),
        ("FreeBSD", "1.32.0", ["libonnxruntime.so.1.32.0", "libonnxruntime.so.1", "libonnxruntime.so"]),
    ],
)
def test_names_of_the_library(system: str, version: str | None, names: list[str]) -> None:
    assert library_names(system, version) == names
    for name in names:
        assert pick_library(system, [name]) == name


@pytest.mark.parametrize(
    ("system", "files", "picked"),
    [
        ("Linux", ["libonnxruntime.so", "libonnxruntime.so.1", "libonnxruntime.so.1.32.0"], "libonnxruntime.so.1.32.0"),
        ("Linux", ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.10.0"], "libonnxruntime.so.1.10.0"),
        ("Linux", ["libonnxruntime_providers_shared.so", "__init__.py"], None),
        ("Linux", ["libonnxruntime.1.32.0.dylib", "onnxruntime.dll"], None),
        ("Darwin", ["libonnxruntime.1.32.0.dylib", "libonnxruntime.dylib"], "libonnxruntime.1.32.0.dylib"),
        ("Windows", ["onnxruntime.dll", "onnxruntime_providers_shared.dll"], "onnxruntime.dll"),
        ("Linux", [], None),
    ],
)
def test_the_library_among_the_files_of_a_folder(system: str, files: list[str], picked: str | None) -> None:
    assert pick_library(system, files) == picked


def test_the_library_lies_in_the_installed_package() -> None:
    library = find_library()
    assert library.is_file()
    assert library.parent == Path(onnxruntime.__file__).parent / "capi"
    assert library.name in library_names(platform.system(), onnxruntime.__version__)


def test_finding_the_library_does_not_import_onnxruntime() -> None:
    code = (
        "import sys; from inferlite._library import find_library; print(find_library()); "
        "assert not {'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert child.stdout.strip() == str(find_library())


def test_the_environment_names_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, "/somewhere/libonnxruntime.so")
    _install(monkeypatch, None)
    assert find_library() == Path("/somewhere/libonnxruntime.so")


def test_an_empty_variable_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = find_library()
    monkeypatch.setenv(LIBRARY_VARIABLE, "")
    assert find_library() == expected


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, None)
    with pytest.raises(BackendUnavailableError) as caught:
        find_library()
    assert str(caught.value) == f"the package onnxruntime is not installed: {REMEDY}"


@pytest.mark.parametrize("with_folder", [True, False])
def test_a_package_without_a_library_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, with_folder: bool
) -> None:
    if with_folder:
        (tmp_path / "capi").mkdir()
    _install(monkeypatch, tmp_path)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(BackendUnavailableError) as caught:
        find_library()
    assert str(caught.value) == f"the package onnxruntime in `{tmp_path}` carries no `libonnxruntime.so`: {REMEDY}"


def test_the_library_of_another_system_is_found_in_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    capi = tmp_path / "capi"
    capi.mkdir()
    for name in ("libonnxruntime.so.1.32.0", "libonnxruntime.1.32.0.dylib", "onnxruntime.dll"):
        (capi / name).touch()
    _install(monkeypatch, tmp_path)
    for system, name in {
        "Linux": "libonnxruntime.so.1.32.0",
        "Darwin": "libonnxruntime.1.32.0.dylib",
        "Windows": "onnxruntime.dll",
    }.items():
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        assert find_library() == capi / name
