"""
Live objects of one namespace, read through the Kubernetes API. Nothing is written but the routes of a way back.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import kubernetes.client
import kubernetes.config
import kubernetes.dynamic
import urllib3.exceptions
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from tfcanary.errors import ForbiddenError, NotFoundError, UnreachableError
from tfcanary.kube import httproute
from tfcanary.target import Target

REQUEST_SECONDS = 10
# The container of a pod's own proxy, and the annotation of pods whose node has the proxy.
SIDECAR, _AMBIENT = "istio-proxy", "ambient.istio.io/redirection"
# How a kubelet says that a container has gone between the question for its pod and that for its log: 400 before it has
# begun or where there is no run before; a log of this text where its files were removed.
_GONE, _NO_LOG = (400, 404), "unable to retrieve container logs for "
_GROUP, _VERSION = "networking.istio.io", "v1"


@dataclass(frozen=True, slots=True)
class Pod:
    """
    One pod of a release, and the track that it serves.
    """

    name: str
    track: str
    ready: bool


class LiveObjects:
    """
    The live objects of one namespace. TLS is verified as the kubeconfig says.
    """

    def __init__(self, target: Target) -> None:
        """
        Read the kubeconfig; nothing is connected yet. In a pod without one its ServiceAccount is used, as Helm does.

        Raises:
            UnreachableError: if there is no kubeconfig, or it has no such context.
        """
        self.namespace = target.namespace
        self.configuration = configuration = _configuration(target)
        configuration.retries = False
        client = kubernetes.client.ApiClient(configuration)
        # These are a few reads, far apart: a connection that is kept would only be left open.
        client.set_default_header("Connection", "close")  # type: ignore[no-untyped-call]
        # It is used for paths of any kind; its own discovery would read and write a file for all users.
        self._any = kubernetes.dynamic.DynamicClient(  # type: ignore[no-untyped-call]
            client, discoverer=lambda *_: None
        )
        self._resources: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._call = functools.partial(_called, configuration.host)
        self._core = kubernetes.client.CoreV1Api(client)
        self._apps = kubernetes.client.AppsV1Api(client)
        self._discovery = kubernetes.client.DiscoveryV1Api(client)
        self._custom = kubernetes.client.CustomObjectsApi(client)
        self._authorization = kubernetes.client.AuthorizationV1Api(client)

    def virtual_service(self, name: str) -> dict[str, Any]:
        """
        The live VirtualService of a release, or the HTTPRoute that it has instead.
        """
        with contextlib.suppress(NotFoundError):
            return self.istio("VirtualService", name)
        return self.read(httproute.named(name)) or self.istio("VirtualService", name)

    def istio(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """
        A live object of Istio's networking API, of the release's namespace if none is given.

        Raises:
            NotFoundError: if there is none of that name.
        """
        plural = f"{kind.lower()}s"
        what = f"{kind} {name!r}"
        where = namespace or self.namespace
        get = self._custom.get_namespaced_custom_object
        try:
            found: dict[str, Any] = self._call(what, get, _GROUP, _VERSION, where, plural, name)
        except LookupError as exc:
            raise NotFoundError(
                f"{what}: not found in namespace {where!r}; "
                "is it this release, this namespace, and does the cluster have Istio?"
            ) from exc
        return found

    def istio_objects(self, kind: str, namespace: str | None = None) -> Sequence[dict[str, Any]]:
        """
        The live objects of a kind of Istio's networking API, of one namespace or of all.

        Raises:
            ForbiddenError: if they may not be listed.
        """
        plural = f"{kind.lower()}s"
        where = (namespace,) if namespace else ()
        listing = (
            self._custom.list_namespaced_custom_object if where else self._custom.list_cluster_custom_object
        )
        try:
            found: Sequence[dict[str, Any]] = self._call(
                f"{kind}s", listing, _GROUP, _VERSION, *where, plural
            )["items"]
        except LookupError:
            return ()
        return found

    def reapply(self, seen: Mapping[str, Any]) -> None:
        """
        Give a VirtualService, or an HTTPRoute, the labels, annotations and spec that it had.

        It is applied under Helm's name: fields of another owner would be in the way of Helm's next upgrade.

        Raises:
            UnreachableError: if it was not changed, for whatever reason.
        """
        given = seen["metadata"]
        metadata = {name: given[name] for name in ("name", "labels", "annotations") if name in given}
        group, _, version = seen["apiVersion"].partition("/")
        self._call(
            f"{seen['kind']} {given['name']!r}",
            self._custom.patch_namespaced_custom_object,
            *(group, version, self.namespace, f"{seen['kind'].lower()}s", given["name"]),
            {name: seen[name] for name in ("apiVersion", "kind", "spec")} | {"metadata": metadata},
            field_manager="helm",
            force=True,
            _content_type="application/apply-patch+yaml",
            gone=(),
        )

    def read(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """
        The live object of an object of a manifest, of any kind; None if there is none.

        Raises:
            ForbiddenError: if it may not be read.
        """
        version, kind, metadata = wanted["apiVersion"], wanted["kind"], wanted["metadata"]
        what = f"{kind} {metadata['name']!r}"
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            if base not in self._resources:
                self._resources[base] = self._get(what, base)["resources"]
            resource = next(
                one for one in self._resources[base] if one["kind"] == kind and "/" not in one["name"]
            )
            space = f"/namespaces/{metadata.get('namespace') or self.namespace}"
            below = f"{space if resource['namespaced'] else ''}/{resource['name']}/{metadata['name']}"
            return self._get(what, base + below)
        except (LookupError, StopIteration):
            return None

    def _get(self, what: str, path: str) -> dict[str, Any]:
        found = self._call(what, self._any.request, "get", path, serialize=False)
        return dict(json.loads(found.data))

    def pods(self, release: str, app: str | None = None) -> tuple[Pod, ...]:
        """
        The pods of a release, or of one application in it.
        """
        return tuple(
            Pod(pod.metadata.name, pod.metadata.labels.get("track", ""), ready=is_ready(pod))
            for pod in self.pods_labelled("pods", self.namespace, _labels(release, app))
        )

    def pods_labelled(self, what: str, namespace: str, labels: Mapping[str, str]) -> Sequence[Any]:
        """
        The pods of any namespace that have these labels.

        Args:
            what: the subject of an error's message.
            namespace: where they are.
            labels: the labels that they must have, with their values.
        """
        selector = _selector(labels)
        found: Sequence[Any] = self._call(
            what, self._core.list_namespaced_pod, namespace, label_selector=selector
        ).items
        return found

    def listed(self, kind: str, release: str, app: str | None = None) -> list[dict[str, Any]]:
        """
        The pods or the deployments of a release, or of one application in it, as JSON.
        """
        functions = {
            "pods": self._core.list_namespaced_pod,
            "deployments": self._apps.list_namespaced_deployment,
        }
        return self._items(kind, functions[kind], label_selector=_selector(_labels(release, app)))

    def endpoints(self, service: str) -> frozenset[str]:
        """
        The names of the pods that a Service sends requests to: those that its EndpointSlices call ready.
        """
        slices = self._items(
            "endpointslices",
            self._discovery.list_namespaced_endpoint_slice,
            label_selector=f"kubernetes.io/service-name={service}",
        )
        every = (endpoint for one in slices for endpoint in one.get("endpoints") or ())
        # A condition that is not known counts as true: discovery.k8s.io/v1, EndpointConditions.
        return frozenset(
            endpoint["targetRef"]["name"]
            for endpoint in every
            if endpoint.get("targetRef") and (endpoint.get("conditions") or {}).get("ready") is not False
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """
        The events about an object of the namespace, as JSON.
        """
        selector = f"involvedObject.name={name}"
        return self._items("events", self._core.list_namespaced_event, field_selector=selector)

    def last_line(self, pod: str, container: str, previous: bool) -> str:  # noqa: FBT001 - as the API has it
        """
        The last line of a container's log that is not empty; of the run before this one if asked.

        Raises:
            LookupError: the pod or the container is gone, and its log with it.
        """
        answer = self._call(
            f"log of pod {pod!r}",
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            container=container,
            previous=previous,
            tail_lines=20,
            _preload_content=False,
            gone=_GONE,
        )
        lines = [line for line in answer.data.decode("utf-8", "replace").splitlines() if line.strip()]
        if lines and lines[-1].startswith(_NO_LOG):
            raise LookupError(f"container {container!r} of pod {pod!r}: no log any more")
        return lines[-1] if lines else ""

    def _items(self, what: str, function: Any, **options: Any) -> list[dict[str, Any]]:
        what = f"{what} in namespace {self.namespace!r}"
        try:
            answer = self._call(what, function, self.namespace, _preload_content=False, **options)
        except LookupError as exc:
            raise UnreachableError(
                f"{what}: the cluster at {self.configuration.host} knows no such list"
            ) from exc
        return list(json.loads(answer.data)["items"])

    def services(self, namespace: str | None = None) -> Sequence[Any]:
        """
        The Services of a namespace, or of all.
        """
        core, where = self._core, (namespace,) if namespace else ()
        listing = core.list_namespaced_service if where else core.list_service_for_all_namespaces
        return list(self._call("Services", listing, *where).items)

    def may(self, verb: str, resource: str, group: str, namespace: str) -> bool:
        """
        Whether this user has a right in a namespace.

        Args:
            verb: such as get.
            resource: its plural, such as pods, or with a part of it, such as pods/log.
            group: the resource's API group; the core group is empty.
            namespace: where.
        """
        plural, _, part = resource.partition("/")
        asked = {"verb": verb, "resource": plural, "group": group, "namespace": namespace}
        if part:
            asked["subresource"] = part
        review = self._authorization.create_self_subject_access_review
        answer = self._call("access review", review, {"spec": {"resourceAttributes": asked}})
        return bool(answer.status.allowed)

    def nodes(self) -> Sequence[Any]:
        """
        The cluster's nodes.
        """
        return list(self._call("nodes", self._core.list_node).items)


def _labels(release: str, app: str | None) -> dict[str, str]:
    """
    The labels of a release's pods, of one application if it is named.
    """
    return {"app.kubernetes.io/instance": release} | ({"app.kubernetes.io/name": app} if app else {})


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{label}={value}" for label, value in labels.items())


def _called(
    server: str, what: str, function: Any, *arguments: Any, gone: tuple[int, ...] = (404,), **options: Any
) -> Any:
    """
    Ask a cluster's server; what is not there is a LookupError.
    """
    try:
        return function(*arguments, _request_timeout=REQUEST_SECONDS, **options)
    except ApiException as exc:
        if exc.status in gone:
            raise LookupError(what) from exc
        error = ForbiddenError if exc.status == 403 else UnreachableError
        raise error(f"{what}: the cluster at {server} answered {exc.status} {exc.reason}") from exc
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        raise UnreachableError(
            f"{what}: the cluster at {server} cannot be reached: {exc}; "
            "is it up, and is it the one of --kubeconfig and --context?"
        ) from exc


def in_mesh(containers: Iterable[str], annotations: Mapping[str, str]) -> bool:
    """
    Whether a pod is part of the mesh: by a sidecar, or by the proxy of its node.

    Args:
        containers: the names of the pod's containers and init containers.
        annotations: the pod's.
    """
    return SIDECAR in containers or annotations.get(_AMBIENT) == "enabled"


def is_ready(pod: Any) -> bool:
    """
    Whether the pod's condition Ready is true.
    """
    return any(
        condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or ()
    )


def _configuration(target: Target) -> Any:
    """
    Where the cluster is and who asks, as client-go finds it: the kubeconfig, else the ServiceAccount of this pod.
    """
    configuration = kubernetes.client.Configuration()
    named = target.kubeconfig or os.environ.get("KUBECONFIG")
    if not named and target.context is None and not Path("~/.kube/config").expanduser().exists():
        with contextlib.suppress(ConfigException):
            kubernetes.config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            return configuration
    try:
        kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(named) if named else None,
            context=target.context,
            client_configuration=configuration,
            persist_config=False,
        )
    except ConfigException as exc:
        raise UnreachableError(
            f"kubeconfig {str(named or '~/.kube/config')!r}: {exc}; "
            "name a cluster with --kubeconfig FILE and --context NAME, or do without one: "
            "--gateway HOST:PORT --values FILE"
        ) from exc
    return configuration
