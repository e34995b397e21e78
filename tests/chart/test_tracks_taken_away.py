"""
A track that is taken away, once and again.
"""

import pytest

from tfcanary.routing.parse import from_values

GONE = {"tracks": {"challenger": None}}


def test_taking_a_track_away_is_repeatable(render, problems_with, models):
    """
    F18. `null` leaves the same objects, whether the values have the track or not: the release keeps the null.
    """
    gone = render("stable", models=models, values=GONE, options=("--is-upgrade",))

    assert {"resnet-stable", "resnet-canary"} == set(gone.all("Deployment"))
    for item in gone.objects.values():
        assert () == problems_with(item)


def test_a_null_changes_nothing_where_there_is_no_track(render):
    """
    The objects have the same bytes as without it.
    """
    assert render("stable").text == render("stable", values=GONE).text


def test_a_route_to_it_is_refused(refused):
    """
    It is as unknown as any other name.
    """
    values = {**GONE, "routing": {"routes": [{"name": "everyone", "weights": {"challenger": 100}}]}}

    assert 'unknown track "challenger", expected one of canary, stable' in refused(values=values)


@pytest.mark.parametrize("track", ["stable", "canary"])
def test_the_two_tracks_stay(refused, track):
    """
    Every strategy names them.
    """
    assert "at '/tracks" in refused("stable", values={"tracks": {track: None}})


def test_the_commands_read_it_as_the_chart_does():
    """
    A track that is null has no version, and no route may name it.
    """
    values = {
        "model": {"name": "resnet"},
        "tracks": {
            "stable": {"version": 1, "replicas": 1},
            "canary": {"version": 2, "replicas": 1},
            "challenger": None,
        },
        "routing": {"routes": [{"name": "everyone", "weights": {"stable": 100}}]},
    }

    assert ("stable", "canary") == from_values(values).tracks
