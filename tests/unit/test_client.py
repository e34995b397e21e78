"""
The REST and the gRPC client: one kind of answer, no request sent twice, and TensorFlow is not loaded.
"""

import contextlib
import gzip
import logging
import socket
import subprocess
import sys
import threading
import time

import grpc
import httpx
import numpy as np
import pytest

from tfcanary import cli
from tfcanary.client.answer import Tensor
from tfcanary.client.base import Client
from tfcanary.client.endpoint import MAX_MESSAGE_BYTES, burst
from tfcanary.client.grpc_client import GrpcClient, metadata_message
from tfcanary.client.pictures import classified, default_pictures, picture_tensor
from tfcanary.client.request import PredictRequest
from tfcanary.client.rest import RestClient
from tfcanary.contract import REVISION_HEADER, Api
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Routing
from tfcanary.text import short

# Types of HTTP/2 frames, and the flags END_HEADERS alone of a call whose message follows (RFC 9113, section 6).
SETTINGS, GOAWAY, HEADERS_FLAGS = 4, 7, b"\x04"
JPEG = PredictRequest.one("serving_preprocess", "image_bytes", b"jpeg")


@pytest.fixture
def everyone(values) -> Routing:
    return from_values(values({"name": "everyone", "weights": {"stable": 100}}))


@pytest.fixture(params=[RestClient, GrpcClient], ids=["rest", "grpc"])
def client(request):
    """
    Make a client of either API for a gateway.
    """
    made = []

    def make(address: str, **options: object) -> Client:
        made.append(request.param(address, "resnet", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_an_answer_says_who_gave_it_and_by_which_routes(gateway, everyone, client):
    answer = client(gateway(everyone).address).metadata()

    assert (True, "stable", "rev-2") == (answer.ok, answer.track, answer.revision)
    assert 0 < answer.latency_seconds < 30


def test_both_apis_describe_the_same_interface(gateway, everyone):
    address = gateway(everyone).address
    with RestClient(address, "resnet") as rest, GrpcClient(address, "resnet") as grpc:
        described = [one.metadata(parse=True).interface for one in (rest, grpc)]

    assert described[0] == described[1]
    assert Tensor("DT_FLOAT", (-1, 8, 8, 3)) == described[0]["serving_default"].inputs["images"]


@pytest.mark.parametrize("signature", ["serving_default", "serving_preprocess"])
def test_both_apis_predict_the_same(gateway, everyone, signature):
    picture = default_pictures()[0].content
    value = picture_tensor(picture, 8, 8) if signature == "serving_default" else picture
    address = gateway(everyone).address
    with RestClient(address, "resnet") as rest, GrpcClient(address, "resnet") as grpc:
        request = PredictRequest.one(signature, "input", value)
        one, other = (classified(each.predict(request).prediction) for each in (rest, grpc))

    assert one.labels == other.labels
    assert 5 == len(one.labels) == len(one.probabilities)
    np.testing.assert_allclose(one.class_probabilities, other.class_probabilities, atol=1e-6)


def test_a_failed_request_is_not_tried_again(gateway, everyone, client):
    """
    503 and UNAVAILABLE are what a client would retry; here one request is one request.
    """
    double = gateway(everyone, status=lambda *_: 503)

    answer = client(double.address).metadata()

    assert 1 == double.counts.total()
    assert not answer.ok
    assert answer.status in {"503", "UNAVAILABLE"}
    assert "no healthy upstream" in answer.error
    assert "stable" == answer.track


def test_a_call_that_a_closing_connection_did_not_take_goes_to_the_next(gateway, everyone):
    """
    A gateway that replaces a listener ends its connections by GOAWAY, and names the last call that it took: none here.
    """
    double = gateway(everyone)
    with closing_first(double.address) as address, GrpcClient(address, "resnet") as client:
        answer = client.metadata()

    assert answer.ok, str(answer)
    assert 1 == double.counts.total()


@contextlib.contextmanager
def closing_first(address):
    """
    An address whose first connection is closed by GOAWAY at its first call, and whose second leads to the gateway.
    """
    host, port = address.split(":")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve():
            first, _ = server.accept()
            with first:
                first.sendall(frame(SETTINGS))
                received = b""
                # The call's headers: a frame of this type on stream 1.
                while b"\x01" + HEADERS_FLAGS + b"\0\0\0\x01" not in received:
                    received += first.recv(65536)
                first.sendall(frame(GOAWAY, bytes(8)))
                try:
                    second, _ = server.accept()
                except TimeoutError:
                    return
            with second, socket.create_connection((host, int(port))) as onward:
                back = threading.Thread(target=pipe, args=(onward, second))
                back.start()
                pipe(second, onward)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def frame(kind, payload=b""):
    """
    A frame of HTTP/2 on the connection itself (RFC 9113, section 4.1).
    """
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload


def pipe(source, sink):
    """
    Pass bytes on until there are no more, or until an end is gone.
    """
    # The client closes its connection when it has its answer, which may be before the server does.
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def test_attribution_of_an_error_is_read_where_it_is(gateway, everyone, client):
    """
    Trailers-only answers of gRPC have their headers at the end; either way the track is known.
    """
    answer = client(gateway(everyone, status=lambda *_: 404).address).metadata()

    assert ("stable", "rev-2", True) == (answer.track, answer.revision, answer.reached)


def test_nothing_there_is_an_answer_too(client):
    answer = client("127.0.0.1:9").metadata()

    assert (False, False, None) == (answer.ok, answer.reached, answer.track)
    assert answer.status in {"ConnectError", "UNAVAILABLE"}


def test_proxies_of_the_environment_are_left_aside(gateway, everyone, client, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert client(gateway(everyone).address).metadata().ok


def test_html_instead_of_a_prediction_is_no_answer(gateway, everyone):
    double = gateway(everyone, body=lambda _: b"<html>Welcome to the proxy</html>")
    with RestClient(double.address, "resnet") as rest:
        answer = rest.predict(JPEG)

    assert not answer.ok
    assert "not an answer of the model" in answer.error
    assert "Welcome to the proxy" in answer.error


@pytest.mark.parametrize("missing", ["labels", "probabilities", "class_probabilities"])
def test_a_prediction_without_an_output_is_none_of_pictures(gateway, everyone, missing):
    def outputs(_api, _track, found):
        return {name: value for name, value in found.items() if name != missing}

    with RestClient(gateway(everyone, outputs=outputs).address, "resnet") as rest:
        answer = rest.predict(JPEG)

    with pytest.raises(ValueError, match=f"no output {missing}"):
        classified(answer.prediction)


def test_labels_that_are_numbers_are_none(gateway, everyone):
    def outputs(_api, _track, found):
        return {**found, "labels": [1.0] * 5}

    with GrpcClient(gateway(everyone, outputs=outputs).address, "resnet") as client:
        answer = client.predict(JPEG)

    with pytest.raises(ValueError, match="output labels is DT_FLOAT"):
        classified(answer.prediction)


@pytest.mark.parametrize(("more", "ok"), [(0, True), (-1, False)], ids=["at-the-limit", "one-byte-less"])
def test_the_receive_limit_is_the_one_that_is_set(gateway, everyone, more, ok):
    """
    The limit is explicit (gRPC's default is 4 MiB) and exact to the byte.
    """
    double = gateway(everyone)
    request = metadata_message("resnet").SerializeToString()
    with grpc.insecure_channel(double.address) as channel:
        ask = channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")
        size = len(ask(request, timeout=5))
    with GrpcClient(double.address, "resnet", max_message_bytes=size + more) as client:
        answer = client.metadata()

    assert ok is answer.ok
    assert ("OK" if ok else "RESOURCE_EXHAUSTED") == answer.status


def test_the_limit_is_far_above_the_default():
    assert 4 * 1024 * 1024 < MAX_MESSAGE_BYTES


def test_a_deadline_is_kept(gateway, everyone, client):
    """
    An answer after the deadline is a failure.
    """
    released = threading.Event()
    double = gateway(everyone, status=lambda *_: 200 if released.wait(5) else 503)

    answer = client(double.address, deadline_seconds=0.1).metadata()
    released.set()

    assert answer.status in {"ReadTimeout", "DEADLINE_EXCEEDED"}
    assert not answer.ok


def test_an_answer_in_pieces_has_the_same_deadline(gateway, everyone, monkeypatch):
    """
    Each piece comes in time, and the whole does not.
    """

    def pieces(response):
        for piece in whole(response):
            for byte in piece:
                time.sleep(0.01)
                yield bytes([byte])

    whole = httpx.Response.iter_raw
    monkeypatch.setattr(httpx.Response, "iter_raw", pieces)
    with RestClient(gateway(everyone).address, "resnet", deadline_seconds=0.1) as rest:
        answer = rest.metadata()

    assert ("ReadTimeout", "no whole answer within 0.1 s") == (answer.status, answer.error)
    assert 1 > answer.latency_seconds


def test_a_rest_answer_is_no_larger_than_one_over_grpc(gateway, everyone):
    double = gateway(everyone, body=lambda body: gzip.compress(b" " * 100_000 + body))
    double.attribute = lambda _api, _count, headers: {**headers, "content-encoding": "gzip"}
    with RestClient(double.address, "resnet", max_message_bytes=100_000) as rest:
        answer = rest.metadata()

    assert not answer.ok
    assert "more than 100000 bytes" in answer.error


def test_an_answer_that_is_nested_too_deeply_is_none(gateway, everyone):
    with RestClient(gateway(everyone, body=lambda _: b"[" * 100_000).address, "resnet") as rest:
        answer = rest.metadata(parse=True)

    assert not answer.ok
    assert "not an answer of the model: RecursionError" in answer.error


def test_a_command_shows_no_line_for_each_request(gateway, everyone, capsys):
    """
    A command's progress is its own: httpx logs every request at INFO, also where INFO was on before.
    """
    address = gateway(everyone).address

    def command(_arguments: object) -> int:
        logging.getLogger("tfcanary.test").info("progress")
        with RestClient(address, "resnet") as rest:
            return 0 if rest.metadata().ok else 1

    root = logging.getLogger()
    before = root.level, root.handlers[:]
    root.setLevel(logging.INFO)
    try:
        assert 0 == cli.run(cli.Parser(), command, [])
    finally:
        root.level, root.handlers[:] = before

    said = capsys.readouterr().err
    assert said.endswith("progress\n")
    assert 1 == len(said.splitlines())


def test_the_host_is_the_one_that_is_asked_for(gateway, everyone, client):
    seen = []

    def see(_api, headers):
        seen.append({name.lower(): value for name, value in headers.items()})
        return headers

    client(gateway(everyone, see_headers=see).address, host="models.example.com").metadata()

    # gRPC's server keeps the authority to itself; that it arrives is for the cluster tests to see.
    assert seen[0].get("host", "models.example.com") == "models.example.com"


def test_headers_reach_the_gateway_over_both_apis(gateway, user_group, client):
    double = gateway(user_group)
    made = client(double.address)

    assert "canary" == made.metadata({"user-group": "canary"}).track
    assert "stable" == made.metadata({"user-group": "other"}).track


def test_a_burst_keeps_its_order_and_stops_with_its_caller():
    asked = []

    def ask(headers):
        asked.append(headers)
        return headers

    answers = burst(ask, ({"n": str(n)} for n in range(1000)), 2)

    assert [{"n": "0"}, {"n": "1"}] == [next(answers), next(answers)]
    answers.close()
    assert len(asked) < 1000


def test_what_a_gateway_says_is_no_terminals_command(gateway, everyone):
    """
    An answer's words go to a terminal and into files: no escape sequence, no half of a surrogate.
    """

    def interface(_api, _track, found):
        return {**found, "named\x1b[2J\ud800\n": ("x", "DT_FLOAT", (-1,))}

    def attribute(_api, _count, headers):
        return {**headers, REVISION_HEADER: "rev\x1b[2J"}

    double = gateway(everyone, interface=interface, attribute=attribute)
    with RestClient(double.address, "resnet") as rest:
        answer = rest.metadata(parse=True)

    assert {"serving_default", "serving_preprocess", "named�[2J��"} == set(answer.interface)
    assert "rev�[2J" == answer.revision
    assert "a b�[31mc" == short("a\nb\x1b[31mc")


def test_tensorflow_itself_is_not_loaded():
    """
    The published protos come without the package above them, and nothing of the stand-in stays behind.
    """
    program = """
import sys
from tfcanary.client.tensors import to_tensor
to_tensor([b"x"])
print("tensorflow" in sys.modules, "tensorflow.python" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )

    assert "False False" == done.stdout.strip()


def test_the_pictures_are_real():
    """
    Both decode to the size asked for, as 0 to 255.
    """
    tensors = [picture_tensor(picture.content, 224, 224) for picture in default_pictures()]

    assert [(224, 224, 3)] * 2 == [tensor.shape for tensor in tensors]
    assert all(0 <= tensor.min() < 100 < tensor.max() <= 255 for tensor in tensors)


def test_apis_are_named_as_people_say_them():
    assert ["REST", "gRPC"] == [api.value for api in Api]


def test_no_request_keeps_a_cookie_of_the_one_before(gateway, values):
    """
    A gateway that sets a cookie sees none come back, unless it is given as a header.
    """
    seen = []

    def see(_api, headers):
        seen.append(headers.get("cookie") or headers.get("Cookie"))
        return headers

    double = gateway(
        from_values(values()),
        see_headers=see,
        attribute=lambda _api, _count, headers: {**headers, "set-cookie": "model-track=canary; Path=/"},
    )

    with RestClient(double.address, "resnet") as client:
        answers = [client.metadata(), client.metadata(), client.metadata({"cookie": "model-track=stable"})]

    assert [None, None, "model-track=stable"] == seen
    assert {"model-track=canary"} == {answer.cookie for answer in answers}
