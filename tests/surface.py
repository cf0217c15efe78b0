"""Every public name of onnxruntime, and how inferlite has it: docs/dropin.md shows this table.

A row says `same`, `better` or `delegated`. The first two name a test that compares the behaviour with the installed
onnxruntime's; a name that is delegated is onnxruntime's own object. tests/test_surface.py holds the rows to that, and
fails where a name of the installed onnxruntime has none. The dictionaries below are one for each class, and `MODULE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Row:
    """How inferlite has a name.

    Attributes:
        how: `same`: it does what onnxruntime's does. `better`: it does, and more, or right where onnxruntime is wrong.
            `delegated`: it is onnxruntime's.
        test: The file, without its ending, and the function that compares the two; empty where it is delegated.
        note: What is better, or what to know.
    """

    how: Literal["same", "better", "delegated"]
    test: str = ""
    note: str = ""


def same(test: str, note: str = "") -> Row:
    """A name that does what onnxruntime's does, as this test finds."""
    return Row("same", test, note)


def better(test: str, note: str) -> Row:
    """A name that does more than onnxruntime's, and the same else, as this test finds."""
    return Row("better", test, note)


def delegated(note: str = "") -> Row:
    """A name that is onnxruntime's own."""
    return Row("delegated", "", note)


_SETTING: Final = "test_options.test_setting_ends_as_in_onnxruntime"
_METHOD: Final = "test_options.test_methods_end_as_in_onnxruntime"

_VALUES: Final = "test_ort_values.test_runs_with_values_end_as_onnxruntimes"
_BINDINGS: Final = "test_io_binding.test_outputs_are_overwritten_by_the_next_run"

MODULE: Final[dict[str, Row]] = {
    "InferenceSession": better(
        "test_session.test_construction_ends_as_onnxruntime",
        "less per call; releases the GIL while it loads a model; `cache=`, `batching=`, `casting=`, `bind`, `arun`",
    ),
    "SessionOptions": better(_METHOD, "keeps the values of initializers alive; is remembered in full"),
    "RunOptions": better(_METHOD, "keeps adapters alive"),
    "OrtValue": better(_VALUES, "strings, sequences and the types of ml_dtypes; DLPack 1.0"),
    "IOBinding": better(_BINDINGS, "takes whatever `run` takes, and raises where onnxruntime crashes"),
    "SparseTensor": better("test_sparse.test_sparse_tensors_run", "indices are checked, and copied"),
    "SessionIOBinding": delegated("of `session._sess`, on the onnxruntime package"),
    "copy_tensors": better(
        "test_ort_values.test_tensors_are_copied_where_onnxruntime_copies_to_devices_alone",
        "copies on the CPU, where onnxruntime refuses (native back end)",
    ),
    "NodeArg": same("test_session.test_inputs_and_outputs_are_described_as_onnxruntime_does"),
    "ModelMetadata": same("test_session.test_model_metadata_equals_onnxruntimes"),
    "set_seed": same(
        "test_package_sessions.test_a_seed_makes_random_models_the_packages",
        "models that may be random run on the onnxruntime package from then on",
    ),
    "set_default_logger_severity": same(
        "test_patch.test_functions_with_settings_of_a_runtime_end_as_in_onnxruntime", "sets it in both runtimes"
    ),
    "enable_telemetry_events": same(
        "test_patch.test_functions_with_settings_of_a_runtime_end_as_in_onnxruntime", "in both runtimes"
    ),
    "disable_telemetry_events": same(
        "test_patch.test_functions_with_settings_of_a_runtime_end_as_in_onnxruntime", "in both runtimes"
    ),
    "set_default_logger_verbosity": delegated("of the onnxruntime package alone: the C interface has no such function"),
    **dict.fromkeys(
        (
            "AdapterFormat",
            "ExecutionMode",
            "ExecutionOrder",
            "GraphOptimizationLevel",
            "LoraAdapter",
            "ModelCompiler",
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
            "capi",
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
            "version",
        ),
        delegated(),
    ),
    **dict.fromkeys(
        (
            "ModelPackage",
            "ModelPackageComponentContext",
            "ModelPackageContext",
            "ModelPackageOptions",
            "ModelPackageWriteMode",
        ),
        delegated("sessions made from a package are onnxruntime's"),
    ),
    "set_default_logger_callback": delegated(
        "of the onnxruntime package alone; the native part logs to `inferlite.onnxruntime`"
    ),
    "set_global_thread_pool_sizes": delegated(
        "of the onnxruntime package alone, whose sessions it breaks; better `inferlite.set_global_thread_pool`"
    ),
    **dict.fromkeys(
        (
            "create_and_register_allocator",
            "create_and_register_allocator_v2",
            "register_execution_provider_library",
            "unregister_execution_provider_library",
        ),
        delegated("for sessions on the onnxruntime package: each copy of the runtime has its own"),
    ),
}

SESSION: Final[dict[str, Row]] = {
    "run": better("test_values.test_values_end_as_onnxruntime", "see the table of differences"),
    "run_async": better("test_session_async.test_a_callback_is_told_what_onnxruntime_tells_it", "also with one thread"),
    "get_inputs": same("test_session.test_inputs_and_outputs_are_described_as_onnxruntime_does"),
    "get_outputs": same("test_session.test_inputs_and_outputs_are_described_as_onnxruntime_does"),
    "get_overridable_initializers": same("test_session.test_inputs_and_outputs_are_described_as_onnxruntime_does"),
    "get_modelmeta": same("test_session.test_model_metadata_equals_onnxruntimes"),
    "get_session_options": same("test_session_options.test_sessions_without_options_give_back_the_defaults"),
    "get_providers": same("test_session_methods.test_providers_can_be_set_as_in_onnxruntime"),
    "get_provider_options": same("test_session_methods.test_providers_can_be_set_as_in_onnxruntime"),
    "set_providers": better(
        "test_session_methods.test_providers_can_be_set_as_in_onnxruntime",
        "runs go on meanwhile, and the session stays as it was where they are refused (native back end)",
    ),
    "enable_fallback": same("test_session_methods.test_falling_back_can_be_turned_off_and_on"),
    "disable_fallback": same("test_session_methods.test_falling_back_can_be_turned_off_and_on"),
    "end_profiling": same("test_session_options.test_profiling_that_is_off_names_no_file"),
    "get_profiling_start_time_ns": same("test_session_options.test_profiling_that_is_off_names_no_file"),
    "get_input_memory_infos": same("test_session_methods.test_the_memory_of_inputs_and_outputs_is_described"),
    "get_output_memory_infos": same("test_session_methods.test_the_memory_of_inputs_and_outputs_is_described"),
    "get_input_epdevices": same("test_session_methods.test_the_devices_of_inputs_are_those_of_the_package"),
    "get_provider_graph_assignment_info": same(
        "test_session_methods.test_who_runs_which_node_is_told_where_it_is_recorded"
    ),
    "get_tuning_results": same(
        "test_session_methods.test_the_cpu_has_no_results_of_tuning", "on the CPU; refused on others (native back end)"
    ),
    "set_tuning_results": same(
        "test_session_methods.test_results_of_tuning_are_taken_as_onnxruntime_takes_them",
        "on the CPU; refused on others (native back end)",
    ),
    "set_ep_dynamic_options": same("test_session_methods.test_dynamic_options_end_as_in_onnxruntime"),
    "run_with_ort_values": better(_VALUES, "also strings, sequences and the types of ml_dtypes"),
    "run_with_ortvaluevector": same("test_ort_values.test_vectors_of_values_run_in_order"),
    "run_with_iobinding": better(_BINDINGS, "an input that is not bound is named"),
    "io_binding": same(_BINDINGS),
    "create_ortvalue_from_shape_and_type": same("test_ort_values.test_values_of_a_session_stay_with_it"),
    "release_captured_graph": same(
        "test_session_methods.test_no_graph_is_captured_on_the_cpu", "on the CPU; refused on others (native back end)"
    ),
}

SESSION_OPTIONS: Final[dict[str, Row]] = {
    **dict.fromkeys(
        (
            "enable_cpu_mem_arena",
            "enable_mem_pattern",
            "enable_profiling",
            "execution_mode",
            "graph_optimization_level",
            "inter_op_num_threads",
            "intra_op_num_threads",
            "log_severity_level",
            "log_verbosity_level",
            "logid",
            "optimized_model_filepath",
            "profile_file_prefix",
            "use_deterministic_compute",
            "use_per_session_threads",
        ),
        same(_SETTING),
    ),
    **dict.fromkeys(
        ("enable_mem_reuse", "execution_order"),
        same(_SETTING, "not told to the native runtime; no answer depends on it"),
    ),
    **dict.fromkeys(
        (
            "add_free_dimension_override_by_denotation",
            "add_free_dimension_override_by_name",
            "add_session_config_entry",
            "get_session_config_entry",
        ),
        same(_METHOD),
    ),
    "register_custom_ops_library": same("test_compat.test_a_library_of_operators_serves_both_runtimes"),
    **dict.fromkeys(
        (
            "add_external_initializers",
            "add_external_initializers_from_files_in_memory",
            "add_provider",
            "add_provider_for_devices",
            "clear_ep_context_data_read_func",
            "has_providers",
            "set_ep_context_data_read_func",
            "set_load_cancellation_flag",
            "set_provider_selection_policy",
            "set_provider_selection_policy_delegate",
        ),
        same(
            "test_package_sessions.test_what_the_native_part_cannot_use_is_the_packages",
            "a session that is given it runs on the onnxruntime package",
        ),
    ),
    "add_initializer": better(
        "test_package_sessions.test_what_the_native_part_cannot_use_is_the_packages",
        "keeps the value alive; the session runs on the onnxruntime package",
    ),
}

RUN_OPTIONS: Final[dict[str, Row]] = {
    **dict.fromkeys(
        ("log_severity_level", "log_verbosity_level", "logid", "terminate"),
        same("test_package_sessions.test_run_options_of_both_classes_do_what_they_do_in_onnxruntime"),
    ),
    "only_execute_path_to_fetches": same(
        "test_package_sessions.test_run_options_of_both_classes_do_what_they_do_in_onnxruntime",
        "changes nothing but in builds for training",
    ),
    "add_run_config_entry": same("test_session_options.test_run_config_entries_are_taken"),
    "get_run_config_entry": same(_METHOD),
    "add_active_adapter": better(
        "test_package_sessions.test_an_adapter_is_used_in_the_calls_that_name_it",
        "keeps the adapter alive; the onnxruntime package makes the run",
    ),
}

_VALUE: Final = "test_ort_values.test_values_of_arrays_are_as_onnxruntimes"
_BINDING: Final = "test_io_binding.test_outputs_go_where_they_are_told"
_SPARSE: Final = "test_sparse.test_coo_is_as_onnxruntimes"

ORT_VALUE: Final[dict[str, Row]] = {
    **dict.fromkeys(
        (
            "data_ptr",
            "data_type",
            "device_name",
            "element_type",
            "has_value",
            "is_sparse_tensor",
            "is_tensor",
            "is_tensor_sequence",
            "shape",
            "tensor_size_in_bytes",
        ),
        same(_VALUE),
    ),
    "numpy": better(_VALUE, "also of the types of ml_dtypes"),
    "ortvalue_from_numpy": better(_VALUE, "also strings and the types of ml_dtypes, and any byte order"),
    "ortvalue_from_numpy_with_onnx_type": better(
        "test_ort_values.test_bytes_of_another_type_are_as_onnxruntimes", "an array that is not in C order is copied"
    ),
    "ortvalue_from_shape_and_type": better(
        "test_ort_values.test_types_and_shapes_are_as_onnxruntimes", "strings as well; new memory holds zeros"
    ),
    "from_dlpack": better(
        "test_ort_values.test_dlpack_ends_as_onnxruntimes", "capsules of DLPack 1.0, read-only ones too"
    ),
    "update_inplace": better("test_ort_values.test_updates_end_as_onnxruntimes", "refuses another dtype"),
    "ort_value_from_sparse_tensor": same("test_sparse.test_a_value_holds_a_sparse_tensor"),
    "as_sparse_tensor": same("test_sparse.test_a_value_holds_a_sparse_tensor"),
}

IO_BINDING: Final[dict[str, Row]] = {
    "bind_cpu_input": better(
        "test_io_binding.test_outputs_are_overwritten_by_the_next_run", "takes whatever `run` takes"
    ),
    **dict.fromkeys(
        (
            "bind_input",
            "bind_output",
            "bind_ortvalue_input",
            "bind_ortvalue_output",
            "get_outputs_as_ortvaluevector",
            "synchronize_inputs",
            "synchronize_outputs",
        ),
        same(_BINDING),
    ),
    **dict.fromkeys(
        ("copy_outputs_to_cpu", "get_outputs"),
        better(
            "test_io_binding.test_outputs_are_overwritten_by_the_next_run",
            "before a run it raises, where onnxruntime crashes",
        ),
    ),
    **dict.fromkeys(
        ("clear_binding_inputs", "clear_binding_outputs"),
        same("test_io_binding.test_runs_that_cannot_be_end_as_onnxruntimes"),
    ),
}

SPARSE_TENSOR: Final[dict[str, Row]] = {
    **dict.fromkeys(("as_coo_view", "data_type", "dense_shape", "device_name", "format", "values"), same(_SPARSE)),
    **dict.fromkeys(
        ("as_csrc_view", "as_blocksparse_view", "to_cuda"), same("test_sparse.test_csr_is_as_onnxruntimes")
    ),
    "sparse_coo_from_numpy": better(_SPARSE, "indices outside of the tensor are refused"),
    "sparse_csr_from_numpy": better(
        "test_sparse.test_csr_is_as_onnxruntimes", "indices outside of the matrix are refused"
    ),
}

CLASSES: Final[dict[str, dict[str, Row]]] = {
    "IOBinding": IO_BINDING,
    "InferenceSession": SESSION,
    "OrtValue": ORT_VALUE,
    "SessionOptions": SESSION_OPTIONS,
    "RunOptions": RUN_OPTIONS,
    "SparseTensor": SPARSE_TENSOR,
}

NO_NAMES: Final = {"contextlib", "import_capi_exception", "onnxruntime_validation"}
"""What lies on the module `onnxruntime` because its `__init__` needs it."""


def rows() -> dict[str, Row]:
    """Every row by its name, with the class before it where it belongs to one."""
    by_class = {f"{kind}.{name}": row for kind, names in CLASSES.items() for name, row in names.items()}
    return MODULE | by_class
