"""
A server that answers as the Kubernetes API would when Helm looks objects up, with objects that a test gives it.
"""

import contextlib
import copy
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

# The kinds that the chart looks up, and those that Helm 4 wants to know of before it says that all is well.
RESOURCES = {
    "v1": [
        ("configmaps", "ConfigMap"),
        ("pods", "Pod"),
        ("serviceaccounts", "ServiceAccount"),
        ("services", "Service"),
    ],
    "apps/v1": [("deployments", "Deployment")],
    "networking.istio.io/v1": [
        ("destinationrules", "DestinationRule"),
        ("gateways", "Gateway"),
        ("virtualservices", "VirtualService"),
    ],
    "networking.istio.io/v1alpha3": [("envoyfilters", "EnvoyFilter")],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy")],
    "security.istio.io/v1": [
        ("authorizationpolicies", "AuthorizationPolicy"),
        ("peerauthentications", "PeerAuthentication"),
    ],
}
DISCOVERY = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [
            {
                "name": version.partition("/")[0],
                "versions": [{"groupVersion": version, "version": version.partition("/")[2]}],
            }
            for version in RESOURCES
            if "/" in version
        ],
    },
}
PLURALS = {kind: plural for resources in RESOURCES.values() for plural, kind in resources}


class Cluster:
    """
    What a cluster says of its objects, and a server that says it.
    """

    def __init__(self):
        self.objects = {}
        self.asked = []
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                cluster.asked.append(path)
                answer = cluster.answer(path)
                body = json.dumps(answer or {"kind": "Status", "status": "Failure", "code": 404}).encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path):
        """
        What the API has at a path, or nothing.
        """
        if path in DISCOVERY:
            return DISCOVERY[path]
        prefix, _, version = path.strip("/").partition("/")
        if prefix in {"api", "apis"} and version in RESOURCES:
            listed = [
                {"name": plural, "kind": kind, "namespaced": True, "verbs": ["get", "list"]}
                for plural, kind in RESOURCES[version]
            ]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": listed}
        *root, plural = path.split("/")
        everywhere = f"{'/'.join(root)}/namespaces/[^/]+/{plural}/"
        inside = [
            item
            for key, item in self.objects.items()
            if key.startswith(f"{path}/") or re.match(everywhere, key)
        ]
        if inside:
            return {
                "apiVersion": inside[0]["apiVersion"],
                "kind": f"{inside[0]['kind']}List",
                "items": inside,
            }
        return self.objects.get(path)

    def put(self, item):
        """
        Let it have an object.
        """
        version = item["apiVersion"]
        root = "api" if version == "v1" else "apis"
        where = f"namespaces/{item['metadata']['namespace']}/{PLURALS[item['kind']]}"
        self.objects[f"/{root}/{version}/{where}/{item['metadata']['name']}"] = copy.deepcopy(item)

    def deployment(self, track):
        """
        A track's Deployment, to be changed.
        """
        return self.objects[f"/apis/apps/v1/namespaces/default/deployments/resnet-{track}"]

    def remove(self, track):
        """
        Take a track's Deployment away.
        """
        del self.objects[f"/apis/apps/v1/namespaces/default/deployments/resnet-{track}"]

    def kubeconfig(self, folder):
        """
        A file that leads here.
        """
        host, port = self.server.server_address[:2]
        named = {"name": "fake"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{**named, "cluster": {"server": f"http://{host}:{port}"}}],
            "contexts": [{**named, "context": {"cluster": "fake", "user": "fake"}}],
            "users": [{**named, "user": {}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path


@contextlib.contextmanager
def serving():
    """
    A cluster whose server runs as long as the body does.
    """
    made = Cluster()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
