"""
The command: what it reads, what it prints, and how it ends.

Everything around it is a double (helm, the apiserver, the gateway); the arguments, the files and the clients
are real.
"""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from tfcanary.commands import check
from tfcanary.helm.releases import Releases
from tfcanary.routing.parse import from_values

ROOT = Path(__file__).parents[2]
QUICK = ["--alpha", "1e-4", "--power", "0.99", "--detect", "40", "--timeout", "0.5"]
LIVE = {
    "model": {"name": "resnet"},
    "tracks": {"stable": {"version": 1, "replicas": 1}, "canary": {"version": 2, "replicas": 1}},
    "routing": {
        "routes": [{"name": "everyone", "weights": {"stable": 90, "canary": 10}}],
        "attribution": True,
    },
    "gateway": {"hosts": ["*"], "port": 80, "selector": {"istio": "ingressgateway"}},
}
OBJECTS = "/apis/networking.istio.io/v1/namespaces/default"


def virtual_service(revision="rev-2", retries=0, **weights):
    """
    What the chart renders for routes that split all traffic.
    """
    return {
        "metadata": {"name": "resnet"},
        "spec": {
            "http": [
                {
                    "match": [{"uri": {"prefix": prefix}}],
                    "route": [
                        {"destination": {"host": "resnet", "subset": track}, "weight": weight}
                        for track, weight in weights.items()
                    ],
                    "retries": {"attempts": retries},
                    "headers": {"response": {"set": {"x-route-revision": revision}}},
                }
                for prefix in ("/v1/models/resnet", "/tensorflow.serving.")
            ]
        },
    }


def service(address):
    return {
        "metadata": {
            "name": "istio-ingressgateway",
            "namespace": "istio-system",
            "annotations": {"tfserving-canary/host-address": address},
        },
        "spec": {"selector": {"istio": "ingressgateway"}, "ports": [{"port": 80}]},
        "status": {},
    }


GATEWAY = {"spec": {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 80}}]}}


RULE = {"metadata": {"name": "resnet", "namespace": "default"}, "spec": {"host": "resnet"}}


def model_pod(track):
    return {
        "metadata": {"name": f"resnet-{track}-0", "labels": {"app": "resnet", "track": track}},
        "spec": {"containers": [{"name": "model-server"}, {"name": "istio-proxy"}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


RELEASED = [
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        **virtual_service(stable=90, canary=10),
    }
]


@pytest.fixture
def live(gateway, cluster, fake_helm):
    """
    A release as it is live: Helm's values, the mesh's objects, and a gateway; gives the command's arguments.
    """

    def start(values=LIVE, objects=None, *, actual=LIVE, history=(), pods=None, released=RELEASED):
        double = gateway(from_values(actual))
        answers = {
            f"{OBJECTS}/virtualservices/resnet": objects or virtual_service(stable=90, canary=10),
            f"{OBJECTS}/gateways/resnet": GATEWAY,
            "/api/v1/services": {"items": [service(double.address)]},
            "/api/v1/namespaces/istio-system/pods": {"items": pods or []},
            f"{OBJECTS}/destinationrules": {"items": [RULE]},
            "/api/v1/namespaces/default/services/resnet": {"spec": {"selector": {"app": "resnet"}}},
            "/api/v1/namespaces/default/pods": {"items": [model_pod("stable"), model_pod("canary")]},
        }
        helm = fake_helm(
            stdout=json.dumps(values), history=json.dumps(history), get_manifest=yaml.safe_dump_all(released)
        )
        return [
            *("--helm", str(helm), "--kubeconfig", str(cluster(answers)), *QUICK),
            *([] if pods else ["--no-gateway-pods"]),
        ]

    return start


def test_a_release_without_objects_is_no_evidence_about_the_live_ones(live, capsys):
    """
    Nothing to compare is not the same as nothing that differs.
    """
    code = check.main(live(released=[]))

    assert 4 == code
    assert re.search(r"live objects.*nothing in the release's manifest", capsys.readouterr().out)


def file_with(folder, values, name="strategy.yaml"):
    file = folder / name
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return str(file)


def test_a_live_release_is_checked_without_an_argument_about_it(live, capsys):
    """
    Values from Helm, the revision from the mesh, the address from the gateway's Service.
    """
    code = check.main(live())

    output = capsys.readouterr().out
    assert 0 == code
    assert "everyone: everyone else → stable 90 %, canary 10 %" in output
    assert "checks held" in output.splitlines()[-1]


def test_a_release_of_another_chart_is_read_by_that_charts_schema(live, later_chart, capsys):
    """
    The chart that comes with the command does not know what the live routes say.
    """
    values = copy.deepcopy(LIVE)
    values["routing"]["routes"][0]["owner"] = "vision"
    arguments = live(values)

    assert 2 == check.main(arguments)
    assert "unknown key 'owner'" in capsys.readouterr().err
    assert 0 == check.main([*arguments, "--chart", str(later_chart)])


def test_gateway_pods_that_cannot_be_asked_are_not_passed_over(live, capsys):
    """
    No right to forward ports: that each pod has the routes is not known, exit code 4, and what to do.
    """
    pod = {
        "metadata": {"name": "gateway-a", "namespace": "istio-system"},
        "spec": {"containers": [{"name": "istio-proxy"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }

    code = check.main(live(pods=[pod]))

    output = capsys.readouterr().out
    assert 4 == code
    assert re.search(r"not enough evidence +propagation pod gateway-a +REST", output)
    assert "pods/portforward" in output
    assert "--no-gateway-pods" in output


def test_retries_that_hide_failures_are_a_finding(live, capsys):
    """
    The mesh tries again although the values say that it does not.
    """
    code = check.main(live(objects=virtual_service(stable=90, canary=10, retries=2)))

    assert 1 == code
    output = capsys.readouterr().out
    assert re.search(r"failed +live retries +0 on every route", output)
    assert "not checked: the gateway pods' own configuration" in output, "and only the object says it"


def test_the_strategy_file_is_what_must_be(live, tmp_path, capsys):
    code = check.main([*live(), "--values", file_with(tmp_path, {"routing": LIVE["routing"]})])

    assert 0 == code
    assert re.search(r"held +live values +as in strategy\.yaml +the same", capsys.readouterr().out)


def test_a_file_that_was_never_applied_fails(live, tmp_path, capsys):
    """
    The release is at ten per cent, the file says thirty: a finding of its own, and the splits fail as well.
    """
    routes = [{"name": "everyone", "weights": {"stable": 30, "canary": 70}}]

    code = check.main([*live(), "--values", file_with(tmp_path, {"routing": {"routes": routes}})])

    output = capsys.readouterr().out
    assert 1 == code
    assert re.search(
        r"failed +live values +as in strategy\.yaml +everyone else → stable 90 %, canary 10 %", output
    )
    assert re.search(r"failed +split everyone +REST", output)


def test_a_virtual_service_changed_behind_helms_back_fails(live, capsys):
    """
    Requirement A19: the live object is read, never the values alone.
    """
    patched = copy.deepcopy(LIVE)
    patched["routing"]["routes"][0]["weights"] = {"stable": 50, "canary": 50}

    code = check.main(live(objects=virtual_service(stable=50, canary=50), actual=patched))

    output = capsys.readouterr().out
    assert 1 == code
    assert re.search(r"failed +live routes +REST .*everyone: match: stable 50 %, canary 50 %", output)


def test_the_routes_before_the_newest_revision_are_told_apart(live, fake_helm):
    """
    They are those of the last revision that worked; one that failed never moved any traffic.
    """
    statuses = {1: "superseded", 2: "superseded", 3: "failed", 4: "deployed"}
    history = [
        {"revision": number, "status": status, "updated": "2026-01-02T03:04:05Z"}
        for number, status in statuses.items()
    ]

    assert 0 == check.main(live(history=history))
    assert [["--revision", "2"]] == [
        arguments[arguments.index("--revision") :][:2]
        for arguments, _ in fake_helm.asked()
        if "--revision" in arguments
    ]


def test_a_revision_before_of_another_chart_is_not_checked_and_said_so(live, capsys, monkeypatch):
    read = Releases.values

    def values(releases, name, revision=None):
        return {"replicaCount": 1} if revision else read(releases, name)

    monkeypatch.setattr(Releases, "values", values)
    history = [
        {"revision": number, "status": status, "updated": "2026-01-02T03:04:05Z"}
        for number, status in ((1, "superseded"), (2, "deployed"))
    ]

    assert 0 == check.main(live(history=history))
    assert (
        "not checked: the routes before the newest revision, which cannot be read: tracks: expected"
        in capsys.readouterr().out
    )


def test_json_is_alone_on_stdout(live, capsys):
    code = check.main([*live(), "--json"])

    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (0, True, "resnet") == (code, report["held"], report["release"])
    assert "checks held" in captured.err


def test_files_and_an_address_are_enough(gateway, tmp_path, capsys):
    """
    With no cluster the check says what it loses, and makes the rest.
    """
    double = gateway(from_values(LIVE))
    file = file_with(tmp_path, {"model": LIVE["model"], "routing": LIVE["routing"]})

    code = check.main(["--values", file, "--gateway", double.address, *QUICK])

    output = capsys.readouterr().out
    assert 0 == code
    assert "not checked: the live release and VirtualService" in output
    assert "not checked: which revision the routes have" in output


def test_without_attribution_the_exit_code_is_4(live, capsys):
    unnamed = copy.deepcopy(LIVE)
    unnamed["routing"]["attribution"] = False

    code = check.main(live(values=unnamed))

    output = capsys.readouterr().out
    assert 4 == code
    assert (
        "not checked: revisions, and each track's own interface and predictions: routing.attribution"
        in output
    )
    assert re.search(r"held +split everyone", output)
    assert re.search(r"not enough evidence +revision", output)


def test_without_attribution_equal_versions_tell_no_track(live, capsys):
    unnamed = copy.deepcopy(LIVE)
    unnamed["routing"]["attribution"] = False
    unnamed["tracks"]["canary"]["version"] = 1

    code = check.main(live(values=unnamed))

    output = capsys.readouterr().out
    assert 4 == code
    assert "not checked: tracks and revisions: routing.attribution is off" in output
    assert re.search(r"not enough evidence +split everyone", output)


def weights(**shares):
    return {"model": {"name": "resnet"}, "routing": {"routes": [{"name": "everyone", "weights": shares}]}}
