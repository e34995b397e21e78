"""
Which two ports of 127.0.0.1 a cluster gets.
"""

import socket
from collections.abc import Iterator

from tfcanary.cluster.layout import Layout, Ports, existing
from tfcanary.errors import UsageError

FIRST_API_PORT, FIRST_GATEWAY_PORT = 16443, 18080


def choose(layout: Layout, api: int | None, gateway: int | None) -> Ports:
    """
    The ports that the cluster has, or else those asked for, or else the first free ones.

    Ports of other clusters are not free, even while those are down.

    Raises:
        UsageError: a port is taken, or differs from the one the cluster was made with.
    """
    kept = layout.read_ports()
    if kept is not None:
        for flag, asked, has in (("--api-port", api, kept.api), ("--gateway-port", gateway, kept.gateway)):
            if asked not in (None, has):
                raise UsageError(
                    f"{flag}: expected {has}, with which cluster {layout.name} was made, got {asked}; `down` it first"
                )
        return kept
    taken = {port for other in _neighbours(layout) for port in (other.api, other.gateway)}
    chosen = _port("--api-port", api, FIRST_API_PORT, taken | ({gateway} if gateway else set()))
    return Ports(chosen, _port("--gateway-port", gateway, FIRST_GATEWAY_PORT, taken | {chosen}))


def _neighbours(layout: Layout) -> Iterator[Ports]:
    for other in existing():
        ports = other.read_ports()
        if other != layout and ports is not None:
            yield ports


def _port(flag: str, asked: int | None, first: int, taken: set[int]) -> int:
    if asked is not None:
        if asked not in range(1, 65536):
            raise UsageError(f"{flag}: expected a port from 1 to 65535, got {asked}")
        if asked in taken or not _free(asked):
            raise UsageError(
                f"{flag}: expected a free port on 127.0.0.1, got {asked}, which is taken; give another"
            )
        return asked
    return next(port for port in range(first, first + 1000) if port not in taken and _free(port))


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
