"""What is published: tags, contents and metadata of the wheels, and the pure one at work in a fresh environment.

The wheels are those in the folder that INFERLITE_DIST names; `make wheels-check` builds them and runs this file.
"""

from __future__ import annotations

import base64
import email
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parent.parent
DIST = os.environ.get("INFERLITE_DIST")
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"]["version"]

if DIST is None:
    pytest.skip("no built wheels: `make wheels-check` builds and tests them", allow_module_level=True)


def find_one(pattern: str) -> Path:
    """The one file in the folder of wheels that matches."""
    found = sorted(Path(DIST).glob(pattern))
    assert len(found) == 1, f"{pattern} matches {found}"
    return found[0]


def native_wheel() -> Path:
    return find_one(f"inferlite-{VERSION}-cp311-abi3-*.whl")


def pure_wheel() -> Path:
    return find_one(f"inferlite-{VERSION}-*-none-any.whl")


def gpu_wheel() -> Path:
    return find_one(f"inferlite_gpu-{VERSION}-cp311-abi3-*.whl")


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def runtime_dependencies(wheel: Path) -> set[str]:
    """Names of what the wheel needs without any extra."""
    requirements = read_metadata(wheel).get_all("Requires-Dist", [])
    return {re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in requirements if "extra ==" not in line}


def package_files(wheel: Path) -> dict[str, bytes]:
    """Names and contents of the package's files, without the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.startswith("inferlite/")}


def test_the_native_wheel_serves_every_python_from_3_11_on_glibc_2_28() -> None:
    assert native_wheel().name == f"inferlite-{VERSION}-cp311-abi3-manylinux_2_28_x86_64.whl"


def test_auditwheel_agrees_with_the_tag_of_the_native_wheel() -> None:
    auditwheel = shutil.which("auditwheel")
    assert auditwheel is not None, "auditwheel is not on the PATH: `make wheels-check` puts it there"
    shown = subprocess.run(
        [auditwheel, "show", "--json", str(native_wheel())], capture_output=True, text=True, check=True
    )
    report = json.loads(shown.stdout)
    oldest = re.fullmatch(r"manylinux_2_(\d+)_x86_64", report["overall_tag"])
    assert oldest is not None, report
    assert int(oldest[1]) <= 28


def test_the_native_module_is_of_the_stable_abi_and_stands_beside_its_stub() -> None:
    names = set(package_files(native_wheel()))
    assert {"inferlite/_core.abi3.so", "inferlite/_core.pyi", "inferlite/py.typed"} <= names


def test_the_pure_wheel_is_the_native_one_without_the_native_module() -> None:
    native, pure = package_files(native_wheel()), package_files(pure_wheel())
    native.pop("inferlite/_core.abi3.so")
    assert sorted(pure) == sorted(native)
    assert pure == native


def test_the_gpu_wheel_holds_the_files_of_the_native_one() -> None:
    assert package_files(gpu_wheel()) == package_files(native_wheel())


def test_no_wheel_holds_leftovers() -> None:
    for wheel in (native_wheel(), pure_wheel(), gpu_wheel()):
        leftovers = [name for name in package_files(wheel) if "__pycache__" in name or name.endswith((".pyc", ".rs"))]
        assert leftovers == []


def test_the_wheels_depend_on_one_onnxruntime_and_little_else() -> None:
    others = {"ml-dtypes", "numpy", "rich", "typer"}
    assert runtime_dependencies(native_wheel()) == {"onnxruntime", *others}
    assert runtime_dependencies(pure_wheel()) == {"onnxruntime", *others}
    assert runtime_dependencies(gpu_wheel()) == {"onnxruntime-gpu", *others}


@pytest.mark.parametrize(
    "field", ["Version", "Requires-Python", "License-Expression", "License-File", "Provides-Extra", "Classifier"]
)
def test_all_wheels_say_the_same_of(field: str) -> None:
    values = [sorted(read_metadata(wheel).get_all(field, [])) for wheel in (native_wheel(), pure_wheel(), gpu_wheel())]
    assert values[0]
    assert values[0] == values[1] == values[2]


def test_the_licences_travel_with_every_distribution() -> None:
    for wheel in (native_wheel(), pure_wheel(), gpu_wheel()):
        with zipfile.ZipFile(wheel) as archive:
            names = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
        assert names == {"LICENSE-MIT", "LICENSE-APACHE"}


def test_every_file_of_the_gpu_wheel_stands_in_its_record() -> None:
    with zipfile.ZipFile(gpu_wheel()) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    (own_name,) = (name for name in contents if name.endswith(".dist-info/RECORD"))
    assert own_name == f"inferlite_gpu-{VERSION}.dist-info/RECORD"
    lines = contents.pop(own_name).decode().splitlines()
    assert lines.pop() == f"{own_name},,"
    recorded = {name: (digest, int(size)) for name, digest, size in (line.rsplit(",", 2) for line in lines)}

    def digest(content: bytes) -> str:
        return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

    assert recorded == {name: (digest(content), len(content)) for name, content in contents.items()}
    assert read_metadata(gpu_wheel())["Name"] == "inferlite-gpu"


@pytest.mark.parametrize(
    ("platform", "wanted"),
    [("manylinux_2_28_x86_64", "abi3"), ("manylinux_2_17_x86_64", "none-any"), ("win_amd64", "none-any")],
)
def test_pip_picks_the_pure_wheel_where_the_native_one_does_not_fit(platform: str, wanted: str, tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-index"),
            *("--find-links", DIST, "--dest", str(tmp_path)),
            *("--only-binary", ":all:", "--python-version", "3.12", "--platform", platform, "inferlite"),
        ],
        check=True,
        timeout=60,
    )
    (picked,) = tmp_path.iterdir()
    assert wanted in picked.name


@pytest.mark.timeout(600)
def test_the_pure_wheel_runs_the_demo_on_the_python_back_end(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    binaries = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("INFERLITE_", "PYTHON"))}
    constraints = ROOT / "requirements" / "constraints.txt"

    def call(*command: str) -> str:
        done = subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            capture_output=True, text=True, cwd=tmp_path, env=clean, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    call("python", "-m", "pip", "install", "--quiet", "--constraint", str(constraints), str(pure_wheel()))
    assert call("python", "-W", "ignore", "-c", "import inferlite; print(inferlite.backend)").strip() == "python"
    assert "accuracy" in call("inferlite", "demo").lower()


def test_the_sources_hold_what_a_build_needs_and_nothing_built() -> None:
    with tarfile.open(find_one(f"inferlite-{VERSION}.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        *("Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"),
        *("rust/inferlite-py/Cargo.toml", "rust/inferlite-core/Cargo.toml", "python/inferlite/__init__.py"),
    }
    assert wanted <= names
    assert [name for name in names if name.endswith((".so", ".pyc")) or name.startswith("target/")] == []
