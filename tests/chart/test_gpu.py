"""
A GPU for a track, held against what the device plugin offers and Kubernetes takes.

The contract is read from NVIDIA/k8s-device-plugin v0.17.4: `README.md` (Running GPU Jobs), `api/config/v1` (names of resources)
and `deployments/helm/nvidia-device-plugin/values.yaml` (its nodes, their taint, the RuntimeClass); and from Kubernetes'
"Schedule GPUs": a device is asked for in limits, in whole numbers, and a request is the same as the limit. No test here has a
GPU: that the driver, the runtime and the server's image fit each other is not held.
"""

import re

import pytest

# api/config/v1/consts.go: ResourceNamePrefix, MaxResourceNameLength, DefaultSharedResourceNameSuffix. A device is a whole GPU
# or, with MIG_STRATEGY=mixed, a part of one; with sharing either may have the suffix.
RESOURCE = re.compile(r"nvidia\.com/(gpu|mig-[0-9]+g\.[0-9]+gb)(\.shared)?")
# values.yaml of the plugin's chart: the nodes that it runs on, and the taint that it tolerates there.
NODES = {"nvidia.com/gpu.present": "true"}
TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}


@pytest.fixture
def pod(render):
    """
    The pod of the canary with the values file.
    """
    return render("stable", "pods/gpu-canary").all("Deployment")["resnet-canary"]["spec"]["template"]["spec"]


def containers(pod):
    return [*pod["initContainers"], *pod["containers"]]


def devices(container, kind):
    return {
        name: amount
        for name, amount in container["resources"][kind].items()
        if name.startswith("nvidia.com/")
    }


def test_each_container_asks_for_the_same_gpu(pod):
    """
    A container of a CUDA image that asks for none sees every GPU of the node, says the plugin's README: the one that verifies
    the model has the same image, and asks too. Kubernetes gives both the same device.
    """
    asked = [devices(container, "limits") for container in containers(pod)]

    assert 2 == len(asked)
    assert [{"nvidia.com/gpu": 1}] * 2 == asked
    assert all(
        RESOURCE.fullmatch(name) and type(amount) is int for one in asked for name, amount in one.items()
    )


def test_a_request_is_the_limit_or_left_out(pod):
    """
    Kubernetes sets a request that is left out to the limit.
    """
    for container in containers(pod):
        assert devices(container, "requests").items() <= devices(container, "limits").items()


def test_the_pod_goes_where_the_plugin_is(pod):
    """
    It selects the nodes of the plugin's pods, tolerates their taint, and has the RuntimeClass of the plugin's README.
    """
    assert NODES == pod["nodeSelector"]
    assert [{**TAINT, "operator": "Exists"}] == pod["tolerations"]
    assert "nvidia" == pod["runtimeClassName"]


def test_the_plugin_alone_says_which_device(pod):
    """
    The plugin passes the device by NVIDIA_VISIBLE_DEVICES. A pod that sets it, is privileged or mounts devices goes past it.
    """
    for container in containers(pod):
        assert not {"NVIDIA_VISIBLE_DEVICES"} & {entry["name"] for entry in container.get("env", [])}
        assert not container["securityContext"].get("privileged", False)
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("name", "amount"), [("nvidia.com/gpu", 2), ("nvidia.com/gpu.shared", 1), ("nvidia.com/mig-1g.10gb", 1)]
)
def test_every_name_of_the_plugin_is_taken(render, problems_with, name, amount):
    """
    Whole GPUs, a shared one and a part of one.
    """
    limits = {"nvidia.com/gpu": None, name: amount}
    values = {"tracks": {"canary": {"resources": {"limits": limits}}}}

    rendered = render("stable", "pods/gpu-canary", values=values)
    made = rendered.all("Deployment")["resnet-canary"]

    assert RESOURCE.fullmatch(name)
    spec = made["spec"]["template"]["spec"]
    assert [{name: amount}] * 2 == [devices(container, "limits") for container in containers(spec)]
    assert () == problems_with(made)
