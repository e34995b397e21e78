import re

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfcanary.modelserver.config import batching_parameters

# The flags of tensorflow_model_server 2.20. It exits at the start if it does not know one.
FLAGS = {
    "port": "8500",
    "rest_api_port": "8501",
    "rest_api_timeout_in_ms": "30000",
    "model_config_file": "/etc/tfserving/models.config",
    "monitoring_config_file": "/etc/tfserving/monitoring.config",
    "file_system_poll_wait_seconds": "0",
    "max_num_load_retries": "0",
    "enable_model_warmup": "true",
    "enable_profiler": "false",
}


def pods(rendered):
    """
    The pod specification of each Deployment, by track.
    """
    return {
        name.removeprefix("resnet-"): item["spec"]["template"]["spec"]
        for name, item in rendered.all("Deployment").items()
    }


def server(pod):
    """
    The only container of a pod.
    """
    (container,) = pod["containers"]
    return container


def configurations(rendered):
    """
    The configuration of each track's server.
    """
    configs = [item for item in rendered.all("ConfigMap").values() if "track" in item["metadata"]["labels"]]
    assert configs
    return configs


def seconds(text):
    """
    The number in a duration like 35s.
    """
    return int(re.fullmatch(r"(\d+)s", text)[1])


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        pytest.param(("hostNetwork",), True, "spec.hostNetwork", id="host-network"),
        pytest.param(("hostPID",), True, "spec.hostPID", id="host-pid"),
        pytest.param(
            ("volumes", 0),
            {"name": "v", "hostPath": {"path": "/"}},
            "spec.volumes[v]: hostPath",
            id="host-path",
        ),
        pytest.param(("securityContext", "sysctls"), [{"name": "a.b"}], "sysctl a.b", id="sysctl"),
        pytest.param(("securityContext", "runAsNonRoot"), False, "model-server: runAsNonRoot", id="non-root"),
        pytest.param(("securityContext", "runAsUser"), 0, "model-server: runAsUser", id="root"),
        pytest.param(("securityContext", "seccompProfile"), {}, "model-server: seccompProfile", id="seccomp"),
        pytest.param(("securityContext", "windowsOptions"), {}, "windowsOptions", id="windows"),
        pytest.param(
            ("containers", 0, "securityContext", "allowPrivilegeEscalation"),
            None,
            "model-server: allowPrivilegeEscalation",
            id="escalation",
        ),
        pytest.param(
            ("containers", 0, "securityContext", "privileged"),
            True,
            "model-server: privileged",
            id="privileged",
        ),
        pytest.param(
            ("containers", 0, "securityContext", "capabilities"),
            {},
            "model-server: capabilities.drop",
            id="drop",
        ),
        pytest.param(
            ("containers", 0, "securityContext", "capabilities"),
            {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "model-server: capabilities.add",
            id="add",
        ),
        pytest.param(
            ("containers", 0, "securityContext", "procMount"),
            "Unmasked",
            "model-server: procMount",
            id="proc-mount",
        ),
        pytest.param(
            ("containers", 0, "ports"), [{"hostPort": 80}], "model-server: hostPort", id="host-port"
        ),
        pytest.param(
            ("securityContext", "appArmorProfile"),
            {"type": "Unconfined"},
            "model-server: appArmorProfile",
            id="app-armor",
        ),
        pytest.param(
            ("securityContext", "seLinuxOptions"), {"role": "r"}, "model-server: seLinuxOptions", id="selinux"
        ),
        pytest.param(("initContainers",), [{"name": "init"}], "init: runAsUser", id="init-container"),
    ],
)
def test_the_checker_sees(render, violations, path, value, expected):
    """
    The checker of the Pod Security Standard *restricted* finds each way to break it.
    """
    pod = pods(render("stable"))["stable"]
    pod["securityContext"]["runAsUser"] = 0 if path == ("initContainers",) else 1000
    inner = pod
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    assert expected in violations(pod)


def test_pods_can_write_only_to_tmp(render, environment):
    """
    The root file system is read-only, and of the mounts only /tmp is not.
    """
    for pod in pods(render("stable", environment=environment)).values():
        assert server(pod)["securityContext"]["readOnlyRootFilesystem"] is True
        assert ["/tmp"] == [  # noqa: S108 - a path in the pod
            mount["mountPath"] for mount in server(pod)["volumeMounts"] if not mount.get("readOnly")
        ]


def test_users_are_fixed(render):
    """
    Pods run under a fixed user and group that are not root.
    """
    for pod in pods(render("stable")).values():
        assert (1000, 1000) == (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"])


def test_pods_have_no_credentials(render):
    """
    Every track has a ServiceAccount of its own, whose token is mounted nowhere.
    """
    rendered = render("stable")
    accounts = rendered.all("ServiceAccount")

    for track, pod in pods(rendered).items():
        assert f"resnet-{track}" == pod["serviceAccountName"]
        assert pod["automountServiceAccountToken"] is False
        assert accounts[f"resnet-{track}"]["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False


def test_flags(render):
    """
    The server is called directly, with flags that the published server knows, in every image.
    """
    for pod in pods(render("stable")).values():
        assert ["/usr/bin/tensorflow_model_server"] == server(pod)["command"]
        flags = [re.fullmatch("--([a-z_]+)=(.+)", flag).groups() for flag in server(pod)["args"]]
        assert len(FLAGS) == len(flags)
        assert FLAGS == dict(flags)


def test_configuration_pins_the_version(render):
    """
    Each track serves exactly its version of the model, under the name that all tracks share.
    """
    rendered = render("stable", values={"tracks": {"canary": {"version": 1700000001}}})

    for track, version in {"stable": 1, "canary": 1700000001}.items():
        text = rendered.all("ConfigMap")[f"resnet-{track}"]["data"]["models.config"]
        parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        (model,) = parsed.model_config_list.config
        assert ("resnet", "/models/resnet", "tensorflow") == (
            model.name,
            model.base_path,
            model.model_platform,
        )
        assert [version] == list(model.model_version_policy.specific.versions)


def test_versions_are_never_floats(render):
    """
    Helm reads numbers as floats; a time stamp for a version is still written out, in every place.
    """
    rendered = render("stable", values={"tracks": {"canary": {"version": 1700000001}}})
    pod = pods(rendered)["canary"]

    assert "e+" not in rendered.text
    assert "/v1/models/resnet/versions/1700000001/metadata" == server(pod)["startupProbe"]["httpGet"]["path"]


def test_prometheus(render):
    """
    The server publishes its metrics at the path that Prometheus reads.
    """
    for config in configurations(render("stable")):
        text = re.sub(r"\s+", " ", config["data"]["monitoring.config"]).strip()
        assert 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }' == text


def test_batching_is_bounded(render, tmp_path):
    """
    With batching the queue is bounded: an overload is answered at once. Without batching nothing is configured.
    """
    values = {"server": {"batching": {"enabled": True, "maxBatchSize": 8, "maxEnqueuedBatches": 50}}}
    rendered = render("stable", values=values)

    for config in configurations(rendered):
        (tmp_path / "batching.config").write_text(config["data"]["batching.config"])
        parsed = batching_parameters(tmp_path / "batching.config")
        assert (8, 5000, 50, 2) == (
            parsed.max_batch_size.value,
            parsed.batch_timeout_micros.value,
            parsed.max_enqueued_batches.value,
            parsed.num_batch_threads.value,
        )
    for pod in pods(rendered).values():
        flags = ["--enable_batching=true", "--batching_parameters_file=/etc/tfserving/batching.config"]
        assert flags == server(pod)["args"][-2:]
    assert "batching" not in render("stable").text


def test_configuration_is_mounted_where_the_flags_say(render):
    """
    The files that the flags name are keys of the ConfigMap that is mounted there.
    """
    rendered = render("stable")

    for track, pod in pods(rendered).items():
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "config")
        (mount,) = (mount for mount in server(pod)["volumeMounts"] if mount["name"] == "config")
        assert {"name": f"resnet-{track}"} == volume["configMap"]
        files = {
            f"{mount['mountPath']}/{key}" for key in rendered.all("ConfigMap")[f"resnet-{track}"]["data"]
        }
        assert files == {value for flag, value in FLAGS.items() if flag.endswith("_config_file")}


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        pytest.param({"tracks": {"canary": {"version": 3}}}, {"canary"}, id="version"),
        pytest.param({"model": {"name": "other"}}, {"canary", "stable"}, id="name"),
        pytest.param({"tracks": {"canary": {"replicas": 3}}}, set(), id="replicas"),
        pytest.param({"gateway": {"port": 8080}}, set(), id="gateway"),
    ],
)
def test_pods_are_new_when_their_configuration_is(render, values, changed):
    """
    The server reads its configuration once. A new configuration replaces the pods, and nothing else does.
    """
    before, after = (
        {
            name: item["spec"]["template"]
            for name, item in render("stable", values=given).all("Deployment").items()
        }
        for given in ({}, values)
    )

    assert {f"resnet-{track}" for track in changed} == {
        name for name in before if before[name] != after[name]
    }
    checksums = [
        {name: item["metadata"]["annotations"]["checksum/config"] for name, item in some.items()}
        for some in (before, after)
    ]
    assert {f"resnet-{track}" for track in changed} == {
        name for name in before if checksums[0][name] != checksums[1][name]
    }


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe"])
def test_probes_ask_for_the_pinned_version(render, probe):
    """
    A pod is ready when its own version is AVAILABLE; the model's status page answers 200 in any state.
    """
    expected = {
        track: {"path": f"/v1/models/resnet/versions/{version}/metadata", "port": "http-rest"}
        for track, version in {"stable": 1, "canary": 2}.items()
    }

    assert expected == {track: server(pod)[probe]["httpGet"] for track, pod in pods(render("stable")).items()}


@pytest.mark.parametrize("budget", [10, 11, 300, 7200])
def test_startup_budget(render, budget):
    """
    The startup probe gives up at server.startupSeconds, and the Deployment only after it.
    """
    rendered = render("stable", values={"server": {"startupSeconds": budget}})

    for item in rendered.all("Deployment").values():
        probe = server(item["spec"]["template"]["spec"])["startupProbe"]
        given = probe["periodSeconds"] * probe["failureThreshold"]
        assert budget <= given < budget + probe["periodSeconds"]
        assert given < item["spec"]["progressDeadlineSeconds"]


@pytest.mark.parametrize(("drain", "timeout"), [(1, 31), (10, 35), (30, 120), (600, 3660)])
def test_stopping_leaves_time(render, drain, timeout):
    """
    A stopping pod drains first and then ends what it has begun, and its sidecar outlasts that.
    """
    values = {"server": {"drainSeconds": drain}, "routing": {"timeoutSeconds": timeout}}

    for item in render("stable", values=values).all("Deployment").values():
        template = item["spec"]["template"]
        annotation = template["metadata"]["annotations"]["proxy.istio.io/config"]
        sidecar = seconds(re.fullmatch(r"terminationDrainDuration: (\w+)\n?", annotation)[1])
        assert {"sleep": {"seconds": drain}} == server(template["spec"])["lifecycle"]["preStop"]
        assert drain + timeout == sidecar
        assert drain + timeout + 5 == template["spec"]["terminationGracePeriodSeconds"]


def test_rollout_keeps_capacity(render):
    """
    A new pod is ready before an old one goes.
    """
    for item in render("stable").all("Deployment").values():
        assert {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        } == item["spec"]["strategy"]


@pytest.mark.parametrize("replicas", [0, 1, 3])
def test_replicas(render, replicas):
    """
    A track has as many pods as it is given, and none is a number too.
    """
    rendered = render("stable", values={"tracks": {"canary": {"replicas": replicas}}})

    assert {"resnet-stable": 1, "resnet-canary": replicas} == {
        name: item["spec"]["replicas"] for name, item in rendered.all("Deployment").items()
    }


def test_resources_are_bounded(render, environment):
    """
    Every container asks for CPU and memory and has a limit of memory; none of CPU, which throttles.
    """
    for pod in pods(render("stable", environment=environment)).values():
        assert {"cpu", "memory"} == server(pod)["resources"]["requests"].keys()
        assert {"memory"} == server(pod)["resources"]["limits"].keys()


DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param({"tag": "2.20.1"}, "localhost/tfcanary/modelserver:2.20.1", id="tag"),
        pytest.param({"digest": DIGEST}, f"localhost/tfcanary/modelserver@{DIGEST}", id="digest"),
        pytest.param(
            {"digest": DIGEST, "tag": "latest"}, f"localhost/tfcanary/modelserver@{DIGEST}", id="both"
        ),
        pytest.param(
            {"repository": "registry.example.com:5000/a/b", "tag": "1"},
            "registry.example.com:5000/a/b:1",
            id="port",
        ),
    ],
)
def test_image(render, image, expected):
    """
    The image is named by its digest where there is one.
    """
    assert {expected} == {
        server(pod)["image"] for pod in pods(render("stable", values={"image": image})).values()
    }


def test_published_image(render, chart):
    """
    By default it is the published server, in the release that the chart is made for.
    """
    images = {server(pod)["image"] for pod in pods(render("stable", environment="gke")).values()}

    assert {"tensorflow/serving:2.20.0"} == images
    assert 'appVersion: "2.20.0"\n' in (chart / "Chart.yaml").read_text()


def test_models_from_a_claim(render):
    """
    A claim is mounted read-only at /models, where the base path points.
    """
    for pod in pods(render("stable")).values():
        (volume,) = (volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume)
        (mount,) = (mount for mount in server(pod)["volumeMounts"] if mount["name"] == "models")
        assert {"claimName": "tfcanary-models", "readOnly": True} == volume["persistentVolumeClaim"]
        assert ("/models", True) == (mount["mountPath"], mount["readOnly"])


@pytest.mark.parametrize("path", ["gs://some-bucket/models", "gs://some-bucket/models/", "gs://some.bucket"])
def test_models_from_a_bucket(render, path):
    """
    A bucket is read by the server itself, with the cloud identity of the track's ServiceAccount; nothing is mounted.
    """
    rendered = render("stable", environment="gke", values={"modelStore": {"basePath": path}})

    expected = f'base_path: "{path.rstrip("/")}/resnet"'
    for config in configurations(rendered):
        assert expected in config["data"]["models.config"]
    for pod in pods(rendered).values():
        assert {"config", "tmp"} == {volume["name"] for volume in pod["volumes"]}
        assert {"config", "tmp"} == {mount["name"] for mount in server(pod)["volumeMounts"]}
    for account in rendered.all("ServiceAccount").values():
        assert {"iam.gke.io/gcp-service-account"} == account["metadata"]["annotations"].keys()
