"""Makes ONNX models cheap to call from Python: a drop-in for onnxruntime's session, and a `Model` with a small API.

Example:
    >>> import inferlite
    >>> session = inferlite.InferenceSession("model.onnx")  # doctest: +SKIP
    >>> outputs = session.run(None, {"x": x})  # doctest: +SKIP
    >>> model = inferlite.load("model.onnx")  # doctest: +SKIP
    >>> y = model(x)  # doctest: +SKIP
    >>> with inferlite.Server("models/") as server:  # doctest: +SKIP
    ...     print(server.url)

Names are resolved when they are used: `import inferlite` imports neither onnxruntime nor the native part.
`InferenceSession` and `Model` are the classes of the back end that is active at that moment, which `backend` names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime reads this when it is loaded. Its telemetry sends data over the network, and keeps a thread for that
# which makes a forked child hang at its end. A value that is set already stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from typing import Literal

    from inferlite._core import Model
    from inferlite.batching import Batching
    from inferlite.cache import Cache, PredictionCache
    from inferlite.exceptions import (
        BackendUnavailableError,
        DeadlineExceededError,
        InferliteError,
        InvalidInputError,
        ModelClosedError,
        ModelLoadError,
        ModelRunError,
        QueueFullError,
    )
    from inferlite.io_binding import IOBinding
    from inferlite.metadata import (
        BatchingStats,
        CacheStats,
        Latency,
        ModelMetadata,
        NodeArg,
        Signature,
        Stats,
        TensorSpec,
    )
    from inferlite.model import load
    from inferlite.options import RunOptions, SessionOptions
    from inferlite.padding import Pad
    from inferlite.patching import patch, unpatch
    from inferlite.process_settings import (
        disable_telemetry_events,
        enable_telemetry_events,
        set_default_logger_severity,
        set_global_thread_pool,
        set_seed,
    )
    from inferlite.server import ServedModel, Server
    from inferlite.session import InferenceSession
    from inferlite.sparse import SparseTensor
    from inferlite.values import OrtValue, OrtValueVector, copy_tensors

    backend: Literal["native", "python"]
    __version__: str

__all__ = [
    "BackendUnavailableError",
    "Batching",
    "BatchingStats",
    "Cache",
    "CacheStats",
    "DeadlineExceededError",
    "IOBinding",
    "InferenceSession",
    "InferliteError",
    "InvalidInputError",
    "Latency",
    "Model",
    "ModelClosedError",
    "ModelLoadError",
    "ModelMetadata",
    "ModelRunError",
    "NodeArg",
    "OrtValue",
    "OrtValueVector",
    "Pad",
    "PredictionCache",
    "QueueFullError",
    "RunOptions",
    "ServedModel",
    "Server",
    "SessionOptions",
    "Signature",
    "SparseTensor",
    "Stats",
    "TensorSpec",
    "__version__",
    "backend",
    "copy_tensors",
    "disable_telemetry_events",
    "enable_telemetry_events",
    "load",
    "patch",
    "set_default_logger_severity",
    "set_global_thread_pool",
    "set_seed",
    "unpatch",
]

_MODULES = {
    "BackendUnavailableError": "exceptions",
    "Batching": "batching",
    "BatchingStats": "metadata",
    "DeadlineExceededError": "exceptions",
    "Cache": "cache",
    "CacheStats": "metadata",
    "InferliteError": "exceptions",
    "InvalidInputError": "exceptions",
    "Latency": "metadata",
    "ModelClosedError": "exceptions",
    "ModelLoadError": "exceptions",
    "ModelMetadata": "metadata",
    "ModelRunError": "exceptions",
    "QueueFullError": "exceptions",
    "NodeArg": "metadata",
    "Pad": "padding",
    "PredictionCache": "cache",
    "RunOptions": "options",
    "ServedModel": "server",
    "Server": "server",
    "SessionOptions": "options",
    "Signature": "metadata",
    "Stats": "metadata",
    "TensorSpec": "metadata",
    "disable_telemetry_events": "process_settings",
    "enable_telemetry_events": "process_settings",
    "load": "model",
    "patch": "patching",
    "set_default_logger_severity": "process_settings",
    "set_global_thread_pool": "process_settings",
    "set_seed": "process_settings",
    "unpatch": "patching",
}

# What onnxruntime has beside these, for `import inferlite as onnxruntime`; nothing is added to it.
_DELEGATED = frozenset(
    {
        "AdapterFormat",
        "ExecutionMode",
        "ExecutionOrder",
        "GraphOptimizationLevel",
        "LoraAdapter",
        "ModelCompiler",
        "ModelPackage",
        "ModelPackageComponentContext",
        "ModelPackageContext",
        "ModelPackageOptions",
        "ModelPackageWriteMode",
        "OrtAllocatorType",
        "OrtArenaCfg",
        "OrtCompileApiFlags",
        "OrtDevice",
        "OrtDeviceMemoryType",
        "OrtDeviceVendorId",
        "OrtEpAssignedNode",
        "OrtEpAssignedSubgraph",
        "OrtEpContextData",
        "OrtEpContextDataBuffer",
        "OrtEpDevice",
        "OrtExecutionProviderDevicePolicy",
        "OrtExternalInitializerInfo",
        "OrtHardwareDevice",
        "OrtHardwareDeviceType",
        "OrtMemType",
        "OrtMemoryInfo",
        "OrtMemoryInfoDeviceType",
        "OrtSparseFormat",
        "OrtSyncStream",
        "SessionIOBinding",
        "capi",
        "create_and_register_allocator",
        "create_and_register_allocator_v2",
        "cuda_version",
        "get_all_providers",
        "get_available_providers",
        "get_build_info",
        "get_device",
        "get_ep_devices",
        "get_version_string",
        "has_collective_ops",
        "package_name",
        "preload_dlls",
        "print_debug_info",
        "register_execution_provider_library",
        "set_default_logger_callback",
        "set_default_logger_verbosity",
        "set_global_thread_pool_sizes",
        "unregister_execution_provider_library",
        "version",
    }
)


# Each back end has its own, so these are never kept either.
_VALUES = {
    "IOBinding": "io_binding",
    "OrtValue": "values",
    "OrtValueVector": "values",
    "SparseTensor": "sparse",
    "copy_tensors": "values",
}


_classes_of_values: dict[tuple[str, str], Any] = {}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - classes, a function and strings
    module = _MODULES.get(name)
    if module is not None:
        from importlib import import_module  # noqa: PLC0415

        value = globals()[name] = getattr(import_module(f"inferlite.{module}"), name)
        return value
    if name in _VALUES:
        from inferlite import _backend  # noqa: PLC0415

        # Kept by back end, since an import takes longer than a value takes to be made.
        key = (_backend.active().name, name)
        if key not in _classes_of_values:
            from importlib import import_module  # noqa: PLC0415

            module = _VALUES[name] if key[0] == "native" else "_fallback.values"
            _classes_of_values[key] = getattr(import_module(f"inferlite.{module}"), name)
        return _classes_of_values[key]
    # The back end may change, so these are never kept.
    if name in {"InferenceSession", "Model", "backend"}:
        from inferlite import _backend  # noqa: PLC0415

        active = _backend.active()
        return active.name if name == "backend" else getattr(active, name)
    if name in _DELEGATED:
        import onnxruntime  # noqa: PLC0415

        if hasattr(onnxruntime, name):
            return getattr(onnxruntime, name)
    if name == "__version__":
        value = globals()[name] = _version()
        return value
    message = f"module `inferlite` has no attribute `{name}`"
    raise AttributeError(message)


def __dir__() -> list[str]:
    dunders = {name for name in globals() if name.startswith("__")}
    return sorted(dunders | set(__all__) | _DELEGATED)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to import

    for distribution in ("inferlite", "inferlite-gpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "0+unknown"
