"""
What the values say should happen: parsing, deciding, merging as Helm does, and the probes.
"""

import itertools
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tfcanary.chart.schema import require_known_keys
from tfcanary.chart.values import chart_defaults, coalesce, read_files
from tfcanary.errors import UsageError
from tfcanary.paths import CHART
from tfcanary.routing.parse import from_values
from tfcanary.routing.probes import Aim, probes_of, unprobed
from tfcanary.routing.regex import example
from tfcanary.routing.route import HeaderMatch, Kind
from tfcanary.routing.tokens import Token

MODELS = CHART.parents[1] / "values" / "models" / "resnet-abn.yaml"
EVERYONE = {"name": "everyone", "weights": {"stable": 90, "canary": 10}}
GROUP = {
    "name": "canary-users",
    "match": {"headers": {"user-group": {"exact": "canary"}}},
    "weights": {"canary": 100},
}


def matching(**condition: str) -> dict[str, object]:
    return {**GROUP, "match": {"headers": {"user-group": condition}}}


@pytest.mark.parametrize(
    ("headers", "route"),
    [
        pytest.param({}, "everyone", id="missing"),
        pytest.param({"user-group": "canary"}, "canary-users", id="exact"),
        pytest.param({"User-Group": "canary"}, "canary-users", id="name-in-another-case"),
        pytest.param({"user-group": "Canary"}, "everyone", id="value-in-another-case"),
        pytest.param({"user-group": "canary-x"}, "everyone", id="longer"),
        pytest.param({"x-user-group": "canary"}, "everyone", id="wrong-name"),
    ],
)
def test_first_route_that_fits_takes_the_request(user_group, headers, route):
    assert route == user_group.decide(headers).name


@pytest.mark.parametrize(
    ("kind", "pattern", "value", "fits"),
    [
        pytest.param(Kind.PREFIX, "beta", "beta-7", True, id="prefix"),
        pytest.param(Kind.PREFIX, "beta", "Beta-7", False, id="prefix-case"),
        pytest.param(Kind.PREFIX, "beta", "a-beta", False, id="prefix-inside"),
        pytest.param(Kind.REGEX, "b[0-9]+", "b17", True, id="regex"),
        pytest.param(Kind.REGEX, "b[0-9]+", "b17x", False, id="regex-is-a-full-match"),
        pytest.param(Kind.REGEX, "a|b", "ab", False, id="regex-alternatives-are-whole"),
    ],
)
def test_headers_compare_as_istio_does(kind, pattern, value, fits):
    assert fits is HeaderMatch("h", kind, pattern).fits({"H": value})


def test_all_headers_of_a_match_must_fit(values):
    both = {**GROUP, "match": {"headers": {"a": {"exact": "1"}, "b": {"exact": "2"}}}}

    parsed = from_values(values(both, EVERYONE))

    assert "canary-users" == parsed.decide({"a": "1", "b": "2"}).name
    assert "everyone" == parsed.decide({"a": "1"}).name


def test_zero_is_a_weight(values):
    entry = {"name": "everyone", "weights": {"stable": 100, "canary": 0}}

    parsed = from_values(values(entry))

    assert {"stable": 100, "canary": 0} == dict(parsed.routes[0].weights)
    assert ("stable",) == parsed.serving()


def test_probes_cover_a_header_rule_in_both_directions(user_group):
    """
    The rule's own request, and each way of missing it, with the route that takes it.
    """
    seen = {
        (probe.name, probe.expected.name, tuple(probe.headers.items())) for probe in probes_of(user_group)
    }

    assert {
        ("canary-users: match", "canary-users", (("user-group", "canary"),)),
        ("canary-users: no user-group", "everyone", ()),
        ("canary-users: user-group as x-user-group", "everyone", (("x-user-group", "canary"),)),
        ("canary-users: user-group is in another case", "everyone", (("user-group", "CANARY"),)),
        ("canary-users: user-group is another value", "everyone", (("user-group", "not-canary"),)),
        ("canary-users: user-group is a longer value", "everyone", (("user-group", "canary-x"),)),
        ("canary-users: user-group as USER-GROUP", "canary-users", (("USER-GROUP", "canary"),)),
        ("everyone: match", "everyone", ()),
    } == seen


def test_a_header_name_in_capitals_is_sent_over_rest_only(user_group):
    assert ["canary-users: user-group as USER-GROUP"] == [
        probe.name for probe in probes_of(user_group) if probe.rest_only
    ]


@pytest.mark.parametrize(
    "condition",
    [
        {"exact": "canary"},
        {"exact": "42"},
        {"prefix": "beta-"},
        {"regex": "beta|gamma"},
        {"regex": "^team-[a-z]{2,8}$"},
        {"regex": r"\d+\.\d+"},
        {"regex": "(?i:canary)"},
        {"regex": ".*canary.*"},
        {"regex": "(a(b|c))+d?"},
    ],
    ids=str,
)
def test_every_route_has_a_match_and_a_near_miss(values, condition):
    """
    Whatever the kind of match, both directions of the rule are probed.
    """
    parsed = from_values(values(matching(**condition), EVERYONE))

    aimed = [probe for probe in probes_of(parsed) if probe.aimed_at.name == "canary-users"]
    assert {"canary-users"} == {probe.expected.name for probe in aimed if probe.aim is not Aim.NEAR_MISS}
    assert {"everyone"} == {probe.expected.name for probe in aimed if probe.aim is Aim.NEAR_MISS}


def test_each_header_of_a_rule_is_missed_alone(values):
    both = {**GROUP, "match": {"headers": {"a": {"exact": "1"}, "b": {"prefix": "2"}}}}

    probes = probes_of(from_values(values(both, EVERYONE)))

    assert {("b", "2")} in [set(probe.headers.items()) for probe in probes if probe.aim is Aim.NEAR_MISS]
    assert {("a", "1")} in [set(probe.headers.items()) for probe in probes if probe.aim is Aim.NEAR_MISS]


def test_a_near_miss_of_one_route_may_be_another_routes_request(values):
    """
    With a route for everyone who has the header, another value of the first route's header goes there.
    """
    anyone = {**matching(regex=".*"), "name": "with-group"}
    parsed = from_values(values(GROUP, anyone, EVERYONE))

    expected = {probe.name: probe.expected.name for probe in probes_of(parsed)}
    assert "with-group" == expected["canary-users: user-group is another value"]
    assert "everyone" == expected["canary-users: no user-group"]


def test_a_route_that_another_one_shadows_is_refused(values):
    shadowed = {**GROUP, "name": "never"}
    parsed = from_values(values(GROUP, shadowed, EVERYONE))

    with pytest.raises(
        UsageError, match=r"routing.routes\[1\] \(never\): no request was found that reaches it"
    ):
        probes_of(parsed)


ATOMS = (
    st.sampled_from("aZ7-_ ")
    | st.sampled_from([".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\.", r"\|", r"\(", r"\)", r"\\"])
    | st.sampled_from(["[a-c]", "[^a-z]", "[0-9x]", "[]a]", r"[\]x]", "[(|)]", "[a-z-]", r"[\d_]"])
)
QUANTIFIERS = st.sampled_from(["", "", "*", "+", "?", "*?", "+?", "{2}", "{2,}", "{1,3}", "{0,2}", "{3}?"])
PATTERNS = st.recursive(
    st.tuples(ATOMS, QUANTIFIERS).map("".join),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(
            st.sampled_from(["(", "(?:", "(?P<name>", "(?i:"]),
            st.lists(inner, min_size=1, max_size=3).map("|".join),
            st.just(")"),
            QUANTIFIERS,
        ).map("".join),
    ),
    max_leaves=8,
)


@given(PATTERNS, st.sampled_from(["{}", "^{}", "{}$", "^{}$"]))
def test_an_example_matches_its_pattern(pattern, anchored):
    """
    Of characters, classes, groups, alternatives and repetitions, in any nesting.
    """
    assume(pattern.count("?P<name>") <= 1)
    pattern = anchored.format(pattern) if "{}" != anchored and "|" not in pattern else pattern

    assert re.fullmatch(pattern, example(pattern)), example(pattern)


@given(st.from_regex(r"[a-c.()*+?|]{1,8}", fullmatch=True))
def test_examples_of_a_regex_never_crash(pattern):
    """
    Any pattern that compiles gives some text; whether it fits is for `probes` to see.
    """
    try:
        re.compile(pattern)
    except re.error:
        return

    assert isinstance(example(pattern), str)


def strategies() -> list[pytest.param]:
    files = sorted((CHART.parents[1] / "values").glob("*.yaml"))
    return [pytest.param(file, id=file.stem) for file in files]


@pytest.mark.parametrize("file", strategies())
def test_every_strategy_file_parses_and_can_be_probed(file):
    """
    Each file of values/ over the chart's defaults gives routes, each with a request that proves it.
    """
    values = read_files([MODELS, file])
    require_known_keys(values)

    parsed = from_values(coalesce(chart_defaults(), values))

    assert {route.name for route in parsed.routes} - {route.name for route in unprobed(parsed)} == {
        name for name, _ in itertools.groupby(probe.aimed_at.name for probe in probes_of(parsed))
    }


def everyone_but(values, match, **others):
    entry = {"name": "some", "match": match, "weights": {"canary": 100}}
    return from_values(values(entry, {"name": "everyone", "weights": {"stable": 100}}, **others))


def test_a_path_prefix_is_asked_with_and_without(values):
    probes = probes_of(everyone_but(values, {"path": {"prefix": "/canary"}}))

    assert {
        ("some: match", "/canary/v1/models/resnet/metadata", "some"),
        ("some: not below /canary", "/v1/models/resnet/metadata", "everyone"),
        ("everyone: match", "/v1/models/resnet/metadata", "everyone"),
    } == {(probe.name, probe.path("resnet"), probe.expected.name) for probe in probes}


def test_a_version_is_asked_by_its_path_which_grpc_has_not(values):
    probes = probes_of(everyone_but(values, {"path": {"version": "canary"}}))

    assert {
        ("some: match", "/v1/models/resnet/versions/2/metadata", "some", True),
        ("some: no version", "/v1/models/resnet/metadata", "everyone", False),
        ("everyone: match", "/v1/models/resnet/metadata", "everyone", False),
    } == {(probe.name, probe.path("resnet"), probe.expected.name, probe.rest_only) for probe in probes}


JWT = {"security": {"jwt": {"issuer": "https://issuer.test"}}}
TOKEN = Token("a.b.c", {"group": "canary", "sub": "alice"})


@pytest.mark.parametrize(
    "match",
    [
        pytest.param({"claims": {"group": ["canary"]}}, id="claim"),
        pytest.param({"userGroups": ["canary"]}, id="group-that-the-gateway-takes-from-the-token"),
    ],
)
def test_a_token_is_asked_with_and_without(values, match):
    """
    With it the route is reached; neither without it nor with its words in plain headers.
    """
    parsed = everyone_but(values, match, **JWT)

    probes = [probe for probe in probes_of(parsed, [TOKEN]) if probe.aimed_at.name == "some"]

    assert () == unprobed(parsed, [TOKEN])
    assert {
        "some: match": ("some", True),
        "some: no token": ("everyone", False),
        "some: plain headers instead of a token": ("everyone", False),
    } == {probe.name: (probe.expected.name, "authorization" in probe.headers) for probe in probes}
    assert "canary" in probes[-1].headers.values()
    assert "a.b.c" not in repr(probes)


@pytest.mark.parametrize(
    ("tokens", "others"),
    [
        pytest.param([], JWT, id="no-token"),
        pytest.param([Token("a.b.c", {"group": "staff"})], JWT, id="token-of-another-group"),
        pytest.param([TOKEN], {}, id="tokens-are-not-verified"),
    ],
)
def test_a_route_without_a_token_that_fits_is_not_probed(values, tokens, others):
    parsed = everyone_but(values, {"claims": {"group": ["canary"]}}, **others)

    assert ["some"] == [route.name for route in unprobed(parsed, tokens)]
    assert {"everyone"} == {probe.aimed_at.name for probe in probes_of(parsed, tokens)}


def test_a_callers_labels_are_for_the_mesh(values):
    parsed = everyone_but(values, {"sourceLabels": {"app": "shop"}})

    assert ["some"] == [route.name for route in unprobed(parsed, [TOKEN])]
