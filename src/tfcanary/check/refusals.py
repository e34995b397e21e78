"""
What must be refused: paths beside a route's prefix, forged tokens, and everything that is not a prediction.
"""

from collections.abc import Iterator, Sequence

from tfcanary.check.context import Context
from tfcanary.check.finding import Finding, outcome_of
from tfcanary.check.ledger import Ledger
from tfcanary.check.propagation import IN_A_ROW
from tfcanary.client.answer import Answer
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.rest import RestClient
from tfcanary.contract import Api, metadata_paths

# {model} stands for the model's name.
CLOSED_PATHS = (
    "/monitoring/prometheus/metrics",
    "/V1/Models/{model}/metadata",
    "/v1//models/{model}/metadata",
    "/v1/models%2F{model}/metadata",
    "/v1/models/{model}-other/metadata",
    "/v1/models/{model}/../other/metadata",
    "/",
)
CLOSED_METHODS = (
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    "/tensorflow.ProfilerService/Monitor",
    "/tensorflow.serving.SessionService/SessionRun",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
DENIALS = ("403", "PERMISSION_DENIED", "UNAUTHENTICATED")
UNROUTED = ("400", "404", "UNIMPLEMENTED", "NOT_FOUND")


def unrouted_paths(context: Context, ledger: Ledger) -> Iterator[Finding]:
    """
    A path that just misses a route's prefix is refused, and no track answers it.
    """
    below = metadata_paths(context.routing.model)[ledger.api]
    for prefix in dict.fromkeys(route.prefix for route in context.routing.routes if route.prefix):
        near = [one for one in (f"{prefix}x", prefix.swapcase(), f"{prefix}{prefix}") if one != prefix]
        answers = {one: ledger.raw(f"{one}{below}") for one in near}
        problems = [
            f"{one}: {answer.track or answer}"
            for one, answer in answers.items()
            if answer.track is not None or answer.status not in (*DENIALS, *UNROUTED)
        ]
        yield Finding(
            "no route",
            f"beside {prefix}",
            ledger.api,
            outcome_of(problems),
            "refused, by no track",
            "; ".join(problems) or "as expected",
            sum(answer.reached for answer in answers.values()),
        )


def forged_tokens(context: Context, ledger: Ledger) -> Iterator[Finding]:
    """
    A token whose signature is forged is refused, whatever it claims.
    """
    path = metadata_paths(context.routing.model)[ledger.api]
    tokens = context.subject.tokens
    for number, token in enumerate(tokens, 1):
        answers = [ledger.raw(path, token.forged().header) for _ in range(IN_A_ROW)]
        odd = [answer for answer in answers if answer.status not in ("401", "UNAUTHENTICATED")]
        yield Finding(
            "forged token",
            f"{number} of {len(tokens)}",
            ledger.api,
            outcome_of(odd),
            "refused as unauthenticated",
            f"{len(odd)} others: {odd[0]}" if odd else "as expected",
            sum(answer.reached for answer in answers),
        )


def closed(model: str, rest: RestClient, grpc: GrpcClient) -> Iterator[Finding]:
    """
    What clients outside the mesh must not reach is refused before it reaches the model server.

    Every request is empty or only reads: one that does get through changes nothing.
    """
    paths = [path.format(model=model) for path in CLOSED_PATHS]
    yield _all_refused(Api.REST, "closed paths", [(path, rest.raw("GET", path)) for path in paths])
    yield _all_refused(Api.GRPC, "closed methods", [(method, grpc.raw(method)) for method in CLOSED_METHODS])


def _all_refused(api: Api, about: str, asked: Sequence[tuple[str, Answer]]) -> Finding:
    # A port that did not answer may as well be open.
    silent = [f"{name}: {answer}" for name, answer in asked if not answer.reached]
    found = [(name, answer) for name, answer in asked if answer.reached]
    through = [
        f"{name}: {answer.status} {f'from {answer.track}' if answer.track else ''}".strip()
        for name, answer in found
        if not _refused(answer)
    ]
    return Finding(
        "security",
        about,
        api,
        outcome_of(through, missing=silent),
        "all refused by the mesh",
        "; ".join(through) or f"{len(found)} refused",
        len(found),
        detail=f"no answer to {'; '.join(silent)}" if silent else "",
    )


def _refused(answer: Answer) -> bool:
    # An answer with a track was routed to it: only the mesh's denial then kept it from the model server.
    return not answer.ok and answer.status in (DENIALS if answer.track is not None else (*DENIALS, *UNROUTED))
