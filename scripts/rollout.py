#!/usr/bin/env python3
"""
Release a version of the model step by step, on evidence, or go back: rollout.py start --release resnet --to 2.
"""

import sys

try:
    from tfcanary.commands.rollout import main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"error: Python module {missing.name!r} is not installed here; run `python3 -m nox -s lint` once, "
        "then `.nox/tfcanary/bin/python scripts/rollout.py`\n"
    )
    # As for every program that cannot be reached.
    raise SystemExit(3) from None

if __name__ == "__main__":
    raise SystemExit(main())
