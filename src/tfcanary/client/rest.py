"""
TensorFlow Serving's REST API over kept-alive HTTP/1.1 connections.
"""

import base64
import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self

import httpx
import numpy as np

from tfcanary.client.answer import (
    Answer,
    Interface,
    Prediction,
    Signature,
    Tensor,
    Value,
    cookie_pair,
    header_word,
)
from tfcanary.client.endpoint import (
    CONCURRENCY,
    CONNECT_SECONDS,
    DEADLINE_SECONDS,
    MAX_MESSAGE_BYTES,
    Tls,
    checked,
    trusting_nobody,
)
from tfcanary.contract import REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.text import printable, short


class RestClient:
    """
    TensorFlow Serving's REST API over kept-alive HTTP/1.1 connections.
    """

    api = Api.REST

    def __init__(
        self,
        address: str,
        model: str,
        *,
        host: str | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        connections: int = CONCURRENCY,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
    ) -> None:
        """
        Prepare to ask `model` at `address` (HOST:PORT), under the name `host`; nothing is connected yet.
        """
        # It logs a line for each request, which drowns the progress of a thousand.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.Client(
            base_url=f"{'https' if tls else 'http'}://{checked(address)}",
            headers={"host": host} if host else {},
            timeout=httpx.Timeout(deadline_seconds, connect=CONNECT_SECONDS),
            transport=httpx.HTTPTransport(
                retries=0,
                http1=True,
                http2=False,
                limits=limits,
                verify=tls.context() if tls else trusting_nobody(),
            ),
            trust_env=False,
            follow_redirects=False,
            # Every request is a new client's: a cookie that is kept would keep it on its track.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._path = f"/v1/models/{model}"
        self._host = host
        self._deadline_seconds = deadline_seconds
        self._max_message_bytes = max_message_bytes

    def metadata(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        parse: bool = False,
        prefix: str = "",
        version: str | None = None,
    ) -> Answer:
        """
        GET the model's metadata.
        """
        below = f"/versions/{version}" if version else ""
        path = f"{prefix}{self._path}{below}/metadata"
        return self._ask("GET", path, headers, interface=_rest_interface if parse else None)

    def predict(
        self,
        signature: str,
        name: str,
        value: Value,
        headers: Mapping[str, str] | None = None,
        *,
        prefix: str = "",
    ) -> Answer:
        """
        POST one instance in row form.
        """
        body, path = rest_body(signature, name, value), f"{prefix}{self._path}:predict"
        return self._ask("POST", path, headers, body=body, prediction=_rest_prediction)

    def raw(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """
        Ask for any path as it is written, for what comes back.
        """
        return self._ask(method, path, headers, raw=True)

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        *,
        body: object = None,
        prediction: Callable[[Any], Prediction] | None = None,
        interface: Callable[[Any], Interface] | None = None,
        raw: bool = False,
    ) -> Answer:
        # The name that is asked for is the one that the certificate must have.
        more: dict[str, Any] = {"sni_hostname": self._host} if self._host else {}
        if raw:
            # httpx would resolve the dots of /a/../b, and so ask for another path.
            more["target"] = path.encode()
        # The gateway compares bytes, and values files are UTF-8.
        sent = {name.encode(): value.encode() for name, value in (headers or {}).items()}
        request = self._client.build_request(method, path, headers=sent, json=body, extensions=more)
        start = time.perf_counter()
        try:
            response, content = self._received(request, start)
        except httpx.HTTPError as exc:
            status = type(exc).__name__
            took = time.perf_counter() - start
            return Answer(Api.REST, status, ok=False, reached=False, track=None, revision=None,
                          latency_seconds=took, error=short(str(exc)))  # fmt: skip
        kind, text = response.headers.get("content-type", "json"), content.decode("utf-8", "replace")
        if response.status_code == 200 and "json" not in kind and not raw:
            # A proxy's page, a login: whatever answers there, it is not the model server behind its gateway.
            took = time.perf_counter() - start
            return Answer(Api.REST, "200", ok=False, reached=False, track=None, revision=None,
                          latency_seconds=took, error=f"not the model server: {kind} {short(text, 60)}")  # fmt: skip
        answer = functools.partial(
            Answer,
            Api.REST,
            str(response.status_code),
            reached=True,
            track=header_word(response.headers.get(TRACK_HEADER)),
            revision=header_word(response.headers.get(REVISION_HEADER)),
            cookie=cookie_pair(response.headers.get("set-cookie")),
            latency_seconds=time.perf_counter() - start,
        )
        if response.status_code != 200:
            return answer(ok=False, error=short(text))
        try:
            parsed = json.loads(content) if prediction or interface else None
            return answer(
                ok=True,
                prediction=prediction(parsed) if prediction else None,
                interface=interface(parsed) if interface else None,
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
            return answer(ok=False, error=f"not an answer of the model: {exc!r}: {short(text)}")

    def _received(self, request: httpx.Request, start: float) -> tuple[httpx.Response, bytes]:
        """
        The answer and all of its body, which comes before the deadline and is no larger than gRPC's may be.

        httpx's own timeout is for each piece, so that an answer in pieces may take for ever.
        """
        content = bytearray()
        response = self._client.send(request, stream=True)
        with contextlib.closing(response):
            for piece in response.iter_bytes():
                content += piece
                if len(content) > self._max_message_bytes:
                    raise httpx.ReadError(f"an answer of more than {self._max_message_bytes} bytes")
                if time.perf_counter() - start > self._deadline_seconds:
                    raise httpx.ReadTimeout(f"no whole answer within {self._deadline_seconds:g} s")
        return response, bytes(content)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._client.close()

    def __enter__(self) -> Self:
        """
        Use the client in a with block.
        """
        return self

    def __exit__(self, *_: object) -> None:
        """
        Close the connections.
        """
        self.close()


def rest_body(signature: str, name: str, value: Value) -> dict[str, Any]:
    """
    One instance in row form, as REST takes it.
    """
    instance = (
        {"b64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value.tolist()
    )
    return {"signature_name": signature, "instances": [{name: instance}]}


def _rest_prediction(body: Any) -> Prediction:
    row = body["predictions"][0]
    return Prediction(
        labels=tuple(row["labels"]),
        probabilities=np.array(row["probabilities"], dtype=np.float64),
        class_probabilities=np.array(row["class_probabilities"], dtype=np.float64),
    )


def _rest_interface(body: Any) -> Interface:
    def tensors(infos: Mapping[str, Any]) -> dict[str, Tensor]:
        return {
            printable(name): Tensor(
                printable(info["dtype"]),
                tuple(int(dim["size"]) for dim in info["tensor_shape"].get("dim", [])),
            )
            for name, info in infos.items()
        }

    signatures = body["metadata"]["signature_def"]["signature_def"]
    return {
        printable(name): Signature(tensors(signature["inputs"]), tensors(signature["outputs"]))
        for name, signature in signatures.items()
        if not name.startswith("__")
    }
