"""
Export digits models, sound and with each fault, each under a base path of its own.

It is a program of its own, as TensorFlow warns while it is imported.
"""

import sys
from pathlib import Path

from tfcanary.commands import export

FAULTS = ("nan", "permuted", "constant", "slow=400", "wrong-shape", "corrupt-file", "bad-warmup")

for fault in (None, *FAULTS):
    arguments = [] if fault is None else [f"--fault={fault}"]
    code = export.main(
        [
            *["--arch=resnet20", "--weights=digits", "--seed=20", "--model-name=digits", "--version=1"],
            *[f"--output={Path(sys.argv[1]) / (fault or 'sound')}", *arguments],
        ]
    )
    if code:
        raise SystemExit(code)
