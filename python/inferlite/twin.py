"""What a session of the native part leaves to one of the onnxruntime package, its twin."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, Final

from inferlite import _core
from inferlite._pickling import RELEASED, fail
from inferlite.capabilities import refusal
from inferlite.providers import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnxruntime

    from inferlite._fallback import InferenceSession as PackageRunner

_CPU_ALONE: Final = [CPU]

# What a session writes beside its work, which the first one has written.
_FILES: Final = ("enable_profiling", "optimized_model_filepath")

_SECOND_LOADING: Final = "a call needs the onnxruntime package, which has to load"


class Twinned(_core.Session):
    """A native session that has a twin of the onnxruntime package made when a call needs it."""

    _model_bytes: bytes | None = None
    _casting: Any = "no"
    _releases_model = False
    _provider_dicts: Mapping[str, dict[str, str]] = {}
    _settings: dict[str, Any]
    _twin: PackageRunner | None = None

    @property
    def _package_session(self) -> PackageRunner:
        """The twin: it holds the model a second time, from the first call that needs it."""
        if self._twin is not None:
            return self._twin
        from inferlite._fallback import InferenceSession as RunningSession, forks  # noqa: PLC0415 - imports onnxruntime
        from inferlite.options import options_from_settings  # noqa: PLC0415 - as above

        if self._releases_model:
            raise fail(RELEASED)
        with forks.rebuilding():
            if self._twin is None:
                path = self._model_file(_SECOND_LOADING)
                settings = {key: value for key, value in self._settings.items() if key not in _FILES}
                names = self._provider_names()
                twin = RunningSession(
                    (self._model_bytes or b"") if path is None else str(path),
                    options_from_settings(settings),
                    names,
                    [self._provider_dicts.get(name, {}) for name in names],
                    casting=self._casting,
                    enable_fallback=0,
                    disabled_optimizers=settings.get("disabled_optimizers"),
                )
                # Once more: it may have changed while it was read.
                self._model_file(_SECOND_LOADING)
                self._twin = twin
            return self._twin

    def _run_on_package(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: onnxruntime.RunOptions
    ) -> list[Any]:
        return self._package_session.run(output_names, input_feed, run_options)

    @property
    def _sess(self) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        return self._package_session._sess  # noqa: SLF001 - for those who ask for it

    def get_input_epdevices(self) -> list[onnxruntime.OrtEpDevice]:
        """The device of the execution provider that takes each input; asks the onnxruntime package."""
        devices: list[onnxruntime.OrtEpDevice] = self._package_session.get_input_epdevices()
        return devices

    def get_provider_graph_assignment_info(self) -> list[onnxruntime.OrtEpAssignedSubgraph]:
        """Which nodes went to which execution provider; asks the onnxruntime package.

        Raises:
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The options have no entry
                `session.record_ep_graph_assignment_info`, or another one than `1`.
        """
        subgraphs: list[onnxruntime.OrtEpAssignedSubgraph]
        subgraphs = self._package_session.get_provider_graph_assignment_info()
        return subgraphs

    def get_tuning_results(self) -> list[dict[str, Any]]:
        """What the execution providers have found out about their operators; the CPU provider finds out nothing."""
        if self._provider_names() == _CPU_ALONE:
            return []
        raise refusal("tuning", "`get_tuning_results`")

    def set_tuning_results(self, results: list[dict[str, Any]], *, error_on_invalid: bool = False) -> None:
        """Hand over what `get_tuning_results` has given; the CPU provider does nothing with it.

        Raises:
            RuntimeError: A result does not fit, and `error_on_invalid` is set.
        """
        if self._provider_names() != _CPU_ALONE:
            raise refusal("tuning", "`set_tuning_results`")
        self._package_session.set_tuning_results(results, error_on_invalid=error_on_invalid)

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """Give a captured graph back; the CPU provider captures none."""
        if self._provider_names() != _CPU_ALONE:
            raise refusal("captured_graphs", "`release_captured_graph`")
        index(graph_annotation_id)
