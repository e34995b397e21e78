"""
Ask the gateway for one prediction by REST and one by gRPC. Nothing but Python's standard library is used: the gRPC call
is written out as the HTTP/2 frames that it consists of.
"""

import base64
import http.client
import json
import socket
import ssl
import struct
import sys

ADDRESS, PORT, HOST, MODEL = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
# "http", or "https"; and a file of authorities to trust, in place of the system's.
SCHEME, CA = sys.argv[5], (sys.argv[6:] or [None])[0]
# A picture of 8 by 8 grey dots.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2P/wAARCAAIAAgDASIAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/xAAU"
    "AQEAAAAAAAAAAAAAAAAAAAAC/8QAFBEBAAAAAAAAAAAAAAAAAAAAAP/aAAwDAQACEQMRAD8AAGD/2Q=="
)


def connect(protocol):
    """
    A connection to the gateway; with TLS its certificate has to be for the host that is asked for.
    """
    connection = socket.create_connection((ADDRESS, PORT), timeout=60)
    if SCHEME == "http":
        return connection
    context = ssl.create_default_context(cafile=CA)
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(connection, server_hostname=HOST)


def rest(method, path, body=None):
    """
    The answer to one REST request.
    """
    connection = http.client.HTTPConnection(HOST)
    connection.sock = connect("http/1.1")
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"error: REST {path}: expected status 200, got {answer.status}")
    return json.load(answer)


def field(number, value):
    """
    A field of a protocol buffers message: a number, or bytes with their length.
    """
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    """
    A number in as few bytes as it needs.
    """
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])


def frame(kind, flags, stream, payload):
    """
    One HTTP/2 frame.
    """
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """
    A header that is written out, without compression.
    """
    length = struct.pack("B", len(value)) if len(value) < 127 else b"\x7f" + varint(len(value) - 127)
    return b"\x00" + bytes([len(name)]) + name.encode() + length + value.encode()


def grpc(method, message):
    """
    The first message of the answer to one call.
    """
    body = b"\x00" + struct.pack(">I", len(message)) + message
    headers = {
        ":method": "POST",
        ":scheme": SCHEME,
        ":path": method,
        ":authority": HOST,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    with connect("h2") as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, b"")
            + frame(1, 4, 1, b"".join(literal(*header) for header in headers.items()))
            + frame(0, 1, 1, body)
        )
        stream = connection.makefile("rb")
        data = b""
        while True:
            head = stream.read(9)
            if len(head) < 9:
                raise SystemExit(f"error: gRPC {method}: the connection ended")
            length, (kind, flags, number) = int.from_bytes(head[:3], "big"), struct.unpack(">BBI", head[3:])
            payload = stream.read(length)
            if kind == 4 and not flags & 1:
                connection.sendall(frame(4, 1, 0, b""))
            if kind in (3, 7):
                raise SystemExit(f"error: gRPC {method}: the call was reset")
            if number == 1 and kind == 0:
                data += payload
            if number == 1 and kind in (0, 1) and flags & 1:
                break
    if len(data) < 5:
        raise SystemExit(f"error: gRPC {method}: expected a message, got an error")
    return data[5 : 5 + struct.unpack(">I", data[1:5])[0]]


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

shape = field(2, field(1, 1))
tensor = field(1, 7) + field(2, shape) + field(8, JPEG)
spec = field(1, MODEL.encode()) + field(3, signature.encode())
request = field(1, spec) + field(2, field(1, key.encode()) + field(2, tensor))
answer = grpc("/tensorflow.serving.PredictionService/Predict", request)
if output.encode() not in answer:
    raise SystemExit(
        f"error: gRPC: expected the output {output}, got a message of {len(answer)} bytes without it"
    )
sys.stdout.write(f"gRPC: {signature} predicted\n")
