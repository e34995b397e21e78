"""
The requests that a load sends, and the users who send them; both are serialised before the load starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tfcanary.client.grpc_client import metadata_message, predict_message
from tfcanary.client.request import PredictRequest
from tfcanary.client.rest import rest_payload
from tfcanary.contract import METHODS, Api, rest_path
from tfcanary.errors import UsageError


@dataclass(frozen=True, slots=True)
class Call:
    """
    One request, made once and sent many times.

    Attributes:
        name: what the records call it.
        model: the name that TensorFlow Serving knows the model by.
        call: "metadata" or "predict".
        payload: the REST body or the gRPC message, serialised.
        headers: sent with every request, before those of the user.
    """

    api: Api
    name: str
    model: str
    call: str
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def metadata_call(api: Api, model: str, headers: Mapping[str, str] | None = None) -> Call:
    """
    A request for the model's metadata: cheap, and taking the same route as a prediction.
    """
    payload = b"" if api is Api.REST else metadata_message(model).SerializeToString()
    return Call(api, f"metadata {api.value}", model, "metadata", payload, dict(headers or {}))


def prediction_call(
    api: Api, model: str, request: PredictRequest, headers: Mapping[str, str] | None = None
) -> Call:
    """
    A request for one prediction.

    Args:
        api: the API it is sent over.
        model: the name that TensorFlow Serving knows the model by.
        request: the signature and its inputs.
        headers: sent with every request.
    """
    payload = (
        rest_payload(request) if api is Api.REST else predict_message(model, request).SerializeToString()
    )
    return Call(
        api, f"predict {request.signature} {api.value}", model, "predict", payload, dict(headers or {})
    )


@dataclass(frozen=True, slots=True)
class Population:
    """
    Users who send the requests in turn, each always from the same region and in the same group.

    Attributes:
        users: how many there are.
        regions: values of the header `x-region`; none leaves the header out.
        groups: values of the header `user-group`; none leaves the header out.
    """

    users: int = 1000
    regions: Sequence[str] = ("eu", "us", "asia")
    groups: Sequence[str] = ("free", "paid", "canary")

    def headers(self, number: int) -> dict[str, str]:
        """
        The headers of the user who sends request `number`.
        """
        user = number % self.users
        made = {"user-id": f"user-{user}"}
        if self.regions:
            made["x-region"] = self.regions[user % len(self.regions)]
        if self.groups:
            # Groups change once per round of regions, so that every pair of the two occurs.
            made["user-group"] = self.groups[(user // max(1, len(self.regions))) % len(self.groups)]
        return made


@dataclass(frozen=True, slots=True)
class UserHeaders:
    """
    The headers of one user, serialised.

    Attributes:
        number: of the user, from 0.
        lines: header lines of HTTP/1.1, each with its line break.
        metadata: the same as metadata of gRPC.
    """

    number: int
    lines: bytes
    metadata: tuple[tuple[str, str], ...]


NO_USER = UserHeaders(0, b"", ())


def user_headers(population: Population | None) -> tuple[UserHeaders, ...]:
    """
    The headers of every user, in order; without a population those of one user who sends none.
    """
    if population is None:
        return (NO_USER,)
    made = []
    for number in range(population.users):
        headers = population.headers(number)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        made.append(UserHeaders(number, lines, tuple(headers.items())))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class EncodedCall:
    """
    A call as it goes out, but for the headers of the user.

    Attributes:
        name: what the records call it.
        call: "metadata" or "predict".
        head: over REST the request line and header lines, without the empty line that ends them.
        payload: the REST body or the gRPC message.
        metadata: the headers over gRPC.
    """

    name: str
    api: Api
    call: str
    head: bytes
    payload: bytes
    metadata: tuple[tuple[str, str], ...]


def encode(call: Call, host: str) -> EncodedCall:
    """
    Serialise a call that asks for `host`.

    Raises:
        UsageError: if the call is none of `METHODS`.
    """
    if call.call not in METHODS:
        raise UsageError(f"traffic: expected a call of {', '.join(METHODS)}, got {call.call!r}")
    if call.api is Api.GRPC:
        pairs = tuple((name.lower(), value) for name, value in call.headers.items())
        return EncodedCall(call.name, call.api, call.call, b"", call.payload, pairs)
    method = "GET" if call.call == "metadata" else "POST"
    lines = [f"{method} {rest_path(call.model, call.call)} HTTP/1.1", f"host: {host}", "user-agent: tfcanary"]
    if call.payload:
        lines += ["content-type: application/json", f"content-length: {len(call.payload)}"]
    lines += [f"{name}: {value}" for name, value in call.headers.items()]
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return EncodedCall(call.name, call.api, call.call, head, call.payload, ())
