"""
Folders: the chart, the values files and the images; and the cache.
"""

import os
from pathlib import Path

_PACKAGED = Path(__file__).parent / "data"

# What holds `charts`, `values` and `images`: an installed wheel carries them beside the code, a checkout at its top.
ROOT = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "tfserving-canary"
GATEWAY_CHART = ROOT / "charts" / "tfserving-gateway"
VALUES = ROOT / "values"


def cache_folder() -> Path:
    """
    Where programs, images and models are kept between runs.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfserving-canary"
