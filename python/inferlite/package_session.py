"""Sessions that run on the onnxruntime package itself, because the native part cannot be told what they need."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from inferlite._fallback import InferenceSession as RunningSession
from inferlite.session import InferenceSession

if TYPE_CHECKING:
    from collections.abc import Callable

# What code outside onnxruntime reads of its sessions.
_ATTRIBUTES: Final = (
    "_enable_fallback",
    "_input_epdevices",
    "_input_meminfos",
    "_inputs_meta",
    "_model_bytes",
    "_model_meta",
    "_model_path",
    "_output_meminfos",
    "_outputs_meta",
    "_overridable_initializers",
    "_provider_options",
    "_providers",
    "_sess",
    "_sess_options",
    "_sess_options_initial",
)


class PackageSession(InferenceSession):
    """A session that hands every call over to one of the onnxruntime package."""

    _is_handed_over = True

    @property
    def engine(self) -> Literal["onnxruntime (python)"]:
        """What runs the model."""
        return "onnxruntime (python)"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        """Refuse to be pickled or copied: the options do not tell what they hold.

        Raises:
            TypeError: Always.
        """
        message = f"cannot pickle {type(self).__name__!r} object: its options cannot be read"
        raise TypeError(message)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever onnxruntime's session has
        """An attribute that only onnxruntime's session has."""
        running = self.__dict__.get("_twin")
        if running is None:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(running, name)


def _forwarded(name: str) -> Callable[..., Any]:
    original = getattr(RunningSession, name)

    def call(self: PackageSession, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the other session takes them
        return getattr(self._twin, name)(*args, **kwargs)

    call.__name__, call.__qualname__, call.__doc__ = name, f"PackageSession.{name}", original.__doc__
    return call


def _read(name: str) -> property:
    return property(lambda self: getattr(self._twin, name))


for _name in dir(RunningSession):
    if (not _name.startswith("_") or _name.startswith("_cache_")) and callable(getattr(RunningSession, _name)):
        setattr(PackageSession, _name, _forwarded(_name))
for _name in (*_ATTRIBUTES, "cache"):
    setattr(PackageSession, _name, _read(_name))


def class_for(session_class: type[InferenceSession]) -> type[PackageSession]:
    """The class of a session that was made as a `session_class`, and is handed over: it stays an instance of that."""
    if session_class is InferenceSession:
        return PackageSession
    made: type[PackageSession] | None = vars(session_class).get("_package_class")
    if made is None:
        names = {"__module__": session_class.__module__, "__qualname__": session_class.__qualname__}
        made = types.new_class(
            session_class.__name__, (session_class, PackageSession), exec_body=lambda body: body.update(names)
        )
        # With the class itself, so that both go together.
        session_class._package_class = made  # type: ignore[attr-defined]  # noqa: SLF001 - this module's note
    return made
