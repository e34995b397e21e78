"""
The published protos that the server reads and writes, and the TensorFlow Lite interpreter, imported in one place.

Nothing here is typed: neither TensorFlow nor tensorflow-serving-api publishes type information. Nothing here runs
``tensorflow/__init__.py`` either, which imports Keras and the whole Python API: 4 to 9 seconds and 200 MiB that
serving a SavedModel does not need.
"""

import importlib
from functools import cache
from typing import Any

from tfcanary.protos import bare_tensorflow

with bare_tensorflow():
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        input_pb2,
        model_management_pb2,
        model_pb2,
        predict_pb2,
        prediction_log_pb2,
        regression_pb2,
    )
    from tensorflow_serving.config import model_server_config_pb2

DataType: Any = types_pb2.DataType
TensorProto: Any = tensor_pb2.TensorProto
ConfigProto: Any = config_pb2.ConfigProto
RunOptions: Any = config_pb2.RunOptions
CallableOptions: Any = config_pb2.CallableOptions
SignatureDef: Any = meta_graph_pb2.SignatureDef
SavedModel: Any = saved_model_pb2.SavedModel
ClassificationRequest: Any = classification_pb2.ClassificationRequest
ClassificationResponse: Any = classification_pb2.ClassificationResponse
ClassificationResult: Any = classification_pb2.ClassificationResult
GetModelMetadataRequest: Any = get_model_metadata_pb2.GetModelMetadataRequest
GetModelMetadataResponse: Any = get_model_metadata_pb2.GetModelMetadataResponse
SignatureDefMap: Any = get_model_metadata_pb2.SignatureDefMap
GetModelStatusRequest: Any = get_model_status_pb2.GetModelStatusRequest
GetModelStatusResponse: Any = get_model_status_pb2.GetModelStatusResponse
ModelVersionStatus: Any = get_model_status_pb2.ModelVersionStatus
Input: Any = input_pb2.Input
MultiInferenceRequest: Any = inference_pb2.MultiInferenceRequest
MultiInferenceResponse: Any = inference_pb2.MultiInferenceResponse
ModelSpec: Any = model_pb2.ModelSpec
PredictRequest: Any = predict_pb2.PredictRequest
PredictResponse: Any = predict_pb2.PredictResponse
PredictionLog: Any = prediction_log_pb2.PredictionLog
RegressionRequest: Any = regression_pb2.RegressionRequest
RegressionResponse: Any = regression_pb2.RegressionResponse
RegressionResult: Any = regression_pb2.RegressionResult
ReloadConfigRequest: Any = model_management_pb2.ReloadConfigRequest
ReloadConfigResponse: Any = model_management_pb2.ReloadConfigResponse
ModelConfig: Any = model_server_config_pb2.ModelConfig
ModelServerConfig: Any = model_server_config_pb2.ModelServerConfig


@cache
def lite_interpreter() -> Any:
    """
    Import the class of TensorFlow Lite's interpreter, once.

    Raises:
        ImportError: the installed TensorFlow has no interpreter.
    """
    with bare_tensorflow():
        return importlib.import_module("tensorflow.lite.python.interpreter").Interpreter
