"""
What predictions are asked with: requests of a file, warm-up records, pictures, or inputs made from the signature.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tfcanary.check.context import Context
from tfcanary.check.pictures import SIGNATURES, Pictures
from tfcanary.check.profile import Profile
from tfcanary.client.answer import Interface
from tfcanary.client.given import Given, counted
from tfcanary.client.made import made, why_not
from tfcanary.client.pictures import picture_size
from tfcanary.client.request import PredictRequest
from tfcanary.contract import SERVING_DEFAULT, SERVING_PREPROCESS, Api
from tfcanary.errors import UsageError

HOW_TO_GIVE = "give requests by --requests FILE"


@dataclass(frozen=True, slots=True)
class Asked:
    """
    The predictions that each track is asked for.

    Attributes:
        source: where the inputs are from, in words.
        requests: by signature, the first of which every track is asked.
        unasked: signatures that are not asked, each with the reason.
        made: whether the inputs are made, so that a model may well refuse them.
    """

    source: str
    requests: Mapping[str, Sequence[PredictRequest]] = field(default_factory=dict)
    unasked: tuple[str, ...] = ()
    made: bool = False

    def over(self, api: Api) -> tuple[str, ...]:
        """
        The signatures that can be asked over an API.
        """
        return tuple(name for name, (first, *_) in self.requests.items() if api in first.apis)

    @property
    def named(self) -> Mapping[str, PredictRequest]:
        """
        Every request by its name: of the first for a signature the signature's, of others with their number.
        """
        return {
            name_of(signature, number): request
            for signature, requests in self.requests.items()
            for number, request in enumerate(requests)
        }

    def mirrored(self, api: Api, answered: Collection[str]) -> PredictRequest | None:
        """
        The request that mirrors are counted with; None if there is none.

        Args:
            api: it is sent over.
            answered: the signatures whose requests were answered; no track may take a made input.
        """
        names = [name for name in self.over(api) if name in answered or not self.made]
        best = SERVING_DEFAULT if SERVING_DEFAULT in names else next(iter(names), None)
        return None if best is None else self.requests[best][0]


def name_of(signature: str, number: int) -> str:
    """
    What a request is called among those for its signature.
    """
    return f"{signature} request {number + 1}" if number else signature


def asked_with(context: Context, profile: Profile, interface: Interface) -> Asked:
    """
    The predictions to ask of a model of this interface, and what cannot be asked over REST.
    """
    asked = _asked_with(context, profile, interface)
    alone = [
        f"signature {name} over REST: it {first.not_over_rest}; it is asked over gRPC alone"
        for name, (first, *_) in asked.requests.items()
        if first.not_over_rest
    ]
    return replace(asked, unasked=(*asked.unasked, *alone))


def _asked_with(context: Context, profile: Profile, interface: Interface) -> Asked:
    given = context.given
    if given.requests:
        return _of_given(given, interface)
    if isinstance(profile, Pictures):
        return _of_pictures(context, interface)
    reasons = {name: why_not(signature) for name, signature in sorted(interface.items())}
    unasked = [f"signature {name}: {reason}; {HOW_TO_GIVE}" for name, reason in reasons.items() if reason]
    if context.has_pictures:
        unasked.append("the pictures that were named: the model takes none")
    return Asked(
        "inputs made from the signature" + (f"; {given.source}" if given.source else ""),
        {name: [made(name, interface[name])] for name, reason in reasons.items() if not reason},
        tuple(unasked),
        made=True,
    )


def _of_given(given: Given, interface: Interface) -> Asked:
    requests: dict[str, list[PredictRequest]] = {}
    try:
        for entry in given.requests:
            requests.setdefault(entry.signature, []).append(entry.prepared(interface))
    except UsageError as exc:
        # It fitted the model that answered first; the tracks differ, which is a finding of its own.
        return Asked(given.source, unasked=(str(exc),))
    others = sorted(interface.keys() - requests.keys())
    return Asked(given.source, requests, tuple(f"signature {name}: no request is for it" for name in others))


def _of_pictures(context: Context, interface: Interface) -> Asked:
    try:
        requests = dict(_pictures(context, interface))
    except UsageError as exc:
        return Asked("no picture", unasked=(str(exc),))
    return Asked(counted(len(context.pictures()), "picture"), requests)


def _pictures(context: Context, interface: Interface) -> Iterator[tuple[str, list[PredictRequest]]]:
    """
    For each signature of the pictures' contract a request for each picture.
    """
    for name in SIGNATURES:
        if name not in interface or len(interface[name].inputs) != 1:
            continue
        declared = interface[name]
        key = next(iter(declared.inputs))
        if name == SERVING_PREPROCESS:
            yield name, [PredictRequest.one(name, key, one.content, declared) for one in context.pictures()]
        elif (size := picture_size(declared)) is not None:
            yield name, [PredictRequest.one(name, key, one, declared) for one in context.tensors(*size)]
