"""
The Istio objects of each strategy, and what guards the pods in each environment, as text that a reviewer reads.
``REWRITE_GOLDENS=1 pytest tests/chart/test_goldens.py`` rewrites them.
"""

import os
from pathlib import Path

import pytest
from gatewayapi import UNSAID

GOLDENS = Path(__file__).parent / "goldens"
GUARDS = {
    "AuthorizationPolicy",
    "EnvoyFilter",
    "NetworkPolicy",
    "PeerAuthentication",
    "RequestAuthentication",
}
SERVICE = ("VirtualService", "resnet")
GATEWAYS = {
    "by-model": {"byModel": {"enabled": True}, "filters": {"enabled": False}},
    "certificates": {
        "hosts": ["a.example", "b.example", "c.example"],
        "tls": {
            "enabled": True,
            "credentialName": "others",
            "certificates": [{"hosts": ["b.example"], "credentialName": "b"}],
        },
    },
    "existing": {"existing": ["istio-system/external", "models/internal"], "hosts": ["a.example"]},
}
JWT = {
    "security": {"jwt": {"issuer": "https://issuer.example", "jwks": '{"keys":[]}', "audiences": ["resnet"]}}
}
JWKS_URI = {
    "security": {"jwt": {"issuer": "https://issuer.example", "jwksUri": "https://issuer.example/keys"}}
}
# How tokens are verified, by the end of a golden's name.
VERIFIED = {"": {}, "-jwt": JWT, "-jwks-uri": JWKS_URI}


def compare(golden, texts):
    """
    Compare with a golden, or write it.
    """
    text = "---\n" + "---\n".join(texts)
    if os.environ.get("REWRITE_GOLDENS") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)

    assert golden.read_text() == text


def test_golden(render, strategy):
    """
    The Gateway, the two VirtualServices and the DestinationRule are those of the golden with the strategy's name.
    """
    istio = [text for text in render(strategy).documents if "apiVersion: networking.istio.io/v1\n" in text]

    assert 4 == len(istio)
    compare(GOLDENS / f"{strategy}.yaml", istio)


@pytest.mark.parametrize("name", sorted(GATEWAYS))
def test_gateways(render, name):
    """
    Other gateways than one of the release's own with one certificate are those of the golden with their name.
    """
    texts = render("canary-user-group", values={"gateway": GATEWAYS[name]}).texts
    shown = [text for (kind, one), text in texts.items() if kind == "Gateway" or (kind, one) == SERVICE]

    compare(GOLDENS / "gateways" / f"{name}.yaml", shown)


def test_golden_of_the_gateway_api(render, refused, strategy):
    """
    The Gateway and the HTTPRoute are those of the golden with the strategy's name, or the strategy is refused.
    """
    values = {"gateway": {"api": "gateway-api"}}
    if strategy in UNSAID:
        assert f"{UNSAID[strategy]} cannot be said with gateway.api=gateway-api" in refused(
            strategy, values=values
        )
        return
    documents = render(strategy, values=values).documents
    texts = [text for text in documents if "apiVersion: gateway.networking.k8s.io/v1\n" in text]

    assert 2 == len(texts)
    compare(GOLDENS / "gateway-api" / f"{strategy}.yaml", texts)


@pytest.mark.parametrize("end", sorted(VERIFIED))
def test_guards(render, environment, end):
    """
    Who may call what, and what the gateway takes away, are those of the environment's golden.
    """
    rendered = render(environment=environment, values=VERIFIED[end])
    guards = [text for (kind, _), text in rendered.texts.items() if kind in GUARDS]

    assert len(guards) == (5 if end == "-jwks-uri" else 4)
    compare(GOLDENS / "guards" / f"{environment}{end}.yaml", guards)


def test_no_golden_is_left_over(strategies, values_folder):
    """
    Every golden belongs to a strategy or to an environment.
    """
    assert set(GATEWAYS) == {path.stem for path in (GOLDENS / "gateways").iterdir()}
    assert set(strategies) == {path.stem for path in GOLDENS.glob("*.yaml")}
    assert set(strategies) - set(UNSAID) == {path.stem for path in (GOLDENS / "gateway-api").iterdir()}
    environments = {path.stem for path in (values_folder / "env").iterdir()}
    assert {f"{name}{end}" for name in environments for end in VERIFIED} == {
        path.stem for path in (GOLDENS / "guards").iterdir()
    }
