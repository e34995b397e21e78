"""
What the clients of both APIs share: the questions, and how an answer is made from what comes back.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from tfcanary.client.answer import Answer, Interface, Prediction
from tfcanary.client.request import PredictRequest
from tfcanary.contract import Api

Headers = Mapping[str, str]


class Client(abc.ABC):
    """
    One model behind one gateway, asked over one API. No request is sent twice.

    Use it in a with block, which closes its connections. Failed requests are answers too: only wrong use raises.
    """

    api: ClassVar[Api]

    def metadata(
        self,
        headers: Headers | None = None,
        *,
        parse: bool = False,
        prefix: str = "",
        version: str | None = None,
    ) -> Answer:
        """
        Ask for the model's metadata, which is cheap and takes the same route as a prediction.

        Args:
            headers: of this request.
            parse: whether the answer's interface is read.
            prefix: what stands before the API's own path.
            version: the number of the model's version; None asks for the one that is served by default.
        """
        answer, body = self._ask_metadata(headers or {}, prefix, version)
        return self._read(answer, body, "interface", self._interface) if parse else answer

    def predict(self, request: PredictRequest, headers: Headers | None = None, *, prefix: str = "") -> Answer:
        """
        Ask for one prediction.

        Args:
            request: the signature and its inputs; its own headers are not sent.
            headers: of this request.
            prefix: what stands before the API's own path.
        """
        answer, body = self._ask_prediction(request, headers or {}, prefix)
        return self._read(answer, body, "prediction", functools.partial(self._prediction, request))

    @abc.abstractmethod
    def close(self) -> None:
        """
        Close the connections.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def _ask_metadata(self, headers: Headers, prefix: str, version: str | None) -> tuple[Answer, Any]:
        """
        Send the request, and return its answer and the body that `_interface` reads.
        """

    @abc.abstractmethod
    def _ask_prediction(self, request: PredictRequest, headers: Headers, prefix: str) -> tuple[Answer, Any]:
        """
        Send the request, and return its answer and the body that `_prediction` reads.
        """

    @abc.abstractmethod
    def _interface(self, body: Any) -> Interface: ...

    @abc.abstractmethod
    def _prediction(self, request: PredictRequest, body: Any) -> Prediction: ...

    def _quoted(self, _body: Any) -> str:
        """
        The start of a body that cannot be read, for the error; empty where the body is no text.
        """
        return ""

    def _read(self, answer: Answer, body: Any, field: str, read: Callable[[Any], object]) -> Answer:
        if not answer.ok:
            return answer
        try:
            found: dict[str, Any] = {field: read(body)}
            return dataclasses.replace(answer, **found)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
            error = f"not an answer of the model: {exc!r}{self._quoted(body)}"
            return dataclasses.replace(answer, ok=False, error=error)
