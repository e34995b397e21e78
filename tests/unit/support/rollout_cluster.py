"""
A cluster for rollouts that keeps every rule of theirs in sight: it fails the test at the call that breaks one.

Time passes only where somebody waits, and in Helm. Faults are planted by `trouble`, which is asked before and after the
effect of every call.
"""

# ruff: noqa: D102 - tfcanary.rollout.cluster says what each method does

import json
import sys
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tfcanary.chart.values import merge
from tfcanary.errors import DoesNotHoldError, ForbiddenError, NoEvidenceError
from tfcanary.judge.counts import Counts
from tfcanary.judge.look import Look
from tfcanary.rollout.cluster import (
    Counted,
    Deployed,
    Examination,
    OvertakenError,
    Probes,
    Seen,
    Stored,
    Track,
)
from tfcanary.rollout.state import Baseline, from_text

if TYPE_CHECKING:
    from collections.abc import Callable

EVERYONE = [{"name": "everyone", "weights": {"stable": 100}}]
VALUES = {
    "model": {"name": "resnet"},
    "tracks": {"stable": {"version": 1, "replicas": 2}, "canary": {"version": 2, "replicas": 1}},
    "routing": {"routes": EVERYONE},
    "image": {"tag": "2.20.0"},
}
LEASE_SECONDS = 30.0


class Killed(BaseException):
    """
    The driver's process is gone.
    """


class BrokenError(AssertionError):
    """
    A rule of rollouts was broken.
    """


@dataclass
class Pods:
    """
    A track's pods: those of one version, Ready after a while or never.
    """

    version: int
    wanted: int
    ready_at: float
    kept: int = 0

    def ready(self, now: float) -> int:
        return self.kept if now < self.ready_at else self.wanted


@dataclass
class World:
    """
    What the cluster does that nobody asked for.

    Attributes:
        startup: seconds until a pod of a version is Ready, by version; infinite for never.
        slow: the same for one track of a version.
        spread: seconds until the k-th gateway pod has new routes; infinite for never.
        bad: the share of failures of each version.
        rate: requests a second.
        helm: seconds of an upgrade.
        blind: whether the metrics cannot be read.
        problems: what an examination finds.
        forbidden: the calls that the driver has no right to.
    """

    startup: dict[int, float] = field(default_factory=lambda: {1: 2.0, 2: 2.0, 3: 5.0})
    slow: dict[tuple[str, int], float] = field(default_factory=dict)
    spread: tuple[float, ...] = (0.5, 1.0, 2.0)
    bad: dict[int, float] = field(default_factory=dict)
    rate: float = 100.0
    helm: float = 2.0
    blind: bool = False
    problems: tuple[str, ...] = ()
    forbidden: frozenset[str] = frozenset()


class Release:
    """
    A release in a cluster, its pods and its gateways, and the rules that a rollout of it must keep.
    """

    def __init__(
        self, world: World | None = None, *, seed: int = 0, values: dict[str, Any] | None = None
    ) -> None:
        self.world = world or World()
        self.random = Random(seed)  # noqa: S311 - no secret comes of it
        self.time = 1_800_000_000.0
        self.given = json.loads(json.dumps(values or VALUES))
        self.history: list[tuple[int, str, dict[str, Any]]] = [(7, "Upgrade complete", self.given)]
        self.tracks = {
            name: Pods(track["version"], track["replicas"], 0.0)
            for name, track in self.given["tracks"].items()
        }
        # By gateway pod, what it shows and, while new routes are on their way, from when on.
        self.gateway_pods = [[self.routes(), self.routes(), 0.0] for _ in self.world.spread]
        self.stored: Stored | None = None
        self.lease: tuple[str, float] = ("", 0.0)
        self.calls: list[str] = []
        self.announced: list[dict[str, Any]] = []
        self.counted = self.time
        self.zero_since: dict[str, float] = {"canary": 0.0}
        self.baseline_given = self.given
        self.caller = ""
        # The tracks without Ready pods that a gateway pod sent something to.
        self.dropped: list[tuple[float, str]] = []
        # Whether the last look at the metrics saw any, and whether a person did without them.
        self.knows, self.anyway = False, False
        self.trouble: Callable[[str, str], None] = lambda _when, _call: None

    def routes(self) -> str:
        return json.dumps(self.given["routing"]["routes"], sort_keys=True)

    def weights(self) -> dict[str, int]:
        return dict(self.given["routing"]["routes"][-1]["weights"])

    def weight(self, track: str) -> int:
        return int(self.weights().get(track, 0))

    def shown(self) -> list[dict[str, int]]:
        """
        The weights that each gateway pod has now.
        """
        return [
            json.loads(new if self.time >= at else old)[-1]["weights"] for old, new, at in self.gateway_pods
        ]

    def _notice(self) -> None:
        """
        Take down since when no gateway pod sends a track anything.
        """
        for track in self.tracks:
            if any(weights.get(track) for weights in self.shown()):
                self.zero_since.pop(track, None)
                if not self.tracks[track].ready(self.time):
                    self.dropped.append((self.time, track))
            else:
                self.zero_since.setdefault(track, self.time)

    def must(self, holds: object, rule: str) -> None:
        """
        Fail the test if a rule does not hold.
        """
        if not holds:
            raise BrokenError(f"{rule}; calls: {' '.join(self.calls[-12:])}")

    def let_pass(self, seconds: float) -> None:
        """
        Let time pass, and nothing else.
        """
        # Gateways that change in between are noticed at that time.
        end = self.time + seconds
        for at in sorted(at for *_, at in self.gateway_pods if self.time < at <= end):
            self.time = at
            self._notice()
        self.time = end
        self._notice()

    def _deploy(self, wanted: dict[str, Any], description: str, call: str) -> Deployed:
        """
        What Helm does: pods first, then routes; wait; back to where it was if the pods do not come up.
        """
        holder, until = self.lease
        self.must(holder == self.caller and self.time < until, "one writer, and it has the Lease")
        if self.history[-1][1] != description:
            before = self.given
            self._check(wanted)
            self._set(wanted)
            self.history.append((self.history[-1][0] + 1, description, wanted))
            try:
                self.trouble("during", call)
            except Killed:
                if self.random.random() < 0.5:
                    # The next helm finds the revision pending, and goes back to the one before.
                    self._set(before)
                    self.history.append((self.history[-1][0] + 1, "Rollback", before))
                raise
            # Helm's adapter renews the Lease while it waits.
            self.lease = holder, self.time + self.world.helm + LEASE_SECONDS
            self.let_pass(self.world.helm)
            slow = [pods for pods in self.tracks.values() if pods.wanted and pods.ready_at > self.time + 60]
            if slow:
                self._set(before)
                self.history.append((self.history[-1][0] + 1, f"Rollback to {self.history[-2][0]}", before))
                raise DoesNotHoldError(f"helm upgrade: version {slow[0].version} is not Ready")
            self.let_pass(
                max([0.0, *(pods.ready_at - self.time for pods in self.tracks.values() if pods.wanted)])
            )
        self.trouble("after", call)
        return Deployed(self.history[-1][0], self.routes())

    def _check(self, wanted: dict[str, Any]) -> None:
        """
        The rules for a revision, at the moment in which it is made.
        """
        weights = wanted["routing"]["routes"][-1]["weights"]
        self.must(sum(weights.values()) == 100, "weights sum to 100")
        self.must(set(weights) <= set(wanted["tracks"]), "every subset that is routed to exists")
        for name, part in weights.items():
            pods = self.tracks[name]
            if part > self.weight(name):
                self.must(
                    name != "canary" or self.knows or self.anyway or self._back(),
                    "no weight grows on missing data",
                )
                self.must(
                    pods.ready(self.time) > 0, f"{name} is Ready and has endpoints before its weight grows"
                )
                old = pods.version == self.baseline_given["tracks"][name]["version"]
                self.must(
                    part < 100 or old or pods.ready(self.time) == pods.wanted,
                    "no 100 % on pods that are not Ready",
                )
        for name, pods in self.tracks.items():
            track = wanted["tracks"][name]
            goes = track["version"] != pods.version or track.get("replicas", 1) < pods.wanted
            if goes and pods.wanted:
                since = self.zero_since.get(name)
                self.must(
                    since is not None and self.time - since >= 30 - 1e-6,
                    f"weight 0 of {name} at every gateway pod, and 30 s, before its pods go",
                )
                self.must(not weights.get(name), f"{name} has weight 0 when its pods go")

    def _back(self) -> bool:
        """
        Whether stable has another version than before, so that the canary must carry the traffic.
        """
        old = self.baseline_given["tracks"]["stable"]["version"]
        return self.tracks["stable"].version != old

    def _set(self, wanted: dict[str, Any]) -> None:
        for name, track in wanted["tracks"].items():
            pods, count = self.tracks[name], track.get("replicas", 1)
            if (track["version"], count) != (pods.version, pods.wanted):
                grown = track["version"] != pods.version or count > pods.wanted
                takes = self.world.slow.get((name, track["version"]), self.world.startup[track["version"]])
                starts = self.time + takes if grown else pods.ready_at
                kept = pods.ready(self.time) if track["version"] == pods.version else 0
                self.tracks[name] = Pods(track["version"], count, starts, min(kept, count))
        before = self.routes()
        self.given = wanted
        if self.routes() != before:
            for pod, after in zip(self.gateway_pods, self.world.spread, strict=True):
                old, new, at = pod
                pod[:] = [new if self.time >= at else old, self.routes(), self.time + after]
            self._notice()


class FakeCluster(Release):
    """
    The protocol of `tfcanary.rollout.cluster`.
    """

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.world.forbidden:
            raise ForbiddenError(f"{name}: the role has no right to it; add the verb to the Role")
        self.trouble("before", name)

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.calls.append("wait")
        self.let_pass(seconds)
        self.trouble("wait", "wait")

    def load(self) -> Stored | None:
        self._call("load")
        return self.stored

    def save(self, text: str, version: str | None) -> None:
        self._call("save")
        if (self.stored.version if self.stored else None) != version:
            raise OvertakenError
        self.stored = Stored(text, str(int(version or 0) + 1))
        self.must(len(text) < 64 * 1024, "the state is of bounded size")
        self.trouble("after", "save")

    def hold(self, me: str) -> str:
        self._call("hold")
        holder, until = self.lease
        if holder in ("", me) or self.time >= until:
            self.lease = me, self.time + LEASE_SECONDS
        self.trouble("after", "hold")
        return self.lease[0]

    def free(self, me: str) -> None:
        # A process that was killed frees nothing.
        if self.lease[0] == me and not isinstance(sys.exc_info()[1], Killed):
            self.lease = "", 0.0

    def baseline(self) -> Baseline:
        self._call("baseline")
        if self.stored is None or from_text(self.stored.text).ended:
            # In the middle of a rollout, what the release has now is not where it began.
            self.baseline_given = self.given
        return Baseline(
            self.history[-1][0],
            self.given,
            tuple(self.given["routing"]["routes"]),
            {name: track["version"] for name, track in self.given["tracks"].items()},
            {name: track.get("replicas", 1) for name, track in self.given["tracks"].items()},
        )

    def apply(self, values: dict[str, Any], description: str) -> Deployed:
        self._call("apply")
        self.must(len(values) == 1, "a revision changes pods or weights, and not both")
        return self._deploy(merge(self.given, values), description, "apply")

    def restore(self, baseline: Baseline, description: str) -> Deployed:
        self._call("restore")
        self.must(dict(baseline.values) == self.baseline_given, "abort goes to the recorded baseline")
        return self._deploy(dict(baseline.values), description, "restore")

    def track(self, name: str) -> Track:
        self._call("track")
        pods = self.tracks[name]
        ready = pods.ready(self.time)
        return Track(pods.version, pods.wanted, ready, ready)

    def gateways(self, routes: str) -> Seen:
        self._call("gateways")
        has = [new if self.time >= at else old for old, new, at in self.gateway_pods]
        return Seen(sum(one == routes for one in has), len(has))

    def examine(self) -> Examination:
        self._call("examine")
        return Examination(
            self.world.problems, {"model canary": f"half {self.tracks['canary'].version} sha256:2"}
        )

    def probe(self, count: int) -> Probes:
        self._call("probe")
        failed = [
            [
                self.random.random() < self.world.bad.get(self.tracks[name].version, 0.0)
                for name in ("canary", "stable")
            ]
            for _ in range(count)
        ]
        return Probes(
            *(failed.count(one) for one in ([False, False], [True, False], [False, True], [True, True]))
        )

    def counts(self, since: float | None) -> Counted:
        self._call("counts")
        self.knows = not self.world.blind
        if self.world.blind:
            raise NoEvidenceError("prometheus: no answer")
        after = self.counted if since is None else since
        requests = min(2000, round(self.world.rate * (self.time - after)))
        if requests <= 0:
            return Counted((), self.world.rate)
        shown = self.shown()
        if any(weights != shown[0] for weights in shown):
            return Counted(
                (Look(self.time, shown[0].get("canary", 0), problem="two weights"),), self.world.rate
            )
        weight = shown[0].get("canary", 0)
        canary = sum(self.random.random() < weight / 100 for _ in range(requests))
        bad = [
            sum(self.random.random() < self._failing(name) for _ in range(n))
            for name, n in (("canary", canary), ("stable", requests - canary))
        ]
        counts = Counts(bad[0], canary - bad[0], bad[1], requests - canary - bad[1])
        return Counted((Look(self.time, weight, errors=counts),), self.world.rate)

    def _failing(self, name: str) -> float:
        pods = self.tracks[name]
        return 1.0 if not pods.ready(self.time) else self.world.bad.get(pods.version, 0.0)

    def facts(self) -> dict[str, str]:
        self._call("facts")
        return {"chart": "sha256:1"}

    def announce(self, record: dict[str, Any]) -> None:
        self._call("announce")
        self.announced.append(record)


class As:
    """
    The cluster as one process sees it.
    """

    def __init__(self, cluster: FakeCluster, me: str) -> None:
        self._cluster, self._me = cluster, me

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._cluster, name)

        def call(*arguments: Any) -> Any:
            self._cluster.caller = self._me
            return method(*arguments)

        return call
