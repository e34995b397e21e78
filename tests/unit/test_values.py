"""
Values files: how they come together, and what is refused in them.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcanary.chart.schema import require_known_keys, require_types
from tfcanary.chart.values import chart_defaults, coalesce, merge, read_files, read_values
from tfcanary.errors import UsageError
from tfcanary.routing.parse import from_values

simple = st.recursive(
    st.none() | st.booleans() | st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
maps = st.dictionaries(st.sampled_from("abc"), simple, max_size=3)


def matching(**condition: str) -> dict[str, object]:
    return {**GROUP, "match": {"headers": {"user-group": condition}}}


GROUP = {
    "name": "canary-users",
    "match": {"headers": {"user-group": {"exact": "canary"}}},
    "weights": {"canary": 100},
}


EVERYONE = {"name": "everyone", "weights": {"stable": 90, "canary": 10}}


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        pytest.param(
            [{"name": "everyone", "weights": {"stable": 80, "canary": 10}}],
            "routing.routes[0] (everyone): weights must sum to 100, got 90 (stable=80, canary=10)",
            id="sum-of-90",
        ),
        pytest.param(
            [{"name": "everyone", "weights": {"stble": 100}}],
            "routing.routes[0] (everyone): weights name the unknown track 'stble', expected one of stable, canary",
            id="unknown-track",
        ),
        pytest.param(
            [{"name": "everyone", "weight": {"stable": 100}}],
            "routing.routes[0]: unknown key 'weight'; expected one of name, match, weights",
            id="unknown-key",
        ),
        pytest.param(
            [{"name": "everyone", "weights": {"stable": True}}],
            "weights.stable: expected a whole number from 0 to 100, got True",
            id="weight-true",
        ),
        pytest.param(
            [{"name": "everyone", "weights": {"stable": "100"}}],
            "weights.stable: expected a whole number from 0 to 100, got '100'",
            id="weight-text",
        ),
        pytest.param(
            [{"name": "everyone", "weights": {"stable": 101, "canary": -1}}],
            "weights.stable: expected a whole number from 0 to 100, got 101",
            id="weight-101",
        ),
        pytest.param(
            [{"name": "everyone"}],
            "routing.routes[0].weights: expected a map with at least 1 entry, got None",
            id="no-weights",
        ),
        pytest.param(
            [{"weights": {"stable": 100}}],
            "routing.routes[0].name: expected a string that matches ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$, got None",
            id="no-name",
        ),
        pytest.param(["everyone"], "routing.routes[0]: expected a map, got 'everyone'", id="not-a-map"),
        pytest.param(
            [GROUP], "the last route takes everyone else, so it has no match", id="last-route-with-match"
        ),
        pytest.param(
            [EVERYONE, {**EVERYONE, "name": "again"}],
            "routing.routes[0] (everyone): takes everyone, so the routes after it take no request",
            id="match-missing",
        ),
        pytest.param([GROUP, GROUP, EVERYONE], "every route needs a name of its own", id="name-twice"),
        pytest.param(
            [matching(exakt="canary"), EVERYONE],
            "match.headers.user-group: unknown key 'exakt'; expected one of exact, prefix, regex",
            id="unknown-matcher",
        ),
        pytest.param(
            [matching(exact="a", prefix="b"), EVERYONE],
            "expected exactly one of exact, prefix, regex",
            id="two",
        ),
        pytest.param([matching(regex="("), EVERYONE], "regex: not a regular expression", id="bad-regex"),
        pytest.param([matching(regex="(?=a)"), EVERYONE], "RE2 has no look-around", id="not-re2"),
        pytest.param(
            [matching(exact=7), EVERYONE],
            "expected a string that is not empty, got 7; quote numbers and true/false",
            id="number",
        ),
        pytest.param(
            [{**GROUP, "match": {"users": ["ann", "ann"]}}, EVERYONE],
            "routing.routes[0].match.users: expected a list without duplicates, got ['ann', 'ann']",
            id="user-twice",
        ),
        pytest.param(
            [{"name": "everyone", "weights": {"stable": 100.0}}],
            "weights.stable: expected a whole number from 0 to 100, got 100.0",
            id="weight-fraction",
        ),
        pytest.param(
            [{**GROUP, "match": {"header": {}}}, EVERYONE],
            "match: unknown key 'header'; expected one of headers",
            id="unknown-match",
        ),
    ],
)
def test_bad_routes_are_refused_by_name(values, routes, message):
    """
    The values path, what was expected and what was got; exit code 2.
    """
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        from_values(values(*routes))

    assert 2 == caught.value.exit_code


@pytest.mark.parametrize(
    ("others", "message"),
    [
        pytest.param({"routing": {}}, "routing.routes: expected a list of routes, got None", id="no-routes"),
        pytest.param(
            {"routing": {"routes": []}},
            "routing.routes: expected a list with at least 1 entry, got []",
            id="none",
        ),
        pytest.param({"routing": []}, "routing: expected a map, got []", id="routing-list"),
        pytest.param({"tracks": {}}, "tracks: expected at least one track", id="no-tracks"),
        pytest.param({"model": {}}, "model.name: expected the model's public name, got None", id="no-model"),
        pytest.param(
            {"gateway": {"port": "x"}},
            "gateway.port: expected a whole number from 1 to 65535, got 'x'",
            id="port",
        ),
        pytest.param({"gateway": {"hosts": []}}, "gateway.hosts: expected a list", id="hosts"),
        pytest.param(
            {"routing": {"routes": [EVERYONE], "attribution": "no"}},
            "routing.attribution: expected true or false, got 'no'",
            id="attribution",
        ),
    ],
)
def test_bad_values_are_refused_by_name(values, others, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        from_values(values(**others))


def test_only_what_quotes_would_mend_is_told_to_quote(values):
    with pytest.raises(
        UsageError, match=r"user-group\.exact: expected a string that is not empty, got \{\}$"
    ):
        from_values(values(matching(exact={}), EVERYONE))


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"colour": "blue"}, id="unknown-key"),
        pytest.param({"gateway": {"colour": "blue", "tls": []}}, id="below-what-is-read"),
        pytest.param({"image": "tensorflow/serving:2.19", "helmTest": True}, id="another-type"),
        pytest.param(
            {"tracks": {"stable": {"version": 1, "replicas": "many"}, "canary": {"version": 2}}}, id="tracks"
        ),
    ],
)
def test_values_of_another_chart_are_read_as_far_as_they_matter(values, others):
    """
    A live release may be of an older chart, and what the harness does not use of it may have any form.
    """
    assert from_values(values()) == from_values(values(**others))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        pytest.param({"gateway": []}, "gateway: expected a map, got []", id="above"),
        pytest.param(
            {"gateway": {"filters": {"enabled": "yes"}}},
            "gateway.filters.enabled: expected true or false, got 'yes'",
            id="itself",
        ),
        pytest.param(
            {"gateway": {"hosts": ["*", 7]}}, "gateway.hosts[1]: expected a string that matches", id="below"
        ),
        pytest.param({"tracks": {"stable": []}}, "tracks.stable: expected a map, got []", id="any-track"),
    ],
)
def test_wrong_types_of_another_chart_are_refused_where_they_matter(values, others, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        from_values(values(**others))


def test_files_are_checked_in_all_that_they_say():
    """
    A file is for this chart: what Helm would refuse is refused at once, on one line, however long it is.
    """
    with pytest.raises(
        UsageError, match=r"^helmTest\.ca: expected a string that matches .*, got 'x{100,}…$"
    ) as caught:
        require_types(coalesce(chart_defaults(), {"helmTest": {"ca": "x" * 100_000}}))

    assert len(str(caught.value)) < 400


def test_the_charts_own_values_have_the_right_types():
    require_types(chart_defaults())


def test_maps_merge_and_lists_are_replaced():
    merged = merge({"a": {"x": 1, "l": [1, 2]}, "b": 1}, {"a": {"l": [3], "y": 0}})

    assert {"a": {"x": 1, "l": [3], "y": 0}, "b": 1} == merged


def test_null_takes_a_default_away():
    defaults = {"a": {"x": 1, "y": 2}, "b": 1}

    assert {"a": {"y": 2}} == coalesce(defaults, {"a": {"x": None}, "b": None})


def test_a_null_that_a_later_file_fills_keeps_the_defaults_below():
    """
    Helm puts the files together first and looks at the defaults then.
    """
    files = merge({"a": None}, {"a": {"x": 3}})

    assert {"a": {"x": 3, "y": 2}} == coalesce({"a": {"x": 1, "y": 2}}, files)


@given(maps, maps)
def test_what_the_last_file_says_stands(one, two):
    """
    Putting the last file on once more changes nothing, nor does one on top of itself.
    """
    merged = merge(one, two)

    assert merged == merge(merged, two)
    assert one == merge(one, one)


@given(maps, maps)
def test_no_null_of_a_user_survives(defaults, over):
    """
    Where the user wrote null there is no key any more.
    """
    merged = coalesce(defaults, over)

    assert {key for key, value in over.items() if value is None}.isdisjoint(merged)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read: No such file or directory", id="missing"),
        pytest.param("a: [1", "not YAML", id="not-yaml"),
        pytest.param("", "empty; expected a map", id="empty"),
        pytest.param("# nothing\n", "empty; expected a map", id="only-a-comment"),
        pytest.param("- a\n", "expected a map, got list", id="list"),
        pytest.param(b"\xff\xfe\x00", "not UTF-8 text", id="binary"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, content, message):
    file = tmp_path / "canary.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(UsageError, match=message) as caught:
        read_values(file)

    assert "canary.yaml" in str(caught.value)


def test_every_key_is_a_string_as_in_helm(tmp_path):
    """
    Helm turns YAML into JSON. A header or a track may be called 7 or on.
    """
    file = tmp_path / "values.yaml"
    file.write_text("{7: a, on: {1.5: b}, list: [{null: c}], 2026-01-02: d}")

    assert {
        "7": "a",
        "true": {"1.5": "b"},
        "list": [{"null": "c"}],
        "2026-01-02": "d",
    } == read_values(file)


def test_files_come_together_in_order(tmp_path):
    for name, text in (("a.yaml", "x: {p: 1, q: 1}"), ("b.yaml", "x: {q: 2}")):
        (tmp_path / name).write_text(text)

    assert {"x": {"p": 1, "q": 2}} == read_files([tmp_path / "a.yaml", tmp_path / "b.yaml"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"ruoting": {}}, "values: unknown key 'ruoting'", id="top"),
        pytest.param({"routing": {"rotes": []}}, "routing: unknown key 'rotes'", id="below"),
        pytest.param(
            {"tracks": {"canary": {"replica": 1}}}, "tracks.canary: unknown key 'replica'", id="in-a-track"
        ),
        pytest.param(
            {"routing": {"routes": [{"name": "a", "weight": {}}]}},
            "routing.routes[0]: unknown key 'weight'",
            id="in-a-list",
        ),
    ],
)
def test_keys_that_the_chart_does_not_know_are_refused(values, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        require_known_keys(values)
