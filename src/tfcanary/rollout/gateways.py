"""
Which routes each gateway pod has, by its own answers.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tfcanary.check.propagation import IN_A_ROW
from tfcanary.client.base import Client
from tfcanary.client.endpoint import Tls
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.rest import RestClient
from tfcanary.kube.gateway import gateway_pods
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.rollout.cluster import Seen

DEADLINE_SECONDS = 5.0
_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Gateways:
    """
    The gateway pods of one release.

    Attributes:
        model: the name that TensorFlow Serving knows the model by.
        host: the host name to ask for; None takes the address.
        tls: how the gateway's certificate is verified; None uses no TLS.
        within: the gateway's namespace, for users who may not look into all.
    """

    live: LiveObjects
    release: str
    model: str
    host: str | None
    tls: Tls | None = None
    within: str | None = None

    def seen(self, routes: str) -> Seen:
        """
        How many pods show the routes over both APIs.

        Args:
            routes: the hash that every answer under them carries.

        Raises:
            UnreachableError: if there are no gateway pods, or they cannot be listed.
        """
        pods = gateway_pods(self.live, self.release, tls=self.tls is not None, within=self.within)
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            shown = list(pool.map(lambda pod: self._shows(pod, routes), pods))
        return Seen(sum(shown), len(shown))

    def _shows(self, pod: PodPort, routes: str) -> bool:
        with (
            forwarded(self.live, pod) as address,
            RestClient(
                address, self.model, host=self.host, deadline_seconds=DEADLINE_SECONDS, tls=self.tls
            ) as rest,
            GrpcClient(
                address, self.model, host=self.host, deadline_seconds=DEADLINE_SECONDS, tls=self.tls
            ) as grpc,
        ):
            return all(_in_a_row(client, routes) for client in (rest, grpc))


def _in_a_row(client: Client, routes: str) -> bool:
    """
    Whether so many answers in a row are given under these routes.

    Those that failed count as well: routes to a track that is dead have arrived, and waiting for its answers would keep
    the traffic there.
    """
    return all(client.metadata().revision == routes for _ in range(IN_A_ROW))
