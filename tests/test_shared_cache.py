"""Answers that processes share by way of a Redis or Valkey server, and servers that fail in every way."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import make_models
import pytest

import child
import inferlite
import oracle
from cases import f32
from inferlite._shared_url import read_url
from inferlite.exceptions import BackendUnavailableError
from test_readme import ROOT, code_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("backend")
native = pytest.mark.parametrize("backend", ["native"], indirect=True)

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
TRIPLE = make_models.parse("double (float[n] x) => (float[n] y) { two = Add(x, x) y = Add(two, x) }")
SECRET = b"sixteen bytes or more"
# Long enough for a machine that is busy with other things: what is tested is what happens, not how soon.
PATIENT = 5.0


class Server:
    """A real server on a socket of this machine."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Take a folder; `start` starts it."""
        self.path = folder / "server.sock"
        self._command = [
            _binary(),
            *("--port", "0", "--unixsocket", str(self.path), "--dir", str(folder), "--save", "", "--appendonly", "no"),
            *options,
        ]

    @property
    def url(self) -> str:
        """How a cache names it."""
        return f"unix://{self.path}"

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "eady to accept connections" in line:
                break
        assert self._process.poll() is None, "".join(said)

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ask(self, *parts: str | bytes) -> bytes:
        """The raw reply to a command."""
        encoded = [part.encode() if isinstance(part, str) else part for part in parts]
        command = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in encoded)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.path))
            client.sendall(command + b"*1\r\n$4\r\nPING\r\n")
            reply = b""
            while not reply.endswith(b"+PONG\r\n"):
                reply += client.recv(65536)
        return reply.removesuffix(b"+PONG\r\n")

    def names(self) -> list[str]:
        """What is kept."""
        return [line for line in self.ask("KEYS", "*").decode().split("\r\n") if line.startswith("inferlite:")]

    def value(self, key: str) -> bytes:
        """What is kept under a key."""
        return self.ask("GET", key).split(b"\r\n", 1)[1].removesuffix(b"\r\n")


def _binary() -> str:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        pytest.skip("there is neither valkey-server nor redis-server on this machine")
    return found


@contextlib.contextmanager
def _running(*options: str) -> Iterator[Server]:
    # Not pytest's own folder: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="inferlite-") as folder:
        server = Server(Path(folder), *options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    with _running() as server:
        yield server


def _load(url: str, model: bytes = DOUBLE, **settings: Any) -> Any:
    defaults = {"max_bytes": "1MB", "secret": SECRET, "shared_timeout": PATIENT}
    return inferlite.load(model, cache=inferlite.Cache(shared=url, **{**defaults, **settings}))


def _joined(server: Server, model: bytes = DOUBLE, **settings: Any) -> Any:
    """A model that has found its server."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _load(server.url, model, **settings)


def _counts(model: Any) -> tuple[int, int, int]:
    stats = model.stats().cache
    return stats.shared_hits, stats.shared_misses, stats.shared_errors


@native
def test_the_example_of_sharing_runs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "caching.md").read_text(encoding="utf-8")
    (example,) = [block for _, block in code_blocks(page, "py") if "shared=" in block]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_SECRET", SECRET.decode())
    (tmp_path / "model.onnx").write_bytes(DOUBLE)
    url = "redis://cache.internal:6379/0"
    assert url in example
    names: dict[str, Any] = {"inferlite": inferlite, "os": os}
    with warnings.catch_warnings():
        # On a busy machine the server may take longer than the example allows.
        warnings.simplefilter("ignore", RuntimeWarning)
        exec(example.replace(url, server.url), names)  # noqa: S102 - our own page
    assert capsys.readouterr().out == "0\n"
    assert names["model"](f32(1.0)).tolist() == [2.0]


@native
def test_one_process_computes_and_another_one_hits_with_the_same_bits(
    server: Server, child_environment: dict[str, str]
) -> None:
    code = f"""
        import inferlite, numpy as np
        cache = inferlite.Cache(max_bytes="1MB", shared={server.url!r}, secret={SECRET!r}, shared_timeout={PATIENT})
        model = inferlite.load({DOUBLE!r}, cache=cache)
        small, large = np.array([0.1, np.nan, -0.0], np.float32), np.linspace(0, 1, 50_000, dtype=np.float32)
        print(*(model(x).tobytes().hex()[-64:] for x in (small, large, small)))
        stats = model.stats().cache
        print(stats.hits, stats.misses, stats.shared_hits, stats.shared_misses, stats.shared_errors)
    """
    first = child.run(code, child_environment).split("\n")
    second = child.run(code, child_environment).split("\n")
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("1 2 0 2 0", "1 0 2 0 0")


@native
def test_a_session_shares_with_a_model_of_the_same_options(server: Server) -> None:
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 1
    cache = inferlite.Cache(shared=server.url, secret=SECRET, shared_timeout=PATIENT)
    session = inferlite.InferenceSession(DOUBLE, options, cache=cache)
    model = inferlite.load(DOUBLE, session_options=options, cache=cache)
    (wanted,) = session.run(None, {"x": f32(3.0)})
    oracle.assert_same_value(model(f32(3.0)), wanted)
    assert _counts(model) == (1, 0, 0)


@native
def test_other_models_options_secrets_and_databases_share_nothing(server: Server) -> None:
    x = f32(1.0, 2.0)
    _joined(server)(x)
    three = inferlite.SessionOptions()
    three.intra_op_num_threads = 3
    settings = inferlite.Cache(shared=server.url, secret=SECRET, shared_timeout=PATIENT)
    others = [
        (_joined(server, TRIPLE), 3),
        (_joined(server, secret=SECRET + b"!"), 2),
        (_load(server.url + "?db=1"), 2),
        (inferlite.load(DOUBLE, cache=settings, session_options=three), 2),
    ]
    for model, factor in others:
        oracle.assert_same_value(model(x), x * f32(factor))
        assert _counts(model) == (0, 1, 0)
    assert len(server.names()) == 4
    assert all(len(key) == len("inferlite:1:") + 64 for key in server.names())


@native
def test_a_value_that_anybody_has_changed_is_a_miss(server: Server) -> None:
    x = f32(1.0)
    _joined(server)(x)
    (key,) = server.names()
    whole = server.value(key)
    assert len(whole) < 200
    changed = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    for value in [*changed, whole[:-1], whole + b"\0", b"", whole[:32]]:
        server.ask("SET", key, value)
        model = _joined(server)
        oracle.assert_same_value(model(x), f32(2.0))
        assert _counts(model) == (0, 1, 0)
        assert server.value(key) == whole


@native
def test_an_answer_under_another_question_is_a_miss(server: Server) -> None:
    model = _joined(server)
    model(f32(1.0))
    (one,) = server.names()
    model(f32(5.0))
    (five,) = set(server.names()) - {one}
    server.ask("SET", five, server.value(one))
    again = _joined(server)
    oracle.assert_same_value(again(f32(5.0)), f32(10.0))
    assert _counts(again) == (0, 1, 0)


@native
@pytest.mark.parametrize(("ttl", "milliseconds"), [(None, 86_400_000), (60.0, 60_000)])
def test_every_key_goes_by_itself(server: Server, ttl: float | None, milliseconds: int) -> None:
    _joined(server, ttl=ttl)(f32(1.0))
    (key,) = server.names()
    left = int(server.ask("PTTL", key)[1:])
    assert milliseconds - 50_000 < left <= milliseconds


@native
def test_dropping_an_answer_drops_it_on_the_server_too(server: Server) -> None:
    model = _joined(server)
    model(f32(1.0))
    assert model.cache.invalidate(f32(1.0))
    assert server.names() == []
    model(f32(1.0))
    model.cache.clear()
    assert len(server.names()) == 1
    model(f32(1.0))
    assert _counts(model) == (1, 2, 0)


def _goes_on(model: Any, *, errors: int = 3) -> None:
    """Predictions are right without the server, which is given up after a few failures."""
    for number in range(20):
        oracle.assert_same_value(model(f32(number)), f32(2 * number))
    stats = model.stats().cache
    assert stats.misses == 20
    assert stats.shared_errors >= errors
    assert stats.shared_hits == 0


@native
def test_a_server_that_is_not_there_is_one_warning(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning) as caught:
        model = _load(f"unix://{tmp_path}/none")
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message).startswith(
        f"the shared cache at `{tmp_path}/none` cannot be used, and predictions go on without it until it can: "
    )
    _goes_on(model)
    assert model.stats().cache.shared_paused


@native
def test_a_port_that_nobody_listens_on(tmp_path: Path) -> None:
    assert tmp_path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.warns(RuntimeWarning, match=rf"`127\.0\.0\.1:{port}` cannot be used"):
            model = _load(f"redis://127.0.0.1:{port}", shared_timeout=0.5)
        _goes_on(model)


@native
def test_a_name_that_nobody_knows() -> None:
    with pytest.warns(RuntimeWarning, match="its name was not known when the model was loaded"):
        model = _load("redis://no-such-host.invalid")
    _goes_on(model)


@native
def test_a_server_that_accepts_and_never_answers() -> None:
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen(100)
        with pytest.warns(RuntimeWarning, match="no answer within 20ms"):
            model = _load(f"redis://127.0.0.1:{hung.getsockname()[1]}", shared_timeout=0.02)
        _goes_on(model)


class _Talker(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self.request.recv(65536):
                self.request.sendall(self.server.says)  # type: ignore[attr-defined]


@native
@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*1000000000\r\n",
        b"$99999999999\r\n",
        b"\0" * 10_000,
        b"-LOADING not yet\r\n" * 2,
    ],
)
def test_a_server_that_talks_nonsense(says: bytes) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Talker) as talker:
        talker.daemon_threads = True
        talker.says = says  # type: ignore[attr-defined]
        thread = threading.Thread(target=talker.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with pytest.warns(RuntimeWarning, match="cannot be used"):
                model = _load(f"redis://127.0.0.1:{talker.server_address[1]}", shared_timeout=0.5)
            _goes_on(model)
        finally:
            talker.shutdown()
            thread.join()


@native
def test_a_server_that_dies_and_comes_back(server: Server) -> None:
    model = _joined(server)
    model(f32(-1.0))
    server.kill()
    for number in range(20):
        oracle.assert_same_value(model(f32(number)), f32(2 * number))
    assert model.stats().cache.shared_paused
    server.start()
    give_up = time.monotonic() + 30
    number = 100
    while model.stats().cache.shared_paused and time.monotonic() < give_up:
        # Asked twice, since traffic without repeats would not be looked up for long.
        number += model(f32(number)).size
        oracle.assert_same_value(model(f32(number)), f32(2 * number))
    assert not model.stats().cache.shared_paused
    model(f32(0.5))
    other = _joined(server)
    oracle.assert_same_value(other(f32(0.5)), f32(1.0))
    assert _counts(other) == (1, 0, 0)


@native
def test_a_server_that_goes_ends_no_program_that_wants_broken_pipes_to(
    server: Server, child_environment: dict[str, str]
) -> None:
    code = f"""
        import inferlite, numpy as np, os, signal
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        cache = inferlite.Cache(max_bytes="1MB", shared={server.url!r}, secret={SECRET!r}, shared_timeout={PATIENT})
        model = inferlite.load({DOUBLE!r}, cache=cache)
        model(np.zeros(1, np.float32))
        os.kill({server.pid}, signal.SIGKILL)
        for number in range(1, 5000):
            assert model(np.full(1, number, np.float32)).tolist() == [2.0 * number]
            if model.stats().cache.shared_paused:
                break
        print(model.stats().cache.shared_errors)
    """
    assert child.run(code, child_environment).split() == ["3"]


@native
def test_connections_that_a_restart_has_cut_cost_nothing(server: Server) -> None:
    model = _joined(server)
    model(f32(1.0))
    server.kill()
    server.start()
    model(f32(2.0))
    assert _counts(model) == (0, 2, 0)
    assert len(server.names()) == 1


@native
def test_a_server_that_wants_a_password() -> None:
    with _running("--requirepass", "p@ss w/rd") as server:
        with pytest.warns(RuntimeWarning, match="NOAUTH"):
            _goes_on(_load(server.url))
        with pytest.warns(RuntimeWarning, match="WRONGPASS"):
            _load(server.url + "?pass=wrong")
        for entrance in ("?pass=p%40ss+w%2Frd", "?user=default&pass=p%40ss%20w/rd&db=1"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                model = _load(server.url + entrance)
            model(f32(1.0))
            assert _counts(model) == (0, 1, 0)


@native
def test_a_key_that_holds_something_else_is_passed_over(server: Server) -> None:
    _joined(server)(f32(1.0))
    (key,) = server.names()
    server.ask("DEL", key)
    server.ask("LPUSH", key, "something")
    model = _joined(server)
    for _ in range(5):
        oracle.assert_same_value(model(f32(1.0)), f32(2.0))
        model.cache.clear()
    assert not model.stats().cache.shared_paused


@native
def test_many_threads_share_a_few_connections(server: Server) -> None:
    model = _joined(server)
    barrier = threading.Barrier(8)
    wrong: list[int] = []

    def work(start: int) -> None:
        barrier.wait()
        numbers = range(start, start + 50)
        wrong.extend(number for number in numbers if model(f32(number)).tolist() != [2.0 * number])

    threads = [threading.Thread(target=work, args=(20 * index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(server.names()) == 190
    clients = server.ask("CLIENT", "LIST").count(b"laddr=")
    assert 1 <= clients <= 8 + 1


@native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_begins_empty_with_a_connection_of_its_own(server: Server) -> None:
    model = _joined(server)
    model(f32(1.0))
    pid = os.fork()
    if pid == 0:
        right = model(f32(1.0)).tolist() == [2.0] and _counts(model) == (1, 0, 0)
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    oracle.assert_same_value(model(f32(2.0)), f32(4.0))
    assert _counts(model) == (0, 2, 0)


@native
def test_a_port_of_this_machine() -> None:
    """The same by TCP, where a name and a number say where."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _running("--port", str(port), "--bind", "127.0.0.1") as server:
        model = _load(f"redis://localhost:{port}/3")
        model(f32(1.0))
        assert _counts(model) == (0, 1, 0)
        assert server.ask("INFO", "keyspace").count(b"db3:keys=1") == 1


@pytest.mark.parametrize("backend", ["python"], indirect=True)
def test_the_fallback_says_that_it_cannot(backend: str) -> None:
    assert backend == "python"
    cache = inferlite.Cache(shared="redis://localhost", secret=SECRET)
    with pytest.raises(BackendUnavailableError, match=r"is not available: .*in the process alone"):
        inferlite.load(DOUBLE, cache=cache)


def test_a_secret_is_required_and_nothing_secret_is_shown() -> None:
    with pytest.raises(ValueError, match=r"`shared` needs a `secret`.*pass the same"):
        inferlite.Cache(shared="redis://localhost")
    shown = repr(inferlite.Cache(shared="redis://me:hidden@localhost", secret=SECRET))
    assert "hidden" not in shown
    assert "sixteen" not in shown
    with pytest.raises(ValueError, match="`shared_timeout` must be more than 0 and at most 60 seconds, not 0"):
        inferlite.Cache(shared_timeout=0)
    with pytest.raises(TypeError, match="`shared_timeout` must be seconds, not 'soon'"):
        inferlite.Cache(shared_timeout="soon")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rediss://localhost", "cannot use TLS: name a tunnel"),
        ("http://localhost", "of the kind `http`, which is not known: write `redis://"),
        ("localhost:6379", "of the kind `localhost`"),
        ("redis://", "needs a host"),
        ("redis://localhost?db=1", "takes nothing behind the number of the database"),
        ("redis://localhost:99999", "cannot be read: write"),
        ("redis://hidden:password@[::1", "cannot be read: write"),
        ("redis://localhost/zero", "names the database `zero`, which is no number"),
        ("redis://me@localhost", "names a user without a password"),
        ("unix://", "needs the path of a socket"),
        ("unix:///a?database=2", "takes `db`, `user` and `pass`"),
    ],
)
def test_urls_that_cannot_be_read_say_what_to_write(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^`shared` ") as caught:
        inferlite.Cache(shared=url, secret=SECRET)
    assert says in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_urls_are_read_as_other_clients_read_them() -> None:
    local = {"title": "h:6379", "path": None, "host": "h", "port": 6379, "user": None, "password": None, "database": 0}
    assert read_url("redis://h") == read_url("valkey://h/") == local
    assert read_url("redis://:p%40@h:1/2") == {**local, "title": "h:1", "port": 1, "password": "p@", "database": 2}
    assert read_url("redis://u:p@[::1]")["title"] == "[::1]:6379"
    assert read_url("unix:///a%20b?db=3") == {
        **local,
        "title": "/a b",
        "path": "/a b",
        "host": "",
        "port": 0,
        "database": 3,
    }
