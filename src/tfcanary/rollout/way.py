"""
How a release is reached, where a plan does not say.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tfcanary.client.endpoint import Tls
from tfcanary.client.given import Given
from tfcanary.paths import CHART


@dataclass(frozen=True, slots=True)
class Way:
    """
    How a release is reached, and what it is asked.

    Attributes:
        gateway: HOST:PORT of the gateway; None finds it.
        host: the host name to ask for; None takes the first of gateway.hosts.
        tls: how the gateway's certificate is verified; None uses no TLS.
        given: the user's requests.
        chart: the chart of the revisions.
        token_file: holds the bearer token for the Prometheus.
        ca_file: the authorities to trust for the Prometheus instead of the system's.
    """

    gateway: str | None = None
    host: str | None = None
    tls: Tls | None = None
    given: Given = field(default_factory=Given)
    chart: Path = CHART
    token_file: Path | None = None
    ca_file: Path | None = None
