"""
The command behind `scripts/export_resnet.py`: a ResNet is exported, or any SavedModel inspected, compared or made servable.
"""

import sys
from collections.abc import Sequence

from tfcanary.commands import bundle, resnet, servable
from tfcanary.export import savedmodel


def main(argv: Sequence[str] | None = None, *, prog: str = "export_resnet.py") -> int:
    """
    Run the command that the first argument names. Without a name it is the export of a ResNet.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    if given and given[0] in servable.COMMANDS:
        return servable.main(given, prog=prog)
    if given and given[0] in bundle.COMMANDS:
        return bundle.main(given, prog=prog)
    if given and given[0] in savedmodel.COMMANDS:
        return savedmodel.main(given, prog=prog)
    return resnet.main(given, prog=prog)
