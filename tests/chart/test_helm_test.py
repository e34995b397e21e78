"""
What `helm test` runs: the pod that is rendered, and its program against a gateway with one port for REST and gRPC.
"""

import base64
import json
import socket
import ssl
import subprocess
import sys

import grpc
import numpy as np
import pytest
from release_gateway import Gateway

from tfcanary.modelserver.tensors import _KINDS, from_proto
from tfcanary.protos import bare_tensorflow

with bare_tensorflow():
    from tensorflow.core.framework import types_pb2

CA = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"


# What a signature says of one of its tensors.
def tensor(dtype, *sizes):
    return {"dtype": dtype, "tensor_shape": {"dim": [{"size": str(size)} for size in sizes]}}


PICTURES = {
    "serving_default": {
        "inputs": {"images": tensor("DT_FLOAT", -1, 2, -1, 3)},
        "outputs": {"labels": {}, "probabilities": {}},
    },
    "__saved_model_init_op": {"inputs": {}, "outputs": {"__saved_model_init_op": {}}},
}
TRACKS = ["--track=canary=2", "--track=stable=1"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, ["80", "model", "resnet", "http", *TRACKS, "--revision="], id="plain"),
        pytest.param(
            {"gateway": {"hosts": ["*.a.example"], "tls": {"enabled": True, "credentialName": "cert"}}},
            ["443", "model.a.example", "resnet", "https", *TRACKS, "--revision="],
            id="tls",
        ),
        pytest.param(
            {
                "gateway": {"tls": {"enabled": True, "credentialName": "cert", "port": 8443}},
                "helmTest": {"host": "a.example", "ca": CA},
            },
            ["8443", "a.example", "resnet", "https", *TRACKS, "--revision=", "--ca=/test/ca.pem"],
            id="own-authority",
        ),
        pytest.param(
            {"routing": {"attribution": False}, "helmTest": {"request": '{"instances": [1]}'}},
            ["80", "model", "resnet", "http", *TRACKS, "--request=/test/request.json"],
            id="no-attribution-and-own-request",
        ),
    ],
)
def test_helm_test_asks_where_clients_do(render, values, expected):
    """
    The pod gets the port, the host and the scheme, and what tells this release from others: the versions of its tracks, and
    the revision of its routes where answers have one. A custom authority and a request of the values are in the
    ConfigMap beside the program.
    """
    rendered = render("stable", values=values)

    (container,) = rendered.one("Pod")["spec"]["containers"]
    program = rendered.all("ConfigMap")["resnet-test"]["data"]
    annotations = rendered.all("VirtualService")["resnet"]["metadata"]["annotations"]
    revision = annotations["tfserving-canary/route-revision"]
    assert [part + revision if part == "--revision=" else part for part in expected] == container["command"][
        3:
    ]
    assert values.get("helmTest", {}).get("ca") == program.get("ca.pem")
    assert values.get("helmTest", {}).get("request") == program.get("request.json")


def test_the_resources_are_those_of_the_values(render):
    """
    A namespace with a quota on CPU limits takes the pod if the values give it one.
    """
    rendered = render("stable", values={"helmTest": {"resources": {"limits": {"cpu": "1"}}}})

    (container,) = rendered.one("Pod")["spec"]["containers"]
    assert {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}} == (
        container["resources"]
    )


def test_releases_of_one_name_have_two_revisions(render):
    """
    Two namespaces may have a release of the same name with the same routes; an answer tells which one gave it.
    """
    revisions = {
        rendered.all("VirtualService")["resnet"]["metadata"]["annotations"]["tfserving-canary/route-revision"]
        for rendered in (render("stable"), render("stable", options=("--namespace=other",)))
    }

    assert 2 == len(revisions)


@pytest.fixture
def gateway():
    """
    A gateway that answers as it should.
    """
    made = Gateway(PICTURES)
    yield made
    made.close()


@pytest.fixture
def ask(gateway, chart):
    """
    Run the program, and give its exit code, what it printed and its complaint.
    """

    def run(*more, scheme="http", python=(sys.executable,), wait=0):
        command = [
            *python,
            chart / "files" / "helm-test.py",
            "127.0.0.1",
            str(gateway.port),
            "a.example",
            "resnet",
            scheme,
            "--track=canary=2",
            "--track=stable=1",
            "--revision=0123456789",
            f"--wait={wait}",
        ]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=60)
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


PREDICTED = (
    "release: revision 0123456789, version 2 of canary\n"
    "REST: serving_default predicted\ngRPC: serving_default predicted\n"
)


def test_it_predicts_over_both_apis(ask, gateway):
    """
    The default signature is asked once over each API with the same inputs, by the name of the host. They have the declared
    shape, and 1 in place of unknown dimensions.
    """
    assert (0, PREDICTED, "") == ask()

    rest, grpc_request = gateway.asked
    assert {"signature_name": "serving_default", "inputs": {"images": [[[[1] * 3]] * 2]}} == rest
    sent = grpc_request.inputs["images"]
    assert ("resnet", "serving_default") == (
        grpc_request.model_spec.name,
        grpc_request.model_spec.signature_name,
    )
    assert (1, [1, 2, 1, 3]) == (sent.dtype, [dim.size for dim in sent.tensor_shape.dim])
    assert [1.0] * 6 == read(sent).ravel().tolist()
    assert {"a.example"} == set(gateway.hosts)


def read(sent):
    """
    A tensor as the model server reads it.
    """
    return from_proto(sent, "input", 1 << 20)


KINDS = [name for name, number in types_pb2.DataType.items() if number in _KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_made_of_every_type(ask, gateway, kind):
    """
    The tensor over gRPC reads as the value over REST does, for a scalar and for a matrix. The REST API has no form for
    complex numbers, and is not asked for them.
    """
    inputs = {
        "one": tensor(kind),
        "many": tensor(kind, -1, 2),
        "any": {"dtype": kind, "tensor_shape": {"unknown_rank": True}},
    }
    gateway.signatures = {
        "serving_default": {"inputs": inputs, "outputs": PICTURES["serving_default"]["outputs"]}
    }

    code, printed, said = ask()

    assert (0, "") == (code, said)
    assert ("REST:" in printed) == ("COMPLEX" not in kind)
    *rest, grpc_request = gateway.asked
    for name, shape in (("one", []), ("many", [1, 2]), ("any", [1])):
        array = read(grpc_request.inputs[name])
        assert (shape, kind) == (list(array.shape), types_pb2.DataType.Name(grpc_request.inputs[name].dtype))
        for body in rest:
            value = np.array(body["inputs"][name], dtype=object)
            as_rest = [
                base64.b64decode(one["b64"]) if isinstance(one, dict) else one for one in value.ravel()
            ]
            assert as_rest == array.ravel().tolist()


def test_a_model_may_answer_any_bytes(ask, gateway):
    """
    The server writes a string that is no UTF-8 as it is: a model that echoes its made input answers with a JPEG.
    """
    gateway.predicted = b'{"outputs": {"labels": ["\xff\xd8"]}}'

    assert (0, PREDICTED, "") == ask()


def test_a_model_may_refuse_some_made_inputs(ask, gateway):
    """
    A model that needs more than one pixel, and whole numbers below its vocabulary, gets other inputs.
    """
    gateway.takes = lambda body: len(body["inputs"]["images"][0][0]) == 32

    assert (0, PREDICTED, "") == ask()


def test_a_model_that_refuses_all_made_inputs_needs_a_request(ask, gateway):
    """
    What the model says of the last one is in the line, and the value to set.
    """
    gateway.takes = lambda _: False

    code, _, said = ask()

    assert 1 == code
    assert (
        'error: model resnet: expected an answer to made inputs, got {"error": "not a picture"}; set helmTest.request'
        in said
    )


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        pytest.param({"instances": [{"a": 1.5, "b": "x"}]}, {"a": [1.5], "b": [b"x"]}, id="rows"),
        pytest.param(
            {"inputs": {"a": [1.5, 2.5], "b": [{"b64": "AAE="}, "y"]}, "label": "grey"},
            {"a": [1.5, 2.5], "b": [b"\x00\x01", b"y"]},
            id="columns",
        ),
    ],
)
def test_a_request_of_the_values_is_sent(ask, gateway, tmp_path, body, sent):
    """
    The body goes over REST as it is, without what only a check reads, and as tensors over gRPC.
    """
    gateway.signatures = {
        "serving_default": {
            "inputs": {"a": tensor("DT_DOUBLE", -1), "b": tensor("DT_STRING", -1)},
            "outputs": PICTURES["serving_default"]["outputs"],
        }
    }
    (tmp_path / "request.json").write_text(json.dumps(body))

    assert (0, PREDICTED, "") == ask(f"--request={tmp_path / 'request.json'}")

    rest, grpc_request = gateway.asked
    assert {key: value for key, value in body.items() if key != "label"} == rest
    assert sent == {name: read(one).tolist() for name, one in grpc_request.inputs.items()}


def test_the_routes_are_waited_for(ask, gateway):
    """
    Right after an upgrade the gateway may still have the routes of before.
    """
    gateway.stale = 4

    assert (0, PREDICTED, "") == ask(wait=30)


def test_it_speaks_tls(ask, gateway, secured):
    """
    With TLS both APIs ask for the host by its name, and verify the certificate by the authority that the values name.
    """
    assert (0, PREDICTED, "") == ask(f"--ca={secured('a.example')}", scheme="https")

    # The metadata and the prediction over REST, and the connection of gRPC.
    assert ["a.example"] * 3 == gateway.names


@pytest.mark.parametrize("trusts", [True, False])
def test_it_verifies_the_certificate(ask, secured, trusts):
    """
    A certificate for another host is refused, and so is one of an unknown authority.
    """
    authority = secured("b.example" if trusts else "a.example")

    code, printed, said = ask(*([f"--ca={authority}"] if trusts else []), scheme="https")

    assert (1, "") == (code, printed)
    assert said.startswith("error: REST /v1/models/resnet/metadata: expected an answer from 127.0.0.1:")
    assert "certificate verify failed" in said
    assert 1 == said.count("\n")


FAULTS = {
    "rest": ({"status": 503}, "error: REST /v1/models/resnet/metadata: expected status 200, got 503"),
    "nothing-to-make": (
        {"signatures": {"only": {"inputs": {"x": tensor("DT_VARIANT")}, "outputs": {}}}},
        (
            "error: model resnet: expected an answer to made inputs, got no signature has inputs that can be made; "
            "set helmTest.request to the body of a REST prediction that the model answers"
        ),
    ),
    "grpc": (
        {"code": grpc.StatusCode.UNAVAILABLE},
        "error: gRPC /tensorflow.serving.PredictionService/Predict: expected an answer, got UNAVAILABLE: no healthy upstream",
    ),
    "output": (
        {"outputs": ["probabilities"]},
        "error: gRPC: expected the outputs labels, probabilities, got probabilities",
    ),
    "no-output": (
        {"outputs": []},
        "error: gRPC: expected the outputs labels, probabilities, got none",
    ),
    "another-release": (
        {"headers": {"x-route-revision": "4d61", "x-model-track": "stable"}},
        (
            "error: REST /v1/models/resnet/metadata: expected the route revision 0123456789 of this release, got 4d61: another "
            "release or application answers for the host a.example, or the gateway does not have the routes yet"
        ),
    ),
    "another-application": (
        {"headers": {}},
        (
            "error: REST /v1/models/resnet/metadata: expected the route revision 0123456789 of this release, got none: "
            "another release or application answers for the host a.example, or the gateway does not have the routes yet"
        ),
    ),
    "another-application-with-a-page": (
        {"headers": {}, "described": b"<html>"},
        (
            "error: REST /v1/models/resnet/metadata: expected the route revision 0123456789 of this release, got none: "
            "another release or application answers for the host a.example, or the gateway does not have the routes yet"
        ),
    ),
    "a-page": (
        {"described": b"<html>\n</html>"},
        "error: REST /v1/models/resnet/metadata: expected a model's metadata, got <html> </html>",
    ),
    "a-page-for-a-prediction": (
        {"predicted": b"[1]"},
        "error: REST /v1/models/resnet:predict: expected predictions or outputs, got [1]",
    ),
    "another-track": (
        {"headers": {"x-route-revision": "0123456789", "x-model-track": "blue"}},
        "error: REST /v1/models/resnet/metadata: expected a track of this release (canary, stable), got blue",
    ),
    "another-version": (
        {"version": {"REST": "1", "gRPC": 2}},
        (
            "error: REST /v1/models/resnet/metadata: expected version 2 of track canary, got version 1: the pods of another "
            "track or release answer"
        ),
    ),
    "another-version-over-grpc": (
        {"version": {"REST": "2", "gRPC": 1}},
        (
            "error: gRPC /tensorflow.serving.PredictionService/Predict: expected version 2 of track canary, got version 1: "
            "the pods of another track or release answer"
        ),
    ),
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
