"""
Names on the wire that several parts share: headers, APIs, paths, methods, ports and annotations.
"""

import enum
from collections.abc import Mapping

TRACK_HEADER = "x-model-track"
REVISION_HEADER = "x-route-revision"
SERVING_DEFAULT = "serving_default"
SERVING_PREPROCESS = "serving_preprocess"
# By what is asked, the path of the gRPC method.
METHODS = {
    "metadata": "/tensorflow.serving.PredictionService/GetModelMetadata",
    "predict": "/tensorflow.serving.PredictionService/Predict",
}


class Api(enum.Enum):
    """
    The two ways in.
    """

    REST = "REST"
    GRPC = "gRPC"


def metadata_paths(model: str) -> Mapping[Api, str]:
    """
    By API the path that asks for the model's metadata.
    """
    return {
        Api.REST: f"/v1/models/{model}/metadata",
        Api.GRPC: METHODS["metadata"],
    }


PREFIXES = {"REST": "/v1/", "gRPC": "/tensorflow.serving."}

HOST_ADDRESS_ANNOTATION = "tfserving-canary/host-address"
# TensorFlow Serving's REST API, and the path that the chart gives its metrics.
SERVER_PORT, METRICS_PATH = 8501, "/monitoring/prometheus/metrics"
