"""
What the drivers of one rollout share in a cluster: a text in a ConfigMap, and a Lease that one of them has at a time.

Both are written by compare-and-swap on `resourceVersion`. These are the only objects that are written past Helm, but for the
routes of a way back, which Helm writes again; and they route nothing.
"""

import contextlib
import datetime as dt
import email.utils
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes.client
import urllib3.exceptions
from kubernetes.client.exceptions import ApiException

from tfcanary.errors import ForbiddenError, UnreachableError
from tfcanary.kube.objects import REQUEST_SECONDS, LiveObjects

LEASE_SECONDS = 15
_KEY = "state.json"
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class ChangedError(Exception):
    """
    Somebody wrote the object since it was read. No user meets it.
    """


class Claim:
    """
    The ConfigMap and the Lease of one rollout, which have the same name.
    """

    def __init__(self, live: LiveObjects, name: str, *, labels: Mapping[str, str] | None = None) -> None:
        """
        Nothing is connected yet.

        Args:
            live: the namespace.
            name: of both objects.
            labels: of both objects.
        """
        self.name, self._namespace = name, live.namespace
        self._labels = dict(labels or {})
        self._server = live.configuration.host
        self._client = kubernetes.client.ApiClient(live.configuration)

    def load(self) -> tuple[str, str] | None:
        """
        The text and its `resourceVersion`; None if there is none.

        Raises:
            UnreachableError: if the cluster does not answer, or may not be asked.
        """
        found, _ = self._call("GET", "configmaps", self.name)
        if found is None:
            return None
        return str((found.get("data") or {}).get(_KEY, "")), str(found["metadata"]["resourceVersion"])

    def save(self, text: str, version: str | None) -> None:
        """
        Write the text.

        Args:
            text: at most 1 MiB, as the cluster has it.
            version: what `load` gave; None if there was nothing.

        Raises:
            ChangedError: if somebody has written it since.
            UnreachableError: as `load`; it may have been written all the same.
        """
        self._put("configmaps", {"data": {_KEY: text}}, version)

    def hold(self, me: str) -> str:
        """
        Take the Lease, or renew it.

        Times are those of the API server's answers: two machines whose clocks differ agree on when one is over.

        Returns:
            Who has it now: `me`, or the holder whose time is not over.
        """
        while True:
            found, now = self._call("GET", "leases", self.name)
            spec = (found or {}).get("spec") or {}
            holder = str(spec.get("holderIdentity") or "")
            if holder not in ("", me) and now < _ends(spec):
                return holder
            taken = now.strftime(_TIME)
            renewed = {
                "holderIdentity": me,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": spec.get("acquireTime", taken) if holder == me else taken,
                "renewTime": taken,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (holder not in ("", me)),
            }
            try:
                self._put(
                    "leases", {"spec": renewed}, found["metadata"]["resourceVersion"] if found else None
                )
            except ChangedError:
                continue
            return me

    def free(self, me: str) -> None:
        """
        Give the Lease back; nothing happens if another has it.
        """
        found, _ = self._call("GET", "leases", self.name)
        if found is None or found["spec"].get("holderIdentity") != me:
            return
        spec = {**found["spec"], "holderIdentity": ""}
        try:
            self._put("leases", {"spec": spec}, found["metadata"]["resourceVersion"])
        except ChangedError:
            # Another driver has written it, and holds it now.
            return

    @contextlib.contextmanager
    def renewed(self, me: str) -> Iterator[list[str]]:
        """
        Renew the Lease while something takes longer than it lasts.

        Yields:
            The drivers that took it meanwhile; empty as long as none did.
        """
        ended, taken = threading.Event(), list[str]()

        def renew() -> None:
            while not ended.wait(LEASE_SECONDS / 3) and not taken:
                # A cluster that does not answer now may answer the next time.
                with contextlib.suppress(UnreachableError):
                    taken.extend({self.hold(me)} - {me})

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield taken
        finally:
            ended.set()
            thread.join()

    def _put(self, plural: str, body: Mapping[str, Any], version: str | None) -> None:
        metadata: dict[str, Any] = {"name": self.name, "namespace": self._namespace, "labels": self._labels}
        if version is None:
            self._call("POST", plural, "", {"metadata": metadata, **body})
        else:
            metadata["resourceVersion"] = version
            self._call("PUT", plural, self.name, {"metadata": metadata, **body})

    def _call(
        self, method: str, plural: str, name: str, body: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any] | None, dt.datetime]:
        """
        One request, and the time of its answer on the API server's clock, to the second.
        """
        base = "/api/v1" if plural == "configmaps" else "/apis/coordination.k8s.io/v1"
        path = f"{base}/namespaces/{self._namespace}/{plural}/{name}".rstrip("/")
        what = f"{plural.removesuffix('s')} {self.name!r} in namespace {self._namespace!r}"
        request = self._client.param_serialize(
            method,
            path,
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*request, _request_timeout=REQUEST_SECONDS)
            content = answer.read()  # type: ignore[no-untyped-call]
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise UnreachableError(f"{what}: the cluster at {self._server} cannot be reached: {exc}") from exc
        if answer.status == 404 and method == "GET":
            return None, _date(answer.headers)
        if answer.status in (404, 409) and method != "GET":
            raise ChangedError(what)
        if answer.status >= 400:
            error = ForbiddenError if answer.status in (401, 403) else UnreachableError
            verb = {"GET": "get", "POST": "create", "PUT": "update"}[method]
            raise error(
                f"{what}: the cluster at {self._server} answered {answer.status} to {verb}; "
                f"the driver of a rollout needs get, create and update of {plural}"
            )
        return json.loads(content), _date(answer.headers)


def _ends(spec: Mapping[str, Any]) -> dt.datetime:
    """
    When a Lease is over; one that does not say is over already.
    """
    renewed, seconds = spec.get("renewTime"), spec.get("leaseDurationSeconds")
    if not renewed or not seconds:
        return dt.datetime.min.replace(tzinfo=dt.UTC)
    return dt.datetime.fromisoformat(str(renewed)) + dt.timedelta(seconds=int(seconds))


def _date(headers: Mapping[str, str]) -> dt.datetime:
    """
    An answer's `Date`; this machine's time if a proxy took it away.
    """
    try:
        return email.utils.parsedate_to_datetime(headers["Date"]).astimezone(dt.UTC)
    except (KeyError, TypeError, ValueError):
        return dt.datetime.now(dt.UTC)
