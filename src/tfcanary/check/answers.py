"""
What the tracks answer: their interfaces, and predictions.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from tfcanary.check.classes import Classes
from tfcanary.check.context import Context
from tfcanary.check.finding import UNNAMED, Finding, listed, outcome_of
from tfcanary.check.inputs import HOW_TO_GIVE, Asked, name_of
from tfcanary.check.ledger import Ledger
from tfcanary.check.pictures import Pictures
from tfcanary.check.plain import Plain, repeats
from tfcanary.check.profile import Answers, Interfaces, Profile
from tfcanary.check.signatures import difference
from tfcanary.client.answer import Answer
from tfcanary.client.request import PredictRequest
from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome
from tfcanary.routing.probes import Probe

# What a model server says to an input that the model cannot take.
_REFUSALS = ("400", "INVALID_ARGUMENT")


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


def profile_of(found: Interfaces) -> Profile:
    """
    The profile that looks deepest into a model of these interfaces.
    """
    if any(Pictures.fits(interface) for interface in found.values()):
        return Pictures()
    return Classes() if any(Classes.fits(interface) for interface in found.values()) else Plain()


def same_interface(context: Context, found: Interfaces, profile: Profile, asked: Asked) -> Finding:
    """
    Every track has the same signatures over both APIs, those that the profile needs, and one that can be asked.
    """
    described = {f"{track} over {api.value}": interface for (api, track), interface in found.items()}
    first = next(iter(described), "")
    problems = [
        f"{where}: {problem}"
        for where, interface in described.items()
        for problem in profile.interface_problems(interface)
    ]
    problems += [
        f"{where} differs from {first}: {difference(described[first], interface)}"
        for where, interface in described.items()
        if interface != described[first]
    ]
    tracks = {track for _, track in found}
    missing = [track for track in context.expected_tracks() if track not in tracks]
    detail = [f"no metadata from {', '.join(missing)}"] if missing else []
    if described and not asked.requests:
        detail.append(
            f"no prediction can be asked: {'; '.join(asked.unasked) or f'no signature; {HOW_TO_GIVE}'}"
        )
    return Finding(
        "interface",
        "",
        None,
        outcome_of(problems, detail),
        profile.signatures,
        "; ".join(problems) or listed(list(tracks), "no track"),
        len(described),
        detail="; ".join(detail),
    )


def predictions(
    context: Context, ledger: Ledger, profile: Profile, asked: Asked, *, signature: str, found: Interfaces
) -> tuple[list[Finding], Answers]:
    """
    Ask every track a signature's first request and any track its others, and look at each answer.

    Args:
        context: what is checked.
        ledger: the API.
        profile: what the answers must be.
        asked: the requests.
        signature: whose requests.
        found: the interfaces that the tracks described.

    Returns:
        The findings, and each track's first answer to each request.
    """
    request, *others = asked.requests[signature]
    if asked.made and (refused := _refused(context, ledger, request)):
        return [refused], {}
    times = _times(context, profile, asked)
    described = {track for api, track in found if api is ledger.api}
    answers = list(_predicted(context, ledger, request, described, times))
    by_track: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.ok:
            by_track.setdefault(answer.track or UNNAMED, []).append(answer)
    firsts = {(ledger.api, signature, track): given[0] for track, given in by_track.items()}
    problems = list(_problems(profile, answers, request))
    good = [answer for answer in answers if answer.ok and answer.prediction is not None]
    for number, other in enumerate(others, 1):
        more = [
            one
            for one in _more(context, ledger, profile, other, described)
            if one.ok and one.prediction is not None
        ]
        for answer in more if profile.compares_all or context.given.requests else ():
            firsts.setdefault((ledger.api, name_of(signature, number), answer.track or UNNAMED), answer)
        good += more
        problems += _problems(profile, more, other)
    seen = {answer.track or UNNAMED for answer in good}
    missing = [track for track in context.expected_tracks() if track not in seen]
    finding = Finding(
        "answers",
        signature,
        ledger.api,
        outcome_of(problems, missing),
        profile.answers,
        "; ".join(dict.fromkeys(problems)) or listed(list(seen), "no track"),
        len(good),
        detail=f"no prediction from {', '.join(missing)}" if missing else "",
    )
    if profile.times == 1:
        return [finding], firsts
    return [finding, repeats(ledger.api, signature, by_track, context.expected_tracks())], firsts


def _more(
    context: Context, ledger: Ledger, profile: Profile, request: PredictRequest, described: Collection[str]
) -> Iterator[Answer]:
    """
    Ask any track a later request; every track, if a bound on their agreement needs the evidence.
    """
    if context.options.agree is None or not (profile.compares_all or context.given.requests):
        return iter([ledger.record(ledger.client.predict(request, request.headers), "predict")])
    return _predicted(context, ledger, request, described)


def _predicted(
    context: Context,
    ledger: Ledger,
    request: PredictRequest,
    described: Collection[str],
    times: Mapping[str, int] | None = None,
) -> Iterator[Answer]:
    """
    Ask every track for a prediction; those that described no interface, once: so many requests did not find them.
    """
    ask = _asking(context, ledger, request)
    return _each_track(context, ledger, ask, "predict", times=times, reached=described)


def _problems(profile: Profile, answers: Sequence[Answer], request: PredictRequest) -> Iterator[str]:
    for answer in answers:
        if answer.ok and answer.prediction is not None:
            for problem in profile.problems(answer, request):
                yield f"{answer.track or UNNAMED}: {problem}"


def _asking(context: Context, ledger: Ledger, request: PredictRequest) -> Callable[[Probe], Answer]:
    """
    Ask for a prediction by a probe's route: the request's own headers must not lead it to another one.
    """
    routed = {name.lower() for probe in context.probes for name in probe.headers}
    own = {name: value for name, value in request.headers.items() if name.lower() not in routed}

    def ask(probe: Probe) -> Answer:
        return ledger.client.predict(request, {**own, **probe.headers}, prefix=probe.prefix)

    return ask


def _refused(context: Context, ledger: Ledger, request: PredictRequest) -> Finding | None:
    """
    What to say if no track takes a made input: that is no fault of the model, and no evidence for it either.
    """
    ask = _asking(context, ledger, request)
    answers = [ask(_towards(context, track)) for track in context.routing.serving()]
    if any(answer.status not in _REFUSALS for answer in answers):
        return None
    return Finding(
        "answers",
        request.signature,
        ledger.api,
        Outcome.NOT_ENOUGH,
        "an answer to a made input",
        str(answers[0]),
        len(answers),
        detail=f"the model takes no input that is made from its signature alone; {HOW_TO_GIVE}",
    )


def _times(context: Context, profile: Profile, asked: Asked) -> Mapping[str, int]:
    """
    How often to ask each track, for each signature over each API, to meet the one broken pod among its pods.
    """
    kinds = sum(len(asked.over(api)) for api in Api)
    needed = {
        track: math.ceil(math.log(1 - context.options.power) / math.log1p(-1 / pods) / kinds)
        for track, pods in context.subject.pods.items()
        if pods > 1
    }
    return {track: max(needed.get(track, 1), profile.times) for track in context.routing.serving()}


def _each_track(
    context: Context,
    ledger: Ledger,
    ask: Callable[[Probe], Answer],
    request: str,
    *,
    times: Mapping[str, int] | None = None,
    reached: Collection[str] | None = None,
) -> Iterator[Answer]:
    """
    Ask until every track that gets traffic has answered as often as `times` says, or once.

    It gives up on a track when the chance of no answer in so many requests is less than alpha; on one that is not
    among those `reached` before, after one request.
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
        lost = reached is not None and track not in reached
        most = 1 if lost or share == 1 else math.ceil(math.log(context.options.alpha) / math.log1p(-share))
        wanted = 1 if lost else (times or {}).get(track, 1)
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
