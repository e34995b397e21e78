"""
Measure whether the model server's memory grows while versions of a ResNet50 replace each other.

    python benchmarks/version_changes.py [--model BASE/VERSION] [--changes COUNT] [--json]

Each change is a new folder in the base path beside which the old one disappears, as when a volume is published again.
"""

import argparse
import http.client
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

from modelserver import Measurement, Server, export, served

from tfcanary.wait import NotYet, wait_until

BOUND = 1.3
SETTLED = 3  # changes after which allocators and thread pools have what they need


def main() -> int:
    """
    Print the growth.

    Returns:
        0 if the bound holds, otherwise 1.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a ResNet50 as BASE/VERSION; exported if not given")
    parser.add_argument(
        "--changes", type=int, default=52, help="changes of version (default: %(default)d); 5 s each"
    )
    parser.add_argument("--json", action="store_true", help="print the measurement as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = (options.model or export(Path(folder) / "exported", "random")).resolve()
        found = growth(model, Path(folder) / "served" / "resnet50", options.changes)
    if options.json:
        print(json.dumps({name: getattr(found, name) for name in Measurement.__slots__}))
    else:
        verdict = "holds" if found.holds else "DOES NOT HOLD"
        print(f"{found.name}: {found.value:.3f} {found.unit} (bound: {found.bound}): {verdict}")
    return 0 if found.holds else 1


def growth(model: Path, base: Path, changes: int) -> Measurement:
    """
    Change the version again and again, and compare the memory at the end with that after the first changes.
    """
    base.mkdir(parents=True)
    (base / "1").symlink_to(model)
    sizes = []
    with served(base / "1", "--file_system_poll_wait_seconds=1") as server:
        for version in range(2, changes + 2):
            (base / str(version)).symlink_to(model)
            (base / str(version - 1)).unlink()
            wait_until(f"version {version}", partial(require_replaced, server, version), timeout_seconds=120)
            sizes.append(server.resident_mib())
            print(f"change {version - 1}: {sizes[-1]:.0f} MiB", file=sys.stderr)
    value = sizes[-1] / sizes[min(SETTLED, len(sizes)) - 1]
    return Measurement(
        f"memory after {changes} changes of version",
        value,
        f"of that after {SETTLED}",
        f"at most {BOUND}",
        value <= BOUND,
    )


def require_replaced(server: Server, version: int) -> None:
    """
    Require that a version is available, and that the one before it has ended.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    connection.request("GET", f"/v1/models/{server.name}")
    states = json.loads(connection.getresponse().read())["model_version_status"]
    connection.close()
    found = {int(each["version"]): each["state"] for each in states}
    if (found.get(version), found.get(version - 1)) != ("AVAILABLE", "END"):
        raise NotYet(str(found))


if __name__ == "__main__":
    raise SystemExit(main())
