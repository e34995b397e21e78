"""
Helm through pyhelm3: the flags that it is given, and what becomes of what it says.

A stand-in for helm records its arguments and answers from a file; the real one is used by the cluster tests.
"""

import json

import pytest
import yaml

from tfcanary.check.sources import releases_in
from tfcanary.errors import CanaryError, DoesNotHoldError, UnreachableError, UsageError
from tfcanary.helm.baseline import Baseline, restore
from tfcanary.helm.baseline import baseline as baseline_of
from tfcanary.helm.drift import DriftError
from tfcanary.helm.failures import ConflictError, HelmError, ValuesRefusedError
from tfcanary.helm.releases import Releases
from tfcanary.target import Target

STATUS = {
    "name": "resnet",
    "namespace": "models",
    "version": 7,
    "manifest": "",
    "info": {
        "status": "deployed",
        "last_deployed": "2026-01-02T03:04:05Z",
        "description": "Upgrade complete",
    },
}


@pytest.fixture
def helm(fake_helm, tmp_path):
    """
    The releases of a namespace, through a helm that answers so.
    """

    def make(**answer):
        executable = fake_helm(**answer)
        target = Target("models", kubeconfig=tmp_path / "config", context="here", helm=str(executable))
        return Releases(target, lambda *_: None)

    make.asked = fake_helm.asked
    return make


def test_an_upgrade_keeps_what_was_given_before(helm, tmp_path):
    """
    --reset-then-reuse-values, waiting, rolled back by itself, and a history longer than a rollout.
    """
    file = tmp_path / "canary.yaml"
    file.write_text("routing: {routes: [{name: a}]}")

    revision = helm(stdout=json.dumps(STATUS)).apply(
        "resnet", chart=tmp_path, files=[file], description="step 1"
    )

    (arguments, given), *_ = helm.asked()
    assert ["upgrade", "resnet", str(tmp_path)] == arguments[:3]
    assert {"--install", "--reset-then-reuse-values", "--wait", "--atomic", "--create-namespace"} <= set(
        arguments
    )
    assert "50" == arguments[arguments.index("--history-max") + 1]
    assert "models" == arguments[arguments.index("--namespace") + 1]
    assert "here" == arguments[arguments.index("--kube-context") + 1]
    assert "300s" == arguments[arguments.index("--timeout") + 1]
    assert {"routing": {"routes": [{"name": "a"}]}} == json.loads(given)
    assert (7, "deployed") == (revision.number, revision.status)
    # The Job of a rollout upgrades the release itself.
    assert "--wait-for-jobs" not in helm.asked()[0][0]


def test_files_replace_lists_and_keep_nulls(helm, tmp_path):
    """
    As `helm -f … -f …`: pyhelm3 itself would append the second strategy to the first.
    """
    for name, text in (("a.yaml", "l: [1, 2]\nm: {x: 1, y: 1}"), ("b.yaml", "l: [3]\nm: {x: null}")):
        (tmp_path / name).write_text(text)

    helm(stdout=json.dumps(STATUS)).apply(
        "resnet", chart=tmp_path, files=[tmp_path / "a.yaml", tmp_path / "b.yaml"], values={"n": 0}
    )

    assert {"l": [3], "m": {"x": None, "y": 1}, "n": 0} == json.loads(helm.asked()[0][1])


def test_an_upgrade_from_the_defaults_is_asked_for_aloud(helm, tmp_path):
    helm(stdout=json.dumps(STATUS)).apply("resnet", chart=tmp_path, reuse_values=False)

    assert "--reset-then-reuse-values" not in helm.asked()[0][0]


def test_helm_4_says_atomic_in_its_own_way(helm, tmp_path):
    helm(stdout=json.dumps(STATUS), version="v4.3.1").apply("resnet", chart=tmp_path)

    assert "--rollback-on-failure" in helm.asked()[0][0]


def test_values_are_all_values(helm):
    values = helm(stdout='{"routing": {}}').values("resnet")

    assert {"routing": {}} == values
    assert {"get", "values", "resnet", "--all"} <= set(helm.asked()[0][0])


def test_history_is_oldest_first(helm):
    entries = [
        {"revision": n, "status": "superseded", "updated": "2026-01-02T03:04:05Z", "description": ""}
        for n in (1, 2)
    ]

    assert [1, 2] == [revision.number for revision in helm(stdout=json.dumps(entries)).history("resnet")]


def test_a_rollback_waits_and_says_where_it_is(helm):
    revision = helm(stdout=json.dumps(STATUS)).rollback("resnet", 3)

    assert ["rollback", "resnet", "3"] == helm.asked()[0][0][:3]
    assert "--wait" in helm.asked()[0][0]
    assert 7 == revision.number


def test_uninstalling_what_is_not_there_is_no_error(helm):
    helm(stderr="Error: uninstall: Release not loaded: resnet: release: not found", code=1).uninstall(
        "resnet"
    )

    assert ["uninstall", "resnet"] == helm.asked()[0][0][:2]


@pytest.mark.parametrize(
    ("stderr", "error", "message"),
    [
        pytest.param(
            "Error: release: not found",
            UsageError,
            "release 'resnet': not found in namespace 'models'",
            id="no-release",
        ),
        pytest.param(
            "Error: values don't meet the specifications of the schema(s) in the following chart(s):\n"
            "- at '/routing/routes/0/match/users/0': 'release: not found' does not match pattern",
            ValuesRefusedError,
            "'release: not found' does not match pattern",
            id="a-value-like-no-release",
        ),
        pytest.param(
            'Error: Kubernetes cluster unreachable: Get "https://10.0.0.1:6443/version": dial tcp: refused',
            UnreachableError,
            "https://10.0.0.1:6443/version",
            id="no-cluster",
        ),
        pytest.param("Error: etcdserver: request timed out", UnreachableError, "etcdserver", id="etcd"),
        pytest.param(
            "Error: UPGRADE FAILED: values don't meet the specifications of the schema(s) in the following chart(s):\n"
            "tfserving-canary:\n- routing: Additional property rotes is not allowed",
            UsageError,
            "Additional property rotes is not allowed",
            id="schema",
        ),
        pytest.param(
            "Error: execution error at (tfserving-canary/templates/validate.yaml:60:4): weights must sum to 100, got 90",
            UsageError,
            "weights must sum to 100, got 90",
            id="validate",
        ),
        pytest.param(
            "Error: UPGRADE FAILED: release resnet failed, and has been rolled back due to atomic being set: "
            "context deadline exceeded",
            HelmError,
            "context deadline exceeded",
            id="not-ready",
        ),
        pytest.param(
            "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress",
            DoesNotHoldError,
            "another operation",
            id="pending",
        ),
        pytest.param(
            "WARNING: Kubernetes configuration file is group-readable.\nError: boom",
            HelmError,
            "helm get values resnet: Error: boom",
            id="warning",
        ),
        pytest.param("", HelmError, "no message (exit code 1)", id="silent"),
    ],
)
def test_what_helm_says_is_kept(helm, stderr, error, message):
    """
    The type says who must fix it, and the message is Helm's own.
    """
    with pytest.raises(CanaryError) as caught:
        helm(stderr=stderr, code=1).values("resnet")

    assert error is type(caught.value) or issubclass(type(caught.value), error)
    assert message in str(caught.value)
    assert stderr == caught.value.__cause__.stderr.decode()


def test_a_missing_helm_says_where_to_get_it(tmp_path):
    with pytest.raises(
        UnreachableError, match=r"not found on PATH; get it from https://helm\.sh.*--helm FILE"
    ):
        releases_in(Target(helm=str(tmp_path / "helm")))


def test_a_helm_that_is_something_else_is_refused(helm):
    with pytest.raises(UnreachableError, match="does not answer `helm version` as Helm does"):
        helm(version="I am not Helm")


# What Helm does not see to

PENDING = {**STATUS, "info": {**STATUS["info"], "status": "pending-upgrade"}}


def entry(number, status):
    return {"revision": number, "status": status, "updated": "2026-01-02T03:04:05Z", "description": ""}


def test_a_pending_revision_of_a_dead_helm_is_rolled_back(helm):
    """
    To the one that was deployed last, not to one that failed since.
    """
    history = [
        entry(4, "superseded"),
        entry(5, "deployed"),
        entry(6, "failed"),
        entry(7, "pending-upgrade"),
    ]

    helm(status=json.dumps(PENDING), history=json.dumps(history)).recover("resnet", after_seconds=0)

    assert [["rollback", "resnet", "5"]] == [asked[:3] for asked, _ in helm.asked() if asked[0] == "rollback"]


def test_a_pending_revision_that_is_young_may_be_somebodys(helm):
    """
    Another helm at work is waited for, and then named; nothing is rolled back.
    """
    young = json.dumps(PENDING).replace("2026-01-02T03:04:05Z", "2999-01-02T03:04:05Z")

    with pytest.raises(UnreachableError, match=r"another helm at work: .*revision 7 is pending-upgrade"):
        helm(status=young).recover("resnet", after_seconds=60, patience_seconds=0)

    assert "rollback" not in {asked[0] for asked, _ in helm.asked()}


def test_a_release_that_is_not_pending_stays(helm):
    assert 7 == helm(status=json.dumps(STATUS)).recover("resnet").number
    assert "rollback" not in {asked[0] for asked, _ in helm.asked()}


def test_a_first_installation_that_was_broken_off_is_removed(helm):
    pending = json.dumps(PENDING).replace("pending-upgrade", "pending-install")

    with pytest.raises(HelmError, match=r"broken off, and was removed; install it again"):
        helm(status=pending, history=json.dumps([entry(1, "pending-install")])).recover(
            "resnet", after_seconds=0
        )

    assert "uninstall" in {asked[0] for asked, _ in helm.asked()}


ROUTE = {"name": "everyone", "route": [{"weight": 90}, {"weight": 10}]}
ISTIO = "/apis/networking.istio.io/v1/namespaces/models"


def manifest(http):
    return yaml.safe_dump_all(
        [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "resnet"}, "spec": {}},
            {
                "apiVersion": "networking.istio.io/v1",
                "kind": "VirtualService",
                "metadata": {"name": "resnet"},
                "spec": {"http": http},
            },
        ]
    )


@pytest.mark.parametrize(
    ("live", "differences"),
    [
        pytest.param([ROUTE], [], id="the-same"),
        pytest.param(
            [{**ROUTE, "route": [{"weight": 50}, {"weight": 50}]}],
            ["spec.http[everyone].route[0].weight: expected 90, got 50", "[1].weight: expected 10, got 50"],
            id="weight-patched",
        ),
        pytest.param([], ["spec.http[everyone]: expected {"], id="route-gone"),
        pytest.param(
            [{**ROUTE, "mirror": {"host": "x"}}], ["mirror: expected None, got {'host': 'x'}"], id="mirror"
        ),
        pytest.param(None, ["VirtualService resnet is gone"], id="object-gone"),
    ],
)
def test_drift_is_named_by_its_field(fake_helm, cluster, live, differences):
    """
    The live routes are read after Helm's success, field by field; an object that is gone is drift too.
    """
    answers = {f"{ISTIO}/virtualservices/resnet": {"spec": {"http": live}}} if live is not None else {}
    releases = releases_in(
        Target(
            namespace="models",
            kubeconfig=cluster(answers),
            helm=str(fake_helm(stdout=json.dumps(STATUS), get=manifest([ROUTE]))),
        )
    )

    found = releases.drift("resnet", ["VirtualService"])

    assert 1 == found.objects, "the Service is another kind"
    assert len(differences) == len(found.differences)
    assert all(part in line for part, line in zip(differences, found.differences, strict=True))


def test_an_upgrade_over_drift_is_no_success(fake_helm, cluster):
    patched = {"spec": {"http": [{**ROUTE, "route": [{"weight": 0}, {"weight": 100}]}]}}
    releases = releases_in(
        Target(
            namespace="models",
            kubeconfig=cluster({f"{ISTIO}/virtualservices/resnet": patched}),
            helm=str(fake_helm(stdout=json.dumps(STATUS), get=manifest([ROUTE]))),
        )
    )

    with pytest.raises(DriftError, match=r"behind Helm's back.*weight: expected 90, got 0.*kubectl apply"):
        releases.apply("resnet")


def test_the_baseline_is_where_the_rollout_began(helm):
    """
    A step's description records it; without one it is the revision of now.
    """
    step = {**STATUS, "info": {**STATUS["info"], "description": "canary 10 % [baseline 3]"}}

    assert 7 == baseline_of(helm(status=json.dumps(STATUS), get="{}"), "resnet").revision
    found = baseline_of(helm(status=json.dumps(step), get='{"a": 1}'), "resnet")

    assert Baseline("resnet", 3, {"a": 1}) == found
    assert ["--revision", "3"] == helm.asked()[-1][0][5:7]


@pytest.mark.parametrize(
    ("steps", "baseline"),
    [
        pytest.param({5: "canary 10 % [baseline 3]", 6: "canary 50 % [baseline 3]"}, 3, id="step"),
        pytest.param({5: "Rollback to 4", 4: "canary 10 % [baseline 3]"}, 3, id="twice"),
        pytest.param({5: "Upgrade complete"}, 7, id="no-step"),
        pytest.param({6: "canary 50 % [baseline 3]"}, 7, id="pruned"),
    ],
)
def test_a_step_that_was_rolled_back_is_still_in_the_rollout(helm, steps, baseline):
    """
    Helm says only where it went back to; that is a step of the rollout, and not its baseline.
    """
    status = {**STATUS, "info": {**STATUS["info"], "description": "Rollback to 5"}}
    history = [{**entry(number, "superseded"), "description": text} for number, text in steps.items()]

    found = baseline_of(helm(status=json.dumps(status), history=json.dumps(history), get="{}"), "resnet")

    assert baseline == found.revision


def test_a_step_records_its_baseline(helm):
    helm(stdout=json.dumps(STATUS), get="").apply("resnet", description=Baseline("resnet", 3, {}).described())

    (upgrade,) = (asked for asked, _ in helm.asked() if asked[0] == "upgrade")
    assert "Upgrade complete [baseline 3]" in upgrade


@pytest.mark.parametrize(
    ("kept", "command"), [([3, 4, 20], "rollback"), ([11, 20], "upgrade")], ids=["kept", "pruned"]
)
def test_a_baseline_is_returned_to_however_long_ago(helm, kept, command):
    """
    By its revision; and where the history has lost that, by its values over the chart's defaults alone.
    """
    history = json.dumps([entry(number, "superseded") for number in kept])
    baseline = Baseline("resnet", 3, {"tracks": {"canary": {"version": 2}}})

    restore(helm(stdout=json.dumps(STATUS), history=history, get=""), baseline)

    asked = {asked[0]: (asked, given) for asked, given in helm.asked()}
    assert {"rollback", "upgrade"} & set(asked) == {command}
    assert ("3" in asked[command][0]) is (command == "rollback")
    assert "--reset-then-reuse-values" not in asked[command][0]


def test_a_conflict_of_helm_4_names_the_repair(helm, tmp_path):
    """
    Someone patched a route: the fields are kubectl's, until they are put back as Helm's own.
    """
    stderr = (
        "Error: UPGRADE FAILED: conflict occurred while applying object models/resnet: Apply failed with 1 conflict: "
        'conflict with "kubectl-patch" using networking.istio.io/v1: .spec.http'
    )

    with pytest.raises(
        ConflictError, match=r'conflict with "kubectl-patch".*--force-conflicts --field-manager=helm'
    ):
        helm(stderr=stderr, code=1, version="v4.3.1").apply("resnet", chart=tmp_path)
