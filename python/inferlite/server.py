"""A folder of models over HTTP, from this process: `inferlite.Server`."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from inferlite import _backend
from inferlite.cache import parse_size
from inferlite.capabilities import refuse
from inferlite.exceptions import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]

ACCESS_LOGS: Final = ("off", "text", "json")
"""What a line of the access log may look like."""

LONGEST: Final = 86_400
"""Seconds that any time limit may have; what is longer is a mistake."""

MOST_PORTS: Final = 65_535
MOST_WORKERS: Final = 1_024
MOST_AT_ONCE: Final = 1_000_000

POLL: Final = 0.005
"""Seconds between two looks at what is being loaded."""

PATIENCE: Final = 0.05
"""Seconds after which Ctrl-C is heard while a server stops."""

# Where a server listens on all addresses, whoever is on the same machine asks at one of these.
_NEARBY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address that is read, not bound


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One version of a model in a server's index.

    Attributes:
        name: The model's name, or that of a file or folder which cannot be a model.
        version: Its version, a number as text, or the name of what cannot be one; None for a model of which no version
            is known.
        state: `READY` for one that answers, `LOADING`, `UNLOADING`, or `UNAVAILABLE`.
        reason: Why it does not answer, or why what answers is not what the folder holds; None where all is well.
    """

    name: str
    version: str | None
    state: State
    reason: str | None


class Server:
    """Serves a folder of models over HTTP, by the Open Inference Protocol, until it is stopped.

    It listens once it is made. The folder holds `NAME/VERSION/model.onnx`, `NAME/model.onnx` or `NAME.onnx` for each
    model, and `NAME/model.toml` with settings for those that have any. Threads of the native part read, answer and
    write, without the GIL. `inferlite serve` is the same from a shell.

    A server belongs to the process that has made it: a fork of that process has none.

    Args:
        repository: The folder; it must be there, and may be empty.
        host: The address to listen on. Any but those of the machine itself (`127.0.0.1`, `::1`, `localhost`) demands
            `keys`.
        port: The port; 0 for one that is free.
        workers: Threads that read requests and write replies; None for as many as the process may keep busy.
        keys: Who has one of them may ask for answers: `Authorization: Bearer KEY`, or `X-API-Key: KEY`. None are needed
            where there are none.
        admin_keys: Keys for all of that and for what changes or reveals how the server works: index, load, unload,
            rollback, statistics, metrics. Where there are `keys` and no `admin_keys`, nobody may do that over HTTP.
        max_body: The largest body of a request, uncompressed: bytes, or text such as ``"64MB"``. Larger ones get 413.
        max_connections: Connections that may be open at once; more have to wait.
        max_requests: Requests that may be read or answered at once; more get 503.
        header_timeout: Seconds until the head of a request must be there.
        body_timeout: Seconds until its body must be there.
        idle_timeout: Seconds that a connection may be silent between two requests.
        drain_timeout: Seconds that requests under way have to end, once the server is told to stop.
        watch: Seconds between two looks at the folder, after which models that have come, gone or changed are loaded or
            unloaded; None to do so only when told.
        access_log: Whether each request leaves a line, `"text"` or `"json"`, or none: `"off"`.
        access_log_path: The file that these lines are appended to; None for standard error.
        insecure: Whether an address that others can reach may go without `keys`.
        wait: Whether to return only when every model in the folder has been loaded or has failed; see `index`. Ctrl-C
            ends that, and the server.

    Raises:
        BackendUnavailableError: The Python back end is active; the server is a part of the native one.
        ModelLoadError: There is no such folder, or it cannot be read.
        OSError: The address cannot be listened on, or the access log not be written.
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, or the address is one that others can reach and there are no `keys`.

    Example:
        >>> import inferlite
        >>> with inferlite.Server("models/") as server:  # doctest: +SKIP
        ...     print(server.url, [model.name for model in server.index()])
        http://127.0.0.1:39041 ['digits']
    """

    def __init__(  # noqa: PLR0913 - keyword arguments, each with a default
        self,
        repository: str | os.PathLike[str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int | None = None,
        keys: Sequence[str] = (),
        admin_keys: Sequence[str] = (),
        max_body: int | str = "64MB",
        max_connections: int = 10_000,
        max_requests: int = 4096,
        header_timeout: float = 10.0,
        body_timeout: float = 30.0,
        idle_timeout: float = 75.0,
        drain_timeout: float = 30.0,
        watch: float | None = 1.0,
        access_log: Literal["off", "text", "json"] = "off",
        access_log_path: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: bool = True,
    ) -> None:
        """Listen, and begin to load; see the class."""
        folder = _read_folder(repository)
        settings: dict[str, Any] = {
            "host": _read_host(host),
            "port": _read_count("port", port, least=0, most=MOST_PORTS),
            "workers": None if workers is None else _read_count("workers", workers, least=1, most=MOST_WORKERS),
            "inference_keys": _read_keys("keys", keys),
            "admin_keys": _read_keys("admin_keys", admin_keys),
            "body_limit": _read_size("max_body", max_body),
            "connections": _read_count("max_connections", max_connections, least=1, most=MOST_AT_ONCE),
            "requests": _read_count("max_requests", max_requests, least=1, most=MOST_AT_ONCE),
            "header_time": _read_seconds("header_timeout", header_timeout),
            "body_time": _read_seconds("body_timeout", body_timeout),
            "idle_time": _read_seconds("idle_timeout", idle_timeout),
            "drain_time": _read_seconds("drain_timeout", drain_timeout, may_be_zero=True),
            "watch": None if watch is None else _read_seconds("watch", watch, otherwise="seconds or None"),
            "access_log": _read_access_log(access_log),
            "access_log_path": _read_log_path(access_log_path, access_log),
        }
        _read_flag("wait", wait)
        if not (_read_flag("insecure", insecure) or settings["inference_keys"] or is_loopback(host)):
            message = (
                f"`host` is `{host}`, where others may reach the server without a key: pass `keys`, or "
                "`insecure=True` if that is meant"
            )
            raise ValueError(message)
        core = _backend.native_core()
        if core is None:
            refuse("server", "`inferlite.Server`")
        _check_log(settings["access_log_path"])
        try:
            self._native = core.Server(folder, settings)
        except OSError as error:
            # The class that belongs to the number, such as PermissionError, is made by this one.
            reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
            message = f"cannot listen on {show_address(host, port)}: {reason}"
            raise (OSError(error.errno, message) if error.errno else OSError(message)) from error
        # A server that nobody holds any more ends, and at the latest with the interpreter.
        self._finalizer = weakref.finalize(self, self._native.stop)
        if wait:
            try:
                self.wait_until_ready()
            except BaseException:
                self.stop()
                raise

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return str(self._native.address[0])

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._native.address[1])

    @property
    def url(self) -> str:
        """Where it is asked on this machine, such as ``http://127.0.0.1:8000``."""
        return f"http://{show_address(_NEARBY.get(self.host, self.host), self.port)}"

    def is_ready(self) -> bool:
        """Whether every model that was in the folder at the start has been loaded or has failed."""
        return bool(self._native.is_ready())

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until `is_ready`, which Ctrl-C ends.

        Args:
            timeout: How many seconds to wait at most; None for as long as it takes.

        Returns:
            Whether it is ready.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = threading.Event()
        while not self.is_ready():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            pause.wait(min(POLL, left))
        return True

    def index(self, *, anew: bool = True) -> list[ServedModel]:
        """Every version that is served, was to be served, or still answers requests that came before.

        None for an empty folder. Once the server has stopped, models that served are `UNAVAILABLE`, without a version.

        Args:
            anew: Whether to look at a folder that is not watched for what in it cannot be served for its name or place;
                nothing is loaded.
        """
        if anew:
            self._native.look_around()
        return [ServedModel(*entry) for entry in self._native.index()]

    def notices(self) -> list[str]:
        """What has gone wrong without failing a call of this class; each is told once.

        Runs that do not end, shared caches that cannot be used, and folders that do not answer.
        """
        return list(self._native.notices())

    def load(self, name: str) -> None:
        """Load a model from the folder, anew if it is served already, and wait for that.

        The old one answers until the new one is warmed up, and goes on if that fails.

        Raises:
            ModelLoadError: It cannot be loaded, or takes and gives something that those who use the old one do not
                expect.
        """
        self._native.load(_read_name(name))

    def unload(self, name: str) -> None:
        """Serve a model no longer; requests that have come before are answered.

        Raises:
            ModelLoadError: There is no such model.
        """
        self._native.unload(_read_name(name))

    def rollback(self, name: str) -> None:
        """Serve again what was served before the last change of a model.

        Raises:
            ModelLoadError: There is no such model, or nothing was served before.
        """
        self._native.rollback(_read_name(name))

    def stop(self) -> None:
        """Take no more requests, wait for those under way for as long as `drain_timeout` says, and end.

        Returns when the last thread of the server has ended. Ctrl-C ends the wait. Another call does nothing.
        """
        # Signals are for the main thread, which must not be in native code for as long as that takes.
        stopping = threading.Thread(target=self._native.stop, name="inferlite-stop", daemon=True)
        try:
            stopping.start()
        except RuntimeError:
            # There is no thread to be had.
            self._native.stop()
        while stopping.is_alive():
            stopping.join(PATIENCE)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        """Return the server, which has been listening since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def __repr__(self) -> str:
        """Where it is asked."""
        state = "" if self._finalizer.alive else ", stopped"
        return f"<inferlite.Server: {self.url}{state}>"


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address; a name other than `localhost` may stand for any.

    Example:
        >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    if host in {"127.0.0.1", "localhost", "::1"}:
        return True
    import ipaddress  # noqa: PLC0415 - most hosts are one of the above

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def show_address(host: str, port: int) -> str:
    """Write an address as it stands in a URL.

    Example:
        >>> show_address("127.0.0.1", 80), show_address("::1", 80)
        ('127.0.0.1:80', '[::1]:80')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read_folder(repository: object) -> str:
    if not isinstance(repository, (str, os.PathLike)):
        message = f"`repository` must be the path of a folder, not {repository!r}"
        raise TypeError(message)
    path = Path(os.fsdecode(repository))
    try:
        if path.is_dir():
            return str(path)
        reason = "is a file, not a folder" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error}"
    message = f"repository `{path}` {reason}"
    raise ModelLoadError(message)


def _read_host(host: object) -> str:
    if not isinstance(host, str):
        message = f"`host` must be text such as `127.0.0.1`, not {host!r}"
        raise TypeError(message)
    if not host or not host.isprintable() or " " in host:
        message = f"`host` must be an address or a name such as `127.0.0.1`, not {host!r}"
        raise ValueError(message)
    return host


def _read_count(name: str, number: object, *, least: int, most: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        message = f"`{name}` must be a number, not {number!r}"
        raise TypeError(message)
    if not least <= number <= most:
        message = f"`{name}` must be from {least} to {most}, not {number}"
        raise ValueError(message)
    return number


def _read_seconds(name: str, seconds: object, *, may_be_zero: bool = False, otherwise: str = "seconds") -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        message = f"`{name}` must be {otherwise}, not {seconds!r}"
        raise TypeError(message)
    # NaN is in no range.
    if not (0 < seconds <= LONGEST or (may_be_zero and seconds == 0)):
        least = "from 0 to" if may_be_zero else "more than 0 and at most"
        message = f"`{name}` must be {least} {LONGEST} seconds, not {seconds}"
        raise ValueError(message)
    return float(seconds)


def _read_size(name: str, size: Any) -> int:  # noqa: ANN401 - what a caller gave
    try:
        return parse_size(size)
    except (TypeError, ValueError) as error:
        message = f"`{name}`: {error}"
        raise type(error)(message) from None


def _read_keys(name: str, keys: object) -> list[str]:
    """Check keys without showing any.

    Raises:
        TypeError: They are not a sequence of text.
        ValueError: One of them could never be sent in a header.
    """
    # One key alone would be taken apart into its letters, each of them a key.
    if isinstance(keys, (str, bytes)) or not hasattr(keys, "__iter__"):
        message = f"`{name}` must be a list of keys, not {type(keys).__name__}"
        raise TypeError(message)
    given = list(keys)
    for key in given:
        if not isinstance(key, str):
            message = f"`{name}` must hold text, not {type(key).__name__}"
            raise TypeError(message)
        if not key:
            message = f"`{name}` holds a key that is empty: take letters, digits and signs of ASCII, no blanks"
            raise ValueError(message)
        if not key.isascii() or not key.isprintable() or " " in key:
            message = (
                f"`{name}` holds a key that no header can carry: take letters, digits and signs of ASCII, no blanks"
            )
            raise ValueError(message)
    return given


def _read_access_log(form: object) -> str | None:
    if not isinstance(form, str) or form not in ACCESS_LOGS:
        message = f"`access_log` must be one of {', '.join(map(repr, ACCESS_LOGS))}, not {form!r}"
        raise ValueError(message)
    return None if form == "off" else form


def _read_log_path(path: object, form: str) -> str | None:
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        message = f"`access_log_path` must be a path or None, not {path!r}"
        raise TypeError(message)
    if form == "off":
        message = '`access_log_path` is given, but nothing is logged: pass `access_log="text"` or `"json"`'
        raise ValueError(message)
    return os.fsdecode(path)


def _check_log(path: str | None) -> None:
    """Find out that a log cannot be written while the error can still name the file, and nothing listens yet."""
    if path is not None:
        with Path(path).open("ab"):
            pass


def _read_flag(name: str, flag: object) -> bool:
    if not isinstance(flag, bool):
        message = f"`{name}` must be True or False, not {flag!r}"
        raise TypeError(message)
    return flag


def _read_name(name: object) -> str:
    if not isinstance(name, str):
        message = f"`name` must be the name of a model, not {name!r}"
        raise TypeError(message)
    return name
