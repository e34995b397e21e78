"""
A mirror on a real gateway: copies of real size arrive, and none of them answers a client.
"""

import subprocess
from typing import Any

import pytest

from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.pictures import default_pictures, picture_tensor
from tfcanary.client.request import PredictRequest
from tfcanary.client.rest import RestClient
from tfcanary.contract import SERVING_DEFAULT
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"


@pytest.mark.parametrize("api", ["REST", "gRPC"])
def test_a_mirror_gets_every_copy_at_real_sizes(stage, api):
    """
    Of predictions with a picture of 588 KiB as floats (2 to 4 MiB as JSON) all are mirrored, and none is answered by
    the canary.
    """
    mirrored = [
        {"name": "everyone", "mirror": {"track": "canary", "percent": 100}, "weights": {"stable": 100}}
    ]
    stage.play("shadow", routing={"routes": mirrored})
    picture = picture_tensor(default_pictures()[0].content, 224, 224)
    gateway = stage.gateway
    kind = RestClient if api == "REST" else GrpcClient
    before = predictions(stage, "canary")

    with kind(gateway.address, "resnet", host=gateway.host) as client:
        interface = client.metadata(parse=True).interface
        (name,) = interface[SERVING_DEFAULT].inputs
        answers = [client.predict(PredictRequest.one(SERVING_DEFAULT, name, picture)) for _ in range(5)]

    assert ["stable"] * 5 == [answer.track for answer in answers if answer.ok]

    def all_there() -> None:
        if predictions(stage, "canary") - before != 5:
            raise NotYet(f"{predictions(stage, 'canary') - before} of 5 are mirrored")

    wait_until("5 mirrored predictions at the canary", all_there, timeout_seconds=60)


def predictions(stage: Any, track: str) -> int:
    """
    How many predictions a track's server ran; requests for metadata run no model.
    """
    script = (
        "import urllib.request;"
        "print(urllib.request.urlopen('http://127.0.0.1:8501/monitoring/prometheus/metrics').read().decode())"
    )
    out = subprocess.run(
        [
            "kubectl",
            f"--kubeconfig={stage.target.kubeconfig}",
            "exec",
            f"deployment/{RELEASE}-{track}",
            "-n",
            stage.target.namespace,
            "-c",
            "model-server",
            "--",
            "python3",
            "-c",
            script,
        ],
        text=True,
        check=True,
        capture_output=True,
    ).stdout
    lines = [
        line for line in out.splitlines() if line.startswith(":tensorflow:serving:runtime_latency_count{")
    ]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)
