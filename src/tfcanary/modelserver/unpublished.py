"""
Messages of TensorFlow Serving that tensorflow-serving-api does not publish, built from their definitions.

They are read from text files or exchanged with standard clients. Names and numbers are therefore those of TensorFlow
Serving's ``.proto`` files (Apache-2.0) and of grpc.health.v1.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "int64": _Field.TYPE_INT64,
}

# Each message has fields of (name, number, type). A type ending in [] is repeated; one that is no scalar is a message.
_MESSAGES: dict[str, dict[str, list[tuple[str, int, str]]]] = {
    # tensorflow_serving/config/monitoring_config.proto and ssl_config.proto,
    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto
    "tensorflow.serving": {
        "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
        "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
        "SSLConfig": [
            ("server_key", 1, "string"),
            ("server_cert", 2, "string"),
            ("custom_ca", 3, "string"),
            ("client_verify", 4, "bool"),
        ],
        "BatchingParameters": [
            ("max_batch_size", 1, ".google.protobuf.Int64Value"),
            ("batch_timeout_micros", 2, ".google.protobuf.Int64Value"),
            ("max_enqueued_batches", 3, ".google.protobuf.Int64Value"),
            ("num_batch_threads", 4, ".google.protobuf.Int64Value"),
            ("thread_pool_name", 5, ".google.protobuf.StringValue"),
            ("allowed_batch_sizes", 6, "int64[]"),
            ("pad_variable_length_inputs", 7, "bool"),
            ("enable_large_batch_splitting", 8, ".google.protobuf.BoolValue"),
            ("max_execution_batch_size", 9, ".google.protobuf.Int64Value"),
        ],
    },
    # grpc/health/v1/health.proto. Enums and integers have the same encoding.
    "grpc.health.v1": {
        "HealthCheckRequest": [("service", 1, "string")],
        "HealthCheckResponse": [("status", 1, "int64")],
    },
}


def _build() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    built: dict[str, Any] = {}
    for package, messages in _MESSAGES.items():
        file = descriptor_pb2.FileDescriptorProto(
            name=f"{package}.unpublished.proto",
            package=package,
            syntax="proto3",
            dependency=[wrappers_pb2.DESCRIPTOR.name],
        )
        for name, fields in messages.items():
            message = file.message_type.add(name=name)
            for field, number, kind in fields:
                repeated = kind.endswith("[]")
                kind_ = kind.removesuffix("[]")
                message.field.add(
                    name=field,
                    number=number,
                    label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
                    type=_SCALARS.get(kind_, _Field.TYPE_MESSAGE),
                    type_name=kind_ if kind_ not in _SCALARS else None,
                )
        pool.Add(file)
        for name in messages:
            descriptor = pool.FindMessageTypeByName(f"{package}.{name}")
            built[name] = message_factory.GetMessageClass(descriptor)
    return built


_BUILT = _build()
MonitoringConfig: Any = _BUILT["MonitoringConfig"]
SSLConfig: Any = _BUILT["SSLConfig"]
BatchingParameters: Any = _BUILT["BatchingParameters"]
HealthCheckRequest: Any = _BUILT["HealthCheckRequest"]
HealthCheckResponse: Any = _BUILT["HealthCheckResponse"]
