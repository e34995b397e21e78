"""
The REST API, as an ASGI application.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from typing import Any
from urllib.parse import unquote

from tfcanary.modelserver import protos
from tfcanary.modelserver.api import Api
from tfcanary.modelserver.head import QUERY
from tfcanary.modelserver.limits import Limits, inflate, require_shallow, too_large
from tfcanary.modelserver.servable import to_json
from tfcanary.modelserver.status import Code, ServingError, invalid

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# As in tensorflow_serving/model_servers/http_rest_api_util.cc, which also ignores case.
_NAME, _VERSION = r"/(?P<name>[^/:]+)", r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICTION = re.compile(
    rf"/v1/models{_NAME}{_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_STATUS = re.compile(rf"/v1/models(?:{_NAME})?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE | re.ASCII)
_VERBS = frozenset({"classify", "regress", "predict"})
_ROUTES = {"POST": _PREDICTION, "GET": _STATUS}
_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)

# Those that evhttp_set_allowed_methods() is given in util/net_http/server/internal/evhttp_server.cc.
_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})
_ORIGIN = re.compile(rb"https?://")

Header = tuple[bytes, bytes]
_JSON = (b"content-type", b"application/json")
_HTML = (b"content-type", b"text/html")
_TEXT = (b"content-type", b"text/plain")
# AddCORSHeaders() of tensorflow_serving/model_servers/http_rest_api_util.cc.
_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)


class RestListener:
    """
    Serves the REST API. Requests that run the model do so in `executor`, never on the event loop.

    Args:
        api: answers the requests.
        executor: its threads bound how many requests run at the same time.
        limits: of bodies and of their nesting.
        timeout_seconds: a run ends with 504 after this time; None for no limit.
        metrics_path: the path of the Prometheus page; None for no page.
        cors: whether answers allow browsers to read them, whatever page asked.
    """

    def __init__(
        self,
        api: Api,
        executor: Executor,
        limits: Limits,
        *,
        timeout_seconds: float | None,
        metrics_path: str | None,
        cors: bool = False,
    ) -> None:
        self._api = api
        self._executor = executor
        self._limits = limits
        self._timeout_seconds = timeout_seconds
        self._metrics_path = metrics_path
        self._cors = _CORS if cors else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one request, as ASGI has it.
        """
        path = scope["raw_path"].decode("latin-1")
        # A query is a part of the path, see EvHTTPRequest::uri_path() in util/net_http/server/internal/evhttp_request.cc.
        target = f"{path}?{scope['query_string'].decode('latin-1')}" if scope.get(QUERY) else path
        if scope["method"] not in _METHODS:
            await _reply(send, 501, b"", _HTML, (b"connection", b"close"))
        elif path == self._metrics_path:
            await self._show_metrics(target, send)
        elif not _API.fullmatch(target):
            await _reply(send, 404, b"", _HTML)
        elif scope["method"] == "OPTIONS":
            origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
            await _reply(send, 200 if _ORIGIN.search(origin) else 400, b"", _HTML, *self._cors)
        else:
            await self._answer(target, scope, receive, send)

    async def _show_metrics(self, target: str, send: Send) -> None:
        """
        Send the Prometheus page, as ProcessPrometheusRequest() of tensorflow_serving/model_servers/http_server.cc does.
        """
        if target == self._metrics_path:
            await _reply(send, 200, self._api.metrics.page().encode(), _TEXT)
        else:
            refusal = f"Unexpected path: {target}. Should be {self._metrics_path}"
            await _reply(send, 400, refusal.encode("latin-1"), _TEXT)

    async def _answer(self, target: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        method = scope["method"]
        match = _ROUTES[method].fullmatch(target) if method in _ROUTES else None
        status, code = 200, Code.OK
        try:
            body = await self._body_of(match, target, scope, receive)
        except ServingError as error:
            status, code = error.http_status, error.code
            body = error_body(error.message)
        except Exception:
            log.exception("%s %s failed", method, target)
            status, code = 500, Code.INTERNAL
            body = error_body("internal error; see the server's log")
        await _reply(send, status, body, _JSON, *self._cors)
        # As in TensorFlow Serving: the name that the path has, and the method of a POST but none for a GET.
        name = unquote(match["name"] or "") if match else ""
        api = match["method"] if match and method == "POST" else ""
        self._api.metrics.request(name, api, "REST", code, time.monotonic() - started)

    async def _body_of(
        self, match: re.Match[str] | None, target: str, scope: Scope, receive: Receive
    ) -> bytes:
        if match is not None and scope["method"] == "GET":
            return self._tell(match)
        # The path may be in any case, but ProcessRequest() of http_rest_api_handler.cc then compares the method's name.
        if match is not None and match["method"] in _VERBS:
            return await self._predict(match, scope, receive)
        raise invalid(f"Malformed request: {scope['method']} {target}")

    def _tell(self, match: re.Match[str]) -> bytes:
        if match["name"] is None:
            raise invalid("Missing model name in request.")
        spec = _spec(match)
        if match["metadata"] == "/metadata":
            return self._api.metadata(spec).metadata_json
        return to_json(self._api.status(spec)).encode()

    async def _predict(self, match: re.Match[str], scope: Scope, receive: Receive) -> bytes:
        spec = _spec(match)
        verb = match["method"]
        body = await _body(receive, self._limits.request_bytes)
        encoding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"")

        def work() -> bytes:
            plain = inflate(body, self._limits.inflated_bytes) if b"gzip" in encoding else body
            require_shallow(plain, self._limits.json_depth)
            answer = {
                "predict": self._api.predict_json,
                "classify": self._api.classify_json,
                "regress": self._api.regress_json,
            }[verb]
            return answer(spec, plain, self._timeout_seconds)

        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _spec(match: re.Match[str]) -> Any:
    spec = protos.ModelSpec(name=unquote(match["name"]))
    if match["version"] is not None:
        version = int(match["version"])
        if version >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = version
    elif match["label"] is not None:
        spec.version_label = unquote(match["label"])
    return spec


async def _body(receive: Receive, limit: int) -> bytes:
    chunks = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ServingError(Code.CANCELLED, "the client went away")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise too_large("the body", limit)
        if not message.get("more_body", False):
            return b"".join(chunks)


def error_body(message: str) -> bytes:
    """
    Write an error as the JSON object that the REST API answers with.
    """
    return json.dumps({"error": message}, indent=4, ensure_ascii=False).encode("utf-8", "replace")


async def _reply(send: Send, status: int, body: bytes, *headers: Header) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
