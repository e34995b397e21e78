"""
Tokens at a real gateway: only a verified claim reaches the canary, whatever headers say.
"""

import base64
import itertools
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import PLAIN
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from planting import SYSTEM, Kubectl, istio

from tfcanary.check.propagation import IN_A_ROW
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.commands import explain
from tfcanary.paths import VALUES
from tfcanary.report.table import findings_table
from tfcanary.routing.route import Request
from tfcanary.routing.tokens import read_token
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
ISSUER = "https://issuer.example"
OTHER_ISSUER = "https://other.example"
AUDIENCE = "resnet"
SPOOFED = 200
LOG = logging.getLogger(__name__)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """
    A key that signs tokens.
    """

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwks(self) -> str:
        """
        The public key.
        """
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "alg": "RS256", "kid": "one", "use": "sig"}
        for name, value in (("n", numbers.n), ("e", numbers.e)):
            key[name] = encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))
        return json.dumps({"keys": [key]})

    def token(self, **claims: Any) -> str:
        """
        A token that holds for a day, longer than any run of these tests, unless the claims say otherwise.
        """
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "someone", "exp": int(time.time()) + 86_400, **claims}
        head = {"alg": "RS256", "kid": "one", "typ": "JWT"}
        signed = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(said).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encoded(signature)}"


ISSUED = Issuer()
FORGED = Issuer()


@pytest.fixture(scope="module")
def more_values() -> dict[str, Any]:
    """
    Tokens of one issuer are verified.
    """
    return {"security": {"jwt": {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": ISSUED.jwks}}}


UNSIGNED = ".".join(
    [
        encoded(b'{"alg":"none"}'),
        encoded(json.dumps({"iss": ISSUER, "aud": AUDIENCE, "group": "canary"}).encode()),
        "",
    ]
)
BAD_TOKENS = {
    "none": None,
    "not-a-token": "xxx",
    "forged": FORGED.token(group="canary"),
    "expired": ISSUED.token(group="canary", exp=int(time.time()) - 3600),
    "other-audience": ISSUED.token(group="canary", aud="another"),
    "other-issuer": ISSUED.token(group="canary", iss=OTHER_ISSUER),
    "unsigned": UNSIGNED,
    "other-group": ISSUED.token(group="staff"),
    "other-case": ISSUED.token(group="Canary"),
    "claim-elsewhere": ISSUED.token(groups="canary"),
}
# A token that does not hold is refused; one that holds and says something else, or none at all, is not.
REFUSED = {
    **dict.fromkeys(
        ("not-a-token", "forged", "expired", "other-issuer", "unsigned"), ("401", "UNAUTHENTICATED")
    ),
    "other-audience": ("403", "PERMISSION_DENIED"),
}
SPOOFS: dict[str, list[tuple[str, str]]] = {
    "plain": [("user-group", "canary")],
    "upper": [("USER-GROUP", "canary")],
    "mixed": [("User-Group", "canary")],
    "twice": [("user-group", "x"), ("user-group", "canary")],
    "comma": [("user-group", "x,canary")],
    "claim-header": [("@request.auth.claims[group]", "canary"), ("x-jwt-claim-group", "canary")],
    "bucket": [("x-bucket-resnet", "00"), ("user-group", "canary")],
    "user": [("user-id", "alice"), ("user-group", "canary")],
}


def bearer(token: str | None) -> list[tuple[str, str]]:
    """
    The header that carries a token.
    """
    return [("authorization", f"Bearer {token}")] if token else []


def forgeries() -> list[tuple[str, list[tuple[str, str]]]]:
    """
    Every forged header with every token that is none of ours: the token's name, and the headers to send.
    """
    made = []
    for spoof, (name, token) in itertools.product([*SPOOFS.values(), []], BAD_TOKENS.items()):
        # No client of HTTP/1 or HTTP/2 sends a name that begins with @.
        sent = [pair for pair in spoof if not pair[0].startswith("@")]
        if token or sent:
            made.append((name, [*sent, *bearer(token)]))
    return made


# All tests of one strategy run one after the other, so that it is applied once.
# One strategy goes by the token's claim; the other by a header, which with tokens on holds the claim's value too.
guarded = pytest.mark.parametrize("strategy", ["canary-jwt", "canary-user-group"], scope="module")


@guarded
@pytest.mark.parametrize("api", ["REST", "gRPC"])
def test_no_forgery_reaches_the_canary(stage, strategy, api):
    """
    Forged headers, and tokens that do not hold, never reach the canary.
    """
    stage.play(strategy)
    wrong, answered = [], Counter[tuple[str, str | None]]()
    while answered.total() < SPOOFED:
        for name, headers in forgeries():
            seen = stage.gateway.ask(api, headers=headers)
            answered[seen.status, seen.track] += 1
            # The gateway's own refusal bears the mark of the route that it would have taken.
            if (seen.status, seen.track) != (expected_status(name, api), "stable"):
                wrong.append((headers, name, seen))

    LOG.info("%s by %s: %s", strategy, api, dict(answered))
    assert [] == wrong
    assert SPOOFED <= answered.total()


def expected_status(name: str, api: str) -> str:
    """
    How a request ends that carries the bad token of this name.
    """
    rest, call = REFUSED.get(name, ("200", "OK"))
    return rest if api == "REST" else call


@guarded
def test_a_valid_claim_always_reaches_the_canary(stage, strategy):
    """
    200 of 200 requests with a valid claim reach it, whatever other headers say.
    """
    stage.play(strategy)
    headers = [*bearer(ISSUED.token(group="canary")), ("user-group", "stable")]

    seen = [stage.gateway.ask("REST", headers=headers).track for _ in range(150)]
    seen += [stage.gateway.ask("gRPC", headers=headers).track for _ in range(50)]

    assert ["canary"] * 200 == seen


@pytest.mark.parametrize("strategy", ["canary-jwt"], scope="module")
def test_the_check_proves_a_claim_with_a_token(stage, strategy, target, tmp_path):
    """
    `check --token FILE` sees the canary with the token, stable without it, and a refusal of a forged one, over both APIs.
    """
    stage.play(strategy)
    file = tmp_path / "token"
    file.write_text(ISSUED.token(group="canary"))

    found = check_gateway(from_release(RELEASE, target, tokens=[read_token(file)]))

    assert found.held, str(findings_table(found))
    titles = {one.title for one in found.findings}
    for api in ("REST", "gRPC"):
        assert {
            f"split canary-group ({api})",
            f"header rule canary-group: no token ({api})",
            f"header rule canary-group: plain headers instead of a token ({api})",
            f"forged token 1 of 1 ({api})",
        } <= titles


# The rest of the gateway


def application(host: str, namespace: str) -> list[dict[str, Any]]:
    """
    Another application at the same gateway, which answers 200.
    """
    server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [host]}
    gateway = {"selector": {"istio": "ingressgateway"}, "servers": [server]}
    routes = {"hosts": [host], "gateways": ["others"], "http": [{"directResponse": {"status": 200}}]}
    return [
        istio("Gateway", "others", namespace, gateway),
        istio("VirtualService", "others", namespace, routes),
    ]


@pytest.fixture
def another(kubectl: Kubectl, target: Target, stage: Any) -> Iterator[Callable[[str | None], int]]:
    """
    The status that the other application's clients get with a token.
    """
    host = f"others.{target.namespace}.test"

    def status(token: str | None) -> int:
        headers = [("host", host), *bearer(token)]
        return httpx.get(f"http://{stage.gateway.address}/", headers=headers, trust_env=False).status_code

    with kubectl.planted(*application(host, target.namespace)):
        settle(lambda: 200 == status(None))
        yield status


def settle(reached: Callable[[], bool]) -> None:
    """
    Wait until the gateway has what was planted.
    """

    def probe() -> None:
        if not all(reached() for _ in range(IN_A_ROW)):
            raise NotYet("not yet at the gateway")

    wait_until("what was planted", probe, timeout_seconds=60)


@pytest.mark.parametrize("strategy", ["canary-jwt"], scope="module")
def test_tokens_of_other_hosts_are_left_alone(stage, strategy, another):
    """
    The gateway verifies the tokens of the release's host, and lets any token through to another application's.
    """
    stage.play(strategy)

    seen = {name: another(token) for name, token in BAD_TOKENS.items()}

    assert dict.fromkeys(BAD_TOKENS, 200) == seen
    assert "401" == stage.gateway.ask("REST", headers=bearer(BAD_TOKENS["other-issuer"])).status


@pytest.mark.parametrize("strategy", ["canary-jwt", "canary-user-group"], scope="module")
def test_tokens_hold_beside_those_of_another_application(stage, strategy, another, kubectl):
    """
    Another application has a RequestAuthentication at the gateway: its tokens are its own, and the release's are as before.
    """
    stage.play(strategy)
    rule = {"issuer": OTHER_ISSUER, "jwks": FORGED.jwks}
    spec = {"selector": {"matchLabels": {"istio": "ingressgateway"}}, "jwtRules": [rule]}
    theirs = FORGED.token(iss=OTHER_ISSUER, group="canary")
    ours = bearer(ISSUED.token(group="canary"))

    name = f"others.{stage.target.namespace}"
    with kubectl.planted(istio("RequestAuthentication", name, SYSTEM, spec, group="security")):
        settle(lambda: 401 == another(BAD_TOKENS["forged"]))
        there = another(theirs)
        seen = {api: stage.gateway.ask(api, headers=ours).track for api in PLAIN}
        refused = {api: stage.gateway.ask(api, headers=bearer(theirs)).status for api in PLAIN}
    settle(lambda: 200 == another(BAD_TOKENS["forged"]))

    assert 200 == there
    assert dict.fromkeys(PLAIN, "canary") == seen
    assert {"REST": "401", "gRPC": "UNAUTHENTICATED"} == refused


TOLD: dict[str, list[str | None]] = {
    "group": [None, "canary", "staff", "stable", "b", "Canary"],
    "sub": ["alice", "bob@example.com", "bob@exampleXcom", *(f"user-{number}" for number in range(10))],
}
SAID: dict[str, list[str | None]] = {
    "user-group": [None, "canary", "staff", "stable"],
    "user-id": [None, "alice", "user-1"],
    "x-client-region": [None, "europe-west1", "asia-east1"],
    "x-bucket-resnet": [None, "00", "99"],
}


@pytest.mark.parametrize("api", ["REST", "gRPC"])
@pytest.mark.parametrize(
    "strategy",
    ["canary-jwt", "canary-user-group", "canary-users", "canary-sticky-users", "composed"],
    scope="module",
)
def test_the_gateway_does_what_explain_says_of_tokens(stage, tmp_path, strategy, api):
    """
    Each of sixty generated requests, whose tokens and headers contradict each other, is answered by a track that `explain`
    gives it.
    """
    stage.play(strategy)
    file = tmp_path / "tokens.yaml"
    file.write_text(json.dumps({"security": {"jwt": {"issuer": ISSUER, "jwks": ISSUED.jwks}}}))
    declared = explain.read([stage.models, VALUES / f"{strategy}.yaml", file])
    draw = random.Random(f"{strategy} {api}")  # noqa: S311 - nothing secret

    wrong, answered = [], Counter[str | None]()
    for _ in range(60):
        headers = {key: value for key, values in SAID.items() if (value := draw.choice(values))}
        claims = {key: value for key, values in TOLD.items() if (value := draw.choice(values))}
        claims = claims if draw.random() < 0.7 else {}
        token = ISSUED.token(**claims) if claims else None
        said = explain.explain(
            declared, Request(explain.default_path("resnet", api.lower()), headers, claims)
        )
        seen = stage.gateway.ask(api, headers=[*headers.items(), *bearer(token)]).track
        answered[seen] += 1
        if seen not in said["weights"]:
            wrong.append((headers, claims, said["route"], said["weights"], seen))
    assert [] == wrong
    assert {"stable", "canary"} == set(answered)
