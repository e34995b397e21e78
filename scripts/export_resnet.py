#!/usr/bin/env python3
"""
Export a ResNet for TensorFlow Serving.

Usage: python scripts/export_resnet.py --arch resnet50 --weights random --output DIR --version 1
"""

import sys

try:
    from tfcanary.commands.export import main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"error: Python module {missing.name!r} is not installed here; run `python3 -m nox -s lint` once, "
        "then `.nox/tfcanary/bin/python scripts/export_resnet.py`\n"
    )
    # As for every program that cannot be reached.
    raise SystemExit(3) from None

if __name__ == "__main__":
    raise SystemExit(main())
