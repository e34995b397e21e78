"""
Values of an umbrella chart: which copy of the chart reads them, and what its objects are called.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tfcanary.chart.umbrella import Copy, copy_in, given_to, require_plain
from tfcanary.check.live import misplaced_values
from tfcanary.commands import explain
from tfcanary.errors import UsageError
from tfcanary.judge.verdict import Outcome

OWN: dict[str, Any] = {
    "model": {"name": "resnet"},
    "tracks": {"stable": {"version": 1}, "canary": {"version": 2}},
    "routing": {"routes": [{"name": "everyone", "weights": {"stable": 100}}]},
}
UMBRELLA = {"resnet": OWN, "digits": OWN, "global": {"imageRegistry": ""}, "other": {"model": "x"}}
STRATEGY = {"routing": OWN["routing"]}


@pytest.mark.parametrize(
    ("key", "values", "name"),
    [
        ("", {}, "plat"),
        ("tfserving-canary", {}, "plat"),
        ("resnet", {}, "plat-resnet"),
        ("resnet", {"nameOverride": "r50"}, "plat-r50"),
        ("", {"nameOverride": "r50"}, "plat-r50"),
        ("resnet", {"nameOverride": "r50", "fullnameOverride": "mine"}, "mine"),
        ("", {"fullnameOverride": "mine"}, "mine"),
    ],
)
def test_name_of_the_objects(key: str, values: dict[str, Any], name: str) -> None:
    """
    Objects are found by the name that the chart's helper gives them.
    """
    assert name == Copy("plat", values, key).name


def test_a_release_of_the_chart_itself() -> None:
    """
    Values at the top are the release's own.
    """
    assert Copy("resnet", OWN) == copy_in("resnet", OWN, None)


def test_a_copy_in_an_umbrella_chart() -> None:
    """
    A copy has the values under its key, and a strategy at the top is named.
    """
    found = copy_in("plat", UMBRELLA | STRATEGY, "digits")

    assert Copy("plat", OWN, "digits", ("routing",)) == found
    assert Outcome.FAILED is misplaced_values(found).outcome
    assert "routing at the top, where no copy of the chart reads it" == misplaced_values(found).observed
    assert Outcome.HELD is misplaced_values(copy_in("plat", UMBRELLA, "digits")).outcome


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        (UMBRELLA, None, "under resnet, digits; add --subchart resnet"),
        (UMBRELLA | STRATEGY, None, "under resnet, digits; add --subchart resnet"),
        (UMBRELLA, "other", "--subchart: expected one of resnet, digits, as release 'plat' has them, got 'other'"),
        (OWN, "resnet", "--subchart: release 'plat' is of this chart itself; leave --subchart resnet out"),
    ],
)  # fmt: skip
def test_which_copy_must_be_said(values: dict[str, Any], key: str | None, message: str) -> None:
    """
    The error says under which keys the values lie.
    """
    with pytest.raises(UsageError) as caught:
        copy_in("plat", values, key)

    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (UMBRELLA, "expected a release of the chart tfserving-canary, got one of an umbrella chart"),
        (OWN | {"nameOverride": "x"}, "expected objects with the release's name, got 'plat-x'"),
    ],
)
def test_rollouts_need_a_release_of_the_chart_itself(values: dict[str, Any], message: str) -> None:
    """
    A rollout would upgrade the umbrella chart's release with this chart.
    """
    require_plain("plat", OWN)
    with pytest.raises(UsageError, match=message):
        require_plain("plat", values)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        (None, {"resnet": STRATEGY}, "got them under resnet, as for an umbrella chart; add --subchart resnet"),
        ("resnet", STRATEGY, "values: expected routing under resnet, where the umbrella chart's copy reads it, got it"),
    ],
)  # fmt: skip
def test_files_for_another_place(key: str | None, values: dict[str, Any], message: str) -> None:
    """
    A strategy that an upgrade would not see is refused before it is compared with anything.
    """
    with pytest.raises(UsageError, match=message):
        given_to(key, values)


def test_files_for_the_place() -> None:
    """
    A plan of a rollout has tracks of its own, and is no copy of the chart.
    """
    plan = STRATEGY | {"rollout": {"plan": {"tracks": {}}, "tracks": {"canary": "x"}}}

    assert plan == given_to(None, plan)
    assert STRATEGY == given_to("resnet", {"resnet": STRATEGY, "digits": {}})


def test_explain_reads_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The values of an umbrella chart are explained for the copy that is named.
    """
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"digits": OWN | {"model": {"name": "digits"}}}))

    assert 0 == explain.main(["-f", str(file), "--subchart", "digits", "--json"], prog="explain")
    assert "/v1/models/digits:predict" == json.loads(capsys.readouterr().out)["path"]
    assert 2 == explain.main(["-f", str(file)], prog="explain")
    assert "add --subchart digits" in capsys.readouterr().err
