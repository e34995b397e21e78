#!/usr/bin/env python3
"""
Prove by REST and gRPC what the gateway does: check_gateway.py --values values/canary-10.yaml.
"""

import sys

try:
    from tfcanary.commands.check import main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"error: Python module {missing.name!r} is not installed here; run `python3 -m nox -s lint` once, "
        "then `.nox/tfcanary/bin/python scripts/check_gateway.py`\n"
    )
    # As for every program that cannot be reached.
    raise SystemExit(3) from None

if __name__ == "__main__":
    raise SystemExit(main())
