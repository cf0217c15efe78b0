"""What models and sessions say about themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

DTYPES: Final = {
    "float": "float32",
    "uint8": "uint8",
    "int8": "int8",
    "uint16": "uint16",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "string": "string",
    "bool": "bool",
    "float16": "float16",
    "double": "float64",
    "uint32": "uint32",
    "uint64": "uint64",
    "complex64": "complex64",
    "complex128": "complex128",
    "bfloat16": "bfloat16",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "uint4": "uint4",
    "int4": "int4",
    "float4e2m1": "float4_e2m1fn",
    "uint2": "uint2",
    "int2": "int2",
    "float8e8m0": "float8_e8m0fnu",
}
"""onnxruntime's name of an element type, and the name that numpy or ml_dtypes gives it."""


class NodeArg:
    """An input or output of a session, as `onnxruntime.NodeArg`.

    Attributes:
        name: The name.
        type: onnxruntime's type string, such as `tensor(float)` or `seq(map(string,tensor(float)))`.
        shape: One entry for each axis: a number, a symbolic name, or None; empty for a scalar and where the model
            declares no shape.
    """

    __slots__ = ("_name", "_shape", "_type")

    def __init__(self, name: str, type_string: str, shape: list[int | str | None]) -> None:
        """Describe one input or output; sessions make these."""
        self._name = name
        self._type = type_string
        self._shape = shape

    @property
    def name(self) -> str:
        """The name."""
        return self._name

    @property
    def type(self) -> str:
        """onnxruntime's type string."""
        return self._type

    @property
    def shape(self) -> list[int | str | None]:
        """A new list with one entry for each axis: a number, a symbolic name, or None."""
        return list(self._shape)

    def __str__(self) -> str:
        """The form that onnxruntime prints."""
        return f"NodeArg(name='{self._name}', type='{self._type}', shape={self._shape})"


class ModelMetadata:
    """What a model says about itself, as `onnxruntime.ModelMetadata`.

    Attributes may be set, to a value of their own type; a session's model does not change by that.
    """

    custom_metadata_map: dict[str, str]
    description: str
    domain: str
    graph_description: str
    graph_name: str
    producer_name: str
    version: int

    __slots__ = (
        "custom_metadata_map",
        "description",
        "domain",
        "graph_description",
        "graph_name",
        "producer_name",
        "version",
    )

    def __init__(self, values: dict[str, Any]) -> None:
        """Take a value for every attribute; sessions make these."""
        for name in self.__slots__:
            setattr(self, name, values[name])

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute.

        Raises:
            TypeError: The value is not of the attribute's type.
            AttributeError: There is no attribute of this name.
        """
        wanted = {"custom_metadata_map": dict, "version": int}.get(name, str)
        if name in self.__slots__ and not isinstance(value, wanted):
            message = f"`{name}` takes {wanted.__name__}, not {type(value).__name__}"
            raise TypeError(message)
        super().__setattr__(name, value)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: The name.
        dtype: The element type as numpy or ml_dtypes calls it (`float32`, `bool`, `bfloat16`), `string` for strings;
            for what is not a tensor, onnxruntime's type string (`seq(map(string,tensor(float)))`).
        shape: One entry for each axis: a number, a symbolic name, or None for an axis of which nothing is known.
            None as a whole where the model declares no axes: a scalar, no shape at all, or not a tensor.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in its own order.

    Attributes:
        inputs: The inputs that a call passes. Initializers that a call may override are not among them.
        outputs: The outputs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the successful calls of a model took, in seconds; everything is 0 before the first.

    Attributes:
        count: How many were timed.
        mean: Their mean.
        p50: The median; this and the other percentiles are at most an eighth too high, never too low.
        p95: The 95th percentile.
        p99: The 99th percentile.
        max: The longest call.
    """

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a prediction cache has counted since it was made, and what it holds.

    With `Cache(by="row")`, hits, misses and coalesced count rows: those found, those run, and those that a batch
    repeats.

    Attributes:
        hits: Calls answered from what was kept.
        misses: Calls that were looked up and computed.
        coalesced: Calls answered by the computation of an identical one, which was under way when they came.
        skipped: Calls that were not looked up, because fewer than 1 % of look-ups were hits.
        evictions: Answers dropped for want of room.
        expired: Answers dropped because their time was over.
        entries: Answers now.
        bytes: Bytes now: keys, answers and bookkeeping.
        sampling: Whether only one call in 64 is looked up now.
        shared_hits: Calls answered by the server that processes share.
        shared_misses: Calls that it had no answer to, or none that can be trusted.
        shared_errors: Questions to it that failed: no connection, its time limit, or a refusal.
        shared_paused: Whether it is not asked now, because it failed again and again.
        hit_latency: How long it took to find the answer to a call that was answered from what is kept, measured of one
            hit in 64: from the inputs that were read to the answer that is still to be handed over.
    """

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    skipped: int = 0
    evictions: int = 0
    expired: int = 0
    entries: int = 0
    bytes: int = 0
    sampling: bool = False
    shared_hits: int = 0
    shared_misses: int = 0
    shared_errors: int = 0
    shared_paused: bool = False
    hit_latency: Latency = Latency()


@dataclass(frozen=True, slots=True)
class BatchingStats:
    """What micro-batching has counted since the model was loaded, and how it stands.

    Attributes:
        lone: Calls of a thread that waits, without `timeout`, that ran at once and by themselves, because the model was
            free. Others that do are batches of one call.
        idle: Batches that left because the model was free again.
        full: Batches that left because there was no room for more, or as many rows as are worth a run.
        delay: Batches that left because `max_delay` was over.
        deadline: Batches that left because a call could not wait any longer.
        sizes: How many batches had so many rows, by the number of rows; lone calls are not among them, and a call
            without rows counts as one.
        queue_time: How long calls stood in line; lone ones did not at all.
        compute_time: How long the runs of batches took; those of lone calls are in `Stats.latency`.
        dropped: Calls that left before their run, because their time was over or their caller gone.
        refused: Calls that raised QueueFullError.
        retried: Runs of parts of batches that had failed, or could not be split.
        queued_calls: Calls that wait now.
        queued_rows: Rows that wait now.
        running: Runs under way now.
        max_rows: The most rows of a batch now, for the shapes that ran last.
        seconds_per_row: What each row adds to the time of a run, by the line through the times of runs with the shapes
            that ran last; None while there is no line yet.
        seconds_per_run: What a run takes whatever the number of its rows, by the same line.
        rounding: How far the outputs of rows in a batch were from those of the same rows by themselves in trial runs at
            load, as a part of the largest number of an output; None where nothing rounds, or no run succeeded.
        pays: Whether batches pay for this model; if not, all calls run at once, as they come.
    """

    lone: int = 0
    idle: int = 0
    full: int = 0
    delay: int = 0
    deadline: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    queue_time: Latency = Latency()
    compute_time: Latency = Latency()
    dropped: int = 0
    refused: int = 0
    retried: int = 0
    queued_calls: int = 0
    queued_rows: int = 0
    running: int = 0
    max_rows: int = 0
    seconds_per_row: float | None = None
    seconds_per_run: float | None = None
    rounding: float | None = None
    pays: bool = True


def cache_stats(summary: tuple[Any, ...] | None) -> CacheStats | None:
    """The figures that a back end gives, without the limits at their end."""
    return None if summary is None else CacheStats(*summary[:-2])


@dataclass(frozen=True, slots=True)
class Stats:
    """What a model has counted since it was loaded.

    Attributes:
        calls: Calls that succeeded, those included that the cache answered, and those in a batch whose callers could
            wait no longer. A child that is forked goes on from its parent's count, but for what the cache answered.
        rows: Rows over those calls: the extent of axis 0 of the first input where that axis is dynamic, else 1 a call.
        latency: How long the runs took.
        cache: What the cache has counted; None without it, and once the model is closed.
        batching: What micro-batching has counted; None without it, and once the model is closed.
    """

    calls: int
    rows: int
    latency: Latency
    cache: CacheStats | None = None
    batching: BatchingStats | None = None


def tensor_spec(name: str, type_string: str, shape: list[int | str | None]) -> TensorSpec:
    """The `TensorSpec` for what a session says about an input or output.

    Example:
        >>> tensor_spec("x", "tensor(float)", ["batch", 4])
        TensorSpec(name='x', dtype='float32', shape=('batch', 4))
    """
    element = element_type(type_string)
    if element is None:
        return TensorSpec(name, type_string, None)
    # A scalar and a tensor without a declared shape look alike here, and onnxruntime checks neither.
    # A negative number in a model stands for an axis of any extent.
    axes = tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in shape)
    return TensorSpec(name, DTYPES.get(element, element), axes or None)


def element_type(type_string: str) -> str | None:
    """onnxruntime's name of the element type of a dense tensor; None for every other type.

    Example:
        >>> element_type("tensor(double)")
        'double'
    """
    if not (type_string.startswith("tensor(") and type_string.endswith(")")):
        return None
    return type_string.removeprefix("tensor(").removesuffix(")")


def unwrapped(type_string: str) -> str:
    """onnxruntime's name of the type inside an optional; of any other type, the name itself.

    Example:
        >>> unwrapped("optional(tensor(float))")
        'tensor(float)'
    """
    inner = type_string.removeprefix("optional(")
    return type_string if inner == type_string else inner.removesuffix(")")
