"""Servers in processes of their own: ours, and those that it is compared with."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benches.forms import MODEL, PLAIN, PROTOCOL, Form
from benches.harness import NotMeasurableError, WrongAnswerError
from inferlite._library import find_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benches.subject import Subject

HOST: Final = "127.0.0.1"
PEERS: Final = Path(__file__).parent.parent / ".venv-peers"
PROGRAMS: Final = Path(__file__).with_name("peers")

START: Final = 120.0
"""Seconds that a server has until it answers."""

END: Final = 20.0
"""Seconds that it has to end once it is told to."""

LOOK: Final = 0.002
"""Seconds between two looks at whether it answers."""

# Where it runs


def cores() -> tuple[int, int]:
    """Return the core of the server and the one of those who ask it.

    Raises:
        NotMeasurableError: there are no two, or the system pins nothing.
    """
    if not hasattr(os, "sched_getaffinity"):
        message = "this system does not pin processes to cores"
        raise NotMeasurableError(message)
    first, *rest = sorted(os.sched_getaffinity(0))
    if not rest:
        message = "there is one core, but the server and the load need one each"
        raise NotMeasurableError(message)
    return first, rest[-1]


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep this thread on one core meanwhile, and so what it starts for good; None pins nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


# A server


@dataclass(slots=True)
class Server:
    """A server in a process of its own, and a context manager: it answers inside, and has ended afterwards.

    Attributes:
        name: who it is, for messages.
        command: what starts it, for a port.
        is_ready: tells whether the one at a port is.
        core: where it runs; None for wherever there is room.
        failure: what is raised where it does not start.
        environment: variables that it has besides ours.
        port: where it listens.
        seconds_to_ready: how long it took from the start of its process until it was ready.
    """

    name: str
    command: Callable[[int], list[str]]
    is_ready: Callable[[int], bool]
    core: int | None = None
    failure: type[Exception] = WrongAnswerError
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    seconds_to_ready: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready.

        Raises:
            Exception: `failure`: it has ended, or is not ready after a long time.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="inferlite-bench-")
        self.port = free_port()
        with pinned(self.core), Path(self._folder.name, "log").open("wb") as log:
            start = time.perf_counter()
            self._process = subprocess.Popen(
                self.command(self.port),
                env=os.environ | dict(self.environment),
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(start)
        except BaseException:
            self.stop()
            raise
        self.seconds_to_ready = time.perf_counter() - start
        return self

    def __exit__(self, *exception: object) -> None:
        """End it."""
        self.stop()

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://{HOST}:{self.port}"

    def resident_bytes(self) -> int:
        """Return what its process has in memory, libraries and mapped files included."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Let nothing of it run meanwhile: what it does at rest would take time from others on its core."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it, and what it has started; afterwards nothing of it runs."""
        process, folder = self._process, self._folder
        self._process = self._folder = None
        if process is not None:
            process.terminate()
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()
            # Some leave workers behind; they are in the session of their parent.
            with _ignored(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if folder is not None:
            folder.cleanup()

    def _wait_until_ready(self, start: float) -> None:
        assert self._process is not None
        pause = threading.Event()
        while not self.is_ready(self.port):
            if self._process.poll() is not None:
                message = f"{self.name} has ended at its start with {self._process.returncode}: {self._last_line()}"
                raise self.failure(message)
            if time.perf_counter() - start > START:
                message = f"{self.name} is not ready after {START:.0f} s: {self._last_line()}"
                raise self.failure(message)
            pause.wait(LOOK)

    def _last_line(self) -> str:
        assert self._folder is not None
        text = Path(self._folder.name, "log").read_text(encoding="utf-8", errors="replace")
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it has printed nothing")


@contextmanager
def _ignored(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return


def health(path: str) -> Callable[[int], bool]:
    """Return what tells whether the server at a port answers `GET path` with 200."""

    def is_ready(port: int) -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=END)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return is_ready


# Ours


def ours(subject: Subject, repository: Path, *, core: int | None = None, workers: int | None = None) -> Server:
    """Return our server of a folder of models, not started yet.

    Raises:
        NotMeasurableError: the subject has none.
    """
    if subject.name != "native":
        message = "the server is a part of the native back end"
        raise NotMeasurableError(message)

    def command(port: int) -> list[str]:
        address = ["--host", HOST, "--port", str(port)]
        limits = [] if workers is None else ["--workers", str(workers)]
        return [sys.executable, "-m", "inferlite", "serve", str(repository), *address, *limits]

    return Server("inferlite", command, health("/v2/health/ready"), core, environment={"INFERLITE_BACKEND": "native"})


def write_model(repository: Path, content: bytes, settings: str = "") -> Path:
    """Write a model into a repository, on one intra-op thread as in every benchmark; return the path of its file.

    Args:
        repository: the folder of the models.
        content: the model's bytes.
        settings: more lines for its `model.toml`.
    """
    path = repository / MODEL / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (repository / MODEL / "model.toml").write_text(f"threads = 1\n{settings}", encoding="utf-8")
    return path


# Peers


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that ours is compared with; `make peers` makes its environment.

    Attributes:
        name: as in targets.toml.
        folder: its environment under `.venv-peers`.
        form: how it is asked.
        ready: a path that it answers once it is ready; what else it serves does not matter.
    """

    name: str
    folder: str
    form: Form
    ready: str

    def server(self, model: Path, *, core: int | None) -> Server:
        """Return a server of one model, not started yet.

        Raises:
            NotMeasurableError: its environment is not here.
        """
        program = self._program()
        if not Path(program[0]).exists():
            message = f"{self.name} is not installed: `make peers` does that"
            raise NotMeasurableError(message)
        return Server(
            self.name,
            lambda port: [*program, str(model), str(port)],
            health(self.ready),
            core,
            failure=NotMeasurableError,
        )

    def _program(self) -> list[str]:
        binaries = PEERS / self.folder / "bin"
        if self.folder == "bare":
            return [str(binaries / "bare-server"), str(find_library())]
        return [str(binaries / "python"), str(PROGRAMS / f"{self.folder}_server.py")]


FASTAPI: Final = Peer("FastAPI 0.165 on uvicorn", "fastapi", PLAIN, "/ready")
MOSEC: Final = Peer("mosec 0.9.8", "mosec", PLAIN, "/")
TRITON: Final = Peer("Triton 2.51, Python backend", "triton", PROTOCOL, "/v2/health/ready")
BARE: Final = Peer("an actix handler that runs each row by itself", "bare", PLAIN, "/ready")
