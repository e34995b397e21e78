"""
What is checked, where, and with which error rates.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from tfcanary.check.finding import Finding
from tfcanary.client.answer import Answer
from tfcanary.client.endpoint import CONCURRENCY, Tls
from tfcanary.judge import split
from tfcanary.routing.route import Routing
from tfcanary.routing.tokens import Token

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class GatewayPod:
    """
    One gateway pod by itself.

    Attributes:
        open: makes the pod reachable inside a with block, which gets HOST:PORT.
    """

    name: str
    open: Callable[[], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True)
class Around:
    """
    What else shapes the traffic: what was found, and what could not be looked at, in words.
    """

    findings: tuple[Finding, ...]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """
    What is checked, and against what.

    Attributes:
        revision: what `x-route-revision` must be; None takes that of the first answer.
        before: the routes before the change; the check must be able to tell the declared ones from them.
        findings: of checks that need no request.
        lost: what cannot be checked, in words.
        gateway_pods: every one of them must have the routes.
        pods: how many pods each track has; any one of them may be broken.
        predictions_run: says how many predictions a track's pods have run so far; None if they cannot be asked.
        not_up: says of each track that is not up why; None if the cluster cannot be asked.
        tokens: clients' tokens, for routes that ask for one.
        tls: how the gateway's certificate is verified; None uses no TLS.
        around: looks at what else shapes the traffic, for at most so many seconds.
        reason: says why an answer is not one under a revision; empty where it does not know.
    """

    routing: Routing
    gateway: str
    host: str | None = None
    release: str = ""
    revision: str | None = None
    before: Routing | None = None
    findings: tuple[Finding, ...] = ()
    lost: tuple[str, ...] = ()
    gateway_pods: tuple[GatewayPod, ...] = ()
    pods: Mapping[str, int] = field(default_factory=dict)
    predictions_run: Callable[[str], int] | None = None
    not_up: Callable[[], Mapping[str, str]] | None = None
    tokens: tuple[Token, ...] = ()
    tls: Tls | None = None
    around: Callable[[float], Around] | None = None
    reason: Callable[[Answer, str | None], str] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """
    The error rates and times of a check.

    Attributes:
        alpha: probability that a correct split is called wrong, for each split.
        power: probability that a wrong split is found.
        detect: the smallest difference, in percentage points, that must be found.
        timeout_seconds: how long the routes may take to reach the gateway.
        concurrency: how many requests are sent at a time.
        security: also send requests that clients outside the mesh must not get through.
        agree: how far the answers of two tracks must agree, from 0 to 1; None only says how far they do.
    """

    alpha: float = split.ALPHA
    power: float = split.POWER
    detect: float = split.DETECT
    timeout_seconds: float = TIMEOUT_SECONDS
    concurrency: int = CONCURRENCY
    security: bool = False
    agree: float | None = None
