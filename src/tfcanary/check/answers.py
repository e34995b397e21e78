"""
What the tracks answer: their interfaces, and predictions of real pictures.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfcanary.check.agreement import (
    TOP,
    Answers,
    Interfaces,
    difference,
    inputs_in_words,
    prediction_problems,
)
from tfcanary.check.context import Context
from tfcanary.check.finding import UNNAMED, Finding, listed, outcome_of
from tfcanary.check.ledger import Ledger
from tfcanary.client.answer import Answer, Interface
from tfcanary.client.pictures import MOST_SIZE, picture_size
from tfcanary.contract import SERVING_DEFAULT, SERVING_PREPROCESS, Api
from tfcanary.routing.probes import Probe

SIGNATURES = (SERVING_DEFAULT, SERVING_PREPROCESS)


def interfaces(context: Context, ledger: Ledger) -> Interfaces:
    """
    The interface of every track that answers, as its metadata describes it.
    """

    def ask(probe: Probe) -> Answer:
        return ledger.client.metadata(probe.headers, parse=True, prefix=probe.prefix)

    return {
        (ledger.api, answer.track or UNNAMED): answer.interface
        for answer in _each_track(context, ledger, ask, "metadata")
        if answer.ok and answer.interface is not None
    }


def same_interface(context: Context, found: Interfaces) -> Finding:
    """
    Every track has both signatures, and the same ones, over both APIs.
    """
    described = {f"{track} over {api.value}": interface for (api, track), interface in found.items()}
    first = next(iter(described), "")
    problems = [
        f"{where}: {problem}"
        for where, interface in described.items()
        for problem in _interface_problems(interface)
    ]
    problems += [
        f"{where} differs from {first}: {difference(described[first], interface)}"
        for where, interface in described.items()
        if interface != described[first]
    ]
    tracks = {track for _, track in found}
    missing = [track for track in context.expected_tracks() if track not in tracks]
    return Finding(
        "interface",
        "",
        None,
        outcome_of(problems, missing),
        "both signatures, the same everywhere",
        "; ".join(problems) or listed(list(tracks), "no track"),
        len(described),
        detail=f"no metadata from {', '.join(missing)}" if missing else "",
    )


def _interface_problems(interface: Interface) -> Iterator[str]:
    for name in SIGNATURES:
        if name not in interface:
            yield f"no signature {name}, only {', '.join(sorted(interface)) or 'none'}"
    default, encoded = interface.get(SERVING_DEFAULT), interface.get(SERVING_PREPROCESS)
    if default and picture_size(default) is None:
        yield (
            f"{SERVING_DEFAULT} takes {inputs_in_words(default)}, expected one picture: batch, "
            f"height, width, channels, of at most {MOST_SIZE} each"
        )
    if encoded and len(encoded.inputs) != 1:
        yield f"{SERVING_PREPROCESS} takes {inputs_in_words(encoded)}, expected one input"


def inputs_of(context: Context, found: Interfaces) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """
    For each signature, the name of its input and a value for each picture.
    """
    # One interface for both APIs, so that both are asked for the same pictures.
    interface: Interface = next(iter(found.values()), {})
    for signature in SIGNATURES:
        if signature not in interface or len(interface[signature].inputs) != 1:
            continue
        name = next(iter(interface[signature].inputs))
        if signature == SERVING_PREPROCESS:
            yield signature, name, [picture.content for picture in context.pictures]
        elif (size := picture_size(interface[signature])) is not None:
            yield signature, name, context.tensors(*size)


def predictions(
    context: Context, ledger: Ledger, signature: str, name: str, values: Sequence[Any]
) -> tuple[Finding, Answers]:
    """
    Ask every track for the first picture and any track for the others, and look at each answer.

    Returns:
        The finding, and each track's first answer.
    """

    def ask(probe: Probe) -> Answer:
        return ledger.client.predict(signature, name, values[0], probe.headers, prefix=probe.prefix)

    answers = list(_each_track(context, ledger, ask, "predict", _times(context)))
    firsts: dict[tuple[Api, str, str], Answer] = {}
    for answer in answers:
        if answer.ok:
            firsts.setdefault((ledger.api, signature, answer.track or UNNAMED), answer)
    answers += [
        ledger.record(ledger.client.predict(signature, name, value, {}), "predict") for value in values[1:]
    ]
    good = [answer for answer in answers if answer.ok and answer.prediction is not None]
    problems = [
        f"{answer.track or UNNAMED}: {problem}" for answer in good for problem in prediction_problems(answer)
    ]
    seen = {answer.track or UNNAMED for answer in good}
    missing = [track for track in context.expected_tracks() if track not in seen]
    finding = Finding(
        "answers",
        signature,
        ledger.api,
        outcome_of(problems, missing),
        f"{TOP} labels, {TOP} falling probabilities, sum 1",
        "; ".join(dict.fromkeys(problems)) or listed(list(seen), "no track"),
        len(good),
        detail=f"no prediction from {', '.join(missing)}" if missing else "",
    )
    return finding, firsts


def _times(context: Context) -> Mapping[str, int]:
    """
    How often to ask each track, for each signature over each API, to meet the one broken pod among its pods.
    """
    kinds = len(SIGNATURES) * len(Api)
    return {
        track: math.ceil(math.log(1 - context.options.power) / math.log1p(-1 / pods) / kinds)
        for track, pods in context.subject.pods.items()
        if pods > 1
    }


def _each_track(
    context: Context,
    ledger: Ledger,
    ask: Callable[[Probe], Answer],
    request: str,
    times: Mapping[str, int] | None = None,
) -> Iterator[Answer]:
    """
    Ask until every track that gets traffic has answered as often as `times` says, or once.

    It gives up on a track when the chance of no answer in so many requests is less than alpha.
    """
    if not context.routing.attribution:
        last = context.routing.routes[-1]
        everyone = next(probe for probe in context.own_probes if probe.aimed_at is last)
        yield ledger.record(ask(everyone), request)
        return
    seen: Counter[str | None] = Counter()
    for track in context.routing.serving():
        probe = _towards(context, track)
        share = probe.expected.weights.get(track, 0) / 100
        if not share:
            continue  # no request from here reaches it, and it will be missed
        most = 1 if share == 1 else math.ceil(math.log(context.options.alpha) / math.log1p(-share))
        wanted = (times or {}).get(track, 1)
        for _ in range(most * wanted):
            if seen[track] >= wanted:
                break
            answer = ledger.record(ask(probe), request)
            if answer.ok:
                seen[answer.track] += 1
            yield answer


def _towards(context: Context, track: str) -> Probe:
    """
    The probe whose route gives the track the most.
    """
    return max(
        (probe for probe in context.probes if not probe.rest_only),
        key=lambda probe: probe.expected.weights.get(track, 0),
    )
