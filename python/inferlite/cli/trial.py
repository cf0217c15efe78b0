"""A request that a model answers, as a line for the shell: zeros of the right shape and type."""

from __future__ import annotations

import json
import math
import shlex
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_VALUES: Final = 256
"""Numbers that are written out; more of them come from /dev/zero."""

MOST_BYTES: Final = 64_000_000
"""Bytes of inputs for which there is a line at all."""

# An empty string is four bytes that say so.
SIZES: Final = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 4,
}
"""The protocol's types, and how many zero bytes are one value of each."""

_WRITTEN: Final[Mapping[str, Any]] = {"BOOL": False, "BYTES": "", "FP16": 0.0, "FP32": 0.0, "FP64": 0.0}


def curl_line(url: str, model: str, inputs: Sequence[Mapping[str, Any]], *, needs_key: bool = False) -> str | None:
    """Write a call of curl that asks a model for an answer.

    Args:
        url: The server's.
        model: The model's name.
        inputs: As the model's metadata lists them: `name`, `datatype`, and `shape` with -1 for what is open, which is
            left out where the model declares none.
        needs_key: Whether the request has to bring a key, which stands in the variable `KEY` then.

    Returns:
        None where an input has a type that the protocol cannot carry, or would be too large.

    Example:
        >>> line = curl_line("http://localhost:8000", "m", [{"name": "x", "datatype": "INT64", "shape": [-1, 2]}])
        >>> print(line.removeprefix("curl -s http://localhost:8000/v2/models/m/infer "))
        -d '{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT64","data":[0,0]}]}'
    """
    tensors = []
    for spec in inputs:
        # An open dimension may be of any size; one keeps the request small.
        shape = [1 if size < 0 else size for size in spec.get("shape", [-1])]
        datatype = spec["datatype"]
        if datatype not in SIZES:
            return None
        tensors.append({"name": spec["name"], "shape": shape, "datatype": datatype})
    counts = [math.prod(tensor["shape"]) for tensor in tensors]
    sizes = [count * SIZES[tensor["datatype"]] for count, tensor in zip(counts, tensors, strict=True)]
    if sum(sizes) > MOST_BYTES:
        return None
    address = shlex.quote(f"{url}/v2/models/{quote(model, safe='')}/infer")
    key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    # The type bfloat16 has no numbers in JSON.
    if sum(counts) <= MOST_VALUES and all(tensor["datatype"] != "BF16" for tensor in tensors):
        for tensor, count in zip(tensors, counts, strict=True):
            tensor["data"] = [_WRITTEN.get(tensor["datatype"], 0)] * count
        return f"curl -s {address}{key} -d {_quoted(tensors)}"
    for tensor, size in zip(tensors, sizes, strict=True):
        tensor["parameters"] = {"binary_data_size": size}
    head = _json(tensors)
    length = len(head.encode())
    return (
        f"{{ printf %s {shlex.quote(head)}; head -c {sum(sizes)} /dev/zero; }} | "
        f"curl -s {address}{key} -H 'Inference-Header-Content-Length: {length}' --data-binary @-"
    )


def _quoted(tensors: list[dict[str, Any]]) -> str:
    return shlex.quote(_json(tensors))


def _json(tensors: list[dict[str, Any]]) -> str:
    return json.dumps({"inputs": tensors}, separators=(",", ":"))
