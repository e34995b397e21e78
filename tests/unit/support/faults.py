"""
Faults to plant in the gateway double, each with the checks that must find it.

A fault is a function that returns options of the `Double`: what it does instead of what it should. Its name is the
test's id.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
from checking import MIDDLE

from tfcanary.check.propagation import IN_A_ROW
from tfcanary.contract import REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Routing

BOTH = ("REST", "gRPC")
FAULTS: list[Any] = []


def found_by(*found: tuple[str, str | None]) -> Callable[[Callable[[], dict[str, Any]]], Any]:
    """
    Put a fault into the table, with the kind and the API of each finding that it must lead to.
    """

    def put(fault: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        FAULTS.append(pytest.param(fault(), set(found), id=fault.__name__.replace("_", "-")))
        return fault

    return put


def over_both(kind: str) -> list[tuple[str, str | None]]:
    return [(kind, api) for api in BOTH]


def shares(stable: int) -> Routing:
    """
    The routes of a gateway that splits all traffic.
    """
    entry = {"name": "everyone", "weights": {"stable": stable, "canary": 100 - stable}}
    tracks: dict[str, Any] = {"stable": {}, "canary": {}}
    return from_values({"model": {"name": "resnet"}, "tracks": tracks, "routing": {"routes": [entry]}})


def only(api: Api, change: Callable[..., Any]) -> Callable[..., Any]:
    """
    A fault of one API; the last argument is what it would be without the fault.
    """
    return lambda its, *rest: change(its, *rest) if its is api else rest[-1]


def without(name: str) -> Callable[..., dict[str, str]]:
    """
    Answers that lack a header.
    """
    return lambda _api, _count, headers: {key: value for key, value in headers.items() if key != name}


def stale_after(count: int, api: Api) -> Callable[..., dict[str, str]]:
    """
    Answers over one API that carry an old revision after so many requests.
    """

    def attribute(its: Api, seen: int, headers: dict[str, str]) -> dict[str, str]:
        return {**headers, REVISION_HEADER: "rev-1"} if its is api and seen > count else headers

    return attribute


def canary(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """
    A fault in the canary's outputs.
    """
    return lambda _api, track, outputs: {**outputs, **change(outputs)} if track == "canary" else outputs


def permuted(_api: Api, _track: str, outputs: dict[str, Any]) -> dict[str, Any]:
    """
    Probabilities that belong to the next class.
    """
    every = outputs["class_probabilities"]
    return {**outputs, "class_probabilities": every[1:] + every[:1]}


def failing(status: int, when: Callable[[Api, int, str, str], bool]) -> dict[str, Any]:
    """
    An HTTP status instead of answers, for some requests: by API, number, call and track.
    """
    return {"status": lambda *seen: status if when(*seen) else 200}


# Who answers


@found_by(*over_both("split"))
def weights_swapped() -> dict[str, Any]:
    return {"actual": shares(10)}


@found_by(*over_both("split"))
def change_never_applied() -> dict[str, Any]:
    return {"actual": shares(100)}


@found_by(*over_both("split"))
def half_instead_of_a_tenth() -> dict[str, Any]:
    return {"actual": shares(50)}


@found_by(*over_both("split"))
def all_to_the_canary() -> dict[str, Any]:
    return {"actual": shares(0)}


@found_by(("split", "gRPC"))
def grpc_left_on_the_old_weights() -> dict[str, Any]:
    return {"choose": only(Api.GRPC, lambda _api, _track: "stable")}


@found_by(("split", "REST"))
def rest_all_to_the_canary() -> dict[str, Any]:
    return {"choose": only(Api.REST, lambda _api, _track: "canary")}


@found_by(*over_both("split"))
def a_track_that_has_no_weight_answers() -> dict[str, Any]:
    return {"choose": lambda _api, track: "shadow" if track == "canary" else track}


@found_by(*over_both("split"))
def stable_and_canary_swapped() -> dict[str, Any]:
    return {"choose": lambda _api, track: "canary" if track == "stable" else "stable"}


@found_by(*over_both("split"), *over_both("version"))
def names_of_the_tracks_swapped() -> dict[str, Any]:
    other = {"stable": "canary", "canary": "stable"}
    return {
        "attribute": lambda _api, _count, headers: {**headers, TRACK_HEADER: other[headers[TRACK_HEADER]]}
    }


@found_by(*over_both("version"))
def canary_is_the_old_version() -> dict[str, Any]:
    return {"version": lambda *_: "1"}


@found_by(*over_both("split"))
def track_missing() -> dict[str, Any]:
    return {"attribute": without(TRACK_HEADER)}


# Under which routes


@found_by(*over_both("propagation"))
def revision_stale() -> dict[str, Any]:
    return {"revision": "rev-1"}


@found_by(("propagation", "gRPC"))
def grpc_left_on_the_old_revision() -> dict[str, Any]:
    return {"attribute": stale_after(0, Api.GRPC)}


@found_by(("revision", "REST"))
def revision_goes_back() -> dict[str, Any]:
    return {"attribute": stale_after(MIDDLE, Api.REST)}


@found_by(*over_both("propagation"))
def revision_missing() -> dict[str, Any]:
    return {"attribute": without(REVISION_HEADER)}


@found_by(*over_both("revision"))
def revision_stale_on_the_canarys_route() -> dict[str, Any]:
    def attribute(_api: Api, count: int, headers: dict[str, str]) -> dict[str, str]:
        late = count > IN_A_ROW and headers[TRACK_HEADER] == "canary"
        return {**headers, REVISION_HEADER: "rev-1"} if late else headers

    return {"attribute": attribute}


# Failed requests


@found_by(("failed requests", "REST"))
def one_503() -> dict[str, Any]:
    return failing(503, lambda api, count, *_: (api, count) == (Api.REST, MIDDLE))


@found_by(("failed requests", "gRPC"))
def one_unavailable() -> dict[str, Any]:
    return failing(503, lambda api, count, *_: (api, count) == (Api.GRPC, MIDDLE))


@found_by(*over_both("failed requests"))
def canary_refuses_predictions() -> dict[str, Any]:
    return failing(400, lambda _api, _count, call, track: (call, track) == ("predict", "canary"))


@found_by(*over_both("failed requests"))
def one_pod_of_many_fails() -> dict[str, Any]:
    return failing(503, lambda _api, count, *_: count > IN_A_ROW and count % 7 == 0)


@found_by(*over_both("failed requests"))
def canary_does_not_know_the_model() -> dict[str, Any]:
    return failing(404, lambda _api, count, _call, track: count > IN_A_ROW and track == "canary")


@found_by(("failed requests", "gRPC"))
def subset_missing_for_grpc() -> dict[str, Any]:
    return failing(
        503, lambda api, count, _call, track: api is Api.GRPC and count > IN_A_ROW and track == "canary"
    )


@found_by(("failed requests", "REST"))
def proxy_answers_html() -> dict[str, Any]:
    page = b"<html><body>Sign in</body></html>"
    return {"body": lambda body: page if b"predictions" in body else body}


# Malformed answers


@found_by(*over_both("answers"), ("REST = gRPC", None))
def nan() -> dict[str, Any]:
    return {"outputs": canary(lambda _: {"class_probabilities": [math.nan] * 10})}


@found_by(*over_both("answers"))
def infinity() -> dict[str, Any]:
    return {"outputs": canary(lambda given: {"probabilities": [math.inf, *given["probabilities"][1:]]})}


@found_by(*over_both("answers"))
def probabilities_rising() -> dict[str, Any]:
    return {"outputs": canary(lambda given: {"probabilities": given["probabilities"][::-1]})}


@found_by(*over_both("answers"))
def not_the_top() -> dict[str, Any]:
    return {"outputs": canary(lambda _: {"probabilities": [0.9, 0.1, 0, 0, 0]})}


@found_by(*over_both("answers"))
def not_the_top_of_an_unsure_model() -> dict[str, Any]:
    outputs = canary(lambda given: {"probabilities": given["class_probabilities"][:5]})
    return {"classes": 1000, "sure": 0.01, "outputs": outputs}


@found_by(*over_both("answers"))
def four_labels() -> dict[str, Any]:
    return {"outputs": canary(lambda given: {"labels": given["labels"][:4]})}


@found_by(*over_both("answers"))
def no_label() -> dict[str, Any]:
    return {"outputs": canary(lambda given: {"labels": ["", *given["labels"][1:]]})}


@found_by(*over_both("answers"))
def sum_of_a_half() -> dict[str, Any]:
    return {
        "outputs": canary(
            lambda given: {"class_probabilities": [p / 2 for p in given["class_probabilities"]]}
        )
    }


@found_by(*over_both("answers"))
def out_of_range() -> dict[str, Any]:
    return {
        "outputs": canary(
            lambda given: {"class_probabilities": [-0.5, 1.5, *given["class_probabilities"][2:]]}
        )
    }


@found_by(*over_both("answers"))
def canary_answers_a_constant() -> dict[str, Any]:
    return {"outputs": canary(lambda _: {"class_probabilities": [0.1] * 10})}


@found_by(("answers", "REST"), ("classes", None), ("REST = gRPC", None))
def one_probability_for_all_classes() -> dict[str, Any]:
    return {"outputs": only(Api.REST, canary(lambda _: {"class_probabilities": 0.5}))}


# Answers that do not fit together


@found_by(("classes", None))
def one_class_more() -> dict[str, Any]:
    return {"outputs": canary(lambda given: {"class_probabilities": [*given["class_probabilities"], 0.0]})}


@found_by(("REST = gRPC", None), ("labels", None))
def classes_permuted_over_rest() -> dict[str, Any]:
    return {"outputs": only(Api.REST, permuted)}


@found_by(("REST = gRPC", None))
def classes_permuted_in_an_unsure_model() -> dict[str, Any]:
    return {"classes": 1000, "sure": 0.01, "outputs": only(Api.GRPC, permuted)}


@found_by(("REST = gRPC", None), ("labels", None))
def classes_reversed_over_grpc() -> dict[str, Any]:
    def reverse(_api: Api, _track: str, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "class_probabilities": given["class_probabilities"][::-1]}

    return {"outputs": only(Api.GRPC, reverse)}


@found_by(("labels", None))
def canary_permutes_the_classes() -> dict[str, Any]:
    def permute(api: Api, track: str, given: dict[str, Any]) -> dict[str, Any]:
        return permuted(api, track, given) if track == "canary" else given

    return {"outputs": permute}


@found_by(("labels", None))
def canary_is_of_another_model() -> dict[str, Any]:
    return {"outputs": canary(lambda given: {"labels": [f"breed {label}" for label in given["labels"]]})}


@found_by(("labels", None))
def canary_sorts_its_labels_the_other_way() -> dict[str, Any]:
    return {"outputs": canary(lambda given: {"labels": given["labels"][::-1]})}


# Interfaces


@found_by(("interface", None))
def canary_takes_another_size() -> dict[str, Any]:
    def interface(_api: Api, track: str, found: dict[str, Any]) -> dict[str, Any]:
        other = {**found, "serving_default": ("images", "DT_FLOAT", (-1, 9, 9, 3))}
        return found if track == "stable" else other

    return {"interface": interface}


@found_by(("interface", None))
def signature_missing() -> dict[str, Any]:
    return {"interface": lambda _api, _track, found: {"serving_default": found["serving_default"]}}


@found_by(("interface", None))
def input_renamed_over_grpc() -> dict[str, Any]:
    def rename(_api: Api, _track: str, found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "serving_default": ("pictures", "DT_FLOAT", (-1, 8, 8, 3))}

    return {"interface": only(Api.GRPC, rename)}
