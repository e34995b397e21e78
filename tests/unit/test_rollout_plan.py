"""
The plan of a rollout: what it means, and what is refused in it, each in one line and before anything changes.
"""

import datetime as dt
import json
import zoneinfo
from pathlib import Path

import pytest
import yaml

from tfcanary.errors import UsageError
from tfcanary.paths import VALUES
from tfcanary.rollout.plan import Plan, PlanError
from tfcanary.rollout.planfile import plan_from, read_plan
from tfcanary.rollout.windows import Window

LEAST = {"release": "resnet", "to": 3}
EVERYONE = {"name": "everyone", "weights": {"stable": 90, "canary": 10}}
NIGHT = {"days": ["fri"], "from": "16:00", "to": "08:00", "zone": "Europe/Berlin"}
SECRET = "https://hooks.example/T0/B0/c2VjcmV0"  # noqa: S105 - it is the point that it is not shown


def plan(**keys: object) -> Plan:
    return plan_from({**LEAST, **keys})


def test_a_release_and_a_version_are_enough():
    made = plan()

    assert ("stable", "canary") == (made.stable, made.canary)
    assert ((), (1, 5, 25, 50), 50, 90) == (made.steps, made.ramp.ladder, made.top, made.bake_weight)
    assert (10, 3600, 4 * 3600, 30, 60) == (
        made.limits.least,
        made.limits.most,
        made.limits.total,
        made.limits.drain,
        made.limits.propagation,
    )
    assert made.judge.horizon == made.limits.total
    assert (60, None, False) == (made.probes, made.webhook, made.promotion)


def test_a_plan_is_read_again_from_its_own_document():
    made = plan(steps=[{"routes": [EVERYONE]}], blackouts=[NIGHT], approvals=[10, "promotion"])

    again = plan_from(json.loads(json.dumps(made.document)))

    assert again == made
    assert again.digest == made.digest != plan().digest


def test_defaults_are_part_of_the_digest_and_order_is_not():
    assert plan().digest == plan(tracks={"canary": "canary"}, steps="auto").digest
    assert plan(bake={"time": "5m", "control": 5}).digest == plan(bake={"control": 5, "time": "5m"}).digest
    assert plan(bake={"time": "5m"}).digest != plan().digest


def test_values_files_are_steps_and_are_kept_with_the_plan(tmp_path):
    """
    A later driver does not need the files.
    """
    for name in ("canary-1", "canary-10", "canary-50"):
        (tmp_path / f"{name}.yaml").write_text((VALUES / f"{name}.yaml").read_text())
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({**LEAST, "steps": ["canary-1.yaml", "canary-10.yaml", "canary-50.yaml"]}))

    made = read_plan(file)

    assert [1, 10, 50] == [step.weight for step in made.steps]
    assert made.top == 50
    assert {"stable": 99, "canary": 1} == made.steps[0].routes[-1]["weights"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert plan_from(made.document) == made


BAD = {
    "no-release": ({"to": 3}, "release: expected the name of a Helm release, got None"),
    "no-version": ({"release": "resnet"}, "to: expected a whole number from 1 to 9007199254740991, got None"),
    "release-of-two-words": (
        {**LEAST, "release": "my model"},
        "release: expected the name of a Helm release",
    ),
    "version-as-text": ({**LEAST, "to": "3"}, "to: expected a whole number"),
    "version-zero": ({**LEAST, "to": 0}, "to: expected a whole number from 1"),
    "version-of-a-half": ({**LEAST, "to": 2.5}, "to: expected a whole number"),
    "unknown-key": ({**LEAST, "stepz": "auto"}, "the plan: unknown key 'stepz'; expected one of release, to"),
    "unknown-key-below": (
        {**LEAST, "bake": {"length": "1m"}},
        "bake: unknown key 'length'; expected one of time",
    ),
    "one-track-twice": (
        {**LEAST, "tracks": {"canary": "stable"}},
        "tracks: expected two, got stable as both",
    ),
    "track-in-capitals": (
        {**LEAST, "tracks": {"canary": "New"}},
        "tracks.canary: expected the name of a track",
    ),
    "steps-in-words": ({**LEAST, "steps": "slowly"}, "steps: expected auto, a list of weights"),
    "no-steps": ({**LEAST, "steps": []}, "steps: expected 1 to 20 weights"),
    "falling-steps": ({**LEAST, "steps": [10, 5]}, "steps[1]: expected more than 10 % before it, got 5 %"),
    "equal-steps": ({**LEAST, "steps": [10, 10]}, "steps[1]: expected more than 10 % before it, got 10 %"),
    "step-of-nothing": ({**LEAST, "steps": [0, 10]}, "steps[0]: expected a weight from 1 % and below"),
    "step-of-all": (
        {**LEAST, "steps": [10, 100]},
        "steps[1]: expected a weight from 1 % and below that of the bake",
    ),
    "step-above-the-bake": ({**LEAST, "steps": [95]}, "steps[0]: expected a weight from 1 % and below"),
    "steps-of-two-kinds": ({**LEAST, "steps": [1, "canary-10.yaml"]}, "steps: expected 1 to 20 weights, or"),
    "step-of-a-half": (
        {**LEAST, "steps": [0.5]},
        "steps[0]: expected a weight in whole per cent, or a values file",
    ),
    "no-such-file": ({**LEAST, "steps": ["none.yaml"]}, "steps[0]: values file 'none.yaml': cannot be read"),
    "step-without-routes": (
        {**LEAST, "steps": [{"routes": []}]},
        "steps[0].routes: expected a list with at least 1",
    ),
    "step-of-three-tracks": (
        {
            **LEAST,
            "steps": [{"routes": [{"name": "all", "weights": {"stable": 80, "canary": 10, "third": 10}}]}],
        },
        "steps[0]: routing.routes[0] (all): expected weights of stable and canary that sum to 100",
    ),
    "step-of-chosen-clients": (
        {**LEAST, "steps": [{"routes": [{"name": "group", "weights": {"canary": 100}}, EVERYONE]}]},
        "steps[0]: routing.routes[0] (group): expected that only the last route sends to canary",
    ),
    "sticky-step": (
        {**LEAST, "steps": [{"routes": [{**EVERYONE, "sticky": {"by": "cookie"}}]}]},
        "steps[0]: routing.routes[0] (everyone): sticky, and the judge counts requests",
    ),
    "ladder-that-sticks": (
        {**LEAST, "ramp": {"growth": 2}},
        "ramp: ladder: expected steps of at most 2 times, got 1 and then 5, which would never be reached",
    ),
    "falling-ladder": ({**LEAST, "ramp": {"ladder": [5, 1]}}, "ramp: ladder: expected rising weights"),
    "ladder-above-the-bake": (
        {**LEAST, "ramp": {"ladder": [5, 25, 95]}},
        "ramp.ladder: expected weights below that of the bake, 90 %, got 95 %",
    ),
    "first-below-the-ladder": ({**LEAST, "ramp": {"ladder": [5, 25], "first": 1}}, "ramp: ramp: expected"),
    "alpha-of-two": (
        {**LEAST, "judge": {"alpha": 2}},
        "judge: alpha: expected more than 0 and less than 1, got 2",
    ),
    "tolerance-below-the-bets": (
        {**LEAST, "judge": {"errors": {"times": 1.2}}},
        "judge: errors.times: expected more than 1.5",
    ),
    "unknown-signal": ({**LEAST, "judge": {"signals": ["cost"]}}, "judge: signals: expected some of errors"),
    "proof-of-what-is-not-looked-at": (
        {**LEAST, "judge": {"required": ["slow"]}},
        "judge: required: expected some of errors",
    ),
    "unit": (
        {**LEAST, "judge": {"unit": "session"}},
        "judge.unit: expected one of request, user, got 'session'",
    ),
    "pairs-without-probes": (
        {**LEAST, "judge": {"signals": ["errors", "accuracy"]}, "probes": {"count": 0}},
        "probes: expected a count or perSecond for accuracy, got none",
    ),
    "seconds-as-a-number": (
        {**LEAST, "limits": {"most": 90}},
        "limits.most: expected a duration such as 90s",
    ),
    "seconds-in-words": (
        {**LEAST, "limits": {"most": "an hour"}},
        "limits.most: expected a duration such as 90s",
    ),
    "least-above-most": (
        {**LEAST, "limits": {"least": "2h"}},
        "limits.most: expected more than limits.least, 7200 s, got 3600 s",
    ),
    "no-time-for-the-bake": (
        {**LEAST, "bake": {"time": "4h"}},
        "limits.total: expected more than limits.most and bake.time, 18000 s, got 14400 s",
    ),
    "no-time-at-all": (
        {**LEAST, "limits": {"propagation": "0s"}},
        "limits.propagation: expected more than 0 s",
    ),
    "looks-that-are-always-stale": (
        {**LEAST, "limits": {"look": "2m"}},
        "limits.look: expected less than judge.stale, 60s, got 120 s",
    ),
    "control-of-half": (
        {**LEAST, "bake": {"control": 50}},
        "bake.control: expected a whole number from 5 to 10",
    ),
    "gate-that-is-no-weight": (
        {**LEAST, "approvals": [30]},
        "approvals[0]: expected 0, one of the weights 1, 5, 25, 50, or promotion, got 30",
    ),
    "gate-in-words": ({**LEAST, "approvals": ["later"]}, "approvals[0]: expected 0, one of the weights"),
    "gate-twice": ({**LEAST, "approvals": [5, 5]}, "approvals[1]: expected each gate once, got 5 again"),
    "no-such-zone": (
        {**LEAST, "blackouts": [{**NIGHT, "zone": "Europe/Atlantis"}]},
        "blackouts[0].zone: expected an IANA time zone such as Europe/Berlin, got 'Europe/Atlantis'",
    ),
    "a-clock-that-yaml-reads-as-a-number": (
        {**LEAST, "blackouts": [{**NIGHT, "from": 960}]},
        'blackouts[0].from: expected a time of day such as "16:00", in quotes, got 960',
    ),
    "no-such-day": (
        {**LEAST, "blackouts": [{**NIGHT, "days": ["friday"]}]},
        "blackouts[0].days[0]: expected one of",
    ),
    "no-time-of-the-week": (
        {
            **LEAST,
            "blackouts": [
                {
                    **NIGHT,
                    "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
                    "from": "00:00",
                    "to": "00:00",
                }
            ],
        },
        "blackouts: expected a time of the week in which the weight may grow, got none",
    ),
    "scale-by-no-number": (
        {**LEAST, "capacity": {"onShortage": "scale"}},
        "capacity.requestsPerSecond: expected a number for onShortage: scale, got none",
    ),
    "no-capacity": (
        {**LEAST, "capacity": {"requestsPerSecond": 0}},
        "capacity.requestsPerSecond: expected a number above 0",
    ),
    "prometheus-without-a-url": (
        {**LEAST, "traffic": {"from": "prometheus"}},
        "traffic.url: expected Prometheus's",
    ),
    "url-that-is-not-used": (
        {**LEAST, "traffic": {"url": "http://prometheus:9090"}},
        "traffic.url: expected none",
    ),
    "password-in-the-plan": (
        {**LEAST, "traffic": {"from": "prometheus", "url": "http://me:hunter2@prometheus:9090"}},
        "traffic.url: expected a URL without user, password and query",
    ),
    "webhook-in-the-plan": (
        {**LEAST, "notify": {"urlFrom": SECRET}},
        "notify.urlFrom: expected the name of an environment variable, such as SLACK_WEBHOOK_URL, and not the URL itself",
    ),
    "webhook-under-another-key": ({**LEAST, "notify": {"url": SECRET}}, "notify: unknown key 'url'"),
    "a-list": ([LEAST], "the plan: expected a map"),
    "nothing": (None, "the plan: expected a map, got None"),
}


@pytest.mark.parametrize(("document", "line"), BAD.values(), ids=BAD)
def test_a_bad_plan_is_refused_in_one_line(document, line):
    with pytest.raises(PlanError) as refused:
        plan_from(document)

    said = str(refused.value)
    assert said.startswith(f"plan: {line}")
    assert "\n" not in said
    assert [] == getattr(refused.value, "__notes__", [])
    assert 2 == refused.value.exit_code
    assert "hunter2" not in said
    assert "c2VjcmV0" not in said


def test_all_that_is_wrong_is_said_at_once_one_line_each():
    with pytest.raises(PlanError) as refused:
        plan_from({**LEAST, "steps": [10, 5], "bake": {"time": "9h"}, "limits": {"least": "2h"}})

    lines = [str(refused.value), *refused.value.__notes__]
    assert 3 == len(lines)
    assert all(line.startswith("plan: ") and "\n" not in line for line in lines)
    assert refused.value.problems == [line.removeprefix("plan: ") for line in lines]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("release: resnet\nrelease: other\nto: 3\n", "not YAML: line 2: the key 'release' is given twice"),
        ("release: [\n", "not YAML: line 2: "),
        ("notify: {urlFrom: %" + SECRET, "not YAML: line 1: "),
        (
            "release: resnet\nto: 3\nblackouts: [{days: [fri], from: 16:00, to: 18:00, zone: UTC}]\n",
            "blackouts[0].from: ",
        ),
        ("!!python/object/apply:os.system [ls]", "not YAML: line 1: could not determine a constructor"),
        ("", "the plan: expected a map, got None"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_by_its_name(tmp_path, text, line):
    file = tmp_path / "plan.yaml"
    file.write_text(text)

    with pytest.raises(PlanError) as refused:
        read_plan(file)

    assert str(refused.value).startswith(f"plan {str(file)!r}: {line}")
    assert "c2VjcmV0" not in str(refused.value)


def test_a_plan_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.yaml': cannot be read: No such file or directory"):
        read_plan(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("local", "held"),
    [
        ("2026-11-27 15:59", False),
        ("2026-11-27 16:00", True),
        ("2026-11-28 07:59", True),
        ("2026-11-28 08:00", False),
        ("2026-11-28 16:30", False),
        ("2026-11-26 17:00", False),
        ("2026-07-03 16:00", True),
    ],
)
def test_a_window_is_read_on_the_clocks_of_its_zone(local, held):
    zone = zoneinfo.ZoneInfo(NIGHT["zone"])
    at = dt.datetime.strptime(local, "%Y-%m-%d %H:%M").replace(tzinfo=zone).timestamp()

    assert held is Window.from_json(NIGHT).holds(at)


def test_a_window_within_a_day_ends_on_it():
    noon = Window.from_json({"days": ["mon", "wed"], "from": "11:30", "to": "13:00", "zone": "UTC"})
    monday = dt.datetime(2026, 11, 23, tzinfo=dt.UTC).timestamp()

    held = [hour for hour in range(48) if noon.holds(monday + 3600 * hour)]

    assert [12] == held
    assert "mon, wed 11:30-13:00 UTC" == str(noon)
