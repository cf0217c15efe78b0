"""Models that are no files on the disk: bytes, buffers, and files that are open."""

from __future__ import annotations


def content_of(model: object, taker: str = "InferenceSession") -> bytes | None:
    """The bytes of a model that somebody holds, copied if they may change; None for a path and anything else.

    Args:
        model: Whatever was passed as a model.
        taker: What messages call whoever takes it.

    Raises:
        TypeError: It is a file that is not opened in binary mode.
    """
    if isinstance(model, bytes):
        return model
    if isinstance(model, (bytearray, memoryview)):
        return bytes(model)
    read = getattr(model, "read", None)
    if read is None or isinstance(model, type):
        return None
    content = read()
    if not isinstance(content, bytes):
        message = f"`{taker}` takes a file object that is opened in binary mode"
        raise TypeError(message)
    return content
