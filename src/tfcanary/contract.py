"""
Names on the wire that several parts share: headers, APIs, paths, methods, ports and annotations.
"""

import enum
from collections.abc import Mapping

TRACK_HEADER = "x-model-track"
REVISION_HEADER = "x-route-revision"
SERVING_DEFAULT = "serving_default"
SERVING_PREPROCESS = "serving_preprocess"
# The path of the gRPC method for each kind of call.
METHODS = {
    "metadata": "/tensorflow.serving.PredictionService/GetModelMetadata",
    "predict": "/tensorflow.serving.PredictionService/Predict",
}
# What the path of every request begins with, by the value of its `Api`.
PREFIXES = {"REST": "/v1/", "gRPC": "/tensorflow.serving."}
_REST_SUFFIXES = {"metadata": "/metadata", "predict": ":predict", "status": ""}

# TensorFlow Serving looks for a version's warm-up records here and nowhere else.
WARMUP = "assets.extra/tf_serving_warmup_requests"
HOST_ADDRESS_ANNOTATION = "tfserving-canary/host-address"
# TensorFlow Serving's gRPC API, its REST API, and the path that the chart gives its metrics.
GRPC_PORT, SERVER_PORT, METRICS_PATH = 8500, 8501, "/monitoring/prometheus/metrics"


class Api(enum.Enum):
    """
    The APIs of TensorFlow Serving; a value is the name that people use.
    """

    REST = "REST"
    GRPC = "gRPC"


def rest_path(model: str, call: str, version: str | None = None) -> str:
    """
    The path of a call ("metadata", "predict" or "status") over REST, without what a route may put before it.

    Args:
        model: the name that TensorFlow Serving knows the model by.
        call: "metadata", "predict", or "status", which says which versions a server has.
        version: the number of a version; None asks for the one that is served by default.
    """
    below = f"/versions/{version}" if version else ""
    return f"{PREFIXES['REST']}models/{model}{below}{_REST_SUFFIXES[call]}"


def metadata_paths(model: str) -> Mapping[Api, str]:
    """
    The path that asks for the model's metadata, by API.
    """
    return {Api.REST: rest_path(model, "metadata"), Api.GRPC: METHODS["metadata"]}
