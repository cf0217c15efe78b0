"""Libraries that cannot be loaded: one clear error that names the file and the remedy, at once, and never a crash."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import child
from inferlite import _library

if TYPE_CHECKING:
    from collections.abc import Callable

# The whole child: the interpreter's start and numpy's import are most of it.
LIMIT = 20

TOO_OLD = """
typedef struct { const void *(*GetApi)(unsigned); const char *(*GetVersionString)(void); } Base;
static const void *api(unsigned version) { (void)version; return 0; }
static const char *version(void) { return "1.17.3"; }
static const Base base = { api, version };
const Base *OrtGetApiBase(void) { return &base; }
"""
NO_BASE = "const void *OrtGetApiBase(void) { return 0; }"
NO_VERSION = """
typedef struct { const void *(*GetApi)(unsigned); const char *(*GetVersionString)(void); } Base;
static const void *api(unsigned version) { (void)version; return 0; }
static const char *version(void) { return 0; }
static const Base base = { api, version };
const Base *OrtGetApiBase(void) { return &base; }
"""
ODD_VERSION = TOO_OLD.replace("1.17.3", "\\xff\\xfe%s%n")
UNDEFINED = "extern int no_such_function(void); int OrtGetApiBase(void) { return no_such_function(); }"


def _compiled(folder: Path, source: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (folder / "library.c").write_text(source)
    library = folder / "libonnxruntime.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "library.c"], check=True)
    return library


def _truncated(folder: Path, part: float) -> Path:
    content = _library.find_library().read_bytes()
    library = folder / "libonnxruntime.so"
    library.write_bytes(content[: int(len(content) * part)])
    return library


def _flipped(folder: Path) -> Path:
    content = bytearray(_library.find_library().read_bytes())
    content[:64] = bytes(byte ^ 0xFF for byte in content[:64])
    library = folder / "libonnxruntime.so"
    library.write_bytes(content)
    return library


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.so")
    return folder / "pipe.so"


def _text(folder: Path) -> Path:
    (folder / "text.so").write_text("not a library\n" * 100)
    return folder / "text.so"


def _empty(folder: Path) -> Path:
    (folder / "empty.so").touch()
    return folder / "empty.so"


def _dangling(folder: Path) -> Path:
    (folder / "link.so").symlink_to(folder / "nothing.so")
    return folder / "link.so"


def _loop(folder: Path) -> Path:
    (folder / "loop.so").symlink_to(folder / "loop.so")
    return folder / "loop.so"


def _libc(folder: Path) -> Path:
    del folder
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in maps if "/libc.so" in line or "/libc-" in line or "musl" in line)


BROKEN: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "nothing.so",
    "missing folder": lambda folder: folder / "none" / "nothing.so",
    "relative": lambda _: Path("nothing.so"),
    "folder": lambda folder: folder,
    "text": _text,
    "empty": _empty,
    "dangling link": _dangling,
    "link to itself": _loop,
    "first bytes only": lambda folder: _truncated(folder, 1e-6),
    "a hundredth": lambda folder: _truncated(folder, 0.01),
    "half": lambda folder: _truncated(folder, 0.5),
    "all but the end": lambda folder: _truncated(folder, 0.999),
    "spoiled header": _flipped,
    "libc": _libc,
    "pipe": _fifo,
    "device": lambda _: Path("/dev/zero"),
    "too old": lambda folder: _compiled(folder, TOO_OLD),
    "no base": lambda folder: _compiled(folder, NO_BASE),
    "no version": lambda folder: _compiled(folder, NO_VERSION),
    "odd version": lambda folder: _compiled(folder, ODD_VERSION),
    "undefined symbol": lambda folder: _compiled(folder, UNDEFINED),
    "long name": lambda folder: folder / ("n" * 5000),
    "odd name": lambda folder: folder / "a b\n`c` {} %s é.so",
}

# A second is what loading may take before it fails; a busy machine gets three.
LOAD = """
import time
import numpy
import inferlite
started = time.monotonic()
try:
    inferlite.InferenceSession
except inferlite.BackendUnavailableError as error:
    assert isinstance(error, inferlite.InferliteError)
    print(error)
else:
    print("usable")
assert time.monotonic() - started < 3
try:
    inferlite.load(b"")
except inferlite.InferliteError as error:
    print(type(error).__name__)
"""


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_library_is_one_clear_error(
    broken: str, backend: str, child_environment: dict[str, str], tmp_path: Path
) -> None:
    path = BROKEN[broken](tmp_path)
    printed = child.run(LOAD, {**child_environment, "INFERLITE_ORT_LIBRARY": str(path)}, limit=LIMIT)
    *message, kind = printed.rstrip("\n").split("\n")
    text = "\n".join(message)
    if backend == "python":
        # The fallback runs on the onnxruntime package, so the file does not matter.
        assert (text, kind) == ("usable", "ModelLoadError")
        return
    assert str(path) in text
    assert "INFERLITE_ORT_LIBRARY" in text
    assert kind == "BackendUnavailableError"


def test_a_library_that_is_too_old_is_named_with_both_versions(
    backend: str, child_environment: dict[str, str], tmp_path: Path
) -> None:
    path = _compiled(tmp_path, TOO_OLD)
    printed = child.run(LOAD, {**child_environment, "INFERLITE_ORT_LIBRARY": str(path)}, limit=LIMIT)
    if backend == "native":
        assert "1.17.3" in printed
        assert "1.24" in printed


def test_without_a_wish_for_a_back_end_a_broken_library_is_an_error_too(
    backend: str, child_environment: dict[str, str], tmp_path: Path
) -> None:
    if backend == "python":
        pytest.skip("the pure wheel has no native part to load the library")
    del child_environment["INFERLITE_BACKEND"]
    printed = child.run(LOAD, {**child_environment, "INFERLITE_ORT_LIBRARY": str(tmp_path / "nothing.so")}, limit=LIMIT)
    assert str(tmp_path / "nothing.so") in printed


def test_the_library_can_be_named(backend: str, child_environment: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "renamed library.so"
    shutil.copyfile(_library.find_library(), copy)
    code = """
        import numpy, inferlite, committed
        session = inferlite.InferenceSession(committed.path("double"))
        print(session.run(None, {"x": numpy.ones((1, 4), numpy.float32)})[0].tolist())
        print(inferlite.backend)
        print("renamed library.so" in open("/proc/self/maps").read())
    """
    printed = child.run(code, {**child_environment, "INFERLITE_ORT_LIBRARY": str(copy)}).splitlines()
    assert printed[0] == "[[2.0, 2.0, 2.0, 2.0]]"
    assert printed[-1] == str(backend == "native")


def test_without_the_native_part_the_fallback_says_so_once(child_environment: dict[str, str]) -> None:
    del child_environment["INFERLITE_BACKEND"]
    code = """
        import sys, warnings
        sys.modules["inferlite._core"] = None
        import numpy, committed
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import inferlite
            assert not caught
            for _ in range(3):
                session = inferlite.InferenceSession(committed.path("double"))
        assert session.run(None, {"x": numpy.ones((1, 4), numpy.float32)})[0].tolist() == [[2.0] * 4]
        (warning,) = caught
        assert warning.category is RuntimeWarning
        assert "_core" in str(warning.message)
        assert warning.filename == "<string>", warning.filename
    """
    child.run(code, child_environment)


def test_asked_for_without_the_native_part_the_native_back_end_is_an_error(child_environment: dict[str, str]) -> None:
    code = """
        import sys
        sys.modules["inferlite._core"] = None
        import inferlite
        try:
            inferlite.InferenceSession
        except inferlite.BackendUnavailableError as error:
            assert "_core" in str(error)
        else:
            raise SystemExit("no error")
    """
    child.run(code, {**child_environment, "INFERLITE_BACKEND": "native"})
