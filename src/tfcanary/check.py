"""
Prove at the gateway what the routes do, over REST and over gRPC apart.

What should happen comes from the values (files, or the live release); what does happen is read from answers.
The order: both APIs show the route's revision, each route's split, each header rule in both directions,
predictions with real pictures; and over all of it not one failed request and one and the same revision.
Nothing holds without evidence: a check that saw nothing says so, and the whole ends with exit code 4.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfcanary import cli, explain, jwt, mesh, predict, release, report, routing, split
from tfcanary.errors import NoEvidenceError, UnreachableError, UsageError
from tfcanary.predict import SERVING_DEFAULT, SERVING_PREPROCESS, Answer, Api, Client, Interface
from tfcanary.routing import Aim, Probe, Request, Routing
from tfcanary.split import Decision, Share
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

SCHEMA = "tfserving-canary/check-gateway/1"

# A route counts as arrived when so many answers in a row carry its revision (requirement A5).
IN_A_ROW = 20
TIMEOUT_SECONDS = 60.0
# A gateway that went away fails every request at once; a canary that fails some does not fail so many in a row.
UNREACHED_IN_A_ROW = 25

TOP = 5
SUM_TOLERANCE = 1e-3
# Of the largest class probability: an unsure model's are all near 1/classes, where any fixed distance holds. float32
# has 7 digits, and two machines may differ in the fifth.
AGREEMENT_TOLERANCE = 1e-3
SHOWN_FAILURES = 5
# Predictions that were mirrored last have been counted within this.
SETTLE_SECONDS = 60.0
# Of each sticky client; how many clients follows from the power.
STICKY_REQUESTS = 3

# What nobody outside may reach; {model} is the model's name.
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

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """
    One thing that was checked: what was expected, what was seen, and in how many answers.

    Attributes:
        name: the kind of check, the same word in every report.
        about: the route, header rule or signature that it is about.
        shares: the counts and bounds of a split.
        needed: how many answers the stated error rates ask for.
    """

    name: str
    about: str
    api: Api | None
    decision: Decision
    expected: str
    observed: str
    n: int
    detail: str = ""
    shares: tuple[Share, ...] = ()
    needed: int = 0

    @property
    def title(self) -> str:
        """
        Name, subject and API in a few words.
        """
        api = f" ({self.api.value})" if self.api else ""
        return f"{self.name} {self.about}".strip() + api


@dataclass(frozen=True, slots=True)
class Door:
    """
    One gateway pod by itself.

    Attributes:
        open: makes it reachable for a while, and says where.
    """

    name: str
    open: Callable[[], contextlib.AbstractContextManager[str]]


@dataclass(frozen=True, slots=True)
class Subject:
    """
    What is checked, and against what.

    Attributes:
        revision: what `x-route-revision` must be; None takes that of the first answer.
        before: the routes before the change, which the check must not mistake for the declared ones.
        findings: what was checked before any request was made.
        lost: what cannot be checked, in words.
        doors: the gateway's pods; every one of them must have the routes.
        pods: how many pods each track has; any one of them may be broken.
        predictions: says how many predictions a track's pods have run so far; None if they cannot be asked.
        tokens: clients' tokens, for routes that ask for one.
        tls: how the gateway's certificate is verified; None speaks plainly.
    """

    routing: Routing
    gateway: str
    host: str | None = None
    release: str = ""
    revision: str | None = None
    before: Routing | None = None
    findings: tuple[Check, ...] = ()
    lost: tuple[str, ...] = ()
    doors: tuple[Door, ...] = ()
    pods: Mapping[str, int] = field(default_factory=dict)
    predictions: Callable[[str], int] | None = None
    tokens: tuple[jwt.Token, ...] = ()
    tls: predict.Tls | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The error rates and times of a check.

    Attributes:
        alpha: probability that a correct split is called wrong, for each split.
        power: probability that a wrong one is found.
        detect: the smallest difference, in percentage points, that must be found.
        timeout_seconds: how long the routes may take to reach the gateway.
        security: also ask for what nobody outside may reach.
    """

    alpha: float = split.ALPHA
    power: float = split.POWER
    detect: float = split.DETECT
    timeout_seconds: float = TIMEOUT_SECONDS
    concurrency: int = predict.CONCURRENCY
    security: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One answer: when, after how long, and by whom.

    Attributes:
        about: the route whose split it counted for, if any.
        outcome: of a failed request, in words.
    """

    seconds: float
    about: str
    api: Api
    track: str | None
    latency: float
    ok: bool
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """
    All checks of one run.

    Attributes:
        samples: every answer, in order.
        interrupted: why the run ended early, if it did.
    """

    subject: Subject
    limits: Limits
    revision: str | None
    checks: tuple[Check, ...]
    seconds: float
    requests: int
    interrupted: str = ""
    samples: tuple[Sample, ...] = ()

    @property
    def held(self) -> bool:
        """
        Whether there are checks, and all of them held.
        """
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """
        0 held, 1 did not hold, 3 interrupted, 4 not enough evidence.
        """
        decisions = {check.decision for check in self.checks}
        if self.interrupted:
            return UnreachableError.exit_code
        if Decision.FAILED in decisions:
            return 1
        if decisions != {Decision.HELD}:
            return NoEvidenceError.exit_code
        return 0

    @property
    def verdict(self) -> str:
        """
        The outcome in one line.
        """
        if self.held:
            return f"all {len(self.checks)} checks held"
        parts = []
        for decision, words in ((Decision.FAILED, "did not hold"), (Decision.NOT_ENOUGH, "lack evidence")):
            titles = [check.title for check in self.checks if check.decision is decision]
            if titles:
                parts.append(f"{len(titles)} of {len(self.checks)} checks {words}: {', '.join(titles)}")
        if self.interrupted:
            parts.append(f"interrupted: {self.interrupted}")
        return "; ".join(parts) or "nothing was checked"

    def table(self) -> str:
        """
        All checks for a reader, the verdict last.
        """
        routes = [f"  {route.name}: {route}" for route in self.subject.routing.routes]
        head = ("result", "check", "API", "expected", "seen", "answers")
        rows = [
            (
                check.decision.value,
                f"{check.name} {check.about}".strip(),
                check.api.value if check.api else "",
                check.expected,
                check.observed,
                str(check.n),
            )
            for check in self.checks
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        lines = [
            f"model {self.subject.routing.model} at {self.subject.gateway}, route {self.revision or 'unknown'}",
            *routes,
            "",
            _aligned(head, widths),
            _aligned(["-" * width for width in widths], widths),
        ]
        for check, row in zip(self.checks, rows, strict=True):
            lines.append(_aligned(row, widths))
            if check.detail and check.decision is not Decision.HELD:
                lines.append(f"    {check.detail}")
        lines += ["", *(f"not checked: {lost}" for lost in self.subject.lost)]
        lines.append(
            f"{self.requests} requests in {self.seconds:.1f} s; for each split: false alarm at most "
            f"{self.limits.alpha:g}, a difference of {self.limits.detect:g} points found with "
            f"{self.limits.power:.4g}"
        )
        lines.append(self.verdict)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """
        The report for a machine; `schema` names this form.
        """
        return {
            "schema": SCHEMA,
            "held": self.held,
            "exitCode": self.exit_code,
            "verdict": self.verdict,
            "interrupted": self.interrupted or None,
            "release": self.subject.release or None,
            "model": self.subject.routing.model,
            "gateway": self.subject.gateway,
            "host": self.subject.host,
            "routeRevision": self.revision,
            "routes": [
                {"name": route.name, "inWords": str(route), "weights": dict(route.weights)}
                for route in self.subject.routing.routes
            ],
            "alpha": self.limits.alpha,
            "power": self.limits.power,
            "detectPoints": self.limits.detect,
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "notChecked": list(self.subject.lost),
            "checks": [
                {
                    "name": check.name,
                    "about": check.about,
                    "api": check.api.value if check.api else None,
                    "decision": check.decision.name.lower(),
                    "expected": check.expected,
                    "observed": check.observed,
                    "answers": check.n,
                    "needed": check.needed,
                    "detail": check.detail or None,
                    "shares": [dataclasses.asdict(share) for share in check.shares],
                }
                for check in self.checks
            ],
        }


@dataclass(slots=True)
class _Session:
    """
    All requests over one API, and what became of them.
    """

    client: Client
    concurrency: int
    began: float
    about: str = ""
    samples: list[Sample] = field(default_factory=list)
    total: int = 0
    failures: list[Answer] = field(default_factory=list)
    failed: int = 0
    revisions: Counter[str] = field(default_factory=Counter)
    unreached: int = 0

    @property
    def api(self) -> Api:
        return self.client.api

    def record(self, answer: Answer) -> Answer:
        self.total += 1
        self.samples.append(
            Sample(
                time.monotonic() - self.began,
                self.about,
                self.api,
                answer.track,
                answer.latency_seconds,
                answer.ok,
                "" if answer.ok else str(answer),
            )
        )
        if answer.ok:
            self.revisions[answer.revision or "(none)"] += 1
        else:
            self.failed += 1
            if len(self.failures) < SHOWN_FAILURES:
                self.failures.append(answer)
        self.unreached = 0 if answer.reached else self.unreached + 1
        if self.unreached >= UNREACHED_IN_A_ROW:
            raise UnreachableError(
                f"gateway: nothing answered {self.unreached} {self.api.value} requests in a row "
                f"after {self.total - self.unreached} answers; last: {answer}"
            )
        return answer

    def ask(self, probe: Probe, n: int) -> Iterator[Answer]:
        """
        Ask n times for metadata; the answers come in the order of asking, for those of a quick track come early.
        """
        ask = functools.partial(self.client.metadata, prefix=probe.prefix, version=probe.version)
        answers = predict.burst(ask, itertools.repeat(probe.headers, n), self.concurrency)
        with contextlib.closing(answers):
            for answer in answers:
                yield self.record(answer)


@dataclass(frozen=True, slots=True)
class Picture:
    """
    A JPEG file's name and bytes.
    """

    name: str
    content: bytes


def check_gateway(
    subject: Subject, limits: Limits | None = None, pictures: Sequence[Picture] | None = None
) -> Report:
    """
    Check everything about `subject` at its gateway.

    Args:
        subject: what should happen, and where.
        limits: error rates and times; the defaults are those of the module `split`.
        pictures: what predictions are asked of; None takes the two that scikit-learn ships.

    Raises:
        UnreachableError: if nothing answers at the gateway at all. If it goes away in the middle, the report so
            far comes back, interrupted.
        UsageError: if there is nothing to check with.
    """
    return _Run(subject, limits or Limits(), default_pictures() if pictures is None else pictures).report()


class _Run:
    """
    One run over all checks, in order.
    """

    def __init__(self, subject: Subject, limits: Limits, pictures: Sequence[Picture]) -> None:
        if not pictures:
            raise UsageError("pictures: expected at least one, got none; name them with --picture FILE")
        self._subject = subject
        self._routing = subject.routing
        self._limits = limits
        self._pictures = pictures
        # A file that is no picture is found before the first request.
        self._sizes: dict[tuple[int, int], list[Any]] = {}
        self._tensors(224, 224)
        own = subject.routing.probes(subject.tokens)
        self._probes = (*own, *_matching_two(subject.routing, own))
        self._plans = {probe.name: self._plan(probe) for probe in self._probes}
        self._checks = list(subject.findings)
        self._revision = subject.revision
        self._start = time.monotonic()
        self._interfaces: dict[tuple[Api, str], Interface] = {}
        self._answers: dict[tuple[Api, str, str], Answer] = {}

    def report(self) -> Report:
        interrupted = ""
        with self._clients(self._subject.gateway) as clients:
            sessions = [_Session(client, self._limits.concurrency, self._start) for client in clients]
            arrived = self._arrival(sessions)
            for door in self._subject.doors:
                self._door(door)
            try:
                for session in arrived:
                    self._splits(session)
                    self._header_rules(session)
                    self._sticky(session)
                    self._nowhere(session)
                    self._unprobed(session)
                for session in arrived:
                    self._interface(session)
                self._same_interface()
                for session in arrived:
                    self._predictions(session)
                self._agreement(arrived)
                for session in arrived:
                    self._mirrors(session)
                    self._forged_tokens(session)
                if self._limits.security:
                    self._closed(*clients)
            except UnreachableError as exc:
                interrupted = str(exc)
            for session in arrived:
                self._no_failures(session)
                self._one_revision(session)
        return Report(
            subject=self._subject,
            limits=self._limits,
            revision=self._revision,
            checks=tuple(self._checks),
            seconds=time.monotonic() - self._start,
            requests=sum(session.total for session in sessions),
            interrupted=interrupted,
            samples=tuple(
                sorted((s for session in sessions for s in session.samples), key=lambda one: one.seconds)
            ),
        )

    @contextlib.contextmanager
    def _clients(self, address: str) -> Iterator[tuple[predict.RestClient, predict.GrpcClient]]:
        """
        One client for each API.
        """
        deadline_seconds = self._routing.timeout_seconds + 5.0
        model, host, tls = self._routing.model, self._subject.host, self._subject.tls
        with (
            predict.RestClient(
                address,
                model,
                host=host,
                deadline_seconds=deadline_seconds,
                connections=self._limits.concurrency,
                tls=tls,
            ) as rest,
            predict.GrpcClient(address, model, host=host, deadline_seconds=deadline_seconds, tls=tls) as grpc,
        ):
            yield rest, grpc

    def _add(
        self,
        name: str,
        about: str,
        session: _Session | None,
        *,
        held: bool | Decision,
        expected: str,
        observed: str,
        n: int,
        **more: Any,
    ) -> None:
        """
        Add a check; one that rests on no answers is not enough evidence, whatever else it says.
        """
        decision = held if isinstance(held, Decision) else Decision.HELD if held else Decision.FAILED
        if n == 0 and decision is Decision.HELD:
            decision = Decision.NOT_ENOUGH
        check = Check(name, about, session.api if session else None, decision, expected, observed, n, **more)
        _log.info("%s: %s, seen %s in %d", check.title, decision.value, observed, n)
        self._checks.append(check)

    def _arrival(self, sessions: Sequence[_Session]) -> list[_Session]:
        """
        Wait until each API shows the revision N times in a row; return those that do.
        """
        deadline = time.monotonic() + self._limits.timeout_seconds
        arrived = []
        last: list[Answer] = []
        reached = False
        for session in sessions:
            seen: list[Answer] = []
            if self._propagation("", session, seen, deadline):
                arrived.append(session)
            reached = reached or any(answer.reached for answer in seen)
            last += seen[-1:]
        if not reached:
            raise UnreachableError(
                f"gateway {self._subject.gateway}: no answer within {self._limits.timeout_seconds:g} s, over "
                f"{' nor over '.join(f'{answer.api.value} ({answer})' for answer in last)}; "
                "is it up, and is it the address of Istio's gateway? give it with --gateway HOST:PORT"
            )
        return arrived

    def _propagation(self, about: str, session: _Session, seen: list[Answer], deadline: float) -> bool:
        """
        Wait until one API shows the revision N times in a row at one address.
        """
        start = time.monotonic()
        wanted = f"revision {self._revision}" if self._revision else "one revision"
        expected = f"{wanted}, {IN_A_ROW} times in a row"
        if not self._routing.attribution:
            expected = f"an answer, {IN_A_ROW} times in a row"
        try:
            wait_until(
                f"routes over {session.api.value}",
                lambda: self._in_a_row(session.client, seen),
                timeout_seconds=max(0.0, deadline - start),
            )
        except WaitTimeoutError as exc:
            self._add("propagation", about, session, held=False, expected=expected, observed=exc.observed,
                      n=len(seen), detail=f"not within {self._limits.timeout_seconds:g} s")  # fmt: skip
            return False
        observed = f"{seen[-1].revision or 'no revision'} after {time.monotonic() - start:.1f} s"
        decision = Decision.HELD if self._routing.attribution else Decision.NOT_ENOUGH
        self._add("propagation", about, session, held=decision, expected=expected, observed=observed,
                  n=len(seen), detail="" if self._routing.attribution else _OFF)  # fmt: skip
        return True

    def _door(self, door: Door) -> None:
        """
        Every gateway pod by itself: a balancer may never have sent us to the one that is behind.
        """
        about = f"pod {door.name}"
        with door.open() as address, self._clients(address) as clients:
            for client in clients:
                seen: list[Answer] = []
                deadline = time.monotonic() + self._limits.timeout_seconds
                if not self._propagation(about, _Session(client, 1, self._start), seen, deadline) and not any(
                    answer.reached for answer in seen
                ):
                    # Nothing was seen of it, which says nothing about its routes.
                    last = dataclasses.replace(
                        self._checks.pop(),
                        decision=Decision.NOT_ENOUGH,
                        detail="no way to the pod; the right to create pods/portforward in its namespace "
                        "opens one, --no-gateway-pods does without",
                    )
                    self._checks.append(last)

    def _in_a_row(self, client: Client, seen: list[Answer]) -> None:
        for count in range(IN_A_ROW):
            answer = client.metadata()
            seen.append(answer)
            if not answer.ok:
                raise NotYet(str(answer))
            if not self._routing.attribution:
                continue
            if self._revision is None and answer.revision is not None:
                self._revision = answer.revision
            if answer.revision is None or answer.revision != self._revision:
                raise NotYet(f"{answer} after {count} in a row")

    def _splits(self, session: _Session) -> None:
        for probe in self._probes:
            if probe.aim is Aim.OWN and _can_send(session, probe):
                self._split(session, "split", probe.aimed_at.name, probe)

    def _header_rules(self, session: _Session) -> None:
        for probe in self._probes:
            if probe.aim is not Aim.OWN and _can_send(session, probe):
                self._split(session, "header rule", probe.name, probe)

    def _unprobed(self, session: _Session) -> None:
        """
        A route that no request of an ordinary client reaches is not passed over.
        """
        for route in self._routing.unprobed(self._subject.tokens):
            need = (
                "callers inside the mesh have it"
                if route.labels
                else "--token FILE asks with a token that fits it"
            )
            self._add("split", route.name, session, held=Decision.NOT_ENOUGH, expected=str(route), observed="no answer",
                      n=0, detail=f"not asked from here: {need}")  # fmt: skip

    def _nowhere(self, session: _Session) -> None:
        """
        A path that just misses a route's prefix is nobody's: it is refused, and no track has it.
        """
        below = _metadata_paths(self._routing.model)[session.api]
        for prefix in dict.fromkeys(route.prefix for route in self._routing.routes if route.prefix):
            near = [one for one in (f"{prefix}x", prefix.swapcase(), f"{prefix}{prefix}") if one != prefix]
            answers = {one: _raw(session, f"{one}{below}") for one in near}
            problems = [
                f"{one}: {answer.track or answer}"
                for one, answer in answers.items()
                if answer.track is not None or answer.status not in (*DENIALS, *UNROUTED)
            ]
            self._add(
                "no route",
                f"beside {prefix}",
                session,
                held=not problems,
                expected="refused, by no track",
                observed="; ".join(problems) or "so",
                n=sum(answer.reached for answer in answers.values()),
            )

    def _sticky(self, session: _Session) -> None:
        """
        No client of a sticky route changes its track; a user's is the one that the hash says.

        So many clients that tracks drawn anew each time would show, with the power asked for.
        """
        for probe in self._probes:
            route = probe.aimed_at
            if probe.aim is not Aim.OWN or route.sticky is None or not self._routing.attribution:
                continue
            same = sum((weight / 100) ** 2 for weight in route.weights.values())
            if same >= 1:
                continue  # everyone has the same track anyway
            if route.sticky is routing.Sticky.USER and self._routing.user_header in self._routing.verified:
                self._add("sticky", route.name, session, held=Decision.NOT_ENOUGH, expected="users keep their track",
                          observed="no answer", n=0, detail="the gateway takes users from tokens: each needs one of its own")  # fmt: skip
                continue
            needed = math.ceil(math.log(1 - self._limits.power) / math.log(same))
            clients = math.ceil(needed / STICKY_REQUESTS)
            if route.sticky is routing.Sticky.COOKIE:
                # Each track's cookie has to be seen.
                least = min(weight for weight in route.weights.values() if weight) / 100
                clients = max(clients, math.ceil(math.log(1 - self._limits.power) / math.log1p(-least)))
            problems: list[str] = []
            n = 0
            for number in range(clients):
                kept, found = self._client_stays(session, probe, number)
                n += kept
                problems += found
            self._add(
                "sticky",
                route.name,
                session,
                held=not problems,
                expected=f"{clients} clients keep their track for {STICKY_REQUESTS} requests",
                observed="; ".join(problems[:SHOWN_FAILURES]) or "so",
                n=n,
                needed=needed,
            )

    def _client_stays(self, session: _Session, probe: Probe, number: int) -> tuple[int, list[str]]:
        """
        Ask as one client, and say how many answers there were and where it did not stay.
        """
        headers = dict(probe.headers)
        wanted = None
        if probe.aimed_at.sticky is routing.Sticky.USER:
            name = self._routing.user_header or "user-id"
            headers[name] = f"check-{number}"
            share = self._routing.decide(headers).weights
            wanted = max(share, key=lambda track: share[track])
        else:
            first = session.record(session.client.metadata(headers))
            if not first.ok:
                return 0, []
            if first.cookie is None:
                return 1, [f"client {number}: the first answer sets no cookie"]
            headers["cookie"] = "; ".join(filter(None, [headers.get("cookie"), first.cookie]))
            wanted = first.track
        answers = [session.record(session.client.metadata(headers)) for _ in range(STICKY_REQUESTS)]
        good = [answer for answer in answers if answer.ok]
        odd = [answer.track for answer in good if answer.track != wanted]
        return len(good), [f"client {number}: {odd[0]} instead of {wanted}"] if odd else []

    def _plan(self, probe: Probe) -> split.Plan:
        """
        How many of a probe's requests it takes, and what their answers may be.

        A route's own split is told apart from every split that differs enough, and from the one before the
        change. A rule is told apart from the other routes. A route that leaves nothing to chance takes few
        answers for that; it gets enough to find a rule that only some gateway pods follow.
        """
        weights = probe.expected.weights
        before = self._subject.before
        asked = Request(probe.path(self._routing.model), probe.headers, probe.claims)
        was = before.decision(asked) if before else None
        alternatives = [was.weights] if was else []
        detect: float | None = self._limits.detect
        if probe.aim is not Aim.OWN:
            others = [r.weights for r in self._routing.routes if dict(r.weights) != dict(weights)]
            alternatives += others
            if others and any(0 < weight < 100 for weight in weights.values()):
                detect = None
        return split.sequential(
            weights,
            alpha=self._limits.alpha,
            power=self._limits.power,
            detect=detect,
            alternatives=alternatives,
        )

    def _split(self, session: _Session, name: str, about: str, probe: Probe) -> None:
        """
        Count who answers the probe's requests, and judge the counts by the route that must take them.
        """
        planned = self._plans[probe.name]
        _log.info("%s %s over %s: at most %d requests", name, about, session.api.value, planned.n)
        tracks: Counter[str] = Counter()
        unnamed = asked = 0
        session.about = about if probe.aim is Aim.OWN else ""
        verdict = split.look(planned, tracks)
        while verdict.decision is Decision.NOT_ENOUGH and asked < planned.n:
            # Few, so that little is asked beyond the decision; no fewer than keep every connection busy for a while.
            few = min(planned.n - asked, 2 * session.concurrency)
            asked += few
            for answer in session.ask(probe, few):
                if answer.ok and answer.track is None:
                    unnamed += 1
                elif answer.ok and answer.track is not None:
                    tracks[answer.track] += 1
            verdict = split.look(planned, tracks)
        session.about = ""
        expected = ", ".join(_share(share) for share in verdict.shares if share.weight)
        observed = ", ".join(f"{share.track} {share.count}" for share in verdict.shares if share.count)
        decision, detail = verdict.decision, verdict.reason
        if not self._routing.attribution:
            decision, detail = Decision.NOT_ENOUGH, _OFF
        elif unnamed:
            decision, detail = Decision.FAILED, f"{unnamed} answers have no {predict.TRACK_HEADER}"
        observed = (
            ", ".join(filter(None, [observed, f"no track {unnamed}" if unnamed else ""])) or "no answer"
        )
        if probe.aim is not Aim.OWN:
            expected = f"{probe.expected.name}: {expected}"
        self._add(name, about, session, held=decision, expected=expected, observed=observed,
                  n=verdict.n + unnamed, detail=detail, shares=verdict.shares, needed=verdict.needed)  # fmt: skip

    def _everyone(self) -> Probe:
        """
        The request of a client that says nothing of itself.
        """
        last = self._routing.routes[-1]
        return next(probe for probe in self._probes if probe.aim is Aim.OWN and probe.aimed_at is last)

    def _towards(self, track: str) -> Probe:
        """
        The probe whose route gives the track the most.
        """
        return max(
            (probe for probe in self._probes if not probe.rest_only),
            key=lambda probe: probe.expected.weights.get(track, 0),
        )

    def _each_track(
        self,
        session: _Session,
        ask: Callable[[Probe], Answer],
        times: Mapping[str, int] | None = None,
    ) -> Iterator[Answer]:
        """
        Ask until every track that gets traffic has answered so many times, once if nothing is said of it.

        It gives up when a whole round of asking without an answer is less likely than alpha.
        """
        if not self._routing.attribution:
            yield session.record(ask(self._everyone()))
            return
        seen: Counter[str | None] = Counter()
        for track in self._routing.serving():
            probe = self._towards(track)
            share = probe.expected.weights.get(track, 0) / 100
            if not share:
                continue  # no request from here reaches it, and it will be missed
            most = 1 if share == 1 else math.ceil(math.log(self._limits.alpha) / math.log1p(-share))
            wanted = (times or {}).get(track, 1)
            for _ in range(most * wanted):
                if seen[track] >= wanted:
                    break
                answer = session.record(ask(probe))
                if answer.ok:
                    seen[answer.track] += 1
                yield answer

    def _times(self) -> Mapping[str, int]:
        """
        How often to ask each track for each signature over each API, to meet a single broken pod of its pods.
        """
        kinds = 2 * len(Api)
        return {
            track: math.ceil(math.log(1 - self._limits.power) / math.log1p(-1 / pods) / kinds)
            for track, pods in self._subject.pods.items()
            if pods > 1
        }

    def _interface(self, session: _Session) -> None:
        def ask(probe: Probe) -> Answer:
            return session.client.metadata(probe.headers, parse=True, prefix=probe.prefix)

        for answer in self._each_track(session, ask):
            if answer.ok and answer.interface is not None:
                self._interfaces[session.api, answer.track or _UNNAMED] = answer.interface

    def _same_interface(self) -> None:
        """
        Every track has both signatures, and the same ones, over both APIs.
        """
        described = {f"{track} over {api.value}": found for (api, track), found in self._interfaces.items()}
        problems = []
        for where, found in described.items():
            problems += [
                f"{where}: no signature {name}, only {', '.join(sorted(found)) or 'none'}"
                for name in (SERVING_DEFAULT, SERVING_PREPROCESS)
                if name not in found
            ]
        first = next(iter(described), "")
        problems += [
            f"{where} differs from {first}: {_difference(described[first], found)}"
            for where, found in described.items()
            if found != described[first]
        ]
        missing = [
            track for track in self._expected_tracks() if track not in {t for _, t in self._interfaces}
        ]
        decision = Decision.FAILED if problems else Decision.NOT_ENOUGH if missing else Decision.HELD
        self._add(
            "interface",
            "",
            None,
            held=decision,
            expected="both signatures, the same everywhere",
            observed="; ".join(problems)
            or f"so from {_and(sorted({t for _, t in self._interfaces})) or 'no one'}",
            n=len(described),
            detail=f"no metadata from {', '.join(missing)}" if missing else "",
        )

    def _expected_tracks(self) -> tuple[str, ...]:
        return self._routing.serving() if self._routing.attribution else (_UNNAMED,)

    def _predictions(self, session: _Session) -> None:
        """
        Ask both signatures of every track for real pictures, and look at each answer.
        """
        # One reference for both APIs, so that both are asked for the same pictures.
        found: Interface = next(iter(self._interfaces.values()), {})
        for signature in (SERVING_DEFAULT, SERVING_PREPROCESS):
            if signature not in found or len(found[signature].inputs) != 1:
                continue
            name, tensor = next(iter(found[signature].inputs.items()))
            if signature == SERVING_DEFAULT:
                height, width = (size if size > 0 else 224 for size in tensor.shape[1:3])
                values = self._tensors(height, width)
            else:
                values = [picture.content for picture in self._pictures]
            self._signature(session, signature, name, values)

    def _signature(self, session: _Session, signature: str, name: str, values: Sequence[Any]) -> None:
        answers = []

        def ask(probe: Probe) -> Answer:
            return session.client.predict(signature, name, values[0], probe.headers, prefix=probe.prefix)

        # The first picture from every track; the others once, from whoever answers.
        for answer in self._each_track(session, ask, self._times()):
            answers.append(answer)
            if answer.ok:
                self._answers.setdefault((session.api, signature, answer.track or _UNNAMED), answer)
        answers += [
            session.record(session.client.predict(signature, name, value, {})) for value in values[1:]
        ]
        good = [answer for answer in answers if answer.ok and answer.prediction is not None]
        problems = [
            f"{answer.track or _UNNAMED}: {problem}" for answer in good for problem in _problems(answer)
        ]
        seen = {answer.track or _UNNAMED for answer in good}
        missing = [track for track in self._expected_tracks() if track not in seen]
        decision = Decision.FAILED if problems else Decision.NOT_ENOUGH if missing else Decision.HELD
        self._add(
            "answers",
            signature,
            session,
            held=decision,
            expected=f"{TOP} labels, {TOP} falling probabilities, sum 1",
            observed="; ".join(dict.fromkeys(problems)) or f"so from {_and(sorted(seen)) or 'no one'}",
            n=len(good),
            detail=f"no prediction from {_and(missing)}" if missing else "",
        )

    def _agreement(self, sessions: Sequence[_Session]) -> None:
        """
        One number of classes everywhere, and the same answer over REST as over gRPC.
        """
        classes = {
            f"{track} {signature} over {api.value}": len(answer.prediction.class_probabilities)
            for (api, signature, track), answer in self._answers.items()
            if answer.prediction is not None
        }
        counts = sorted(set(classes.values()))
        odd = "" if len(counts) == 1 else "; ".join(f"{where} {n}" for where, n in classes.items())
        self._add(
            "classes",
            "",
            None,
            held=len(counts) <= 1,
            expected="as many everywhere",
            observed=", ".join(map(str, counts)) or "no prediction",
            n=len(classes),
            detail=odd,
        )
        self._labels()
        self._tracks_agree()
        if len(sessions) < 2:
            return
        for track in self._expected_tracks():
            distances = []
            for signature in (SERVING_DEFAULT, SERVING_PREPROCESS):
                rest = self._answers.get((Api.REST, signature, track))
                grpc = self._answers.get((Api.GRPC, signature, track))
                if rest and grpc and rest.prediction and grpc.prediction:
                    distances.append(_distance(rest.prediction, grpc.prediction))
            worst = max(distances, default=math.nan)
            self._add(
                "REST = gRPC",
                "" if track == _UNNAMED else track,
                None,
                held=Decision.NOT_ENOUGH
                if not distances or _is_unnamed(track)
                else worst <= AGREEMENT_TOLERANCE,
                expected=f"class probabilities within {100 * AGREEMENT_TOLERANCE:g} %",
                observed=f"at most {100 * worst:.2g} % apart" if distances else "no pair of predictions",
                n=2 * len(distances),
                detail=_OFF if _is_unnamed(track) else "",
            )

    def _labels(self) -> None:
        """
        A class has one label, whoever answers: a permuted vocabulary is well-formed, and wrong.
        """
        seen: dict[int, dict[str, str]] = {}
        told = 0
        for (api, signature, track), answer in self._answers.items():
            given = answer.prediction
            if given is None or any(_problems(answer)):
                continue  # it is a finding of its own
            every = given.class_probabilities
            order = np.argsort(every)[::-1][: len(given.labels)]
            for index, label in zip(order, given.labels, strict=False):
                # Of two classes that are as likely, either may come first.
                if int((every == every[index]).sum()) == 1:
                    told += 1
                    seen.setdefault(int(index), {})[f"{track} {signature} over {api.value}"] = label
        odd = [
            f"class {index} is "
            + ", ".join(f"{label!r} by {where}" for where, label in sorted(labels.items()))
            for index, labels in sorted(seen.items())
            if len(set(labels.values())) > 1
        ]
        compared = sum(len(labels) for labels in seen.values() if len(labels) > 1)
        self._add(
            "labels",
            "",
            None,
            held=Decision.FAILED if odd else Decision.HELD,
            expected="one label for each class",
            observed="; ".join(odd[:SHOWN_FAILURES])
            or f"so for {sum(len(labels) > 1 for labels in seen.values())} classes",
            n=compared,
            detail="" if compared else f"none of {told} classes was named twice",
        )

    def _tracks_agree(self) -> None:
        """
        How far apart the tracks are on the same pictures: figures, for two versions may differ.
        """
        tracks = self._expected_tracks()
        for one, other in itertools.combinations(tracks, 2):
            same, apart = 0, []
            for (api, signature, track), answer in self._answers.items():
                second = self._answers.get((api, signature, other))
                if track != one or second is None or not answer.prediction or not second.prediction:
                    continue
                left, right = answer.prediction, second.prediction
                unlike = left.class_probabilities.shape != right.class_probabilities.shape
                if unlike or any(_problems(answer)) or any(_problems(second)):
                    continue
                same += left.labels[:1] == right.labels[:1]
                apart.append(float(np.abs(left.class_probabilities - right.class_probabilities).sum()) / 2)
            self._add(
                "agreement",
                f"{one} and {other}",
                None,
                held=True,
                expected="as a figure",
                observed=f"first label the same in {same}, probabilities {max(apart):.2g} apart at most (0 to 1)"
                if apart
                else "no pair of predictions",
                n=2 * len(apart),
            )

    def _mirrors(self, session: _Session) -> None:
        """
        Of predictions at their real size as many are mirrored as the route says (requirement A15).

        Envoy mirrors no request whose body is larger than its buffer, and tells no client. What arrived is counted by
        the mirrored track's own servers; enough is sent to tell the share from none.
        """
        for probe in self._probes:
            mirror = probe.aimed_at.mirror
            if probe.aim is not Aim.OWN or mirror is None or not _can_send(session, probe):
                continue
            planned = split.plan(
                {_COPIED: mirror.percent, _ALONE: 100 - mirror.percent},
                alpha=self._limits.alpha,
                power=self._limits.power,
                # Where all are mirrored no chance has a part in it, and a part that is lost is found too.
                detect=self._limits.detect if mirror.percent == 100 else None,
                alternatives=[{_COPIED: 0, _ALONE: 100}],
            )
            count, interface = self._subject.predictions, self._interface_of(session, probe)
            if count is not None and SERVING_DEFAULT in interface:
                tensor = interface[SERVING_DEFAULT].inputs
                self._mirror(session, probe, planned, functools.partial(count, mirror.track), tensor)
                continue
            lost = (
                f"no answer described {SERVING_DEFAULT}"
                if count
                else "only the pods of a --release can be asked"
            )
            self._add("mirror", probe.aimed_at.name, session, held=Decision.NOT_ENOUGH, expected=_mirrored(mirror),
                      observed="not counted", n=0, detail=lost, needed=planned.n)  # fmt: skip

    def _interface_of(self, session: _Session, probe: Probe) -> Interface:
        """
        The interface of the track that answers a probe, as far as it was described.
        """
        for track in routing.sharing(probe.expected.weights):
            if (session.api, track) in self._interfaces:
                return self._interfaces[session.api, track]
        return {}

    def _mirror(
        self,
        session: _Session,
        probe: Probe,
        planned: split.Plan,
        count: Callable[[], int],
        inputs: Mapping[str, predict.Tensor],
    ) -> None:
        mirror = probe.aimed_at.mirror
        assert mirror is not None  # noqa: S101 - told apart by the caller
        name, tensor = next(iter(inputs.items()))
        value = self._tensors(*(size if size > 0 else 224 for size in tensor.shape[1:3]))[0]
        sent = 0
        try:
            before = _settled(count)
            for _ in range(planned.n):
                answer = session.client.predict(
                    SERVING_DEFAULT, name, value, probe.headers, prefix=probe.prefix
                )
                sent += session.record(answer).ok
            came = _settled(count) - before
        except NoEvidenceError as exc:
            self._add("mirror", probe.aimed_at.name, session, held=Decision.NOT_ENOUGH, expected=_mirrored(mirror),
                      observed="not counted", n=sent, detail=str(exc), needed=planned.n)  # fmt: skip
            return
        verdict = split.judge(planned, {_COPIED: min(came, sent), _ALONE: max(sent - came, 0)})
        decision, detail = verdict.decision, verdict.reason
        if came > sent:
            decision, detail = Decision.NOT_ENOUGH, f"others send predictions to {mirror.track} as well"
        elif decision is Decision.FAILED:
            detail += "; are bodies larger than the gateway's buffer? see Envoy's retry_or_shadow_abandoned"
        self._add("mirror", probe.aimed_at.name, session, held=decision, expected=_mirrored(mirror),
                  observed=f"{came} of {sent} arrived, {value.nbytes // 1024} KiB of picture each", n=sent,
                  detail=detail, needed=planned.n)  # fmt: skip

    def _forged_tokens(self, session: _Session) -> None:
        """
        A token with a signature that nobody made is refused, whatever it says (requirement B5).
        """
        path = _metadata_paths(self._routing.model)[session.api]
        for number, token in enumerate(self._subject.tokens, 1):
            answers = [_raw(session, path, token.forged().header) for _ in range(IN_A_ROW)]
            odd = [answer for answer in answers if answer.status not in ("401", "UNAUTHENTICATED")]
            self._add(
                "forged token",
                f"{number} of {len(self._subject.tokens)}",
                session,
                held=not odd,
                expected="refused as unauthenticated",
                observed=f"{len(odd)} others: {odd[0]}" if odd else "so",
                n=sum(answer.reached for answer in answers),
            )

    def _closed(self, rest: predict.RestClient, grpc: predict.GrpcClient) -> None:
        """
        What nobody outside may reach is refused before it reaches the model server (requirement B3).

        Every request is empty or reads only: one that does get through changes nothing.
        """
        model = self._routing.model
        asked = [(path, rest.raw("GET", path.format(model=model))) for path in CLOSED_PATHS]
        asked += [(method, grpc.raw(method)) for method in CLOSED_METHODS]
        for api, about in ((Api.REST, "paths"), (Api.GRPC, "methods")):
            found = [(name, answer) for name, answer in asked if answer.api is api and answer.reached]
            # With a track's name it was routed there: only the mesh's denial then keeps it from the model server.
            through = [
                f"{name.format(model=model)}: {answer.status} {f'from {answer.track}' if answer.track else ''}".strip()
                for name, answer in found
                if answer.ok
                or answer.status not in (DENIALS if answer.track is not None else (*DENIALS, *UNROUTED))
            ]
            self._checks.append(
                Check(
                    "security",
                    f"closed {about}",
                    api,
                    Decision.FAILED if through else Decision.HELD if found else Decision.NOT_ENOUGH,
                    "all refused by the mesh",
                    "; ".join(through) or f"{len(found)} refused",
                    len(found),
                )
            )

    def _no_failures(self, session: _Session) -> None:
        bound = 1 - (1 - self._limits.power) ** (1 / session.total) if session.total else 1.0
        observed = f"{session.failed} failed"
        if not session.failed:
            observed += f", so fewer than {100 * bound:.2g} % do"
        self._add(
            "failed requests",
            "",
            session,
            held=session.failed == 0,
            expected="0 failed",
            observed=observed,
            n=session.total,
            detail="; ".join(dict.fromkeys(str(answer) for answer in session.failures)),
        )

    def _one_revision(self, session: _Session) -> None:
        seen = session.revisions
        odd = {revision: n for revision, n in seen.items() if revision != self._revision}
        decision = Decision.FAILED if odd else Decision.HELD
        if not self._routing.attribution:
            decision = Decision.NOT_ENOUGH
        self._add(
            "revision",
            "",
            session,
            held=decision,
            expected=f"{self._revision or 'a revision'} on every answer",
            observed=", ".join(f"{revision} {n}" for revision, n in seen.items()) or "no answer",
            n=seen.total(),
            detail="" if self._routing.attribution else _OFF,
        )

    def _tensors(self, height: int, width: int) -> list[Any]:
        if (height, width) not in self._sizes:
            self._sizes[height, width] = [_decoded(picture, height, width) for picture in self._pictures]
        return self._sizes[height, width]


_UNNAMED = "(unnamed)"
_COPIED, _ALONE = "mirrored", "not mirrored"
_OFF = "routing.attribution is off: answers name neither track nor revision"


def _metadata_paths(model: str) -> Mapping[Api, str]:
    """
    By API the path that asks for the model's metadata.
    """
    return {
        Api.REST: f"/v1/models/{model}/metadata",
        Api.GRPC: "/tensorflow.serving.PredictionService/GetModelMetadata",
    }


def _can_send(session: _Session, probe: Probe) -> bool:
    return session.api is Api.REST or not probe.rest_only


def _raw(session: _Session, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """
    Ask for what must be refused; it is no failed request.
    """
    if isinstance(session.client, predict.RestClient):
        return session.client.raw("GET", path, headers)
    assert isinstance(session.client, predict.GrpcClient)  # noqa: S101 - there are two
    return session.client.raw(path, headers)


def _mirrored(mirror: routing.Mirror) -> str:
    return f"{mirror.percent} % to {mirror.track}"


def _settled(count: Callable[[], int]) -> int:
    """
    A count that two readings agree on: what was mirrored last takes as long as a prediction to be counted.

    Raises:
        NoEvidenceError: if it cannot be read, or does not rest.
    """
    last = -1

    def rests() -> int:
        nonlocal last
        before, last = last, count()
        if last != before:
            raise NotYet(f"{last} predictions, and {before} a second before")
        return last

    try:
        return wait_until(
            "the mirrored track's predictions", rests, timeout_seconds=SETTLE_SECONDS, interval_seconds=1
        )
    except UnreachableError as exc:
        raise NoEvidenceError(str(exc)) from exc


def _matching_two(expected: Routing, probes: Sequence[Probe]) -> Iterator[Probe]:
    """
    For two routes with conditions a request that fits both, which the first of them must take.
    """
    own = [
        probe
        for probe in probes
        if probe.aim is Aim.OWN
        and probe.only_headers
        and probe.aimed_at.headers
        and probe.expected.name == probe.aimed_at.name
    ]
    for first, second in itertools.combinations(own, 2):
        one, other = (
            {name.lower(): value for name, value in probe.headers.items()} for probe in (first, second)
        )
        if any(one[name] != other[name] for name in one.keys() & other.keys()):
            continue  # one header cannot have two values
        headers = {**first.headers, **second.headers}
        taker = expected.decide(headers)
        if not (first.aimed_at.takes(headers) and second.aimed_at.takes(headers)):
            continue
        yield Probe(
            f"{first.aimed_at.name} and {second.aimed_at.name} both match",
            Aim.MATCH,
            first.aimed_at,
            headers,
            taker,
        )


def _is_unnamed(track: str) -> bool:
    return track == _UNNAMED


def _decoded(picture: Picture, height: int, width: int) -> Any:
    try:
        return predict.picture_tensor(picture.content, height, width)
    except OSError as exc:
        raise UsageError(f"picture {picture.name!r}: expected a JPEG file: {exc}") from exc


def _problems(answer: Answer) -> Iterator[str]:
    """
    What is wrong with one prediction.
    """
    given = answer.prediction
    if given is None:
        yield "no prediction"
        return
    if len(given.labels) != TOP or not all(isinstance(label, str) and label for label in given.labels):
        yield f"labels are {given.labels!r}, expected {TOP} texts"
    top, every = given.probabilities, given.class_probabilities
    for name, values in (("probabilities", top), ("class_probabilities", every)):
        if not np.isfinite(values).all():
            yield f"{name} are not all finite"
            return
        if values.ndim != 1 or ((values < 0) | (values > 1)).any():
            yield f"{name} are not all between 0 and 1"
            return
    if len(top) != TOP:
        yield f"{len(top)} probabilities, expected {TOP}"
    if (np.diff(top) > 0).any():
        yield "probabilities are not in descending order"
    if abs(every.sum() - 1) > SUM_TOLERANCE:
        yield f"class_probabilities sum to {every.sum():.4g}, expected 1"
    largest = np.sort(every)[::-1][: len(top)]
    if len(largest) != len(top) or _apart(largest, top) > AGREEMENT_TOLERANCE:
        yield "probabilities are not the largest class_probabilities"


def _distance(one: predict.Prediction, other: predict.Prediction) -> float:
    left, right = one.class_probabilities, other.class_probabilities
    if left.shape != right.shape:
        return math.inf
    return _apart(left, right)


def _apart(left: Any, right: Any) -> float:
    """
    The largest difference, as a part of the largest value.
    """
    largest = float(max(np.abs(left).max(initial=0), np.abs(right).max(initial=0)))
    distance = float(np.abs(left - right).max(initial=0))
    if not math.isfinite(distance) or not math.isfinite(largest):
        return math.inf
    return distance / largest if largest else 0.0


def _difference(one: Interface, other: Interface) -> str:
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            return f"signature {name} is missing on one side"
        for side in ("inputs", "outputs"):
            left, right = getattr(one[name], side), getattr(other[name], side)
            for tensor in sorted({*left, *right}):
                if left.get(tensor) != right.get(tensor):
                    return f"{name} {side} {tensor}: {_tensor(left.get(tensor))} and {_tensor(right.get(tensor))}"
    return "none"


def _share(share: Share) -> str:
    """
    A track's weight and, where chance has a part in it, the counts that it allows.
    """
    bounds = f" ({share.low} to {share.high})" if 0 < share.weight < 100 else ""
    return f"{share.track} {share.weight:g} %{bounds}"


def _tensor(tensor: predict.Tensor | None) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}" if tensor else "none"


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    *texts, number = cells
    left = [cell.ljust(width) for cell, width in zip(texts, widths, strict=False)]
    return "  ".join([*left, number.rjust(widths[-1])]).rstrip()


def default_pictures() -> list[Picture]:
    """
    The two JPEG photographs that scikit-learn ships; scikit-learn itself is not imported.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UsageError("pictures: none are named, and scikit-learn's are not here; use --picture FILE")
    folder = Path(spec.origin).parent / "datasets" / "images"
    return read_pictures([folder / "china.jpg", folder / "flower.jpg"])


def read_pictures(files: Sequence[Path]) -> list[Picture]:
    """
    Read picture files.
    """
    pictures = []
    for file in files:
        try:
            pictures.append(Picture(file.name, file.read_bytes()))
        except OSError as exc:
            raise UsageError(f"picture {str(file)!r}: cannot be read: {exc.strerror}") from exc
    return pictures


def from_files(
    files: Sequence[Path],
    *,
    gateway: str,
    host: str | None = None,
    model: str | None = None,
    chart: Path = routing.CHART,
    tokens: Sequence[jwt.Token] = (),
) -> Subject:
    """
    What values files over the chart's defaults say, with no cluster to ask.
    """
    values = routing.read_files(files)
    routing.check_keys(values, chart)
    expected = _parse(routing.coalesce(routing.chart_defaults(chart), values), model)
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        gateway=gateway,
        host=host or _host(expected),
        lost=(
            "the live release and VirtualService, since only --gateway and --values are given; add --release NAME",
            "which revision the routes have: that of the first answer is taken, and must stay",
        ),
    )


def from_release(
    name: str,
    *,
    namespace: str = "default",
    kubeconfig: Path | None = None,
    context: str | None = None,
    helm: str = "helm",
    files: Sequence[Path] = (),
    gateway: str | None = None,
    host: str | None = None,
    model: str | None = None,
    chart: Path = routing.CHART,
    each_pod: bool = True,
    tokens: Sequence[jwt.Token] = (),
) -> Subject:
    """
    What the live release says, and values files over it; a difference between the two is a finding.

    Raises:
        UsageError: if there is no such release, or a file has a key or a value that cannot be right.
        UnreachableError: if the cluster, helm or the gateway's address cannot be found.
    """
    given = routing.read_files(files)
    routing.check_keys(given, chart)
    releases = release.Releases(namespace=namespace, kubeconfig=kubeconfig, context=context, executable=helm)
    live_values = releases.values(name)
    live = _parse(live_values, model)
    expected = _parse(routing.coalesce(live_values, given), model)
    cluster = mesh.Mesh(namespace=namespace, kubeconfig=kubeconfig, context=context)
    virtual_service = cluster.virtual_service(name)
    findings = [_live_routes(virtual_service, expected, api) for api in Api]
    findings.append(_live_retries(virtual_service, routing.coalesce(live_values, given)))
    findings.append(_live_objects(releases.drift(name)))
    if files:
        findings.insert(0, _live_values(live, expected, files))
    lost = [] if expected.attribution else [f"tracks and revisions: {_OFF}"]
    doors: tuple[Door, ...] = ()
    if each_pod:
        doors = tuple(
            Door(pod.name, functools.partial(cluster.forwarded, pod)) for pod in cluster.gateway_pods(name)
        )
    else:
        lost.append("each gateway pod by itself")
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        predictions=functools.partial(cluster.predictions, name) if each_pod else None,
        gateway=gateway or cluster.gateway_address(name),
        host=host or _host(expected),
        release=name,
        revision=mesh.route_revision(virtual_service) if expected.attribution and live.attribution else None,
        before=_before(releases, name, model),
        findings=tuple(findings),
        lost=tuple(lost),
        doors=doors,
        pods=Counter(pod.track for pod in cluster.pods(name) if pod.ready),
    )


def _before(releases: release.Releases, name: str, model: str | None) -> Routing | None:
    """
    The routes that the release had before the newest revision, if it had any that worked.
    """
    worked = [revision for revision in releases.history(name)[:-1] if revision.status == "superseded"]
    return _parse(releases.values(name, worked[-1].number), model) if worked else None


def _parse(values: Mapping[str, Any], model: str | None) -> Routing:
    if model is not None:
        values = routing.merge(values, {"model": {"name": model}})
    try:
        return routing.from_values(values)
    except UsageError as exc:
        if "model.name" in str(exc):
            raise UsageError(f"{exc}; name it with --model NAME, or add its values file") from exc
        raise


def _host(expected: Routing) -> str | None:
    """
    The host to ask for: the first name of the gateway's; a wildcard stands for any name below it.
    """
    first = expected.hosts[0]
    return None if first == "*" else first.replace("*", "check", 1)


def _live_values(live: Routing, expected: Routing, files: Sequence[Path]) -> Check:
    names = ", ".join(file.name for file in files)
    same = live == expected
    return Check(
        "live values",
        "",
        None,
        Decision.HELD if same else Decision.FAILED,
        f"as in {names}",
        "the same" if same else _routes(live),
        len(live.routes),
        detail=f"the files say {_routes(expected)}; apply them with helm upgrade --reset-then-reuse-values",
    )


def _live_retries(virtual_service: Mapping[str, Any], values: Mapping[str, Any]) -> Check:
    """
    The mesh tries again as often as the values say; more often would hide failures from every check.
    """
    section = values.get("routing") or {}
    wanted = section.get("retryAttempts", 0)
    http = virtual_service["spec"].get("http") or []
    # Without a word Istio tries twice again.
    seen = {entry.get("name", ""): (entry.get("retries") or {}).get("attempts", 2) for entry in http}
    odd = {name: attempts for name, attempts in seen.items() if attempts != wanted}
    return Check(
        "live retries",
        "",
        None,
        Decision.FAILED if odd else Decision.HELD,
        f"{wanted} on every route",
        ", ".join(f"{name} {attempts}" for name, attempts in odd.items()) or "the same",
        len(seen),
        detail="retries hide from this check what clients of another gateway would see" if odd else "",
    )


def _live_objects(drift: Sequence[str]) -> Check:
    """
    The live VirtualServices and DestinationRules are what Helm released, field by field: mirrors and subsets too.
    """
    return Check(
        "live objects",
        "",
        None,
        Decision.FAILED if drift else Decision.HELD,
        "as Helm released them",
        "; ".join(drift[:SHOWN_FAILURES]) or "the same",
        max(1, len(drift)),
        detail=_BEHIND_HELM if drift else "",
    )


_BEHIND_HELM = "changed behind Helm's back? helm upgrade with the same values may not repair it"


def _routes(expected: Routing) -> str:
    return "; ".join(str(route) for route in expected.routes)


def _live_routes(virtual_service: Mapping[str, Any], expected: Routing, api: Api) -> Check:
    """
    What the live VirtualService says of each probe, beside what the values say.
    """
    problems = []
    # No token here: a condition on claims, which Istio writes as one on a header of that name, fits no request.
    probes = [probe for probe in expected.probes() if api is Api.REST or not probe.rest_only]
    try:
        for probe in probes:
            path = (
                probe.path(expected.model)
                if api is Api.REST
                else probe.prefix + _metadata_paths(expected.model)[api]
            )
            weights = mesh.destination_weights(virtual_service, path, probe.headers)
            wanted = {track: weight for track, weight in probe.expected.weights.items() if weight}
            if {track: weight for track, weight in weights.items() if weight} != wanted:
                problems.append(f"{probe.name}: {routing.in_words(weights) or 'no route'}")
    except NoEvidenceError as exc:
        return Check("live routes", "", api, Decision.NOT_ENOUGH, "as the values say", str(exc), 0)
    return Check(
        "live routes",
        "",
        api,
        Decision.FAILED if problems else Decision.HELD,
        "the VirtualService says what the values say",
        "; ".join(problems) or "the same",
        len(probes),
        detail=_BEHIND_HELM if problems else "",
    )


def parser() -> cli.Parser:
    """
    The command's arguments.
    """
    made = cli.Parser(
        prog="check_gateway.py",
        description="Prove by REST and gRPC what the gateway does with a release's routes.",
    )
    cluster = made.add_argument_group("what is live")
    cluster.add_argument("--release", metavar="NAME", help="the Helm release (default: resnet)")
    cluster.add_argument("--namespace", metavar="NAME", help="its namespace (default: default)")
    cluster.add_argument("--kubeconfig", type=Path, metavar="FILE", help="(default: as kubectl finds it)")
    cluster.add_argument(
        "--context", metavar="NAME", help="the kubeconfig's context (default: its current one)"
    )
    cluster.add_argument("--helm", default="helm", metavar="FILE", help="the helm program (default: helm)")
    what = made.add_argument_group("what should be")
    what.add_argument(
        "--values",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a values file that must be what the gateway does; may be repeated (default: the live release's values)",
    )
    what.add_argument("--model", metavar="NAME", help="the model's public name (default: model.name)")
    where = made.add_argument_group("where")
    where.add_argument("--gateway", metavar="HOST:PORT", help="the gateway's address (default: it is found)")
    where.add_argument("--host", help="the host name to ask for (default: the first of gateway.hosts)")
    where.add_argument("--tls", action="store_true", help="speak TLS, and verify the gateway's certificate")
    where.add_argument("--ca", type=Path, metavar="FILE", help="with --tls: PEM file of the authorities to trust "
                       "(default: the system's)")  # fmt: skip
    where.add_argument("--no-gateway-pods", action="store_true",
                       help="do not ask pods by themselves (each gateway pod for its routes, the model's for what was "
                       "mirrored), which needs the right to pods/portforward")  # fmt: skip
    how = made.add_argument_group("how")
    how.add_argument("--alpha", type=float, default=split.ALPHA,
                     help="probability of a false alarm, for each split (default: %(default)g)")  # fmt: skip
    how.add_argument("--power", type=float, default=split.POWER,
                     help="probability of finding a wrong split (default: %(default)g)")  # fmt: skip
    how.add_argument("--detect", type=float, default=split.DETECT, metavar="POINTS",
                     help="the smallest difference to find, in percentage points (default: %(default)g)")  # fmt: skip
    how.add_argument("--picture", type=Path, action="append", default=[], metavar="FILE",
                     help="a JPEG to predict; may be repeated (default: the two that scikit-learn ships)")  # fmt: skip
    how.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS",
                     help="how long the routes may take to reach the gateway (default: %(default)g)")  # fmt: skip
    how.add_argument("--concurrency", type=int, default=predict.CONCURRENCY, metavar="N",
                     help="requests at a time (default: %(default)d)")  # fmt: skip
    how.add_argument("--token", type=Path, action="append", default=[], metavar="FILE",
                     help="a file with a client's JWT, for routes by claim; may be repeated (default: they are not asked)")  # fmt: skip
    how.add_argument("--probe", action="append", choices=["security"], default=[],
                     help="also ask for what nobody outside may reach; it must be refused")  # fmt: skip
    how.add_argument("--junit", type=Path, metavar="FILE", help="write the checks as JUnit XML")
    how.add_argument(
        "--report", type=Path, metavar="FILE", help="write a page to read, complete in one HTML file"
    )
    how.add_argument("--json", action="store_true", help="the report as JSON on stdout, the table on stderr")
    return made


def _command(arguments: argparse.Namespace) -> int:
    if arguments.timeout <= 0:
        raise UsageError(f"--timeout: expected seconds above 0, got {arguments.timeout:g}")
    if arguments.concurrency < 1:
        raise UsageError(f"--concurrency: expected at least 1, got {arguments.concurrency}")
    limits = Limits(
        arguments.alpha,
        arguments.power,
        arguments.detect,
        arguments.timeout,
        arguments.concurrency,
        security="security" in arguments.probe,
    )
    if arguments.ca and not arguments.tls:
        raise UsageError("--ca: expected --tls with it")
    pictures = read_pictures(arguments.picture) or default_pictures()
    tokens = [jwt.read(file) for file in arguments.token]
    asked = (arguments.release, arguments.namespace, arguments.kubeconfig, arguments.context)
    if arguments.gateway and arguments.values and not any(asked):
        subject = from_files(
            arguments.values,
            gateway=arguments.gateway,
            host=arguments.host,
            model=arguments.model,
            tokens=tokens,
        )
    else:
        subject = from_release(
            arguments.release or "resnet",
            namespace=arguments.namespace or "default",
            kubeconfig=arguments.kubeconfig,
            context=arguments.context,
            helm=arguments.helm,
            files=arguments.values,
            gateway=arguments.gateway,
            host=arguments.host,
            model=arguments.model,
            each_pod=not arguments.no_gateway_pods,
            tokens=tokens,
        )
    if arguments.tls:
        subject = dataclasses.replace(subject, tls=predict.Tls(arguments.ca))
    made = check_gateway(subject, limits, pictures)
    _written(arguments.junit, made, report.junit)
    _written(arguments.report, made, report.html)
    if arguments.json:
        sys.stdout.write(json.dumps(made.to_json(), indent=2) + "\n")
        sys.stderr.write(made.table() + "\n")
    else:
        sys.stdout.write(made.table() + "\n")
    if made.interrupted:
        raise UnreachableError(made.interrupted)
    return made.exit_code


def _written(file: Path | None, made: Report, render: Callable[[Report], str]) -> None:
    """
    Write a report; also one that was interrupted.
    """
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(render(made), encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"report {str(file)!r}: cannot be written: {exc.strerror}") from exc


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["explain"]:
        return explain.main(given[1:])
    return cli.run(parser(), _command, given)
