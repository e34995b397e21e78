"""
Read and change Helm releases: every traffic change is a Helm revision.

pyhelm3 runs the helm program. What this module adds: ``--reset-then-reuse-values``, a synchronous face, values
files put together as Helm does it (pyhelm3 would append lists, and a strategy is a list), and errors that keep
what Helm said.
"""

import asyncio
import logging
import re
import shutil
import subprocess
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyhelm3
import pyhelm3.errors
import yaml
from pyhelm3.command import Command

from tfcanary import mesh, routing
from tfcanary.errors import CanaryError, DoesNotHoldError, UnreachableError, UsageError
from tfcanary.wait import NotYet, wait_until

T = TypeVar("T")

TIMEOUT_SECONDS = 300
# More than a rollout has steps, so that the revision before it is not pruned on the way (Helm's own default: 10).
HISTORY_MAX = 50

# How long a revision may be pending before whoever made it is taken for dead.
PENDING_SECONDS = 90.0

_ROUTING_KINDS = {"VirtualService", "DestinationRule"}
_BASELINE = re.compile(r"\[baseline (\d+)\]")
# What Helm itself says of a revision that went back, by hand or after a failed upgrade.
_ROLLBACK = re.compile(r"Rollback to (\d+)")

_UNREACHABLE = (
    "cluster unreachable",
    "connection refused",
    "no such host",
    "i/o timeout",
    "etcdserver",
    "certificate",
    "unauthorized",
    "invalid configuration",
)
_WRONG_VALUES = (
    "execution error at",
    "don't meet the specifications of the schema",
    "failed to render chart",
    "parse error at",
    "is invalid",
    "cannot be imported into the current release",
    "already exists",
    "failed to download",
    "chart.yaml file is missing",
    "no such file or directory",
)


class HelmError(DoesNotHoldError):
    """
    Helm did what it was asked to, and it did not work out.
    """


class DriftError(DoesNotHoldError):
    """
    What is live is not what the release says, and Helm did not mend it.

    Attributes:
        differences: a line for each field.
    """

    def __init__(self, name: str, differences: Sequence[str]) -> None:
        super().__init__(
            f"release {name!r}: was changed behind Helm's back, and an upgrade does not repair it: "
            f"{'; '.join(differences)}; put back what the release says "
            f"(helm get manifest {name} | kubectl apply --server-side --force-conflicts -f -), then upgrade again"
        )
        self.differences = tuple(differences)


@dataclass(frozen=True, slots=True)
class Drift:
    """
    The live routes and subsets beside those of the release's manifest.

    Attributes:
        objects: how many were compared.
        differences: a line for each field that is not the same, and for each object that is gone.
    """

    objects: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """
    Where a rollout began, and where it goes back to.

    Attributes:
        values: what the user gave up to then, without the chart's defaults.
    """

    name: str
    revision: int
    values: Mapping[str, Any]


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
    pyhelm3's command, with the flag that it does not have.

    ``--reset-values`` would lose what was set before, ``--reuse-values`` would miss the defaults of a new chart.
    Putting the values together here instead would be a second implementation of what Helm does, with a gap
    between reading and writing; so the flag is added where all commands pass.
    """

    reuse_values = True

    async def run(self, command: list[Any], input: bytes | None = None) -> bytes:  # noqa: A002 - pyhelm3's name
        if command[0] == "upgrade" and self.reuse_values:
            command = [*command, "--reset-then-reuse-values"]
        output: bytes = await super().run(command, input)
        return output


class Releases:
    """
    The releases of one namespace.
    """

    def __init__(
        self,
        *,
        namespace: str = "default",
        kubeconfig: Path | None = None,
        context: str | None = None,
        executable: str = "helm",
        timeout_seconds: int = TIMEOUT_SECONDS,
    ) -> None:
        """
        Find helm.

        Raises:
            UnreachableError: if there is none, naming how to get it.
        """
        if shutil.which(executable) is None:
            raise UnreachableError(
                f"helm: {executable!r} was not found on PATH; get it from https://helm.sh/docs/intro/install, "
                "or name it with --helm FILE"
            )
        self._namespace = namespace
        self._kubeconfig, self._context = kubeconfig, context
        self._timeout_seconds = timeout_seconds
        self._command = _Command(
            executable=executable,
            kubeconfig=kubeconfig,
            kubecontext=context,
            history_max_revisions=HISTORY_MAX,
            default_timeout=f"{timeout_seconds}s",
        )
        # It would repeat on the terminal what the error says.
        logging.getLogger("pyhelm3").setLevel(logging.CRITICAL)
        try:
            self._client = pyhelm3.Client(self._command, executable=executable)
        except (subprocess.CalledProcessError, ValueError) as exc:
            raise UnreachableError(
                f"helm: {executable!r} does not answer `helm version` as Helm does: {exc}"
            ) from exc

    def apply(
        self,
        name: str,
        *,
        chart: Path | str = routing.CHART,
        files: Sequence[Path] = (),
        values: Mapping[str, Any] | None = None,
        reuse_values: bool = True,
        description: str | None = None,
        baseline: Baseline | None = None,
    ) -> Revision:
        """
        Install the release, or upgrade it, and wait until it is there; a failed upgrade is rolled back.

        A revision that a killed helm left pending is taken back first. At the end the live routes are read.

        Args:
            name: the release.
            chart: a folder, or a reference that Helm knows.
            files: values files, each over those before it.
            values: more values, over all files.
            reuse_values: keep what earlier revisions were given (``--reset-then-reuse-values``).
            description: what the history says of this revision.
            baseline: where the rollout began that this revision is a step of.

        Raises:
            DriftError: if the live routes are not what the release now says.
            UsageError: for values or a chart that Helm refuses.
            UnreachableError: if the cluster cannot be reached.
            HelmError: if it did not come up in time and was rolled back.
        """
        given = routing.merge(routing.read_files(files), values or {})
        self._command.reuse_values = reuse_values
        # The same thing under two names; pyhelm3 warns about the one that Helm's version does not use.
        undo = "rollback_on_failure" if self._client.version.major >= 4 else "atomic"

        if baseline is not None:
            description = f"{description or 'Upgrade complete'} [baseline {baseline.revision}]"

        async def apply() -> Any:
            return await self._client.install_or_upgrade_release(
                name,
                await self._client.get_chart(chart),
                given,
                **{undo: True},
                wait=True,
                create_namespace=True,
                namespace=self._namespace,
                timeout=f"{self._timeout_seconds}s",
                description=description,
            )

        what = f"helm upgrade --install {name}"
        try:
            found = self._run(what, name, apply())
        except HelmError as exc:
            if "another operation" not in str(exc):
                raise
            self.recover(name)
            found = self._run(what, name, apply())
        changed = self.drift(name).differences
        if changed:
            raise DriftError(name, changed)
        return self._revision(found)

    def recover(
        self,
        name: str,
        *,
        after_seconds: float = PENDING_SECONDS,
        patience_seconds: float = PENDING_SECONDS + 5,
    ) -> Revision:
        """
        Make the release usable again if its newest revision is pending and nobody works on it any more.

        It goes back to the last revision that was deployed; one that never was is uninstalled.

        Args:
            name: the release.
            after_seconds: a revision that is pending for less may still be somebody's.
            patience_seconds: how long to wait for somebody else to be done.

        Raises:
            UnreachableError: if somebody else keeps it pending.
        """

        def dead() -> Revision | None:
            found = self.current(name)
            if not found.status.startswith("pending-"):
                return None
            age = (datetime.now().astimezone() - _when(found.updated)).total_seconds()
            if age < after_seconds:
                raise NotYet(f"revision {found.number} is {found.status} for {age:.0f} s")
            return found

        pending = wait_until(
            f"release {name!r}: another helm at work",
            dead,
            timeout_seconds=patience_seconds,
            interval_seconds=1.0,
        )
        if pending is None:
            return self.current(name)
        before = [one for one in self.history(name) if one.status in ("deployed", "superseded")]
        best = [one for one in before if one.status == "deployed"] or before
        if not best:
            self.uninstall(name)
            raise HelmError(
                f"release {name!r}: its first installation was broken off, and was removed; install it again"
            )
        return self.rollback(name, best[-1].number)

    def drift(self, name: str) -> Drift:
        """
        Compare the live routes and subsets with the release's manifest, field by field.
        """
        command = ["get", "manifest", name, "--namespace", self._namespace]
        manifest = self._run(f"helm get manifest {name}", name, self._command.run(command))
        documents = yaml.safe_load_all(manifest.decode("utf-8"))
        objects = [one for one in documents if isinstance(one, Mapping) and one.get("kind") in _ROUTING_KINDS]
        if not objects:
            return Drift(0, ())
        cluster = mesh.Mesh(namespace=self._namespace, kubeconfig=self._kubeconfig, context=self._context)
        found: list[str] = []
        for one in objects:
            kind, called = one["kind"], one["metadata"]["name"]
            live = cluster.routing_object(kind, called)
            if live is None:
                found.append(f"{kind} {called} is gone")
            else:
                found += differences(f"{kind} {called}: spec", one.get("spec"), live.get("spec"))
        return Drift(len(objects), tuple(found))

    def baseline(self, name: str) -> Baseline:
        """
        Where the release is now; or, in the middle of a rollout, where that began.
        """
        current = self.current(name)
        recorded = _BASELINE.search(self._step(current).description)
        number = int(recorded[1]) if recorded else current.number
        values = self._run(
            f"helm get values {name}",
            name,
            self._command.get_values(name, namespace=self._namespace, revision=number),
        )
        return Baseline(name, number, values or {})

    def _step(self, revision: Revision) -> Revision:
        """
        The revision whose values this one has: another where it went back to that.
        """
        if not _ROLLBACK.fullmatch(revision.description):
            return revision
        kept = {one.number: one for one in self.history(revision.name)}
        while back := _ROLLBACK.fullmatch(revision.description):
            number = int(back[1])
            if number >= revision.number or number not in kept:
                break
            revision = kept[number]
        return revision

    def restore(self, baseline: Baseline, *, chart: Path | str = routing.CHART) -> Revision:
        """
        Go back to a baseline, however many revisions ago it was.
        """
        kept = {one.number for one in self.history(baseline.name)}
        if baseline.revision in kept:
            return self.rollback(baseline.name, baseline.revision)
        return self.apply(
            baseline.name,
            chart=chart,
            values=baseline.values,
            reuse_values=False,
            description="Back to the baseline",
        )

    def rollback(self, name: str, revision: int) -> Revision:
        """
        Go back to a revision, which is a new revision with its values.
        """
        self._run(
            f"helm rollback {name} {revision}",
            name,
            self._command.rollback(
                name, revision, namespace=self._namespace, wait=True, timeout=f"{self._timeout_seconds}s"
            ),
        )
        return self.current(name)

    def uninstall(self, name: str) -> None:
        """
        Remove the release; one that is not there is no error.
        """
        self._run(
            f"helm uninstall {name}",
            name,
            self._client.uninstall_release(
                name, namespace=self._namespace, wait=True, timeout=f"{self._timeout_seconds}s"
            ),
        )

    def current(self, name: str) -> Revision:
        """
        The newest revision, whatever its status.
        """
        found = self._run(
            f"helm status {name}", name, self._client.get_current_revision(name, namespace=self._namespace)
        )
        return self._revision(found)

    def history(self, name: str) -> tuple[Revision, ...]:
        """
        All revisions that are kept, oldest first.
        """
        entries = self._run(
            f"helm history {name}", name, self._command.history(name, namespace=self._namespace)
        )
        return tuple(
            Revision(
                name=name,
                namespace=self._namespace,
                number=entry["revision"],
                status=entry["status"],
                updated=entry["updated"],
                description=entry.get("description") or "",
            )
            for entry in entries
        )

    def values(self, name: str, revision: int | None = None) -> dict[str, Any]:
        """
        All values of the release, the chart's defaults included (`helm get values --all`).
        """
        return self._run(
            f"helm get values {name}",
            name,
            self._command.get_values(name, computed=True, namespace=self._namespace, revision=revision),
        )

    def _run(self, what: str, name: str, job: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run(job)
        except pyhelm3.errors.ReleaseNotFoundError as exc:
            raise UsageError(
                f"release {name!r}: not found in namespace {self._namespace!r}; "
                f"see `helm list --namespace {self._namespace}`, or install it first"
            ) from exc
        except pyhelm3.errors.Error as exc:
            raise _error(what, exc) from exc

    def _revision(self, found: Any) -> Revision:
        return Revision(
            name=found.release.name,
            namespace=found.release.namespace,
            number=found.revision,
            status=found.status.value,
            updated=found.updated.isoformat(),
            description=found.description or "",
        )


def differences(path: str, wanted: object, live: object) -> list[str]:
    """
    Where two trees of YAML differ, as lines of path, expected and got.
    """
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return [
            line
            for key in sorted({*wanted, *live})
            for line in differences(f"{path}.{key}", wanted.get(key), live.get(key))
        ]
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        return [
            line
            for i, (one, other) in enumerate(zip(wanted, live, strict=True))
            for line in differences(f"{path}[{i}]", one, other)
        ]
    return [] if wanted == live else [f"{path}: expected {_brief(wanted)}, got {_brief(live)}"]


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


class _Failed(Protocol):
    stderr: bytes
    returncode: int


def _error(what: str, exc: _Failed) -> CanaryError:
    """
    Sort what Helm said by whose it is to mend, and keep all of it.
    """
    said = [line for line in exc.stderr.decode(errors="replace").splitlines() if line.strip()]
    text = "; ".join(line for line in said if not line.startswith(("WARNING:", "walk.go:"))) or "no message"
    lower = text.lower()
    if any(sign in lower for sign in _UNREACHABLE):
        return UnreachableError(
            f"{what}: {text}; is the cluster up, and is it the one of --kubeconfig and --context?"
        )
    if any(sign in lower for sign in _WRONG_VALUES):
        return UsageError(f"{what}: {text}")
    return HelmError(f"{what}: {text} (exit code {exc.returncode})")
