"""
Read the configuration files: models, monitoring, batching and TLS.
"""

from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format

from tfcanary.errors import UsageError
from tfcanary.modelserver import protos, unpublished
from tfcanary.modelserver.metrics import DEFAULT_PATH


def read_text_proto(path: Path, message: Any) -> Any:
    """
    Read a text proto into `message`, and return it.

    Raises:
        UsageError: the file cannot be read, or is no such proto.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        kind = message.DESCRIPTOR
        raise UsageError(
            f"{path}: Invalid protobuf file, expected a text {kind.name}: "
            f"Error parsing text-format {kind.full_name}: {error}"
        ) from error


def read_models(path: Path) -> list[Any]:
    """
    Read the ModelConfigs of a ModelServerConfig.

    Raises:
        UsageError: the file cannot be read, is malformed, or names models that cannot be served.
    """
    config = read_text_proto(path, protos.ModelServerConfig())
    if config.WhichOneof("config") == "custom_model_config":
        raise UsageError(f"{path}: custom_model_config is not supported; use model_config_list instead")
    models = list(config.model_config_list.config)
    check_models(models)
    return models


def metrics_path(path: Path) -> str | None:
    """
    Read the path of the Prometheus page from a MonitoringConfig; None if it disables the page.

    Raises:
        UsageError: the file cannot be read, or is no MonitoringConfig.
    """
    config = read_text_proto(path, unpublished.MonitoringConfig()).prometheus_config
    return (config.path or DEFAULT_PATH) if config.enable else None


def batching_parameters(path: Path | None) -> Any:
    """
    Read a BatchingParameters message; without a file, give that of TensorFlow Serving.

    Raises:
        UsageError: the file cannot be read, or is no BatchingParameters.
    """
    if path is None:
        return unpublished.BatchingParameters(thread_pool_name={"value": "model_server_batch_threads"})
    return read_text_proto(path, unpublished.BatchingParameters())


def credentials(path: Path) -> grpc.ServerCredentials:
    """
    Read an SSLConfig, which holds keys and certificates as PEM, not the paths of files.

    Raises:
        UsageError: the file cannot be read or is no SSLConfig, or a key, certificate or authority is missing.
    """
    config = read_text_proto(path, unpublished.SSLConfig())
    for name in ("server_key", "server_cert"):
        if "-----BEGIN " not in getattr(config, name):
            raise UsageError(
                f"{path}: {name}: expected a key or certificate as PEM, got {getattr(config, name)[:40]!r}"
            )
    if config.client_verify and not config.custom_ca:
        raise UsageError(f"{path}: client_verify: expected a custom_ca that verifies clients, got none")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def single_model(name: str, base_path: str) -> list[Any]:
    """
    Make the ModelConfig that ``--model_name`` and ``--model_base_path`` describe.
    """
    return [protos.ModelConfig(name=name, base_path=base_path, model_platform="tensorflow")]


def check_models(models: list[Any]) -> None:
    """
    Refuse ModelConfigs that TensorFlow Serving refuses, and those that could never be served.

    Raises:
        UsageError: a name or base path is missing, a name appears twice, or the platform is not TensorFlow.
    """
    names = set()
    for model in models:
        if not model.name or not model.base_path:
            raise UsageError(f"model {model.name!r}: expected a name and a base_path")
        if "\0" in model.base_path:  # no path can contain it, and Python raises no OSError for it
            raise UsageError(f"model {model.name}: expected a base_path, got {model.base_path!r}")
        if model.name in names:
            raise UsageError(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if model.model_platform not in {"", "tensorflow"} or not (model.model_platform or model.model_type):
            raise UsageError(
                f"model {model.name}: expected model_platform 'tensorflow', got {model.model_platform!r}"
            )
