"""
Every strategy that the Gateway API can say, on a real gateway: answered as `explain` says, over REST and over gRPC.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gatewayapi import UNSAID
from test_strategies import APIS, REQUESTS, SEED, requests

from tfcanary.commands import explain
from tfcanary.paths import VALUES


def said() -> list[str]:
    """
    The strategies, in an order that the seed decides.
    """
    names = sorted({path.stem for path in VALUES.glob("*.yaml")} - set(UNSAID))
    random.Random(SEED).shuffle(names)  # noqa: S311 - nothing secret
    return names


@pytest.fixture(scope="module")
def models() -> Path:
    """
    Three tracks; the third serves a copy of the first model.
    """
    return VALUES / "models/resnet-abn.yaml"


@pytest.fixture(scope="module")
def more_values(namespace: str) -> dict[str, Any]:
    """
    The routes are an HTTPRoute. Pods of the release's own namespace may call the model.
    """
    callers = [{"namespace": namespace, "serviceAccount": "default"}]
    return {"gateway": {"api": "gateway-api"}, "security": {"callers": callers}}


@pytest.mark.parametrize("strategy", said(), scope="module")
def test_the_gateway_does_what_explain_says(stage, strategy):
    """
    Each generated request is answered by a track that `explain` gives it, and by none where `explain` finds no route.
    """
    declared = stage.play(strategy)

    wrong = []
    answered = Counter[str | None]()
    for api in APIS:
        for request in requests(api, strategy):
            expected = explain.explain(declared, request)
            seen = stage.gateway.ask(api, request.path, request.headers)
            answered[seen.track] += 1
            if seen.track not in (expected["weights"] or {None}):
                wrong.append((api, request, expected["route"], expected["weights"], seen))
    assert [] == wrong
    assert 2 * REQUESTS == answered.total()
    assert answered[None] < REQUESTS
