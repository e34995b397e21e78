"""
TensorFlow Serving's REST API over kept-alive HTTP/1.1 connections.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from tfcanary.client.answer import (
    Answer,
    Interface,
    Prediction,
    Signature,
    Tensor,
    cookie_pair,
    header_word,
    not_the_model_server,
)
from tfcanary.client.base import Client, Headers
from tfcanary.client.endpoint import (
    CONCURRENCY,
    CONNECT_SECONDS,
    DEADLINE_SECONDS,
    MAX_MESSAGE_BYTES,
    Tls,
    checked,
    without_authorities,
)
from tfcanary.client.jsontensors import outputs_of
from tfcanary.client.request import PredictRequest
from tfcanary.contract import REVISION_HEADER, TRACK_HEADER, Api, rest_path
from tfcanary.text import printable, short


class RestClient(Client):
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
        Prepare to ask `model`; nothing is connected yet.

        Args:
            address: HOST:PORT of the gateway.
            model: the name that TensorFlow Serving knows the model by.
            host: the host name to ask for, which the certificate must name; None takes it from the address.
            deadline_seconds: a request without its whole answer fails after this time.
            connections: the most connections at a time.
            max_message_bytes: the largest body of an answer.
            tls: how the gateway's certificate is verified; None connects without TLS.

        Raises:
            UsageError: if the address is not HOST:PORT, or the file of authorities is not one of certificates.
        """
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
                verify=tls.context() if tls else without_authorities(),
            ),
            trust_env=False,
            follow_redirects=False,
            # Each request acts as a new client: a stored cookie would tie all later ones to one track.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._model = model
        self._host = host
        self._deadline_seconds = deadline_seconds
        self._max_message_bytes = max_message_bytes

    def raw(self, method: str, path: str, headers: Headers | None = None) -> Answer:
        """
        Ask for any path exactly as it is written; the answer has its status and no parsed body.
        """
        return self._ask(method, path, headers or {}, raw=True)[0]

    def close(self) -> None:
        """
        Close the connections.
        """
        self._client.close()

    def _ask_metadata(self, headers: Headers, prefix: str, version: str | None) -> tuple[Answer, bytes]:
        answer, body = self._ask("GET", prefix + rest_path(self._model, "metadata", version), headers)
        return (dataclasses.replace(answer, version=_version(body)) if answer.ok else answer), body

    def _ask_prediction(self, request: PredictRequest, headers: Headers, prefix: str) -> tuple[Answer, bytes]:
        path = prefix + rest_path(self._model, "predict")
        return self._ask("POST", path, headers, body=rest_payload(request))

    def _interface(self, body: bytes) -> Interface:
        signatures = json.loads(body)["metadata"]["signature_def"]["signature_def"]
        return {
            printable(name): Signature(
                _tensors(signature["inputs"]),
                _tensors(signature["outputs"]),
                printable(signature.get("method_name", "")),
            )
            for name, signature in signatures.items()
            if not name.startswith("__")
        }

    def _prediction(self, request: PredictRequest, body: bytes) -> Prediction:
        # The model server writes the bytes of a string as they are, and they need not be UTF-8.
        answer = json.loads(body.decode("utf-8", "surrogateescape"))
        return Prediction(outputs_of(answer, request.declared.outputs if request.declared else {}))

    def _quoted(self, body: bytes) -> str:
        return f": {short(body.decode('utf-8', 'replace'))}"

    def _ask(
        self, method: str, path: str, headers: Headers, *, body: bytes | None = None, raw: bool = False
    ) -> tuple[Answer, bytes]:
        request = self._request(method, path, headers, body, raw=raw)
        start = time.perf_counter()
        try:
            response, content = self._received(request, start)
        except httpx.HTTPError as exc:
            return self._not_reached(type(exc).__name__, start, short(str(exc))), b""
        error = not_the_model_server(response.status_code, response.headers.get("content-type"), content)
        if error and not raw:
            return self._not_reached("200", start, error), content
        ok = response.status_code == 200
        answer = Answer(
            Api.REST,
            str(response.status_code),
            ok=ok,
            reached=True,
            track=header_word(response.headers.get(TRACK_HEADER)),
            revision=header_word(response.headers.get(REVISION_HEADER)),
            latency_seconds=time.perf_counter() - start,
            error="" if ok else short(content.decode("utf-8", "replace")),
            cookie=cookie_pair(response.headers.get("set-cookie")),
        )
        return answer, content

    def _request(
        self, method: str, path: str, headers: Headers, body: bytes | None, *, raw: bool
    ) -> httpx.Request:
        # The certificate is checked for this name, not for the one in the address.
        extensions: dict[str, Any] = {"sni_hostname": self._host} if self._host else {}
        if raw:
            # httpx would resolve the dots of /a/../b and ask for another path.
            extensions["target"] = path.encode()
        # The gateway compares bytes, and values files are UTF-8.
        sent = {name.encode(): value.encode() for name, value in headers.items()}
        if body is not None:
            sent[b"content-type"] = b"application/json"
        return self._client.build_request(method, path, headers=sent, content=body, extensions=extensions)

    def _received(self, request: httpx.Request, start: float) -> tuple[httpx.Response, bytes]:
        """
        Send the request, and read the whole answer within the deadline and the limit on its size.

        httpx's own timeout starts again with each piece, and many pieces could take any time.
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

    def _not_reached(self, status: str, start: float, error: str) -> Answer:
        return Answer(
            Api.REST,
            status,
            ok=False,
            reached=False,
            track=None,
            revision=None,
            latency_seconds=time.perf_counter() - start,
            error=error,
        )


def rest_payload(request: PredictRequest) -> bytes:
    """
    The JSON body of a prediction, serialised; NaN and Infinity as TensorFlow Serving reads them.
    """
    return json.dumps(request.rest_body(), separators=(",", ":")).encode()


def _version(body: bytes) -> str | None:
    """
    The model version that a body of metadata names; None where it names none.
    """
    try:
        named = json.loads(body)["model_spec"]["version"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return short(named) if isinstance(named, str) and named else None


def _tensors(infos: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        printable(name): Tensor(printable(info["dtype"]), _shape(info["tensor_shape"]))
        for name, info in infos.items()
    }


def _shape(described: Mapping[str, Any]) -> tuple[int, ...] | None:
    if described.get("unknown_rank"):
        return None
    return tuple(int(dim["size"]) for dim in described.get("dim", []))
