"""
Prove at the gateway what the routes do, over REST and over gRPC apart.

What should happen comes from the values (files, or the live release); what does happen is read from answers.
The order: both APIs show the route's revision, each route's split, each header rule in both directions,
predictions with real pictures; and over all of it not one failed request and one and the same revision.
Nothing holds without evidence: a check that saw nothing says so, and the whole ends with exit code 4.
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfcanary.check.agreement import (
    AGREEMENT_TOLERANCE,
    TOP,
    difference,
    distance,
    inputs_in_words,
    prediction_problems,
)
from tfcanary.check.finding import OFF, SHOWN_FAILURES, Finding
from tfcanary.check.report import Report, Sample
from tfcanary.check.subject import GatewayPod, Options, Subject
from tfcanary.client.answer import Answer, Client, Interface
from tfcanary.client.endpoint import burst
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.pictures import MOST_SIZE, Picture, decoded, default_pictures, picture_size
from tfcanary.client.rest import RestClient
from tfcanary.contract import SERVING_DEFAULT, SERVING_PREPROCESS, TRACK_HEADER, Api, metadata_paths
from tfcanary.errors import NoEvidenceError, UnreachableError, UsageError
from tfcanary.judge import split
from tfcanary.judge.verdict import Outcome, Share
from tfcanary.routing.probes import Aim, Probe, probes_of, unprobed
from tfcanary.routing.route import Mirror, Request, Routing, Sticky, sharing
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

# A route counts as arrived when so many answers in a row carry its revision (requirement A5).
IN_A_ROW = 20
# A gateway that went away fails every request at once; a canary that fails some does not fail so many in a row.
UNREACHED_IN_A_ROW = 25
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
        answers = burst(ask, itertools.repeat(probe.headers, n), self.concurrency)
        with contextlib.closing(answers):
            for answer in answers:
                yield self.record(answer)


def check_gateway(
    subject: Subject, limits: Options | None = None, pictures: Sequence[Picture] | None = None
) -> Report:
    """
    Finding everything about `subject` at its gateway.

    Args:
        subject: what should happen, and where.
        limits: error rates and times; the defaults are those of the module `split`.
        pictures: what predictions are asked of; None takes the two that scikit-learn ships.

    Raises:
        UnreachableError: if nothing answers at the gateway at all. If it goes away in the middle, the report so
            far comes back, interrupted.
        UsageError: if there is nothing to check with.
    """
    return _Run(subject, limits or Options(), default_pictures() if pictures is None else pictures).report()


class _Run:
    """
    One run over all checks, in order.
    """

    def __init__(self, subject: Subject, limits: Options, pictures: Sequence[Picture]) -> None:
        if not pictures:
            raise UsageError("pictures: expected at least one, got none; name them with --picture FILE")
        self._subject = subject
        self._routing = subject.routing
        self._limits = limits
        self._pictures = pictures
        # A file that is no picture is found before the first request.
        self._sizes: dict[tuple[int, int], list[Any]] = {}
        self._tensors(224, 224)
        own = probes_of(subject.routing, subject.tokens)
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
    def _clients(self, address: str) -> Iterator[tuple[RestClient, GrpcClient]]:
        """
        One client for each API.
        """
        deadline_seconds = self._routing.timeout_seconds + 5.0
        model, host, tls = self._routing.model, self._subject.host, self._subject.tls
        with (
            RestClient(
                address,
                model,
                host=host,
                deadline_seconds=deadline_seconds,
                connections=self._limits.concurrency,
                tls=tls,
            ) as rest,
            GrpcClient(address, model, host=host, deadline_seconds=deadline_seconds, tls=tls) as grpc,
        ):
            yield rest, grpc

    def _add(
        self,
        name: str,
        about: str,
        session: _Session | None,
        *,
        held: bool | Outcome,
        expected: str,
        observed: str,
        n: int,
        **more: Any,
    ) -> None:
        """
        Add a check; one that rests on no answers is not enough evidence, whatever else it says.
        """
        decision = held if isinstance(held, Outcome) else Outcome.HELD if held else Outcome.FAILED
        if n == 0 and decision is Outcome.HELD:
            decision = Outcome.NOT_ENOUGH
        check = Finding(
            name, about, session.api if session else None, decision, expected, observed, n, **more
        )
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
        decision = Outcome.HELD if self._routing.attribution else Outcome.NOT_ENOUGH
        self._add("propagation", about, session, held=decision, expected=expected, observed=observed,
                  n=len(seen), detail="" if self._routing.attribution else OFF)  # fmt: skip
        return True

    def _door(self, door: GatewayPod) -> None:
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
                        decision=Outcome.NOT_ENOUGH,
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
        for route in unprobed(self._routing, self._subject.tokens):
            need = (
                "callers inside the mesh have it"
                if route.labels
                else "--token FILE asks with a token that fits it"
            )
            self._add("split", route.name, session, held=Outcome.NOT_ENOUGH, expected=str(route), observed="no answer",
                      n=0, detail=f"not asked from here: {need}")  # fmt: skip

    def _nowhere(self, session: _Session) -> None:
        """
        A path that just misses a route's prefix is nobody's: it is refused, and no track has it.
        """
        below = metadata_paths(self._routing.model)[session.api]
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
            if not _can_send(session, probe):
                continue
            same = sum((weight / 100) ** 2 for weight in route.weights.values())
            if same >= 1:
                continue  # everyone has the same track anyway
            if route.sticky is Sticky.USER and self._routing.user_header in self._routing.verified:
                self._add("sticky", route.name, session, held=Outcome.NOT_ENOUGH, expected="users keep their track",
                          observed="no answer", n=0, detail="the gateway takes users from tokens: each needs one of its own")  # fmt: skip
                continue
            needed = math.ceil(math.log(1 - self._limits.power) / math.log(same))
            clients = math.ceil(needed / STICKY_REQUESTS)
            if route.sticky is Sticky.COOKIE:
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
        ask = functools.partial(session.client.metadata, prefix=probe.prefix, version=probe.version)
        headers, wanted = dict(probe.headers), None
        if probe.aimed_at.sticky is Sticky.USER:
            headers, wanted = self._user(probe, number)
        else:
            first = session.record(ask(headers))
            if not first.ok:
                return 0, []
            if first.cookie is None:
                return 1, [f"client {number}: the first answer sets no cookie"]
            headers["cookie"] = "; ".join(filter(None, [headers.get("cookie"), first.cookie]))
            wanted = first.track
        answers = [session.record(ask(headers)) for _ in range(STICKY_REQUESTS)]
        good = [answer for answer in answers if answer.ok]
        odd = [answer.track for answer in good if answer.track != wanted]
        return len(good), [f"client {number}: {odd[0]} instead of {wanted}"] if odd else []

    def _user(self, probe: Probe, number: int) -> tuple[dict[str, str], str | None]:
        """
        The headers of a user whom the route takes, another for each number where it may be, and the user's track.
        """
        name = self._routing.user_header or "user-id"
        others = {header: value for header, value in probe.headers.items() if header.lower() != name.lower()}
        own = next((value for header, value in probe.headers.items() if header not in others), "")
        for user in (f"check-{number}", f"{own}-{number}", own):
            headers = {**others, name: user}
            asked = Request(probe.path(self._routing.model), headers, probe.claims)
            decision = self._routing.decision(asked)
            if decision is not None and decision.route is probe.aimed_at:
                break
        share = decision.weights if decision is not None else {}
        return headers, max(share, key=lambda track: share[track], default=None)

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
        while verdict.decision is Outcome.NOT_ENOUGH and asked < planned.n:
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
            decision, detail = Outcome.NOT_ENOUGH, OFF
        elif unnamed:
            decision, detail = Outcome.FAILED, f"{unnamed} answers have no {TRACK_HEADER}"
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
            default, encoded = found.get(SERVING_DEFAULT), found.get(SERVING_PREPROCESS)
            if default and picture_size(default) is None:
                problems.append(
                    f"{where}: {SERVING_DEFAULT} takes {inputs_in_words(default)}, expected one picture: batch, "
                    f"height, width, channels, of at most {MOST_SIZE} each"
                )
            if encoded and len(encoded.inputs) != 1:
                problems.append(
                    f"{where}: {SERVING_PREPROCESS} takes {inputs_in_words(encoded)}, expected one input"
                )
        first = next(iter(described), "")
        problems += [
            f"{where} differs from {first}: {difference(described[first], found)}"
            for where, found in described.items()
            if found != described[first]
        ]
        missing = [
            track for track in self._expected_tracks() if track not in {t for _, t in self._interfaces}
        ]
        decision = Outcome.FAILED if problems else Outcome.NOT_ENOUGH if missing else Outcome.HELD
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
            name = next(iter(found[signature].inputs))
            values: Sequence[Any] = [picture.content for picture in self._pictures]
            if signature == SERVING_DEFAULT:
                size = picture_size(found[signature])
                if size is None:
                    continue
                values = self._tensors(*size)
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
            f"{answer.track or _UNNAMED}: {problem}"
            for answer in good
            for problem in prediction_problems(answer)
        ]
        seen = {answer.track or _UNNAMED for answer in good}
        missing = [track for track in self._expected_tracks() if track not in seen]
        decision = Outcome.FAILED if problems else Outcome.NOT_ENOUGH if missing else Outcome.HELD
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
            f"{track} {signature} over {api.value}": answer.prediction.class_probabilities.size
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
                    distances.append(distance(rest.prediction, grpc.prediction))
            worst = max(distances, default=math.nan)
            self._add(
                "REST = gRPC",
                "" if track == _UNNAMED else track,
                None,
                held=Outcome.NOT_ENOUGH
                if not distances or _is_unnamed(track)
                else worst <= AGREEMENT_TOLERANCE,
                expected=f"class probabilities within {100 * AGREEMENT_TOLERANCE:g} %",
                observed=f"at most {100 * worst:.2g} % apart" if distances else "no pair of predictions",
                n=2 * len(distances),
                detail=OFF if _is_unnamed(track) else "",
            )

    def _labels(self) -> None:
        """
        A class has one label, whoever answers: a permuted vocabulary is well-formed, and wrong.
        """
        seen: dict[int, dict[str, str]] = {}
        told = 0
        for (api, signature, track), answer in self._answers.items():
            given = answer.prediction
            if given is None or any(prediction_problems(answer)):
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
            held=Outcome.FAILED if odd else Outcome.HELD,
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
                if unlike or any(prediction_problems(answer)) or any(prediction_problems(second)):
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
            size = picture_size(interface[SERVING_DEFAULT]) if SERVING_DEFAULT in interface else None
            if count is not None and size is not None:
                name = next(iter(interface[SERVING_DEFAULT].inputs))
                picture = (name, self._tensors(*size)[0])
                self._mirror(session, probe, planned, functools.partial(count, mirror.track), picture)
                continue
            lost = (
                f"no answer described a picture for {SERVING_DEFAULT}"
                if count
                else "only the pods of a --release can be asked"
            )
            self._add("mirror", probe.aimed_at.name, session, held=Outcome.NOT_ENOUGH, expected=_mirrored(mirror),
                      observed="not counted", n=0, detail=lost, needed=planned.n)  # fmt: skip

    def _interface_of(self, session: _Session, probe: Probe) -> Interface:
        """
        The interface of the track that answers a probe, as far as it was described.
        """
        for track in sharing(probe.expected.weights):
            if (session.api, track) in self._interfaces:
                return self._interfaces[session.api, track]
        return {}

    def _mirror(
        self,
        session: _Session,
        probe: Probe,
        planned: split.Plan,
        count: Callable[[], int],
        picture: tuple[str, Any],
    ) -> None:
        mirror = probe.aimed_at.mirror
        assert mirror is not None  # noqa: S101 - told apart by the caller
        name, value = picture
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
            self._add("mirror", probe.aimed_at.name, session, held=Outcome.NOT_ENOUGH, expected=_mirrored(mirror),
                      observed="not counted", n=sent, detail=str(exc), needed=planned.n)  # fmt: skip
            return
        copied = min(max(came, 0), sent)
        verdict = split.judge(planned, {_COPIED: copied, _ALONE: sent - copied})
        decision, detail = verdict.decision, verdict.reason
        if came < 0:
            decision, detail = Outcome.NOT_ENOUGH, f"a pod of {mirror.track} went, and took its count along"
        elif came > sent:
            decision, detail = Outcome.NOT_ENOUGH, f"others send predictions to {mirror.track} as well"
        elif decision is Outcome.FAILED:
            detail += "; are bodies larger than the gateway's buffer? see Envoy's retry_or_shadow_abandoned"
        self._add("mirror", probe.aimed_at.name, session, held=decision, expected=_mirrored(mirror),
                  observed=f"{came} of {sent} arrived, {value.nbytes // 1024} KiB of picture each", n=sent,
                  detail=detail, needed=planned.n)  # fmt: skip

    def _forged_tokens(self, session: _Session) -> None:
        """
        A token with a signature that nobody made is refused, whatever it says (requirement B5).
        """
        path = metadata_paths(self._routing.model)[session.api]
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

    def _closed(self, rest: RestClient, grpc: GrpcClient) -> None:
        """
        What nobody outside may reach is refused before it reaches the model server (requirement B3).

        Every request is empty or reads only: one that does get through changes nothing.
        """
        model = self._routing.model
        asked = [(path, rest.raw("GET", path.format(model=model))) for path in CLOSED_PATHS]
        asked += [(method, grpc.raw(method)) for method in CLOSED_METHODS]
        for api, about in ((Api.REST, "paths"), (Api.GRPC, "methods")):
            its = [(name, answer) for name, answer in asked if answer.api is api]
            found = [(name, answer) for name, answer in its if answer.reached]
            # A door that nobody answered at may as well be open.
            silent = [f"{name.format(model=model)}: {answer}" for name, answer in its if not answer.reached]
            # With a track's name it was routed there: only the mesh's denial then keeps it from the model server.
            through = [
                f"{name.format(model=model)}: {answer.status} {f'from {answer.track}' if answer.track else ''}".strip()
                for name, answer in found
                if answer.ok
                or answer.status not in (DENIALS if answer.track is not None else (*DENIALS, *UNROUTED))
            ]
            self._checks.append(
                Finding(
                    "security",
                    f"closed {about}",
                    api,
                    Outcome.FAILED if through else Outcome.NOT_ENOUGH if silent else Outcome.HELD,
                    "all refused by the mesh",
                    "; ".join(through) or f"{len(found)} refused",
                    len(found),
                    detail=f"no answer to {'; '.join(silent)}" if silent else "",
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
        decision = Outcome.FAILED if odd else Outcome.HELD
        if not self._routing.attribution:
            decision = Outcome.NOT_ENOUGH
        self._add(
            "revision",
            "",
            session,
            held=decision,
            expected=f"{self._revision or 'a revision'} on every answer",
            observed=", ".join(f"{revision} {n}" for revision, n in seen.items()) or "no answer",
            n=seen.total(),
            detail="" if self._routing.attribution else OFF,
        )

    def _tensors(self, height: int, width: int) -> list[Any]:
        if (height, width) not in self._sizes:
            self._sizes[height, width] = [decoded(picture, height, width) for picture in self._pictures]
        return self._sizes[height, width]


_UNNAMED = "(unnamed)"
_COPIED, _ALONE = "mirrored", "not mirrored"


def _can_send(session: _Session, probe: Probe) -> bool:
    return session.api is Api.REST or not probe.rest_only


def _raw(session: _Session, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """
    Ask for what must be refused; it is no failed request.
    """
    if isinstance(session.client, RestClient):
        return session.client.raw("GET", path, headers)
    assert isinstance(session.client, GrpcClient)  # noqa: S101 - there are two
    return session.client.raw(path, headers)


def _mirrored(mirror: Mirror) -> str:
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


def _share(share: Share) -> str:
    """
    A track's weight and, where chance has a part in it, the counts that it allows.
    """
    bounds = f" ({share.low} to {share.high})" if 0 < share.weight < 100 else ""
    return f"{share.track} {share.weight:g} %{bounds}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)
