#!/usr/bin/env python3
"""
Run a real Kubernetes with Istio on this machine: `python scripts/local_cluster.py up`.
"""

import sys

try:
    from tfcanary.cluster.command import main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"error: Python module {missing.name!r} is not installed here; run `python3 -m nox -s lint` once, "
        "then `.nox/tfcanary/bin/python scripts/local_cluster.py`\n"
    )
    # As for every program that cannot be reached.
    raise SystemExit(3) from None

if __name__ == "__main__":
    raise SystemExit(main())
