"""
Ask the gateway for the model's metadata, and for one prediction over REST and one over gRPC.

Each answer must be of this release: with the revision of its routes and, where the answer says it, the version of the
track. The request is a given one, or is made of the signature.

TensorFlow Serving's generated messages are in few images. This file declares the part of them that a prediction needs,
with the published numbers: the image needs only grpcio and protobuf.
"""

import argparse
import base64
import http.client
import json
import math
import socket
import ssl
import struct
import sys
import time
from pathlib import Path

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
except ImportError as exc:
    raise SystemExit(
        f"error: helmTest.image: expected an image with the Python packages grpcio and protobuf, got none: {exc}"
    ) from exc

TIMEOUT_SECONDS = 60
PREDICT = "/tensorflow.serving.PredictionService/Predict"
SET_REQUEST = "set helmTest.request to the body of a REST prediction that the model answers"
# By dtype TensorFlow's number, and how a value is packed. The REST API has no form for complex numbers.
KINDS = {
    "DT_FLOAT": (1, "f"),
    "DT_DOUBLE": (2, "d"),
    "DT_INT32": (3, "i"),
    "DT_UINT8": (4, "B"),
    "DT_INT16": (5, "h"),
    "DT_INT8": (6, "b"),
    "DT_STRING": (7, ""),
    "DT_COMPLEX64": (8, "ff"),
    "DT_INT64": (9, "q"),
    "DT_BOOL": (10, "?"),
    "DT_BFLOAT16": (14, "bfloat16"),
    "DT_UINT16": (17, "H"),
    "DT_COMPLEX128": (18, "dd"),
    "DT_HALF": (19, "e"),
    "DT_UINT32": (22, "I"),
    "DT_UINT64": (23, "Q"),
}
COMPLEX = ("DT_COMPLEX64", "DT_COMPLEX128")
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
  field { name: "model_spec" number: 2 type: TYPE_MESSAGE type_name: ".predict.ModelSpec" }
}
message_type {
  name: "ModelSpec"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "version" number: 2 type: TYPE_MESSAGE type_name: ".predict.Version" }
  field { name: "signature_name" number: 3 type: TYPE_STRING }
}
message_type { name: "Version" field { name: "value" number: 1 type: TYPE_INT64 } }
message_type {
  name: "NamedTensor"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".predict.Tensor" }
}
message_type {
  name: "Tensor"
  field { name: "dtype" number: 1 type: TYPE_INT32 }
  field { name: "tensor_shape" number: 2 type: TYPE_MESSAGE type_name: ".predict.Shape" }
  field { name: "tensor_content" number: 4 type: TYPE_BYTES }
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
# What made inputs hold, tried in this order: a number, a whole number, a string, and the size of unknown dimensions. A
# model may refuse one of them: it looks a number up in a table, decodes pictures, or needs more than one pixel.
SAMPLES = ((1, 1, JPEG, 1), (1, 0, b"1", 1), (1, 1, JPEG, 32), (0, 0, b"", 1))
MOST_ELEMENTS = 4_000_000


def arguments():
    """
    Read the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("host")
    parser.add_argument("model")
    parser.add_argument("scheme", choices=["http", "https"])
    parser.add_argument("--ca", help="file of certificate authorities that replaces the system's")
    parser.add_argument("--revision", help="the revision of this release's routes")
    parser.add_argument(
        "--track", action="append", default=[], help="NAME=VERSION of each track of this release"
    )
    parser.add_argument(
        "--request", help="file with the body of a REST prediction; made of the signature otherwise"
    )
    parser.add_argument("--metadata", default="", help="NAME=VALUE that every gRPC call sends")
    parser.add_argument(
        "--wait", type=float, default=30, help="seconds that the routes may take to the gateway"
    )
    return parser.parse_args()


GIVEN = arguments()
METADATA = [tuple(GIVEN.metadata.split("=", 1))] if GIVEN.metadata else []
TRACKS = dict(track.split("=") for track in GIVEN.track)


class RefusedError(Exception):
    """
    The model answered that it does not take this request.
    """


def rest(method, path, body=None):
    """
    Send one REST request and give status, headers and body. With TLS the gateway's certificate must be valid for the
    host.
    """
    connection = http.client.HTTPConnection(GIVEN.host)
    try:
        connection.sock = socket.create_connection((GIVEN.address, GIVEN.port), timeout=TIMEOUT_SECONDS)
        if GIVEN.scheme == "https":
            context = ssl.create_default_context(cafile=GIVEN.ca)
            context.set_alpn_protocols(["http/1.1"])
            connection.sock = context.wrap_socket(connection.sock, server_hostname=GIVEN.host)
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    except (OSError, http.client.HTTPException) as exc:
        raise SystemExit(
            f"error: REST {path}: expected an answer from {GIVEN.address}:{GIVEN.port}, got {exc}"
        ) from exc


def channel():
    """
    Connect to the gateway for gRPC by the name of the host: it is the authority, and with TLS the certificate's name.
    """
    # A message of the model may be large. The gateway has a limit of its own.
    options = [("grpc.default_authority", GIVEN.host), ("grpc.max_receive_message_length", -1)]
    if GIVEN.scheme == "http":
        return grpc.insecure_channel(f"{GIVEN.address}:{GIVEN.port}", options)
    # grpcio brings authorities of its own, which it takes where the system has no file of them.
    authorities = GIVEN.ca or ssl.get_default_verify_paths().cafile
    trusted = Path(authorities).read_bytes() if authorities else None
    return grpc.secure_channel(
        f"{GIVEN.address}:{GIVEN.port}", grpc.ssl_channel_credentials(trusted), options
    )


def foreign(headers, version=None):
    """
    Say why an answer is not of this release; nothing if it is.
    """
    revision, track = headers.get("x-route-revision"), headers.get("x-model-track")
    if GIVEN.revision and revision != GIVEN.revision:
        return (
            f"expected the route revision {GIVEN.revision} of this release, got {revision or 'none'}: another release "
            f"or application answers for the host {GIVEN.host}, or the gateway does not have the routes yet"
        )
    if GIVEN.revision and track not in TRACKS:
        return f"expected a track of this release ({', '.join(TRACKS)}), got {track or 'none'}"
    expected = {TRACKS[track]} if track in TRACKS else set(TRACKS.values())
    if version is not None and version not in expected:
        about = f"of track {track}" if track in TRACKS else "of a track"
        return (
            f"expected version {' or '.join(sorted(expected))} {about}, got version {version}: "
            "the pods of another track or release answer"
        )
    return ""


def document(content):
    """
    Read an object of JSON, or give an empty one if it is none.
    """
    try:
        # The server writes the strings of a model as they are, and they may be any bytes.
        found = json.loads(content.decode(errors="surrogateescape"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def shown(content):
    """
    Give the beginning of an answer on one line.
    """
    return " ".join(content.decode(errors="replace").split())[:300] or "nothing"


def metadata():
    """
    Ask for the model's metadata until this release answers, and give it.
    """
    path = f"/v1/models/{GIVEN.model}/metadata"
    deadline = time.monotonic() + GIVEN.wait
    while True:
        status, headers, content = rest("GET", path)
        answer = document(content)
        if status != 200:
            wrong = f"expected status 200, got {status}"
        elif "metadata" not in answer:
            wrong = foreign(headers) or f"expected a model's metadata, got {shown(content)}"
        else:
            version = str(answer["model_spec"].get("version", ""))
            wrong = foreign(headers, version)
            if not wrong:
                sys.stdout.write(
                    f"release: revision {headers.get('x-route-revision', 'unknown')}, version {version} of "
                    f"{headers.get('x-model-track', 'a track')}\n"
                )
                return answer["metadata"]["signature_def"]["signature_def"]
        if time.monotonic() >= deadline:
            raise SystemExit(f"error: REST {path}: {wrong}")
        time.sleep(0.5)


def made(signature):
    """
    Make the inputs of a signature, once for each sample: shape and values by name.
    """
    for number, whole, text, unknown in SAMPLES:
        inputs = {}
        for name, tensor in signature["inputs"].items():
            shape = tensor.get("tensor_shape", {})
            sizes = [int(dim["size"]) for dim in shape.get("dim", [])] or [1] * bool(
                shape.get("unknown_rank")
            )
            # A batch of one is enough.
            sizes = [size if size >= 0 else unknown if place else 1 for place, size in enumerate(sizes)]
            kind = tensor["dtype"]
            whole_numbers = "INT" in kind
            value = (
                text
                if kind == "DT_STRING"
                else whole == 1
                if kind == "DT_BOOL"
                else whole
                if whole_numbers
                else number
            )
            if math.prod(sizes) > MOST_ELEMENTS:
                break
            inputs[name] = sizes, [value] * math.prod(sizes)
        else:
            yield inputs


def columns(inputs):
    """
    Write inputs in the REST API's column form, which has scalars as well.
    """

    def nested(sizes, values):
        if not sizes:
            value = next(values)
            return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        return [nested(sizes[1:], values) for _ in range(sizes[0])]

    return {name: nested(sizes, iter(values)) for name, (sizes, values) in inputs.items()}


def given(signatures):
    """
    Read the request of the values: its body, the name of its signature, and shape and values by name.
    """
    body = json.loads(Path(GIVEN.request).read_text())
    name = body.get("signature_name", "serving_default")
    if name not in signatures:
        raise SystemExit(f"error: helmTest.request: expected a signature of the model, got {name!r}")
    names = list(signatures[name]["inputs"])
    rows, value = "instances" in body, body.get("instances", body.get("inputs"))

    def is_named(part):
        return isinstance(part, dict) and "b64" not in part

    sent = {key: part for key, part in body.items() if key in ("signature_name", "instances", "inputs")}
    try:
        if rows and is_named(value[0]):
            value = {key: [row[key] for row in value] for key in names}
        elif not is_named(value):
            value = {names[0]: value}
        return sent, name, {key: flat(value[key]) for key in names}
    except (KeyError, IndexError, TypeError) as exc:
        raise SystemExit(
            f"error: helmTest.request: expected the inputs {', '.join(names)} of {name}, got {exc!r}"
        ) from exc


def flat(value):
    """
    Give shape and values of nested lists.
    """
    sizes, values = [], [value]
    while values and isinstance(values[0], list):
        sizes.append(len(values[0]))
        values = [inner for part in values for inner in part]
    return sizes, [text_of(part) if isinstance(part, (str, dict)) else part for part in values]


def text_of(part):
    """
    Give a string of JSON, or the bytes that a base64 object stands for.
    """
    return part.encode() if isinstance(part, str) else base64.b64decode(part["b64"])


def packed(kind, value):
    """
    Write one number as TensorFlow has it in memory.
    """
    if kind == "bfloat16":
        return struct.pack("<f", value)[2:]
    return struct.pack(f"<{kind}", *([value, 0] if len(kind) == 2 else [value]))


def predict_rest(name, body):
    """
    Ask for one prediction over REST.
    """
    path = f"/v1/models/{GIVEN.model}:predict"
    status, headers, content = rest("POST", path, body)
    wrong = foreign(headers)
    if wrong:
        raise SystemExit(f"error: REST {path}: {wrong}")
    if status == 400:
        raise RefusedError(shown(content))
    if status != 200:
        raise SystemExit(f"error: REST {path}: expected status 200, got {status}: {shown(content)}")
    if not document(content).keys() & {"predictions", "outputs"}:
        raise SystemExit(f"error: REST {path}: expected predictions or outputs, got {shown(content)}")
    sys.stdout.write(f"REST: {name} predicted\n")


def predict_grpc(name, signature, inputs):
    """
    Ask for the same prediction over gRPC.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(
        text_format.Parse(MESSAGES, descriptor_pb2.FileDescriptorProto()).SerializeToString()
    )
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"predict.{kind}"))
        for kind in ("Request", "Response")
    )
    message = request(model_spec={"name": GIVEN.model, "signature_name": name})
    for key, (sizes, values) in inputs.items():
        number, kind = KINDS[signature["inputs"][key]["dtype"]]
        tensor = {"dtype": number, "tensor_shape": {"dim": [{"size": size} for size in sizes]}}
        if kind:
            tensor["tensor_content"] = b"".join(packed(kind, value) for value in values)
        else:
            tensor["string_val"] = values
        message.inputs.add(key=key, value=tensor)
    with channel() as opened:
        ask = opened.unary_unary(PREDICT, request.SerializeToString, response.FromString)
        try:
            answer, call = ask.with_call(message, timeout=TIMEOUT_SECONDS, metadata=METADATA)
        except grpc.RpcError as exc:
            if exc.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise RefusedError(exc.details()) from exc
            raise SystemExit(
                f"error: gRPC {PREDICT}: expected an answer, got {exc.code().name}: {exc.details()}"
            ) from exc
    # A server without the version in its answers says 0.
    wrong = foreign(dict(call.initial_metadata()), str(answer.model_spec.version.value or "") or None)
    if wrong:
        raise SystemExit(f"error: gRPC {PREDICT}: {wrong}")
    outputs = sorted(output.key for output in answer.outputs)
    if outputs != sorted(signature["outputs"]):
        raise SystemExit(
            f"error: gRPC: expected the outputs {', '.join(sorted(signature['outputs']))}, got "
            f"{', '.join(outputs) or 'none'}"
        )
    sys.stdout.write(f"gRPC: {name} predicted\n")


def candidates(signatures):
    """
    Give requests to try: body (none where the REST API has no form for it), name of the signature, and inputs.
    """
    if GIVEN.request:
        yield given(signatures)
        return
    for name in sorted(signatures, key=lambda name: (name != "serving_default", name)):
        kinds = {tensor["dtype"] for tensor in signatures[name]["inputs"].values()}
        if not kinds <= KINDS.keys():
            continue
        for inputs in made(signatures[name]):
            body = {"signature_name": name, "inputs": columns(inputs)} if not kinds & set(COMPLEX) else None
            yield body, name, inputs


def main():
    """
    Run until a request is answered over both APIs.
    """
    signatures = {name: one for name, one in metadata().items() if not name.startswith("__")}
    refused = "no signature has inputs that can be made"
    for body, name, inputs in candidates(signatures):
        try:
            if body is not None:
                predict_rest(name, body)
            predict_grpc(name, signatures[name], inputs)
        except RefusedError as exc:
            refused = str(exc)
            continue
        return
    if GIVEN.request:
        raise SystemExit(f"error: helmTest.request: expected a prediction, got {refused}")
    raise SystemExit(
        f"error: model {GIVEN.model}: expected an answer to made inputs, got {refused}; {SET_REQUEST}"
    )


main()
