"""
What pods cannot be, by their values.
"""

import pytest


def canary(**settings):
    """
    Values of the canary alone.
    """
    return {"tracks": {"canary": settings}}


VOLUME = {"name": "v", "mountPath": "/data/v", "configMap": {"name": "c"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(
            {"pods": {"labels": {"track": "x"}}}, "pods.labels: the chart itself sets track", id="label"
        ),
        pytest.param(
            canary(pods={"labels": {"sidecar.istio.io/inject": "false"}}),
            "tracks.canary.pods.labels: the chart itself sets sidecar.istio.io/inject",
            id="label-of-a-track",
        ),
        pytest.param(
            {"commonLabels": {"app.kubernetes.io/name": "x"}},
            "commonLabels: the chart itself sets app.kubernetes.io/name",
            id="common-label",
        ),
        pytest.param(
            {"pods": {"annotations": {"proxy.istio.io/config": "x"}}},
            "pods.annotations: the chart itself sets proxy.istio.io/config",
            id="annotation",
        ),
        pytest.param(
            {"pods": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
            "pods.env: expected each variable once, got A again",
            id="variable-twice",
        ),
        pytest.param(
            {"pods": {"volumes": [VOLUME | {"name": "models"}]}},
            "pods.volumes: expected another name, got models again",
            id="volume-of-the-chart",
        ),
        pytest.param(
            {"pods": {"volumes": [VOLUME, VOLUME | {"name": "w", "mountPath": "/data"}]}},
            "pods.volumes: expected a path apart from /data/v, got /data",
            id="path-above-another",
        ),
        pytest.param(
            {"pods": {"volumes": [VOLUME | {"mountPath": "/models/resnet/2"}]}},
            "pods.volumes: expected a path apart from /models, got /models/resnet/2",
            id="path-in-the-models",
        ),
        pytest.param(
            {"pods": {"terminationGracePeriodSeconds": 10}},
            "pods.terminationGracePeriodSeconds: expected 0 or at least 50",
            id="grace",
        ),
        pytest.param(
            canary(resources={"limits": {"nvidia.com/gpu": 1}, "requests": {"nvidia.com/gpu": 2}}),
            "tracks.canary.resources.requests.nvidia.com/gpu: must be the same as",
            id="device",
        ),
        pytest.param(
            canary(resources={"limits": {"nvidia.com/gpu": "500m"}}),
            "tracks.canary.resources.limits.nvidia.com/gpu: expected a whole number",
            id="half-a-device",
        ),
        pytest.param(
            canary(resources={"requests": {"nvidia.com/gpu": 1}}),
            "tracks.canary.resources.limits.nvidia.com/gpu: required with a request of 1",
            id="device-without-a-limit",
        ),
        pytest.param(
            canary(resources={"limits": {"memory": None}}),
            "tracks.canary.resources.limits.memory: required, got none",
            id="no-memory",
        ),
        pytest.param(
            canary(
                resources={"requests": {"cpu": None}},
                autoscaling={"minReplicas": 1, "maxReplicas": 2, "cpuPercent": 50},
            ),
            "tracks.canary.resources.requests.cpu: required with tracks.canary.autoscaling",
            id="autoscaling-without-cpu",
        ),
        pytest.param(
            canary(image={"tag": "latest"}), "tracks.canary.image.tag: must name a release", id="latest"
        ),
        pytest.param(
            {
                "extraObjects": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}],
                "rollout": {"enabled": True, "plan": {"to": 2}, "image": {"repository": "r.example/r"}},
            },
            "extraObjects: must be empty with rollout.enabled",
            id="objects-with-a-job",
        ),
        pytest.param(
            {"pods": {"extraArgs": {"port": 1}}}, "additional properties 'port' not allowed", id="flag"
        ),
        pytest.param(
            {"pods": {"volumes": [VOLUME | {"hostPath": {"path": "/"}}]}},
            "'hostPath' not allowed",
            id="host-path",
        ),
        pytest.param(
            {"pods": {"volumes": [VOLUME | {"mountPath": "/data/../etc"}]}},
            "does not match pattern",
            id="dots",
        ),
        pytest.param({"pods": {"env": [{"name": "A"}]}}, "/pods/env/0", id="variable-without-a-value"),
        pytest.param(
            {"pods": {"securityContext": {}}}, "'securityContext' not allowed", id="security-context"
        ),
        pytest.param(canary(pods={"labels": {"a b": "c"}}), "does not match pattern", id="name-of-a-label"),
    ],
)
def test_what_cannot_be_is_refused(refused, values, message):
    """
    Before anything is applied, by the key and what is wrong with it.
    """
    assert message in refused("stable", values=values)
