"""
What stands in front of the models, which rules there are for their Service, and how Envoy looks up a host.
"""

import json
from pathlib import Path

import pytest

from tfcanary.check.envoy import inbound_filters, virtual_host
from tfcanary.check.mesh import destination_rules, sidecar_filters
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.envoy import parsed

SIDECAR = json.loads((Path(__file__).parent / "support/sidecar_dump.json").read_text())


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("a.test", "exact"),
        ("A.test:8080", "exact"),
        ("b.a.test", "suffix"),
        ("c.b.a.test", "longer"),
        ("a.example", "prefix"),
        ("other", "any"),
    ],
)
def test_a_host_is_looked_up_as_envoy_does(authority, host):
    domains = {
        "any": "*",
        "prefix": "a.*",
        "suffix": "*.a.test",
        "longer": "*.b.a.test",
        "exact": "a.test",
    }
    hosts = [{"name": name, "domains": [domain]} for name, domain in domains.items()]
    table = {"virtual_hosts": hosts, "ignore_port_in_host_matching": True}

    assert host == virtual_host(table, authority)["name"]
    assert virtual_host({"virtual_hosts": hosts[1:]}, "nobody") is None


def test_the_recorded_sidecar_has_istios_filters_alone():
    filters = inbound_filters(parsed(SIDECAR), (8500, 8501))

    row = sidecar_filters({"resnet-canary-0": filters})

    assert (Outcome.HELD, "the same at 1 pods") == (row.outcome, row.observed)
    assert "envoy.filters.http.rbac" in {one["name"] for one in filters}


def test_a_fault_in_front_of_a_model_names_its_pod():
    fault = {"name": "chaos", "typed_config": {"@type": "type/x.HTTPFault", "abort": {}}}
    filters = inbound_filters(parsed(SIDECAR), (8500, 8501))

    row = sidecar_filters({"a": filters, "b": (*filters, fault)})

    assert (Outcome.FAILED, "chaos (HTTPFault) at b") == (row.outcome, row.observed)
    assert Outcome.HELD is sidecar_filters({"b": (*filters, fault)}, ("chaos",)).outcome


def rule(name, host, namespace="models", made="2026-01-02T00:00:00Z"):
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": made}
    return {"metadata": metadata, "spec": {"host": host}}


OWN = rule("resnet", "resnet")


@pytest.mark.parametrize(
    ("other", "observed"),
    [
        pytest.param(
            rule("left", "resnet", made="2026-01-01T00:00:00Z"),
            "models/left, older, is for the same Service",
            id="older",
        ),
        pytest.param(
            rule("left", "resnet.models.svc.cluster.local"), "models/left, newer,", id="by-its-full-name"
        ),
        pytest.param(
            rule("left", "resnet.models.svc.cluster.local", "istio-system"),
            "istio-system/left, newer,",
            id="in-the-gateways-namespace",
        ),
        pytest.param(rule("left", "resnet", "istio-system"), None, id="a-service-of-another-namespace"),
        pytest.param(rule("left", "*.models.svc.cluster.local"), None, id="less-exact"),
        pytest.param(rule("digits", "digits"), None, id="another-service"),
    ],
)
def test_a_second_destination_rule_is_named(other, observed):
    row = destination_rules([OWN, other], ("models", "resnet"))

    assert (Outcome.FAILED if observed else Outcome.HELD) is row.outcome
    assert (observed or "the same") in row.observed


def test_a_destination_rule_that_is_gone_is_named():
    assert "models/resnet is gone" == destination_rules([], ("models", "resnet")).observed
