"""
The revisions of a rollout: where it began, and each step, made by Helm.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfcanary.chart import source
from tfcanary.chart.values import merge, tracks_of
from tfcanary.contract import rest_path
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.helm.failures import HelmError
from tfcanary.helm.releases import Releases, Revision
from tfcanary.judge.plan import compact
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.virtualservice import destination_weights, route_revision
from tfcanary.rollout.cluster import Deployed
from tfcanary.rollout.state import Baseline
from tfcanary.rollout.tracks import Names

# Between two looks at a release that another helm changes.
_LOOK_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Past:
    """
    The revisions that this process has made, by what the release was given in each.

    Helm goes back to one of them without rendering the chart again, which is most of an upgrade's time. A canary that
    fails has the traffic for that much less.
    """

    release: str
    given: Mapping[str, Any] | None = None
    numbers: dict[str, int] = field(default_factory=dict)

    def note(self, releases: Releases, values: Mapping[str, Any], number: int) -> None:
        """
        Remember a revision.

        Args:
            releases: Helm's.
            values: over those of the revision before.
            number: Helm's number of it.
        """
        before = self.given
        self.given = (
            releases.values(self.release, number, defaults=False) if before is None else merge(before, values)
        )
        self.numbers[compact(self.given)] = number

    def number(self, values: Mapping[str, Any]) -> int | None:
        """
        The revision that has these values over the present ones; None if this process has made none.
        """
        return None if self.given is None else self.numbers.get(compact(merge(self.given, values)))


class Revisions:
    """
    The revisions of one release.
    """

    def __init__(self, releases: Releases, live: LiveObjects, names: Names, chart: Path) -> None:
        """
        Nothing is made yet.

        Args:
            releases: Helm's.
            live: the live objects.
            names: of the release and its parts.
            chart: the chart of all of them.
        """
        self._releases, self._live, self._names, self._chart = releases, live, names, chart
        self._weights: dict[str, float] = {}
        # The live VirtualService of each revision that this process has seen.
        self._routed: dict[int, Mapping[str, Any]] = {}
        self._past = Past(names.release)
        # Whether the newest revision may be another than this process knows of.
        self._unsure = True

    def weights_with(self, routes: str) -> Mapping[str, float]:
        """
        By the hash of routes, the canary's weight under them in per cent; the live ones are read if these are not known.
        """
        if routes not in self._weights:
            self._deployed(self._releases.current(self._names.release))
        return self._weights

    def facts(self) -> dict[str, str]:
        """
        Which chart and which values the release has, each with a digest.
        """
        name, version = self._releases.chart(self._names.release)
        values = self._releases.values(self._names.release, defaults=False)
        digest = hashlib.sha256(compact(values).encode()).hexdigest()
        return {
            "chart": f"{name} {version} sha256:{source.digest(self._chart)}",
            "values": f"sha256:{digest}",
        }

    def baseline(self, *, patience_seconds: float = 0.0) -> Baseline:
        """
        The release as it is, once no Helm is at work on it.

        Args:
            patience_seconds: how long that may take. A Job begins while the upgrade that made it still waits for pods.

        Raises:
            UsageError: if a rollout cannot begin with it.
        """
        releases, name = self._releases, self._names.release
        current = self._settled(patience_seconds)
        if current.status != "deployed":
            raise UsageError(
                f"release {name!r}: expected a revision that is deployed, got {current.number}, which is {current.status}; "
                f"see `helm history {name}`"
            )
        self._require_chart()
        values = releases.values(name, current.number)
        if not values["routing"].get("attribution", True):
            raise UsageError(
                f"release {name!r}: expected routing.attribution true, got false; without it nobody sees which track "
                "answered, nor which routes a gateway pod has"
            )
        attempts = values["routing"].get("retryAttempts", 0)
        if attempts:
            raise UsageError(
                f"release {name!r}: expected routing.retryAttempts 0, got {attempts}; the gateway counts a request once, by its "
                "last answer, so that retries hide a failing canary from the judge"
            )
        if (values.get("gateway") or {}).get("api", "istio") != "istio":
            raise UsageError(
                f"release {name!r}: expected gateway.api istio, got {values['gateway']['api']}; a rollout counts requests by "
                "the subsets of a VirtualService"
            )
        tracks = tracks_of(values)
        return Baseline(
            current.number,
            releases.values(name, current.number, defaults=False),
            tuple(values["routing"]["routes"]),
            {track: _number(track, one.get("version")) for track, one in tracks.items()},
            {track: int(one.get("replicas") or 1) for track, one in tracks.items()},
        )

    def _settled(self, patience_seconds: float) -> Revision:
        """
        The newest revision, as soon as it is not pending; that which stays pending is returned as it is.
        """
        found = self._releases.current(self._names.release)
        ends = time.monotonic() + patience_seconds
        while found.status.startswith("pending-") and time.monotonic() < ends:
            _log.info("release %s: revision %d is %s; waiting", found.name, found.number, found.status)
            time.sleep(_LOOK_SECONDS)
            found = self._releases.current(self._names.release)
        return found

    def apply(self, values: Mapping[str, Any], description: str) -> Deployed:
        """
        Give the release these values over its own, unless the newest revision has this description.
        """

        def make(releases: Releases) -> Revision:
            return releases.apply(
                self._names.release,
                chart=self._chart,
                values=values,
                description=description,
                compare=False,
            )

        number = self._past.number(values)
        return self._revised(
            description, lambda releases: (number and self._again(number)) or make(releases), values
        )

    def _again(self, number: int) -> Revision | None:
        """
        Go back to a revision; None if Helm cannot.

        Its routes are applied first, as Helm would: Helm needs two seconds for what the gateways have after a tenth of one,
        and each of them is traffic for a canary that fails. Whatever is in the way of that is not in Helm's way.
        """
        try:
            if number in self._routed:
                self._live.reapply(self._routed[number])
        except UnreachableError as exc:
            _log.warning("%s; the routes wait for Helm", exc)
        try:
            return self._releases.rollback(self._names.release, number)
        except HelmError as exc:
            _log.warning("%s; upgrading instead", exc)
            return None

    def restore(self, baseline: Baseline, description: str) -> Deployed:
        """
        Give the release the baseline's values and no others.
        """
        return self._revised(
            description,
            lambda releases: releases.apply(
                self._names.release,
                chart=self._chart,
                values=baseline.values,
                reuse_values=False,
                description=description,
                compare=False,
            ),
        )

    def _revised(
        self,
        description: str,
        make: Callable[[Releases], Revision],
        values: Mapping[str, Any] | None = None,
    ) -> Deployed:
        """
        Make a revision unless it is there already.

        Args:
            description: names the intention.
            make: makes it.
            values: over those of the revision before; None for others altogether.
        """
        releases = self._releases
        if self._unsure:
            # Another driver may have made it, or this one, whose answer was lost.
            current = releases.current(self._names.release)
            if current.description == description and current.status == "deployed":
                return self._deployed(current)
        past, self._past, self._unsure = self._past, Past(self._names.release), True
        made = make(releases)
        self._unsure = False
        if values is not None:
            self._past = past
            past.note(releases, values, made.number)
        return self._deployed(made)

    def _deployed(self, revision: Revision) -> Deployed:
        """
        The routes of a revision, whose weight is remembered: answers name the routes only.
        """
        live = self._live.virtual_service(self._names.release)
        routes = route_revision(live)
        weights = destination_weights(live, rest_path(self._names.model, "predict"), {})
        self._weights[routes] = float(weights.get(self._names.canary, 0))
        self._routed[revision.number] = live
        return Deployed(revision.number, routes)

    def _require_chart(self) -> None:
        """
        Refuse another version of the chart: its first revision would change more than the rollout says.
        """
        name, version = self._releases.chart(self._names.release)
        ours = source.version_of(self._chart)
        if (name, version) != ours:
            raise UsageError(
                f"release {self._names.release!r}: expected chart {' '.join(ours)}, as this command has it, got {name} {version}; "
                "name its own with --chart, or upgrade the release first"
            )


def _number(track: str, version: object) -> int:
    if isinstance(version, bool) or not str(version).isdigit():
        raise UsageError(f"tracks.{track}.version: expected a number, got {version!r}")
    return int(str(version))
