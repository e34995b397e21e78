"""
The requests that a load sends, and the users who send them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tfcanary.client.answer import Value
from tfcanary.client.grpc_client import metadata_message, predict_message
from tfcanary.client.rest import rest_body
from tfcanary.contract import Api


@dataclass(frozen=True, slots=True)
class Call:
    """
    One request, made once and sent many times.

    Attributes:
        name: what the records call it.
        call: "metadata" or "predict".
        payload: the REST body or the gRPC message, serialised.
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
    api: Api,
    model: str,
    signature: str,
    inputs: tuple[str, Value],
    headers: Mapping[str, str] | None = None,
) -> Call:
    """
    A request for one prediction; `inputs` is the input's name and value.
    """
    if api is Api.REST:
        payload = json.dumps(rest_body(signature, *inputs)).encode()
    else:
        payload = predict_message(model, signature, *inputs).SerializeToString()
    return Call(api, f"predict {signature} {api.value}", model, "predict", payload, dict(headers or {}))


@dataclass(frozen=True, slots=True)
class Population:
    """
    Who sends the requests: so many users, each always of the same region and group.
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
            # Not in step with the regions, so that every pair comes about.
            made["user-group"] = self.groups[(user // max(1, len(self.regions))) % len(self.groups)]
        return made


@dataclass(frozen=True, slots=True)
class User:
    number: int
    head: bytes
    metadata: tuple[tuple[str, str], ...]


NOBODY = User(0, b"", ())


def users_of(population: Population | None) -> list[User]:
    if population is None:
        return []
    made = []
    for number in range(population.users):
        headers = population.headers(number)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        made.append(User(number, head, tuple(headers.items())))
    return made
