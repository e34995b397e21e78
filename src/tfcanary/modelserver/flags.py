"""
The command line, flag by flag as tensorflow_model_server has it.
"""

import argparse
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tfcanary import cli


class Use(enum.Enum):
    """
    What this server does with a flag.
    """

    SERVED = enum.auto()
    IGNORED = enum.auto()  # accepted; it would change nothing that this server does
    ABSENT = enum.auto()  # accepted with a warning, because TensorFlow Serving would behave differently


@dataclass(frozen=True, slots=True)
class Flag:
    """
    A flag of the command line.

    Attributes:
        name: without the dashes.
        default: the value without the flag; its type is the flag's type.
        use: what this server does with it.
        help: the line in ``--help``.
    """

    name: str
    default: bool | int | float | str
    use: Use
    help: str


# ruff: noqa: FBT003 - a table of defaults, where False stands beside 0 and ""
# The order, names and defaults are those of tensorflow_serving/model_servers/{main.cc,server.h}.
FLAGS = (
    Flag("port", 8500, Use.SERVED, "TCP port of the gRPC API; 0 for none, with --grpc_socket_path"),
    Flag("grpc_socket_path", "", Use.SERVED, "UNIX socket for the gRPC API"),
    Flag("rest_api_port", 0, Use.SERVED, "TCP port of the REST API; 0 for none"),
    Flag("rest_api_num_threads", 0, Use.SERVED, "threads for REST requests; 0 for 4 per processor"),
    Flag(
        "rest_api_timeout_in_ms", 30000, Use.SERVED, "timeout of REST requests, in milliseconds; 0 for none"
    ),
    Flag("rest_api_enable_cors_support", False, Use.SERVED, "add CORS headers"),
    Flag("enable_batching", False, Use.SERVED, "run concurrent requests as one batch"),
    Flag(
        "allow_version_labels_for_unavailable_models",
        False,
        Use.SERVED,
        "allow new labels on versions that are not available yet",
    ),
    Flag("batching_parameters_file", "", Use.SERVED, "text BatchingParameters"),
    Flag(
        "enable_per_model_batching_parameters",
        False,
        Use.SERVED,
        "batching parameters from each version's batching_params.pbtxt",
    ),
    Flag(
        "model_config_file",
        "",
        Use.SERVED,
        "text ModelServerConfig; --model_name and --model_base_path are then ignored",
    ),
    Flag("model_config_file_poll_wait_seconds", 0, Use.SERVED, "seconds between reads of the configuration"),
    Flag("model_name", "default", Use.SERVED, "name of the model"),
    Flag("model_base_path", "", Use.SERVED, "directory that holds the model's versions"),
    Flag("num_load_threads", 0, Use.IGNORED, "threads that load models"),
    Flag("num_unload_threads", 0, Use.IGNORED, "threads that unload models"),
    Flag("max_num_load_retries", 5, Use.SERVED, "how many times a failed load is tried again"),
    Flag(
        "load_retry_interval_micros",
        60_000_000,
        Use.SERVED,
        "microseconds between two attempts; no pause if negative",
    ),
    Flag(
        "file_system_poll_wait_seconds",
        1,
        Use.SERVED,
        "seconds between searches for new versions; 0 to search once",
    ),
    Flag("flush_filesystem_caches", True, Use.IGNORED, "flush caches after a load"),
    Flag("tensorflow_session_parallelism", 0, Use.SERVED, "threads of a session; 0 for automatic"),
    Flag("tensorflow_session_config_file", "", Use.SERVED, "text ConfigProto"),
    Flag("tensorflow_intra_op_parallelism", 0, Use.SERVED, "threads within an operation; 0 for automatic"),
    Flag("tensorflow_inter_op_parallelism", 0, Use.SERVED, "operations at a time; 0 for automatic"),
    Flag("use_alts_credentials", False, Use.ABSENT, "Google ALTS"),
    Flag("ssl_config_file", "", Use.SERVED, "text SSLConfig for the gRPC API"),
    Flag("platform_config_file", "", Use.ABSENT, "text PlatformConfigMap"),
    Flag("per_process_gpu_memory_fraction", 0.0, Use.IGNORED, "share of the GPU's memory"),
    Flag("saved_model_tags", "serve", Use.SERVED, "comma-separated tags of the graph to load"),
    Flag("grpc_channel_arguments", "", Use.SERVED, "comma-separated key=value for the gRPC server"),
    Flag("grpc_max_threads", 0, Use.SERVED, "threads for gRPC requests; 0 for 4 per processor"),
    Flag("enable_model_warmup", True, Use.SERVED, "replay the model's warm-up records"),
    Flag(
        "num_request_iterations_for_warmup", 0, Use.SERVED, "times that each record is replayed, if above 0"
    ),
    Flag("version", False, Use.SERVED, "print versions and exit"),
    Flag("monitoring_config_file", "", Use.SERVED, "text MonitoringConfig: the Prometheus page"),
    Flag("remove_unused_fields_from_bundle_metagraph", True, Use.IGNORED, "save memory"),
    Flag("prefer_tflite_model", False, Use.SERVED, "prefer model.tflite"),
    Flag("num_tflite_pools", 0, Use.SERVED, "TFLite interpreter pools; 0 for one per processor"),
    Flag("num_tflite_interpreters_per_pool", 1, Use.SERVED, "TFLite interpreters per pool"),
    Flag("enable_signature_method_name_check", False, Use.SERVED, "check signatures' method names"),
    Flag("xla_cpu_compilation_enabled", False, Use.ABSENT, "XLA on the CPU"),
    Flag("xla_gpu_compilation_enabled", False, Use.IGNORED, "XLA on the GPU"),
    Flag("enable_profiler", True, Use.IGNORED, "this server has no profiler service"),
    Flag("thread_pool_factory_config_file", "", Use.ABSENT, "text ThreadPoolConfig"),
    Flag("mixed_precision", "", Use.ABSENT, "mixed precision mode"),
    Flag("skip_initialize_tpu", False, Use.IGNORED, "leave the TPU alone"),
    Flag("enable_grpc_healthcheck_service", False, Use.SERVED, "grpc.health.v1"),
    Flag(
        "enable_serialization_as_tensor_content", False, Use.SERVED, "answer in tensor_content, not in values"
    ),
)


def parser() -> cli.Parser:
    """
    Build the parser of all `FLAGS`.
    """
    result = cli.Parser(
        prog="tensorflow_model_server",
        description="Serve SavedModels over gRPC and REST as tensorflow_model_server does.",
        # TensorFlow Serving knows no abbreviations, and --model would match several flags.
        allow_abbrev=False,
    )
    for flag in FLAGS:
        text = f"{flag.help} (default: {_shown(flag.default)}{_remark(flag.use)})"
        if isinstance(flag.default, bool):
            result.add_argument(
                f"--{flag.name}",
                type=_boolean,
                nargs="?",
                const=True,
                default=flag.default,
                metavar="BOOL",
                help=text,
            )
        else:
            kind = type(flag.default)
            result.add_argument(
                f"--{flag.name}", type=kind, default=flag.default, metavar=kind.__name__.upper(), help=text
            )
    return result


def _shown(default: object) -> str:
    return repr(default).lower() if isinstance(default, bool) else repr(default)


def _remark(use: Use) -> str:
    return {
        Use.SERVED: "",
        Use.IGNORED: "; accepted, without effect here",
        Use.ABSENT: "; NOT IMPLEMENTED here",
    }[use]


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        message = f"expected true or false, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def absent(arguments: argparse.Namespace) -> list[str]:
    """
    Name the flags on the command line that this server does not implement.
    """
    return [
        flag.name
        for flag in FLAGS
        if flag.use is Use.ABSENT and getattr(arguments, flag.name) != flag.default
    ]


def spaced(argv: Sequence[str]) -> list[str]:
    """
    Name the flags whose value is a word of its own; TensorFlow Serving reads ``--flag=value`` only.
    """
    names = {f"--{flag.name}" for flag in FLAGS}
    return [word for word, following in pairwise(argv) if word in names and not following.startswith("--")]
