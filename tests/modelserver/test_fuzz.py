"""
Malformed requests by the thousand: each gets a client error, none an internal one, and other clients notice nothing.

The examples are the same in every run. ``FUZZ_EXAMPLES=100000`` runs that number of examples, new ones each time.
"""

import base64
import gzip
import http.client
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcanary.modelserver import protos
from tfcanary.modelserver.tensors import to_proto

ASKED = int(os.environ.get("FUZZ_EXAMPLES", "0"))
REST_EXAMPLES = ASKED or 3800
GRPC_EXAMPLES = ASKED or 2400
# Some examples happen to be valid; at least 5,000 must not be.
REST_REFUSED = REST_EXAMPLES * 3000 // 3800
GRPC_REFUSED = GRPC_EXAMPLES * 2000 // 2400
SECONDS = 10.0  # for an answer; more is a hang
GROWN_MIB = 128
SERVICE = "/tensorflow.serving.PredictionService/"

# Errors of a client. UNIMPLEMENTED is a method, or a dtype, that does not exist.
CLIENTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}


def examples(count: int) -> Any:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not ASKED,
        suppress_health_check=list(HealthCheck),
    )


def resident_mib(server: Any) -> float:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


class Neighbour(threading.Thread):
    """
    A client that sends valid requests over both APIs, and records how many were answered and what failed.
    """

    def __init__(self, server: Any) -> None:
        super().__init__(name="neighbour", daemon=True)
        self.server = server
        self.over = threading.Event()
        self.answered = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """
        Send requests until the test is over.
        """
        request = protos.PredictRequest(model_spec={"name": "half"})
        to_proto(np.array([1.0], np.float32), 1, request.inputs["x"])
        while not self.over.wait(0.05):
            try:
                got = self.server.rest.post("/v1/models/half:predict", json={"instances": [1.0]})
                assert (got.status_code, got.json()) == (200, {"predictions": [3.5]})
                assert list(self.server.predict(request).outputs["y"].float_val) == [3.5]
                self.answered += 2
            except Exception as error:  # noqa: BLE001 - the test shows them
                self.errors.append(repr(error))


@pytest.fixture
def neighbour(server: Any) -> Iterator[Neighbour]:
    """
    Run a second client; after the test it has seen no error, and the server's memory has not grown.
    """
    before = resident_mib(server)
    client = Neighbour(server)
    client.start()
    yield client
    client.over.set()
    client.join(60)
    assert client.errors == []
    assert client.answered > 100
    assert resident_mib(server) - before < GROWN_MIB


# REST

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**31, 2**63, -(2**64), 10**400, 1e308, -0.0, 5e-324])
)
TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "\ud800", "\x00", "x", "b64", "QQ==", "*", "serving_default"])
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, TEXTS.map(lambda text: {"b64": text}))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
NAMES = st.sampled_from(["x", "a", "b", "text_bytes", "inputs", "count", "float32", "bool", "bfloat16", "z"])
KEYS = st.sampled_from(
    ["instances", "inputs", "signature_name", "examples", "context", "b64", "x", "INSTANCES", ""]
)
SIGNATURES = st.one_of(
    st.sampled_from(["serving_default", "strings", "kinds", "total", "classify", "regress", "nope"]), VALUES
)
DOCUMENTS = st.one_of(
    VALUES,
    st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=4),
    st.fixed_dictionaries(
        {"signature_name": SIGNATURES},
        optional={
            "instances": st.one_of(VALUES, st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=3)),
            "inputs": st.one_of(VALUES, st.dictionaries(NAMES, VALUES, max_size=3)),
            "examples": st.one_of(
                VALUES, st.lists(st.dictionaries(TEXTS, st.one_of(VALUES, st.lists(VALUES)), max_size=3))
            ),
            "context": VALUES,
        },
    ),
)
RIGHT = [
    json.dumps(body).encode()
    for body in (
        {"instances": [1.0, 2.0]},
        {"signature_name": "strings", "instances": [{"b64": base64.b64encode(b"picture").decode()}]},
        {"inputs": {"a": [[1, 2]], "b": [3]}},
        {"signature_name": "classify", "examples": [{"x": 1.0}], "context": {"offset": 2.0}},
    )
]


def deep(parts: tuple[tuple[str, str], int, bool]) -> bytes:
    """
    Nest brackets to a depth, and close them or not.
    """
    (opening, closing), depth, closed = parts
    end = "1" + closing * depth + "}" if closed else ""
    return f'{{"instances": {opening * depth}{end}'.encode()


@st.composite
def spoiled(draw: Any, originals: list[bytes]) -> bytes:
    """
    Draw valid bytes, and drop, change, repeat or insert pieces of them.
    """
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.integers(1, 8))
        match draw(st.sampled_from(["cut", "flip", "drop", "twice", "insert"])):
            case "cut":
                del data[at:]
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "drop":
                del data[at : at + size]
            case "twice":
                data[at:at] = data[at : at + size * 4]
            case _:
                data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


BODIES = st.one_of(
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    spoiled(RIGHT),
    spoiled(RIGHT),
    st.binary(max_size=64),
    st.tuples(
        st.sampled_from([("[", "]"), ('{"x":', "}"), ('[{"b64":', "}]"), ("[[0],", "]"), ('["\\"[",', "]")]),
        st.one_of(st.integers(1, 2000), st.integers(1, 50_000)),
        st.booleans(),
    ).map(deep),
)
REQUESTS = st.tuples(
    st.sampled_from(
        [
            "half:predict",
            "mixed:predict",
            "mixed:classify",
            "mixed:regress",
            "half/labels/old:predict",
            "mixed/versions/9:predict",
            "%FF%00:predict",
            "half:Predict",
            "half/versions/1:regress",
        ]
    ),
    BODIES,
    st.sampled_from([None, None, None, "gzip", "GZIP", "deflate"]),
    st.booleans(),
)


@pytest.mark.usefixtures("neighbour")
def test_a_malformed_rest_request_is_a_4xx_and_other_clients_notice_nothing(server: Any) -> None:
    """Bodies, paths and encodings of any kind, a few of which happen to be valid."""
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=SECONDS)

    @examples(REST_EXAMPLES)
    @given(REQUESTS)
    def one(request: tuple[str, bytes, str | None, bool]) -> None:
        target, body, encoding, really = request
        headers = {"Content-Encoding": encoding} if encoding else {}
        content = gzip.compress(body, 1) if encoding and really else body
        connection.request("POST", f"/v1/models/{target}", content, headers)
        got = connection.getresponse()
        text = got.read()
        statuses[got.status] += 1
        assert got.status == 200 or 400 <= got.status < 500, (got.status, text[:300])
        # Strings that are not UTF-8 are sent back unchanged, see test_rest.py.
        assert set(json.loads(text.decode("utf-8", "replace"))) <= {
            "error",
            "predictions",
            "outputs",
            "results",
        }

    one()
    connection.close()

    assert sum(count for status, count in statuses.items() if status != 200) >= REST_REFUSED, statuses


# gRPC


def message(kind: Any, **fields: Any) -> bytes:
    data: bytes = kind(**fields).SerializeToString()
    return data


def tensors(draw: Any, tensor: Any) -> None:
    """
    Fill a TensorProto with fields that may contradict each other.
    """
    tensor.dtype = draw(st.sampled_from([0, 1, 1, 1, 2, 3, 7, 7, 8, 9, 10, 14, 18, 19, 20, 21, 23, 101, 127]))
    for size in draw(
        st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**20, 2**31, 2**62]), max_size=3) | st.just([1] * 70)
    ):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(st.sampled_from([False] * 9 + [True]))
    match draw(st.integers(0, 4)):
        case 0:
            tensor.tensor_content = draw(st.binary(max_size=16))
        case 1:
            tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=4)))
        case 2:
            tensor.string_val.extend(draw(st.lists(st.binary(max_size=4), max_size=3)))
        case 3:
            tensor.int_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)))
        case _:
            tensor.int64_val.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))


def specs(draw: Any, spec: Any) -> None:
    spec.name = draw(st.sampled_from(["half", "mixed", "mixed", "", "nope"]))
    spec.signature_name = draw(
        st.sampled_from(
            ["", "serving_default", "strings", "kinds", "classify", "regress", "total", "nope", "\x00"]
        )
    )
    match draw(st.integers(0, 5)):
        case 0:
            spec.version.value = draw(st.sampled_from([-1, 0, 1, 2, 7, 2**63 - 1]))
        case 1:
            spec.version_label = draw(st.sampled_from(["old", "new", ""]))


@st.composite
def predictions(draw: Any) -> bytes:
    request = protos.PredictRequest()
    specs(draw, request.model_spec)
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        tensors(draw, request.inputs[name])
    request.output_filter.extend(
        draw(st.lists(st.sampled_from(["y", "sum", "twice", "nope", ""]), max_size=2))
    )
    data: bytes = request.SerializeToString()
    return data


@st.composite
def judgements(draw: Any, kind: Any) -> bytes:
    request = kind()
    specs(draw, request.model_spec)
    fill(draw, request.input)
    data: bytes = request.SerializeToString()
    return data


def fill(draw: Any, source: Any) -> None:
    kind = draw(st.sampled_from(["none", "list", "context"]))
    if kind == "none":
        return
    target = source.example_list if kind == "list" else source.example_list_with_context
    for _ in range(draw(st.integers(0, 2))):
        feature = target.examples.add().features.feature[draw(st.sampled_from(["x", "offset", "z", ""]))]
        match draw(st.integers(0, 2)):
            case 0:
                feature.float_list.value.extend(draw(st.lists(st.floats(width=32), max_size=3)))
            case 1:
                feature.bytes_list.value.append(draw(st.binary(max_size=4)))
            case _:
                feature.int64_list.value.append(draw(st.integers(-9, 9)))


@st.composite
def several(draw: Any) -> bytes:
    request = protos.MultiInferenceRequest()
    for _ in range(draw(st.integers(0, 3))):
        task = request.tasks.add(
            method_name=draw(
                st.sampled_from(["tensorflow/serving/classify", "tensorflow/serving/regress", "", "nope"])
            )
        )
        specs(draw, task.model_spec)
    fill(draw, request.input)
    data: bytes = request.SerializeToString()
    return data


def right() -> list[bytes]:
    request = protos.PredictRequest(model_spec={"name": "mixed"}, output_filter=["sum"])
    to_proto(np.zeros((2, 2), np.float32), 1, request.inputs["a"])
    to_proto(np.zeros(2, np.int64), 9, request.inputs["b"])
    judged = protos.ClassificationRequest(model_spec={"name": "mixed", "signature_name": "classify"})
    judged.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    told = {"model_spec": {"name": "mixed"}, "metadata_field": ["signature_def"]}
    return [
        request.SerializeToString(),
        judged.SerializeToString(),
        message(protos.GetModelMetadataRequest, **told),
    ]


METHODS = ["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"]
CALLS = st.one_of(
    st.tuples(st.just("Predict"), predictions()),
    st.tuples(st.just("Predict"), predictions()),
    st.tuples(st.just("Classify"), judgements(protos.ClassificationRequest)),
    st.tuples(st.just("Regress"), judgements(protos.RegressionRequest)),
    st.tuples(st.just("MultiInference"), several()),
    st.tuples(st.sampled_from(METHODS), st.binary(max_size=48)),
    st.tuples(st.sampled_from(METHODS), spoiled(right())),
)


@pytest.mark.usefixtures("neighbour")
def test_a_malformed_grpc_message_is_a_clients_error_and_other_clients_notice_nothing(server: Any) -> None:
    codes: Counter[Any] = Counter()
    methods = {method: server.channel.unary_unary(SERVICE + method) for method in METHODS}

    @examples(GRPC_EXAMPLES)
    @given(CALLS)
    def one(call: tuple[str, bytes]) -> None:
        method, data = call
        done = methods[method].future(data, timeout=SECONDS)
        done.exception()
        codes[done.code()] += 1
        assert done.code() in {grpc.StatusCode.OK, *CLIENTS}, (done.code(), done.details())

    one()

    assert sum(count for code, count in codes.items() if code in CLIENTS) >= GRPC_REFUSED, codes


def test_a_model_configuration_that_is_no_message_is_invalid(server: Any) -> None:
    """The messages cannot be parsed. An empty list would be a valid request, and unload everything."""
    reload = server.channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
    generator = random.Random(4)  # noqa: S311 - bytes to refuse, not to guess
    codes = set()
    for _ in range(100):
        with pytest.raises(grpc.RpcError) as caught:
            reload(b"\xff" + generator.randbytes(20), timeout=SECONDS)
        codes.add(caught.value.code())

    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
