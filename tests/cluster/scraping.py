"""
A real Prometheus beside the tests, which scrapes a release's gateway.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tfcanary.kube.gateway import gateway_pods
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.target import Target

METRICS_PORT = 15020
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: gateway
    metrics_path: /stats/prometheus
    static_configs: [{{targets: ["{address}"]}}]
"""


@dataclass(frozen=True, slots=True)
class Scraping:
    """
    A Prometheus.
    """

    url: str
    pid: int


@contextmanager
def scraping(target: Target, release: str, folder: Path) -> Iterator[Scraping]:
    """
    Run a Prometheus that scrapes the gateway's only pod every second.
    """
    program = shutil.which("prometheus")
    assert program, "prometheus: expected it on the PATH; apt-get install prometheus"
    live = LiveObjects(target)
    (pod,) = gateway_pods(live, release)
    with forwarded(live, PodPort(pod.name, pod.namespace, METRICS_PORT)) as address:
        (folder / "prometheus.yml").write_text(CONFIG.format(address=address))
        with socket.create_server(("127.0.0.1", 0)) as free:
            own = f"127.0.0.1:{free.getsockname()[1]}"
        command = [
            program,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={own}",
        ]
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield Scraping(f"http://{own}", process.pid)
            finally:
                process.terminate()
