"""
Ask the gateway for one prediction over REST and one over gRPC.

TensorFlow Serving's generated messages are in few images. This file declares the part of them that a prediction needs,
with the published numbers: the image needs only grpcio and protobuf.
"""

import base64
import http.client
import json
import socket
import ssl
import sys
from pathlib import Path

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
except ImportError as exc:
    raise SystemExit(
        f"error: helmTest.image: expected an image with the Python packages grpcio and protobuf, got none: {exc}"
    ) from exc

ADDRESS, PORT, HOST, MODEL = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
# "http" or "https", and a file of certificate authorities that replaces the system's.
SCHEME, CA = sys.argv[5], (sys.argv[6:] or [None])[0]
TIMEOUT_SECONDS = 60
DT_STRING = 7
# On the wire a map is a repeated message of key and value, and an enumeration is an integer.
MESSAGES = """
name: "predict.proto" package: "predict" syntax: "proto3"
message_type {
  name: "Request"
  field { name: "model_spec" number: 1 type: TYPE_MESSAGE type_name: ".predict.ModelSpec" }
  field { name: "inputs" number: 2 type: TYPE_MESSAGE type_name: ".predict.NamedTensor" label: LABEL_REPEATED }
}
message_type {
  name: "Response"
  field { name: "outputs" number: 1 type: TYPE_MESSAGE type_name: ".predict.NamedTensor" label: LABEL_REPEATED }
}
message_type {
  name: "ModelSpec"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "signature_name" number: 3 type: TYPE_STRING }
}
message_type {
  name: "NamedTensor"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".predict.Tensor" }
}
message_type {
  name: "Tensor"
  field { name: "dtype" number: 1 type: TYPE_INT32 }
  field { name: "tensor_shape" number: 2 type: TYPE_MESSAGE type_name: ".predict.Shape" }
  field { name: "string_val" number: 8 type: TYPE_BYTES label: LABEL_REPEATED }
}
message_type {
  name: "Shape"
  field { name: "dim" number: 2 type: TYPE_MESSAGE type_name: ".predict.Dimension" label: LABEL_REPEATED }
}
message_type { name: "Dimension" field { name: "size" number: 1 type: TYPE_INT64 } }
"""
# A picture of 8 by 8 grey pixels.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2P/wAARCAAIAAgDASIAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/xAAU"
    "AQEAAAAAAAAAAAAAAAAAAAAC/8QAFBEBAAAAAAAAAAAAAAAAAAAAAP/aAAwDAQACEQMRAD8AAGD/2Q=="
)


def rest(method, path, body=None):
    """
    Send one REST request and give its answer. With TLS the gateway's certificate must be valid for the host.
    """
    connection = http.client.HTTPConnection(HOST)
    try:
        connection.sock = socket.create_connection((ADDRESS, PORT), timeout=TIMEOUT_SECONDS)
        if SCHEME == "https":
            context = ssl.create_default_context(cafile=CA)
            context.set_alpn_protocols(["http/1.1"])
            connection.sock = context.wrap_socket(connection.sock, server_hostname=HOST)
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        raise SystemExit(f"error: REST {path}: expected an answer from {ADDRESS}:{PORT}, got {exc}") from exc
    if answer.status != 200:
        raise SystemExit(f"error: REST {path}: expected status 200, got {answer.status}")
    return json.loads(content)


def channel():
    """
    Connect to the gateway for gRPC by the name of the host: it is the authority, and with TLS the certificate's name.
    """
    options = [("grpc.default_authority", HOST)]
    if SCHEME == "http":
        return grpc.insecure_channel(f"{ADDRESS}:{PORT}", options)
    # grpcio brings authorities of its own, which it takes where the system has no file of them.
    authorities = CA or ssl.get_default_verify_paths().cafile
    trusted = Path(authorities).read_bytes() if authorities else None
    return grpc.secure_channel(f"{ADDRESS}:{PORT}", grpc.ssl_channel_credentials(trusted), options)


def predict(signature, key):
    """
    Ask for one prediction over gRPC and give the names of its outputs.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(
        text_format.Parse(MESSAGES, descriptor_pb2.FileDescriptorProto()).SerializeToString()
    )
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"predict.{name}"))
        for name in ("Request", "Response")
    )
    tensor = {"dtype": DT_STRING, "tensor_shape": {"dim": [{"size": 1}]}, "string_val": [JPEG]}
    message = request(
        model_spec={"name": MODEL, "signature_name": signature}, inputs=[{"key": key, "value": tensor}]
    )
    method = "/tensorflow.serving.PredictionService/Predict"
    with channel() as opened:
        call = opened.unary_unary(method, request.SerializeToString, response.FromString)
        try:
            answer = call(message, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as exc:
            raise SystemExit(
                f"error: gRPC {method}: expected an answer, got {exc.code().name}: {exc.details()}"
            ) from exc
    return [output.key for output in answer.outputs]


signatures = rest("GET", f"/v1/models/{MODEL}/metadata")["metadata"]["signature_def"]["signature_def"]
fitting = [
    (name, key, output)
    for name, signature in sorted(signatures.items())
    for key, tensor in signature["inputs"].items()
    for output in signature["outputs"]
    if tensor["dtype"] == "DT_STRING" and len(signature["inputs"]) == 1
]
if not fitting:
    raise SystemExit(
        f"error: model {MODEL}: expected a signature that takes pictures as bytes, got {', '.join(signatures)}"
    )
signature, key, output = fitting[0]
instance = {key: {"b64": base64.b64encode(JPEG).decode()}}
answer = rest("POST", f"/v1/models/{MODEL}:predict", {"signature_name": signature, "instances": [instance]})
if len(answer["predictions"]) != 1:
    raise SystemExit(f"error: REST: expected one prediction, got {len(answer['predictions'])}")
sys.stdout.write(f"REST: {signature} predicted\n")

outputs = predict(signature, key)
if output not in outputs:
    raise SystemExit(f"error: gRPC: expected the output {output}, got {', '.join(outputs) or 'none'}")
sys.stdout.write(f"gRPC: {signature} predicted\n")
