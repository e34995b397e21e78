"""
What the chart refuses, in which words.

Each file of refusals/ is one mistake: its first comment lines, put together, are the expected message, and the rest are
the values. A message that starts with ``at '`` is the schema's. Any other is a whole line of the chart's own message.
"""

import re
from pathlib import Path

import pytest
import yaml

REFUSALS = Path(__file__).with_name("refusals")
EVERYONE = {"name": "everyone", "weights": {"stable": 100}}


def routes(*entries):
    """
    Values with these routes.
    """
    return {"routing": {"routes": list(entries)}}


def some(**overrides):
    """
    A route with a match.
    """
    return {
        "name": "some",
        "match": {"headers": {"who": {"exact": "me"}}},
        "weights": {"canary": 100},
    } | overrides


def matching(expression):
    """
    Values with one route that matches a header by a regular expression.
    """
    return routes(some(match={"headers": {"who": {"regex": expression}}}), EVERYONE)


def refusals():
    """
    The values and the expected message of each file.
    """
    for path in sorted(REFUSALS.glob("*.yaml")):
        text = path.read_text()
        comment = re.match(r"(?:#.*\n)+", text)[0]
        message = " ".join(line.removeprefix("# ") for line in comment.splitlines())
        yield pytest.param(yaml.safe_load(text), message, id=path.stem)


@pytest.mark.parametrize(("values", "expected"), list(refusals()))
def test_refusal(refused, values, expected):
    """
    Each mistake is refused by a message that says where it is and what is wrong.
    """
    message = refused(values=values)

    if expected.startswith("at '"):
        assert f"- {expected}" in message
        assert "values don't meet the specifications of the schema" in message
    else:
        first, *others = message.removeprefix("Error: execution error at (").splitlines()
        assert expected in [first.partition("): ")[2], *others]


def test_choices_without_a_default(helm, chart):
    """
    The model's name and the versions have no default, and the message names all that are missing.
    """
    with pytest.raises(Exception, match="missing property") as caught:
        helm("template", "resnet", str(chart), "--kube-version", "1.34.4")

    for line in (
        "at '/model': missing property 'name'",
        "at '/tracks/stable': missing property 'version'",
        "at '/tracks/canary': missing property 'version'",
    ):
        assert line in str(caught.value)


def test_all_problems_at_once(refused):
    """
    One message has all problems: a user can fix all values at once.
    """
    wrong = {
        **routes(some(weights={"canry": 50}), some(), EVERYONE | {"weights": {"stable": 90}}),
        "image": {"tag": "latest"},
        "server": {"timeoutSeconds": 40},
    }

    message = refused(values=wrong).partition("): ")[2].strip().splitlines()

    expected = [
        'routing.routes[0] (some): weights name the unknown track "canry"',
        "routing.routes[0] (some): weights must sum to 100, got 50",
        "routing.routes[1] (some): every route needs a name of its own",
        "routing.routes[1] (some): never reached",
        "routing.routes[2] (everyone): weights must sum to 100, got 90",
        "routing.timeoutSeconds: must exceed server.timeoutSeconds",
        "image.tag: must name a release",
    ]
    assert [True] * len(expected) == [
        line.startswith(start) for start, line in zip(expected, message, strict=False)
    ]


def test_a_single_problem_is_a_single_line(refused):
    """
    The harness shows one line, and helm shows the same.
    """
    message = refused(values=routes({"name": "everyone", "weights": {"stable": 90}}))

    lines = [line for line in message.splitlines() if line and "Use --debug" not in line]
    assert 1 == len(lines)


def test_old_kubernetes(refused):
    """
    Models from an image are refused where Kubernetes cannot mount one.
    """
    image = {"reference": "a/b@sha256:" + "0" * 64}
    values = {"modelStore": {"persistentVolumeClaim": {"claimName": ""}, "image": image}}

    assert (
        "modelStore.image.reference: expected Kubernetes 1.35, or 1.33 with the feature gate ImageVolume, got v1.32.1; use "
        "modelStore.persistentVolumeClaim.claimName"
    ) in refused("stable", values=values, options=("--kube-version", "1.32.1"))


@pytest.mark.parametrize(
    ("asked", "limit"),
    [("3Gi", "3Gi"), ("3072Mi", "3Gi"), ("1.5Gi", 2e9), (3221225472, "3Gi"), ("999m", 1), ("4G", "4Gi")],
)
def test_requests_within_limits_are_taken(render, asked, limit):
    """
    Quantities are compared as Kubernetes reads them, however they are written.
    """
    values = {"resources": {"requests": {"memory": asked}, "limits": {"memory": limit}}}

    assert render(values=values).all("Deployment")


@pytest.mark.parametrize("name", ["1st", "dotted.name"])
def test_release_name(refused, name):
    """
    A release name that no Service may have is refused, where helm itself takes it.
    """
    message = refused("stable", release=name)

    assert (
        f'release name: expected lower-case letters, digits and hyphens, with a letter first, as Services need, got "{name}"'
        in message
    )


@pytest.mark.parametrize("key", ["global", "enabled"])
def test_a_parent_chart_may_say(render, key):
    """
    The keys that a parent chart hands down are admitted, and change nothing.
    """
    values = {"global": {"anything": 1}, "enabled": True}

    assert render("stable").text == render("stable", values={key: values[key]}).text


@pytest.mark.parametrize(
    "expression",
    [
        ".*",
        "a|b",
        "(?i)beta.*",
        "^user-[0-9]{1,3}$",
        r"\d+\.\w*",
        "[^a]",
        "a{2,}?",
        "((a)|(b))",
        r"\p{Lu}",
        "é",
    ],
)
def test_regular_expressions_are_taken(render, expression):
    """
    Every expression that RE2 reads is accepted.
    """
    rendered = render(values=matching(expression))

    assert {"who": {"regex": expression}} == rendered.routes[0]["match"][0]["headers"]


@pytest.mark.parametrize(
    "expression", ["(", "[", "*", "a**", "a{1001}", r"\1", "(?P<n", "a)(b", "(?<!a)b", "\\"]
)
def test_other_expressions_are_refused(refused, expression):
    """
    An expression that RE2 cannot read is refused. Istio would refuse it later, or the gateway its whole configuration.
    """
    assert "match.headers.who.regex: expected an RE2 expression" in refused(values=matching(expression))
