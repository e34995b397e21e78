#!/usr/bin/env python3
"""
Run a real Kubernetes with Istio on this machine: `python scripts/local_cluster.py up`.
"""

import sys

try:
    from tfcanary.cluster.command import main
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: Python module {missing.name!r} is not installed here; run `python3 -m nox -s lint` once, "
        "then `.nox/tfcanary/bin/python scripts/local_cluster.py`"
    )

if __name__ == "__main__":
    raise SystemExit(main())
