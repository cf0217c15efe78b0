"""Where a shared cache is: the URL of a Redis or Valkey server."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

FORMS: Final = "`redis://user:password@host:6379/0` or `unix:///path/of.sock?db=0`"
DEFAULT_PORT: Final = 6379
MOST_DATABASES: Final = 2**31


def read_url(url: object) -> dict[str, Any]:
    """What a URL says, as the native part takes it; messages never show a password.

    Raises:
        TypeError: It is no text.
        ValueError: It cannot be read, or asks for what is not there.

    Example:
        >>> read_url("redis://cache.example/2")["title"]
        'cache.example:6379'
    """
    if not isinstance(url, str):
        message = f"`shared` must be the URL of a server or None, not {type(url).__name__}"
        raise TypeError(message)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        message = f"`shared` cannot be read: write {FORMS}"
        raise ValueError(message) from None
    if parts.scheme in {"rediss", "valkeys"}:
        message = (
            "`shared` cannot use TLS: name a tunnel on this machine, such as stunnel's, by `redis://localhost:port`"
        )
        raise ValueError(message)
    if parts.scheme in {"unix", "redis+unix", "valkey+unix"}:
        return _unix(parts)
    if parts.scheme not in {"redis", "valkey"}:
        message = f"`shared` is of the kind `{parts.scheme}`, which is not known: write {FORMS}"
        raise ValueError(message)
    host = parts.hostname
    if not host or parts.query or parts.fragment:
        message = f"`shared` needs a host, and takes nothing behind the number of the database: write {FORMS}"
        raise ValueError(message)
    port = DEFAULT_PORT if port is None else port
    return {
        "title": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "path": None,
        "host": host,
        "port": port,
        **_entrance(parts.username, parts.password, parts.path.removeprefix("/")),
    }


def _unix(parts: SplitResult) -> dict[str, Any]:
    options = parse_qs(parts.query, keep_blank_values=True)
    unknown = sorted(options.keys() - {"db", "user", "username", "pass", "password"})
    if not parts.path or parts.netloc or parts.fragment or unknown:
        message = f"`shared` needs the path of a socket, and takes `db`, `user` and `pass` behind it: write {FORMS}"
        raise ValueError(message)
    first = {name: values[0] for name, values in options.items()}
    path = unquote(parts.path)
    user = first.get("user", first.get("username"))
    password = first.get("pass", first.get("password"))
    entrance = _entrance(user, password, first.get("db", ""), quoted=False)
    return {"title": path, "path": path, "host": "", "port": 0, **entrance}


def _entrance(user: str | None, password: str | None, database: str, *, quoted: bool = True) -> dict[str, Any]:
    if database and not (database.isascii() and database.isdigit() and int(database) < MOST_DATABASES):
        message = f"`shared` names the database `{database}`, which is no number: write {FORMS}"
        raise ValueError(message)
    if user and not password:
        message = f"`shared` names a user without a password: write {FORMS}"
        raise ValueError(message)
    plain = unquote if quoted else str
    return {
        "user": plain(user) if user else None,
        "password": plain(password) if password else None,
        "database": int(database or 0),
    }
