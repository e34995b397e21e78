"""
Every strategy that the Gateway API can say, on a real gateway: answered as `explain` says, and checked.
"""

import random
from pathlib import Path
from typing import Any

import pytest
from gatewayapi import UNSAID
from planting import QUICK
from test_strategies import RELEASE, SEED, assert_answered_as_explained

from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.paths import VALUES
from tfcanary.report.table import findings_table


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
    assert_answered_as_explained(stage, strategy)


@pytest.mark.parametrize("strategy", ["canary-path", "canary-cookie", "shadow", "canary-30"], scope="module")
def test_the_check_holds(stage, target, strategy):
    """
    `tfcanary check` proves the same of an HTTPRoute as of a VirtualService: the split, the routes, Envoy's configuration.
    """
    stage.play(strategy)

    seen = check_gateway(from_release(RELEASE, target), QUICK)

    assert seen.held, str(findings_table(seen))
    titles = {one.title for one in seen.findings}
    expected = {"routes at the gateway", "live retries", "live timeouts", "live mirrors", "endpoints canary"}
    assert expected | {"destination rules", "destination rules canary", "live objects"} <= titles
