"""
What `helm test` runs: the pod that is rendered, and its program against a gateway with one port for REST and gRPC.
"""

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from tfcanary.protos import bare_tensorflow

with bare_tensorflow():
    from tensorflow_serving.apis import predict_pb2

CA = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
PICTURES = {
    "serving_default": {"inputs": {"images": {"dtype": "DT_FLOAT"}}, "outputs": {"probabilities": {}}},
    "serving_preprocess": {"inputs": {"jpegs": {"dtype": "DT_STRING"}}, "outputs": {"labels": {}}},
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, ["80", "model", "resnet", "http"], id="plain"),
        pytest.param(
            {"gateway": {"hosts": ["*.a.example"], "tls": {"enabled": True, "credentialName": "cert"}}},
            ["443", "model.a.example", "resnet", "https"],
            id="tls",
        ),
        pytest.param(
            {
                "gateway": {"tls": {"enabled": True, "credentialName": "cert", "port": 8443}},
                "helmTest": {"host": "a.example", "ca": CA},
            },
            ["8443", "a.example", "resnet", "https", "/test/ca.pem"],
            id="own-authority",
        ),
    ],
)
def test_helm_test_asks_where_clients_do(render, values, expected):
    """
    The pod gets the port, the host and the scheme. A custom authority is in the ConfigMap beside the program.
    """
    rendered = render("stable", values=values)

    (container,) = rendered.one("Pod")["spec"]["containers"]
    program = rendered.all("ConfigMap")["resnet-test"]["data"]
    assert expected == container["command"][3:]
    assert values.get("helmTest", {}).get("ca") == program.get("ca.pem")


class Gateway:
    """
    A model behind one port: what each API answers may be changed, and what it was asked is kept.
    """

    def __init__(self):
        self.signatures = PICTURES
        self.status = 200
        self.outputs = ["labels", "probabilities"]
        self.code = None
        self.hosts = []
        self.names = []
        self.asked = []
        self.context = None
        gateway = self

        class Rest(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer({"metadata": {"signature_def": {"signature_def": gateway.signatures}}})

            def do_POST(self):
                gateway.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer({"predictions": [{"labels": ["grey"]}]})

            def answer(self, body):
                gateway.hosts.append(self.headers["Host"])
                self.send_response(gateway.status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        self.rest = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
        self.rest.daemon_threads = True
        self.grpc = grpc.server(ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(
            self.predict, predict_pb2.PredictRequest.FromString, predict_pb2.PredictResponse.SerializeToString
        )
        service = "tensorflow.serving.PredictionService"
        self.grpc.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"Predict": handler})]
        )
        self.ports = {"rest": self.rest.server_port, "grpc": self.grpc.add_insecure_port("127.0.0.1:0")}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.grpc.start()
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()
        threading.Thread(target=self.rest.serve_forever, args=[0.05], daemon=True).start()

    def predict(self, request, context):
        """
        Answer one gRPC call.
        """
        self.hosts.append(context._rpc_event.call_details.host.decode())
        self.asked.append(request)
        if self.code is not None:
            context.abort(self.code, "no healthy upstream")
        response = predict_pb2.PredictResponse()
        for name in self.outputs:
            response.outputs[name].float_val.append(0.5)
        return response

    def accept(self):
        """
        Lead every connection to the API that it speaks.
        """
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.lead, args=[connection], daemon=True).start()

    def lead(self, connection):
        """
        Lead one connection: with TLS its protocol is agreed upon, without it HTTP/2 starts with PRI.
        """
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
                speaks_grpc = connection.selected_alpn_protocol() == "h2"
            else:
                speaks_grpc = connection.recv(3, socket.MSG_PEEK) == b"PRI"
            api = socket.create_connection(("127.0.0.1", self.ports["grpc" if speaks_grpc else "rest"]))
        except OSError:
            connection.close()
            return
        back = threading.Thread(target=pump, args=[api, connection], daemon=True)
        with connection, api:
            back.start()
            pump(connection, api)
            back.join()

    def close(self):
        """
        Stop answering.
        """
        # Closing alone would leave accept() waiting, and it would take one more connection.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.listener.close()
        self.rest.shutdown()
        self.rest.server_close()
        self.grpc.stop(None)


def pump(source, target):
    """
    Copy all that arrives, until one side ends.
    """
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def gateway():
    """
    A gateway that answers as it should.
    """
    made = Gateway()
    yield made
    made.close()


@pytest.fixture
def ask(gateway, chart):
    """
    Run the program, and give its exit code, what it printed and its complaint.
    """

    def run(*authorities, scheme="http", python=(sys.executable,)):
        command = [
            *python,
            chart / "files" / "helm-test.py",
            "127.0.0.1",
            str(gateway.port),
            "a.example",
            "resnet",
        ]
        done = subprocess.run(
            [*command, scheme, *authorities], capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def secured(gateway, identity, tmp_path):
    """
    Give the gateway a certificate for a host, and give the file of its authority.
    """

    def secure(host):
        key, certificate = identity(host).pems
        (tmp_path / "tls.pem").write_text(key + certificate)
        (tmp_path / "ca.pem").write_text(certificate)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "tls.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = lambda _socket, name, _context: gateway.names.append(name)
        gateway.context = context
        return tmp_path / "ca.pem"

    return secure


PREDICTED = "REST: serving_preprocess predicted\ngRPC: serving_preprocess predicted\n"


def test_it_predicts_over_both_apis(ask, gateway):
    """
    The signature that takes pictures is asked once over each API, with the same picture, by the name of the host.
    """
    assert (0, PREDICTED, "") == ask()

    rest, grpc_request = gateway.asked
    (instance,) = rest["instances"]
    tensor = grpc_request.inputs["jpegs"]
    assert ("resnet", "serving_preprocess") == (
        grpc_request.model_spec.name,
        grpc_request.model_spec.signature_name,
    )
    assert (7, [1]) == (tensor.dtype, [dim.size for dim in tensor.tensor_shape.dim])
    assert [base64.b64decode(instance["jpegs"]["b64"])] == list(tensor.string_val)
    assert tensor.string_val[0].startswith(b"\xff\xd8")
    assert {"a.example"} == set(gateway.hosts)


def test_it_speaks_tls(ask, gateway, secured):
    """
    With TLS both APIs ask for the host by its name, and verify the certificate by the authority that the values name.
    """
    assert (0, PREDICTED, "") == ask(secured("a.example"), scheme="https")

    # The metadata and the prediction over REST, and the connection of gRPC.
    assert ["a.example"] * 3 == gateway.names


@pytest.mark.parametrize("trusts", [True, False])
def test_it_verifies_the_certificate(ask, secured, trusts):
    """
    A certificate for another host is refused, and so is one of an unknown authority.
    """
    authority = secured("b.example" if trusts else "a.example")

    code, printed, said = ask(*([authority] if trusts else []), scheme="https")

    assert (1, "") == (code, printed)
    assert said.startswith("error: REST /v1/models/resnet/metadata: expected an answer from 127.0.0.1:")
    assert "certificate verify failed" in said
    assert 1 == said.count("\n")


FAULTS = {
    "rest": ({"status": 503}, "error: REST /v1/models/resnet/metadata: expected status 200, got 503"),
    "no-pictures": (
        {"signatures": {"serving_default": PICTURES["serving_default"]}},
        "error: model resnet: expected a signature that takes pictures as bytes, got serving_default",
    ),
    "grpc": (
        {"code": grpc.StatusCode.UNAVAILABLE},
        "error: gRPC /tensorflow.serving.PredictionService/Predict: expected an answer, got UNAVAILABLE: no healthy upstream",
    ),
    "output": (
        {"outputs": ["probabilities"]},
        "error: gRPC: expected the output labels, got probabilities",
    ),
    "no-output": ({"outputs": []}, "error: gRPC: expected the output labels, got none"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_says_in_one_line_what_is_wrong(ask, gateway, name):
    """
    A gateway that answers with anything else fails the test, with one line that names the API.
    """
    changes, message = FAULTS[name]
    for attribute, value in changes.items():
        setattr(gateway, attribute, value)

    code, _, said = ask()

    assert (1, f"{message}\n") == (code, said)


def test_it_says_that_the_gateway_is_not_there(ask, gateway):
    """
    Where nothing listens, the address is named.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        gateway.port = unused.getsockname()[1]

    code, printed, said = ask()

    assert (1, "") == (code, printed)
    assert f"expected an answer from 127.0.0.1:{gateway.port}, got [Errno 111] Connection refused\n" in said


def test_it_says_what_its_image_lacks(ask):
    """
    An image that has Python alone is named by its key.
    """
    code, _, said = ask(python=(sys.executable, "-S"))

    assert 1 == code
    assert said.startswith(
        "error: helmTest.image: expected an image with the Python packages grpcio and protobuf, got none: "
    )
