"""
Read and change Helm releases: every traffic change is a Helm revision.

pyhelm3 runs the helm program. This module adds ``--reset-then-reuse-values``, synchronous methods, values files merged
as Helm merges them (pyhelm3 would append lists, and a strategy is a list), and typed errors that keep Helm's message.
"""

import asyncio
import logging
import shutil
import subprocess
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyhelm3
import pyhelm3.errors
from pyhelm3.command import Command

from tfcanary.chart.values import merge, read_files
from tfcanary.errors import UnreachableError
from tfcanary.helm.drift import ROUTING_KINDS, Drift, DriftError, Live, drift, repair
from tfcanary.helm.failures import ConflictError, HelmError, PendingError, classified, is_not_found, not_found
from tfcanary.helm.watch import NotUp, watched
from tfcanary.paths import CHART
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

T = TypeVar("T")
TIMEOUT_SECONDS = 300
# A rollout has fewer steps than this. Therefore the revision before it is not pruned meanwhile. Helm's default is 10.
HISTORY_MAX = 50
# A revision that is pending for longer than this has lost the helm that made it.
PENDING_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Revision:
    """
    One revision of a release, as `helm history` lists it.
    """

    name: str
    namespace: str
    number: int
    status: str
    updated: str
    description: str


class _Command(Command):  # type: ignore[misc]
    """
    pyhelm3's command, with ``--reset-then-reuse-values`` in place of ``--reuse-values``, and without ``--wait-for-jobs``.

    ``--reset-values`` would lose what was set before, ``--reuse-values`` would miss the defaults of a new chart, and
    putting the values together here would leave a gap between reading and writing them. The chart's only Job drives a
    rollout by upgrades of its own: an upgrade that waits for it would wait for itself.
    """

    async def run(self, command: list[Any], input: bytes | None = None) -> bytes:  # noqa: A002 - pyhelm3's name
        spelled = [
            "--reset-then-reuse-values" if part == "--reuse-values" else part
            for part in command
            if part != "--wait-for-jobs"
        ]
        output: bytes = await super().run(spelled, input)
        return output


class Releases:
    """
    The releases of one namespace.
    """

    def __init__(
        self,
        target: Target,
        live: Live,
        *,
        not_up: Callable[[str], NotUp] | None = None,
        timeout_seconds: int = TIMEOUT_SECONDS,
    ) -> None:
        """
        Find helm.

        Args:
            target: the namespace, the cluster and the helm program.
            live: reads the live objects that an upgrade is compared with.
            not_up: says why the tracks of a release are not up; None leaves it out of the errors.
            timeout_seconds: how long an upgrade may take.

        Raises:
            UnreachableError: if there is no helm; the message says how to get it.
        """
        if shutil.which(target.helm) is None:
            raise UnreachableError(
                f"helm: {target.helm!r} was not found on PATH; get it from https://helm.sh/docs/intro/install, "
                "or name it with --helm FILE"
            )
        self._namespace = target.namespace
        self._live = live
        self._not_up = not_up
        self._timeout = f"{timeout_seconds}s"
        self._command = _Command(
            executable=target.helm,
            kubeconfig=target.kubeconfig,
            kubecontext=target.context,
            history_max_revisions=HISTORY_MAX,
            default_timeout=self._timeout,
        )
        # pyhelm3 would repeat on the terminal what the error says.
        logging.getLogger("pyhelm3").setLevel(logging.CRITICAL)
        try:
            self._client = pyhelm3.Client(self._command, executable=target.helm)
        except (subprocess.CalledProcessError, ValueError) as exc:
            raise UnreachableError(
                f"helm: {target.helm!r} does not answer `helm version` as Helm does: {exc}"
            ) from exc

    def apply(
        self,
        name: str,
        *,
        chart: Path | str = CHART,
        files: Sequence[Path] = (),
        values: Mapping[str, Any] | None = None,
        reuse_values: bool = True,
        description: str | None = None,
        compare: bool = True,
    ) -> Revision:
        """
        Install the release or upgrade it, and wait until its pods are Ready; a failed upgrade is rolled back.

        A revision that a killed helm left pending is rolled back first. At the end the live routes are compared with
        the release's.

        Args:
            name: the release.
            chart: a folder, or a reference that Helm knows.
            files: values files, each over those before it.
            values: more values, over all files.
            reuse_values: keep what earlier revisions were given (``--reset-then-reuse-values``).
            description: what the history says of this revision.
            compare: whether the live routes are compared; a caller that asks the gateway next need not.

        Raises:
            DriftError: if the live routes are not what the release now says.
            ConflictError: if another program owns what Helm 4 would set.
            UsageError: for values or a chart that Helm refuses.
            UnreachableError: if the cluster cannot be reached.
            HelmError: if it did not come up in time and was rolled back; a note for each track says why.
        """
        given = merge(read_files(files), values or {})

        def upgrade() -> Any:
            return self._run(
                f"helm upgrade --install {name}",
                name,
                self._upgrade(name, chart, given, reuse_values=reuse_values, description=description),
            )

        try:
            found = watched(name, self._not_up, upgrade)
        except PendingError:
            self.recover(name)
            found = watched(name, self._not_up, upgrade)
        except ConflictError as exc:
            raise ConflictError(f"{exc}; {repair(name, self._namespace)}") from exc
        changed = self.drift(name, ROUTING_KINDS).differences if compare else ()
        if changed:
            raise DriftError(name, self._namespace, changed)
        return _revision(found)

    async def _upgrade(
        self,
        name: str,
        chart: Path | str,
        values: Mapping[str, Any],
        *,
        reuse_values: bool,
        description: str | None,
    ) -> Any:
        # The same thing under two names; pyhelm3 warns about the one that Helm's version does not use.
        undo = "rollback_on_failure" if self._client.version.major >= 4 else "atomic"
        return await self._client.install_or_upgrade_release(
            name,
            await self._client.get_chart(chart),
            values,
            **{undo: True},
            wait=True,
            create_namespace=True,
            reuse_values=reuse_values,
            namespace=self._namespace,
            timeout=self._timeout,
            description=description,
        )

    def recover(
        self,
        name: str,
        *,
        after_seconds: float = PENDING_SECONDS,
        patience_seconds: float = PENDING_SECONDS + 5,
    ) -> Revision:
        """
        Make the release usable again if its newest revision is pending and its helm is gone.

        It goes back to the last revision that was deployed. A release that never was deployed is uninstalled.

        Args:
            name: the release.
            after_seconds: a revision that is pending for less may belong to a helm at work.
            patience_seconds: how long to wait for another helm to finish.

        Raises:
            UnreachableError: if another helm keeps it pending.
            HelmError: if it was never deployed, and is uninstalled now.
        """

        def dead() -> Revision | None:
            found = self.current(name)
            if not found.status.startswith("pending-"):
                return None
            updated = datetime.fromisoformat(found.updated).astimezone()
            age = (datetime.now().astimezone() - updated).total_seconds()
            if age < after_seconds:
                raise NotYet(f"revision {found.number} is {found.status} for {age:.0f} s")
            return found

        what = f"release {name!r}: another helm at work"
        pending = wait_until(what, dead, timeout_seconds=patience_seconds, interval_seconds=1.0)
        if pending is None:
            return self.current(name)
        worked = [one for one in self.history(name) if one.status in ("deployed", "superseded")]
        best = [one for one in worked if one.status == "deployed"] or worked
        if not best:
            self.uninstall(name)
            raise HelmError(
                f"release {name!r}: its first installation was broken off, and was removed; install it again"
            )
        return self.rollback(name, best[-1].number)

    def drift(self, name: str, kinds: Collection[str] | None = None) -> Drift:
        """
        Compare the live objects with the release's manifest, field by field.

        Args:
            name: the release.
            kinds: those to compare; None compares all.
        """
        command = ["get", "manifest", name, "--namespace", self._namespace]
        manifest = self._run(f"helm get manifest {name}", name, self._command.run(command))
        return drift(manifest.decode("utf-8"), self._live, kinds)

    def rollback(self, name: str, revision: int) -> Revision:
        """
        Go back to a revision; the result is a new revision with the old one's values.
        """
        job = self._command.rollback(
            name, revision, namespace=self._namespace, wait=True, timeout=self._timeout
        )
        self._run(f"helm rollback {name} {revision}", name, job)
        return self.current(name)

    def uninstall(self, name: str) -> None:
        """
        Remove the release; a release that does not exist is no error.
        """
        job = self._client.uninstall_release(
            name, namespace=self._namespace, wait=True, timeout=self._timeout
        )
        self._run(f"helm uninstall {name}", name, job)

    def current(self, name: str) -> Revision:
        """
        The newest revision, whatever its status.
        """
        job = self._client.get_current_revision(name, namespace=self._namespace)
        return _revision(self._run(f"helm status {name}", name, job))

    def history(self, name: str) -> tuple[Revision, ...]:
        """
        All revisions that are kept, oldest first.
        """
        job = self._command.history(name, namespace=self._namespace)
        return tuple(
            Revision(
                name=name,
                namespace=self._namespace,
                number=entry["revision"],
                status=entry["status"],
                updated=entry["updated"],
                description=entry.get("description") or "",
            )
            for entry in self._run(f"helm history {name}", name, job)
        )

    def values(self, name: str, revision: int | None = None, *, defaults: bool = True) -> dict[str, Any]:
        """
        The values of a release, with the chart's defaults (`helm get values --all`) or without.
        """
        job = self._command.get_values(name, computed=defaults, namespace=self._namespace, revision=revision)
        return self._run(f"helm get values {name}", name, job) or {}

    def chart(self, name: str) -> tuple[str, str]:
        """
        The name and the version of the chart that the release has.
        """
        job = self._command.get_chart_metadata(name, namespace=self._namespace)
        found = self._run(f"helm get all {name}", name, job)
        return str(found["name"]), str(found["version"])

    def _run(self, what: str, name: str, job: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run(job)
        except pyhelm3.errors.Error as exc:
            if is_not_found(exc):
                raise not_found(name, self._namespace) from exc
            raise classified(what, exc) from exc


def _revision(found: Any) -> Revision:
    return Revision(
        name=found.release.name,
        namespace=found.release.namespace,
        number=found.revision,
        status=found.status.value,
        updated=found.updated.isoformat(),
        description=found.description or "",
    )
