"""
A Prometheus that somebody else runs, asked for the samples that it scraped.

Its rate() and increase() extrapolate, and bridge gaps and resets in silence. A judge must know of both, and asks for
the samples themselves: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.text import short

TIMEOUT_SECONDS = 10.0
# A hundred gateway pods with a hundred series of a minute each fit in a tenth of this.
MOST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Series:
    """
    One counter of one process.

    Attributes:
        labels: by name; the metric's own name is `__name__`.
        samples: the time of each scrape, in seconds since 1970, and the counter's total; oldest first.
    """

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, float]]


class Prometheus:
    """
    The HTTP API of a Prometheus, or of what speaks like one (Thanos, Mimir, VictoriaMetrics, Managed Prometheus).
    """

    def __init__(self, url: str, *, token_file: Path | None = None, ca_file: Path | None = None) -> None:
        """
        Refuse an address that no request could be sent to.

        Args:
            url: such as `http://prometheus.istio-system:9090`, with the path before `/api/v1` if there is one.
            token_file: holds the bearer token, and is read again for each request, as it may be renewed.
            ca_file: certificates to trust instead of the system's.
        """
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host or address.userinfo:
            raise UsageError(
                f"Prometheus: expected an address such as http://prometheus.monitoring:9090, without a password, "
                f"got {address.copy_with(username=None, password=None)!s}"
            )
        if token_file is not None and address.scheme != "https":
            raise UsageError("Prometheus: a token is sent over https only, got an http address")
        self._url, self._token_file = url.rstrip("/"), token_file
        verify: Any = str(ca_file) if ca_file else True
        self._client = httpx.Client(verify=verify, timeout=TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connections.
        """
        self._client.close()

    def samples(self, selector: str, *, seconds: float, at: float | None = None) -> list[Series]:
        """
        What was scraped of these series.

        Args:
            selector: metric and labels, as PromQL has them.
            seconds: how far to look back.
            at: the end, in seconds since 1970; None is the time of the Prometheus.

        Raises:
            UnreachableError: if it does not answer, or says that it cannot.
        """
        query = {"query": f"{selector}[{math.ceil(seconds * 1000)}ms]"}
        if at is not None:
            query["time"] = f"{at:.3f}"
        answer = self._ask(query)
        try:
            return [_series(one) for one in answer["data"]["result"]]
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise UnreachableError(
                f"Prometheus {self._url}: expected series, got {type(exc).__name__}: {short(str(exc))}"
            ) from exc

    def _ask(self, query: Mapping[str, str]) -> Any:
        try:
            headers = (
                {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
                if self._token_file is not None
                else {}
            )
            with self._client.stream(
                "POST", f"{self._url}/api/v1/query", data=query, headers=headers
            ) as answer:
                body = self._bounded(answer)
                if answer.status_code not in (200, 400, 422, 503):
                    raise UnreachableError(
                        f"Prometheus {self._url}: expected status 200, got {answer.status_code}; "
                        "is this its address, and may the token read?"
                    )
            found = httpx.Response(200, content=body).json()
        except (httpx.HTTPError, OSError) as exc:
            raise UnreachableError(
                f"Prometheus {self._url}: expected an answer, got {type(exc).__name__}: {short(str(exc))}"
            ) from exc
        except ValueError as exc:
            raise UnreachableError(
                f"Prometheus {self._url}: expected JSON, got {short(body.decode(errors='replace'))}"
            ) from exc
        if not isinstance(found, dict) or found.get("status") != "success":
            said = found.get("error") if isinstance(found, dict) else found
            raise UnreachableError(f"Prometheus {self._url}: refused the query: {short(str(said))}")
        return found

    def _bounded(self, answer: httpx.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        for part in answer.iter_bytes():
            size += len(part)
            if size > MOST_BYTES:
                raise UnreachableError(
                    f"Prometheus {self._url}: expected at most {MOST_BYTES >> 20} MiB of series, got more"
                )
            parts.append(part)
        return b"".join(parts)


def _series(given: Any) -> Series:
    labels = {str(name): str(value) for name, value in given["metric"].items()}
    return Series(labels, tuple((float(at), float(total)) for at, total in given["values"]))
